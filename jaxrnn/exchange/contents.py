"""What a file of weights holds: tables of named tensors, whose values are read when asked for."""

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
"""Where training scripts keep the weights that they go on with, the likeliest first."""


class TensorFileError(ValueError):
    """A file of tensors that cannot be read; the message says why."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        name: what the file calls it.
        dtype: what its numbers are, such as "float32".
        shape: its sizes.
        values: gives the numbers, in float32 or float64.
        problem: why it can be no weight, such as "has integers (int64)"; None if it can.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]
    problem: str | None = None

    @property
    def size(self) -> int:
        """How many numbers it has."""
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
    """What a file of weights holds.

    Attributes:
        kind: the format, in words.
        tables: the tensors of each dictionary in the file, by the keys that lead to it; those of
            the file itself under the empty tuple.
        others: what else is in the file, by name.
        about: what we wrote into the file's header; None in files of others.
    """

    kind: str
    tables: Mapping[tuple[str, ...], Table]
    others: tuple[str, ...] = ()
    about: str | None = None

    def under(self, path: tuple[str, ...]) -> dict[str, Stored]:
        """All tensors below some keys, by the rest of their keys and their names."""
        found = {}
        for keys, table in self.tables.items():
            if keys[: len(path)] != path:
                continue
            for name, stored in table.items():
                found[".".join((*keys[len(path) :], name))] = stored
        return found

    def at(self, key: str) -> dict[str, Stored]:
        """The tensors under a key that the user names, such as "model" or "ema.weights".

        Raises:
            TensorFileError: if there are none.
        """
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
            yield ".".join(chosen[:-1]), _without_optimizers(self.under(chosen[:-1]))

    def _chosen(self) -> tuple[str, ...]:
        """The keys of the table that most likely holds the weights."""
        if not self.tables:
            there = ", ".join(self.others) or "no tensors"
            raise TensorFileError(
                f"This is no state_dict: it holds {there}, and no tensors under "
                f"{', '.join(USUAL_KEYS[:3])}."
            )
        recurrent = [keys for keys, table in self.tables.items() if _is_recurrent(table)]
        usable = recurrent or [keys for keys in self.tables if not _is_optimizer(keys)]
        usable = usable or list(self.tables)
        ranked = sorted(usable, key=_rank)
        best = [keys for keys in ranked if _rank(keys) == _rank(ranked[0])]
        different = [keys for keys in best[1:] if not self._same(best[0], keys)]
        if different and recurrent:
            named = ", ".join(".".join(keys) for keys in [best[0], *different])
            raise TensorFileError(
                f"Weights are under several keys: {named}. Say which to take: --key "
                f"{'.'.join(best[0])}."
            )
        return best[0]

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


def _is_optimizer(keys: tuple[str, ...]) -> bool:
    """Whether a table belongs to an optimizer, a scheduler or a scaler."""
    return any(part in key.lower() for key in keys for part in ("optim", "sched", "scaler"))


def _without_optimizers(tensors: Table) -> dict[str, Stored]:
    return {n: stored for n, stored in tensors.items() if not _is_optimizer((n.split(".")[0],))}


def _rank(keys: tuple[str, ...]) -> tuple[int, int]:
    """How unlikely a table is to be the weights: by its usual key, and by its depth."""
    places = [USUAL_KEYS.index(key) for key in keys[:1] if key in USUAL_KEYS]
    place = places[0] if places else len(USUAL_KEYS)
    return (-1 if not keys else place, len(keys))
