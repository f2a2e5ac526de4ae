"""The cause of another update is the first known deviation that gives its numbers, all of them."""

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch_loops import (
    as_of_jax,
    by_hand,
    first_that_differs,
    grouped,
    loop,
    made,
    parted,
    recorded,
    rmsprop_from_one,
)

from parity.diagnosis import update_causes
from parity.diagnosis.alterations import Equation
from parity.diagnosis.update_causes import FITTING, ROUNDED, update_cause
from parity.diagnosis.update_evidence import Evidence
from parity.measures.training_loops import Alteration

MOMENTUM = {"lr": 0.1, "momentum": 0.9}


def causes(own, other):
    """What two loops show at the first step that differs."""
    return Evidence(first_that_differs(parted(own, as_of_jax(recorded(other)))))


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        (made(SGD, lr=0.1), made(SGD, lr=0.3), "the learning rate is 3 times PyTorch's"),
        (made(Adam, lr=0.1), made(Adam, lr=0.1, eps=1e-4), "epsilon is 0.0001 instead of 1e-08"),
        (
            made(SGD, **MOMENTUM),
            made(SGD, lr=0.1, momentum=0.5),
            "the momentum is 0.5 instead of 0.9",
        ),
        (made(SGD, lr=0.1), lambda m: SGD([m.weight], lr=0.1), "JAX does not update bias"),
        (
            made(AdamW, lr=0.1),
            grouped(AdamW, lr=0.1),
            "biases and other vectors have no weight decay",
        ),
        (
            made(RMSprop, lr=0.1),
            by_hand(rmsprop_from_one, lr=0.1),
            "the squares start from 1, not from 0",
        ),
        (made(SGD, lr=0.1), made(torch.optim.Adagrad, lr=0.1), ""),
    ],
)
def test_the_cause_of_an_update_is_the_deviation_that_fits(own, other, words):
    found = causes(loop(own), loop(other))
    assert update_cause(found.case) == words


def test_an_update_that_one_side_leaves_out_needs_no_other_run():
    own = made(SGD, lr=0.1)
    found = causes(loop(own, every=2), loop(own))
    assert found.case.first == 0
    assert update_cause(found.case) == (
        "JAX updates the weights with this batch, PyTorch's optimizer does not step"
    )
    # From a later step on, the weights before it are those of that step.
    accumulated = causes(loop(own, every=2), loop(own, schedule=lambda t: float(t > 1)))
    assert accumulated.case.first == 1
    words = "JAX does not update weight, bias"
    assert update_cause(accumulated.case) != words
    still = causes(loop(own), loop(made(SGD, lr=0.0)))
    assert update_cause(still.case) == "JAX's step does not change the weights"
    moved_at_last = loop(own, schedule=lambda t: float(t > 2))
    assert update_cause(causes(loop(own), moved_at_last).case) != (
        "JAX's step does not change the weights"
    )


def test_a_loop_without_an_optimizer_of_torchs_has_no_cause():
    def init(module):
        def step(batch):
            loss = ((module(batch[0]) - batch[1]) ** 2).mean()
            loss.backward()
            with torch.no_grad():
                for p in module.parameters():
                    p.sub_(0.1 * p.grad)
                    p.grad = None
            return loss

        return step

    bare = loop(made(SGD, lr=0.1))._replace(init=init)
    found = causes(bare, loop(made(SGD, lr=0.3)))
    assert (found.groups, found.kind, found.keys) == ([], "", [])
    assert update_causes._structural(found.case).startswith("JAX updates the weights")
    for step in found.case.center.steps:
        step.updates = 1
    assert update_cause(found.case) == ""


def test_a_deviation_fits_by_so_many_times_the_limit_and_not_by_more():
    own = made(SGD, lr=0.1)
    found = causes(loop(own), loop(made(SGD, lr=0.3)))
    case = found.case
    own_steps = recorded(case.loop)
    limit = case.center.limits["weights", "weight"][0].limit
    size = np.linalg.norm(own_steps[0].weights["weight"] - case.weights["weight"])
    for share, fit in ((0.9 * FITTING, True), (1.1 * FITTING, False)):
        got = as_of_jax(own_steps)
        got[0].weights = {k: a.copy() for k, a in got[0].weights.items()}
        got[0].weights["weight"][0, 0] += share * limit * size
        changed = case._replace(got=got)
        assert update_causes._fits(changed, Alteration()) == fit
    # A state that keeps float32 has no more digits.
    for share, fit in ((0.9 * ROUNDED, True), (1.1 * ROUNDED, False)):
        got[0].weights = {k: a.copy() for k, a in own_steps[0].weights.items()}
        got[0].weights["weight"][0, 0] += share * size
        got[0].rounded = ("state/mu",)
        assert update_causes._fits(case._replace(got=got), Alteration()) == fit


def test_moments_have_to_fit_as_well_but_those_of_another_equation():
    own = made(Adam, lr=0.1)
    case = causes(loop(own), loop(made(Adam, lr=0.3))).case
    got = as_of_jax(recorded(case.loop))
    assert update_causes._fits(case._replace(got=got), Alteration())
    for step in got:
        step.moments = {name: 2 * array for name, array in step.moments.items()}
    assert not update_causes._fits(case._replace(got=got), Alteration())
    assert update_causes._fits(case._replace(got=got), Equation("adam", {}))


def test_what_the_two_loops_show():
    own, other = loop(grouped(SGD, lr=0.1, momentum=0.9)), loop(made(SGD, lr=0.3, momentum=0.9))
    case = parted(own, as_of_jax(recorded(other)))
    found = Evidence(case)
    assert (found.kind, found.keys) == ("SGD", ["weight", "bias"])
    assert [group["keys"] for group in found.groups] == [["weight"], ["bias"]]
    assert found.factors == {"weight": 3.0, "bias": 3.0}
    assert found.moment_ratios() == [1.0, 1.0]
    got, expected = found.moves["bias"]
    np.testing.assert_allclose(got, case.got[0].weights["bias"] - case.weights["bias"])
    np.testing.assert_allclose(expected, got / 3)
    later = Evidence(case._replace(first=2))
    got, expected = later.moves["weight"]
    np.testing.assert_allclose(got, case.got[2].weights["weight"] - case.got[1].weights["weight"])
    steps = case.center.steps
    np.testing.assert_allclose(expected, steps[2].weights["weight"] - steps[1].weights["weight"])
