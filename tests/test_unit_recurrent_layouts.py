"""Recurrent layers and stacks in a suggested map: each way to hold them, carried over by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from jaxrnn.exchange.layouts import OffsetGate
from jaxrnn.exchange.operations import Identity, StackLayers, Transpose
from jaxrnn.exchange.weights import Entry, WeightMapError, entry
from parity.modules.mapping.matching import slot_groups, sorted_paths
from parity.modules.mapping.recurrent import (
    ANY_ORDER,
    EXCHANGED,
    MOST_REORDERED,
    OTHER_ORDER,
    TORCH_ORDER,
    Layer,
    layer_layouts,
)
from parity.modules.mapping.stacks import Tree, stacked_entries, unstacked_trees
from parity.modules.mapping.torch_side import tied_keys, torch_side

H, I = 4, 3
RNG = np.random.default_rng(0)


def layer(gates, *, biases=True, hidden=H, inputs=I):
    return Layer(("w_ih", "w_hh"), ("b_ih", "b_hh") if biases else (), gates, hidden, inputs)


def theirs(gates):
    shapes = {"w_ih": (gates * H, I), "w_hh": (gates * H, H), "b_ih": (gates * H,)}
    shapes["b_hh"] = (gates * H,)
    return {key: RNG.normal(size=shape) for key, shape in shapes.items()}


def carried(layout, weights):
    """JAX's arrays by path, as the entries of a layout make them."""
    found = {}
    for one in layout.entries:
        arrays = one.operation.from_torch([weights[key] for key in one.keys])
        found |= dict(zip(one.paths, arrays, strict=True))
    return found


def blocks(array, gates):
    return np.split(array, gates)


def linen(gates, letters, kernels=("i", "h"), biases=("h",)):
    leaves = {f"i{c}/kernel": (I, H) for c in letters}
    leaves |= {f"h{c}/kernel": (H, H) for c in letters}
    return leaves | {f"{side}{c}/bias": (H,) for side in biases for c in letters}


@pytest.mark.parametrize(("gates", "letters"), [(4, "ifgo"), (3, "rzn"), (1, [""])])
@pytest.mark.parametrize("sides", [("h",), ("i",), ("i", "h")])
def test_one_array_a_gate(gates, letters, sides):
    found = layer_layouts(layer(gates), linen(gates, letters, biases=sides))
    weights = theirs(gates)
    assert (found[0].cost, found[0].known) == (0.0, True)
    ours = carried(found[0], weights)
    for k, c in enumerate(letters):
        np.testing.assert_array_equal(ours[f"i{c}/kernel"], blocks(weights["w_ih"], gates)[k].T)
        np.testing.assert_array_equal(ours[f"h{c}/kernel"], blocks(weights["w_hh"], gates)[k].T)
        if len(sides) == 2:
            for side in sides:
                right = blocks(weights[f"b_{side}h"], gates)[k]
                np.testing.assert_array_equal(ours[f"{side}{c}/bias"], right)
        else:
            total = blocks(weights["b_ih"] + weights["b_hh"], gates)[k]
            np.testing.assert_allclose(ours[f"{sides[0]}{c}/bias"], total)


def test_the_gru_of_flax_has_a_bias_of_its_own_for_the_candidate():
    leaves = linen(3, "rzn", biases=("i",)) | {"hn/bias": (H,)}
    weights = theirs(3)
    ours = carried(layer_layouts(layer(3), leaves)[0], weights)
    for k, c in enumerate("rz"):
        total = blocks(weights["b_ih"] + weights["b_hh"], 3)[k]
        np.testing.assert_allclose(ours[f"i{c}/bias"], total)
    np.testing.assert_array_equal(ours["in/bias"], blocks(weights["b_ih"], 3)[2])
    np.testing.assert_array_equal(ours["hn/bias"], blocks(weights["b_hh"], 3)[2])


