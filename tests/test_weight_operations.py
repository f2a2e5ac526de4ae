"""Operations of weight maps: there and back bit by bit, and gradients by the chain rule."""

import numpy as np
import pytest

from jaxrnn.exchange import layouts, operations
from jaxrnn.exchange.weights import WeightMap, WeightMapError, entry
from parity import (
    Absent,
    Chain,
    ConcatenateInputs,
    Convolution,
    Fill,
    FoldBiases,
    FoldGruBiases,
    Identity,
    InterleaveHeads,
    Inverse,
    OffsetGate,
    PermuteAxes,
    PermuteGates,
    Reshape,
    SplitGates,
    SplitInputs,
    SplitOutputs,
    Stacked,
    StackLayers,
    Tied,
    Transpose,
    TransposedConvolution,
)

# PyTorch's shapes, and those of the other framework.
EXACT = [
    (Identity(), [(3, 4)], [(3, 4)]),
    (Transpose(), [(3, 4)], [(4, 3)]),
    (PermuteAxes((2, 0, 1)), [(3, 4, 5)], [(5, 3, 4)]),
    (Reshape((6,), (6, 1, 1)), [(6,)], [(6, 1, 1)]),
    (Convolution(), [(5, 3, 7)], [(7, 3, 5)]),
    (Convolution(), [(6, 3, 2, 7)], [(2, 7, 3, 6)]),
    (Convolution(), [(5, 1, 2, 3, 4)], [(2, 3, 4, 1, 5)]),
    (TransposedConvolution(), [(5, 3, 7)], [(7, 5, 3)]),
    (TransposedConvolution("kOI", flip=False), [(5, 3, 2, 7)], [(2, 7, 3, 5)]),
    (TransposedConvolution("OIk", groups=2), [(6, 2, 4, 3)], [(4, 3, 4, 3)]),
    (SplitOutputs((2, 3)), [(6, 5)], [(5, 2, 3)]),
    (SplitOutputs((2, 3)), [(6,)], [(2, 3)]),
    (SplitInputs((2, 3)), [(5, 6)], [(2, 3, 5)]),
    (InterleaveHeads(2), [(12, 5)], [(12, 5)]),
    (InterleaveHeads(2), [(12,)], [(12,)]),
    (ConcatenateInputs(4), [(12, 5), (12, 3)], [(8, 12)]),
    (PermuteGates((2, 0, 1)), [(6, 4)], [(6, 4)]),
    (SplitGates(3), [(6, 4)], [(2, 4)] * 3),
    (Inverse(SplitGates(3)), [(2, 4)] * 3, [(6, 4)]),
    (StackLayers(), [(3, 4)] * 2, [(2, 3, 4)]),
    (Stacked(2, Transpose()), [(3, 4)] * 2, [(2, 4, 3)]),
    (Stacked(2, ConcatenateInputs(1)), [(3, 4), (3, 3)] * 2, [(2, 7, 3)]),
    (Stacked(2, SplitGates(2)), [(6, 4)] * 2, [(2, 3, 4)] * 2),
    (Chain((SplitGates(3), SplitOutputs((2, 1)))), [(6, 4)], [(4, 2, 1)] * 3),
    (Fill((3,), 2.0), [], [(3,)]),
]
INEXACT = [
    (FoldBiases(), [(6,)] * 2, [(6,)]),
    (FoldGruBiases(), [(6,)] * 2, [(6,), (2,)]),
    (FoldGruBiases(split=True), [(6,)] * 2, [(2,)] * 4),
    (OffsetGate(2, 4), [(8,)], [(8,)]),
    (Absent((3,)), [(3,)], []),
    (Chain((FoldBiases(), PermuteGates((1, 0)))), [(6,)] * 2, [(6,)]),
    (Stacked(2, FoldBiases()), [(6,)] * 4, [(2, 6)]),
]


def named(case):
    operation, theirs, _ = case
    return f"{operation} of {theirs}"


