"""The names and layouts from which a weight map is suggested, each rule by itself."""

import numpy as np
import pytest

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
from jaxrnn.exchange.operations import Chain, Identity, SplitGates, Transpose
from parity.modules.mapping.candidates import (
    MISNAMED,
    MOST_AXES,
    RARE,
    UNNAMED,
    Weight,
    candidates,
    chained,
    joined_candidates,
    split_candidates,
)
from parity.modules.mapping.names import (
    ALIKE,
    ORDER,
    OTHER_ROLE,
    UNKNOWN_ROLE,
    Name,
    difference,
    meaning_of,
    natural,
    out_of_order,
    role_of,
    taken_apart,
    words_of,
)

LINEAR = Weight((4, 3), "Linear")


def costs(weight, shape, leaf):
    return {operation: cost for operation, cost in candidates(weight, shape, leaf)}


@pytest.mark.parametrize(
    ("weight", "shape", "leaf", "operation", "cost"),
    [
        # One layout on both sides.
        (Weight((4,), "Linear"), (4,), "bias", Identity(), 0.0),
        (LINEAR, (4, 3), "weight", Identity(), 0.0),
        (LINEAR, (4, 3), "kernel", Identity(), MISNAMED),
        (LINEAR, (4, 3), "w", Identity(), UNNAMED),
        (Weight((4, 3), "Embedding"), (4, 3), "embedding", Identity(), 0.0),
        (Weight((4, 3), "MultiheadAttention"), (4, 3), "w", Identity(), UNNAMED),
        (Weight((4, 3, 2), "Conv1d"), (4, 3, 2), "kernel", Identity(), MISNAMED),
        (Weight((4, 3, 2), "ConvTranspose1d"), (4, 3, 2), "w", Identity(), MISNAMED),
        # Transposed.
        (LINEAR, (3, 4), "kernel", Transpose(), 0.0),
        (LINEAR, (3, 4), "weight", Transpose(), 0.0),
        (Weight((3, 3), "Linear"), (3, 3), "kernel", Transpose(), 0.0),
        (Weight((3, 3), "Linear"), (3, 3), "weight", Transpose(), MISNAMED),
        (Weight((3, 3), "Mine"), (3, 3), "kernel", Transpose(), UNNAMED),
        (Weight((3, 3), "Embedding"), (3, 3), "embedding", Transpose(), MISNAMED),
        # Dense layers of several axes.
        (Weight((6, 4), "Linear"), (4, 2, 3), "kernel", SplitOutputs((2, 3)), 0.0),
        (Weight((4, 6), "Linear"), (2, 3, 4), "kernel", SplitInputs((2, 3)), 0.0),
        (Weight((6,), "Linear"), (2, 3), "bias", SplitOutputs((2, 3)), 0.0),
        # Convolutions.
        (Weight((5, 4, 3), "Conv1d"), (3, 4, 5), "kernel", Convolution(), 0.0),
        (Weight((5, 4, 3), "Conv1d"), (3, 4, 5), "weight", Convolution(), MISNAMED),
        (Weight((5, 4, 3, 2), "Conv2d"), (3, 2, 4, 5), "w", Convolution(), 0.0),
        # Axes of length 1.
        (Weight((5,), "Conv1d"), (5, 1), "bias", Reshape((5,), (5, 1)), 0.0),
        (Weight((5, 1, 3), "Conv1d"), (5, 3), "w", Reshape((5, 1, 3), (5, 3)), UNNAMED),
        (
            Weight((5, 4, 1), "Conv1d"),
            (4, 5),
            "kernel",
            Chain((Reshape((5, 4, 1), (5, 4)), Transpose())),
            0.0,
        ),
        (
            LINEAR,
            (1, 3, 4),
            "kernel",
            Chain((Transpose(), Reshape((3, 4), (1, 3, 4)))),
            0.0,
        ),
        # Any order of the axes.
        (Weight((2, 3, 4), "Mine"), (3, 2, 4), "kernel", PermuteAxes((1, 0, 2)), RARE),
        (Weight((2, 3, 4), "Conv1d"), (3, 2, 4), "kernel", PermuteAxes((1, 0, 2)), RARE),
    ],
)
def test_a_candidate_and_what_is_held_against_it(weight, shape, leaf, operation, cost):
    assert costs(weight, shape, leaf)[operation] == pytest.approx(cost)


