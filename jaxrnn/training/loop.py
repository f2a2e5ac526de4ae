"""The training loop: many steps in one program, validation, a history.

`training` is a generator: it trains a little and yields how far it has come. What to do about it
(show it, save it, stop) is the caller's part; `fit` just runs it to the end.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrnn.nn.model import CharModel
from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM, Source, evaluation
from jaxrnn.training.history import Position, Row, check_finite
from jaxrnn.training.optimizers import make_optimizer
from jaxrnn.training.schedules import Schedule, parse_schedule
from jaxrnn.training.state import TrainState, carry_for, make_state
from jaxrnn.training.steps import train_steps

SECONDS_IN_ONE_PROGRAM = 0.5
"""Aimed at: so often can a caller look and stop."""
ROWS_PER_EPOCH = 10
"""How many rows of history an epoch gives."""
CarryPolicy = Literal["never", "epoch", "evaluation"]


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


def training(
    model: CharModel,
    source: Source,
    validation: Source | None,
    schedule: Schedule,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    position: Position | None = None,
    *,
    carry_policy: CarryPolicy = "never",
) -> Iterator[Progress]:
    """Train, and yield the progress every half second or so.

    Args:
        model: the model.
        source: what to train on.
        validation: what to validate on after each epoch, if anything.
        schedule: the learning rates; training ends with the schedule.
        optimizer: from `make_optimizer`.
        state: the state to start from; it is used up.
        position: where to start; the beginning if None.
        carry_policy: "never" lets the carry flow through training, validation and the next epoch
            as the course does; "epoch" starts each epoch and each validation from zeros;
            "evaluation" validates from zeros and puts the training carry aside meanwhile.

    Raises:
        NonFiniteLossError: when a loss or a gradient is no longer finite; names step and rate.
    """
    tokens = jnp.asarray(source.tokens)
    validation_tokens = None if validation is None else jnp.asarray(validation.tokens)
    position = position or Position()
    while position.epoch < schedule.epochs:
        count = source.steps(position.epoch)
        if position.window == 0:
            state, position = _begin_epoch(model, schedule, state, position, carry_policy)
        epoch = _train_epoch(model, source, schedule, optimizer, tokens, state, position)
        for progress in epoch:
            state, position = progress.state, progress.position
            if position.window < count:
                yield progress
        row = position.row(int(state.step), count)
        if validation is not None:
            start = state.carry if carry_policy == "never" else None
            for evaluated in evaluation(
                model, state.params, validation, start, position.epoch, tokens=validation_tokens
            ):
                yield Progress(state, position, count, validating=evaluated.share)
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
    schedule: Schedule | str,
    optimizer: optax.GradientTransformation | None = None,
    state: TrainState | None = None,
    carry_policy: CarryPolicy = "never",
    seed: int = 0,
) -> tuple[TrainState, list[Row]]:
    """Train to the end of the schedule.

    Args:
        model: the model.
        source: what to train on.
        validation: what to validate on after each epoch, if anything.
        schedule: the learning rates, for example "4 x 1e-3, 4 x 1e-4".
        optimizer: from `make_optimizer`; Adam if None.
        state: the state to start from; it is used up. A fresh one if None.
        carry_policy: see `training`.
        seed: of a fresh state.

    Returns:
        The trained state, and the history, whose last row of each epoch has the validation loss.
    """
    if isinstance(schedule, str):
        schedule = parse_schedule(schedule)
    optimizer = optimizer or make_optimizer("adam")
    state = state or make_state(model, optimizer, source.batch, jax.random.key(seed))
    rows = []
    for progress in training(
        model, source, validation, schedule, optimizer, state, carry_policy=carry_policy
    ):
        state = progress.state
        if progress.row is not None:
            rows.append(progress.row)
    return state, rows


def _begin_epoch(
    model: CharModel,
    schedule: Schedule,
    state: TrainState,
    position: Position,
    carry_policy: CarryPolicy,
) -> tuple[TrainState, Position]:
    if carry_policy == "epoch":
        state = state._replace(carry=jax.tree.map(jnp.zeros_like, state.carry))
    if schedule.phase(position.epoch)[1] == position.epoch:
        position = replace(position, average=0.0, averaged=0)
    return state, position


def _train_epoch(
    model: CharModel,
    source: Source,
    schedule: Schedule,
    optimizer: optax.GradientTransformation,
    tokens: jax.Array,
    state: TrainState,
    position: Position,
) -> Iterator[Progress]:
    """Train to the end of the epoch under way; a row is complete at every tenth of it."""
    epoch, count = position.epoch, source.steps(position.epoch)
    phase, first_epoch = schedule.phase(epoch)
    before = sum(source.steps(e) for e in range(first_epoch, epoch))
    row_steps = -(-count // ROWS_PER_EPOCH)
    state = state._replace(carry=carry_for(model, state.carry, source.batch))
    dtype = jax.tree.leaves(state.params)[0].dtype

    run = partial(train_steps, model, optimizer, sizes=source.sizes, padded=source.padded)
    chunk = 0  # the first call makes no step: it compiles, outside the time that is measured
    while position.window < count:
        first = position.window
        steps = min(chunk, count - first, row_steps - first % row_steps)
        windows = source.windows(epoch, first, STEPS_IN_ONE_PROGRAM)
        rates = phase.rates(
            before + first + np.arange(STEPS_IN_ONE_PROGRAM), source.steps_per_epoch
        )
        started = time.perf_counter()
        state, metrics = run(state, tokens, windows, rates.astype(dtype), steps)
        losses, norms = (np.asarray(m, float)[:steps] for m in metrics)
        seconds = time.perf_counter() - started
        if steps == 0:
            chunk = 1
            continue
        check_finite(losses, norms, rates, int(state.step) - steps)
        position = position.after(losses, norms, windows, float(rates[steps - 1]), seconds)
        chunk = int(np.clip(SECONDS_IN_ONE_PROGRAM * steps / seconds, 1, STEPS_IN_ONE_PROGRAM))
        row = None
        if position.window % row_steps == 0 and position.window < count:
            row = position.row(int(state.step), count)
            position = position.after_row()
        yield Progress(state, position, count, row)