def test_an_attribute_that_is_a_keyword_has_an_underscore():
    leaves = linen(4, "ifgo")
    leaves["if_/kernel"] = leaves.pop("if/kernel")
    (first, *_) = layer_layouts(layer(4), leaves)
    assert "if_/kernel" in first.entries[0].paths
    assert first.entries[0].paths.index("if_/kernel") == 1


@pytest.mark.parametrize(
    "leaves",
    [
        {k: v for k, v in linen(4, "ifgo").items() if k != "ho/kernel"},
        {**linen(4, "ifgo"), "ig/kernel": (I + 1, H)},
        {k: v for k, v in linen(4, "ifgo").items() if k != "ho/bias"},
        linen(4, "ifgo", biases=()),
    ],
)
def test_a_gate_that_is_missing_is_no_layout(leaves):
    assert layer_layouts(layer(4), leaves) == []


def test_layers_without_biases_and_with_other_gates():
    leaves = linen(4, "ifgo", biases=())
    (found,) = layer_layouts(layer(4, biases=False), leaves)
    assert len(found.entries) == 2
    assert layer_layouts(layer(2, biases=False), leaves) == []


def rows(array, gates, order):
    return np.concatenate([blocks(array, gates)[k] for k in order])


KERAS = {"kernel": (I, 3 * H), "recurrent_kernel": (H, 3 * H), "bias": (2, 3 * H)}
HAIKU = {"w_i": (I, 3 * H), "w_h": (H, 3 * H), "b": (3 * H,)}
EQUINOX = {"weight_ih": (4 * H, I), "weight_hh": (4 * H, H), "bias": (4 * H,)}
LINEN = {"dense_i/kernel": (I, 4 * H), "dense_h/kernel": (H, 4 * H), "dense_h/bias": (4 * H,)}
FRAMEWORKS = {
    "keras gru": (3, KERAS, (1, 0, 2)),
    "keras lstm": (
        4,
        {"kernel": (I, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,)},
        (0, 1, 2, 3),
    ),
    "haiku gru": (3, HAIKU, (1, 0, 2)),
    "equinox lstm": (4, EQUINOX, (0, 1, 2, 3)),
    "optimized lstm": (4, LINEN, (0, 1, 2, 3)),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_order_of_the_gates_is_the_frameworks(name):
    gates, leaves, order = FRAMEWORKS[name]
    found = layer_layouts(layer(gates), leaves)
    first, second = found[:2]
    assert first.known
    assert first.cost < second.cost
    assert [layout.cost for layout in found] == sorted(layout.cost for layout in found)
    weights = theirs(gates)
    ours = carried(first, weights)
    names = list(leaves)
    w_ih = rows(weights["w_ih"], gates, order)
    w_hh = rows(weights["w_hh"], gates, order)
    turned = name != "equinox lstm"
    np.testing.assert_array_equal(ours[names[0]], w_ih.T if turned else w_ih)
    np.testing.assert_array_equal(ours[names[1]], w_hh.T if turned else w_hh)
    b_ih, b_hh = (rows(weights[key], gates, order) for key in ("b_ih", "b_hh"))
    expected = np.stack([b_ih, b_hh]) if name == "keras gru" else b_ih + b_hh
    np.testing.assert_allclose(ours[names[2]], expected)
    others = [layout for layout in found if not layout.known]
    assert min(layout.cost for layout in others) == pytest.approx(first.cost + OTHER_ORDER)


def test_where_the_framework_is_not_known_pytorchs_order_is_the_likeliest():
    leaves = {"a": (I, 3 * H), "u": (H, 3 * H)}
    found = layer_layouts(layer(3, biases=False), leaves)
    assert len(found) == 6
    assert not any(layout.known for layout in found)
    # "a" is no name of what multiplies the input.
    assert [found[0].cost, found[1].cost] == pytest.approx(
        [EXCHANGED + TORCH_ORDER, EXCHANGED + ANY_ORDER]
    )
    weights = theirs(3)
    np.testing.assert_array_equal(carried(found[0], weights)["a"], weights["w_ih"].T)
    (plain,) = layer_layouts(layer(1, biases=False), {"x": (I, H), "u": (H, H)})[:1]
    assert (plain.cost, plain.known) == (0.0, True)


def test_matrices_of_one_shape_are_told_apart_by_their_names():
    leaves = {"h": (H, 3 * H), "x": (H, 3 * H)}
    found = layer_layouts(layer(3, biases=False, inputs=H), leaves)
    best = found[0].entries
    assert [one.paths for one in best] == [("x",), ("h",)]
    exchanged = [f for f in found if f.entries[0].paths == ("h",)]
    assert exchanged[0].cost == pytest.approx(2 * EXCHANGED + TORCH_ORDER)
    assert not any(f.entries[0].paths == f.entries[1].paths for f in found)


def test_the_transposed_layout_is_that_of_both_matrices():
    # (rows, columns) of one and (columns, rows) of the other are of two frameworks.
    leaves = {"weight_x": (3 * H, I), "weight_h": (H, 3 * H)}
    assert layer_layouts(layer(3, biases=False), leaves) == []
    square = {"x": (H, H), "h": (H, H)}
    found = layer_layouts(layer(1, biases=False, inputs=H), square)
    operations = {(f.entries[0].operation, f.entries[1].operation) for f in found}
    assert operations == {(Transpose(),) * 2, (Identity(),) * 2}
    assert found[0].entries[0].operation == Transpose()
    weights = {"weight_x": (H, H), "weight_h": (H, H)}
    found = layer_layouts(layer(1, biases=False, inputs=H), weights)
    assert found[0].entries[0].operation == Identity()


BIASES = {"x": (I, 3 * H), "h": (H, 3 * H), "x_b": (3 * H,), "h_b": (3 * H,)}


def test_two_vectors_are_both_biases_in_the_order_of_their_names():
    found = layer_layouts(layer(3), BIASES)
    kinds = [tuple(one.paths for one in f.entries[2:]) for f in found]
    assert kinds[0] == (("x_b",), ("h_b",))
    right = [f.cost for f, kind in zip(found, kinds, strict=True) if kind == (("x_b",), ("h_b",))]
    turned = [f.cost for f, kind in zip(found, kinds, strict=True) if kind == (("h_b",), ("x_b",))]
    alone = [f.cost for f, kind in zip(found, kinds, strict=True) if kind == (("x_b",),)]
    assert min(turned) == pytest.approx(min(right) + EXCHANGED)
    assert min(alone) == pytest.approx(min(right) + EXCHANGED)
    # Other orders of the gates are tried for the likeliest choices alone.
    assert len(kinds) == MOST_REORDERED * 6


def test_the_bias_of_the_candidate_may_stand_alone():
    leaves = {"x": (I, 3 * H), "h": (H, 3 * H), "bias": (3 * H,), "bias_n": (H,)}
    found = layer_layouts(layer(3), leaves)
    weights = theirs(3)
    ours = carried(found[0], weights)
    assert set(ours) == set(leaves)
    np.testing.assert_array_equal(ours["bias_n"], blocks(weights["b_hh"], 3)[2])
    # The gates of such a layer are in PyTorch's order.
    assert sum(len(f.entries[-1].paths) == 2 for f in found) == 1


def test_one_matrix_beside_the_other_as_in_haikus_lstm():
    leaves = {"linear/w": (I + H, 4 * H), "linear/b": (4 * H,)}
    found = layer_layouts(layer(4), leaves)
    first, second = found[:2]
    assert (first.cost, first.known) == (0.0, True)
    assert second.cost == OTHER_ORDER
    assert not second.known
    weights = theirs(4)
    ours = carried(first, weights)
    order = (0, 2, 1, 3)
    beside = np.concatenate([weights["w_ih"], weights["w_hh"]], axis=1)
    np.testing.assert_array_equal(ours["linear/w"], rows(beside, 4, order).T)
    bias = rows(weights["b_ih"] + weights["b_hh"], 4, order)
    moved = OffsetGate(2, 4).from_torch([bias])[0]
    np.testing.assert_allclose(ours["linear/b"], moved)
    assert np.abs(ours["linear/b"] - bias)[2 * H : 3 * H] == pytest.approx(1.0)


def test_one_matrix_of_ones_own():
    leaves = {"w": (3 * H, I + H), "b": (3 * H,)}
    found = layer_layouts(layer(3), leaves)
    assert [f.cost for f in found[:2]] == pytest.approx([0.1 + TORCH_ORDER, 0.1 + ANY_ORDER])
    assert len(found) == 6
    weights = theirs(3)
    beside = np.concatenate([weights["w_ih"], weights["w_hh"]], axis=1)
    np.testing.assert_array_equal(carried(found[0], weights)["w"], beside)
    assert layer_layouts(layer(3), {"w": (3 * H, I + H)}) == []
    assert len(layer_layouts(layer(3, biases=False), {"w": (3 * H, I + H)})) == 6


# PyTorch's side.


def test_the_recurrent_layers_of_a_module():
    module = nn.ModuleDict(
        {
            "rnn": nn.LSTM(I, H, 2, bidirectional=True),
            "cell": nn.GRUCell(I, H, bias=False),
            "projected": nn.LSTM(I, H, proj_size=2),
            "bn": nn.BatchNorm1d(H),
            "e": nn.Embedding(5, 2),
        }
    )
    side = torch_side(module, tied={})
    assert len(side.layers) == 5
    found = side.layers["rnn.weight_ih_l1_reverse"]
    assert found.keys == tuple(
        f"rnn.{name}_l1_reverse" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    assert (found.gates, found.hidden_size, found.input_size) == (4, H, 2 * H)
    cell = side.layers["cell.weight_ih"]
    assert (cell.gates, cell.biases) == (3, ())
    assert "bn.num_batches_tracked" not in side.weights
    assert side.names["bn.weight"].role == "scale"
    assert side.names["e.weight"].role == "embed"
    assert side.names["rnn.weight_ih_l0"].words >= {"lstm"}
    assert side.weights["bn.weight"].kind == "BatchNorm1d"
    assert "reverse" in side.layer_names["rnn.weight_ih_l1_reverse"].words
    assert "forward" in side.layer_names["rnn.weight_ih_l1"].words
    alone = torch_side(nn.GRU(I, H), tied={})
    assert "forward" not in alone.layer_names["weight_ih_l0"].words


def test_tied_keys_are_all_names_of_one_tensor():
    shared = torch.ones(2, 2)
    state = {
        "a": shared,
        "b": torch.ones(2, 2),
        "c": shared,
        "d": torch.ones(0),
        "e": torch.ones(0),
    }
    assert tied_keys(state) == {"a": ("a", "c")}
    # A view of another shape is another weight.
    assert tied_keys({"a": shared, "c": shared.reshape(4)}) == {}
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    tied = tied_keys(module.state_dict())
    assert list(torch_side(module, tied=tied).weights) == ["0.weight"]
    assert list(torch_side(module, tied={}).weights) == ["0.weight", "1.weight"]
    conv = torch_side(nn.Conv1d(4, 4, 1, groups=2), tied={})
    assert conv.weights["weight"].groups == 2


# Stacks.

SHAPES = {"blocks/a/w": (3, 4, 5), "blocks/b": (3, 4), "out/w": (4, 5)}


def test_a_node_of_one_leading_size_is_taken_apart():
    first, *others = unstacked_trees(SHAPES, {"out/w": "0"})
    assert (first.shapes, first.paths, first.layers) == (SHAPES, {"out/w": "0"}, 0)
    by_layers = {tuple(sorted(tree.origin)): tree for tree in others}
    (tree,) = [t for t in others if "blocks/2/a/w" in t.shapes]
    assert tree.layers == 3
    assert tree.shapes["blocks/2/a/w"] == (4, 5)
    assert tree.shapes["blocks/0/b"] == (4,)
    assert tree.shapes["out/w"] == (4, 5)
    assert tree.origin["blocks/2/a/w"] == ("blocks/a/w", 2)
    assert tree.path("out/w") == "0"
    assert len(by_layers) == 3  # blocks, blocks/a and out; the root has two sizes
    assert len(list(unstacked_trees({"n/a": (), "n/b": ()}, {}))) == 1
    assert len(list(unstacked_trees({"n/a": (1, 2)}, {}))) == 1
    assert len(list(unstacked_trees({"a": (2, 2), "b": (2,)}, {}))) == 2
    arrays = {"blocks/a/w": RNG.normal(size=(3, 4, 5)), "blocks/b": RNG.normal(size=(3, 4))}
    arrays["0"] = RNG.normal(size=(4, 5))
    apart = tree.taken_apart(arrays)
    np.testing.assert_array_equal(apart["blocks/1/a/w"], arrays["blocks/a/w"][1])
    back = tree.stacked(apart)
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def tree():
    origin = {f"b/{k}/w": ("b/w", k) for k in range(2)}
    return Tree({**{name: (4,) for name in origin}, "o": (4,)}, {"b/w": "7", "o": "8"}, origin, 2)


@pytest.mark.parametrize("operation", [Identity(), Transpose()])
def test_the_entries_of_layers_become_one(operation):
    entries = [entry(f"t.{k}", f"b/{k}/w", operation) for k in (1, 0)]
    found = stacked_entries([*entries, entry("o", "o")], tree())
    assert found[0] == Entry(("o",), ("8",), Identity())
    stacked = found[1]
    assert (stacked.keys, stacked.paths) == (("t.0", "t.1"), ("7",))
    arrays = [RNG.normal(size=(2, 3)) for _ in range(2)]
    (got,) = stacked.operation.from_torch(arrays)
    expected = [operation.from_torch([a])[0] for a in arrays]
    np.testing.assert_array_equal(got, np.stack(expected))
    assert isinstance(stacked.operation, StackLayers) == (operation == Identity())


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry("t", ("b/0/w", "b/1/w"))], "would be in several layers"),
        ([entry("t", ("b/0/w", "o"))], "would be in several layers"),
        ([entry("t", "b/0/w")], "The layers of 7 do not have one counterpart each"),
        ([entry("t", "b/0/w"), entry("u", "b/1/w", Transpose())], "do not have one counterpart"),
    ],
)
def test_layers_that_do_not_fit_are_refused(entries, words):
    with pytest.raises(WeightMapError, match=words):
        stacked_entries(entries, tree())


def test_paths_are_sorted_by_number():
    shapes = dict.fromkeys(["a_10/w", "a_9/w", "a/w", "a_9/b", "b", "a2"], (1,))
    assert sorted_paths(shapes) == ["a/w", "a2", "a_9/b", "a_9/w", "a_10/w", "b"]


def test_queries_keys_and_values_are_a_group_if_all_three_are_there():
    names = ["x/query/w", "x/key/w", "x/value/w", "x/query/b", "x/key/b", "wq", "wk", "wv", "bq"]
    parts = {name: name.split("/") for name in names}
    shapes = dict.fromkeys(names, (4, 4))
    assert slot_groups(parts, shapes) == [
        ["x/query/w", "x/key/w", "x/value/w"],
        ["wq", "wk", "wv"],
    ]
    assert slot_groups(parts, {**shapes, "wk": (4, 3)}) == [["x/query/w", "x/key/w", "x/value/w"]]