def sampled(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_every_operation_is_tested():
    classes = {
        name
        for module in (operations, layouts)
        for name, one in vars(module).items()
        if isinstance(one, type) and issubclass(one, operations.Operation)
    }
    tested = {type(operation).__name__ for operation, _, _ in EXACT + INEXACT}
    assert classes - tested == {"Operation", "Tied"}


@pytest.mark.parametrize("case", EXACT + INEXACT, ids=named)
def test_shapes_are_those_of_the_other_framework(case):
    operation, theirs, ours = case
    results = operation.from_torch(sampled(theirs))
    assert [array.shape for array in results] == ours


@pytest.mark.parametrize("case", EXACT, ids=named)
def test_there_and_back_is_exact_bit_by_bit(case):
    operation, theirs, ours = case
    there = sampled(theirs)
    back = operation.to_torch(operation.from_torch(there))
    assert [array.tobytes() for array in back] == [array.tobytes() for array in there]
    if not isinstance(operation, Fill):  # which knows its value
        here = sampled(ours)
        again = operation.from_torch(operation.to_torch(here))
        assert [array.tobytes() for array in again] == [array.tobytes() for array in here]


@pytest.mark.parametrize("case", INEXACT, ids=named)
def test_back_and_there_is_exact_where_something_is_lost(case):
    """What PyTorch gets from the other framework computes the same there."""
    operation, _, ours = case
    assert operation.inexact
    here = sampled(ours)
    again = operation.from_torch(operation.to_torch(here))
    for array, expected in zip(again, here, strict=True):
        # An offset that is added and taken off again leaves a rounding of numbers around 1.
        np.testing.assert_allclose(array, expected, atol=2**-23)


@pytest.mark.parametrize("case", EXACT + INEXACT, ids=named)
def test_gradients_follow_the_chain_rule(case):
    """<d ours / d theirs v, g> = <v, gradient>: with what PyTorch's weights move by, v."""
    operation, theirs, ours = case
    zeros = operation.from_torch([np.zeros(shape) for shape in theirs])
    step = [array.astype(np.float64) for array in sampled(theirs, 1)]
    moved = [a - b for a, b in zip(operation.from_torch(step), zeros, strict=True)]
    gradients = [array.astype(np.float64) for array in sampled(ours, 2)]
    theirs_gradients = operation.gradients_to_torch(gradients)
    if isinstance(operation, Absent):
        assert not np.any(theirs_gradients[0])
        return
    there = sum(np.sum(v * g) for v, g in zip(step, theirs_gradients, strict=True))
    here = sum(np.sum(v * g) for v, g in zip(moved, gradients, strict=True))
    assert there == pytest.approx(here, rel=1e-13)  # sums of at most 120 terms


# PyTorch's shapes, and where a number of the other framework's first array is in PyTorch's arrays.
PLACES = [
    # (parts, heads, size) to (heads, parts, size).
    (InterleaveHeads(2), [(12,)], lambda n: (0, (n // 2 % 3 * 4 + n // 6 * 2 + n % 2,))),
    (SplitOutputs((2, 3)), [(6, 5)], lambda i, h, d: (0, (3 * h + d, i))),
    (SplitInputs((2, 3)), [(5, 6)], lambda h, d, o: (0, (o, 3 * h + d))),
    (Convolution(), [(5, 4, 2, 3)], lambda a, b, i, o: (0, (o, i, a, b))),
    (TransposedConvolution(), [(5, 4, 2, 3)], lambda a, b, i, o: (0, (i, o, 1 - a, 2 - b))),
    (
        TransposedConvolution("kOI", flip=False),
        [(5, 4, 2, 3)],
        lambda a, b, o, i: (0, (i, o, a, b)),
    ),
    # Two groups of three inputs and two outputs.
    (
        TransposedConvolution("OIk", groups=2),
        [(6, 2, 3)],
        lambda o, i, a: (0, (o // 2 * 3 + i, o % 2, 2 - a)),
    ),
    (
        ConcatenateInputs(1),
        [(4, 3), (4, 4)],
        lambda i, o: (0, (o, i)) if i < 3 else (1, (o, i - 3)),
    ),
]


@pytest.mark.parametrize("case", PLACES, ids=named)
def test_every_number_has_its_place(case):
    operation, theirs, place = case
    arrays = sampled(theirs)
    moved = operation.from_torch(arrays)[0]
    for index in np.ndindex(moved.shape):
        which, where = place(*index)
        assert moved[index] == arrays[which][where]


def test_a_tied_weight_has_all_its_keys_and_one_gradient():
    tied = Tied(2, Transpose())
    (weight,) = sampled([(3, 4)])
    (moved,) = tied.from_torch([weight, weight])
    np.testing.assert_array_equal(moved, weight.T)
    for arrays in (tied.to_torch([moved]), tied.gradients_to_torch([moved])):
        assert len(arrays) == 2
        np.testing.assert_array_equal(arrays, [weight, weight])
    table = WeightMap([entry(("a", "b"), "c", tied)])
    with pytest.raises(WeightMapError, match="tied weights must be equal"):
        table.from_torch({"a": weight, "b": weight + 1})


@pytest.mark.parametrize(
    ("operation", "theirs", "words"),
    [
        (Reshape((6,), (6, 1)), [(5,)], "expected shape"),
        (SplitOutputs((2, 3)), [(5, 4)], "reshape"),
        (Stacked(2), [(3,)] * 3, "3 arrays are no 2 layers"),
        (InterleaveHeads(2), [(7,)], "reshape"),
    ],
)
def test_what_an_operation_does_not_take_is_reported_by_the_map(operation, theirs, words):
    keys = [f"key{k}" for k in range(len(theirs))]
    table = WeightMap([entry(keys, "path", operation)])
    with pytest.raises(WeightMapError, match=words):
        table.from_torch(dict(zip(keys, sampled(theirs), strict=True)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TransposedConvolution("OkI"), "layout must be kIO, kOI or OIk, got 'OkI'"),
        (lambda: TransposedConvolution("kIO", groups=2), "groups must be 1"),
        (lambda: Inverse(FoldBiases()), "operation must lose nothing"),
    ],
)
def test_an_operation_that_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
