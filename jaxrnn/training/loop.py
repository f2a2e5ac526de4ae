"""The training loop: many steps in one program, validation, a history.

`training` is a generator: it trains a little and yields how far it has come. What to do about it
(show it, save it, stop) is the caller's part; `fit` just runs it to the end.

The number of steps in one program depends on the clock, but no result does: it is an argument of
the one compiled program, and all sums are taken step by step.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.data.windows import Windows
from jaxrnn.nn.model import CharModel
from jaxrnn.programs import bounded_jit
from jaxrnn.recurrent.cells import Carry
from jaxrnn.training.diagnosis import NonFiniteLossError, first_bad, first_bad_operation
from jaxrnn.training.diagnostics import saturated_share, update_ratio
from jaxrnn.training.evaluation import (
    STEPS_IN_ONE_PROGRAM,
    Source,
    check_source,
    evaluation,
    on_device,
)
from jaxrnn.training.history import Position, Progress, Row
from jaxrnn.training.optimizers import AnyOptimizer, Optimizer, make_optimizer
from jaxrnn.training.schedules import Schedule, check_schedule, length_of
from jaxrnn.training.state import (
    CarryPolicy,
    TrainState,
    all_finite,
    carry_for,
    copied,
    make_state,
)
from jaxrnn.training.steps import Metrics, batch_at, train_steps

# Target duration of one program: the longest time until a caller can look and stop. Each program
# copies the state and allocates its memory anew, which was a tenth of half a second for two LSTM
# layers of 512.
SECONDS_IN_ONE_PROGRAM = 2.0
# Minimum duration of a program, for clocks that stand still meanwhile.
SHORTEST_TIME = 1e-6
# Number of history rows per epoch.
ROWS_PER_EPOCH = 10


def training(
    model: CharModel,
    source: Source,
    validation: Source | None,
    schedule: Schedule,
    optimizer: AnyOptimizer,
    state: TrainState,
    position: Position | None = None,
    *,
    carry_policy: CarryPolicy = "never",
    debug_nans: bool = False,
) -> Iterator[Progress]:
    """Train, and yield the progress every two seconds or so.

    Args:
        model: the model.
        source: the windows to train on.
        validation: the windows to validate on after each epoch, if any.
        schedule: the learning rates; training ends with the schedule. From `length_of` for an
            optimizer that brings its own.
        optimizer: from `make_optimizer`, or any of optax's.
        state: the state to start from; its buffers are donated.
        position: where to start; the beginning if None.
        carry_policy: "never" lets the carry flow through training, validation and the next epoch
            as the course does; "epoch" starts each epoch and each validation from zeros;
            "evaluation" validates from zeros and puts the training carry aside meanwhile.
        debug_nans: whether to look for the operation, too, when something is not finite.

    Raises:
        NonFiniteLossError: when a loss or a gradient is no longer finite; names the first bad
            tensor, step and rate, and has the last good progress.
        ValueError: if a token is outside the model's vocabulary, or if optimizer and schedule do
            not fit.
    """
    trainer = Trainer(model, source, schedule, optimizer, debug_nans)
    held_out = None
    if validation is not None and validation.tokens is source.tokens:
        held_out = trainer.tokens  # windows of one text: one copy on the device
    elif validation is not None:
        held_out = on_device(validation, model)
    position = position or Position()
    while position.epoch < schedule.epochs:
        count = source.steps(position.epoch)

        # Train.
        if position.window == 0:
            if carry_policy == "epoch":
                state = state._replace(carry=_zeros_like(state.carry))
            _, first_epoch = schedule.phase(position.epoch)
            if position.epoch == first_epoch:
                # A new rate, a new average: the old losses would hide what it changes.
                position = replace(position, average=0.0, averaged=0)
        for progress in _train_epoch(trainer, state, position):
            state = progress.state
            position = progress.position
            if position.window < count:
                yield progress
        row = trainer.row(state, position)

        # Validate.
        if validation is not None:
            start = state.carry if carry_policy == "never" else None
            for evaluated in evaluation(
                model, state.params, validation, start, position.epoch, tokens=held_out
            ):
                yield Progress(state, position, count, validating=evaluated.share)
            if not np.isfinite(evaluated.nats):
                raise _non_finite(
                    f"The validation loss is {evaluated.nats} after step {int(state.step)}. Try a "
                    "smaller rate or clip.",
                    Progress(state, position, count),
                )
            row = row.with_validation(evaluated.nats)
            if carry_policy == "never":
                state = state._replace(carry=evaluated.carry)

        position = replace(position, epoch=position.epoch + 1, window=0).after_row()
        yield Progress(state, position, count, row)


def fit(
    model: CharModel,
    source: Source,
    validation: Source | None = None,
    *,
    schedule: Schedule | str | None = None,
    epochs: int | None = None,
    optimizer: AnyOptimizer | str | None = None,
    state: TrainState | None = None,
    carry_policy: CarryPolicy = "never",
    seed: int = 0,
) -> tuple[TrainState, list[Row]]:
    """Train to the end of the schedule, or for some epochs.

    An optimizer of optax's brings its own learning rate: it takes `epochs`, and rates of its own
    (`optax.adam(optax.cosine_decay_schedule(1e-3, 1000))`). All others take a `schedule`.

    Args:
        model: the model.
        source: the windows to train on.
        validation: the windows to validate on after each epoch, if any.
        schedule: the learning rates, for example "4 x 1e-3, 4 x 1e-4".
        epochs: number of epochs, at least 1, for an optimizer that brings its own rate.
        optimizer: a name such as "adam", from `make_optimizer`, or any
            `optax.GradientTransformation`; Adam if None.
        state: the state to start from; its buffers are donated. A fresh one if None.
        carry_policy: see `training`.
        seed: seed of a fresh state.

    Returns:
        The trained state, and the history, whose last row of each epoch has the validation loss.

    Raises:
        NonFiniteLossError: see `training`.
        ValueError: see `training`; if neither or both of schedule and epochs are given, or the one
            that the optimizer does not take.
    """
    check_source(source)
    if validation is not None:
        check_source(validation)
    if optimizer is None:
        optimizer = "adam"
    if isinstance(optimizer, str):
        optimizer = make_optimizer(optimizer)
    schedule = length_of(optimizer, schedule, epochs)
    state = state or make_state(model, optimizer, source.batch_size, jax.random.key(seed))
    rows = []
    for progress in training(
        model, source, validation, schedule, optimizer, state, carry_policy=carry_policy
    ):
        state = progress.state
        if progress.row is not None:
            rows.append(progress.row)
    return state, rows


class Trainer:
    """The settings of a run's steps, and its text on the device.

    Attributes:
        model: the model.
        source: the windows to train on.
        schedule: the learning rates, or the length alone for an optimizer that brings its own.
        optimizer: the optimizer.
        debug_nans: whether to look for the operation when something is not finite.
        tokens: (N,) the text, on the device.
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
        self.model = model
        self.source = source
        self.schedule = schedule
        self.optimizer = optimizer
        self.debug_nans = debug_nans
        self.tokens = on_device(source, model)

    def make(
        self, state: TrainState, position: Position, steps: int
    ) -> tuple[TrainState, Position, float]:
        """Make some steps of the epoch under way: the state and position after, and the seconds.

        Args:
            state: the state; its buffers are donated.
            position: where it stands.
            steps: number of steps to make, in [0, `STEPS_IN_ONE_PROGRAM`].

        Raises:
            NonFiniteLossError: if a loss or a gradient is not finite.
        """
        windows = self.source.windows(position.epoch, position.window, STEPS_IN_ONE_PROGRAM)
        windows = windows.with_tokens(self.tokens)
        rates = None  # the optimizer may bring its own
        if isinstance(self.optimizer, Optimizer):
            phase, _ = self.schedule.phase(position.epoch)
            # `averaged` counts the steps of the phase so far.
            places = position.averaged + np.arange(STEPS_IN_ONE_PROGRAM)  # (S,)
            rates = phase.rates(places, self.source.steps_per_epoch)
        before = copied(state)  # to make a step again whose loss is not finite
        started = time.perf_counter()
        state, metrics = self._run(state, windows, rates, steps)
        losses = np.asarray(metrics.loss, float)[:steps]  # waits for the program
        norms = np.asarray(metrics.gradient_norm, float)[:steps]
        updates = np.asarray(metrics.update_norm, float)[:steps]
        seconds = max(time.perf_counter() - started, SHORTEST_TIME)
        if steps == 0:
            return state, position, seconds
        good = np.isfinite(losses) & np.isfinite(norms)
        if not good.all():
            raise self._error(before, position, windows, rates, int(np.argmin(good)))
        after = position.after(losses, norms, updates, windows, rates)
        return state, replace(after, seconds=position.seconds + seconds), seconds

    def row(self, state: TrainState, position: Position) -> Row:
        """The row of history that ends here."""
        last = self.source.windows(position.epoch, position.window - 1, 1)
        starts = last.starts[0]  # (B,)
        if self.model.reads == "streams":
            # The carry stands at the end of the window, not at its start.
            starts = starts + last.lengths[0]
        return position.row(
            int(state.step),
            self.source.steps(position.epoch),
            update_ratio=update_ratio(state.params, position.update_norm),
            saturated=saturated_share(self.model, state.params, state.carry, self.tokens, starts),
        )

    def _run(
        self, state: TrainState, windows: Windows, rates: np.ndarray | None, steps: int
    ) -> tuple[TrainState, Metrics]:
        """`train_steps`, with the rates in the precision of the parameters."""
        if rates is not None:
            rates = rates.astype(jax.tree.leaves(state.params)[0].dtype)
        return train_steps(self.model, self.optimizer, state, windows, rates, steps)

    def _error(
        self,
        before: TrainState,
        position: Position,
        windows: Windows,
        rates: np.ndarray | None,
        bad: int,
    ) -> NonFiniteLossError:
        """The error of step `bad` of those after `before`, which is not finite."""
        # Up to the bad step once more, then through it slowly.
        state, _ = self._run(copied(before), windows, rates, bad)
        batch = batch_at(windows, bad)
        where = f"at step {int(state.step) + 1}"
        if rates is not None:
            where += f" with learning rate {rates[bad]:g}"
        message = f"{first_bad(self.model, state, batch)} {where}."
        if self.debug_nans:
            operation = first_bad_operation(self.model, state, batch)
            message += f" The first operation: {operation}."
        good = Progress(before, position, self.source.steps(position.epoch))
        return _non_finite(f"{message} Try a smaller rate or clip.", good)


