"""An ordinary run as a job: it reports how far it is, and goes on where it was stopped."""

import contextlib
import math
import time
from pathlib import Path

import jax

from jaxrnn.files import read_regular, write_whole
from jaxrnn.runs.checkpointing import train_run
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.jobs import Watch
from jaxrnn.runs.run import Run

COMPILING = "/jax/core/compile/backend_compile_duration"
"""Event with the time that a program took to compile, or to be read back from the disk."""
LONGEST_NUMBER = 100
"""Maximum size of a file of seconds in bytes."""


def train_or_resume(folder: Path, experiment: Experiment, watch: Watch) -> tuple[Run, float]:
    """Train a run to its end.

    Args:
        folder: of the run; one that is there already is gone on with.
        experiment: what to train.
        watch: receives the share that is done, and the training loss.

    Returns:
        The run, and the seconds that training and validation took, without compilation.

    Raises:
        RunError: if the folder cannot be gone on with.
        NonFiniteLossError: if training diverges.
        Stopped: if `watch` raises it.
    """
    if folder.exists():
        run = Run(folder)
        run.experiment()  # refuses a text that has changed
    else:
        run = Run.create(folder, experiment)
    progresses = train_run(run, experiment, resume=True)
    stopwatch = Stopwatch(folder / "seconds")
    with stopwatch, contextlib.closing(progresses):
        for progress in progresses:
            if progress.row is not None and progress.row.validation is not None:
                stopwatch.keep()
            watch(progress.share, f"loss {progress.position.train:.3f}")
    return run, stopwatch.seconds


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

    def __enter__(self) -> "Stopwatch":
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

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
