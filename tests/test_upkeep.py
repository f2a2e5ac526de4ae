"""When checkpoints are written, and how a process is asked to stop."""

import signal

import jax
import jax.numpy as jnp
import pytest

from jaxrnn import TrainState
from jaxrnn.runs import checkpointing
from jaxrnn.runs.checkpointing import Checkpointing
from jaxrnn.terminal import stop_requests
from jaxrnn.training.history import Position, Progress


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number):
    with stop_requests() as stopping:
        assert stopping() == 0
        signal.raise_signal(number)
        assert stopping() == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class SlowDisk:
    """A clock on which a write takes `cost` seconds, and a run that only counts writes."""

    def __init__(self, cost):
        self.now, self.cost, self.written = 0.0, cost, 0

    def clock(self):
        return self.now

    def save(self, *arguments):
        self.now += self.cost
        self.written += 1


@pytest.mark.parametrize("cost", [0.001, 0.5, 5.0])
def test_writing_takes_two_percent_of_the_time_at_most(cost):
    disk = SlowDisk(cost)
    keeper = Checkpointing(disk, clock=disk.clock)

    state = TrainState({}, (), (), jnp.zeros(()), jax.random.key(0))
    for window in range(20_000):
        keeper.update(Progress(state, Position(window=window), 1))
        disk.now += 0.5
    share = (keeper.seconds - cost) / disk.now  # the first one, before training, is extra
    assert 0 < share <= checkpointing.LARGEST_SHARE
    often = min(1 / checkpointing.SECONDS_BETWEEN_CHECKPOINTS, checkpointing.LARGEST_SHARE / cost)
    assert disk.written >= 0.9 * often * disk.now
