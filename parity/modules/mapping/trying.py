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
from torch import nn

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
from parity.modules.mapping.matching import Option, Part
from parity.modules.mapping.neutral import Arrays, NeutralWeights, moved, sampled_weights
from parity.modules.mapping.stacks import Tree

# Round-off of any net in float64 is smaller, a wrong layout of random weights never.
AGREE = 1e-9
# Where the functions themselves differ, an option is taken that is this much nearer than all others
# and than no knowledge of the part at all.
CLEARLY = 0.2
# So much further than the functions themselves are apart, where no open question matters, an option
# may be to be taken without a look at the others.
NO_FURTHER = 3.0
# A part that moves the outputs by less cannot be decided by them.
WITHOUT_INFLUENCE = 1e-7
# Options that names speak against by more than this are looked at only if no other fits.
UNLIKELY = 0.8
# Numbers that are moved by all options together; beyond, trying takes minutes and gigabytes.
MOST_NUMBERS = 20_000_000


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
    """How far outputs are apart, the farthest counts.

    It is infinite where one side alone is NaN or infinite, and where an output has no other number.
    """
    farthest = 0.0
    for a, b in zip(got, expected, strict=True):
        finite = np.isfinite(b)
        if not np.array_equal(np.isfinite(a), finite) or not finite.any():
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
    theirs = _sampled(parts, shapes, np.random.default_rng(seed), untied)
    ours: Arrays = {}
    for part in parts:
        ours |= moved(part.chosen, theirs)
    return distance(trial.in_jax(ours), trial.in_torch(theirs))


def _sampled(
    parts: Sequence[Part],
    shapes: Mapping[str, Any],
    rng: np.random.Generator,
    untied: Mapping[str, Sequence[str]],
) -> Arrays:
    # Random weights of all parts.
    theirs: Arrays = {}
    for part in parts:
        theirs |= sampled_weights(part, shapes, rng)
    for first, keys in untied.items():
        theirs |= dict.fromkeys(keys, theirs[first])
    return theirs


def without_shown_doubts(
    trial: Trial, parts: Sequence[Part], shapes: Mapping[str, Any], seed: int
) -> list[Part]:
    """Parts of a map whose outputs agree: a doubt stays where the outputs do not depend on it."""
    rng = np.random.default_rng(seed)
    theirs = _sampled(parts, shapes, rng, {})
    expected = trial.in_torch(theirs)
    found = []
    for part in parts:
        doubt = ""
        if part.doubt:
            others = trial.in_torch({**theirs, **sampled_weights(part, shapes, rng)})
            if not distance(others, expected) > WITHOUT_INFLUENCE:
                doubt = f"{part.doubt}; the outputs do not depend on it"
        found.append(Part(part.keys, part.options, doubt))
    return found


def decide(trial: Trial, parts: Sequence[Part], shapes: Mapping[str, Any], seed: int) -> list[Part]:
    """The parts with their options in the order that trying shows; those undecided keep a doubt.

    Args:
        trial: both sides.
        parts: with their options, the likeliest first.
        shapes: of PyTorch's weights, by key.
        seed: of the random weights.
    """
    numbers = 0
    for part in parts:
        numbers += len(part.options) * sum(int(np.prod(shapes[key])) for key in part.keys)
    if numbers > MOST_NUMBERS:
        doubt = "the model is too large to try what names leave open: take smaller sizes"
        return [Part(part.keys, part.options, part.doubt or doubt) for part in parts]

    rng = np.random.default_rng(seed)
    neutral = NeutralWeights(parts, shapes)
    # What has few options is decided first: it makes the others' surroundings less symmetric.
    waiting = sorted(parts, key=lambda part: len(part.options))
    closed: list[Part] = []
    progress = True
    while waiting and progress:
        progress = False
        postponed: list[Part] = []
        while waiting:
            part, *waiting = waiting
            decided = _decided(trial, neutral, part, [*waiting, *postponed], closed, rng)
            if decided is None:
                postponed.append(part)
                continue
            progress = True
            closed.append(decided)
            waiting = _without(waiting, decided.chosen)
            postponed = _without(postponed, decided.chosen)
        waiting = postponed
    undecided = []
    for part in waiting:
        doubt = part.doubt or f"{', '.join(part.keys)}: trying does not decide it"
        undecided.append(Part(part.keys, part.options, doubt))
    return closed + undecided


def likely(parts: Sequence[Part]) -> list[Part]:
    """The parts without the options that names speak against."""
    found = []
    for part in parts:
        most = part.chosen.cost + UNLIKELY
        options = [option for option in part.options if option.cost <= most]
        found.append(Part(part.keys, options, part.doubt))
    return found


def _decided(
    trial: Trial,
    neutral: NeutralWeights,
    part: Part,
    others: Sequence[Part],
    closed: Sequence[Part],
    rng: np.random.Generator,
) -> Part | None:
    """The part with the option first that the outputs show; None if they show none."""
    if len(part.options) == 1:
        return Part(part.keys, part.options)
    theirs, ours = neutral.sampled([part, *others], closed, rng)
    sampled = sampled_weights(part, neutral.shapes, rng)
    expected = trial.in_torch({**theirs, **sampled})
    if not all(np.isfinite(array).any() for array in expected):
        return None
    without = trial.in_torch(theirs)
    influence = distance(without, expected)  # infinite where NaN comes or goes
    if not influence > WITHOUT_INFLUENCE:
        return None
    apart_anyway = NO_FURTHER * distance(trial.in_jax(ours), without)
    near = max(AGREE, min(apart_anyway, CLEARLY * influence))
    near = near if np.isfinite(near) else AGREE
    distances = []
    for k, option in enumerate(part.options):
        apart = distance(trial.in_jax({**ours, **moved(option, sampled)}), expected)
        if apart <= near:
            return _chosen(part, k)
        distances.append(apart)
    best, second = sorted(distances)[:2]
    if np.isfinite(best) and best <= CLEARLY * min(second, influence):
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
