"""What names and shapes leave open is decided by trying: both sides compute from the same weights.

To look at one part alone, all others get weights on which no open question has an influence: a
matrix that may be transposed is symmetric, weights that may be exchanged are equal, gates whose
order is open are equal. So each part is decided by itself, in as many runs as it has options, and
not in as many as there are combinations.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from jaxrnn.exchange.weights import Entry
from parity.core.bridge import (
    jax_arrays,
    named_leaves,
    numpy_of,
    rebuilt,
    tensor_of,
    tensors,
)
from parity.core.compare import relative_l2
from parity.core.runners import precision
from parity.modules.matching import Option, Part
from parity.modules.stacks import Tree

# Round-off of any net in float64 is smaller, a wrong layout of random weights never.
AGREE = 1e-9
# Where the functions themselves differ, an option is taken that is this much nearer than all others
# and than no knowledge of the part at all.
CLEARLY = 0.2
# A part that moves the outputs by less cannot be decided by them.
WITHOUT_INFLUENCE = 1e-7

Arrays = dict[str, np.ndarray]


class Trial:
    """Both sides, to be run on weights of one's choice in float64.

    Args:
        jax_function: `jax_function(params, *inputs)`.
        params: JAX's tree, for its structure and for weights that no part has.
        torch_module: PyTorch's.
        inputs: arrays, or tuples of arrays.
        tree: the names by which weights are given.

    Raises:
        ValueError: if PyTorch's outputs are random, or the outputs do not compare.
    """

    def __init__(
        self,
        jax_function: Callable[..., Any],
        params: Any,
        torch_module: nn.Module,
        inputs: Sequence[Any],
        tree: Tree,
    ) -> None:
        self.module = copy.deepcopy(torch_module).double()
        arrays, self.structure = jax.tree.flatten(tuple(inputs))
        self.inputs = [np.asarray(array) for array in arrays]
        leaves = {path: np.asarray(leaf) for path, leaf in named_leaves(params).items()}
        self.tree = tree
        self.leaves = leaves
        self.weights = tree.taken_apart(leaves)
        self.state = {key: numpy_of(tensor) for key, tensor in self.module.state_dict().items()}

        def run(flat: Any, inputs: Any) -> Any:
            arguments = jax.tree.unflatten(self.structure, inputs)
            return jax.tree.leaves(jax_function(rebuilt(params, flat), *arguments))

        self.program = jax.jit(run)
        first = self.in_torch({})
        if any(relative_l2(a, b) > 0 for a, b in zip(first, self.in_torch({}), strict=True)):
            raise ValueError(
                "torch_module must give the same outputs twice, got others: put it in evaluation "
                "mode, `torch_module.eval()`, or give no inputs."
            )
        shapes = [array.shape for array in first]
        ours = [array.shape for array in self.in_jax({})]
        if shapes != ours:
            raise ValueError(f"jax_function must give outputs of shapes {shapes}, got {ours}.")

    def in_torch(self, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """PyTorch's outputs with these weights, and its own for the others."""
        with precision("float64"), torch.no_grad():
            self.module.load_state_dict(tensors({**self.state, **weights}, "float64"))
            cast = [tensor_of(array, "float64") for array in self.inputs]
            outputs = self.module(*jax.tree.unflatten(self.structure, cast))
            return [numpy_of(leaf) for leaf in jax.tree.leaves(outputs)]

    def in_jax(self, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """JAX's outputs with these weights, and those that were given for the others."""
        with precision("float64"):
            stacked = self.tree.stacked({**self.weights, **weights})
            flat = jax_arrays({**self.leaves, **stacked}, "float64")
            inputs = [jax_arrays({"": array}, "float64")[""] for array in self.inputs]
            return [numpy_of(leaf) for leaf in self.program(flat, inputs)]


def distance(got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """How far outputs are apart, the farthest counts; infinite where one side alone is NaN."""
    farthest = 0.0
    for a, b in zip(got, expected, strict=True):
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return np.inf
        farthest = max(farthest, relative_l2(a, b))
    return farthest


def agreement(
    trial: Trial,
    parts: Sequence[Part],
    shapes: Mapping[str, Any],
    seed: int,
    untied: Mapping[str, Sequence[str]],
) -> float:
    """How far the outputs are apart with the chosen options, on random weights.

    Args:
        trial: both sides.
        parts: with the chosen option first.
        shapes: of PyTorch's weights, by key.
        seed: of the random weights.
        untied: keys of weights that are one in PyTorch alone, by the first.
    """
    rng = np.random.default_rng(seed)
    theirs: Arrays = {}
    for part in parts:
        theirs |= sampled_weights(part, shapes, rng)
    for first, keys in untied.items():
        theirs |= dict.fromkeys(keys, theirs[first])
    ours: Arrays = {}
    for part in parts:
        ours |= moved(part.chosen, theirs)
    return distance(trial.in_jax(ours), trial.in_torch(theirs))


def decide(trial: Trial, parts: Sequence[Part], shapes: Mapping[str, Any], seed: int) -> list[Part]:
    """The parts with their options in the order that trying shows; those undecided keep a doubt.

    Args:
        trial: both sides.
        parts: with their options, the likeliest first.
        shapes: of PyTorch's weights, by key.
        seed: of the random weights.
    """
    rng = np.random.default_rng(seed)
    open_parts = list(parts)
    closed: list[Part] = []
    while open_parts:
        progress = False
        # What has few options is decided first: it makes the others' surroundings less symmetric.
        for part in sorted(open_parts, key=lambda part: len(part.options)):
            others = [other for other in open_parts if other is not part]
            decided = _decided(trial, part, others, closed, shapes, rng)
            if decided is None:
                continue
            progress = True
            open_parts = _without(others, decided.chosen)
            closed.append(decided)
            # The list has changed: start again from the part with the fewest options.
            break
        if not progress:
            break
    undecided = []
    for part in open_parts:
        doubt = part.doubt or f"{', '.join(part.keys)}: trying does not decide it"
        undecided.append(Part(part.keys, part.options, doubt))
    return closed + undecided


def _decided(
    trial: Trial,
    part: Part,
    others: Sequence[Part],
    closed: Sequence[Part],
    shapes: Mapping[str, Any],
    rng: np.random.Generator,
) -> Part | None:
    """The part with the option first that the outputs show; None if they show none."""
    if len(part.options) == 1:
        return Part(part.keys, part.options)
    theirs, ours = neutral_weights([part, *others], closed, shapes, rng)
    sampled = sampled_weights(part, shapes, rng)
    expected = trial.in_torch({**theirs, **sampled})
    influence = distance(trial.in_torch(theirs), expected)
    if not influence > WITHOUT_INFLUENCE:
        return None
    distances = []
    for k, option in enumerate(part.options):
        apart = distance(trial.in_jax({**ours, **moved(option, sampled)}), expected)
        if apart <= AGREE:
            return _chosen(part, k)
        distances.append(apart)
    best, second = sorted(distances)[:2]
    if best <= CLEARLY * min(second, influence):
        return _chosen(part, distances.index(best))
    return None


def _chosen(part: Part, k: int) -> Part:
    options = [part.options[k], *part.options[:k], *part.options[k + 1 :]]
    return Part(part.keys, options)


def _without(parts: Sequence[Part], option: Option) -> list[Part]:
    """The parts without options that take paths of one that is decided."""
    left = []
    for part in parts:
        options = [other for other in part.options if not other.paths & option.paths]
        # What has no other counterpart keeps its own, and the doubt.
        left.append(Part(part.keys, options or part.options, part.doubt))
    return left


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
    tied = all(len(option.entries) == 1 and _is_tied(option.entries[0]) for option in part.options)
    for key in part.keys:
        if tied and weights:
            weights[key] = weights[part.keys[0]]
            continue
        middle, bound = _range(key, shapes[key])
        weights[key] = middle + bound * rng.uniform(-1, 1, shapes[key])
    return weights


def _is_tied(one: Entry) -> bool:
    return type(one.operation).__name__ == "Tied"


def _range(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    # Variances are positive. Matrices keep the size of what they multiply.
    if key.endswith("running_var"):
        return 1.0, 0.5
    if len(shape) < 2:
        return 0.3, 0.5
    return 0.0, 2 / float(np.sqrt(np.prod(shape[1:])))


def neutral_weights(
    parts: Sequence[Part],
    closed: Sequence[Part],
    shapes: Mapping[str, Any],
    rng: np.random.Generator,
) -> tuple[Arrays, Arrays]:
    """Weights on which the open questions have no influence, PyTorch's and JAX's.

    Numbers that one of the options brings together are equal: a graph connects them, and each of
    its components gets one random number. What an option folds is zero.

    Args:
        parts: undecided.
        closed: decided, with any random weights.
        shapes: of PyTorch's weights, by key.
        rng: of the numbers.
    """
    theirs: Arrays = {}
    ours: Arrays = {}
    for part in closed:
        sampled = sampled_weights(part, shapes, rng)
        theirs |= sampled
        ours |= moved(part.chosen, sampled)

    graph = _Graph()
    for part in parts:
        tied = all(_is_tied(option.entries[0]) for option in part.options)
        for key in part.keys:
            graph.add_key(part.keys[0] if tied else key, key, shapes[key])
    for part in parts:
        for option in part.options:
            for one in option.entries:
                graph.connect(one)
    return graph.weights(theirs, ours, rng)


class _Graph:
    """Numbers of both sides, and which of them are brought together."""

    ZERO = 0  # the node of numbers that have to be zero

    def __init__(self) -> None:
        self.count = 1
        self.keys: dict[str, np.ndarray] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self.paths: dict[str, np.ndarray] = {}
        self.offsets: dict[str, np.ndarray] = {}
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []

    def _nodes(self, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        nodes = np.arange(self.count, self.count + size).reshape(shape)
        self.count += size
        return nodes

    def add_key(self, same_as: str, key: str, shape: tuple[int, ...]) -> None:
        """A key, whose numbers may be those of another."""
        self.keys[key] = self.keys[same_as] if same_as in self.keys else self._nodes(shape)
        self.ranges[key] = _range(key, shape)

    def connect(self, one: Entry) -> None:
        """What an entry brings together."""
        nodes = [self.keys[key] for key in one.keys]
        # The numbers of nodes are moved about as if they were weights.
        arrays = one.operation.from_torch([array.astype(np.float64) for array in nodes])
        sources = np.sort(np.concatenate([np.unique(array) for array in nodes]))
        results = np.sort(np.concatenate([array.ravel() for array in arrays] or [np.zeros(0)]))
        moves = not one.operation.inexact and np.array_equal(np.unique(sources), results)
        for path, array in zip(one.paths, arrays, strict=True):
            if path not in self.paths:
                self.paths[path] = self._nodes(array.shape)
            if moves:
                self.edges.append((self.paths[path].ravel(), array.ravel().astype(np.int64)))
        if not moves:
            # A sum is known in advance only of zeros.
            zeros = one.operation.from_torch([np.zeros(array.shape) for array in nodes])
            self.offsets |= dict(zip(one.paths, zeros, strict=True))
            for array in [*nodes, *(self.paths[path] for path in one.paths)]:
                self.edges.append((array.ravel(), np.full(array.size, self.ZERO)))

    def weights(
        self, theirs: Arrays, ours: Arrays, rng: np.random.Generator
    ) -> tuple[Arrays, Arrays]:
        """One random number a component, beside the weights that are decided."""
        rows = np.concatenate([np.zeros(0, np.int64), *(edge[0] for edge in self.edges)])
        columns = np.concatenate([np.zeros(0, np.int64), *(edge[1] for edge in self.edges)])
        links = coo_array((np.ones(len(rows)), (rows, columns)), (self.count, self.count))
        count, labels = connected_components(links, directed=False)
        # Numbers that are brought together take the narrowest range around the largest middle.
        middles = np.full(count, -np.inf)
        bounds = np.full(count, np.inf)
        for key, nodes in self.keys.items():
            middle, bound = self.ranges[key]
            np.maximum.at(middles, labels[nodes.ravel()], middle)
            np.minimum.at(bounds, labels[nodes.ravel()], bound)
        values = np.zeros(count)
        known = np.isfinite(bounds)  # some number of PyTorch's is in the component
        spread = bounds[known] * rng.uniform(-1, 1, int(known.sum()))
        values[known] = middles[known] + spread
        values[labels[self.ZERO]] = 0.0
        theirs = theirs | {key: values[labels[nodes]] for key, nodes in self.keys.items()}
        ours = dict(ours)
        for path, nodes in self.paths.items():
            # Decided weights stand where an undecided part has no other place.
            ours.setdefault(path, values[labels[nodes]] + self.offsets.get(path, 0.0))
        return theirs, ours
