"""What the worker processes of a comparison do: measure the speed of a contender, or train it."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrnn.data.tasks import make_task
from jaxrnn.files import read_regular
from jaxrnn.nn.losses import bits_per_character
from jaxrnn.runs.comparison import (
    FORMAT,
    UNDER_WAY,
    result_path,
    training_id,
    write_json,
)
from jaxrnn.runs.config import Config
from jaxrnn.runs.environment import peak_memory, provenance, resident_memory
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.history import LARGEST_HISTORY, TIMING
from jaxrnn.runs.jobs import Watch
from jaxrnn.runs.resumable import Stopwatch, train_or_resume
from jaxrnn.runs.run import PACKAGES, Run
from jaxrnn.runs.speed import SECONDS_MEASURED, seconds_per_update
from jaxrnn.runs.task_training import TaskRow, train_task
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.evaluation import Source

BLOCK = 1000
"""Number of updates whose characters are counted at once."""


def measure(arguments: Any, watch: Watch) -> None:
    """A job: write the seconds that an update of a contender takes.

    Args:
        arguments: "config", the fields of its configuration, and "path", the file to write.
        watch: receives nothing: the time is short.
    """
    experiment = prepare(Config(**arguments["config"]))
    seconds = seconds_per_update(experiment, arguments.get("seconds", SECONDS_MEASURED))
    path = Path(arguments["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, "seconds_per_update": seconds})


def train(arguments: Any, watch: Watch) -> None:
    """A job: train a contender with one seed, and write its result.

    Args:
        arguments: "folder", "contender", "seed", "config", "parameters", "task" and "task_length".
        watch: receives the share that is done, and the loss.

    Raises:
        Stopped: if `watch` raises it; what is done is kept.
    """
    folder = Path(arguments["folder"])
    label = arguments["contender"]
    config = Config(**arguments["config"])
    kept = folder / UNDER_WAY / training_id(label, config.seed)
    kept.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "format": FORMAT,
        "contender": label,
        "seed": config.seed,
        "hidden_size": config.hidden_size,
        "parameters": arguments["parameters"],
    }
    if arguments["task"] is None:
        found |= trained_on_text(config, kept, watch)
    else:
        found |= trained_on_task(config, arguments, kept, watch)
    found |= provenance(PACKAGES)
    path = result_path(folder, label, config.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    shutil.rmtree(kept, ignore_errors=True)


def trained_on_text(config: Config, kept: Path, watch: Watch) -> dict[str, Any]:
    """Train a run, and say what came of it.

    Args:
        config: what to train.
        kept: the folder of the run, which is gone on with if it is there.
        watch: see `train`.
    """
    experiment = prepare(config)
    jax.block_until_ready(experiment.fresh_state())  # JAX's own start is none of the training
    before = resident_memory()
    diverged = None
    try:
        run, seconds = train_or_resume(kept, experiment, watch)
    except NonFiniteLossError as error:
        diverged = str(error)
        run = Run(kept)
        seconds = Stopwatch(kept / "seconds").seconds
    rows = run.history
    validation = None
    steps = 0
    if rows:
        steps = rows[-1].step
        validation = rows[-1].validation if diverged is None else None
    characters = characters_in(experiment.source, steps)
    bits = None if validation is None else bits_per_character(validation)
    return {
        "validation": validation,
        "bits_per_character": bits,
        "train": rows[-1].train if rows else None,
        "diverged": diverged,
        "steps": steps,
        "characters": characters,
        "milliseconds_per_update": _milliseconds(kept, characters, steps),
        "memory_bytes": _above(before),
        "seconds": seconds,
        "curve": [
            {"step": row.step, "train": row.train, "validation": row.validation} for row in rows
        ],
    }


def trained_on_task(config: Config, arguments: Any, kept: Path, watch: Watch) -> dict[str, Any]:
    """Train on a generated task, and say what came of it; see `trained_on_text`."""
    task = make_task(arguments["task"], arguments["task_length"])
    before = resident_memory()
    kept.mkdir(parents=True, exist_ok=True)
    stopwatch = Stopwatch(kept / "seconds")
    diverged = None
    rows: list[TaskRow] = []
    median = None
    try:
        with stopwatch:
            rows, median = train_task(config, task, kept, watch)
    except NonFiniteLossError as error:
        diverged = str(error)
    return {
        "validation": rows[-1].validation if rows else None,
        "bits_per_character": None,
        "train": rows[-1].train if rows else None,
        "diverged": diverged,
        "steps": rows[-1].step if rows else 0,
        "characters": None,
        "milliseconds_per_update": None if median is None else 1000 * median,
        "memory_bytes": _above(before),
        "seconds": stopwatch.seconds,
        "curve": [row._asdict() for row in rows],
    }


def characters_in(source: Source, steps: int) -> int:
    """The number of characters that the first updates of a training read."""
    total = 0
    epoch = 0
    left = steps
    while left > 0:
        count = min(left, source.steps(epoch))
        for first in range(0, count, BLOCK):
            windows = source.windows(epoch, first, min(BLOCK, count - first))
            total += int((windows.lengths * windows.rows).sum())
        left -= count
        epoch += 1
    return total


def _milliseconds(folder: Path, characters: int, steps: int) -> float | None:
    """The median milliseconds of an update, from the speed of each row; None without a row."""
    try:
        lines = read_regular(folder / TIMING, at_most=LARGEST_HISTORY).splitlines()
    except FileNotFoundError:
        return None
    speeds = [json.loads(line)["characters_per_second"] for line in lines]
    # Training time alone: compilation and validation are left out.
    median = float(np.median([speed for speed in speeds if speed] or [0.0]))
    if not steps or not median:
        return None
    return 1000 * characters / steps / median


def _above(before: int) -> int | None:
    """Bytes by which the peak of this process is above what it had; None where nobody knows."""
    peak = peak_memory()
    return max(0, peak - before) if peak else None
