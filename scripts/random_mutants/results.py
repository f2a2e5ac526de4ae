"""What became of the mutants, one line of JSON each."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

OUTCOMES = ("both", "parity", "unit tests", "slow tests", "neither")


@dataclass(frozen=True)
class Attempt:
    """What the tests, or the checks, made of a mutant.

    Attributes:
        chosen: how many were chosen.
        ran: how many of them ran to their end.
        failed: the first that failed; empty if none did.
        message: what it said; of a check, the place and the cause that it names.
        seconds: how long it took.
        unfinished: whether it was ended for its time, which shows nothing.
        tried: the names of those that ran.
    """

    chosen: int = 0
    ran: int = 0
    failed: str = ""
    message: str = ""
    seconds: float = 0.0
    unfinished: bool = False
    tried: tuple[str, ...] = ()

    def after(self, earlier: "Attempt") -> "Attempt":
        """The two as one: this one was made after an earlier one that caught nothing."""
        return replace(
            self,
            chosen=earlier.ran + self.chosen,
            ran=earlier.ran + self.ran,
            seconds=earlier.seconds + self.seconds,
            tried=earlier.tried + self.tried,
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a mutant.

    Attributes:
        seed: of the draw.
        number: its place in the draw.
        commit: of the sources.
        path: the mutated file.
        area: what it belongs to, one of `SHARES`.
        room: package and room.
        kind: what is mutated, one of `KINDS`.
        line: the first line of the mutated statement.
        diff: the changed lines.
        chosen_by: how its tests were chosen.
        left_out: how many tests that run its lines exceeded the budget.
        recorded_seconds: what its tests took when they were recorded.
        tests: what the unit tests made of it.
        checks: what the quick parity check made of it.
        slow: what slow tests made of it, of those that nothing else caught.
    """

    seed: int
    number: int
    commit: str
    path: str
    area: str
    room: str
    kind: str
    line: int
    diff: str
    chosen_by: str
    left_out: int
    recorded_seconds: float
    tests: Attempt = field(default_factory=Attempt)
    checks: Attempt = field(default_factory=Attempt)
    slow: Attempt = field(default_factory=Attempt)

    @property
    def outcome(self) -> str:
        """Which part caught it, one of `OUTCOMES`."""
        if self.tests.failed and self.checks.failed:
            return "both"
        if self.checks.failed:
            return "parity"
        if self.tests.failed:
            return "unit tests"
        return "slow tests" if self.slow.failed else "neither"

    @property
    def name(self) -> str:
        """Seed and number, as the report calls it."""
        return f"{self.seed}-{self.number}"


class Results:
    """The file with the lines of JSON.

    Args:
        path: the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, result: Result) -> None:
        """Add one, at once."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a") as file:
            file.write(json.dumps(asdict(result)) + "\n")

    def read(self) -> list[Result]:
        """All that are there, in order; of a mutant that was tried again, the last one.

        A line that was cut short is left out: its mutant is tried again.
        """
        if not self._path.exists():
            return []
        found: dict[str, Result] = {}
        for line in self._path.read_text().splitlines():
            try:
                result = _result(json.loads(line))
            except (ValueError, TypeError):
                continue
            found[result.name] = result
        return sorted(found.values(), key=lambda result: (result.seed, result.number))


def _result(fields: Mapping[str, Any]) -> Result:
    attempts = {}
    for part in ("tests", "checks", "slow"):
        attempt = dict(fields.get(part) or asdict(Attempt()))
        attempt["tried"] = tuple(attempt["tried"])
        attempts[part] = Attempt(**attempt)
    return Result(**{**fields, **attempts})
