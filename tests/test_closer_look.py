"""A closer look at two programs: inside of a function, and at the order of numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import parity
from parity import WeightMap, entry
from parity.tracing.layouts import Lookup, may_be_laid_out
from parity.tracing.torch_trace import recorded

B, S, E = 3, 6, 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, S, E))
GAIN = RNG.normal(size=E)

# What is taken apart, of functions of one tensor.
FUNCTIONS = {
    "linear": nn.Linear(E, 3).double(),
    "conv1d": nn.Conv1d(S, 4, 3, padding=1).double(),
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "elu": lambda x: functional.elu(x, 0.7),
    "celu": lambda x: functional.celu(x, 0.7),
    "selu": functional.selu,
    "softplus": functional.softplus,
    "mish": functional.mish,
    "log sigmoid": functional.logsigmoid,
    "softsign": functional.softsign,
    "hard swish": functional.hardswish,
    "mean": lambda x: x.mean((0, 2), keepdim=True),
    "softmax": lambda x: torch.softmax(x, 1),
    "log softmax": lambda x: functional.log_softmax(x, dim=-1),
    "layer norm": lambda x: functional.layer_norm(x, (E,), torch.as_tensor(GAIN)),
    "rms norm": lambda x: functional.rms_norm(x, (E,), torch.as_tensor(GAIN), 1e-6),
    "group norm": lambda x: functional.group_norm(x, 2),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, 2 * x),
    "masked attention": lambda x: functional.scaled_dot_product_attention(
        x, x, x, torch.ones(S, S).tril().bool()
    ),
}


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [30.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_what_is_taken_apart_computes_the_same(name, size):
    x = torch.as_tensor(size * X)
    module = Of(FUNCTIONS[name])
    with recorded(module, {"0": x}) as whole:
        expected = module(x)
    with recorded(module, {"0": x}, fine=True) as parts:
        found = module(x)
    assert len(parts.calls) > len(whole.calls)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14 * size)


# What is left whole: it writes into its input, which is read again, or casts it.
LEFT_WHOLE = {
    "silu in place": lambda x: functional.silu(x, inplace=True) + x,
    "elu in place": lambda x: nn.ELU(inplace=True)(x) + x,
    "a cast in softmax": lambda x: functional.softmax(x, -1, dtype=torch.float32),
    "a cast in softmax, by position": lambda x: x.softmax(-1, torch.float32),
    "a cast in a mean": lambda x: torch.mean(x, -1, dtype=torch.float32),
}


@pytest.mark.parametrize("name", LEFT_WHOLE)
def test_what_does_more_than_its_equation_is_left_whole(name):
    module = Of(LEFT_WHOLE[name])
    expected = module(torch.as_tensor(X.copy()))
    x = torch.as_tensor(X.copy())
    with recorded(module, {"0": x}, fine=True):
        found = module(x)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


class Net(nn.Module):
    """Three dense layers, each with an activation behind it and a sum over the steps so far."""

    def __init__(self, function):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(E, E) for _ in range(3))
        self.acts = nn.ModuleList(Of(function) for _ in range(3))

    def forward(self, x):
        for layer, act in zip(self.layers, self.acts, strict=True):
            x = x + act(layer(x))
        return x


def compared(in_torch, functions):
    """The report on a net whose activations in JAX are `functions`."""
    module = Net(in_torch)

    def net(p, x):
        for k, function in enumerate(functions):
            x = x + function(x @ p[f"layers.{k}.weight"].T + p[f"layers.{k}.bias"])
        return x

    params = {key: jnp.zeros(tensor.shape) for key, tensor in module.named_parameters()}
    weight_map = WeightMap([entry(key, key) for key in params])
    options = {"dtypes": ("float64",), "variants": False}
    return parity.compare_models(net, params, module, weight_map, [X], **options)


def gelu_with(cubed):
    """GELU by its tanh with another number in it."""
    root = np.sqrt(2 / np.pi)
    return lambda x: x * (0.5 * (1 + jnp.tanh(root * (x + cubed * x**3))))


def elu_with(alpha):
    return lambda x: jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


INSIDE = {
    "an addition that is none": (
        functional.softplus,
        lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
        lambda x: jnp.maximum(x, 0) - jnp.log1p(jnp.exp(-jnp.abs(x))),
    ),
    "a number in GELU": (FUNCTIONS["gelu by tanh"], gelu_with(0.044715), gelu_with(0.0447)),
    "SELU without its scale": (
        functional.selu,
        lambda x: 1.0507009873554805 * elu_with(1.6732632423543772)(x),
        lambda x: 1.05 * elu_with(1.6732632423543772)(x),
    ),
    "an order of rows": (torch.tanh, jnp.tanh, lambda x: jnp.tanh(x)[::-1]),
    "an order of steps": (torch.tanh, jnp.tanh, lambda x: jnp.roll(jnp.tanh(x), 1, axis=1)),
    "a flip of features": (functional.elu, jax.nn.elu, lambda x: jnp.flip(jax.nn.elu(x), -1)),
    "an order of features": (torch.tanh, jnp.tanh, lambda x: jnp.flip(jnp.tanh(x), -1)),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("mistake", INSIDE)
def test_a_mistake_inside_or_in_the_order_alone_is_placed(mistake):
    in_torch, right, wrong = INSIDE[mistake]
    report = compared(in_torch, [right, wrong, right])
    (found,) = report.differences
    assert found.module == "acts.1", report.summary()
    assert found.cause


ORDERED = {
    "as it is": lambda x: x,
    "axes reordered": lambda x: x.transpose(2, 0, 1),
    "merged": lambda x: x.reshape(-1),
    "split, reordered and merged": lambda x: (
        x.reshape(B, 2, 3, E).transpose(2, 0, 1, 3).reshape(3 * B, 2, E).transpose(0, 2, 1)
    ),
    "with round-off": lambda x: x * (1 + 1e-15),
}
DISORDERED = {
    "flipped": lambda x, axis: np.flip(x, axis),
    "shifted": lambda x, axis: np.roll(x, 1, axis),
    "two exchanged": lambda x, axis: np.take(x, [1, 0, *range(2, x.shape[axis])], axis),
}


@pytest.mark.parametrize("layout", ORDERED)
def test_layouts_are_told_from_other_orders(layout):
    laid_out = ORDERED[layout](X)
    assert may_be_laid_out(X, laid_out)
    assert may_be_laid_out(laid_out, X)
    for disorder in DISORDERED.values():
        for axis in range(X.ndim):
            assert not may_be_laid_out(ORDERED[layout](disorder(X, axis)), X)
            assert not may_be_laid_out(X, disorder(X, axis).transpose(1, 0, 2))


def test_what_repeats_may_stand_in_any_order():
    repeated = np.maximum(X, 0)
    assert may_be_laid_out(repeated, repeated[::-1])
    assert Lookup([repeated[::-1]], ordered=True).find(repeated) == [0]
    assert Lookup([X[::-1], X], ordered=True).find(X) == [1]
    assert Lookup([X[::-1], X]).find(X) == [0, 1]


AT_THE_END = {
    "scaled": (lambda x: 1.001 * jnp.tanh(x), "the output of tanh is multiplied by 1.001"),
    "flipped": (lambda x: jnp.tanh(x)[::-1], "is flipped along axis 0"),
    "something odd": (lambda x: jnp.tanh(x + 1e-3 * jnp.sin(x) ** 2), None),
}


@pytest.mark.parametrize("mistake", AT_THE_END)
def test_what_is_done_to_an_output_is_no_other_number_in_passing(mistake):
    """JAX has tanh(x), or sin(x), besides; of what nothing explains the size is given."""
    function, cause = AT_THE_END[mistake]
    options = {"dtypes": ("float64",), "variants": False}
    module = Of(torch.tanh)
    report = parity.compare_models(
        lambda p, x: function(x), {}, module, WeightMap([]), [X], **options
    )
    (found,) = report.differences
    assert found.is_explained == (cause is not None)
    if cause is None:
        assert 1e-4 < found.error < 1e-2
    else:
        assert cause in found.cause
