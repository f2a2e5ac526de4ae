"""What is done around the steps of a torch optimizer is what its words say, and is undone again."""

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch_loops import (
    BATCHES,
    WEIGHTS,
    call_of,
    gradients_of,
    grouped,
    loop,
    made,
    recorded,
    weights_of,
)

from parity.diagnosis.alterations import (
    RULES,
    CorrectedMaximum,
    Decay,
    Equation,
    Factors,
    Gradients,
    Options,
    RateInMomentum,
    Rates,
    clipped,
    equation_options,
    option,
)
from parity.diagnosis.optimizers import TORCH

RNG = np.random.default_rng(5)
RAW = {key: RNG.normal(size=array.shape) for key, array in WEIGHTS.items()}
GIVEN = {key: 0.25 * array for key, array in RAW.items()}
RATE = 0.125


def assert_same(got, expected, rtol=1e-11):
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(got[key], array, rtol=rtol, atol=1e-14)


def assert_runs_agree(one, other, rtol=1e-10):
    for first, second in zip(one, other, strict=True):
        assert_same(first.weights, second.weights, rtol)


def test_the_classes_of_torch_have_the_rule_of_their_equation():
    assert RULES == {"Adam": "adam", "AdamW": "adamw", "SGD": "sgd", "RMSprop": "rmsprop"}


@pytest.mark.parametrize(
    ("kind", "own", "other"),
    [
        (Adam, {"lr": 0.1}, {"betas": (0.5, 0.9)}),
        (Adam, {"lr": 0.1, "eps": 0.1}, {"eps": 0.5}),
        (SGD, {"lr": 0.1, "momentum": 0.9}, {"momentum": 0.5}),
    ],
)
def test_an_option_is_that_of_every_step_and_no_longer(kind, own, other):
    right = recorded(loop(made(kind, **own)))
    altered = recorded(loop(made(kind, **own)), alteration=option(**other))
    assert_runs_agree(altered, recorded(loop(made(kind, **{**own, **other}))))
    assert [step.groups for step in altered] == [step.groups for step in right]


def test_options_follow_from_the_group_and_the_count_of_steps():
    seen = []

    def change(group, count):
        seen.append((count, len(group["params"])))
        return {"lr": group["lr"] * (1 + count)}

    altered = recorded(loop(made(SGD, lr=0.1)), alteration=Options(change))
    assert_runs_agree(altered, recorded(loop(made(SGD, lr=0.1), schedule=lambda t: 1 + t)))
    assert seen == [(t, 2) for t in range(len(BATCHES))]


def test_rates_come_from_the_table_group_by_group_and_the_last_row_goes_on():
    table = [(0.1, 0.3), (0.2, 0.05)]
    alteration = Rates(table)
    for count, row in ((0, table[0]), (1, table[1]), (2, table[1]), (7, table[1])):
        call, _ = call_of(grouped(SGD, lr=RATE), count=count, gradients=RAW)
        alteration.before(call)
        assert [group["lr"] for group in call.optimizer.param_groups] == list(row)
        alteration.after(call)
        assert [group["lr"] for group in call.optimizer.param_groups] == [RATE, RATE]


def test_other_gradients_are_made_from_those_given_and_those_of_the_backward_pass():
    def change(given, raw):
        return {key: 2 * raw[key] - given[key] for key in given}

    call, module = call_of(made(SGD, lr=RATE), gradients=RAW, given=GIVEN)
    Gradients(change).before(call)
    assert_same(gradients_of(module), {key: 2 * RAW[key] - GIVEN[key] for key in RAW})
    # Of a parameter of which no backward pass is known, what is given stands for both.
    call, module = call_of(made(SGD, lr=RATE), gradients={"bias": RAW["bias"]}, given=GIVEN)
    Gradients(change).before(call)
    expected = {"weight": GIVEN["weight"], "bias": 2 * RAW["bias"] - GIVEN["bias"]}
    assert_same(gradients_of(module), expected)


