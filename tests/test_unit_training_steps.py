"""The first step that differs, what differs first in it, and the cause in words."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch_loops import BATCHES, WEIGHTS, as_of_jax, loop, made, parted, recorded

from parity.diagnosis.factors import SAME
from parity.diagnosis.training_steps import EXACT, ROUNDED, diagnose_training, first_difference
from parity.measures.envelopes import Center
from parity.measures.training_loops import Step

OWN = loop(made(SGD, lr=0.1))
SHAPE = BATCHES[0][1].shape
OUTPUTS = SHAPE[0] * SHAPE[1]


def copied():
    """Steps of JAX that are PyTorch's, to be changed."""
    steps = as_of_jax(recorded(OWN))
    for step in steps:
        step.weights = {key: array.copy() for key, array in step.weights.items()}
        step.gradients = {key: array.copy() for key, array in step.gradients.items()}
    return steps


def diagnosed(got, *, exact_gradients=True):
    case = parted(OWN, got, batches=BATCHES[: len(got)])
    return diagnose_training(case, exact_gradients=exact_gradients)


def test_nothing_differs_in_the_same_steps():
    case = parted(OWN, copied())
    assert first_difference(case) is None
    assert diagnosed(copied()) is None


def test_the_first_step_that_differs_is_found_with_all_that_differs_in_it():
    got = copied()
    got[1].loss *= 2
    got[1].weights["bias"] += 1
    got[2].weights["weight"] += 1
    t, wrong = first_difference(parted(OWN, got))
    assert t == 1
    assert set(wrong) == {("loss", "loss"), ("weights", "bias")}
    assert all(verdict.differs and verdict.step == 2 for verdict in wrong.values())


ONLY = "; only the loss that is returned differs, the update is the same"
NO_TERMS = "no number of terms of this batch"
FACTORS = {
    OUTPUTS: f"it is {OUTPUTS} times PyTorch's: JAX sums up over axes 0 and 1 of {SHAPE} "
    "what PyTorch averages",
    1 / OUTPUTS: f"it is 1/{OUTPUTS} times PyTorch's: JAX averages over axes 0 and 1 of {SHAPE} "
    "what PyTorch sums up",
    5.0: "it is 5 times PyTorch's: JAX sums up over axis 0 of (5, 3) what PyTorch averages",
    15.0: "it is 15 times PyTorch's: JAX sums up over axes 0 and 1 of (5, 3) what PyTorch averages",
    # A count of the batch comes before what else a factor may be.
    2.0: f"it is 2 times PyTorch's: JAX sums up over axis 1 of {SHAPE} what PyTorch averages",
    1 / np.log(2): "it is 1.4427 times PyTorch's: it is in bits, PyTorch's in nats",
    np.log(2): "it is 0.693147 times PyTorch's: it is in nats, PyTorch's in bits",
    -1.0: "it is -1 times PyTorch's: its sign is the opposite",
    7.0: f"it is 7 times PyTorch's: {NO_TERMS}",
    1 + 2 * ROUNDED: f"it is 1 times PyTorch's: {NO_TERMS}",
    1 + 0.9 * ROUNDED: "a difference of 9e-07, as if it were computed in float32",
    1 - 0.9 * ROUNDED: "a difference of 9e-07, as if it were computed in float32",
    1 + 2 * EXACT: "a difference of 2e-09, as if it were computed in float32",
    1 + 0.9 * EXACT: "a difference of 9e-10, which only much round-off can be",
    5.0 * (1 + 0.9 * EXACT): "it is 5 times PyTorch's: JAX sums up over axis 0 of (5, 3) "
    "what PyTorch averages",
    5.0 * (1 + 2 * EXACT): f"it is 5 times PyTorch's: {NO_TERMS}",
}


@pytest.mark.parametrize("t", [0, 2])
@pytest.mark.parametrize("factor", FACTORS)
def test_a_loss_that_is_so_many_times_pytorchs_is_explained(factor, t):
    got = copied()
    got[t].loss *= factor
    found = diagnosed(got)
    assert found.place == f"step {t + 1}, the loss"
    assert found.cause == FACTORS[factor] + ONLY


