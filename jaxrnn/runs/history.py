"""The history of a run on disk: the rows in history.jsonl, and what a checkpoint holds of them."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrnn.files import UnreadableError, open_own, read_regular, write_whole
from jaxrnn.runs.checksums import RunError
from jaxrnn.training.history import Row

HISTORY = "history.jsonl"
TIMING = "timing.jsonl"
TAIL = 1_000
"""Maximum number of rows in a checkpoint, some 300 kB; earlier ones are in history.jsonl alone."""
LARGEST_HISTORY = 1 << 32
"""Maximum size of a history in bytes: ten million rows, of the longest schedule, of 400 or fewer.
"""


@dataclass(frozen=True)
class RowLog:
    """The rows of a history, in the few bytes that a checkpoint has room for.

    Attributes:
        rows: their number.
        sha256: the checksum of all their lines, as history.jsonl has them.
        tail: the last `TAIL` lines or fewer, from which a damaged file is restored.
    """

    rows: int = 0
    sha256: str = hashlib.sha256().hexdigest()
    tail: tuple[str, ...] = ()

    @classmethod
    def of(cls, lines: Sequence[str]) -> "RowLog":
        """The log of these lines."""
        return RowWriter(lines).log

    @classmethod
    def from_json(cls, value: Any) -> "RowLog":
        """What a checkpoint holds: a log, or in format 2 all the rows.

        Raises:
            ValueError: if it is neither.
        """
        if isinstance(value, list):
            return cls.of([Row(**row).line for row in value])
        # Every value comes from a file, and each may be anything.
        rows = value["rows"]
        digest = value["sha256"]
        tail = tuple(value["tail"])
        for line in tail:
            parse_row(line)
        if (
            not isinstance(rows, int)
            or not isinstance(digest, str)
            or rows < len(tail)
            or len(tail) != min(rows, TAIL)
        ):
            raise ValueError("the history in it does not make sense")
        return cls(rows, digest, tail)


class RowWriter:
    """Follows a history line by line, in bounded memory."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        # A row updates the digest, so that a checkpoint costs the same after any number of rows.
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


def parse_row(line: str) -> Row:
    """The row in a line of history.jsonl.

    Raises:
        ValueError: if it is no JSON, or a value makes no sense.
        TypeError: if it has other fields.
    """
    return Row(**json.loads(line))


def append_row(folder: Path, row: Row) -> None:
    """Append to the history, and to the timing."""
    # The speed is in a file of its own: the history is the same bytes whenever it is repeated.
    timing = {"step": row.step, "characters_per_second": row.characters_per_second}
    lines = {HISTORY: row.line, TIMING: json.dumps(timing) + "\n"}
    for name, line in lines.items():
        with open_own(folder / name, "a") as file:
            file.write(line)


def read_lines(folder: Path) -> list[str]:
    """The whole lines of history.jsonl, each with its end; none if there is no file.

    Raises:
        RunError: if the file cannot be read.
    """
    path = folder / HISTORY
    try:
        text = read_regular(path, at_most=LARGEST_HISTORY).decode(errors="replace")
    except FileNotFoundError:
        return []
    except (UnreadableError, OSError) as error:
        raise RunError(f"Cannot read {path}: {error}") from error
    # What follows the last line end was cut off by a crash.
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def restore(folder: Path, log: RowLog, emit: Callable[[str], None]) -> list[str]:
    """Make the history that of a checkpoint, whatever became of it since.

    Rows behind the checkpoint are cut off: they are trained again. If the file is damaged, the
    rows that the checkpoint holds are restored; what else of it cannot be read is lost.

    Args:
        folder: the run's folder.
        log: the rows before the checkpoint.
        emit: receives a sentence if rows are lost.

    Returns:
        The lines of the history.

    Raises:
        RunError: if there is a file that cannot be read: it is left as it is.
    """
    lines = read_lines(folder)[: log.rows]
    # Damage in the last rows: the checkpoint has them.
    if RowLog.of(lines) != log:
        lines = [*lines[: log.rows - len(log.tail)], *log.tail]
    # Damage before them: what can still be read is kept.
    if RowLog.of(lines) != log:
        lines = list(filter(_is_row, lines))
        emit(
            f"{folder / HISTORY} is damaged: of the {log.rows:,} rows before the "
            f"checkpoint, {len(lines):,} are left. Training itself goes on as before."
        )
    write_whole(folder / HISTORY, "".join(lines).encode())
    return lines


def _is_row(line: str) -> bool:
    try:
        parse_row(line)
    except (ValueError, TypeError, RecursionError):
        return False
    return True
