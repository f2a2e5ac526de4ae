"""Train a unit with this library: an ordinary run, which goes on where it was stopped."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.exchange.weights import WeightMap
from jaxrnn.reproduction.stopwatch import stopwatch
from jaxrnn.reproduction.units import Unit
from jaxrnn.runs.checkpointing import train_run
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.run import Run
from jaxrnn.tree import named_leaves

Watch = Callable[[float, float], None]
"""Is told the share of the epochs that is done, and the training loss; may raise `Stopped`."""


class Stopped(Exception):  # noqa: N818  (no error: somebody asked for it)
    """Training was asked to stop; what is done is kept."""


class Trained(NamedTuple):
    """What training gave.

    Attributes:
        rows: the history.
        weights: every weight at the end, by PyTorch's keys.
        seconds: that training and validation took, without compilation.
    """

    rows: list[dict[str, Any]]
    weights: dict[str, np.ndarray]
    seconds: float


Trainer = Callable[[Unit, Experiment, Path, Watch], Trained]
"""Trains a unit; keeps in the folder, which it makes, what it needs to go on after a stop."""


def train(unit: Unit, experiment: Experiment, folder: Path, watch: Watch) -> Trained:
    """Train a unit.

    Args:
        unit: what to train.
        experiment: made from its configuration, in its precision.
        folder: of the run; one that is there already is gone on with.
        watch: see `Watch`.

    Raises:
        RunError: if the folder cannot be gone on with.
        NonFiniteLossError: if training diverges.
        Stopped: if `watch` does.
    """
    run, epochs = _run(folder, experiment), experiment.schedule.epochs
    progresses = train_run(run, experiment, resume=True)
    with stopwatch(folder / "seconds") as watched, contextlib.closing(progresses):
        for progress in progresses:
            position = progress.position
            if progress.row is not None and progress.row.validation is not None:
                watched.keep()
            share = position.epoch + position.window / max(progress.of, 1)
            watch(share / epochs, position.train)
    saved = run.load("last", jax.eval_shape(experiment.fresh_state))
    leaves = named_leaves(saved.state.params)
    weights = WeightMap.for_flax(leaves).to_torch(leaves)
    return Trained([row.repeatable() for row in run.history], weights, watched.seconds)


def _run(folder: Path, experiment: Experiment) -> Run:
    if not folder.exists():
        return Run.create(folder, experiment)
    run = Run(folder)
    run.experiment()  # refuses a text that has changed
    return run
