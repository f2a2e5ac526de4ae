"""The training loop: many steps in one program, validation, a history.

`training` is a generator: it trains a little and yields how far it has come. What to do about it
(show it, save it, stop) is the caller's part, as of `jaxrnn.fit`.

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
from jaxrnn.training.losses import Loss
from jaxrnn.training.optimizers import AnyOptimizer, Optimizer
from jaxrnn.training.schedules import Schedule, check_schedule
from jaxrnn.training.state import CarryPolicy, TrainState, all_finite, carry_for, copied
from jaxrnn.training.steps import Metrics, batch_at, train_steps
from jaxrnn.training.timetable import Budget, Timetable

# Target duration of one program: the longest time until a caller can look and stop. Each program
# copies the state and allocates its memory anew, which was a tenth of half a second for two LSTM
# layers of 512.
SECONDS_IN_ONE_PROGRAM = 2.0
# Minimum duration of a program, for clocks that stand still meanwhile.
SHORTEST_TIME = 1e-6


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
    budget: Budget | None = None,
    loss: Loss | None = None,
) -> Iterator[Progress]:
    """Train, and yield the progress every two seconds or so.

    Args:
        model: the model.
        source: the windows to train on.
        validation: the windows to validate on after each epoch, if any.
        schedule: the learning rates; training ends with the schedule. From `length_of` for an
            optimizer that brings its own.
        optimizer: from `make_optimizer`, or any of optax's.
        state: the state to start from, which is left as it is.
        position: where to start; the beginning if None.
        carry_policy: "never" lets the carry flow through training, validation and the next epoch
            as the course does; "epoch" starts each epoch and each validation from zeros;
            "evaluation" validates from zeros and puts the training carry aside meanwhile.
            A validation within an epoch always puts it aside: the text goes on there.
        debug_nans: whether to look for the operation, too, when something is not finite.
        budget: how many updates to make, and how often to validate, instead of by epochs.
        loss: a function of outputs, targets and model, as in `batch_loss`, to train with; the
            validation stays in nats per character.

    Raises:
        NonFiniteLossError: when a loss or a gradient is no longer finite; names the first bad
            tensor, step and rate, and has the last good progress.
        ValueError: if a token is outside the model's vocabulary, or if optimizer and schedule do
            not fit.
    """
    trainer = Trainer(model, source, schedule, optimizer, debug_nans, budget, loss)
    timetable = trainer.timetable
    held_out = None
    if validation is not None:
        check_source("validation", validation)
        held_out = trainer.tokens  # windows of one text: one copy on the device
        if validation.tokens is not source.tokens:
            held_out = on_device(validation, model)
    position = position or Position()
    while not timetable.is_over(position):
        # Train.
        for progress in _train_section(trainer, state, position, carry_policy):
            state = progress.state
            position = progress.position
            section = timetable.section(position)
            if section.done < section.length:
                yield progress
        row = trainer.row(state, position)
        count = source.steps(position.epoch)
        epoch_ends = position.window == count

        # Validate.
        if validation is not None:
            start = state.carry if carry_policy == "never" else None
            for evaluated in evaluation(
                model,
                state.params,
                validation,
                start,
                position.epoch,
                tokens=held_out,
                at_most=timetable.budget.validation_tokens,
            ):
                share = timetable.share(position)
                yield Progress(state, position, count, validating=evaluated.share, share=share)
            if not np.isfinite(evaluated.nats):
                raise _non_finite(
                    f"The validation loss is {evaluated.nats} after step {int(state.step)}. Try a "
                    "smaller rate or clip.",
                    Progress(state, position, count),
                )
            row = row.with_validation(evaluated.nats)
            if carry_policy == "never" and epoch_ends:
                state = state._replace(carry=evaluated.carry)

        if epoch_ends:
            position = replace(position, epoch=position.epoch + 1, window=0)
        position = position.after_row()
        share = timetable.share(position)
        yield Progress(state, position, count, row, share=share, ends_section=True)


class Trainer:
    """The settings of a run's steps, and its text on the device.

    Attributes:
        model: the model.
        source: the windows to train on.
        schedule: the learning rates, or the length alone for an optimizer that brings its own.
        optimizer: the optimizer.
        debug_nans: whether to look for the operation when something is not finite.
        loss: a loss of one's own, or None.
        timetable: where the training ends, and where its phases, rows and validations fall.
        tokens: (N,) the text, on the device.
    """

    def __init__(
        self,
        model: CharModel,
        source: Source,
        schedule: Schedule,
        optimizer: AnyOptimizer,
        debug_nans: bool = False,
        budget: Budget | None = None,
        loss: Loss | None = None,
    ) -> None:
        check_schedule(optimizer, schedule)
        check_source("source", source)
        self.model = model
        self.source = source
        self.schedule = schedule
        self.optimizer = optimizer
        self.debug_nans = debug_nans
        self.loss = loss
        self.timetable = Timetable(schedule, source, budget)
        self.tokens = on_device(source, model)

    def make(
        self, state: TrainState, position: Position, steps: int
    ) -> tuple[TrainState, Position, float]:
        """Make some steps of the epoch under way: the state and position after, and the seconds.

        Args:
            state: the state, which is left as it is.
            position: where it stands.
            steps: number of steps to make, in [0, `STEPS_IN_ONE_PROGRAM`].

        Raises:
            NonFiniteLossError: if a loss or a gradient is not finite.
        """
        windows = self.source.windows(position.epoch, position.window, STEPS_IN_ONE_PROGRAM)
        windows = windows.with_tokens(self.tokens)
        rates = None  # the optimizer may bring its own
        if isinstance(self.optimizer, Optimizer):
            here = self.timetable.place(position)
            # `averaged` counts the steps of the phase so far.
            places = position.averaged + np.arange(STEPS_IN_ONE_PROGRAM)  # (S,)
            rates = here.phase.rates(places, here.steps_per_epoch)
        # The state itself stays: the caller's, and to make a step again whose loss is not finite.
        before = state
        donated = copied(state)
        started = time.perf_counter()
        state, metrics = self._run(donated, windows, rates, steps)
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
        own = {} if self.loss is None else {"loss": self.loss}
        return train_steps(self.model, self.optimizer, state, windows, rates, steps, **own)

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
        message = f"{first_bad(self.model, state, batch, self.loss)} {where}."
        if self.debug_nans:
            operation = first_bad_operation(self.model, state, batch, self.loss)
            message += f" The first operation: {operation}."
        good = Progress(before, position, self.source.steps(position.epoch))
        return _non_finite(f"{message} Try a smaller rate or clip.", good)


def _train_section(
    trainer: Trainer, state: TrainState, position: Position, carry_policy: CarryPolicy
) -> Iterator[Progress]:
    """Train to the end of the section under way; a row is complete at every tenth of it."""
    timetable = trainer.timetable
    carry = carry_for(trainer.model, state.params, state.carry, trainer.source.batch_size)
    state = state._replace(carry=carry)
    section = timetable.section(position)
    if section.done < section.length:
        state, _, _ = trainer.make(state, position, 0)  # compiles, outside the time measured
    chunk = 1
    while section.done < section.length:
        count = trainer.source.steps(position.epoch)
        if position.window == count:  # the section goes on in the next epoch
            position = replace(position, epoch=position.epoch + 1, window=0)
            section = timetable.section(position)
            continue
        if position.window == 0 and carry_policy == "epoch":
            state = state._replace(carry=_zeros_like(state.carry))
        place = timetable.place(position)
        if place.begins:
            # A new rate, a new average: the old losses would hide what it changes.
            position = replace(position, average=0.0, averaged=0)

        # As many steps as take a while, up to the next thing that is due.
        steps = min(
            chunk,
            count - position.window,
            section.length - section.done,
            section.row_steps - section.done % section.row_steps,
        )
        if place.left is not None:
            steps = min(steps, place.left)
        state, position, seconds = trainer.make(state, position, steps)
        chunk = int(np.clip(SECONDS_IN_ONE_PROGRAM * steps / seconds, 1, STEPS_IN_ONE_PROGRAM))

        section = timetable.section(position)
        row = None
        # The row at the end of a section waits for the validation.
        if section.done % section.row_steps == 0 and section.done < section.length:
            row = trainer.row(state, position)
            position = position.after_row()
        yield Progress(state, position, count, row, share=timetable.share(position))


@bounded_jit()
def _zeros_like(carry: Carry) -> Carry:
    return jax.tree.map(jnp.zeros_like, carry)


def _non_finite(message: str, good: Progress) -> NonFiniteLossError:
    """The error, with the last good progress if that itself is finite."""
    error = NonFiniteLossError(message)
    if all_finite(good.state):
        error.good = good
    return error
