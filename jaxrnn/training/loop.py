"""The training loop: many steps in one program, validation, a history.

`training` is a generator: it trains a little and yields how far it has come. What to do about it
(show it, save it, stop) is the caller's part; `fit` just runs it to the end.
"""

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.nn.model import CharModel
from jaxrnn.programs import bounded_jit
from jaxrnn.recurrent.cells import Carry
from jaxrnn.training.chunks import Progress, Trainer, check_validation
from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM, Source, evaluation, on_device
from jaxrnn.training.history import Position, Row
from jaxrnn.training.optimizers import AnyOptimizer, make_optimizer
from jaxrnn.training.schedules import Schedule, length_of
from jaxrnn.training.state import CarryPolicy, TrainState, carry_for, make_state

SECONDS_IN_ONE_PROGRAM = 2.0
"""Aimed at: so often can a caller look and stop. Each program copies the state and is given its
memory anew: of half a second, that was a tenth for two LSTM layers of 512."""
ROWS_PER_EPOCH = 10
"""How many rows of history an epoch gives."""


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
        source: what to train on.
        validation: what to validate on after each epoch, if anything.
        schedule: the learning rates; training ends with the schedule. From `length_of` for an
            optimizer that brings its own.
        optimizer: from `make_optimizer`, or any of optax's.
        state: the state to start from; it is used up.
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
    if validation is not None:
        shared = validation.tokens is source.tokens  # windows of one text, held once
        held_out = trainer.tokens if shared else on_device(validation, model)
    position = position or Position()
    while position.epoch < schedule.epochs:
        count = source.steps(position.epoch)
        if position.window == 0:
            state, position = _begin_epoch(schedule, state, position, carry_policy)
        for progress in _train_epoch(trainer, state, position):
            state, position = progress.state, progress.position
            if position.window < count:
                yield progress
        row = trainer.row(state, position)
        if validation is not None:
            start = state.carry if carry_policy == "never" else None
            for evaluated in evaluation(
                model, state.params, validation, start, position.epoch, tokens=held_out
            ):
                yield Progress(state, position, count, validating=evaluated.share)
            check_validation(evaluated.nats, Progress(state, position, count))
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
        source: what to train on.
        validation: what to validate on after each epoch, if anything.
        schedule: the learning rates, for example "4 x 1e-3, 4 x 1e-4".
        epochs: how many epochs, at least 1, for an optimizer that brings its own rate.
        optimizer: a name such as "adam", from `make_optimizer`, or any
            `optax.GradientTransformation`; Adam if None.
        state: the state to start from; it is used up. A fresh one if None.
        carry_policy: see `training`.
        seed: of a fresh state.

    Returns:
        The trained state, and the history, whose last row of each epoch has the validation loss.

    Raises:
        NonFiniteLossError: see `training`.
        ValueError: see `training`; if neither or both of schedule and epochs are given, or the one
            that the optimizer does not take.
    """
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


def _begin_epoch(
    schedule: Schedule, state: TrainState, position: Position, carry_policy: CarryPolicy
) -> tuple[TrainState, Position]:
    if carry_policy == "epoch":
        state = state._replace(carry=_zeros_like(state.carry))
    if schedule.phase(position.epoch)[1] == position.epoch:
        position = replace(position, average=0.0, averaged=0)
    return state, position


@bounded_jit()
def _zeros_like(carry: Carry) -> Carry:
    return jax.tree.map(jnp.zeros_like, carry)


def _train_epoch(trainer: Trainer, state: TrainState, position: Position) -> Iterator[Progress]:
    """Train to the end of the epoch under way; a row is complete at every tenth of it."""
    count = trainer.source.steps(position.epoch)
    row_steps = -(-count // ROWS_PER_EPOCH)
    state = state._replace(
        carry=carry_for(trainer.model, state.params, state.carry, trainer.source.batch_size)
    )
    if position.window < count:
        state, _, _ = trainer.make(state, position, 0)  # compiles, outside the time measured
    chunk = 1
    while position.window < count:
        first = position.window
        steps = min(chunk, count - first, row_steps - first % row_steps)
        state, position, seconds = trainer.make(state, position, steps)
        chunk = int(np.clip(SECONDS_IN_ONE_PROGRAM * steps / seconds, 1, STEPS_IN_ONE_PROGRAM))
        row = None
        if position.window % row_steps == 0 and position.window < count:
            row = trainer.row(state, position)
            position = position.after_row()
        yield Progress(state, position, count, row)
