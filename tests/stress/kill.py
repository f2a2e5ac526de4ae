"""Kill a training run many times and compare it, byte for byte, with one that was left alone.

The run has all that is hard to resume: windows of random length, dropout, cosine restarts, a carry
that flows through the validation. Half of the kills come after a random time, half at a random
place, for example while a checkpoint is being written. With other threads, each resumed process may
run on another set of processors; the sums of a run must be those of the set that it began with.
"""

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxrnn.runs.checkpoints import with_header_checksum
from jaxrnn.runs.environment import POOL
from jaxrnn.runs.run import Run
from jaxrnn.runs.worker_process import WorkerEndedError, WorkerProcess, WorkerTimeoutError
from stress.paths import python_path
from stress.train_worker import PLACES

COMPARED = ("last.safetensors", "best.safetensors", "history.jsonl")
"""Files that must be the same; timing.jsonl is measured, and never is."""
TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 80
FLAGS = [
    *("--model", "CharLM", "--cell", "lstm", "--layers", "2", "--dropout", "0.3"),
    *("--embedding", "8", "--hidden", "24", "--batch", "8", "--bptt", "12"),
    *("--min-frequency", "1", "--seed", "5", "--prompt", "the"),
]
WIDE = 96
"""H of a run whose sums depend on the number of threads."""
LONGEST_LIFE = 1.5
"""Seconds of training after which a process is killed at the latest."""
PATIENCE = 300.0
"""Seconds after which a process that does nothing is a failure."""
EARLY_KILL = 0.002
"""Probability, every 10 ms, that a process is killed before it trains."""
MOST_TIMES = 12
"""Maximum number of times that a process reaches the place where it dies."""
STARTING = "starting"
"""The phase of a process that has not reported one."""


@dataclass
class Outcome:
    """The outcome of the kills.

    Attributes:
        kills: how many processes were killed, by what they were doing.
        different: the files that differ from those of the undisturbed run.
        notes: what the resumed processes wrote to standard error.
        processors: how many processes were resumed, by the number of processors that they had.
    """

    kills: Counter[str] = field(default_factory=Counter)
    different: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    processors: Counter[int] = field(default_factory=Counter)


class KillTestError(RuntimeError):
    """The test could not be carried out: a process failed, or ended before all the kills."""


