"""Train a unit and write its results; a unit that was stopped goes on where it was."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.exchange.files import write_tensors
from jaxrnn.exchange.weights import WeightMap
from jaxrnn.runs.experiment import Experiment, prepare
from jaxrnn.runs.jobs import Watch
from jaxrnn.runs.resumable import train_or_resume
from jaxrnn.tree import named_leaves
from reproduction.measures import measured
from reproduction.results import FORMAT, result_path, weights_path, write_json
from reproduction.units import Framework, Unit

UNDER_WAY = "under-way"
"""The folder, among the results, of what is not finished."""


class Trained(NamedTuple):
    """What training gave."""

    rows: list[dict[str, Any]]  # the history
    weights: dict[str, np.ndarray]  # every weight at the end, by PyTorch's keys
    seconds: float  # that training and validation took, without compilation


Trainer = Callable[[Unit, Experiment, Path, Watch], Trained]
"""Trains a unit; keeps in the folder, which it makes, what it needs to go on after a stop."""


def run_job(arguments: Any, watch: Watch) -> None:
    """A job of `jaxrnn.runs.jobs`: train a unit; its arguments are the unit and the folder."""
    run(Unit.from_dict(arguments["unit"]), Path(arguments["folder"]), watch)


def run(unit: Unit, folder: Path, watch: Watch) -> None:
    """Train a unit, write the file of its results and the weights beside it.

    Args:
        unit: what to train.
        folder: of the results.
        watch: see `Watch`.

    Raises:
        ValueError: if the corpus, the framework or the folder cannot be used.
        NonFiniteLossError: if training diverges.
        Stopped: if `watch` does.
    """
    started = time.perf_counter()
    train = trainer_of(unit.framework)
    kept = folder / UNDER_WAY / unit.id
    with jax.enable_x64(unit.dtype == "float64"):
        experiment = prepare(unit.config)._replace(dtype=unit.dtype)
        trained = train(unit, experiment, kept, watch)
        write_tensors(weights_path(folder, unit), trained.weights, unit.to_dict())
        found = measured(unit, experiment, trained.weights)
    ends = [row for row in trained.rows if row["validation"] is not None]
    found |= {
        "config": unit.config.to_dict(),
        "rows": trained.rows,
        "train": {str(epoch): row["train"] for epoch, row in enumerate(ends, 1)},
        "validation": {str(epoch): row["validation"] for epoch, row in enumerate(ends, 1)},
        "seconds": trained.seconds,
        "total_seconds": time.perf_counter() - started,
        "corpus_sha256": experiment.corpus_sha256,
    }
    write_json(result_path(folder, unit), {"format": FORMAT, "unit": unit.to_dict(), **found})
    shutil.rmtree(kept)


def trainer_of(framework: Framework) -> Trainer:
    """How to train with a framework; PyTorch is imported only where it is asked for.

    Raises:
        ValueError: if it is not installed.
    """
    if framework == "jax":
        return train
    try:
        import parity  # noqa: F401  (says how to install PyTorch)
        from reproduction.reference import train as train_in_torch
    except ImportError as error:
        raise ValueError(f"Training with {framework} is not possible here: {error}") from None
    return train_in_torch


def train(unit: Unit, experiment: Experiment, folder: Path, watch: Watch) -> Trained:
    """Train a unit with this library: an ordinary run.

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
    run, seconds = train_or_resume(folder, experiment, watch)
    saved = run.load("last", jax.eval_shape(experiment.fresh_state))
    leaves = named_leaves(saved.state.params)
    weights = WeightMap.for_flax(leaves).to_torch(leaves)
    return Trained([row.repeatable() for row in run.history], weights, seconds)