@pytest.mark.parametrize("batch", [np.zeros((7, 7)), {"x": np.zeros(11)}])
def test_half_a_loss_is_a_factor_where_nothing_is_counted_twice(batch):
    for factor, words in ((2.0, "a factor 1/2 is missing"), (0.5, "there is a factor 1/2")):
        got = copied()
        got[0].loss *= factor
        case = parted(OWN, got)._replace(batches=[batch] * len(BATCHES))
        shown = "2" if factor == 2 else "1/2"
        cause = diagnose_training(case, exact_gradients=True).cause
        assert cause == f"it is {shown} times PyTorch's: {words}{ONLY}"


def test_three_axes_together_may_be_averaged_over():
    got = copied()
    got[0].loss *= 30
    case = parted(OWN, got)._replace(batches=[np.zeros((2, 3, 5, 7))] * len(BATCHES))
    cause = diagnose_training(case, exact_gradients=True).cause
    assert "JAX sums up over axes 0 and 1 and 2 of (2, 3, 5, 7) what PyTorch averages" in cause


@pytest.mark.parametrize(("shift", "when"), [(1, "after"), (-1, "before")])
def test_a_loss_of_another_step_is_named(shift, when):
    got = copied()
    right = [step.loss for step in got]
    got[1].loss = right[1 + shift] * (1 + 0.9 * EXACT)
    assert diagnosed(got).cause == f"it is PyTorch's loss of the step {when}{ONLY}"
    got[1].loss = right[1 + shift] * (1 + 2 * EXACT)
    assert "loss of the step" not in diagnosed(got).cause


@pytest.mark.parametrize("t", [0, 1])
def test_a_loss_that_no_number_explains_is_the_models(t):
    got = copied()
    got[t].loss = np.nan
    words = "it is the model or the loss function, not the update"
    assert diagnosed(got).cause == words
    # That of another step that is zero explains nothing, nor does a step beyond the last.
    got = copied()
    got[-1].loss *= 7
    assert diagnosed(got).cause == f"it is 7 times PyTorch's: {NO_TERMS}{ONLY}"


def test_a_loss_that_differs_with_its_gradients_is_not_the_only_one():
    got = copied()
    got[0].loss *= 7
    got[0].gradients["bias"] *= 7
    assert diagnosed(got).cause == f"it is 7 times PyTorch's: {NO_TERMS}"


def test_gradients_with_a_factor_are_named_and_others_are_jaxs():
    got = copied()
    for key in got[1].gradients:
        got[1].gradients[key] = got[1].gradients[key] * 3
    found = diagnosed(got)
    assert found.place == "step 2, the gradient of bias, weight" or found.place == (
        "step 2, the gradient of weight, bias"
    )
    assert found.cause == "all gradients are 3 times PyTorch's, though the losses agree"
    got = copied()
    got[1].gradients["bias"] *= 3
    found = diagnosed(got)
    assert found.place == "step 2, the gradient of bias"
    cut = "the losses agree, so it is how JAX takes the gradient: what is cut off or masked"
    assert found.cause == cut
    # A factor that is nothing but round-off is none.
    got = copied()
    for key in got[1].gradients:
        got[1].gradients[key] = got[1].gradients[key] * (1 + 0.9 * SAME)
    assert diagnosed(got).cause == cut


@pytest.mark.parametrize(
    ("change", "clipped"),
    [
        (lambda g: {key: 0.25 * array for key, array in g.items()}, True),
        (lambda g: {key: 2 * array for key, array in g.items()}, False),
        (lambda g: {**g, "bias": 0 * g["bias"]}, False),
    ],
)
def test_gradients_that_a_step_returns_may_be_clipped(change, clipped):
    """A quarter of the norm: no larger than PyTorch's, and none of them zero."""
    steps = recorded(OWN)
    norm = np.sqrt(sum(np.sum(a**2) for a in steps[0].gradients.values()))
    other = recorded(loop(made(SGD, lr=0.1), clip=0.25 * norm))
    got = as_of_jax(other)
    got[0].gradients = change(steps[0].gradients)
    found = diagnosed(got, exact_gradients=False)
    assert ("clipped to a norm" in found.cause) == clipped
    assert "clipped" not in diagnosed(got, exact_gradients=True).cause


