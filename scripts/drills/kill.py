"""Kill a training run many times and compare it, byte for byte, with one that was left alone.

The run has all that is hard to resume: windows of random length, dropout, cosine restarts, a carry
that flows through the validation. Half of the kills come after a random time, half at a random
place, for example while a checkpoint is being written.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from drills.worker import PLACES
from jaxrnn.runs.checkpoints import seal
from jaxrnn.runs.run import Run

COMPARED = ("last.safetensors", "best.safetensors", "history.jsonl")
"""Files that must be the same; timing.jsonl is measured, and never is."""
TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 80
FLAGS = [
    *("--model", "CharLM", "--cell", "lstm", "--layers", "2", "--dropout", "0.3"),
    *("--embedding", "8", "--hidden", "24", "--batch", "8", "--bptt", "12"),
    *("--min-frequency", "1", "--seed", "5", "--prompt", "the"),
]
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
    """

    kills: Counter[str] = field(default_factory=Counter)
    different: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class KillDrillError(RuntimeError):
    """The drill could not be carried out: a process failed, or ended before all the kills."""


def kill_drill(
    folder: Path,
    kills: int,
    seed: int = 0,
    *,
    cycles: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Train twice, once killed `kills` times, and compare.

    Args:
        folder: an empty folder to work in.
        kills: how many processes to kill.
        seed: of the moments and places.
        cycles: of cosine restarts, which decide how long the run is; enough for `kills` if None.
        say: is told how far it is.

    Raises:
        KillDrillError: if a process fails, or the run ends before the last kill.
    """
    (folder / "text.txt").write_text(TEXT)
    cycles = cycles or max(2, (kills // 3).bit_length() + 1)
    flags = [*FLAGS, "--schedule", f"1 x 1e-2, sgdr(1e-2, {cycles})"]
    began = time.monotonic()
    _finish(folder, ["train", "--corpus", "text.txt", "--name", "whole", *flags])
    say(f"the undisturbed run took {time.monotonic() - began:.0f} s; now with {kills} kills")
    outcome, rng = Outcome(), random.Random(seed)
    arguments = ["train", "--corpus", "text.txt", "--name", "killed", *flags]
    for number in range(1, kills + 1):
        if (folder / "runs/killed").exists():
            arguments = ["train", "--resume", "runs/killed"]
        phase, notes = _kill_once(folder, arguments, rng)
        outcome.kills[phase] += 1
        outcome.notes += notes
        say(f"kill {number}: {phase}")
    if (folder / "runs/killed").exists():
        arguments = ["train", "--resume", "runs/killed"]
    outcome.notes += _finish(folder, arguments)
    outcome.different = different_files(folder / "runs/whole", folder / "runs/killed")
    return outcome


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
    return seal(data) if name.endswith(".safetensors") else data


def _kill_once(folder: Path, arguments: list[str], rng: random.Random) -> tuple[str, list[str]]:
    """Start a process, kill it or let it die, and tell what it was doing and what it said."""
    at_place = rng.random() < 0.5
    place = rng.choice(sorted(PLACES))
    process = _start(folder, arguments, f"{place}:{rng.randint(1, 12)}" if at_place else "-")
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


def _finish(folder: Path, arguments: list[str]) -> list[str]:
    process = _start(folder, arguments, "-")
    _, errors = process.communicate()
    if process.returncode != 0:
        raise KillDrillError(f"A process ended with {process.returncode}: {errors.strip()!r}.")
    return errors.splitlines()


def _start(folder: Path, arguments: list[str], die: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "drills.worker", str(folder / "phase"), die, *arguments]
    own = {"PYTHONPATH": str(Path(__file__).parents[1]), "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _phase(folder: Path) -> str:
    path = folder / "phase"
    return path.read_text() if path.exists() else "starting"
