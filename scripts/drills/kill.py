"""Kill a training run many times and compare it, byte for byte, with one that was left alone.

The run has all that is hard to resume: windows of random length, dropout, cosine restarts, a carry
that flows through the validation. Half of the kills come after a random time, half at a random
place, for example while a checkpoint is being written. With other threads, each resumed process may
run on another set of processors; the sums of a run must be those of the set that it began with.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drills.worker import PLACES
from jaxrnn.runs.checkpoints import with_header_checksum
from jaxrnn.runs.environment import POOL
from jaxrnn.runs.run import Run

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


@dataclass
class Outcome:
    """What a kill drill came to.

    Attributes:
        kills: how many processes were killed, by what they were doing.
        different: the files that differ from those of the undisturbed run.
        notes: what the resumed processes said aloud.
        processors: how many processes were resumed, by the number of processors that they had.
    """

    kills: Counter[str] = field(default_factory=Counter)
    different: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    processors: Counter[int] = field(default_factory=Counter)


class KillDrillError(RuntimeError):
    """The drill could not be carried out: a process failed, or ended before all the kills."""


def kill_drill(
    folder: Path,
    kills: int,
    seed: int = 0,
    *,
    cycles: int | None = None,
    threads: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Train twice, once killed `kills` times, and compare.

    Args:
        folder: an empty folder to work in.
        kills: how many processes to kill.
        seed: of the moments and places.
        cycles: of cosine restarts, which decide how long the run is; enough for `kills` if None.
        threads: whether each resumed process runs on processors drawn at random.
        say: is told how far it is.

    Raises:
        KillDrillError: if a process fails, if the run ends before the last kill, or if processors
            cannot be chosen here.
    """
    every = _processors() if threads else []
    (folder / "text.txt").write_text(TEXT)
    # Wider batches make fewer updates of an epoch.
    cycles = cycles or max(2, (kills // 3).bit_length() + 1) + threads
    # With 24 units, no sum is large enough to be shared between threads.
    width = ["--hidden", str(WIDE), "--batch", "32"] if threads else []
    flags = [*FLAGS, *width, "--schedule", f"1 x 1e-2, sgdr(1e-2, {cycles})"]
    began = time.monotonic()
    _finish(folder, ["train", "--corpus", "text.txt", "--name", "whole", *flags])
    say(f"the undisturbed run took {time.monotonic() - began:.0f} s; now with {kills} kills")
    outcome, rng = Outcome(), random.Random(seed)
    arguments = ["train", "--corpus", "text.txt", "--name", "killed", *flags]
    for number in range(1, kills + 1):
        if (folder / "runs/killed").exists():
            arguments = ["train", "--resume", "runs/killed"]
        chosen = _chosen(every, arguments, rng)
        phase, notes = _kill_once(folder, arguments, rng, chosen)
        outcome.processors[len(chosen)] += bool(chosen)
        outcome.kills[phase] += 1
        outcome.notes += notes
        say(f"kill {number}: {phase}")
    if (folder / "runs/killed").exists():
        arguments = ["train", "--resume", "runs/killed"]
    outcome.notes += _finish(folder, arguments, _chosen(every, arguments, rng))
    outcome.different = different_files(folder / "runs/whole", folder / "runs/killed")
    return outcome


def _processors() -> list[int]:
    """The numbers of the processors that this process may run on.

    Raises:
        KillDrillError: if it cannot choose, or has only one.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise KillDrillError("This system does not let a process choose its processors.")
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        raise KillDrillError("There is only one processor: there is nothing to choose.")
    return found


def _chosen(every: list[int], arguments: list[str], rng: random.Random) -> list[int]:
    """Some of the processors for a process that is resumed; none are chosen for the first."""
    if not every or "--resume" not in arguments:
        return []
    return sorted(rng.sample(every, rng.randint(1, len(every))))


def different_files(one: Path, other: Path) -> list[str]:
    """Those of the files compared that are not the same to the byte.

    But for what must differ: each run's identity, and the checksum over it.
    """
    return [
        name for name in COMPARED if _without_identity(one, name) != _without_identity(other, name)
    ]


def _without_identity(folder: Path, name: str) -> bytes:
    """What a file of a run holds, with zeros for the run's identity and a checkpoint's checksum."""
    data = (folder / name).read_bytes()
    identity = str(Run(folder).identity).encode()
    data = data.replace(identity, b"0" * len(identity))
    return with_header_checksum(data) if name.endswith(".safetensors") else data


def _kill_once(
    folder: Path, arguments: list[str], rng: random.Random, processors: Sequence[int] = ()
) -> tuple[str, list[str]]:
    """Start a process, kill it or let it die, and tell what it was doing and what it said."""
    at_place = rng.random() < 0.5
    place = rng.choice(sorted(PLACES))
    die = f"{place}:{rng.randint(1, 12)}" if at_place else "-"
    process = _start(folder, arguments, die, processors)
    began = time.monotonic()
    while process.poll() is None and _phase(folder) == "starting" and not at_place:
        if rng.random() < 0.002 or time.monotonic() - began > PATIENCE:
            break  # now and then, one is killed before it trains
        time.sleep(0.01)
    try:
        process.wait(PATIENCE if at_place else rng.uniform(0, LONGEST_LIFE))
    except subprocess.TimeoutExpired:
        process.kill()
    _, errors = process.communicate()
    if process.returncode != -9:
        raise KillDrillError(
            f"A process ended with {process.returncode} before it was killed: {errors.strip()!r}."
        )
    return (place if at_place else _phase(folder)), errors.splitlines()


def _finish(folder: Path, arguments: list[str], processors: Sequence[int] = ()) -> list[str]:
    process = _start(folder, arguments, "-", processors)
    _, errors = process.communicate()
    if process.returncode != 0:
        raise KillDrillError(f"A process ended with {process.returncode}: {errors.strip()!r}.")
    return errors.splitlines()


def _start(
    folder: Path, arguments: list[str], die: str, processors: Sequence[int]
) -> "subprocess.Popen[str]":
    listed = ",".join(map(str, processors)) or "-"
    command = [sys.executable, "-m", "drills.worker", str(folder / "phase"), die, listed]
    command += arguments
    inherited = {name: value for name, value in os.environ.items() if name != POOL}
    # The package beside the drill, whatever is installed.
    scripts = Path(__file__).parents[1]
    own = {
        "PYTHONPATH": os.pathsep.join(map(str, (scripts, scripts.parent))),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return subprocess.Popen(
        command,
        cwd=folder,
        env=inherited | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _phase(folder: Path) -> str:
    path = folder / "phase"
    return path.read_text() if path.exists() else "starting"
