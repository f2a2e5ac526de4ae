"""Random weights for trying, and weights on which no open question has an influence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxrnn.exchange.layouts import Tied
from jaxrnn.exchange.weights import Entry
from parity.modules.mapping.matching import Option, Part

Arrays = dict[str, np.ndarray]


def moved(option: Option, weights: Mapping[str, np.ndarray]) -> Arrays:
    """The weights of a part in JAX."""
    found: Arrays = {}
    for one in option.entries:
        results = one.operation.from_torch([weights[key] for key in one.keys])
        found |= dict(zip(one.paths, results, strict=True))
    return found


def sampled_weights(part: Part, shapes: Mapping[str, Any], rng: np.random.Generator) -> Arrays:
    """Random weights of a part; tied ones are equal."""
    weights: Arrays = {}
    for key in part.keys:
        if _tied(part) and weights:
            weights[key] = weights[part.keys[0]]
            continue
        middle, bound = _range(key, shapes[key])
        weights[key] = middle + bound * rng.uniform(-1, 1, shapes[key])
    return weights


def _tied(part: Part) -> bool:
    return all(isinstance(option.entries[0].operation, Tied) for option in part.options)


def _range(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    # Variances are positive. Matrices keep the size of what they multiply.
    if key.endswith("running_var"):
        return 1.0, 0.5
    if len(shape) < 2:
        return 0.3, 0.5
    return 0.0, 2 / float(np.sqrt(np.prod(shape[1:])))


ZERO = 0
"""The node of numbers that have to be zero."""

Edges = list[tuple[np.ndarray, np.ndarray]]


class NeutralWeights:
    """Weights of both sides on which the open questions have no influence.

    Every number of either side is a node of a graph. What an option brings together is connected,
    and each component gets one random number: a matrix that may be transposed becomes symmetric,
    arrays that may be exchanged become equal. What an option folds is zero.

    Args:
        parts: all that are to be decided.
        shapes: of PyTorch's weights, by key.
    """

    def __init__(self, parts: Sequence[Part], shapes: Mapping[str, Any]) -> None:
        self.shapes = shapes
        self.count = 1  # ZERO is the first
        self.keys: dict[str, np.ndarray] = {}
        self.paths: dict[str, np.ndarray] = {}
        self.offsets: dict[str, np.ndarray] = {}
        self.edges: dict[Entry, Edges] = {}
        for part in parts:
            for key in part.keys:
                first = part.keys[0] if _tied(part) else key
                known = self.keys.get(first)
                self.keys[key] = self._nodes(shapes[key]) if known is None else known
        for part in parts:
            for option in part.options:
                for one in option.entries:
                    self.edges[one] = self._connected(one)

    def _nodes(self, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        nodes = np.arange(self.count, self.count + size).reshape(shape)
        self.count += size
        return nodes

    def _connected(self, one: Entry) -> Edges:
        """What an entry brings together."""
        nodes = [self.keys[key] for key in one.keys]
        # The numbers of nodes are moved about as if they were weights.
        arrays = one.operation.from_torch([array.astype(np.float64) for array in nodes])
        sources = np.unique(np.concatenate([array.ravel() for array in nodes]))
        results = np.sort(np.concatenate([array.ravel() for array in arrays]))
        moves = not one.operation.inexact and np.array_equal(sources, results)
        edges = []
        for path, array in zip(one.paths, arrays, strict=True):
            if path not in self.paths:
                self.paths[path] = self._nodes(array.shape)
            if moves:
                edges.append((self.paths[path].ravel(), array.ravel().astype(np.int64)))
        if moves:
            return edges
        # A sum is known in advance only of zeros.
        zeros = one.operation.from_torch([np.zeros(array.shape) for array in nodes])
        self.offsets |= dict(zip(one.paths, zeros, strict=True))
        for array in [*nodes, *(self.paths[path] for path in one.paths)]:
            edges.append((array.ravel(), np.full(array.size, ZERO)))
        return edges

    def sampled(
        self, parts: Sequence[Part], closed: Sequence[Part], rng: np.random.Generator
    ) -> tuple[Arrays, Arrays]:
        """PyTorch's weights and JAX's.

        Args:
            parts: those still open, with the options that are left.
            closed: those decided, which get any random weights.
            rng: of the numbers.
        """
        entries = dict.fromkeys(
            one for part in parts for option in part.options for one in option.entries
        )
        edges = [edge for one in entries for edge in self.edges[one]]
        nothing = np.zeros(0, np.int64)
        rows = np.concatenate([nothing, *(edge[0] for edge in edges)])
        columns = np.concatenate([nothing, *(edge[1] for edge in edges)])
        links = coo_array((np.ones(len(rows)), (rows, columns)), (self.count, self.count))
        count, labels = connected_components(links, directed=False)
        values = self._values(parts, count, labels, rng)

        theirs = {key: values[labels[self.keys[key]]] for part in parts for key in part.keys}
        ours: Arrays = {}
        for path in dict.fromkeys(path for one in entries for path in one.paths):
            ours[path] = values[labels[self.paths[path]]] + self.offsets.get(path, 0.0)
        for part in closed:
            weights = sampled_weights(part, self.shapes, rng)
            theirs |= weights
            ours |= moved(part.chosen, weights)
        return theirs, ours

    def _values(
        self, parts: Sequence[Part], count: int, labels: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        # Numbers that are brought together take the narrowest range around the largest middle.
        middles = np.full(count, -np.inf)
        bounds = np.full(count, np.inf)
        for part in parts:
            for key in part.keys:
                middle, bound = _range(key, self.shapes[key])
                of_key = labels[self.keys[key].ravel()]
                np.maximum.at(middles, of_key, middle)
                np.minimum.at(bounds, of_key, bound)
        values = np.zeros(count)
        known = np.isfinite(bounds)  # some number of PyTorch's is in the component
        values[known] = middles[known] + bounds[known] * rng.uniform(-1, 1, int(known.sum()))
        values[labels[ZERO]] = 0.0
        return values
