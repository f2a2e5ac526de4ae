"""The protocol: one case, all its implementations, in turn.

1. Each implementation is started in its own process with the same weights and the same text.
2. Each computes its loss on the same window (or its first greedy characters). One that computes
   another number than the reference, though its equation is the same, is not measured. The
   reference is PyTorch where it takes part, else ours.
3. The first call, with an empty cache of compiled programs, is timed separately: that is the time
   to compile, and one call. After `LEARNING` steps of training the losses are compared again,
   loosely: all must have learned the same.
4. Warm-up fixes how many calls fill a repetition.
5. Repetitions: A B C A B C ... Only one process computes at a time; between two of them there is a
   pause, in which the first one's idle threads stop spinning.
6. For ours, a second process starts with the cache that a first one has left, and times its first
   call: the second start.
7. When all have ended, the roofline is measured: the least time that the case's operations and
   bytes take.

Peak memory is the process's largest resident set, libraries included; before the first computation
it is noted too, so that the difference is the case's.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import agree, ratios, spread
from benchmarks.cases import Case
from benchmarks.data import save
from benchmarks.implementations import IMPLEMENTATIONS, OURS
from benchmarks.process import Worker
from benchmarks.roofline import roofline
from jaxrnn.runs.worker_process import WorkerError

TOLERANCE = 1e-5
"""Relative, of losses near 4 in float32: 40 times its round-off; a wrong gate order is 1e-3 off."""
LEARNING = 5
"""Steps of training between the two comparisons of losses."""
LEARNING_TOLERANCE = 0.25
"""Largest difference of two losses after these steps, as a share of what the reference has learned.
Folded biases and another clipping constant move a few per cent."""
REFERENCES = ("torch", "torch-cells", "torch-cells-1", OURS)
"""Implementations that may be the reference, the first that takes part."""
CHECKED = {
    "training": "loss",
    "forward": "loss",
    "generation": "characters",
    "layer": "norms",
    "inference": "norms",
}
"""What is compared, by the kind of case."""
CHECKED_NUMBERS = 20
"""Maximum number of compared numbers in the record."""
PAUSE = 0.02
"""Seconds between two implementations."""
REPETITIONS = 7
"""Default number of repetitions."""

Log = Callable[[str], None]
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        repetitions: how often each implementation has its turn.
        seconds: how long a turn lasts, about.
        threads: threads of each implementation.
        limit: seconds after which an implementation that does not answer is given up.
        gpu: whether a GPU computes.
        second_start: whether ours is started twice more, to time the start from a warm cache.
    """

    repetitions: int = REPETITIONS
    seconds: float = 0.3
    threads: int = 1
    limit: float = 180.0
    gpu: bool = False
    second_start: bool = True

    def __post_init__(self) -> None:
        for name in ("repetitions", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("seconds", "limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")


def measure(case: Case, names: Sequence[str], settings: Settings, log: Log) -> Record:
    """Measure one case.

    Args:
        case: what to measure.
        names: the implementations.
        settings: how to measure.
        log: is given a line at each stage.

    Returns:
        The record, with every number of every implementation.
    """
    records: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = Path(folder) / "case.npz"
        save(case, data)
        log(f"{case.kind} {case.label}: starting")
        workers = {}
        for name in names:
            missing = IMPLEMENTATIONS[name].missing()
            if missing:
                records[name] = {"status": "not installed", "reason": ", ".join(missing)}
                continue
            cache = Path(folder) / f"cache-{name}"
            worker = Worker(
                name, case, data, settings.threads, cache, limit=settings.limit, gpu=settings.gpu
            )
            stack.callback(worker.close)
            workers[name] = worker
        participants = _Participants(case, workers, records)
        _take_turns(participants, settings, log)
        for record in records.values():
            if "check" in record:
                record["check"] = record["check"][:CHECKED_NUMBERS]
        ours_is_measured = records.get(OURS, {}).get("status") == "measured"
        if settings.second_start and ours_is_measured:
            cache = Path(folder) / "cache-second"
            records[OURS]["second_start_s"] = second_start(case, data, settings, cache)
    _add_ratios(records)
    return {
        "case": case.to_dict(),
        "roofline_s": None if settings.gpu else roofline(case, settings.threads),
        "implementations": {name: records[name] for name in names},
    }


def second_start(case: Case, data: Path, settings: Settings, cache: Path) -> float | None:
    """Seconds of the first call of a second process, with the cache that the first one left."""
    try:
        for _ in range(2):
            worker = Worker(
                OURS, case, data, settings.threads, cache, limit=settings.limit, gpu=settings.gpu
            )
            try:
                worker.ready()
                seconds = worker.run(1)
            finally:
                worker.close()
    except WorkerError:
        return None
    return seconds


class _Participants:
    """The workers that are still measured, and the records of all."""

    def __init__(self, case: Case, workers: dict[str, Worker], records: dict[str, Record]) -> None:
        self.case = case
        self.workers = workers
        self.records = records
        for name in workers:
            differs = IMPLEMENTATIONS[name].differs.get(case.cell)
            records[name] = {"status": "measured", "differs": differs}

    def each(self, act: Callable[[Worker, Record], None]) -> None:
        """Let each act in turn; one that fails is excluded."""
        for name, worker in list(self.workers.items()):
            try:
                act(worker, self.records[name])
            except WorkerError as error:
                self._exclude(name, "failed", str(error))
            time.sleep(PAUSE)

    def exclude_who_disagrees(self) -> None:
        """Exclude each that computes another number, with the same weights and equation."""
        reference = self._reference()
        if reference is None:
            return
        expected = self.records[reference]["check"]
        for name, record in self._same_equation():
            numbers = record["check"]
            if not agree(numbers, expected, TOLERANCE):
                reason = f"computes {numbers[:3]}, {reference} {expected[:3]}"
                self._exclude(name, "disagrees", reason)

    def exclude_who_learned_something_else(self) -> None:
        """Exclude each whose loss has moved otherwise than the reference's."""
        reference = self._reference()
        if reference is None:
            return
        before = self.records[reference]["check"][0]
        after = self.records[reference]["learned"][0]
        allowed = LEARNING_TOLERANCE * abs(after - before)
        for name, record in self._same_equation():
            loss = record["learned"][0]
            if abs(loss - after) > allowed:
                reason = (
                    f"after {LEARNING} steps its loss is {loss:.5f}, that of {reference} went from "
                    f"{before:.5f} to {after:.5f}"
                )
                self._exclude(name, "disagrees", reason)

    def _reference(self) -> str | None:
        """The name of the reference; None if nobody is left."""
        for name in (*REFERENCES, *self.workers):
            if name in self.workers:
                return name
        return None

    def _same_equation(self) -> list[tuple[str, Record]]:
        """Implementations of torch's equation."""
        same = [name for name in self.workers if self.records[name]["differs"] is None]
        return [(name, self.records[name]) for name in same]

    def _exclude(self, name: str, status: str, reason: str) -> None:
        self.records[name] |= {"status": status, "reason": reason}
        self.workers.pop(name).close()


def _take_turns(participants: _Participants, settings: Settings, log: Log) -> None:
    """Stages 2 to 5 of the protocol, and peak memory."""
    case = participants.case
    title = f"{case.kind} {case.label}"
    participants.each(_ready)
    participants.each(_check(CHECKED[case.kind]))
    participants.exclude_who_disagrees()
    log(f"{title}: first calls")
    participants.each(_first_call)
    if case.kind == "training":
        participants.each(_learn)
        participants.exclude_who_learned_something_else()
    participants.each(lambda worker, record: _warm_up(worker, record, settings.seconds))
    for k in range(settings.repetitions):
        log(f"{title}: repetition {k + 1} of {settings.repetitions}")
        participants.each(_repeat)
    participants.each(_finish)


def _ready(worker: Worker, record: Record) -> None:
    worker.ready()
    record["start_mib"] = worker.memory()


def _check(what: str) -> Callable[[Worker, Record], None]:
    def check(worker: Worker, record: Record) -> None:
        record["checked"] = what
        record["check"] = worker.check()

    return check


def _first_call(worker: Worker, record: Record) -> None:
    record["first_call_s"] = worker.run(1)


def _learn(worker: Worker, record: Record) -> None:
    worker.run(LEARNING - 1)  # the first call was the first step
    record["learned"] = worker.check()


def _warm_up(worker: Worker, record: Record, seconds: float) -> None:
    """Double the calls until they take half a repetition's time: then its number is known."""
    count = 1
    took = worker.run(count)
    while took < seconds / 2:
        count *= 2
        took = worker.run(count)
    record["calls"] = max(1, round(seconds * count / took))
    record["seconds"] = []


def _repeat(worker: Worker, record: Record) -> None:
    count = record["calls"]
    record["seconds"].append(worker.run(count) / count)


def _finish(worker: Worker, record: Record) -> None:
    record["peak_mib"] = worker.memory()
    record["time"] = spread(record["seconds"])._asdict()


def _add_ratios(records: dict[str, Record]) -> None:
    """To each baseline that was measured: how many times as long as ours it took."""
    ours = records.get(OURS, {})
    if ours.get("status") != "measured":
        return
    for name, record in records.items():
        if name != OURS and record["status"] == "measured":
            paired = ratios(ours["seconds"], record["seconds"])
            record["ratio"] = spread(paired)._asdict()
