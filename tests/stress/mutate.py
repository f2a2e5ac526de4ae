"""Mutate the files of a run, and call all that reads them: it works, or refuses in one line.

Most mutations are of bytes: bits flipped, a part cut off, put in or taken from another file. Others
are of meaning: a value of another type or size is put in and the checksums are made anew, so that
only what the readers know of the values can catch it. Some replace a file by a pipe, a folder or a
link that leads out of the run: nothing may be written there.
"""

import contextlib
import copy
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.cli import watch
from jaxrnn.files import LOCK
from jaxrnn.generation.sampler import Sampler
from jaxrnn.runs import checkpointing
from jaxrnn.runs.changes import CHANGES, with_changes_checksum
from jaxrnn.runs.checkpointing import train_run
from jaxrnn.runs.checkpoints import with_header_checksum
from jaxrnn.runs.checksums import SUMS
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import Experiment, prepare
from jaxrnn.runs.judging import change_run
from jaxrnn.runs.run import Run
from jaxrnn.runs.sampling import sample_run
from jaxrnn.terminal import printable, reason
from jaxrnn.training.diagnosis import NonFiniteLossError

SETTINGS = ("config.json", "vocabulary.json")
CHECKPOINTS = tuple(f"{name}.safetensors" for name in ("last", "last-1", "best"))
ROWS = ("history.jsonl", "timing.jsonl")
TARGETS = (*SETTINGS, SUMS, CHANGES, *CHECKPOINTS, *ROWS, LOCK)
"""Files that are mutated."""
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 30
LONGEST = 20
"""Seconds after which a reader counts as hung."""
LONGEST_LINE = 2000
"""Maximum number of characters of a message."""
LOG_EVERY = 1000
DEEP = b"[" * 100_000
"""JSON that is nested too deep."""
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 1.5, -0.5, 2**31, 2**63, -(2**63), 10**30, 10**400),
    *(float("nan"), float("inf"), -float("inf"), 1e308, 5e-324),
    *("", "x", "1", "\ud800", "\x1b[2J", "a\nb", "../../outside", "é" * 3000, "\0"),
    *([], [[]], [None], [1, 2], {}, {"a": 1}, {"sha256": 1}, [[[[[[[[1]]]]]]]]),
)
"""Values that are put in the place of others."""