SHAPES = [
    (LINEAR, (4, 3)),
    (LINEAR, (3, 4)),
    (Weight((6, 4), "Linear"), (4, 2, 3)),
    (Weight((4, 6), "Linear"), (2, 3, 4)),
    (Weight((6,), "Linear"), (2, 3)),
    (Weight((5, 4, 3), "Conv1d"), (3, 4, 5)),
    (Weight((4, 4, 4), "Conv1d"), (4, 4, 4)),
    (Weight((4, 6, 3), "ConvTranspose1d"), (3, 4, 6)),
    (Weight((4, 6, 3), "ConvTranspose1d"), (3, 6, 4)),
    (Weight((4, 6, 3), "ConvTranspose1d"), (6, 4, 3)),
    (Weight((4, 6, 3), "ConvTranspose1d", 2), (12, 2, 3)),
    (Weight((12, 5), "MultiheadAttention"), (12, 5)),
    (Weight((12, 5), "MultiheadAttention"), (5, 12)),
    (Weight((12, 5), "MultiheadAttention"), (3, 5, 4)),
    (Weight((12, 5), "MultiheadAttention"), (5, 2, 3, 2)),
    (Weight((12,), "MultiheadAttention"), (3, 4)),
    (Weight((12,), "MultiheadAttention"), (12,)),
    (Weight((5, 4, 1), "Conv1d"), (4, 5)),
    (Weight((2, 3, 4), "Mine"), (4, 3, 2)),
]


