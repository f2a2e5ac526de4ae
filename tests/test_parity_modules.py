"""Other people's modules: Linen's LSTM passes, NNX's and Haiku's GRU are other equations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from jax import lax

import parity
from parity import Absent, Chain, FoldBiases, PermuteGates, SplitGates, Transpose, WeightMap, entry

T, B, I, H = 5, 3, 4, 6
RNG = np.random.default_rng(0)
XS, H0, C0 = RNG.normal(size=(T, B, I)), RNG.normal(size=(1, B, H)), RNG.normal(size=(1, B, H))
BIASES = ("bias_ih_l0", "bias_hh_l0")


def linen_lstm(params, xs, carry):
    """The Linen cell over time, called and answering as `torch.nn.LSTM`."""
    cell = linen.OptimizedLSTMCell(H)
    h, c = (state[0] for state in carry)
    (c, h), ys = lax.scan(lambda carry, x: cell.apply({"params": params}, carry, x), (c, h), xs)
    return ys, (h[None], c[None])


def linen_lstm_case():
    zeros = jnp.zeros((B, H))
    cell = linen.OptimizedLSTMCell(H)
    params = cell.init(jax.random.key(0), (zeros, zeros), jnp.zeros((B, I)))["params"]
    kernel = Chain((SplitGates(4), Transpose()))
    weight_map = WeightMap(
        [
            entry("weight_ih_l0", [f"i{gate}/kernel" for gate in "ifgo"], kernel),
            entry("weight_hh_l0", [f"h{gate}/kernel" for gate in "ifgo"], kernel),
            entry(
                BIASES,
                [f"h{gate}/bias" for gate in "ifgo"],
                Chain((FoldBiases(), SplitGates(4))),
            ),
        ]
    )
    return linen_lstm, params, torch.nn.LSTM(I, H), weight_map, (XS, (H0, C0))


def nnx_gru_case(biases):
    graph, params = nnx.split(nnx.GRUCell(I, H, rngs=nnx.Rngs(0)), nnx.Param)

    def run(params, xs, h):
        cell = nnx.merge(graph, params)
        h, ys = lax.scan(lambda h, x: cell(h, x), h[0], xs)
        return ys, h[None]

    pure = nnx.to_pure_dict(params)

    def from_dict(pure, xs, h):
        state = jax.tree.map(lambda leaf: leaf, params)
        nnx.replace_by_pure_dict(state, pure)
        return run(state, xs, h)

    weight_map = WeightMap(
        [
            entry("weight_ih_l0", "dense_i/kernel", Transpose()),
            entry("weight_hh_l0", "dense_h/kernel", Transpose()),
            *biases,
        ]
    )
    return from_dict, pure, torch.nn.GRU(I, H), weight_map, (XS, H0)


def haiku_gru_case():
    haiku = pytest.importorskip("haiku")

    def over_time(xs, h):
        return haiku.dynamic_unroll(haiku.GRU(H), xs, h)

    network = haiku.without_apply_rng(haiku.transform(over_time))
    params = network.init(jax.random.key(0), jnp.zeros((T, B, I)), jnp.zeros((B, H)))

    def run(params, xs, h):
        ys, h = network.apply(params, xs, h[0])
        return ys, h[None]

    zrn = PermuteGates((1, 0, 2))
    weight_map = WeightMap(
        [
            entry("weight_ih_l0", "gru/w_i", Chain((zrn, Transpose()))),
            entry("weight_hh_l0", "gru/w_h", Chain((zrn, Transpose()))),
            entry(BIASES, "gru/b", Chain((FoldBiases(), zrn))),
        ]
    )
    return run, params, torch.nn.GRU(I, H), weight_map, (XS, H0)


def test_linen_lstm_passes_and_the_folded_biases_are_named():
    report = parity.check(*linen_lstm_case())
    assert report.passed, report.summary()
    assert any("trajectory" in remark and "folded" in remark for remark in report.remarks)
    assert {f.criterion for f in report.findings} == {"C0", "C1", "C2", "C3"}


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("biases", "found"),
    [
        ([entry(BIASES, "dense_i/bias", FoldBiases())], "b_hn is missing inside the reset gate"),
        (
            [entry("bias_ih_l0", "dense_i/bias"), entry("bias_hh_l0", (), Absent((3 * H,)))],
            "hidden bias b_hh is missing",
        ),
    ],
)
def test_the_missing_hidden_bias_of_the_nnx_gru_is_named(biases, found):
    report = parity.check(*nnx_gru_case(biases))
    assert not report.passed
    assert found in report.summary()
    with pytest.raises(AssertionError, match=found):
        parity.assert_parity(*nnx_gru_case(biases), dtypes=("float64",))


def test_the_haiku_gru_is_a_different_equation():
    report = parity.check(*haiku_gru_case())
    assert not report.passed
    assert "A different equation than GRU, not round-off" in report.summary()
    assert "reset gate is applied before the matmul" in report.summary()


def test_what_does_not_fit_is_named_at_once():
    function, params, module, _, inputs = linen_lstm_case()
    wrong = WeightMap([entry("weight_ih_l0", "ii/kernel"), entry("bias", "hi/bias")])
    with pytest.raises(parity.WeightMapError) as caught:
        parity.check(function, params, module, wrong, inputs)
    for problem in ("bias is missing", "weight_hh_l0 is unknown", "hf/kernel is unknown", "(4, 6)"):
        assert problem in str(caught.value)


def test_other_outputs_than_declared_fail_the_structure():
    _, params, module, weight_map, inputs = linen_lstm_case()

    def only_the_last(params, xs, carry):
        return linen_lstm(params, xs, carry)[0][-1]

    report = parity.check(only_the_last, params, module, weight_map, inputs, dtypes=("float64",))
    notes = [f.note for f in report.findings if f.criterion == "C0"]
    assert any("expected shape" in note for note in notes)
    assert any("is missing" in note for note in notes)


def test_a_function_that_crashes_is_an_error():
    def crashing(params, xs, carry):
        raise KeyError("no such weight")

    report = parity.check(crashing, *linen_lstm_case()[1:])
    assert report.outcome.value == "ERROR"
    assert "no such weight" in report.summary()


class Inner(torch.nn.Module):
    """A linear layer, then dropout."""

    def __init__(self):
        super().__init__()
        self.first, self.drop = torch.nn.Linear(I, H), torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.first(x))


@pytest.mark.parametrize("part", ["whole", "dropout"])
def test_the_training_mode_of_each_submodule_is_the_users(part):
    module = Inner()
    (module if part == "whole" else module.drop).eval()
    params = {"kernel": np.zeros((I, H)), "bias": np.zeros(H)}
    weight_map = WeightMap(
        [entry("first.weight", "kernel", Transpose()), entry("first.bias", "bias")]
    )
    parity.assert_parity(
        lambda params, x: x @ params["kernel"] + params["bias"], params, module, weight_map, [XS[0]]
    )
    modes = [inner.training for inner in module.modules()]
    assert modes == ([False] * 3 if part == "whole" else [True, True, False])


def test_running_statistics_in_evaluation_mode_are_compared_and_not_nan():
    module = torch.nn.BatchNorm1d(I).eval()
    names = {
        "weight": "scale",
        "bias": "bias",
        "running_mean": "mean",
        "running_var": "var",
    }
    entries = [entry(theirs, ours) for theirs, ours in names.items()]
    weight_map = WeightMap([*entries, entry("num_batches_tracked", (), Absent(()))])
    params = {ours: np.ones(I) for ours in names.values()}

    def normalized(p, x):
        return p["scale"] * (x - p["mean"]) / jnp.sqrt(p["var"] + 1e-5) + p["bias"]

    report = parity.check(normalized, params, module, weight_map, [XS[0]], dtypes=("float64",))
    assert report.passed, report.summary()
    with jax.enable_x64(True):
        broken = lambda p, x: normalized(p, x) * (1 + 1e-9)  # noqa: E731
        wrong = parity.check(broken, params, module, weight_map, [XS[0]], dtypes=("float64",))
    assert not wrong.passed


# Equal modules, and such that show nothing.


def linear(features, width, activation=(lambda x: x, lambda x: x), rows=32):
    """A dense layer and a function behind it, in JAX and in PyTorch."""
    in_jax, in_torch = activation

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = torch.nn.Linear(features, width)

        def forward(self, x):
            return in_torch(self.dense(x))

    params = {"kernel": jnp.zeros((features, width)), "bias": jnp.zeros(width)}
    weight_map = WeightMap(
        [entry("dense.weight", "kernel", Transpose()), entry("dense.bias", "bias")]
    )
    inputs = (np.random.default_rng(rows).normal(size=(rows, features)),)

    def run(params, x):
        return in_jax(x @ params["kernel"] + params["bias"])

    return run, params, Layer(), weight_map, inputs


def layer_norm(x, epsilon=1e-5):
    centered = x - x.mean(-1, keepdims=True)
    return centered * lax.rsqrt((centered**2).mean(-1, keepdims=True) + epsilon)


FUNCTIONS = {
    "nothing": (lambda x: x, lambda x: x),
    "tanh": (jnp.tanh, torch.tanh),
    "layer norm": (layer_norm, lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:])),
    "log softmax": (jax.nn.log_softmax, lambda x: torch.log_softmax(x, -1)),
    "GELU": (lambda x: jax.nn.gelu(x, approximate=False), torch.nn.functional.gelu),
    # The square root of a variance of numbers that differ little: it magnifies round-off.
    "variance": (
        lambda x: jnp.sqrt((x * 1e-3 + 10).var(-1)),
        lambda x: (x * 1e-3 + 10).var(-1, correction=0).sqrt(),
    ),
    "mask": (
        lambda x: jnp.where(x > 0, x, -jnp.inf),
        lambda x: torch.where(x > 0, x, -torch.inf),
    ),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("rows", [1, 3, 32, 100])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equal_modules_pass(name, rows):
    report = parity.check(*linear(16, 32, FUNCTIONS[name], rows))
    assert report.passed, report.summary()


@pytest.mark.parametrize(
    ("in_jax", "in_torch"),
    [
        (partial(layer_norm, epsilon=1e-6), FUNCTIONS["layer norm"][1]),
        (jax.nn.gelu, torch.nn.functional.gelu),
        (lambda x: jnp.sqrt((x * 1e-3 + 10).var(-1, ddof=1)), FUNCTIONS["variance"][1]),
        (lambda x: x * (1 + 1e-9), lambda x: x),
    ],
    ids=["another epsilon", "the GELU of tanh", "variance of a sample", "a part in 1e9"],
)
def test_modules_that_differ_fail(in_jax, in_torch):
    report = parity.check(*linear(16, 32, (in_jax, in_torch)))
    assert not report.passed
    assert "FAIL" in report.summary()


@pytest.mark.parametrize(
    ("in_jax", "in_torch", "words"),
    [
        (lambda x: jnp.sqrt(-(x**2) - 1), lambda x: torch.sqrt(-(x**2) - 2), "NaN or infinite"),
        (lambda x: x**3 / 0, lambda x: x**3 / 0, "NaN or infinite"),
        (lambda x: 0 * x + 7, lambda x: 0 * x + 7, "the same number everywhere"),
        (lambda x: jnp.maximum(x, 1e3), lambda x: x.clamp(min=1e3), "the same number everywhere"),
        (lambda x: 0 * x, lambda x: 0 * x, "zero in both frameworks"),
    ],
    ids=["NaN", "NaN or infinity", "a constant", "all clipped", "zeros"],
)
def test_what_shows_nothing_does_not_pass(in_jax, in_torch, words):
    """Whatever the weights, both are the same: nothing is said about the two functions."""
    report = parity.check(*linear(16, 32, (in_jax, in_torch)))
    assert not report.passed
    assert report.outcome.value == "ABSTAIN"
    assert f"output 0 shows nothing: {words}" in report.summary()
    with pytest.raises(AssertionError, match="shows nothing"):
        parity.assert_parity(*linear(16, 32, (in_jax, in_torch)))


@pytest.mark.parametrize("dtypes", ["float32", (), ("float16",), ("float64", "double")])
def test_an_unknown_precision_is_refused(dtypes):
    with pytest.raises(ValueError, match="dtypes must be a list of some of float64"):
        parity.check(*linear(16, 32), dtypes=dtypes)