@dataclass
class Outcome:
    """The outcome of mutations.

    Attributes:
        kinds: how many mutations there were, by kind.
        refused: after how many of them a reader refused.
        faults: what was neither a success nor a refusal in one line.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    faults: list[str] = field(default_factory=list)


class HungError(Exception):
    """A reader that does not come to an end."""


def mutate_files(
    folder: Path, mutations: int, seed: int = 0, *, log: Callable[[str], None] = lambda text: None
) -> Outcome:
    """Mutate the files of a small run, one mutation at a time, and read them.

    Args:
        folder: an empty folder to work in.
        mutations: how many.
        seed: of what is mutated, and how.
        log: is given each fault, and the progress.
    """
    if mutations == 0:  # a run to mutate takes seconds to make
        return Outcome()
    ground = _ground(folder)
    rng = random.Random(seed)
    outcome = Outcome()
    with _quiet():
        for number in range(mutations):
            target = rng.choice(TARGETS)
            kind, change = rng.choice(_kinds(target))
            outcome.kinds[kind] += 1
            change(ground, target, rng)
            refused, faults = _read(ground, target)
            outcome.refused += refused
            if ground.outside_changed():
                faults.append("wrote outside")
            for fault in faults:
                outcome.faults.append(f"mutation {number}, {kind} of {target}: {fault}")
                log(outcome.faults[-1])
            ground.put_back()
            if number and number % LOG_EVERY == 0:
                log(f"{number} mutations, {len(outcome.faults)} faults")
    return outcome


@dataclass
class Ground:
    """A run, what its files are, another run, and a folder that nothing may be written to."""

    run: Run
    experiment: Experiment
    files: dict[str, bytes]
    others: dict[str, bytes]
    outside: Path

    def put_back(self) -> None:
        """Make the run what it was."""
        for path in self.run.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.is_symlink() or not path.is_file() or path.name not in self.files:
                path.unlink()
        for name, data in self.files.items():
            path = self.run.folder / name
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)
        for name in os.listdir(self.outside):
            if name != "kept":
                (self.outside / name).unlink()
        (self.outside / "kept").write_bytes(b"kept\n")

    def outside_changed(self) -> bool:
        """Whether something was written outside the run."""
        if os.listdir(self.outside) != ["kept"]:
            return True
        return (self.outside / "kept").read_bytes() != b"kept\n"


def _ground(folder: Path) -> Ground:
    """A run that was changed and stopped in the middle, and another one."""
    text = folder / "text.txt"
    text.write_text(TEXT)
    config = Config(
        model="CharLM", cell="tanh", corpus=str(text), embedding_size=4, hidden_size=8,
            batch_size=4,
        random_bptt=False, schedule="3 x 1e-2", min_frequency=1,
    )  # fmt: skip
    experiment = prepare(config)
    outside = folder / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept\n")
    with _often():
        runs = []
        for name in ("run", "other"):
            run = Run.create(folder / "runs" / name, experiment, prompt="the")
            _until(run, experiment, 1, resume=False)
            changed = change_run(run, experiment, {"clip": 1.0, "schedule": "4 x 1e-3"})
            _until(run, changed, 2, resume=True)
            runs.append(run)
    run, other = runs
    return Ground(run, changed, _files(run.folder), _files(other.folder), outside)


def _until(run: Run, experiment: Experiment, epoch: int, *, resume: bool) -> None:
    """Train until the middle of an epoch, and stop."""
    progresses = train_run(run, experiment, resume=resume, emit=lambda text: None)
    for progress in progresses:
        if progress.position.epoch == epoch and progress.position.window > 2:
            break
    progresses.close()


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Mutations: each changes one file of a run's folder.
Change = Callable[[Ground, str, random.Random], None]


def _kinds(target: str) -> list[tuple[str, Change]]:
    """The mutations of a file, by name; meaning is mutated as often as bytes."""
    found: list[tuple[str, Change]] = [
        ("bits", _bits),
        ("bytes", _bytes),
        ("other file", _other_file),
        ("no file", _no_file),
    ]
    meaning: Change | None = None
    if target in SETTINGS:
        meaning = _settings
    elif target in CHECKPOINTS:
        found += [("tensors", _tensors)] * 2
        meaning = _checkpoint
    elif target == CHANGES:
        meaning = _changes
    elif target in ROWS:
        meaning = _rows
    return found if meaning is None else [*found, *[("meaning", meaning)] * 4]


def _bits(ground: Ground, target: str, rng: random.Random) -> None:
    data = bytearray(ground.files[target])
    for _ in range(rng.choice((1, 1, 3, 20))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    _write(ground, target, bytes(data))


def _bytes(ground: Ground, target: str, rng: random.Random) -> None:
    """A part is cut off, taken out, put in, repeated or zero; or all is something else."""
    data = ground.files[target]
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    inserted = rng.choice((rng.randbytes(9), b"\0", b"\n", b"\xff\xfe", b'"', b"{}", data[:50]))
    choices = (
        data[:first],
        data[first:],
        data[:first] + data[last:],
        data[:first] + inserted + data[first:],
        data[:last] + data[first:],
        data[:first] + bytes(last - first) + data[last:],
        b"",
        data + data,
        DEEP,
        b'{"a":' * 20_000,
        b"9" * 5000,
        rng.randbytes(300),
    )
    _write(ground, target, rng.choice(choices))


def _other_file(ground: Ground, target: str, rng: random.Random) -> None:
    """The bytes of another file of the run, or of another run."""
    pool = rng.choice((ground.files, ground.others))
    name = target if pool is ground.others else rng.choice(sorted(pool))
    _write(ground, target, pool[name])


def _no_file(ground: Ground, target: str, rng: random.Random) -> None:
    """No regular file at all, or a link out of the run."""
    path = ground.run.folder / target
    path.unlink()
    kind = rng.choice(("missing", "folder", "pipe", "link", "broken link", "link to a folder"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(ground.outside / "kept")
    elif kind == "broken link":
        path.symlink_to(ground.outside / "new")
    elif kind == "link to a folder":
        path.symlink_to(ground.outside)


def _settings(ground: Ground, target: str, rng: random.Random) -> None:
    """A value of the settings, and the checksums of all files made anew."""
    value = _with_odd(json.loads(ground.files[target]), rng)
    data = json.dumps(value, indent=2).encode()
    _write(ground, target, data)
    digest = hashlib.sha256(data).hexdigest()
    sums = []
    for line in ground.files[SUMS].decode().splitlines():
        ours = line.endswith(f"  {target}")
        sums.append(f"{digest}  {target}" if ours else line)
    _write(ground, SUMS, ("\n".join(sums) + "\n").encode())


def _changes(ground: Ground, target: str, rng: random.Random) -> None:
    value = json.loads(ground.files[target])
    part = rng.choice(("run", "changes", "changes", "changes"))
    value[part] = _with_odd(value[part], rng)
    _write(ground, target, with_changes_checksum(json.dumps(value, indent=2).encode()))


def _rows(ground: Ground, target: str, rng: random.Random) -> None:
    lines = ground.files[target].decode().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(_with_odd(json.loads(lines[at]), rng))
    _write(ground, target, ("\n".join(lines) + "\n").encode())


def _checkpoint(ground: Ground, target: str, rng: random.Random) -> None:
    """The metadata: where the run stands, its best loss, its rows, its changes, its identity."""
    header, body = _parts(ground.files[target])
    described = json.loads(header["__metadata__"]["jaxrnn"])
    if rng.random() < 0.9:
        described["metadata"] = _with_odd(described["metadata"], rng)
    else:
        described["format"] = rng.choice(ODD)
    header["__metadata__"]["jaxrnn"] = json.dumps(described)
    _write(ground, target, _joined(header, body))


def _tensors(ground: Ground, target: str, rng: random.Random) -> None:
    """Names, types, shapes and places of the arrays, or their numbers."""
    header, body = _parts(ground.files[target])
    name = rng.choice([name for name in header if name != "__metadata__"])
    how = rng.randrange(4)
    if how == 0:
        header[name] = _with_odd(header[name], rng)
    elif how == 1:
        header[rng.choice(("x", "../x", "params", "", "\x1b"))] = header.pop(name)
    else:
        begin, end = header[name]["data_offsets"]
        numbers = np.frombuffer(body[begin:end], np.uint32).copy()
        if numbers.size:
            odd = (0x7FC00000, 0x7F800000, 0x7F7FFFFF, 0xFFFFFFFF, 0x80000000, 1)
            numbers[rng.randrange(numbers.size)] = rng.choice(odd)
        body = body[:begin] + numbers.tobytes() + body[end:]
    _write(ground, target, _joined(header, body))


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a checkpoint."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _joined(header: dict[str, Any], body: bytes) -> bytes:
    """A checkpoint of header and body, whose checksum is right."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return with_header_checksum(len(text).to_bytes(8, "little") + text + body)


