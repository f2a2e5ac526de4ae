"""The contents of a file of weights: tables of named tensors, whose values are read when needed."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

USUAL_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "net",
    "module",
    "network",
    "weights",
    "params",
    "generator",
)
"""Keys under which training scripts keep the weights, the likeliest first."""
OPTIMIZERS = re.compile(r"optim|sched|scaler", re.IGNORECASE)
"""Parts of the keys of what belongs to an optimizer, a scheduler or a scaler."""


class TensorFileError(ValueError):
    """A file of tensors that cannot be read; the message says why."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        name: its name in the file.
        dtype: the type of its numbers, such as "float32".
        shape: its shape.
        values: reads the numbers, in float32 or float64.
        problem: the reason why it can be no weight, such as "has integers (int64)"; None if it can.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]
    problem: str | None = None

    @property
    def size(self) -> int:
        """The number of its numbers."""
        return prod(self.shape)

    @cached_property
    def array(self) -> np.ndarray:
        """The numbers.

        Raises:
            TensorFileError: if it can be no weight, or cannot be read.
        """
        if self.problem is not None:
            raise TensorFileError(
                f"{self.name} {self.problem}: weights are dense floating-point numbers. If the "
                f"model does not need it, leave it out: --drop {self.name}."
            )
        return self.values()

    def equals(self, other: "Stored") -> bool:
        """Whether it holds the same numbers as another tensor."""
        if self.shape != other.shape or self.problem or other.problem:
            return False
        return np.array_equal(self.array, other.array)


Table = Mapping[str, Stored]
"""Tensors by name."""


@dataclass(frozen=True)
class Contents:
    """The contents of a file of weights.

    Attributes:
        kind: the format, in words.
        tables: the tensors of each dictionary in the file, by the keys that lead to it; those of
            the file itself under the empty tuple.
        others: names of everything else in the file.
        about: our description in the file's header; None in files of others.
    """

    kind: str
    tables: Mapping[tuple[str, ...], Table]
    others: tuple[str, ...] = ()
    about: str | None = None

    def under(self, path: tuple[str, ...]) -> dict[str, Stored]:
        """All tensors below some keys, by the rest of their keys and their names."""
        found = {}
        depth = len(path)
        for keys, table in self.tables.items():
            if keys[:depth] == path:
                for name, stored in table.items():
                    found[".".join((*keys[depth:], name))] = stored
        return found

    def at(self, key: str) -> dict[str, Stored]:
        """The tensors under a key that the user names, such as "model" or "ema.weights".

        Raises:
            TensorFileError: if there are none.
        """
        # A key may have dots itself, so the whole is compared, and not split.
        for keys in self.tables:
            for end in range(1, len(keys) + 1):
                if ".".join(keys[:end]) == key:
                    return self.under(keys[:end])
        named = sorted({".".join(keys) for keys in self.tables if keys})
        there = f"tensors are under {', '.join(named)}" if named else "the file has no keys"
        raise TensorFileError(f"There are no tensors under --key {key}: {there}.")

    def candidates(self, key: str | None) -> Iterator[tuple[str, dict[str, Stored]]]:
        """Tables that may be the weights, the likeliest first, each with the keys that lead to it.

        Args:
            key: where the user says that they are; where they usually are if None.

        Raises:
            TensorFileError: if there are no tensors, or several tables could be meant.
        """
        if key is not None:
            yield key, self.at(key)
            return
        chosen = self._chosen()
        yield ".".join(chosen), dict(self.tables[chosen])
        # A module saved piece by piece has its pieces under keys side by side.
        if chosen:
            together = self.under(chosen[:-1])
            for name in list(together):
                if OPTIMIZERS.search(name.partition(".")[0]):
                    del together[name]
            yield ".".join(chosen[:-1]), together

    def _chosen(self) -> tuple[str, ...]:
        """The keys of the table that most likely holds the weights."""
        if not self.tables:
            there = ", ".join(self.others) or "no tensors"
            raise TensorFileError(
                f"This is no state_dict: it holds {there}, and no tensors under "
                f"{', '.join(USUAL_KEYS[:3])}."
            )
        # An optimizer's moments may have the names of the weights.
        recurrent = [keys for keys, table in self.tables.items() if _is_recurrent(table)]
        usable = [keys for keys in self.tables if not any(map(OPTIMIZERS.search, keys))]
        ranked = sorted(recurrent or usable or self.tables, key=_rank)
        best = ranked[0]

        # The same numbers under two keys leave no question; a model and its average do.
        different = [best]
        for keys in ranked[1:]:
            if _rank(keys) == _rank(best) and not self._same(best, keys):
                different.append(keys)
        if recurrent and len(different) > 1:
            raise TensorFileError(
                f"Weights are under several keys: {', '.join(map('.'.join, different))}. Say which "
                f"to take: --key {'.'.join(best)}."
            )
        return best

    def _same(self, one: tuple[str, ...], other: tuple[str, ...]) -> bool:
        """Whether two tables hold the same tensors."""
        first = self.tables[one]
        second = self.tables[other]
        if first.keys() != second.keys():
            return False
        return all(first[name].equals(second[name]) for name in first)


def _is_recurrent(table: Table) -> bool:
    """Whether recurrent weights are among the tensors, under the names that PyTorch gives them."""
    return any("weight_hh" in name for name in table)


def _rank(keys: tuple[str, ...]) -> tuple[int, int]:
    """How unlikely a table is to be the weights: by its usual key, and by its depth."""
    if not keys:
        return -1, 0
    place = len(USUAL_KEYS)
    if keys[0] in USUAL_KEYS:
        place = USUAL_KEYS.index(keys[0])
    return place, len(keys)