def _train_epoch(trainer: Trainer, state: TrainState, position: Position) -> Iterator[Progress]:
    """Train to the end of the epoch under way; a row is complete at every tenth of it."""
    count = trainer.source.steps(position.epoch)
    row_steps = -(-count // ROWS_PER_EPOCH)
    carry = carry_for(trainer.model, state.params, state.carry, trainer.source.batch_size)
    state = state._replace(carry=carry)
    if position.window < count:
        state, _, _ = trainer.make(state, position, 0)  # compiles, outside the time measured
    chunk = 1
    while position.window < count:
        first = position.window
        steps = min(chunk, count - first, row_steps - first % row_steps)
        state, position, seconds = trainer.make(state, position, steps)
        chunk = int(np.clip(SECONDS_IN_ONE_PROGRAM * steps / seconds, 1, STEPS_IN_ONE_PROGRAM))
        row = None
        # The row at the end of an epoch waits for the validation.
        if position.window % row_steps == 0 and position.window < count:
            row = trainer.row(state, position)
            position = position.after_row()
        yield Progress(state, position, count, row)


@bounded_jit()
def _zeros_like(carry: Carry) -> Carry:
    return jax.tree.map(jnp.zeros_like, carry)


def _non_finite(message: str, good: Progress) -> NonFiniteLossError:
    """The error, with the last good progress if that itself is finite."""
    error = NonFiniteLossError(message)
    if all_finite(good.state):
        error.good = good
    return error
