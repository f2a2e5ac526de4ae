"""Some steps of training in one program: made, checked and counted.

How many steps are made at once depends on the clock, but no result does: it is an argument of the
one compiled program, and all sums are taken step by step.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple

import jax
import numpy as np

from jaxrnn.data.windows import Windows
from jaxrnn.nn.model import CharModel
from jaxrnn.training.diagnosis import NonFiniteLossError, first_bad, first_bad_operation
from jaxrnn.training.diagnostics import saturated_share, update_ratio
from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM, Source, on_device
from jaxrnn.training.history import Position, Row
from jaxrnn.training.optimizers import AnyOptimizer, Optimizer
from jaxrnn.training.schedules import Schedule, check_schedule
from jaxrnn.training.state import TrainState, all_finite, copied
from jaxrnn.training.steps import Metrics, batch_at, train_steps

SHORTEST_TIME = 1e-6
"""Seconds that a program takes at the least, for clocks that stand still meanwhile."""


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        state: the training state. The next step uses up its buffers: save it before going on.
        position: where the run stands; `training(..., state, position)` goes on from there.
        of: how many windows the epoch under way has.
        row: the row of history that has just become complete, if any.
        validating: the share of the validation that is done, while it is under way.
    """

    state: TrainState
    position: Position
    of: int
    row: Row | None = None
    validating: float | None = None


class Trainer:
    """What a run's steps are made with.

    Attributes:
        model: the model.
        source: what to train on.
        schedule: the learning rates, or the length alone for an optimizer that brings its own.
        optimizer: the optimizer.
        debug_nans: whether to look for the operation when something is not finite.
    """

    def __init__(
        self,
        model: CharModel,
        source: Source,
        schedule: Schedule,
        optimizer: AnyOptimizer,
        debug_nans: bool = False,
    ) -> None:
        check_schedule(optimizer, schedule)
        self.model, self.source, self.schedule = model, source, schedule
        self.optimizer, self.debug_nans = optimizer, debug_nans
        self.tokens = on_device(source, model)

    def make(
        self, state: TrainState, position: Position, steps: int
    ) -> tuple[TrainState, Position, float]:
        """Make some steps of the epoch under way: the state and position after, and the seconds.

        Args:
            state: the state; it is used up.
            position: where it stands.
            steps: how many to make, in [0, `STEPS_IN_ONE_PROGRAM`].

        Raises:
            NonFiniteLossError: if a loss or a gradient is not finite.
        """
        windows = self._windows(position)
        rates = self._rates(position)
        before = copied(state)
        started = time.perf_counter()
        state, metrics = self._run(state, windows, self._cast(rates, state), steps)
        losses, norms, updates = (np.asarray(m, float)[:steps] for m in metrics)
        seconds = max(time.perf_counter() - started, SHORTEST_TIME)
        if steps == 0:
            return state, position, seconds
        good = np.isfinite(losses) & np.isfinite(norms)
        if not good.all():
            raise self._error(before, position, windows, int(np.argmin(good)))
        after = position.after(losses, norms, updates, windows, rates)
        return state, replace(after, seconds=position.seconds + seconds), seconds

    def row(self, state: TrainState, position: Position) -> Row:
        """The row of history that ends here."""
        last = self.source.windows(position.epoch, position.window - 1, 1)
        starts = last.starts[0] + (last.lengths[0] if self.model.reads == "streams" else 0)
        return position.row(
            int(state.step),
            self.source.steps(position.epoch),
            update_ratio=update_ratio(state.params, position.update_norm),
            saturated=saturated_share(self.model, state.params, state.carry, self.tokens, starts),
        )

    @cached_property
    def _run(self) -> Callable[..., tuple[TrainState, Metrics]]:
        return partial(train_steps, self.model, self.optimizer)

    def _windows(self, position: Position) -> Windows:
        """What the next steps read; the tokens are on the device already."""
        windows = self.source.windows(position.epoch, position.window, STEPS_IN_ONE_PROGRAM)
        return windows.with_tokens(self.tokens)

    def _rates(self, position: Position) -> np.ndarray | None:
        """The rates of the next steps; `averaged` counts the steps of the phase so far.

        None where the optimizer brings its own.
        """
        if not isinstance(self.optimizer, Optimizer):
            return None
        phase, _ = self.schedule.phase(position.epoch)
        places = position.averaged + np.arange(STEPS_IN_ONE_PROGRAM)
        return phase.rates(places, self.source.steps_per_epoch)

    def _cast(self, rates: np.ndarray | None, state: TrainState) -> np.ndarray | None:
        if rates is None:
            return None
        return rates.astype(jax.tree.leaves(state.params)[0].dtype)

    def _error(
        self, before: TrainState, position: Position, windows: Windows, bad: int
    ) -> NonFiniteLossError:
        """What to raise when step `bad` of those after `before` is not finite."""
        rates, source = self._rates(position), self.source
        state, _ = self._run(copied(before), windows, self._cast(rates, before), bad)
        batch = batch_at(windows, bad)
        where = f"at step {int(state.step) + 1}"
        if rates is not None:
            where += f" with learning rate {rates[bad]:g}"
        message = f"{first_bad(self.model, state, batch)} {where}."
        if self.debug_nans:
            operation = first_bad_operation(self.model, state, batch)
            message += f" The first operation: {operation}."
        good = Progress(before, position, source.steps(position.epoch))
        return non_finite(f"{message} Try a smaller rate or clip.", good)


def check_validation(nats: float, progress: Progress) -> None:
    """Raise `NonFiniteLossError` if a validation loss is not finite."""
    if not np.isfinite(nats):
        raise non_finite(
            f"The validation loss is {nats} after step {int(progress.state.step)}. Try a smaller "
            "rate or clip.",
            progress,
        )


def non_finite(message: str, good: Progress) -> NonFiniteLossError:
    """The error, with the progress that it leaves if that itself is finite."""
    error = NonFiniteLossError(message)
    error.good = good if all_finite(good.state) else None
    return error