def kill_repeatedly(
    folder: Path,
    kills: int,
    seed: int = 0,
    *,
    cycles: int | None = None,
    threads: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Train twice, once killed `kills` times, and compare.

    Args:
        folder: an empty folder to work in.
        kills: how many processes to kill.
        seed: of the moments and places.
        cycles: of cosine restarts, which decide how long the run is; enough for `kills` if None.
        threads: whether each resumed process runs on randomly chosen processors.
        log: is given the progress.

    Raises:
        KillTestError: if a process fails, if the run ends before the last kill, or if processors
            cannot be chosen here.
    """
    processors = available_processors() if threads else []
    (folder / "text.txt").write_text(TEXT)
    # Wider batches make fewer updates of an epoch.
    cycles = cycles or max(2, (kills // 3).bit_length() + 1) + threads
    # With 24 units, no sum is large enough to be shared between threads.
    width = ["--hidden", str(WIDE), "--batch", "32"] if threads else []
    flags = [*FLAGS, *width, "--schedule", f"1 x 1e-2, sgdr(1e-2, {cycles})"]
    began = time.monotonic()
    _finish(folder, ["train", "--corpus", "text.txt", "--name", "whole", *flags])
    log(f"the undisturbed run took {time.monotonic() - began:.0f} s; now with {kills} kills")
    outcome = Outcome()
    rng = random.Random(seed)
    run = folder / "runs/killed"
    first = ["train", "--corpus", "text.txt", "--name", "killed", *flags]
    resume = ["train", "--resume", "runs/killed"]
    for number in range(1, kills + 1):
        arguments = resume if run.exists() else first
        chosen = choose_processors(processors, arguments, rng)
        phase, notes = _kill_once(folder, arguments, rng, chosen)
        outcome.processors[len(chosen)] += bool(chosen)
        outcome.kills[phase] += 1
        outcome.notes += notes
        log(f"kill {number}: {phase}")
    arguments = resume if run.exists() else first
    outcome.notes += _finish(folder, arguments, choose_processors(processors, arguments, rng))
    outcome.different = different_files(folder / "runs/whole", run)
    return outcome


def available_processors() -> list[int]:
    """The numbers of the processors that this process may run on.

    Raises:
        KillTestError: if it cannot choose, or has only one.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise KillTestError("This system does not let a process choose its processors.")
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        raise KillTestError("There is only one processor: there is nothing to choose.")
    return found


def choose_processors(processors: list[int], arguments: list[str], rng: random.Random) -> list[int]:
    """Some of the processors for a process that resumes a run; none are chosen for the first."""
    if not processors or "--resume" not in arguments:
        return []
    return sorted(rng.sample(processors, rng.randint(1, len(processors))))


def different_files(one: Path, other: Path) -> list[str]:
    """The compared files that are not the same to the byte.

    But for what must differ: each run's identity, and the checksum over it.
    """
    different = []
    for name in COMPARED:
        if _without_identity(one, name) != _without_identity(other, name):
            different.append(name)
    return different


def _without_identity(folder: Path, name: str) -> bytes:
    """The bytes of a run's file, with zeros for the run's identity and a checkpoint's checksum."""
    data = (folder / name).read_bytes()
    identity = str(Run(folder).identity).encode()
    data = data.replace(identity, b"0" * len(identity))
    return with_header_checksum(data) if name.endswith(".safetensors") else data


def _kill_once(
    folder: Path, arguments: list[str], rng: random.Random, processors: Sequence[int] = ()
) -> tuple[str, list[str]]:
    """Start a process, and kill it or let it die.

    Returns:
        What it was doing, and what it wrote to standard error.
    """
    at_place = rng.random() < 0.5
    place = rng.choice(sorted(PLACES))
    die = f"{place}:{rng.randint(1, MOST_TIMES)}" if at_place else "-"
    worker = _start(folder, arguments, die, processors)
    try:
        phase = STARTING
        if at_place:
            _follow(worker, phase, PATIENCE)
        else:
            began = time.monotonic()
            while worker.poll() is None and phase == STARTING:
                late = time.monotonic() - began > PATIENCE
                if late or rng.random() < EARLY_KILL:
                    break
                phase = _follow(worker, phase, 0.01)
            phase = _follow(worker, phase, rng.uniform(0, LONGEST_LIFE))
        worker.kill()
        for reported in worker.arrived():  # between the last look and the end
            phase = reported
        if worker.poll() != -9:
            raise KillTestError(
                f"A process ended with {worker.poll()} before it was killed: "
                f"{worker.errors().strip()!r}."
            )
        return (place if at_place else phase), worker.errors().splitlines()
    finally:
        worker.close()


def _finish(folder: Path, arguments: list[str], processors: Sequence[int] = ()) -> list[str]:
    """Let a process come to its end; what it wrote to standard error."""
    worker = _start(folder, arguments, "-", processors)
    try:
        _follow(worker, STARTING, None)
        end = worker.end()
        if worker.poll() != 0:
            raise KillTestError(end)
        return worker.errors().splitlines()
    finally:
        worker.close()


def _follow(worker: WorkerProcess, phase: str, seconds: float | None) -> str:
    """Read a worker's phases until it ends, or for a number of seconds; the last one."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            phase = worker.receive(left)
        except (WorkerTimeoutError, WorkerEndedError):
            return phase


def _start(
    folder: Path, arguments: list[str], die: str, processors: Sequence[int]
) -> WorkerProcess:
    listed = ",".join(map(str, processors)) or "-"
    command = [sys.executable, "-m", "stress.train_worker", die, listed, *arguments]
    inherited = {name: value for name, value in os.environ.items() if name != POOL}
    own = {"PYTHONPATH": python_path(), "XDG_CACHE_HOME": str(folder / "cache")}
    return WorkerProcess(command, env=inherited | own, cwd=folder)
