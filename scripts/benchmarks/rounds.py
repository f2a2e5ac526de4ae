"""The protocol: one case, all its contestants, in turn.

1. Each contestant is started in its own process with the same weights and the same text.
2. Each says its loss on the same window (or its first greedy characters). Whoever computes
   another number than the reference, though its equation is the same, is not measured. The
   reference is PyTorch where it takes part, else ours.
3. The first call, with an empty cache of compiled programs, is timed apart: that is the time to
   compile, and one repetition. After `LEARNING` steps of training the losses are compared again,
   loosely: all must have learned the same.
4. Warm-up fixes how many repetitions fill a round.
5. Rounds: A B C A B C ... Only one process computes at a time; between two of them there is a
   pause, in which the first one's idle threads stop spinning.
6. For ours, a second process starts with the cache that a first one has left, and times its first
   call: the second start.

7. When all have ended, the floor is measured: what the case's operations and bytes take at least.

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
from benchmarks.contestants import CONTESTANTS, OURS
from benchmarks.data import save
from benchmarks.floors import floor
from benchmarks.process import Worker, WorkerError

TOLERANCE = 1e-5
"""Relative, of losses near 4 in float32: 40 times its round-off; a wrong gate order is 1e-3 off."""
LEARNING = 5
"""Steps of training between the two comparisons of losses."""
LEARNT = 0.25
"""How far apart two contestants may be after them, as a share of what the reference has learned.
Folded biases and another clipping constant move a few per cent."""
CHECKED_NUMBERS = 20
"""Of those compared, so many are written down."""
PAUSE = 0.02
"""Seconds between two contestants."""
LEAST_ROUNDS = 7

Say = Callable[[str], None]
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: how often each contestant has its turn.
        seconds: how long a turn lasts, about.
        threads: threads of each contestant.
        limit: seconds after which a contestant that does not answer is given up.
        second_start: whether ours is started twice more, to time the start from a warm cache.
    """

    rounds: int = LEAST_ROUNDS
    seconds: float = 0.3
    threads: int = 1
    limit: float = 180.0
    second_start: bool = True

    def __post_init__(self) -> None:
        for name in ("rounds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("seconds", "limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")


def measure(case: Case, names: Sequence[str], settings: Settings, say: Say) -> Record:
    """Measure one case; the record has every number of every contestant."""
    records: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = Path(folder) / "case.npz"
        save(case, data)
        say(f"{case.kind} {case.label}: starting")
        workers = {}
        for name in names:
            if missing := CONTESTANTS[name].missing():
                records[name] = {"status": "not installed", "reason": ", ".join(missing)}
                continue
            cache = Path(folder) / f"cache-{name}"
            worker = Worker(name, case, data, settings.threads, cache, limit=settings.limit)
            stack.callback(worker.close)
            workers[name] = worker
        entrants = _Entrants(case, workers, records)
        entrants.each(_ready)
        entrants.each(_check("loss" if case.kind != "generation" else "characters"))
        entrants.exclude_who_disagrees()
        say(f"{case.kind} {case.label}: first calls")
        entrants.each(_first_call)
        if case.kind == "training":
            entrants.each(_learn)
            entrants.exclude_who_learnt_something_else()
        entrants.each(lambda worker, record: _warm_up(worker, record, settings.seconds))
        for k in range(settings.rounds):
            say(f"{case.kind} {case.label}: round {k + 1} of {settings.rounds}")
            entrants.each(_round)
        entrants.each(_finish)
        for record in records.values():
            if "check" in record:
                record["check"] = record["check"][:CHECKED_NUMBERS]
        if settings.second_start and records.get(OURS, {}).get("status") == "measured":
            cache = Path(folder) / "cache-second"
            records[OURS]["second_start_s"] = second_start(case, data, settings, cache)
    _add_ratios(records)
    return {
        "case": case.to_dict(),
        "floor_s": floor(case, settings.threads),
        "contestants": {name: records[name] for name in names},
    }


def second_start(case: Case, data: Path, settings: Settings, cache: Path) -> float | None:
    """Seconds of the first call of a second process, with the cache that the first one left."""
    try:
        for _ in range(2):
            worker = Worker(OURS, case, data, settings.threads, cache, limit=settings.limit)
            try:
                worker.ready()
                seconds = worker.run(1)
            finally:
                worker.close()
    except WorkerError:
        return None
    return seconds


class _Entrants:
    """The workers that are still in the race, and everybody's records."""

    def __init__(self, case: Case, workers: dict[str, Worker], records: dict[str, Record]) -> None:
        self.case, self.workers, self.records = case, workers, records
        for name in workers:
            differs = CONTESTANTS[name].differs.get(case.cell)
            records[name] = {"status": "measured", "differs": differs}

    def each(self, act: Callable[[Worker, Record], None]) -> None:
        """Let each act in turn; who fails is out."""
        for name, worker in list(self.workers.items()):
            try:
                act(worker, self.records[name])
            except WorkerError as error:
                self._exclude(name, "failed", str(error))
            time.sleep(PAUSE)

    def exclude_who_disagrees(self) -> None:
        """Take out who computes another number from the same weights, with the same equation."""
        reference = self._reference()
        for name, record in self._same_equation():
            theirs = self.records[reference]["check"] if reference else record["check"]
            if not agree(record["check"], theirs, TOLERANCE):
                reason = f"computes {record['check'][:3]}, {reference} {theirs[:3]}"
                self._exclude(name, "disagrees", reason)

    def exclude_who_learnt_something_else(self) -> None:
        """Take out whose loss has moved otherwise than the reference's."""
        reference = self._reference()
        for name, record in self._same_equation():
            before, after = (
                self.records[reference or name][key][0] for key in ("check", "learned")
            )
            if abs(record["learned"][0] - after) > LEARNT * abs(after - before):
                reason = (
                    f"after {LEARNING} steps its loss is {record['learned'][0]:.5f}, that of "
                    f"{reference} went from {before:.5f} to {after:.5f}"
                )
                self._exclude(name, "disagrees", reason)

    def _reference(self) -> str | None:
        named = [n for n in ("torch", "torch-cells", "torch-cells-1", OURS) if n in self.workers]
        return named[0] if named else next(iter(self.workers), None)

    def _same_equation(self) -> list[tuple[str, Record]]:
        same = [name for name in self.workers if self.records[name]["differs"] is None]
        return [(name, self.records[name]) for name in same]

    def _exclude(self, name: str, status: str, reason: str) -> None:
        self.records[name] |= {"status": status, "reason": reason}
        self.workers.pop(name).close()


def _ready(worker: Worker, record: Record) -> None:
    worker.ready()
    record["start_mib"] = worker.memory()


def _check(what: str) -> Callable[[Worker, Record], None]:
    def check(worker: Worker, record: Record) -> None:
        record["checked"], record["check"] = what, worker.check()

    return check


def _first_call(worker: Worker, record: Record) -> None:
    record["first_call_s"] = worker.run(1)


def _learn(worker: Worker, record: Record) -> None:
    worker.run(LEARNING - 1)
    record["learned"] = worker.check()


def _warm_up(worker: Worker, record: Record, seconds: float) -> None:
    """Double the repetitions until they take half a round's time; then a round is known."""
    count, took = 1, worker.run(1)
    while took < seconds / 2:
        count *= 2
        took = worker.run(count)
    record["repetitions"] = max(1, round(seconds * count / took))
    record["seconds"] = []


def _round(worker: Worker, record: Record) -> None:
    count = record["repetitions"]
    record["seconds"].append(worker.run(count) / count)


def _finish(worker: Worker, record: Record) -> None:
    record["peak_mib"] = worker.memory()
    record["time"] = spread(record["seconds"])._asdict()


def _add_ratios(records: dict[str, Record]) -> None:
    """To each rival that was measured: how many times as long as ours it took."""
    ours = records.get(OURS, {})
    if ours.get("status") != "measured":
        return
    for name, record in records.items():
        if name != OURS and record["status"] == "measured":
            paired = ratios(ours["seconds"], record["seconds"])
            record["ratio"] = spread(paired)._asdict()
