"""Which operations bring an array of PyTorch's into the shape of one in JAX, likeliest first."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxrnn.exchange.layouts import (
    Convolution,
    InterleaveHeads,
    Inverse,
    PermuteAxes,
    Reshape,
    SplitInputs,
    SplitOutputs,
    TransposedConvolution,
)
from jaxrnn.exchange.operations import (
    Chain,
    Identity,
    Operation,
    SplitGates,
    StackLayers,
    Transpose,
)

Shape = tuple[int, ...]

QKV = 3
"""Queries, keys and values."""


class Candidate(NamedTuple):
    """An operation and what is held against it: 0 for what is usual."""

    operation: Operation
    cost: float


class Weight(NamedTuple):
    """An array of PyTorch's.

    Attributes:
        shape: its shape.
        kind: the class of the module that it belongs to.
        groups: of a convolution.
    """

    shape: Shape
    kind: str
    groups: int = 1


# Held against a layout that another name of the array would have: by itself it is not unusual.
UNNAMED = 0.2
# Held against a layout that contradicts the name: a "kernel" that is not transposed.
MISNAMED = 0.6
# Held against what is possible, and rare.
RARE = 0.8
# Arrays of more axes are not turned in every way.
MOST_AXES = 5


def candidates(weight: Weight, shape: Shape, leaf: str) -> list[Candidate]:
    """Operations from an array of PyTorch's to a shape, likeliest first.

    Args:
        weight: PyTorch's.
        shape: JAX's.
        leaf: the last part of its name in JAX.

    Returns:
        None where the shapes do not allow any.
    """
    if math.prod(weight.shape) != math.prod(shape):
        return []
    found: dict[Operation, float] = {}
    for rule in RULES:
        for operation, cost in rule(weight, shape, leaf):
            found[operation] = min(cost, found.get(operation, math.inf))
    listed = [Candidate(operation, cost) for operation, cost in found.items()]
    return sorted(listed, key=lambda candidate: candidate.cost)


def _is_dense(weight: Weight) -> bool:
    # Of the class Linear or one that inherits from it, as the output projection of attention.
    return "Linear" in weight.kind or weight.kind.startswith("Multihead")


def _same(weight: Weight, shape: Shape, leaf: str) -> Iterator[Candidate]:
    # PyTorch's layout; Equinox has it everywhere.
    if weight.shape != shape:
        return
    turned = len(shape) > 1 and ("Conv" in weight.kind or _is_dense(weight))
    if not turned or leaf == "weight":
        yield Candidate(Identity(), 0.0)
    elif "Transpose" in weight.kind:
        yield Candidate(Identity(), MISNAMED)
    else:
        yield Candidate(Identity(), MISNAMED if leaf == "kernel" else UNNAMED)


def _matrix(weight: Weight, shape: Shape, leaf: str) -> Iterator[Candidate]:
    # Flax, Haiku and Keras multiply from the right.
    if len(shape) != 2 or weight.shape[::-1] != shape:
        return
    usual = _is_dense(weight) and leaf != "weight"
    if usual or shape[0] != shape[1]:
        yield Candidate(Transpose(), 0.0)
    else:
        yield Candidate(Transpose(), MISNAMED if leaf in ("weight", "embedding") else UNNAMED)


def _split_dense(weight: Weight, shape: Shape, leaf: str) -> Iterator[Candidate]:
    # Several axes of outputs, or of inputs, as DenseGeneral has them.
    if len(weight.shape) == 2 and len(shape) > 2:
        outputs, inputs = weight.shape
        if shape[0] == inputs:
            yield Candidate(SplitOutputs(shape[1:]), 0.0)
        if shape[-1] == outputs:
            yield Candidate(SplitInputs(shape[:-1]), 0.0)
    if len(weight.shape) == 1 and len(shape) > 1 and 1 not in shape:
        yield Candidate(SplitOutputs(shape), 0.0)


def _convolution(weight: Weight, shape: Shape, leaf: str) -> Iterator[Candidate]:
    if "Conv" not in weight.kind or len(shape) != len(weight.shape) or len(shape) < 3:
        return
    first, second, *kernel = weight.shape
    if "Transpose" not in weight.kind:
        if shape == (*kernel, second, first):
            yield Candidate(Convolution(), MISNAMED if leaf == "weight" else 0.0)
        return
    layouts = {
        "kIO": (*kernel, first, second),
        "kOI": (*kernel, second, first),
        "OIk": (second * weight.groups, first // weight.groups, *kernel),
    }
    for layout, expected in layouts.items():
        if shape != expected or (weight.groups > 1 and layout != "OIk"):
            continue
        groups = weight.groups if layout == "OIk" else 1
        # A kernel that PyTorch's gradient of a convolution uses as it is lies the same way round.
        # Haiku, which calls it "w", flips it.
        flipped = layout != "kOI" or leaf == "w"
        strange = RARE if (layout == "OIk") != (leaf == "weight") else 0.0
        yield Candidate(TransposedConvolution(layout, flipped, groups), strange)
        yield Candidate(TransposedConvolution(layout, not flipped, groups), strange + UNNAMED)


def _axes(weight: Weight, shape: Shape, leaf: str) -> Iterator[Candidate]:
    # Any other order of the axes.
    count = len(shape)
    if not 3 <= count <= MOST_AXES or len(weight.shape) != count:
        return
    kernel_last = tuple(range(2, count))
    for order in itertools.permutations(range(count)):
        usual = (*kernel_last, 1, 0) if "Conv" in weight.kind else tuple(range(count))
        turned = tuple(weight.shape[axis] for axis in order)
        if turned == shape and order not in (usual, tuple(range(count))):
            yield Candidate(PermuteAxes(order), RARE)


def _ones(weight: Weight, shape: Shape, leaf: str) -> Iterator[Candidate]:
    # Axes of length 1 more or less, as a bias (O, 1, 1) has, or a convolution of kernel size 1.
    plain = tuple(size for size in weight.shape if size != 1)
    if weight.shape == shape or plain != tuple(size for size in shape if size != 1):
        return
    yield Candidate(Reshape(weight.shape, shape), 0.0 if len(plain) < 2 else UNNAMED)


def _turned_ones(weight: Weight, shape: Shape, leaf: str) -> Iterator[Candidate]:
    # A convolution of kernel size 1 is a dense layer, and the other way round.
    theirs = [size for size in weight.shape if size != 1]
    ours = [size for size in shape if size != 1]
    if len(theirs) != 2 or theirs != ours[::-1] or len(weight.shape) == len(shape):
        return
    if len(weight.shape) > 2:
        steps: tuple[Operation, ...] = (Reshape(weight.shape, tuple(theirs)), Transpose())
    else:
        steps = (Transpose(), Reshape(tuple(ours), shape))
    yield Candidate(Chain(steps), 0.0)


def _fused(weight: Weight, shape: Shape, leaf: str) -> Iterator[Candidate]:
    # Queries, keys and values in one array on both sides, part by part or head by head.
    outputs = weight.shape[0] if weight.shape else 0
    if outputs % QKV or len(weight.shape) > 2:
        return
    dense: list[Operation] = []
    if shape == weight.shape:
        dense.append(Identity())
    if len(shape) == 2 and shape == weight.shape[::-1]:
        dense.append(Transpose())
    width = outputs // QKV
    if shape in {(QKV, *weight.shape[1:], width), (QKV, width)}:
        by_part: tuple[Operation, ...] = (SplitGates(QKV), Transpose(), StackLayers())
        yield Candidate(Chain(by_part), UNNAMED)
    for heads in range(2, width + 1):
        if width % heads:
            continue
        head_by_head = InterleaveHeads(heads)
        for operation in dense:
            last = () if operation == Identity() else (operation,)
            step = Chain((head_by_head, *last)) if last else head_by_head
            yield Candidate(step, RARE + heads / (100 * width))
        if shape == (*weight.shape[1:], heads, QKV, width // heads):
            split = SplitOutputs((heads, QKV, width // heads))
            yield Candidate(Chain((head_by_head, split)), 0.0)


Rule = Callable[[Weight, Shape, str], Iterator[Candidate]]
RULES: tuple[Rule, ...] = (
    _same,
    _matrix,
    _split_dense,
    _convolution,
    _ones,
    _turned_ones,
    _fused,
    _axes,
)
"""Each gives the candidates of one layout; the cheaper of two equal operations counts."""


def split_candidates(weight: Weight, shape: Shape, leaf: str, count: int) -> list[Candidate]:
    """Operations from one array of PyTorch's to `count` arrays of one shape in JAX."""
    found = []
    if weight.shape and weight.shape[0] % count == 0:
        part = weight._replace(shape=(weight.shape[0] // count, *weight.shape[1:]))
        for operation, cost in candidates(part, shape, leaf):
            found.append(Candidate(chained(SplitGates(count), operation), cost))
    if len(weight.shape) == 2 and weight.shape[1] % count == 0 and not _is_dense(weight):
        # A kernel (in, out) of a module of one's own.
        inputs, outputs = weight.shape
        part = Weight((outputs // count, inputs), "Linear")
        for operation, cost in candidates(part, shape, leaf):
            found.append(
                Candidate(chained(Transpose(), SplitGates(count), operation), cost + UNNAMED)
            )
    return sorted(found, key=lambda candidate: candidate.cost)


def joined_candidates(weight: Weight, shape: Shape, leaf: str, count: int) -> list[Candidate]:
    """Operations from `count` arrays of one shape in PyTorch to one array in JAX."""
    if not weight.shape:
        return []
    whole = weight._replace(shape=(weight.shape[0] * count, *weight.shape[1:]))
    found = []
    for operation, cost in candidates(whole, shape, leaf):
        found.append(Candidate(chained(Inverse(SplitGates(count)), operation), cost))
    return found


def chained(*operations: Operation) -> Operation:
    """Operations one after the other, without those that do nothing."""
    steps: list[Operation] = []
    for operation in operations:
        if isinstance(operation, Chain):
            steps += operation.operations
        elif operation != Identity():
            steps.append(operation)
    if not steps:
        return Identity()
    return steps[0] if len(steps) == 1 else Chain(tuple(steps))