def _with_odd(value: Any, rng: random.Random) -> Any:
    """A value in which one part, somewhere, is odd, missing or there twice."""
    value = copy.deepcopy(value)
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        return rng.choice(ODD)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    how = rng.random()
    if isinstance(value[key], dict | list) and value[key] and how < 0.8:
        value[key] = _with_odd(value[key], rng)
    elif how < 0.85:
        value[key] = rng.choice(ODD)
    elif how < 0.95:
        del value[key]
    elif isinstance(value, dict):
        value["unknown"] = rng.choice(ODD)
    else:
        value.append(rng.choice([*ODD, value[key]]))
    return value


def _write(ground: Ground, target: str, data: bytes) -> None:
    (ground.run.folder / target).write_bytes(data)


# Readers: all that a command does with a run's folder.


def _read(ground: Ground, target: str) -> tuple[bool, list[str]]:
    """Whether a reader refused, and what was neither a success nor a refusal in one line."""
    faults: list[str] = []
    refused = False
    for name, reader in _readers(ground, target).items():
        try:
            with _limited():
                reader()
        except (ValueError, OSError) as error:
            refused = True
            line = printable(" ".join(reason(error).split()))
            if not 5 < len(line) < LONGEST_LINE:
                faults.append(f"{name}: a message of {len(line)} characters: {line[:200]}")
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}, line {frame.lineno}"
            faults.append(f"{name}: {type(error).__name__}: {str(error)[:200]} ({place})")
    return refused, faults


def _readers(ground: Ground, target: str) -> dict[str, Callable[[], Any]]:
    """The readers of a file of a run, by name."""
    run = ground.run
    experiment = ground.experiment
    readers: dict[str, Callable[[], Any]] = {
        "config": lambda: (run.config, run.prompt, run.identity, run.computation),
        "vocabulary": lambda: run.vocabulary,
        "history": lambda: run.history,
        "changes": lambda: [change.sentence for change in run.changes],
    }
    if target in SETTINGS:
        readers["experiment"] = run.experiment
    if target not in ROWS and target != LOCK:
        readers["best"] = lambda: run.load_params("best")
    if target in CHECKPOINTS or target == CHANGES:
        readers["last"] = lambda: run.load_params("last")
        readers["best loss"] = run.best
        readers["sample"] = lambda: sample_run(run, None, length=1, sampler=Sampler(), seed=1)
    if target not in SETTINGS:
        readers["resume"] = lambda: _resume(run, experiment)
    return readers


def _resume(run: Run, experiment: Experiment) -> None:
    """Go on with training until there is a row, save, and stop."""
    progresses = train_run(run, experiment, resume=True, emit=lambda text: None)
    try:
        with contextlib.closing(progresses):
            for progress in progresses:
                if progress.row is not None:
                    break
    except NonFiniteLossError:  # weights may be NaN, and the command says what is left
        watch.what_is_left(run, experiment)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Within it, what takes too long is stopped, and warnings are errors."""

    def stop(number: int, frame: Any) -> None:
        raise HungError(f"not finished after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _often() -> Iterator[None]:
    """Within it, checkpoints are written as often as can be."""
    seconds = checkpointing.SECONDS_BETWEEN_CHECKPOINTS
    share = checkpointing.LARGEST_SHARE
    checkpointing.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    checkpointing.LARGEST_SHARE = 1.0
    try:
        yield
    finally:
        checkpointing.SECONDS_BETWEEN_CHECKPOINTS = seconds
        checkpointing.LARGEST_SHARE = share


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it, nothing waits for the disk, and notes are not printed."""
    library = logging.getLogger("jaxrnn")
    before = library.level
    fsync = os.fsync
    library.setLevel(logging.ERROR)
    os.fsync = lambda fd: None
    try:
        yield
    finally:
        os.fsync = fsync
        library.setLevel(before)
