"""Which checkpoint of a run is good to resume from, judged by the loss of its weights.

Finite weights are not enough: those of a run that diverges are finite for some updates more, and
their loss is not, or is far above that of a model that has learned nothing.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.files import locked, write_whole
from jaxrnn.runs.changes import CHANGES, Change, pack_changes
from jaxrnn.runs.checkpoints import CheckpointError
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.run import KEPT, Run, RunError, Saved
from jaxrnn.training.evaluation import evaluation, on_device
from jaxrnn.training.history import Position
from jaxrnn.training.schedules import Block, parse_schedule
from jaxrnn.training.state import TrainState, all_finite
from jaxrnn.training.timetable import Timetable

CHANCES = 2.0
"""Multiple of the loss of chance, ln V, above which, with `MARGIN`, a loss is not sensible."""
MARGIN = 1.0
"""Nats added to that limit, for vocabularies of a token or two, where ln V is near 0."""


class Judged(NamedTuple):
    """A checkpoint and the loss of its weights.

    Attributes:
        name: "last", "last-1", "last-2" or "best".
        saved: its content.
        nats: the loss on the first windows of the validation text, in nats per character.
    """

    name: str
    saved: Saved
    nats: float

    @property
    def step(self) -> int:
        """Updates made."""
        return int(self.saved.state.step)


def measured_loss(
    experiment: Experiment, state: TrainState, tokens: jax.Array | None = None
) -> float:
    """The loss on the first windows of the validation text, from zeros; NaN if a weight is.

    Args:
        experiment: what is trained.
        state: the state, whose moments and carry must be finite, too.
        tokens: the validation text's tokens on the device, if they are there already.
    """
    # The moments and the carry, too: with one that is infinite, the next update is.
    if not all_finite(state):
        return math.nan
    with np.errstate(all="ignore"):  # a loss may be infinite
        windows = evaluation(experiment.model, state.params, experiment.validation, tokens=tokens)
        first = next(windows)
    return first.nats


def is_sensible(nats: float, vocab_size: int) -> bool:
    """Whether training can go on from weights with this loss.

    Args:
        nats: the loss, in nats per character.
        vocab_size: V.
    """
    chance = math.log(max(vocab_size, 1))
    return math.isfinite(nats) and nats <= CHANCES * chance + MARGIN


def last_sensible(run: Run, experiment: Experiment) -> Judged | None:
    """The checkpoint with the most updates whose loss is sensible.

    Where none is, the one with the most updates whose loss is at least finite. None where no
    checkpoint that can be resumed from has one.
    """
    # Once for all checkpoints.
    tokens = on_device(experiment.validation, experiment.model)
    like = jax.eval_shape(experiment.fresh_state)
    finite: list[Judged] = []
    sensible: list[Judged] = []
    for name in (*KEPT, "best"):
        try:
            saved = run.load(name, like)
            leads_on = run.leads_on(name, saved)
        except (CheckpointError, RunError):
            continue
        if not leads_on:
            continue
        nats = measured_loss(experiment, saved.state, tokens)
        if math.isfinite(nats):
            finite.append(Judged(name, saved, nats))
        if is_sensible(nats, experiment.model.vocab_size):
            sensible.append(Judged(name, saved, nats))
    return max(sensible or finite, key=attrgetter("step"), default=None)


def change_run(
    run: Run,
    experiment: Experiment,
    wanted: Mapping[str, Any],
    emit: Callable[[str], None] = lambda text: None,
) -> Experiment:
    """Give a run another schedule, clip or number of updates.

    It goes on from its last checkpoint with a sensible loss.

    It is recorded in the run's `changes.json`, and every later training starts from there.

    Args:
        run: the run.
        experiment: the run's experiment up to now.
        wanted: the new values, by option; a schedule counts from the run's first epoch, and steps
            from its first update.
        emit: receives a sentence about what is changed.

    Returns:
        The run's experiment from now on.

    Raises:
        ValueError: if a value is out of range.
        RunError: if another process trains the run, if it has no checkpoint with a finite loss, or
            if with the change nothing would be left to train.
    """
    old = {option: getattr(experiment.config, option) for option in wanted}
    new = {option: value for option, value in wanted.items() if value != old[option]}
    if not new:
        named = " and ".join(wanted)
        emit(f"{named} of {run.folder} had this value already: nothing is changed.")
        return experiment
    # Refuses values out of range, before the lock.
    changed = with_options(experiment, new)
    if changed.config.steps is None and experiment.config.steps is not None:
        raise RunError(
            f"{run.folder} is trained by updates, and not by epochs: give --steps a number of them."
        )
    with locked(run.folder, emit) as check:
        # From which update on. Where nothing was trained yet, there is no checkpoint: the first.
        step = 0
        position = Position()
        base = None
        like = jax.eval_shape(experiment.fresh_state)
        if run.latest(like, lambda text: None) is not None:
            base = last_sensible(run, experiment)
            if base is None:
                raise RunError(
                    f"{run.folder} has no checkpoint whose loss is finite to go on from: begin "
                    "again."
                )
            step = base.step
            position = base.saved.position
        timetable = Timetable(changed.schedule, experiment.source, changed.config.budget)
        _check_something_left(run, timetable, position)
        # One change an option, all at the same update.
        changes = list(run.changes)
        for option, value in new.items():
            changes.append(Change(step=step, option=option, old=old[option], new=value))
        check()
        write_whole(run.folder / CHANGES, pack_changes(changes, run.identity))
    if base is not None:
        emit(
            f"Going on from {run.path(base.name)}, at step {step}, with a loss of {base.nats:.4f}."
        )
    if "steps" in new:
        parts = _parts(changed.config.schedule, timetable, step)
        if parts is not None:
            emit(parts)
    return changed


def _check_something_left(run: Run, timetable: Timetable, position: Position) -> None:
    """Refuse a change with which a run has nothing left to train.

    Raises:
        RunError: if it has made as many updates already, or trained as many epochs.
    """
    steps = timetable.budget.steps
    made = timetable.updates(position)
    # The last row, and the validation with it, may be still to come.
    if steps is not None and (made > steps or timetable.is_over(position)):
        raise RunError(
            f"{run.folder} has made {made:,} updates, and would make {steps:,}: nothing is left to "
            "train. --steps counts from the run's first update."
        )
    if timetable.is_over(position):
        raise RunError(
            f"{run.folder} has trained {position.epoch} epochs, and its schedule would have "
            f"{timetable.schedule.epochs}: nothing is left to train. A new --schedule counts from "
            "the run's first epoch."
        )


def _parts(schedule: str, timetable: Timetable, step: int) -> str | None:
    """What becomes of the parts of a schedule that share another number of updates, in words.

    Args:
        schedule: the schedule as it is written.
        timetable: the schedule and the number of updates.
        step: number of updates made.

    Returns:
        A sentence; None for a constant rate, which goes on as it was.
    """
    phases = timetable.schedule.phases
    if len(phases) == 1 and isinstance(phases[0], Block):
        return None
    ends = " and ".join(f"{end:,}" for end in timetable.ends)
    phase = bisect_right(timetable.ends, step) + 1
    return (
        f"The parts of the schedule {schedule} share the updates by their epochs: they end at "
        f"update {ends} now, and after update {step:,} the run is in part {phase}."
    )


def with_options(experiment: Experiment, options: Mapping[str, Any]) -> Experiment:
    """The same experiment with other values of `CHANGEABLE` options."""
    config = replace(experiment.config, **options)
    return experiment._replace(
        config=config,
        optimizer=config.make_optimizer(),
        schedule=parse_schedule(config.schedule),
    )
