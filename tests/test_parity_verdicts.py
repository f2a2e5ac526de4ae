"""Verdicts of parity.check: what fails, what warns, what shows nothing, and the words for it."""

import inspect
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity import FoldBiases, Transpose, WeightMap, entry
from parity.core.compare import relative_l2
from parity.core.runners import run_jax, run_torch
from parity.modules.inputs import VARIANTS, given_batch, variants_of
from parity.modules.pairs import case_of, pair_of

ROWS, FEATURES, WIDTH = 12, 5, 7
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, FEATURES)).astype(np.float32)
TOKENS = np.array([[0, 3, 1], [2, 4, 4]])


class Call(nn.Module):
    """A linear layer, or other parts, and what is done with them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        for name, part in (parts or {"dense": nn.Linear(FEATURES, WIDTH)}).items():
            self.add_module(name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def same_names(module, *left_out):
    """The map of a port whose parameters are torch's by torch's names, and the parameters."""
    names = [name for name, _ in module.named_parameters()]
    names += [name for name, b in module.named_buffers() if b.is_floating_point()]
    kept = [name for name in names if name not in left_out]
    state = module.state_dict()
    params = {name: jnp.asarray(state[name].numpy()) for name in kept}
    return params, WeightMap([entry(name, name) for name in kept])


def checked(in_jax, module, *inputs, dtypes=("float64",), **options):
    """The report on a port of a module."""
    params, weight_map = same_names(module)
    return parity.check(in_jax, params, module, weight_map, inputs, dtypes=dtypes, **options)


def dense(p, x):
    return x @ p["dense.weight"].T + p["dense.bias"]


def applied(function):
    """A module that does something with its linear layer."""
    return Call(lambda m, x: function(m.dense(x)))


def outcome(report):
    return report.outcome.value


# Inputs at several scales and edges.


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("in_jax", "in_torch", "where"),
    [
        (lambda x: jnp.clip(x, -100, 100), lambda x: x, "floats"),
        (lambda x: x * (x > 0), lambda x: x * (x.abs() > 0), None),
        (lambda x: jnp.where(x == 0, 1.0, x), lambda x: x, "floats zero"),
        (lambda x: x / (1e-6 + jnp.abs(x)), lambda x: x / (1e-6 + 1e-9 + x.abs()), None),
        (lambda x: jnp.log(jnp.exp(x) + 1), nn.functional.softplus, "floats"),
    ],
    ids=["a clip at 100", "the sign", "at zero alone", "a small epsilon", "an overflow"],
)
def test_a_difference_outside_the_given_inputs_fails(in_jax, in_torch, where):
    module = Call(lambda m, x: (m.dense(x), in_torch(x)))
    report = checked(lambda p, x: (dense(p, x), in_jax(x)), module, X)
    assert not report.passed
    assert "output 1" in report.summary()
    if where:
        alone = checked(lambda p, x: (dense(p, x), in_jax(x)), module, X, variants=False)
        assert alone.passed, alone.summary()
        failed = [f for f in report.findings if f.outcome.value == "FAIL"]
        assert all(where in f.inputs for f in failed)


@pytest.mark.parametrize(
    ("in_jax", "in_torch"),
    [
        (lambda x: jnp.maximum(x, 0), torch.relu),
        (lambda x: jnp.sort(x, 0).max(0), lambda x: x.max(0).values),
        (lambda x: jnp.sqrt((x**2).sum(-1)), lambda x: x.norm(dim=-1)),
    ],
    ids=["relu at 0", "a maximum of ties", "NaN at zero"],
)
def test_gradients_at_ties_warn_with_the_reason(in_jax, in_torch):
    module = Call(lambda m, x: (m.dense(x), in_torch(x)))
    report = checked(lambda p, x: (dense(p, x), in_jax(x)), module, X)
    assert outcome(report) == "WARN"
    assert report.passed
    assert "the derivative jumps here, where either rule is right" in report.summary()


def test_gradients_at_ties_of_the_users_inputs_warn_in_float32_alone():
    """Far beyond the noise, where a closer look in float64 would find the same."""
    module = Call(lambda m, x: (m.dense(x), torch.relu(x)))
    zeros = np.zeros_like(X)
    zeros[0] = X[0]
    port = lambda p, x: (dense(p, x), jnp.maximum(x, 0))  # noqa: E731
    report = checked(port, module, zeros, dtypes=("float32",), variants=False)
    assert outcome(report) == "WARN", report.summary()
    assert "the derivative jumps here" in report.summary()


def test_a_wrong_gradient_fails_though_it_is_right_at_ties():
    wrong = jax.custom_vjp(jnp.abs)
    wrong.defvjp(lambda x: (jnp.abs(x), jnp.sign(x)), lambda sign, g: (1.001 * sign * g,))
    report = checked(lambda p, x: wrong(dense(p, x)), applied(torch.abs), X)
    assert not report.passed


def test_variants_stay_in_the_range_of_integers_and_leave_masks():
    floats = np.array([[0.5, -2.0], [1.0, 3.0], [0.1, 0.2]])
    additive = np.array([0.0, -np.inf])
    batch = given_batch((floats, TOKENS, additive, np.array([True, False])))
    made = variants_of(batch, VARIANTS, padding=(1,))
    assert [v.label for v in made] == list(VARIANTS)
    for variant in made:
        tokens = variant.arrays["1"]
        assert TOKENS.min() <= tokens.min() <= tokens.max() <= TOKENS.max()
        assert tokens.dtype == TOKENS.dtype
        np.testing.assert_array_equal(variant.arrays["2"], additive)
        np.testing.assert_array_equal(variant.arrays["3"], [True, False])
    padded = made[-1].arrays["1"]
    assert (padded == 1).sum() > (TOKENS == 1).sum()


def test_integers_that_are_drawn_anew_are_as_small_and_as_large_as_those_given():
    batch = given_batch((np.tile([3, 4], 20),))
    (drawn,) = variants_of(batch, ("integers drawn anew",), padding=())
    assert set(drawn.arrays["0"]) == {3, 4}


def test_zeros_as_a_state_are_tried_with_other_numbers():
    module = Call(lambda m, x, h: m.dense(x) + 0 * h)
    ignored = lambda p, x, h: dense(p, x)  # noqa: E731
    used = Call(lambda m, x, h: m.dense(x) + h)
    zeros = np.zeros((ROWS, WIDTH), np.float32)
    assert checked(ignored, module, X, zeros).passed
    report = checked(ignored, used, X, zeros)
    assert not report.passed
    assert "input 1" in report.summary()


def test_the_report_says_what_was_tried():
    report = checked(dense, applied(lambda x: x), X)
    words = report.summary()
    assert "tried as given, floats drawn anew, floats zero, floats times 10" in words
    assert f"(given: {X.min():.3g} to {X.max():.3g})" in words
    few = checked(dense, applied(lambda x: x), X, variants=["floats zero"]).summary()
    assert "tried as given, floats zero." in few


def test_more_batches_are_compared_whatever_their_sizes():
    module = applied(lambda x: x + (len(x) == 3))
    assert checked(dense, module, X, variants=False).passed
    report = checked(dense, module, X, batches=[[X[:2]], [X[:3]]], variants=False)
    assert not report.passed
    assert "inputs of batch 3" in report.summary()
    assert "in 3 batches as given only" in report.summary()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variants": ["floats huge"]}, "variants must be True, False or some of"),
        ({"weights": "mine"}, "weights must be one of sampled, given, both"),
        ({"limits": {"C9": 1e-3}}, "limits must name some of C1, C1 forward"),
        ({"limits": {"C1": 0}}, "must be a positive number"),
        ({"dropout_masks": {"dense": X}}, "dropout_masks must name modules of dropout"),
        ({"batches": [[X, X]]}, "batches must have the structure of inputs"),
    ],
)
def test_an_option_that_is_unknown_is_refused_in_one_line(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        checked(dense, applied(lambda x: x), X, **options)
    assert "\n" not in str(caught.value)


# What shows nothing.


@pytest.mark.parametrize(
    ("in_jax", "in_torch", "words"),
    [
        (jnp.floor, torch.floor, "No gradient shows anything"),
        (
            lambda x: jnp.arange(float(WIDTH)),
            lambda x: torch.arange(WIDTH, dtype=x.dtype),
            "the same whatever the weights and inputs",
        ),
    ],
    ids=["gradients of zero", "a fixed output"],
)
def test_what_shows_nothing_is_said(in_jax, in_torch, words):
    report = checked(lambda p, x: in_jax(dense(p, x)), applied(in_torch), X)
    assert words in report.summary()
    assert not any(
        f.outcome.value == "PASS"
        for f in report.findings
        if f.criterion == "C1" and words in f.note
    )


def test_unused_weights_and_inputs_are_named():
    module = Call(
        lambda m, x, y, mask: m.dense(x), dense=nn.Linear(FEATURES, WIDTH), idle=nn.Linear(2, 3)
    )
    mask = np.ones(3, bool)
    report = checked(lambda p, x, y, mask: dense(p, x), module, X, X[0], mask)
    words = report.summary()
    assert "No output of PyTorch's depends on input 1" in words
    assert "Input 2 is the same number everywhere: what it does is not shown" in words
    assert "No output of PyTorch's depends on idle.weight: it is not compared" in words
    idle = [f for f in report.findings if f.array == "idle.weight"]
    assert [f.outcome.value for f in idle] == ["ABSTAIN"]


def test_a_weight_that_one_side_uses_fails():
    module = Call(
        lambda m, x: m.dense(x) + m.idle.weight.sum(),
        dense=nn.Linear(FEATURES, WIDTH),
        idle=nn.Linear(2, 3),
    )
    assert not checked(dense, module, X).passed
    unused = Call(lambda m, x: m.dense(x), dense=nn.Linear(FEATURES, WIDTH), idle=nn.Linear(2, 3))
    report = checked(lambda p, x: dense(p, x) + p["idle.weight"].sum(), unused, X)
    assert not report.passed


# Random numbers, modes, buffers.


def test_dropout_in_training_mode_is_an_error_that_names_it():
    module = Call(
        lambda m, x: m.drop(m.dense(x)), dense=nn.Linear(FEATURES, WIDTH), drop=nn.Dropout(0.3)
    )
    report = checked(dense, module, X)
    assert outcome(report) == "ERROR"
    assert "drop (Dropout, 0.3), in training mode" in report.summary()
    assert ".eval()" in report.summary()
    assert checked(dense, module.eval(), X).passed


def test_dropout_with_the_same_masks_is_compared():
    module = Call(
        lambda m, x: m.drop(m.dense(x)), dense=nn.Linear(FEATURES, WIDTH), drop=nn.Dropout(0.25)
    )
    mask = np.random.default_rng(1).random((ROWS, WIDTH)) < 0.75
    masks = {"drop": mask}
    right = checked(lambda p, x: dense(p, x) * mask / 0.75, module, X, dropout_masks=masks)
    assert right.passed, right.summary()
    assert not checked(lambda p, x: dense(p, x) * mask, module, X, dropout_masks=masks).passed


def test_random_numbers_of_jax_are_the_cause_that_is_named():
    def dropped(p, x):
        y = dense(p, x)
        return y * jax.random.bernoulli(jax.random.key(0), 0.5, y.shape)

    report = checked(dropped, applied(lambda x: x), X)
    assert not report.passed
    assert "The JAX function draws random numbers" in report.summary()

    def impure(p, x):
        return dense(p, x) + RNG.normal()

    report = checked(impure, applied(lambda x: x), X)
    assert not report.passed
    assert "The JAX function is not pure" in report.summary()


def batch_norm(p, x, training):
    mean = x.mean(0) if training else p["running_mean"]
    variance = x.var(0) if training else p["running_var"]
    return (x - mean) / jnp.sqrt(variance + 1e-5) * p["weight"] + p["bias"]


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_in_either_mode_and_what_it_changes(training):
    module = nn.BatchNorm1d(FEATURES).train(training)
    right = checked(lambda p, x: batch_norm(p, x, training), module, X)
    assert right.passed, right.summary()
    words = right.summary()
    assert f"compared in {'training' if training else 'evaluation'} mode" in words
    assert "num_batches_tracked stayed as in the PyTorch module" in words
    assert ("A call in training mode changes running_mean, running_var" in words) == training
    assert not checked(lambda p, x: batch_norm(p, x, not training), module, X).passed


def test_buffers_that_are_not_named_keep_their_values():
    module = applied(lambda x: x)
    module.register_buffer("mask", torch.arange(WIDTH) % 2.0)
    module.function = lambda m, x: m.dense(x) * m.mask
    params, _ = same_names(module, "mask")
    weight_map = WeightMap([entry(name, name) for name in params])
    mask = module.mask.numpy()
    report = parity.check(lambda p, x: dense(p, x) * mask, params, module, weight_map, [X])
    assert report.passed, report.summary()
    assert "mask stayed as in the PyTorch module" in report.summary()


def test_frozen_weights_have_no_gradient_to_compare():
    module = applied(lambda x: x)
    module.dense.weight.requires_grad_(False)
    report = checked(dense, module, X)
    assert report.passed, report.summary()
    assert "dense.weight: frozen in PyTorch" in report.summary()
    assert not [f for f in report.findings if f.array == "dense.weight"]


def test_tied_weights_are_one_tensor():
    table = nn.Embedding(5, WIDTH)
    head = nn.Linear(WIDTH, 5, bias=False)
    head.weight = table.weight
    module = Call(lambda m, t: m.head(m.table(t).tanh()), table=table, head=head)

    def tied(p, tokens):
        return jnp.tanh(p["table.weight"][tokens]) @ p["table.weight"].T

    assert checked(tied, module, TOKENS).passed

    def untied(p, tokens):
        return jnp.tanh(p["table"][tokens]) @ p["head"].T

    params = dict.fromkeys(("table", "head"), jnp.zeros((5, WIDTH)))
    weight_map = WeightMap([entry("table.weight", "table"), entry("head.weight", "head")])
    report = parity.check(untied, params, module, weight_map, [TOKENS])
    assert report.passed, report.summary()
    assert "one tensor in PyTorch, and several in JAX" in report.summary()


def test_a_padding_row_stays_and_is_not_trained():
    module = nn.Embedding(5, WIDTH, padding_idx=3)
    trained = lambda p, t: p["weight"][t]  # noqa: E731
    masked = lambda p, t: jnp.where((t == 3)[..., None], 0, p["weight"][t])  # noqa: E731
    assert checked(masked, module, TOKENS).passed
    assert not checked(trained, module, TOKENS).passed
    outside = checked(masked, module, np.array([[0, 2], [1, 1]]))
    assert "The padding index 3 lies outside the range" in outside.summary()


# Precisions and containers.


def test_a_cast_inside_is_named_with_its_line():
    def cast(p, x):
        return dense(p, x.astype(jnp.float32).astype(x.dtype) * jnp.float32(1.1).astype(x.dtype))

    def rounded(p, x):
        return (dense(p, x) * 1.1).astype(jnp.float32).astype(x.dtype)

    report = checked(rounded, applied(lambda x: x * 1.1), X)
    assert not report.passed
    assert "The JAX function computes in a lower precision inside (float64 to float32: " in (
        report.summary()
    )
    assert "test_parity_verdicts.py" in report.summary()
    alone = checked(rounded, applied(lambda x: x * 1.1), X, dtypes=("float32",))
    assert alone.passed, alone.summary()

    module = applied(lambda x: (x * 1.1).float().to(x.dtype))
    report = checked(lambda p, x: dense(p, x) * 1.1, module, X)
    assert "The PyTorch module computes in a lower precision inside" in report.summary()


def test_a_cast_is_no_cause_of_what_is_larger_than_its_roundings():
    """A function that rounds inside, and is twice as large besides."""
    twice = lambda p, x: 2 * dense(p, x).astype(jnp.float32).astype(x.dtype)  # noqa: E731
    report = checked(twice, applied(lambda x: x), X)
    assert not report.passed
    assert "lower precision inside" not in report.summary()
    # A cast in JAX alone is none in PyTorch, whose other operations keep float64.
    cast = lambda p, x: dense(p, x).astype(jnp.float32).astype(x.dtype)  # noqa: E731
    report = checked(cast, applied(lambda x: x), X)
    assert "The JAX function computes in a lower precision" in report.summary()
    assert "The PyTorch module computes in a lower precision" not in report.summary()


def test_float32_alone_allows_for_no_more_than_a_share():
    """Where a rounding moves a result by its whole size, a mistake as large is none that passes."""
    shaky = lambda x: (x * 1e9) % 1.0  # noqa: E731
    report = checked(lambda p, x: shaky(dense(p, x)), applied(shaky), X, dtypes=("float32",))
    assert not report.passed
    wrong = checked(lambda p, x: 1.1 * dense(p, x), applied(lambda x: x), X, dtypes=("float32",))
    assert outcome(wrong) == "FAIL"
    clipped = checked(
        lambda p, x: jnp.clip(dense(p, x), -100, 100), applied(lambda x: x), X, dtypes=("float32",)
    )
    assert outcome(clipped) == "FAIL"


@pytest.mark.parametrize("dtypes", [("float32",), ("float64", "float32")], ids="+".join)
def test_gradients_that_are_rounded_more_often_than_those_of_pytorch_warn(dtypes):
    """By some 20 roundings, as a long sum is: the same in float64. Unless a limit is set."""
    rounded = jax.custom_vjp(lambda x: x)
    rounded.defvjp(lambda x: (x, x), lambda x, g: (g * (1 + 20 * jnp.finfo(x.dtype).eps),))
    module = applied(lambda x: x)

    def port(p, x):
        return rounded(dense(p, x))

    options = {"dtypes": dtypes, "variants": False}
    report = checked(port, module, X, **options)
    assert outcome(report) == "WARN", report.summary()
    assert "it rounds otherwise than PyTorch; in float64 both agree" in report.summary()
    strict = checked(port, module, X, limits={"C2": 2.0}, **options)
    assert outcome(strict) == "FAIL"


def test_an_overflow_in_float32_alone_stays_one():
    in_torch = applied(nn.functional.softplus)
    overflows = lambda p, x: jnp.log(1 + jnp.exp(dense(p, x)))  # noqa: E731
    # Of these inputs a thousandfold is 300 at most: too much for float32, and for float64 not.
    report = checked(overflows, in_torch, X / 10, dtypes=("float32",))
    assert outcome(report) == "FAIL"


class Pair(NamedTuple):
    logits: object
    best: object


@dataclass
class Output:
    best: object
    logits: object
    hidden: object = None


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", [Pair, Output, lambda **k: k], ids=["NamedTuple", "data", "dict"])
@pytest.mark.parametrize("shift", [0, 1])
def test_outputs_are_matched_by_name_and_integers_are_equal(kind, shift):
    module = Call(lambda m, x: kind(logits=m.dense(x), best=m.dense(x).argmax(-1)))

    def port(p, x):
        y = dense(p, x)
        return {"best": y.argmax(-1) + shift, "logits": y}

    report = checked(port, module, X, dtypes=("float64", "float32"))
    assert report.passed == (shift == 0), report.summary()
    arrays = {f.array for f in report.findings if f.criterion == "C1" and f.quantity == "forward"}
    assert arrays == {"output logits", "output best"}


def test_a_complex_output_is_compared_in_both_parts():
    module = applied(lambda x: torch.fft.rfft(x))
    assert checked(lambda p, x: jnp.fft.rfft(dense(p, x)), module, X).passed
    assert not checked(lambda p, x: jnp.fft.rfft(dense(p, x)).conj(), module, X).passed


def test_a_boolean_is_no_number():
    module = applied(lambda x: x > 0)
    report = checked(lambda p, x: (dense(p, x) > 0).astype(int), module, X)
    assert "expected bool, got integers" in report.summary()


# Limits and the user's own weights.


def test_limits_can_be_set():
    off = lambda p, x: dense(p, x) * (1 + 1e-8)  # noqa: E731
    module = applied(lambda x: x)
    assert not checked(off, module, X).passed
    assert checked(off, module, X, limits={"C1": 1e-7}).passed
    report = checked(off, module, X, limits={"C1 forward": 1e-7})
    assert {f.quantity for f in report.findings if f.outcome.value == "FAIL"} == {"gradients"}


def linear_params(module):
    return {
        "kernel": jnp.asarray(module.weight.detach().numpy().T),
        "bias": jnp.asarray(module.bias.detach().numpy()),
    }


LINEAR = WeightMap([entry("weight", "kernel", Transpose()), entry("bias", "bias")])


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("weights", ["given", "both"])
def test_a_checkpoint_of_garbage_fails_and_is_named(weights):
    module = nn.Linear(FEATURES, WIDTH)
    params = linear_params(module)
    options = {"weights": weights, "dtypes": ("float64",)}
    right = parity.check(linear, params, module, LINEAR, [X], **options)
    assert right.passed, right.summary()
    assert "The parameters are the weights of the PyTorch module" in right.summary()
    garbage = {**params, "kernel": params["kernel"].at[2, 3].add(1e-3)}
    report = parity.check(linear, garbage, module, LINEAR, [X], **options)
    assert outcome(report) == "FAIL"
    assert "1 of 2 parameters are not PyTorch's weights: kernel (weight)" in report.summary()
    assert {f.quantity for f in report.findings if f.outcome.value == "FAIL"} == {"weights"}
    nan = {**params, "bias": params["bias"].at[0].set(jnp.nan)}
    assert "bias (bias)" in parity.check(linear, nan, module, LINEAR, [X], **options).summary()
    sampled = parity.check(linear, garbage, module, LINEAR, [X], variants=False)
    assert sampled.passed
    assert 'is shown by weights="given"' in sampled.summary()


def test_a_checkpoint_may_be_rounded_as_it_is_stored():
    module = nn.Linear(FEATURES, WIDTH)
    stored = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), linear_params(module))
    report = parity.check(linear, stored, module, LINEAR, [X], weights="given")
    assert report.passed, report.summary()
    (low, *_) = [f for f in report.findings if f.quantity == "weights"]
    assert low.dtype == "bfloat16"
    folded = nn.RNNCell(FEATURES, WIDTH)
    weight_map = WeightMap(
        [
            entry("weight_ih", "w"),
            entry("weight_hh", "u"),
            entry(("bias_ih", "bias_hh"), "b", FoldBiases()),
        ]
    )
    state = {key: jnp.asarray(tensor.numpy()) for key, tensor in folded.state_dict().items()}
    params = {"w": state["weight_ih"], "u": state["weight_hh"]}
    params["b"] = state["bias_ih"] + state["bias_hh"]

    def cell(p, x, h):
        return jnp.tanh(x @ p["w"].T + h @ p["u"].T + p["b"])

    h = np.ones((ROWS, WIDTH), np.float32) / 2
    report = parity.check(cell, params, folded, weight_map, [X, h], weights="given")
    assert report.passed, report.summary()


def test_the_help_shows_every_option():
    ours = inspect.signature(parity.assert_parity).parameters
    assert list(ours) == list(inspect.signature(parity.check).parameters)
    assert "variants" in ours
    assert parity.assert_parity.__name__ == "assert_parity"
    assert "AssertionError" in parity.assert_parity.__doc__


def test_a_pair_of_the_core_leaves_out_what_check_leaves_out():
    module = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.BatchNorm1d(WIDTH)).eval()
    params, weight_map = same_names(module)

    def port(p, x):
        y = x @ p["0.weight"].T + p["0.bias"]
        return batch_norm({k.removeprefix("1."): v for k, v in p.items()}, y, training=False)

    pair = pair_of("a net", port, params, module, weight_map, [X])
    case = case_of(module, weight_map, [X], 0, "float64")
    got = run_jax(pair, "float64")(*case)
    expected = run_torch(pair, "float64")(*case)
    for quantity, arrays in expected.items():
        assert arrays.keys() == got[quantity].keys()
        for name, array in arrays.items():
            assert relative_l2(got[quantity][name], array) < 1e-11
