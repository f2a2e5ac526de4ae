"""The training loop: many steps in one program, validation, a history.

`training` is a generator: it trains a little and yields how far it has come. What to do about it
(show it, save it, stop) is the caller's part; `fit` just runs it to the end.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrnn.data.windows import Windows
from jaxrnn.nn.cells import Carry
from jaxrnn.nn.losses import bits_per_character, perplexity
from jaxrnn.nn.models import CharModel
from jaxrnn.training.optimizers import make_optimizer
from jaxrnn.training.schedules import Schedule, parse_schedule
from jaxrnn.training.state import TrainState, carry_for, make_state
from jaxrnn.training.steps import Metrics, eval_steps, train_steps

STEPS_IN_ONE_PROGRAM = 64
"""Room for this many steps in a compiled program; fewer are made when steps are slow."""
SECONDS_IN_ONE_PROGRAM = 0.5
"""Aimed at: so often can a caller look and stop."""
ROWS_PER_EPOCH = 10
"""How many rows of history an epoch gives."""
AVERAGE_DECAY = 0.98
"""Of the exponential average that is shown as the training loss, as in the course's fastai."""

CarryPolicy = Literal["never", "epoch", "evaluation"]
CARRY_POLICIES = ("never", "epoch", "evaluation")


class Source(Protocol):
    """Where windows come from: a `BpttStream` or a `WindowSet`."""

    tokens: np.ndarray
    batch: int

    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def padded(self) -> bool: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def steps(self, epoch: int) -> int: ...
    def windows(self, epoch: int, first: int, count: int) -> Windows: ...


