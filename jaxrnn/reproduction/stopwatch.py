"""How long a unit has been trained, over all the processes that took part."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxrnn.files import read_regular, write_whole

LARGEST = 100
"""Bytes that the file may have."""
COMPILING = "/jax/core/compile/backend_compile_duration"
"""The event by which JAX tells how long a program took to compile, or to read back from disk."""


class Stopwatch:
    """Seconds of work, compilation by JAX left out, kept in a file.

    Args:
        path: the file; what it says is where counting goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._compiling = path, 0.0
        self._before = _seconds_in(path)
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before + time.perf_counter() - self._started - self._compiling

    def keep(self) -> None:
        """Write it down, for a process that goes on."""
        write_whole(self._path, f"{self.seconds:.3f}\n".encode())

    def hear(self, event: str, duration_secs: float, **details: str | int) -> None:
        """Take note of an event of JAX's."""
        if event == COMPILING:
            self._compiling += duration_secs


def _seconds_in(path: Path) -> float:
    """What a file of seconds says; 0 where there is none.

    Raises:
        ValueError: if it says something else.
    """
    try:
        found = float(read_regular(path, at_most=LARGEST))
    except FileNotFoundError:
        return 0.0
    except ValueError as error:
        message = f"{path} is damaged: {error!s:.100} Remove it to count from 0."
        raise ValueError(message) from error
    if not 0 <= found < math.inf:
        raise ValueError(f"{path} is damaged: {found} s. Remove it to count from 0.")
    return found


@contextlib.contextmanager
def stopwatch(path: Path) -> Iterator[Stopwatch]:
    """A stopwatch that runs, and writes itself down at the end, whatever it may be."""
    watch = Stopwatch(path)
    jax.monitoring.register_event_duration_secs_listener(watch.hear)
    try:
        yield watch
    finally:
        jax.monitoring.unregister_event_duration_listener(watch.hear)
        watch.keep()
