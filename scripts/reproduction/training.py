"""Train a unit and write its results; a unit that was stopped goes on where it was."""

import contextlib
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrnn.exchange.files import write_tensors
from jaxrnn.exchange.weights import WeightMap
from jaxrnn.files import read_regular, write_whole
from jaxrnn.runs.checkpointing import train_run
from jaxrnn.runs.experiment import Experiment, prepare
from jaxrnn.runs.run import Run
from jaxrnn.tree import named_leaves
from reproduction.measures import measured
from reproduction.results import FORMAT, result_path, weights_path, write_json
from reproduction.units import Framework, Unit

COMPILING = "/jax/core/compile/backend_compile_duration"
"""The event by which JAX tells how long a program took to compile, or to read back from disk."""
LONGEST_NUMBER = 100
"""Bytes that a file of seconds may have."""
UNDER_WAY = "under-way"
"""The folder, among the results, of what is not finished."""

Watch = Callable[[float, float], None]
"""Is told the share of the epochs that is done, and the training loss; may raise `Stopped`."""


class Stopped(Exception):  # noqa: N818  (no error: somebody asked for it)
    """Training was asked to stop; what is done is kept."""


class Trained(NamedTuple):
    """What training gave."""

    rows: list[dict[str, Any]]  # the history
    weights: dict[str, np.ndarray]  # every weight at the end, by PyTorch's keys
    seconds: float  # that training and validation took, without compilation


Trainer = Callable[[Unit, Experiment, Path, Watch], Trained]
"""Trains a unit; keeps in the folder, which it makes, what it needs to go on after a stop."""


def run(unit: Unit, folder: Path, watch: Watch) -> int:
    """Train a unit, write the file of its results and the weights beside it.

    Args:
        unit: what to train.
        folder: of the results.
        watch: see `Watch`.

    Returns:
        0, as a command does that went well.

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
    return 0


def trainer_of(framework: Framework) -> Trainer:
    """How to train with a framework; PyTorch is imported only where it is asked for.

    Raises:
        ValueError: if it is not installed.
    """
    if framework == "jax":
        return train
    try:
        import parity  # noqa: F401  (says how to install PyTorch)
        from reproduction import reference
    except ImportError as error:
        raise ValueError(f"Training with {framework} is not possible here: {error}") from None
    return reference.train


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
    if folder.exists():
        run = Run(folder)
        run.experiment()  # refuses a text that has changed
    else:
        run = Run.create(folder, experiment)
    epochs = experiment.schedule.epochs
    progresses = train_run(run, experiment, resume=True)
    watched = Stopwatch(folder / "seconds")
    with watched, contextlib.closing(progresses):
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


class Stopwatch:
    """Seconds of work over all processes that took part, compilation by JAX left out.

    Used as a context, it writes itself down at the end, whatever it may be.

    Args:
        path: the file that keeps them; what it says is where counting goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._compiling = 0.0
        self._before = _seconds_in(path)
        self._started = time.perf_counter()

    def __enter__(self) -> None:
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def __exit__(self, *details: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)
        self.keep()

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before + time.perf_counter() - self._started - self._compiling

    def keep(self) -> None:
        """Write it down, for a process that goes on."""
        write_whole(self._path, f"{self.seconds:.3f}\n".encode())

    def _hear(self, event: str, duration_secs: float, **details: str | int) -> None:
        if event == COMPILING:
            self._compiling += duration_secs


def _seconds_in(path: Path) -> float:
    """What a file of seconds says; 0 where there is none.

    Raises:
        ValueError: if it says something else.
    """
    try:
        found = float(read_regular(path, at_most=LONGEST_NUMBER))
        if not 0 <= found < math.inf:
            raise ValueError(f"{found} s.")
    except FileNotFoundError:
        return 0.0
    except ValueError as error:
        message = f"{path} is damaged: {error!s:.100} Remove it to count from 0."
        raise ValueError(message) from error
    return found
