"""Weight maps that write themselves: of real ports, of hostile ones, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from suggested_ports import IN_FLOAT32, PORTS, nnx_recurrent
from torch import nn

import parity
from parity import Transpose, WeightMapError, entry
from parity.modules.mapping.trying import AGREE
from parity.modules.suggest import ROUNDED

E = 6
X = np.random.default_rng(1).normal(size=(4, E))

NAMES_ALONE = sorted(
    PORTS.keys()
    - {
        # In Flax the layer that is made first is called Dense_0, here the outer one.
        *("linen_transformer", "linen_transformer_scanned_over_layers"),
        # Nothing but trying can tell.
        "mlp_with_names_in_another_order_and_weights_both_ways_round",
        "linen_transposed_convolution_with_transposed_kernel",
        "attention_fused_head_by_head",
        "lstm_by_hand_with_another_order_of_gates",
        "branches_that_differ_behind_their_first_layer",
    }
)
"""Ports whose map names, shapes and order give."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.sample(1)
@pytest.mark.parametrize("name", PORTS)
def test_the_suggested_map_verifies_the_port_and_its_code_makes_the_same_map(name):
    function, params, module, inputs = PORTS[name]()
    weight_map = parity.suggest_map(params, module, jax_function=function, inputs=inputs)
    assert weight_map.ambiguous == ()
    assert weight_map.unmatched == ()
    assert weight_map.agreement <= (ROUNDED if name in IN_FLOAT32 else AGREE)

    dtypes = ("float32",) if name in IN_FLOAT32 else ("float64",)
    report = parity.check(function, params, module, weight_map, inputs, dtypes=dtypes)
    assert report.passed, report.summary()

    pasted = {}
    exec(weight_map.code(), pasted)
    assert pasted["weight_map"].entries == weight_map.entries
    assert all(len(line) <= 100 for line in weight_map.code().splitlines())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.sample(2)
@pytest.mark.parametrize("name", NAMES_ALONE)
def test_names_shapes_and_order_give_the_map_of_most_ports(name):
    function, params, module, inputs = PORTS[name]()
    suggested = parity.suggest_map(params, module)
    tried = parity.suggest_map(params, module, jax_function=function, inputs=inputs)
    assert suggested.agreement is None
    assert suggested.entries == tried.entries


@pytest.mark.filterwarnings("ignore")
@pytest.mark.sample(3)
@pytest.mark.parametrize("name", PORTS)
def test_a_converted_checkpoint_computes_what_torch_computes(name):
    """From a state dict to a tree of parameters: the outputs agree, in float32."""
    function, params, module, inputs = PORTS[name]()
    weight_map = parity.suggest_map(params, module, jax_function=function, inputs=inputs)
    converted = parity.convert(module.state_dict(), weight_map, like=params)
    assert jax.tree.structure(converted) == jax.tree.structure(params)
    tensors = [torch.tensor(x, dtype=torch.float32 if x.dtype == float else None) for x in inputs]
    with torch.no_grad():
        expected = module(*tensors).numpy()
    got = np.asarray(function(converted, *(jnp.asarray(tensor.numpy()) for tensor in tensors)))
    # Sums of some ten terms, a few one after the other, in float32.
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def dense(params, x):
    """Two square layers without names that say anything."""
    return jnp.tanh(x @ params["alpha"]) @ params["beta"]


def square_module():
    return nn.Sequential(nn.Linear(E, E, bias=False), nn.Tanh(), nn.Linear(E, E, bias=False))


SQUARE = {"alpha": np.zeros((E, E)), "beta": np.zeros((E, E))}


def test_what_names_and_shapes_leave_open_is_said():
    suggested = parity.suggest_map(SQUARE, square_module())
    said = " ".join(suggested.ambiguous)
    assert "the layout of 0.weight as alpha: Transpose and Identity both fit" in said
    assert "which of 0.weight and 2.weight is which" in said
    assert "# Not decided: the layout of 0.weight" in str(suggested)


def test_trying_decides_it():
    suggested = parity.suggest_map(SQUARE, square_module(), jax_function=dense, inputs=(X,))
    assert suggested.ambiguous == ()
    assert suggested.entries == (
        entry("0.weight", "alpha", Transpose()),
        entry("2.weight", "beta", Transpose()),
    )


