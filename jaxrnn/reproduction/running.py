"""Run a unit from the text to the file of its results."""

import shutil
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jax

from jaxrnn.exchange.files import write_tensors
from jaxrnn.reproduction.gradients import gradient_errors, write_gradient_errors
from jaxrnn.reproduction.probes import gradient_flow, loss_on_shared_windows
from jaxrnn.reproduction.results import read_result, weights_path, write_result
from jaxrnn.reproduction.training import Trained, Trainer, Watch, train
from jaxrnn.reproduction.units import QUICK, Unit
from jaxrnn.reproduction.writing import answers, params_of, samples
from jaxrnn.runs.experiment import Experiment, prepare

FRAMEWORKS = "jaxrnn.frameworks"
"""The group of entry points under which a package offers another framework's `Trainer`."""
UNDER_WAY = "under-way"
"""The folder, among the results, of what is not finished."""


def run(unit: Unit, folder: Path, watch: Watch) -> dict[str, Any]:
    """Train a unit, write the file of its results and the weights beside it.

    A unit that was stopped before is gone on with. Of a quick unit, the errors of its gradients are
    written, too, before training.

    Args:
        unit: what to train.
        folder: of the results.
        watch: see `Watch`.

    Returns:
        The results, as the file has them.

    Raises:
        ValueError: if the corpus, the framework or the folder cannot be used.
        NonFiniteLossError: if training diverges.
        Stopped: if `watch` does.
    """
    started, trainer = time.perf_counter(), trainer_of(unit.framework)
    kept = folder / UNDER_WAY / unit.id
    with jax.enable_x64(unit.dtype == "float64"):
        experiment = prepare(unit.config)._replace(dtype=unit.dtype)
        if unit.study == QUICK:  # first: a wrong gradient may let training diverge
            write_gradient_errors(folder, unit, gradient_errors(experiment))
        trained = trainer(unit, experiment, kept, watch)
        write_tensors(weights_path(folder, unit), trained.weights, unit.to_dict())
        found = _found(unit, experiment, trained)
    write_result(folder, unit, found | {"total_seconds": time.perf_counter() - started})
    shutil.rmtree(kept)
    result = read_result(folder, unit)
    assert result is not None
    return result


def trainer_of(framework: str) -> Trainer:
    """How to train with a framework.

    Raises:
        ValueError: if it is not installed.
    """
    if framework == "jax":
        return train
    try:
        (entry,) = entry_points(group=FRAMEWORKS, name=framework)
        trainer: Trainer = entry.load()
        return trainer
    except (ValueError, ImportError):
        raise ValueError(
            f"Training with {framework} needs the extra 'parity': .venv/bin/python -m pip install "
            "-e '.[parity]', in the project's folder."
        ) from None


def _found(unit: Unit, experiment: Experiment, trained: Trained) -> dict[str, Any]:
    """The parts of the results that come from training."""
    ends = [row for row in trained.rows if row["validation"] is not None]
    usual = (unit.framework, unit.dtype) == ("jax", "float32")
    params = params_of(experiment, trained.weights) if usual else None
    writes = usual and not unit.study
    windowed = experiment.model.reads in ("overlapping", "non-overlapping")
    compared = usual and unit.study in ("", "split") and windowed
    ends_of_training = (experiment.fresh_state().params, params)
    return {
        "config": unit.config.to_dict(),
        "rows": trained.rows,
        "train": {str(epoch): row["train"] for epoch, row in enumerate(ends, 1)},
        "validation": {str(epoch): row["validation"] for epoch, row in enumerate(ends, 1)},
        "seconds": trained.seconds,
        "samples": samples(unit, experiment, params) if writes else [],
        "next": answers(experiment, params) if writes else [],
        "shared": loss_on_shared_windows(experiment, params) if compared else None,
        "flow": [gradient_flow(experiment, p) for p in ends_of_training]
        if usual and unit.study == "identity"
        else [],
        "corpus_sha256": experiment.corpus_sha256,
    }