def test_an_update_that_nothing_explains_is_measured():
    size = np.linalg.norm(recorded(OWN)[0].weights["bias"] - WEIGHTS["bias"])
    no_known = "no known deviation of the optimizer gives these numbers"
    for share, words in (
        (2 * ROUNDED, no_known),
        (0.8 * ROUNDED, "a difference of 8e-07, as if something were computed in float32"),
        (0.8 * EXACT, "a difference of 8e-10, which only much round-off can be"),
    ):
        got = copied()[:1]  # every known deviation is tried
        got[0].weights["bias"][0] += share * size
        found = diagnosed(got)
        assert found.place == "step 1, parameter bias"
        assert found.cause.startswith(words)


class Three(torch.nn.Module):
    """Three parameters and a buffer that counts nothing."""

    def __init__(self):
        super().__init__()
        for name in "abc":
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(2)))
        self.register_buffer("mean", torch.zeros(2))


def three(changes, *, moments=(), quantity="weights"):
    """The diagnosis where some arrays of three parameters differ in the second step."""
    rng = np.random.default_rng(0)
    start = {key: rng.normal(size=2) for key in ("a", "b", "c", "mean")}
    names = [f"{kind} of {key}" for kind in ("exp_avg", "exp_avg_sq") for key in "abc"]
    expected = []
    got = []
    for t in (1, 2):
        weights = {key: array + 0.1 * t for key, array in start.items()}
        states = {name: rng.normal(size=2) ** 2 for name in names}
        averages = {key: array + 0.05 * t for key, array in start.items()}
        expected.append(Step(1.0, weights, moments=states, averages=averages, updates=1))
        theirs = {"weights": dict(weights), "averages": dict(averages)}
        own = {n.replace("exp_avg_sq", "nu").replace("exp_avg", "mu"): a for n, a in states.items()}
        if t == 2:
            for key in changes:
                theirs[quantity][key] = theirs[quantity][key] + np.array([0.1, 0.7])
            own |= {name: own[name] + np.array([0.1, 0.7]) for name in moments}
        got.append(Step(1.0, moments=own, updates=1, **theirs))
    case = SimpleNamespace(module=Three(), steps=lambda *a, **k: iter(()))
    center = Center(start, expected, [], "float64")
    from parity.diagnosis.update_evidence import Case

    whole = Case(case, start, [np.zeros((4, 2))] * 2, center, got, 0, dict)
    return diagnose_training(whole, exact_gradients=True)


@pytest.mark.parametrize(
    ("changes", "moments", "place"),
    [
        ("a", (), "parameter a"),
        ("ab", (), "parameter a, b"),
        ("abc", (), "every parameter"),
        ("", ("mu of a",), "exp_avg of parameter a"),
        ("", ("mu of a", "nu of b"), "exp_avg and exp_avg_sq of parameter a, b"),
        ("", ("nu of a", "nu of b", "nu of c"), "exp_avg_sq of every parameter"),
        ("a", ("mu of b",), "parameter a"),
        (["mean"], (), "the buffer mean"),
        (["mean", "a"], (), "parameter a"),
        (["mean"], ("mu of c",), "exp_avg of parameter c"),
    ],
)
def test_the_place_names_what_differs_first(changes, moments, place):
    assert three(changes, moments=moments).place == f"step 2, {place}"


def test_an_average_that_alone_differs_is_the_place():
    assert three("b", quantity="averages").place == "step 2, the average of parameter b"
    assert three("abc", quantity="averages").place == "step 2, the average of every parameter"


def test_biases_that_jax_has_folded_move_otherwise():
    case = parted(OWN, copied()[:1], batches=BATCHES[:1])
    case.got[0].weights["bias"] += 1
    folded = dict(case.weights) | {"bias": case.weights["bias"] + 0.5}
    words = "PyTorch updates two biases, which JAX has folded into one: their sum moves otherwise"
    found = diagnose_training(case._replace(weights=folded), exact_gradients=True)
    assert found.cause == words
    # Only if all that differs is folded.
    case.got[0].weights["weight"] += 1
    found = diagnose_training(case._replace(weights=folded), exact_gradients=True)
    assert found.cause != words