def test_a_parameter_without_gradient_is_left_out():
    call, module = call_of(made(SGD, lr=RATE), gradients={"bias": RAW["bias"]})
    Gradients(lambda given, raw: {key: -array for key, array in given.items()}).before(call)
    assert module.weight.grad is None
    np.testing.assert_array_equal(module.bias.grad.numpy(), -RAW["bias"])


NORM = float(np.sqrt(sum(np.sum(array**2) for array in RAW.values())))


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
@pytest.mark.parametrize("most", [0.5 * NORM, 0.99 * NORM, 2 * NORM])
def test_unclipped_gradients_are_clipped_to_a_norm(most, epsilon):
    call, module = call_of(made(SGD, lr=RATE), gradients=RAW, given=GIVEN)
    clipped(most, by="norm", epsilon=epsilon).before(call)
    factor = min(1.0, most / (NORM + epsilon))
    assert_same(gradients_of(module), {key: factor * array for key, array in RAW.items()})


def test_each_gradient_or_each_entry_may_be_clipped_by_itself():
    norms = {key: np.linalg.norm(array) for key, array in RAW.items()}
    most = float(np.mean(list(norms.values())))
    call, module = call_of(made(SGD, lr=RATE), gradients=RAW, given=GIVEN)
    clipped(most, by="leaf").before(call)
    found = gradients_of(module)
    assert_same(found, {key: min(1, most / norms[key]) * array for key, array in RAW.items()})
    assert any(np.array_equal(found[key], RAW[key]) for key in RAW)
    call, module = call_of(made(SGD, lr=RATE), gradients=RAW, given=GIVEN)
    clipped(0.5, by="value").before(call)
    expected = {k: np.sign(a) * np.minimum(np.abs(a), 0.5) for k, a in RAW.items()}
    assert_same(gradients_of(module), expected)


DECAY = 0.25


def decayed(way, w, key):
    """A step of SGD whose rate is RATE, with the decay of `weight` alone."""
    decay = DECAY if key == "weight" else 0.0
    if way == "coupled":
        return w - RATE * (GIVEN[key] + decay * w)
    if way == "decoupled":
        return w - RATE * decay * w - RATE * GIVEN[key]
    if way == "bare":
        return w - decay * w - RATE * GIVEN[key]
    return (w - RATE * GIVEN[key]) * (1 - RATE * decay)


@pytest.mark.parametrize("way", ["coupled", "decoupled", "bare", "behind"])
def test_weights_decay_in_the_way_that_is_named_and_not_by_the_optimizer(way):
    call, module = call_of(made(SGD, lr=RATE, weight_decay=0.7), gradients=RAW, given=GIVEN)
    alteration = Decay({"weight": DECAY}, way)
    alteration.before(call)
    assert [group["weight_decay"] for group in call.optimizer.param_groups] == [0.0]
    call.optimizer.step()
    alteration.after(call)
    assert_same(weights_of(module), {key: decayed(way, w, key) for key, w in WEIGHTS.items()})
    assert [group["weight_decay"] for group in call.optimizer.param_groups] == [0.7]


def test_moves_go_so_many_times_as_far_and_others_stay():
    call, module = call_of(made(SGD, lr=RATE), gradients=RAW)
    alteration = Factors({"bias": 3.0})
    alteration.before(call)
    call.optimizer.step()
    alteration.after(call)
    expected = {"weight": WEIGHTS["weight"] - RATE * RAW["weight"]}
    expected["bias"] = WEIGHTS["bias"] - 3 * RATE * RAW["bias"]
    assert_same(weights_of(module), expected)


def test_momentum_may_sum_up_moves_with_the_decay_and_the_rate_in_them():
    rates = [0.1, 0.2, 0.05, 0.4]
    decay, momentum = 0.3, 0.9
    options = {"lr": 1.0, "momentum": momentum, "weight_decay": decay}
    a_loop = loop(made(SGD, **options), schedule=lambda t: rates[min(t, 3)])
    steps = recorded(a_loop, alteration=RateInMomentum())
    before, moves = WEIGHTS, {key: 0.0 for key in WEIGHTS}
    for rate, step in zip(rates, steps, strict=True):
        for key, w in before.items():
            moves[key] = momentum * moves[key] + rate * (step.gradients[key] + decay * w)
            np.testing.assert_allclose(step.weights[key], w - moves[key], rtol=1e-11)
        before = step.weights
        assert step.groups[0]["weight_decay"] == decay