class Blind(nn.Module):
    """The second of two layers has no influence."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Linear(E, E, bias=False) for _ in range(2))

    def forward(self, x):
        return self.first(x)


@pytest.mark.parametrize("factor", [1.0, 1.01], ids=["equal", "different"])
def test_what_the_outputs_do_not_show_stays_open(factor):
    params = {"first": np.zeros((E, E)), "second": np.zeros((E, E))}
    suggested = parity.suggest_map(
        params,
        Blind(),
        jax_function=lambda params, x: factor * x @ params["first"],
        inputs=(X,),
    )
    assert any("layout of second.weight" in sentence for sentence in suggested.ambiguous)
    assert not any("layout of first.weight" in sentence for sentence in suggested.ambiguous)
    # A factor is no question of layout, and is said.
    assert ("the functions differ, or the map is wrong" in suggested.code()) == (factor != 1)


def test_outputs_that_show_nothing_decide_nothing():
    """Both are NaN everywhere, whatever the weights."""
    module = nn.Sequential(*square_module(), Root())
    suggested = parity.suggest_map(
        SQUARE, module, jax_function=lambda p, x: jnp.sqrt(-jnp.abs(dense(p, x)) - 1), inputs=(X,)
    )
    assert suggested.agreement == np.inf
    assert len(suggested.ambiguous) == 2


class Root(nn.Module):
    """NaN of any number."""

    def forward(self, x):
        return torch.sqrt(-x.abs() - 1)


def test_the_map_of_functions_that_differ_is_still_the_nearest():
    """Another epsilon, and names that say nothing: the layouts are decided nevertheless."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(E, E), nn.LayerNorm(E), nn.Linear(E, E)

        def forward(self, x):
            return self.b(torch.tanh(self.norm(self.a(x))))

    def run(p, x):
        y = x @ p["u"] + p["u0"]
        y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-3)
        return jnp.tanh(y * p["s"] + p["s0"]) @ p["m"].T + p["m0"]

    params = {"u": np.zeros((E, E)), "u0": np.zeros(E), "m": np.zeros((E, E)), "m0": np.zeros(E)}
    params |= {"s": np.ones(E), "s0": np.zeros(E)}
    suggested = parity.suggest_map(params, Module(), jax_function=run, inputs=(X,))
    assert ROUNDED < suggested.agreement < 0.1
    assert set(suggested.entries) == {
        entry("a.weight", "u", Transpose()),
        entry("a.bias", "u0"),
        entry("norm.weight", "s"),
        entry("norm.bias", "s0"),
        entry("b.weight", "m"),
        entry("b.bias", "m0"),
    }


def test_weights_of_one_side_alone_are_named_and_the_map_still_covers_both():
    params = {"Dense_0": {"kernel": np.zeros((E, E))}, "norm": {"scale": np.ones(4)}}
    module = nn.Sequential(nn.Linear(E, E, bias=False), nn.BatchNorm1d(E, affine=False)).eval()
    with pytest.raises(WeightMapError, match=r"Nothing fits.*running_mean.*norm/scale"):
        parity.suggest_map(params, module)

    del params["norm"]
    suggested = parity.suggest_map(params, module)
    assert [sentence.split()[0] for sentence in suggested.unmatched] == [
        "1.running_mean",
        "1.running_var",
    ]
    # The counter is left out without a word.
    assert set(suggested.keys) == set(module.state_dict())

    params["norm"] = {"scale": np.full(4, 2.0)}
    suggested = parity.suggest_map(params, nn.Linear(E, E, bias=False))
    assert suggested.unmatched == ("norm/scale (4,) of JAX, taken as 2 everywhere",)
    moved = suggested.from_torch({"weight": np.ones((E, E))})
    np.testing.assert_array_equal(moved["norm/scale"], np.full(4, 2.0))


