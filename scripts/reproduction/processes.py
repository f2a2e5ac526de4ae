"""Units in processes of their own, several at once, before the user's eyes.

Two processes of one thread each get more done than one of two threads: the programs are small.
Nor does it help to train the seeds of a recipe together with `vmap`. Training steps a second, each
seed's counted, CharSeqStatefulRnn at B 64, T 8, H 256, on two cores of an AMD EPYC (jax 0.10.2):

    two processes, one thread each                      530
    one process, two threads                            275
    three seeds in a vmap, one process, two threads     245
    three seeds in a vmap, two processes                300

(The vmap was given windows of one length; random lengths would cost it more.) So there is a
process a core, with one thread, as long as there are as many units as cores; where there are fewer,
each has several.
"""

import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from worker_process import WorkerProcess

from jaxrnn.runs.run import RunError
from jaxrnn.terminal import Screen, stop_requests
from reproduction.findings import RESULTS, of_page
from reproduction.results import Record, ResultError, read_record
from reproduction.units import Unit
from reproduction.worker import STOPPED

SECONDS_BETWEEN_LOOKS = 0.2
THREADS = ("PJRT_NPROC", "NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""The variables that say how many threads XLA, OpenMP and PyTorch start."""
ROOTS = (Path(__file__).parents[1], Path(__file__).parents[2])
"""Where a process finds this package, and the libraries of the same checkout."""
PAGE = Path(__file__).parent / RESULTS
"""What has been measured before, by which the time of a unit is guessed."""
SECONDS_AN_EPOCH = 30.0
"""Of a recipe that has not been measured."""
SECONDS_TO_START = 6.0
LONGEST_WORDS = 300
"""Maximum number of characters of a process's last words that are shown."""


class Event(NamedTuple):
    """How a process is getting on."""

    unit: Unit
    share: float = 0.0  # of the unit, that is done
    loss: float = float("nan")  # of training
    ended: bool = False
    error: str = ""  # why it has ended, if the unit failed
    stopped: bool = False  # whether it was stopped before the unit was done


class Finished(NamedTuple):
    """What became of some units: records and errors by the unit's id."""

    records: dict[str, Record]
    failures: dict[str, str]
    signal: int  # by which a stop was asked for, or 0


def reproduce(units: Sequence[Unit], folder: Path, jobs: int) -> Finished:
    """Run the units whose results are not in the folder yet: a bar over all, a line for each.

    Args:
        units: what to train.
        folder: of the results; it is made if it is not there.
        jobs: processes at once, at the most.

    Raises:
        RunError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot make {folder}: {error.strerror}.") from error
    finished = Finished({}, {}, 0)
    with Screen() as screen, stop_requests() as stopping:
        for unit in units:
            try:
                record = read_record(folder, unit)
            except ResultError as error:
                screen.notice(f"{error} It is trained again now.")
                continue
            if record is not None:
                finished.records[unit.id] = record
        waiting = [unit for unit in units if unit.id not in finished.records]
        waiting.sort(key=expected_seconds, reverse=True)  # so that all processes end together
        if waiting:
            screen.line(_introduction(waiting, len(units), jobs))
            screen.show("starting", 0.0)
        weights = {unit.id: expected_seconds(unit) for unit in waiting}
        shares = dict.fromkeys(weights, 0.0)
        for event in run_all(waiting, folder, jobs, stopping):
            unit = event.unit
            shares[unit.id] = 1.0 if event.ended else event.share
            done = sum(weights[name] * share for name, share in shares.items())
            ended = f"{list(shares.values()).count(1.0)}/{len(shares)} done"
            note = f"{unit.title} loss {event.loss:.3f}"
            screen.show(ended, done / sum(weights.values()), note)
            if event.error:
                finished.failures[unit.id] = event.error
            elif event.ended and not event.stopped:
                record = read_record(folder, unit)
                assert record is not None
                finished.records[unit.id] = record
                screen.line(result_line(record))
        return finished._replace(signal=stopping())


def result_line(record: Record) -> str:
    """What a unit came to, in a line."""
    unit = record.unit
    published = unit.published.get(unit.epochs)
    beside = ""
    if published is not None:
        beside = f"  published {published:.3f}  {record.last - published:+.3f}"
    return f"{unit.title}: validation {record.last:.4f}{beside}  {record.seconds:.0f} s"


def _introduction(waiting: Sequence[Unit], count: int, jobs: int) -> str:
    minutes = sum(map(expected_seconds, waiting)) / jobs / 60
    about = f"about {minutes:.0f} minutes" if minutes >= 1.5 else "about a minute"
    processes = min(jobs, len(waiting))
    where = f"{processes} processes" if processes > 1 else "one process"
    return f"{len(waiting)} of {count} trainings are to be done: {about} in {where}."


def expected_seconds(unit: Unit) -> float:
    """About how long a unit takes on one core: as its recipe did for the page of the results."""
    known = _seconds_per_epoch()
    of_ours = known.get((unit.recipe, "jax"), SECONDS_AN_EPOCH)
    each = known.get((unit.recipe, unit.framework), of_ours)
    factor = 2.0 if unit.dtype == "float64" else 1.0
    return SECONDS_TO_START + factor * each * unit.epochs


@lru_cache
def _seconds_per_epoch() -> dict[tuple[str, str], float]:
    """Measured seconds, by recipe and framework."""
    if not PAGE.is_file():
        return {}
    usual = [r for r in of_page(PAGE).records if not r.unit.study and r.unit.dtype == "float32"]
    return {(r.unit.recipe, r.unit.framework): r.seconds / r.unit.epochs for r in usual}


def run_all(
    units: Sequence[Unit], folder: Path, jobs: int, stopping: Callable[[], int]
) -> Iterator[Event]:
    """Run units in order, `jobs` at once, and yield again and again how each is getting on.

    Args:
        units: what to run.
        folder: of the results.
        jobs: processes at once, at the most.
        stopping: when it gives something else than 0, all processes are asked to save and end.
    """
    waiting = deque(units)
    running: list[Process] = []
    asked = False
    jobs = min(jobs, len(units))
    threads = -(-available_cores() // jobs) if jobs > 1 else 0
    try:
        while waiting or running:
            if stopping() and not asked:
                asked = True
                waiting.clear()
                for process in running:
                    process.stop()
            while waiting and len(running) < jobs:
                running.append(Process(waiting.popleft(), folder, threads))
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for process in list(running):
                event = process.look()
                if event.ended:
                    running.remove(process)
                    process.close()
                yield event
    finally:
        for process in running:
            process.close()


class Process:
    """A process that runs one unit; see `reproduction.worker`.

    Args:
        unit: the unit.
        folder: of the results.
        threads: how many it starts; as many as it likes if 0.
    """

    def __init__(self, unit: Unit, folder: Path, threads: int) -> None:
        self._last = Event(unit)
        command = [sys.executable, "-m", "reproduction.worker"]
        arguments = [str(folder), json.dumps(unit.to_dict())]
        self._worker = WorkerProcess(
            [*command, *arguments],
            env=environment(threads),
            own_session=True,  # Ctrl-C is for the command, which then asks its processes to stop
        )

    def stop(self) -> None:
        """Ask it to save and end."""
        self._worker.terminate()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._worker.close()

    def look(self) -> Event:
        """How it is getting on."""
        # The exit code first: what a process sends before its end is then read as well.
        code = self._worker.poll()
        for message in self._worker.arrived():
            self._last = self._last._replace(share=message["share"], loss=message["loss"])
        if code is None:
            return self._last
        last = self._last._replace(ended=True, stopped=code in (STOPPED, -signal.SIGTERM))
        if code == 0 or last.stopped:
            return last
        words = self._worker.last_words().removeprefix("error: ")[:LONGEST_WORDS]
        return last._replace(error=f"{words} (code {code})")


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(threads: int) -> dict[str, str]:
    """The environment of a process: on the CPU, unless JAX_PLATFORMS says otherwise."""
    limits = dict.fromkeys(THREADS, str(threads)) if threads else {}
    roots = [*map(str, ROOTS), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(root for root in roots if root)
    return {"JAX_PLATFORMS": "cpu", **os.environ, **limits, "PYTHONPATH": path}