@pytest.mark.parametrize(("weight", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize("leaf", ["weight", "kernel", "w"])
def test_candidates_have_the_shape_come_back_and_are_sorted(weight, shape, leaf):
    found = candidates(weight, shape, leaf)
    array = np.arange(np.prod(weight.shape, dtype=int)).reshape(weight.shape).astype(float)
    assert found
    assert [c.cost for c in found] == sorted(c.cost for c in found)
    operations = [c.operation for c in found]
    assert len(set(operations)) == len(operations)
    for operation in operations:
        (result,) = operation.from_torch([array])
        assert result.shape == shape, operation
        (back,) = operation.to_torch([result])
        np.testing.assert_array_equal(back, array)


def test_transposed_convolutions_are_flipped_as_their_framework_does():
    weight = Weight((4, 6, 3), "ConvTranspose1d")
    flax = costs(weight, (3, 4, 6), "kernel")
    assert flax[TransposedConvolution("kIO", True, 1)] == 0.0
    assert flax[TransposedConvolution("kIO", False, 1)] == UNNAMED
    transposed = costs(weight, (3, 6, 4), "kernel")
    assert transposed[TransposedConvolution("kOI", False, 1)] == 0.0
    assert transposed[TransposedConvolution("kOI", True, 1)] == UNNAMED
    assert costs(weight, (3, 6, 4), "w")[TransposedConvolution("kOI", True, 1)] == 0.0
    equinox = costs(weight, (6, 4, 3), "weight")
    assert equinox[TransposedConvolution("OIk", True, 1)] == 0.0
    assert costs(weight, (6, 4, 3), "kernel")[TransposedConvolution("OIk", True, 1)] == RARE
    assert costs(weight, (3, 4, 6), "weight")[TransposedConvolution("kIO", True, 1)] == RARE
    grouped = Weight((4, 6, 3), "ConvTranspose1d", 2)
    assert TransposedConvolution("OIk", True, 2) in costs(grouped, (12, 2, 3), "weight")
    assert not any(
        isinstance(o, TransposedConvolution) for o in costs(grouped, (3, 4, 6), "kernel")
    )


def test_what_does_not_fit_has_no_candidates():
    for weight, shape in [
        (LINEAR, (3, 5)),
        (LINEAR, (4,)),
        (Weight((6,), "Linear"), (4, 2)),
        (Weight((5, 4, 3), "Conv1d"), (3, 5, 5)),
        (Weight((6, 4), "Linear"), (5, 2, 3)),
    ]:
        assert candidates(weight, shape, "kernel") == []
    many = tuple(range(2, MOST_AXES + 2))
    assert candidates(Weight(many, "Mine"), many[::-1], "w")
    more = (*many, MOST_AXES + 2)
    assert candidates(Weight(more, "Mine"), more[::-1], "w") == []
    assert not any(isinstance(o, SplitOutputs) for o in costs(Weight((6,), ""), (1, 6), "b"))


def test_queries_keys_and_values_may_lie_head_by_head():
    weight = Weight((12, 5), "MultiheadAttention")
    found = costs(weight, (12, 5), "weight")
    assert found[Identity()] == 0.0
    heads = {o.num_heads: c for o, c in found.items() if isinstance(o, InterleaveHeads)}
    assert heads == pytest.approx({2: RARE + 2 / 400, 4: RARE + 4 / 400})
    kernel = costs(weight, (5, 12), "kernel")
    assert Chain((InterleaveHeads(2), Transpose())) in kernel
    split = costs(weight, (5, 2, 3, 2), "kernel")
    assert split[Chain((InterleaveHeads(2), SplitOutputs((2, 3, 2))))] == 0.0
    for shape in ((3, 5, 4), (3, 4)):
        parts = Weight(weight.shape if len(shape) == 3 else (12,), weight.kind)
        assert UNNAMED in costs(parts, shape, "w").values()
    assert not any(
        isinstance(o, InterleaveHeads) for o in costs(Weight((10, 5), "Linear"), (10, 5), "weight")
    )


def test_one_array_may_be_several_of_the_other_side():
    found = dict(split_candidates(Weight((12, 5), "Linear"), (5, 4), "kernel", 3))
    assert found[Chain((SplitGates(3), Transpose()))] == 0.0
    found = dict(split_candidates(Weight((5, 12), "Mine"), (5, 4), "w", 3))
    assert found[Chain((Transpose(), SplitGates(3), Transpose()))] == pytest.approx(UNNAMED)
    assert split_candidates(Weight((5, 12), "Linear"), (5, 4), "kernel", 3) == []
    assert split_candidates(Weight((13, 5), "Linear"), (5, 4), "kernel", 3) == []
    assert split_candidates(Weight((), "Linear"), (), "kernel", 3) == []
    joined = dict(joined_candidates(Weight((4, 5), "Linear"), (5, 12), "kernel", 3))
    assert joined[Chain((Inverse(SplitGates(3)), Transpose()))] == 0.0
    assert joined_candidates(Weight((), "Linear"), (), "kernel", 3) == []
    assert joined_candidates(Weight((4, 5), "Linear"), (5, 8), "kernel", 3) == []


def test_a_chain_has_only_what_does_something():
    assert chained() == Identity()
    assert chained(Identity(), Identity()) == Identity()
    assert chained(Identity(), Transpose()) == Transpose()
    inner = Chain((SplitGates(2), Transpose()))
    assert chained(Transpose(), inner) == Chain((Transpose(), SplitGates(2), Transpose()))


# Names.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("LayerNorm_0", ["layer", "norm"]),
        ("fc1", ["fc"]),
        ("LSTMCell", ["lstm", "cell"]),
        ("blocks.3.q_proj", ["blocks", "q", "proj"]),
    ],
)
def test_the_words_of_a_name(text, words):
    assert words_of(text) == words


def test_synonyms_mean_the_same_and_common_words_nothing():
    assert meaning_of("Dense_0") == meaning_of("fc1") == {"linear"}
    assert meaning_of("bn") == {"batch", "norm"}
    assert meaning_of("model.layers.x") == frozenset()
    assert meaning_of("head") == {"out"}
    assert meaning_of("MultiHeadDotProductAttention_0") == {"attention"}
    assert meaning_of("q") == {"query"}


