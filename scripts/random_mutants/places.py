"""A place in a source where something can be mutated, and the edit that does it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """A part of a source, in bytes, and what replaces it.

    Attributes:
        start: its first byte.
        end: the byte after its last one.
        text: what replaces it.
    """

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Place:
    """Where something can be mutated, in one or more ways.

    Attributes:
        kind: what would be mutated, one of `KINDS`.
        first_line: the first line of the statement, from 1 on.
        last_line: its last line.
        ways: the edits of each way; one of them is drawn.
    """

    kind: str
    first_line: int
    last_line: int
    ways: tuple[tuple[Edit, ...], ...]


KINDS = {
    "operator": "an arithmetic operator exchanged, or a sign removed",
    "comparison": "a comparison exchanged",
    "boolean": "`and` and `or` exchanged, or a `not` removed",
    "constant": "an integer moved by 1, a float by half, one below 0.01 by a factor of a thousand, "
    "0 to 1, or a truth value negated",
    "index": "an index or a bound of a slice shifted",
    "exchange": "two positional arguments exchanged",
    "keyword": "a keyword argument left out",
    "branch": "the condition of a branch negated",
    "deletion": "a statement deleted: a call without result, or an augmented assignment",
    "extreme": "minimum and maximum exchanged",
    "result": "two elements of a returned tuple exchanged",
}


def edited(source: bytes, edits: tuple[Edit, ...]) -> bytes:
    """A source with some edits, which do not overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        source = source[: edit.start] + edit.text.encode() + source[edit.end :]
    return source