class NonFiniteLoss(FloatingPointError):
    """The loss or the gradient is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the history.

    Attributes:
        epoch: epochs done, the current one counted by its share.
        step: updates made.
        train: exponential average of the loss, nats per character.
        gradient_norm: mean norm of the gradient, unclipped, since the row before.
        rate: the learning rate of the last step.
        characters_per_second: trained on since the row before.
        validation: nats per character, at the end of an epoch.
        bits_per_character: of `validation`.
        perplexity: of `validation`.
    """

    epoch: float
    step: int
    train: float
    gradient_norm: float
    rate: float
    characters_per_second: float
    validation: float | None = None
    bits_per_character: float | None = None
    perplexity: float | None = None

    def with_validation(self, nats: float) -> "Row":
        """The same row with a validation loss, in all three units."""
        bits, among = bits_per_character(nats), perplexity(nats)
        return replace(self, validation=nats, bits_per_character=bits, perplexity=among)


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands, and the sums that its next row of history needs.

    Attributes:
        epoch: the epoch under way, from 0.
        window: the windows of it that have been read.
        average: the exponential average of the loss, not yet corrected for its start at 0.
        averaged: over how many steps; it starts anew with each phase of the schedule.
        norms: the sum of the gradient norms since the last row.
        steps: the steps since the last row.
        characters: the characters trained on since the last row.
        seconds: the time that took.
        rate: the learning rate of the last step.
    """

    epoch: int = 0
    window: int = 0
    average: float = 0.0
    averaged: int = 0
    norms: float = 0.0
    steps: int = 0
    characters: int = 0
    seconds: float = 0.0
    rate: float = 0.0

    @property
    def train(self) -> float:
        """The training loss, in nats per character: the average corrected for its start."""
        return self.average / (1 - AVERAGE_DECAY**self.averaged) if self.averaged else np.nan


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
        NonFiniteLoss: when a loss or a gradient is no longer finite; names step and rate.
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
        row = _row(state, position, count)
        if validation is not None:
            start = state.carry if carry_policy == "never" else None
            for share, carry, nats in evaluation(
                model, state.params, validation, start, position.epoch, tokens=validation_tokens
            ):
                yield Progress(state, position, count, validating=share)
            row = row.with_validation(nats)
            state = state._replace(carry=carry) if carry_policy == "never" else state
        position = _after_row(replace(position, epoch=position.epoch + 1, window=0))
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


def evaluation(
    model: CharModel,
    params: Any,
    source: Source,
    carry: Carry | None = None,
    epoch: int = 0,
    *,
    tokens: jax.Array | None = None,
) -> Iterator[tuple[float, Carry, float]]:
    """Evaluate, and yield the share done, the carry, and the nats per character so far.

    The mean is weighted by the windows' lengths, as in the course.

    Args:
        model: the model.
        params: its parameters.
        source: what to evaluate on.
        carry: the carry to start from; zeros if None or of another batch size.
        epoch: whose windows to read.
        tokens: `source.tokens` on the device, if they are there already.
    """
    if carry is None:
        carry = model.initial_carry(source.batch, jax.tree.leaves(params)[0].dtype)
    carry = carry_for(model, carry, source.batch)
    tokens = jnp.asarray(source.tokens) if tokens is None else tokens
    total, weight, count = 0.0, 0.0, source.steps(epoch)
    for first in range(0, count, STEPS_IN_ONE_PROGRAM):
        windows = source.windows(epoch, first, STEPS_IN_ONE_PROGRAM)
        steps = min(STEPS_IN_ONE_PROGRAM, count - first)
        carry, losses = eval_steps(
            model, params, carry, tokens, windows, steps, sizes=source.sizes, padded=source.padded
        )
        weights = (windows.lengths * windows.rows)[:steps].astype(float)
        total += float(np.asarray(losses, float)[:steps] @ weights)
        weight += float(weights.sum())
        yield (first + steps) / count, carry, total / weight


def evaluate(
    model: CharModel, params: Any, source: Source, carry: Carry | None = None
) -> tuple[Carry, float]:
    """The carry after `source`, and the mean loss on it in nats per character."""
    *_, (_, carry, nats) = evaluation(model, params, source, carry)
    return carry, nats


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

    def run(
        state: TrainState, windows: Windows, rates: np.ndarray, steps: int
    ) -> tuple[TrainState, Metrics]:
        return train_steps(
            model,
            optimizer,
            state,
            tokens,
            windows,
            rates.astype(dtype),
            steps,
            sizes=source.sizes,
            padded=source.padded,
        )

    chunk = 0  # the first call makes no step: it compiles, outside the time that is measured
    while position.window < count:
        first = position.window
        steps = min(chunk, count - first, row_steps - first % row_steps)
        windows = source.windows(epoch, first, STEPS_IN_ONE_PROGRAM)
        rates = phase.rates(
            before + first + np.arange(STEPS_IN_ONE_PROGRAM), source.steps_per_epoch
        )
        started = time.perf_counter()
        state, metrics = run(state, windows, rates, steps)
        losses, norms = (np.asarray(m, float)[:steps] for m in metrics)
        seconds = time.perf_counter() - started
        if steps == 0:
            chunk = 1
            continue
        _check_finite(losses, norms, rates, int(state.step) - steps)
        position = _advance(position, losses, norms, windows, float(rates[steps - 1]), seconds)
        chunk = int(np.clip(SECONDS_IN_ONE_PROGRAM * steps / seconds, 1, STEPS_IN_ONE_PROGRAM))
        row = None
        if position.window % row_steps == 0 and position.window < count:
            row = _row(state, position, count)
            position = _after_row(position)
        yield Progress(state, position, count, row)


def _advance(
    position: Position,
    losses: np.ndarray,
    norms: np.ndarray,
    windows: Windows,
    rate: float,
    seconds: float,
) -> Position:
    average, steps = position.average, len(losses)
    for loss in losses.tolist():
        average = AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * loss
    return Position(
        epoch=position.epoch,
        window=position.window + steps,
        average=average,
        averaged=position.averaged + steps,
        norms=position.norms + float(norms.sum()),
        steps=position.steps + steps,
        characters=position.characters + int((windows.lengths * windows.rows)[:steps].sum()),
        seconds=position.seconds + seconds,
        rate=rate,
    )


def _row(state: TrainState, position: Position, count: int) -> Row:
    return Row(
        epoch=round(position.epoch + position.window / count, 3),
        step=int(state.step),
        train=position.train,
        gradient_norm=position.norms / max(position.steps, 1),
        rate=position.rate,
        characters_per_second=position.characters / max(position.seconds, 1e-9),
    )


def _after_row(position: Position) -> Position:
    return replace(position, norms=0.0, steps=0, characters=0, seconds=0.0)


def _check_finite(losses: np.ndarray, norms: np.ndarray, rates: np.ndarray, step: int) -> None:
    bad = ~(np.isfinite(losses) & np.isfinite(norms))
    if bad.any():
        first = int(np.argmax(bad))
        what = "gradient" if np.isfinite(losses[first]) else "loss"
        raise NonFiniteLoss(
            f"The {what} is {norms[first] if what == 'gradient' else losses[first]} at step "
            f"{step + first + 1} with learning rate {rates[first]:g}. Try a smaller rate or clip."
        )