@pytest.mark.parametrize(
    ("name", "parent", "role"),
    [
        ("kernel", "", "weight"),
        ("gamma", "", "scale"),
        ("average", "mean_ema", "mean"),
        ("value", "var_mean", "var"),
        ("weight_scale", "", "scale"),
        ("thing", "other", ""),
        ("bias", "kernel", "bias"),
    ],
)
def test_the_role_of_an_array(name, parent, role):
    assert role_of(name, parent) == role


def test_ten_comes_behind_nine():
    assert sorted(["b10", "b9", "a2", "b"], key=natural) == ["a2", "b", "b9", "b10"]
    assert natural("b10") == [(False, 0, "b"), (True, 10, "10")]


def test_numbered_siblings_have_places_among_all_and_among_their_kind():
    names = {
        "a": ("Conv_0", "kernel"),
        "b": ("Conv_10", "kernel"),
        "c": ("Conv_9", "kernel"),
        "d": ("out", "bias"),
    }
    kinds = {"Conv_0": "x", "Conv_9": "y", "Conv_10": "x"}
    found = taken_apart(names, lambda path: kinds.get(path[0]), {"d": "given"}, {"d": "Linear"})
    assert found["a"].ranks == (frozenset({0}),)
    assert found["c"].ranks == (frozenset({1, 0}),)
    assert found["b"].ranks == (frozenset({2, 1}),)
    assert found["d"].ranks == ()
    assert [name.position for name in found.values()] == [0, 1 / 3, 2 / 3, 1]
    assert (found["a"].role, found["d"].role) == ("weight", "given")
    assert found["d"].words == {"out", "linear"}
    assert taken_apart({"w": ("w",)}, hash, {})["w"].position == 0
    # The word of the last part counts unless it only says the role.
    found = taken_apart({"x": ("net", "wq"), "y": ("net", "weight"), "z": ("p",)}, hash, {})
    assert (found["x"].words, found["y"].words) == ({"query"}, frozenset())


def name(words=("a",), ranks=(), role="weight", position=0.0):
    return Name(frozenset(words), tuple(frozenset(r) for r in ranks), role, position)


@pytest.mark.parametrize(
    ("one", "other", "cost"),
    [
        (name(), name(), 0.0),
        (name(["a", "b"]), name(["a"]), 0.25),
        (name(["a"]), name(["b"]), 1.0),
        (name([]), name(["b"]), 0.5),
        (name(["b"]), name([]), 0.5),
        (name(position=0.25), name(position=0.75), ORDER * 0.5),
        (name(role=""), name(), UNKNOWN_ROLE),
        (name(), name(role=""), UNKNOWN_ROLE),
        (name(role=""), name(role=""), 0.0),
        (name(role="bias"), name(), OTHER_ROLE),
        (name(role="scale"), name(), ALIKE[frozenset(("weight", "scale"))]),
        (name(ranks=[{0}]), name(ranks=[{0}]), 0.0),
        (name(ranks=[{0}]), name(ranks=[{1}]), 1.0),
        (name(ranks=[{0}]), name(), 0.5),
        (name(), name(ranks=[{0}]), 0.5),
        # The outer place weighs twice as much; 0.3 are those of the common ones in their order.
        (name(ranks=[{0}, {1}]), name(ranks=[{0}, {2}]), 1 - (0.7 * 2 / 3 + 0.15)),
        (name(ranks=[{0}, {1}]), name(ranks=[{2}, {1}]), 1 - (0.7 / 3 + 0.15)),
        (name(ranks=[{0}]), name(ranks=[{0}, {2}]), 1 - (0.7 * 2 / 3 + 0.15)),
        (name(ranks=[{5}, {0}]), name(ranks=[{0}]), 1 - 0.15),
        (name(ranks=[{0, 4}]), name(ranks=[{4}]), 0.0),
        (name(ranks=[{1}, {2}, {3}]), name(ranks=[{2}, {3}, {1}]), 1 - 0.2),
    ],
)
def test_how_unlike_two_names_are(one, other, cost):
    assert difference(one, other) == pytest.approx(cost)
    assert difference(other, one) == pytest.approx(cost)
    assert out_of_order(one, other) == pytest.approx(ORDER * abs(one.position - other.position))
