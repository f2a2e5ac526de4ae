"""Where models differ: every mistake is made in one block of a net, and has to be found there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from torch import nn

import parity
from parity import Chain, SplitGates, Transpose, WeightMap, entry
from parity.tracing.differences import Difference, in_words

E, HEADS, HIDDEN, BLOCKS = 12, 3, 20, 3


class Block(nn.Module):
    """A block of a transformer, with the norms in front."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(E), nn.LayerNorm(E)
        self.attn = nn.MultiheadAttention(E, HEADS, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(E, HIDDEN), nn.Linear(HIDDEN, E)
        self.act = nn.GELU()

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """Blocks, and a dense layer."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.out = nn.Linear(E, 7)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.out(x)


def layer_norm(p, x, epsilon=1e-5, ddof=0):
    centered = x - x.mean(-1, keepdims=True)
    return (
        centered / jnp.sqrt(x.var(-1, keepdims=True, ddof=ddof) + epsilon) * p["scale"] + p["bias"]
    )


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return jax.nn.gelu(x, approximate=False)


@jax.custom_vjp
def straight_through(x):
    return gelu(x)


straight_through.defvjp(lambda x: (gelu(x), None), lambda _, g: (g,))


def attention(p, y, mistake):
    def heads(name):
        return dense(p[name], y).reshape(*y.shape[:2], HEADS, -1)  # (B, T, N, E / N)

    q, k, v = map(heads, "qkv")
    size = E if mistake == "scale of attention" else E // HEADS
    if mistake == "no gradient of keys":
        k = lax.stop_gradient(k)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(float(size))
    if mistake == "causal":
        scores = jnp.where(jnp.tri(y.shape[1], dtype=bool), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, -2 if mistake == "axis of softmax" else -1)
    return dense(p["o"], jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(y.shape))


def block(p, x, mistake=""):
    y = layer_norm(
        p["norm1"],
        lax.stop_gradient(x) if mistake == "no gradient through the norm" else x,
        1e-6 if mistake == "epsilon" else 1e-5,
        1 if mistake == "sample variance" else 0,
    )
    y = attention(p["attn"], y, mistake)
    x = y if mistake == "no residual" else x + y
    y = x if mistake == "no norm" else layer_norm(p["norm2"], x)
    kernel = {**p["fc1"], "bias": 2 * p["fc1"]["bias"]} if mistake == "bias twice" else p["fc1"]
    h = dense(kernel, y)
    activations = {
        "GELU of tanh": jax.nn.gelu,
        "relu": jax.nn.relu,
        "straight through": straight_through,
    }
    h = activations.get(mistake, gelu)(h)
    h = 1.0003 * h if mistake == "scaled a little" else h
    h = jnp.sin(3 * h) + h[..., ::-1] if mistake == "something odd" else h
    y = dense(p["fc2"], h)
    return x + (y - p["fc2"]["bias"] if mistake == "no bias" else y)


def shapes():
    def layer(inputs, outputs):
        return {"kernel": np.zeros((inputs, outputs)), "bias": np.zeros(outputs)}

    tree = {"out": layer(E, 7)}
    for k in range(BLOCKS):
        norms = {f"norm{n}": {"scale": np.ones(E), "bias": np.zeros(E)} for n in (1, 2)}
        attn = {name: layer(E, E) for name in "qkvo"}
        tree[f"b{k}"] = {**norms, "attn": attn, "fc1": layer(E, HIDDEN), "fc2": layer(HIDDEN, E)}
    return tree


def weight_map():
    def layer(key, path):
        return [
            entry(f"{key}.weight", f"{path}/kernel", Transpose()),
            entry(f"{key}.bias", f"{path}/bias"),
        ]

    entries = layer("out", "out")
    for k in range(BLOCKS):
        key, path = f"blocks.{k}", f"b{k}"
        for norm in ("norm1", "norm2"):
            entries.append(entry(f"{key}.{norm}.weight", f"{path}/{norm}/scale"))
            entries.append(entry(f"{key}.{norm}.bias", f"{path}/{norm}/bias"))
        for name in ("fc1", "fc2"):
            entries += layer(f"{key}.{name}", f"{path}/{name}")
        kernels = [f"{path}/attn/{name}/kernel" for name in "qkv"]
        biases = [f"{path}/attn/{name}/bias" for name in "qkv"]
        split = Chain((SplitGates(3), Transpose()))
        entries.append(entry(f"{key}.attn.in_proj_weight", kernels, split))
        entries.append(entry(f"{key}.attn.in_proj_bias", biases, SplitGates(3)))
        entries += layer(f"{key}.attn.out_proj", f"{path}/attn/o")
    return WeightMap(entries)


def compared(mistake, places=(1,)):
    def net(params, x):
        for k in range(BLOCKS):
            x = block(params[f"b{k}"], x, mistake if k in places else "")
        return dense(params["out"], x)

    x = np.random.default_rng(0).normal(size=(2, 5, E))
    return parity.compare_models(
        net, shapes(), Transformer(), weight_map(), [x], dtypes=("float64",), variants=False
    )


FORWARD = {
    "epsilon": ("blocks.1.norm1", "eps is 1e-06, PyTorch has 1e-05"),
    "sample variance": ("blocks.1.norm1", "the variance is that of a sample"),
    "scale of attention": ("blocks.1.attn", "0.288675, PyTorch has 0.5"),
    "causal": ("blocks.1.attn", "is masked: later steps are not seen"),
    "axis of softmax": ("blocks.1.attn", "dim is -2, PyTorch has -1"),
    "no residual": ("blocks.1", "add is missing"),
    "no norm": ("blocks.1.norm2", "layer_norm is missing"),
    "bias twice": ("blocks.1.fc1", "bias is doubled"),
    "GELU of tanh": ("blocks.1.act", "approximate is tanh, PyTorch has none"),
    "relu": ("blocks.1.act", "relu stands for gelu"),
    "scaled a little": ("blocks.1.act", "multiplied by 1.0003"),
    "something odd": ("blocks.1", "linear reads something else than the output of gelu"),
    "no bias": ("blocks.1.fc2", "bias is missing"),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("mistake", FORWARD)
def test_the_module_that_differs_is_named_with_its_cause(mistake):
    module, cause = FORWARD[mistake]
    report = compared(mistake)
    assert not report.passed
    (found,) = report.differences
    assert (found.direction, found.module) == ("forward", module)
    assert cause in found.cause
    assert str(found) in report.summary()


BACKWARD = {
    "no gradient through the norm": ("blocks.1.norm1", "no gradient flows back"),
    "no gradient of keys": ("blocks.1.attn", "no gradient flows back"),
    "straight through": ("blocks.1.act", "the gradient goes through unchanged"),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("mistake", BACKWARD)
def test_where_values_agree_the_derivative_that_differs_is_named(mistake):
    module, cause = BACKWARD[mistake]
    report = compared(mistake)
    assert not report.passed
    (found,) = report.differences
    assert (found.direction, found.module) == ("backward", module)
    assert cause in found.cause


def test_spread_is_no_difference_and_each_origin_is_named():
    report = compared("epsilon", places=(0, 2))
    assert [found.module for found in report.differences] == ["blocks.0.norm1", "blocks.2.norm1"]
    assert "the same in blocks.2.norm1" in report.summary()
    # The heat map: what only spreads is right behind the causes.
    grid = report.grids["module: forward"]
    assert grid["blocks.1.fc1"]["running freely"] > 1e-9
    assert grid["blocks.1.fc1"]["behind the causes"] < 1e-11


def test_equal_models_have_no_differences():
    report = compared("", places=())
    assert report.passed
    assert report.differences == ()


class Layers(nn.Module):
    """Three LSTM layers in one module, and a dense layer."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(4, 5, 3), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def lstm(p, xs, k, forget_bias):
    def step(carry, x):
        h, c = carry
        gates = x @ p[f"weight_ih_l{k}"].T + p[f"bias_ih_l{k}"] + p[f"bias_hh_l{k}"]
        i, f, g, o = jnp.split(gates + h @ p[f"weight_hh_l{k}"].T, 4, -1)
        c = jax.nn.sigmoid(f + forget_bias) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((xs.shape[1], 5), xs.dtype)
    return lax.scan(step, (zeros, zeros), xs)[1]


def test_the_layer_of_a_stack_is_named_with_the_gate_of_its_bias():
    module = Layers()
    params = {"out": {"kernel": np.zeros((5, 3)), "bias": np.zeros(3)}, "rnn": {}}
    entries = [entry("out.weight", "out/kernel", Transpose()), entry("out.bias", "out/bias")]
    for name, weight in module.rnn.named_parameters():
        params["rnn"][name] = np.zeros(tuple(weight.shape))
        entries.append(entry(f"rnn.{name}", f"rnn/{name}"))

    def net(params, xs):
        for k in range(3):
            xs = lstm(params["rnn"], xs, k, 1.0 if k == 1 else 0.0)
        return dense(params["out"], xs)

    xs = np.random.default_rng(0).normal(size=(4, 3, 4))
    report = parity.compare_models(
        net, params, module, WeightMap(entries), [xs], dtypes=("float64",), variants=False
    )
    (found,) = report.differences
    assert found.module == "rnn.layer 1"
    assert "1 is added to gate 1 of 4" in found.cause


def test_layouts_of_their_own_are_no_difference_and_a_missing_pad_is():
    """Channels last in JAX, and first in PyTorch."""
    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3))

    def net(padding, params, x):
        def conv(name, x, padding):
            y = lax.conv_general_dilated(
                x,
                params[name]["kernel"],
                (1, 1),
                padding,
                dimension_numbers=("NHWC", "OIHW", "NHWC"),
            )
            return y + params[name]["bias"]

        x = x.transpose(0, 2, 3, 1)  # (B, C, Y, X) to (B, Y, X, C)
        x = conv("2", jax.nn.relu(conv("0", x, padding)), "VALID")
        return x.transpose(0, 3, 1, 2)

    params = {
        "0": {"kernel": np.zeros((3, 2, 3, 3)), "bias": np.zeros(3)},
        "2": {"kernel": np.zeros((2, 3, 3, 3)), "bias": np.zeros(2)},
    }
    entries = []
    for name in params:
        entries += [
            entry(f"{name}.weight", f"{name}/kernel"),
            entry(f"{name}.bias", f"{name}/bias"),
        ]
    arguments = (
        params,
        module,
        WeightMap(entries),
        [np.random.default_rng(0).normal(size=(2, 2, 6, 6))],
    )
    options = {"dtypes": ("float64",), "variants": False}
    right = parity.compare_models(lambda p, x: net("SAME", p, x), *arguments, **options)
    assert right.passed, right.summary()
    shifted = ((2, 0), (2, 0))
    wrong = parity.compare_models(lambda p, x: net(shifted, p, x), *arguments, **options)
    assert wrong.differences[0].module == "0"


def test_differences_with_the_same_cause_share_a_line():
    def found(module, cause):
        return Difference("forward", module, "Linear", "linear", cause, "", 1e-3)

    lines = in_words([found("a", "x"), found("b", "y"), found("c", "x")])
    assert len(lines) == 2
    assert lines[0].endswith("the same in c")


def test_a_difference_outside_of_the_users_inputs_is_placed_by_those_that_show_it():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    params = {
        str(k): {"kernel": np.zeros(s), "bias": np.zeros(s[1])}
        for k, s in ((0, (3, 4)), (1, (4, 2)))
    }
    entries = []
    for name in params:
        entries += [
            entry(f"{name}.weight", f"{name}/kernel", Transpose()),
            entry(f"{name}.bias", f"{name}/bias"),
        ]

    def net(params, x):
        return dense(params["1"], jnp.minimum(dense(params["0"], x), 100.0))

    x = np.random.default_rng(0).normal(size=(5, 3))
    report = parity.compare_models(
        net, params, module, WeightMap(entries), [x], dtypes=("float64",)
    )
    assert not report.passed
    assert report.differences
    with torch.no_grad():
        assert module(torch.zeros(1, 3)).shape == (1, 2)  # the module is as it was