SAME_EQUATION = {
    "adam": (Adam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}),
    "adam with decay": (Adam, {"lr": 0.1, "weight_decay": 0.3}),
    "adamw": (AdamW, {"lr": 0.1, "weight_decay": 0.3}),
    "rmsprop": (RMSprop, {"lr": 0.01, "alpha": 0.8, "momentum": 0.9, "eps": 1e-2}),
    "sgd": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", SAME_EQUATION)
def test_an_equation_without_changes_is_torchs(name):
    kind, options = SAME_EQUATION[name]
    a_loop = loop(made(kind, **options))
    altered = recorded(a_loop, alteration=Equation(RULES[kind.__name__], {}))
    assert_runs_agree(altered, recorded(a_loop))


@pytest.mark.parametrize(
    ("kind", "own", "changes", "other"),
    [
        (Adam, {"lr": 0.1}, {"b2": 0.9}, {"betas": (0.9, 0.9)}),
        (Adam, {"lr": 0.1}, {"eps": 0.3}, {"eps": 0.3}),
        (RMSprop, {"lr": 0.1}, {"alpha": 0.5}, {"alpha": 0.5}),
        (AdamW, {"lr": 0.1, "weight_decay": 0.2}, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ],
)
def test_changes_of_an_equation_are_other_options(kind, own, changes, other):
    altered = recorded(loop(made(kind, **own)), alteration=Equation(RULES[kind.__name__], changes))
    assert_runs_agree(altered, recorded(loop(made(kind, **{**own, **other}))))


def test_squares_may_start_from_another_number():
    """As in TensorFlow and in optax's `initial_scale`."""
    altered = recorded(
        loop(made(RMSprop, lr=0.1, alpha=0.5, eps=0.0)),
        alteration=Equation("rmsprop", {"start": 1.0}),
    )
    for key, w in WEIGHTS.items():
        g = altered[0].gradients[key]
        expected = w - 0.1 * g / np.sqrt(0.5 + 0.5 * g**2)
        np.testing.assert_allclose(altered[0].weights[key], expected, rtol=1e-11)


def test_amsgrad_may_take_the_largest_squares_after_their_correction():
    rate, b1, b2, eps = 0.1, 0.9, 0.99, 1e-4
    a_loop = loop(made(Adam, lr=rate, betas=(b1, b2), eps=eps, amsgrad=True))
    steps = recorded(a_loop, alteration=CorrectedMaximum())
    before = WEIGHTS
    m, v, largest = ({key: 0.0 for key in WEIGHTS} for _ in range(3))
    for t, step in enumerate(steps, 1):
        for key, w in before.items():
            g = step.gradients[key]
            m[key] = b1 * m[key] + (1 - b1) * g
            v[key] = b2 * v[key] + (1 - b2) * g * g
            largest[key] = np.maximum(largest[key], v[key] / (1 - b2**t))
            move = rate * (m[key] / (1 - b1**t)) / (np.sqrt(largest[key]) + eps)
            np.testing.assert_allclose(step.weights[key], w - move, rtol=1e-11)
        before = step.weights


def test_options_of_the_equation_are_those_of_the_group():
    group = Adam([torch.zeros(1)], betas=(0.7, 0.8), eps=0.5, weight_decay=0.1).param_groups[0]
    own = {"b1": 0.7, "b2": 0.8, "eps": 0.5, "weight_decay": 0.1, "decoupled": False}
    assert equation_options(group) == {**TORCH, **own}
    assert equation_options(AdamW([torch.zeros(1)]).param_groups[0])["decoupled"] is True
    options = {"lr": 0.1, "momentum": 0.5, "nesterov": True}
    found = equation_options(SGD([torch.zeros(1)], **options).param_groups[0])
    assert found == {
        **TORCH,
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0,
        "decoupled": False,
    }
    assert (found["b1"], found["b2"]) == (0.9, 0.999)
    assert equation_options(RMSprop([torch.zeros(1)], alpha=0.3).param_groups[0])["alpha"] == 0.3
