"""Which checkpoint of a run is good to go on from, judged by the loss of its weights.

Finite weights are not enough: those of a run that diverges are finite for some updates more, and
their loss is not, or is far above that of a model that has learned nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.files import locked, write_whole
from jaxrnn.runs.changes import CHANGES, Change, pack_changes
from jaxrnn.runs.checkpoints import CheckpointError
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.run import KEPT, Run, RunError, Saved
from jaxrnn.training.evaluation import evaluation, on_device
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.state import TrainState, all_finite

CHANCES = 2.0
"""A loss above this many times that of chance, ln V, and `MARGIN`, is not sensible."""
MARGIN = 1.0
"""Nats added to it, for vocabularies of a token or two, whose chance has hardly any loss."""


class Judged(NamedTuple):
    """A checkpoint and the loss of its weights.

    Attributes:
        name: "last", "last-1", "last-2" or "best".
        saved: what it holds.
        nats: its loss on the first windows of the validation text, in nats per character.
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
        tokens: those of the validation text on the device, if they are there already.
    """
    if not all_finite(state):
        return math.nan
    with np.errstate(all="ignore"):  # a loss may be infinite
        found = next(
            evaluation(experiment.model, state.params, experiment.validation, tokens=tokens)
        )
    return found.nats


def is_sensible(nats: float, vocab_size: int) -> bool:
    """Whether a loss is one that a model can go on from.

    Args:
        nats: the loss, in nats per character.
        vocab_size: V.
    """
    return math.isfinite(nats) and nats <= CHANCES * math.log(max(vocab_size, 1)) + MARGIN


def last_sensible(run: Run, experiment: Experiment) -> Judged | None:
    """The checkpoint with the most updates whose loss is sensible.

    Where none is, the one with the most updates whose loss is at least finite. None where no
    checkpoint that can be gone on from has one.
    """
    tokens = on_device(experiment.validation, experiment.model)
    judged = []
    for name in (*KEPT, "best"):
        saved = _to_go_on_from(run, name, experiment)
        if saved is not None:
            judged.append(Judged(name, saved, measured_loss(experiment, saved.state, tokens)))
    finite = [found for found in judged if math.isfinite(found.nats)]
    vocab_size = experiment.model.vocab_size
    sensible = [found for found in finite if is_sensible(found.nats, vocab_size)]
    return max(sensible or finite, key=lambda found: found.step, default=None)


def change_run(
    run: Run,
    experiment: Experiment,
    wanted: Mapping[str, Any],
    say: Callable[[str], None] = lambda text: None,
) -> Experiment:
    """Give a run another schedule or clip, from its last checkpoint with a sensible loss on.

    It is recorded in the run's `changes.json`. Whoever goes on with the run goes on from there.

    Args:
        run: the run.
        experiment: what it trains, as it is up to now.
        wanted: the new values, by option; a schedule counts from the run's first epoch.
        say: is told, in a sentence, what is changed.

    Returns:
        What the run trains from now on.

    Raises:
        ValueError: if a value is out of range.
        RunError: if another process trains the run, if it has no checkpoint with a finite loss, or
            if with the change nothing would be left to train.
    """
    new = {k: v for k, v in wanted.items() if v != getattr(experiment.config, k)}
    if not new:
        named = " and ".join(wanted)
        say(f"{named} of {run.folder} had this value already: nothing is changed.")
        return experiment
    changed = with_options(experiment, new)
    with locked(run.folder, say) as check:
        # All checkpoints missing is no matter where nothing was trained.
        begun = run.latest(jax.eval_shape(experiment.fresh_state), lambda text: None) is not None
        base = last_sensible(run, experiment) if begun else None
        if begun and base is None:
            raise RunError(
                f"{run.folder} has no checkpoint whose loss is finite to go on from: begin again."
            )
        step = 0 if base is None else base.step
        epoch = 0 if base is None else base.saved.position.epoch
        if epoch >= changed.schedule.epochs:
            raise RunError(
                f"{run.folder} has trained {epoch} epochs, and its schedule would have "
                f"{changed.schedule.epochs}: nothing is left to train. A new --schedule counts "
                "from the run's first epoch."
            )
        made = [
            Change(step=step, option=k, old=getattr(experiment.config, k), new=v)
            for k, v in new.items()
        ]
        check()
        data = pack_changes((*run.changes, *made), run.identity)
        write_whole(run.folder / CHANGES, data)
    if base is not None:
        say(f"Going on from {run.path(base.name)}, at step {step}, with a loss of {base.nats:.4f}.")
    return changed


def with_options(experiment: Experiment, options: Mapping[str, Any]) -> Experiment:
    """The same experiment with other values of `CHANGEABLE` options."""
    config = replace(experiment.config, **options)
    return experiment._replace(
        config=config,
        optimizer=config.make_optimizer(),
        schedule=parse_schedule(config.schedule),
    )


def _to_go_on_from(run: Run, name: str, experiment: Experiment) -> Saved | None:
    """What a checkpoint holds, if training can go on from it; else None."""
    try:
        saved = run.load(name, jax.eval_shape(experiment.fresh_state))
    except (CheckpointError, RunError):
        return None
    return saved if run.leads_on(name, saved) else None