@pytest.mark.parametrize(
    ("params", "module", "words"),
    [
        ({"kernel": np.zeros((5, 3))}, nn.Linear(4, 3, bias=False), r"weight \(3, 4\).*\(5, 3\)"),
        ({"kernel": np.zeros((4, 3)), "steps": np.zeros((), int)}, nn.Linear(4, 3), "steps"),
    ],
    ids=["another size", "a counter"],
)
def test_what_does_not_fit_is_refused(params, module, words):
    with pytest.raises(WeightMapError, match=words):
        parity.suggest_map(params, module)


@pytest.mark.parametrize(
    ("params", "options", "words"),
    [
        ({}, {}, "params must be a tree with arrays"),
        ({"a": print}, {}, "params must be a tree of arrays, got <built-in function print> at a"),
        (SQUARE, {"inputs": (X,)}, "jax_function and inputs must be given together"),
        (SQUARE, {"inputs": (X,), "jax_function": lambda p, x: x[0] @ p["alpha"]}, "of shapes"),
    ],
    ids=["no arrays", "no array", "no function", "other outputs"],
)
def test_a_wrong_argument_is_refused(params, options, words):
    with pytest.raises(ValueError, match=words):
        parity.suggest_map(params, square_module(), **options)


def test_random_outputs_are_refused():
    module = nn.Sequential(*square_module(), nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"evaluation mode, `torch_module.eval\(\)`"):
        parity.suggest_map(SQUARE, module, jax_function=dense, inputs=(X,))


class Untied(linen.Module):
    """An embedding and an output layer with weights of its own."""

    @linen.compact
    def __call__(self, tokens):
        return linen.Dense(9, use_bias=False)(linen.Embed(9, E)(tokens))


def test_a_weight_that_only_torch_ties_has_two_places_in_jax():
    embed = nn.Embedding(9, E)
    head = nn.Linear(E, 9, bias=False)
    head.weight = embed.weight
    tokens = np.arange(9)
    params = Untied().init(jax.random.key(0), tokens)["params"]
    suggested = parity.suggest_map(params, nn.Sequential(embed, head))
    assert suggested.entries == (
        entry("0.weight", "Embed_0/embedding"),
        entry("1.weight", "Dense_0/kernel", Transpose()),
    )
    assert any("one weight in PyTorch" in sentence for sentence in suggested.ambiguous)


def test_repeated_blocks_are_written_once():
    blocks = [{"w": np.zeros((E, E)), "b": np.zeros(E)} for _ in range(3)]
    params = {"blocks": blocks, "out": {"w": np.zeros((E, 2)), "b": np.zeros(2)}}

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(E, E) for _ in range(3))
            self.out = nn.Linear(E, 2)

    suggested = parity.suggest_map(params, Module())
    code = suggested.code()
    assert "for k in range(3)" in code
    assert code.count('f"blocks.') == 2  # a weight and a bias
    pasted = {}
    exec(code, pasted)
    assert pasted["weight_map"].entries == suggested.entries
    assert pasted["weight_map"].entries[4] == entry("blocks.2.weight", "blocks/2/w", Transpose())


def test_the_map_of_another_equation_is_the_nearest_and_the_difference_is_found():
    """NNX's GRU has no bias of the hidden state: its matrices are PyTorch's all the same."""
    function, params, module, inputs = nnx_recurrent("gru", nnx.GRUCell)
    suggested = parity.suggest_map(params, module, jax_function=function, inputs=inputs)
    assert suggested.agreement > ROUNDED
    assert set(suggested.entries[:2]) == {
        entry("rnn.weight_ih_l0", "dense_i/kernel", Transpose()),
        entry("rnn.weight_hh_l0", "dense_h/kernel", Transpose()),
    }
    assert suggested.inexact.keys() == {"dense_i/bias"}


def test_numbers_weigh_more_than_order():
    """Layers that are defined last to first, and counted first to last."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc3, self.fc2, self.fc1 = (nn.Linear(E, E, bias=False) for _ in range(3))

    params = {f"Dense_{k}": {"kernel": np.zeros((E, E))} for k in range(3)}
    suggested = parity.suggest_map(params, Module())
    assert suggested.ambiguous == ()
    assert set(suggested.entries) == {
        entry(f"fc{k + 1}.weight", f"Dense_{k}/kernel", Transpose()) for k in range(3)
    }
