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
        self.keys = tuple(key for e in self.entries for key in e.keys)
        self.paths = tuple(path for e in self.entries for path in e.paths)
        twice = [n for names in (self.keys, self.paths) for n in set(names) if names.count(n) > 1]
        if twice:
            raise WeightMapError(f"The weight map names twice: {', '.join(sorted(twice))}.")

    @classmethod
    def for_flax(cls, paths: Iterable[str]) -> "WeightMap":
        """The map of a Linen model whose modules have PyTorch's names, as all of `jaxrnn` do.

        `Dense` kernels are transposed and, with embeddings, called weights; everything else has
        the same name and shape.
        """
        return cls(_flax_entry(path) for path in paths)

    @property
    def inexact(self) -> dict[str, str]:
        """For each path that an operation loses something at, or key without one: what is lost."""
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
        problems = _coverage(self.keys if forth else self.paths, arrays)
        problems += _not_finite(arrays) if finite else []
        targets = self.paths if forth else self.keys
        problems += _coverage(targets, like) if like is not None else []
        moved: dict[str, np.ndarray] = {}
        for e in self.entries:
            sources, names = (e.keys, e.paths) if forth else (e.paths, e.keys)
            if not all(name in arrays for name in sources):
                continue
            try:
                results = move(e.operation)([np.asarray(arrays[name]) for name in sources])
                moved |= {n: np.array(r, order="C") for n, r in zip(names, results, strict=True)}
            except ValueError as error:
                problems.append(f"{', '.join(sources)} cannot become {', '.join(names)}: {error}")
        problems += _wrong_shapes(moved, like or {})
        if problems:
            raise WeightMapError("The weights do not fit: " + "; ".join(problems) + ".")
        return {name: moved[name] for name in targets}


def _flax_entry(path: str) -> Entry:
    *modules, leaf = path.split("/")
    name, operation = FLAX_LEAVES.get(leaf, (leaf, Identity()))
    return Entry((".".join([*modules, name]),), (path,), operation)


FLAX_LEAVES: dict[str, tuple[str, Operation]] = {
    "kernel": ("weight", Transpose()),
    "embedding": ("weight", Identity()),
}
"""What Linen's own parameters are called in PyTorch, and how they lie there."""


def _coverage(expected: Sequence[str], got: Mapping[str, object]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in got]
    return missing + [f"{name} is unknown" for name in got if name not in set(expected)]


def _not_finite(arrays: Arrays) -> list[str]:
    counts = {
        name: int((~np.isfinite(np.asarray(a, np.float64))).sum()) for name, a in arrays.items()
    }
    return [
        f"{name} has {n} NaN or infinite values of {np.size(arrays[name])}"
        for name, n in counts.items()
        if n
    ]


def _wrong_shapes(moved: Arrays, like: Shapes) -> list[str]:
    return [
        f"{name}: expected shape {tuple(like[name])}, got {array.shape}"
        for name, array in moved.items()
        if name in like and array.shape != tuple(like[name])
    ]
