"""The history of a run on disk: what a checkpoint holds of history.jsonl."""

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxrnn.training.history import Row

TAIL = 1_000
"""Rows that a checkpoint holds itself, some 300 kB: those behind it are in history.jsonl alone."""


@dataclass(frozen=True)
class RowLog:
    """The rows of a history, in the few bytes that a checkpoint has room for.

    Attributes:
        rows: how many there are.
        sha256: of all their lines, as history.jsonl has them.
        tail: the last `TAIL` lines or fewer, from which a damaged file is put back.
    """

    rows: int = 0
    sha256: str = hashlib.sha256().hexdigest()
    tail: tuple[str, ...] = ()

    @classmethod
    def of(cls, lines: Sequence[str]) -> "RowLog":
        """That of these lines."""
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        return cls(len(lines), digest, tuple(lines[-TAIL:]))

    @classmethod
    def from_json(cls, value: Any) -> "RowLog":
        """What a checkpoint holds: a log, or in format 2 all the rows.

        Raises:
            ValueError: if it is neither.
        """
        if isinstance(value, list):
            return cls.of([Row(**row).line for row in value])
        tail = tuple(value["tail"])
        for line in tail:
            Row(**json.loads(line))
        rows, digest = value["rows"], value["sha256"]
        fits = isinstance(rows, int) and rows >= len(tail) and isinstance(digest, str)
        if not fits or len(tail) != min(rows, TAIL):
            raise ValueError("the history in it does not make sense")
        return cls(rows, digest, tail)


class RowWriter:
    """Follows a history line by line, in bounded memory."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        self._digest = hashlib.sha256("".join(lines).encode())
        self._rows = len(lines)
        self._tail = deque(lines, TAIL)

    def add(self, row: Row) -> None:
        """Add a row."""
        self._digest.update(row.line.encode())
        self._rows += 1
        self._tail.append(row.line)

    @property
    def log(self) -> RowLog:
        """All rows so far."""
        return RowLog(self._rows, self._digest.hexdigest(), tuple(self._tail))
