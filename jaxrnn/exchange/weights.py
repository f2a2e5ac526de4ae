"""The weights of one network in two frameworks: one declarative table, read in both directions.

Both sides are flat: PyTorch's keys ("rnn.weight_ih_l0") and the paths of the other framework's
tree ("rnn/weight_ih_l0"), each with a NumPy array. An entry of the table says which arrays belong
together and by which operation. What comes out are copies: nothing is shared with what went in.

    WeightMap([
        entry("e.weight", "e/embedding"),
        entry("l_out.weight", "l_out/kernel", Transpose()),
        entry(("cell.bias_ih", "cell.bias_hh"), "cell/bias", FoldBiases()),
    ])
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxrnn.exchange.operations import Identity, Operation, Transpose

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


class WeightMapError(ValueError):
    """Weights that do not fit the map; the message names every problem."""


@dataclass(frozen=True)
class Entry:
    """Arrays that belong together: PyTorch's keys, the other tree's paths, and the operation."""

    keys: tuple[str, ...]
    paths: tuple[str, ...]
    operation: Operation


def entry(
    keys: str | Sequence[str], paths: str | Sequence[str], operation: Operation | None = None
) -> Entry:
    """An entry; a single key or path may stand alone."""
    keys = (keys,) if isinstance(keys, str) else tuple(keys)
    paths = (paths,) if isinstance(paths, str) else tuple(paths)
    return Entry(keys, paths, operation or Identity())


class WeightMap:
    """Which weights of two networks are the same, and how to carry them across.

    Args:
        entries: the table; every key and every path stands in exactly one entry.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self.keys: tuple[str, ...] = ()
        self.paths: tuple[str, ...] = ()
        for e in self.entries:
            self.keys += e.keys
            self.paths += e.paths
        # A key may be called as a path is.
        counts = Counter(self.keys) | Counter(self.paths)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise WeightMapError(f"The weight map names twice: {', '.join(twice)}.")

    @classmethod
    def for_flax(cls, paths: Iterable[str]) -> "WeightMap":
        """The map of a Linen model whose modules have PyTorch's names, as all of `jaxrnn` do.

        `Dense` kernels are transposed and, with embeddings, called weights; everything else has
        the same name and shape.
        """
        return cls(map(_flax_entry, paths))

    @property
    def inexact(self) -> dict[str, str]:
        """What an operation loses, by path, or by key where there is none."""
        lossy = [e for e in self.entries if e.operation.inexact]
        return {name: e.operation.inexact for e in lossy for name in e.paths or e.keys}

    def from_torch(self, tensors: Arrays, like: Shapes | None = None) -> dict[str, np.ndarray]:
        """PyTorch's weights as the other framework's, by path.

        Args:
            tensors: a whole state dict.
            like: the shape that each path should have; not checked if None.

        Raises:
            WeightMapError: if keys are missing, unknown, NaN, or do not fit; all are named.
        """
        return self._moved(tensors, like, forth=True, move=lambda o: o.from_torch)

    def to_torch(self, weights: Arrays, like: Shapes | None = None) -> dict[str, np.ndarray]:
        """The other framework's weights as a state dict. Arguments and errors as `from_torch`."""
        return self._moved(weights, like, forth=False, move=lambda o: o.to_torch)

    def gradients_to_torch(self, gradients: Arrays) -> dict[str, np.ndarray]:
        """The other framework's gradients, or moments, as those of PyTorch's weights."""
        return self._moved(
            gradients, None, forth=False, move=lambda o: o.gradients_to_torch, finite=False
        )

    def _moved(
        self,
        arrays: Arrays,
        like: Shapes | None,
        *,
        forth: bool,
        move: Callable[[Operation], Callable[[list[np.ndarray]], list[np.ndarray]]],
        finite: bool = True,
    ) -> dict[str, np.ndarray]:
        """The arrays of the other side. All problems are collected before any is reported."""
        given, targets = (self.keys, self.paths) if forth else (self.paths, self.keys)
        problems = coverage(given, arrays)
        if finite:
            problems += _not_finite(arrays)
        if like is not None:
            problems += coverage(targets, like)
        moved: dict[str, np.ndarray] = {}
        for e in self.entries:
            sources, names = (e.keys, e.paths) if forth else (e.paths, e.keys)
            if not arrays.keys() >= set(sources):
                continue  # reported as missing
            try:
                results = move(e.operation)([np.asarray(arrays[name]) for name in sources])
                for name, result in zip(names, results, strict=True):
                    moved[name] = np.array(result, order="C")  # a copy, also of a transpose
            except ValueError as error:  # of NumPy: shapes that the operation does not take
                problems.append(f"{', '.join(sources)} cannot become {', '.join(names)}: {error}")
        for name, array in moved.items():
            expected = array.shape if like is None else tuple(like.get(name, array.shape))
            if array.shape != expected:
                problems.append(f"{name}: expected shape {expected}, got {array.shape}")
        if problems:
            raise WeightMapError("The weights do not fit: " + "; ".join(problems) + ".")
        return {name: moved[name] for name in targets}


def _flax_entry(path: str) -> Entry:
    """The entry of a parameter: "l_out/kernel" is "l_out.weight", transposed."""
    *modules, leaf = path.split("/")
    name, operation = FLAX_LEAVES.get(leaf, (leaf, Identity()))
    return Entry((".".join([*modules, name]),), (path,), operation)


FLAX_LEAVES: dict[str, tuple[str, Operation]] = {
    "kernel": ("weight", Transpose()),
    "embedding": ("weight", Identity()),
}
"""Names of Linen's own parameters in PyTorch, and the operation that brings them there."""


def coverage(expected: Iterable[str], got: Mapping[str, object]) -> list[str]:
    """Names that are missing or unknown, a phrase each."""
    expected = dict.fromkeys(expected)
    missing = [f"{name} is missing" for name in expected if name not in got]
    return missing + [f"{name} is unknown" for name in got if name not in expected]


def _not_finite(arrays: Arrays) -> list[str]:
    """Arrays with NaN or infinite values, a phrase each."""
    problems = []
    for name, array in arrays.items():
        # float64 holds every number that a weight can be.
        values = np.asarray(array, np.float64)
        count = np.count_nonzero(~np.isfinite(values))
        if count:
            problems.append(f"{name} has {count} NaN or infinite values of {values.size}")
    return problems
