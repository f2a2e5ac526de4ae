"""What fails at first is looked at more closely: what a second look excuses, and what it does not.

The two sides are y = w * relu(x) in NumPy, with what JAX does otherwise.
"""

import numpy as np
import pytest

from parity.core.cases import Case
from parity.core.compare import Outcome
from parity.modules.comparison import (
    BY_ROUNDING,
    CASES,
    FRESH_CASES,
    KINK,
    LESS_EXACT,
    MORE_PERTURBATIONS,
    Judge,
    compared,
)
from parity.modules.inputs import given_batch
from parity.modules.verdicts import Limits

COUNT = 50
X = np.random.default_rng(0).normal(size=COUNT).astype(np.float32).astype(float)
TIED = np.where(np.arange(COUNT) < 10, 0.0, X)  # some of them where relu has no derivative


class Sides:
    """Runners of both sides; `output` and `gradient` are JAX's changes, by precision."""

    def __init__(self, output=lambda y, dtype: y, gradient=lambda g, x: g):
        self.output, self.gradient = output, gradient
        self.runs = {"jax": 0, "torch": 0}

    def __call__(self, side, dtype):
        def run(case):
            self.runs[side] += 1
            x = np.asarray(case.inputs["0"]).astype(dtype)
            w = np.asarray(case.weights["w"]).astype(dtype)
            y = w * np.maximum(x, 0)
            slope = np.where(x > 0, w, 0)
            if side == "jax":
                y = self.output(y, dtype)
                slope = self.gradient(slope, x)
            forward = {"output 0": np.asarray(y, dtype)}
            gradients = {"w": np.maximum(x, 0), "input 0": np.asarray(slope, dtype)}
            return {"forward": forward, "gradients": gradients}

        return run


def cases_of(batch, count, dtype):
    found = []
    for seed in range(count):
        w = np.random.default_rng(seed).uniform(0.5, 1.5, COUNT)
        found.append(Case({"w": np.float32(w).astype(float)}, batch.arrays))
    return found


def judged(sides, dtypes, x=X, limits=None):
    judge = Judge(sides, cases_of, "pair", Limits(limits or {}))
    found = compared(judge, [given_batch([x])], [], dtypes).findings
    return {(f.quantity, f.array, f.dtype, f.criterion): f for f in found}


def test_what_jax_rounds_more_in_float64_warns():
    # Numbers near 1e5 are rounded to 1.5e-11.
    sides = Sides(lambda y, dtype: (y + 1e5) - 1e5)
    found = judged(sides, ("float64",))["forward", "output 0", "float64", "C1"]
    assert found.value > found.limit
    assert (found.outcome, found.note) == (Outcome.WARN, LESS_EXACT)
    assert sides.runs["jax"] == CASES["float64"] * (1 + MORE_PERTURBATIONS)
    # The same distance, of a function that does not round, is another function.
    sides = Sides(lambda y, dtype: y * (1 + 3e-12))
    found = judged(sides, ("float64",))["forward", "output 0", "float64", "C1"]
    assert found.outcome is Outcome.FAIL
    assert found.note == ""


def test_a_plain_difference_has_no_second_look():
    sides = Sides(lambda y, dtype: y * 1.01)
    found = judged(sides, ("float64", "float32"))
    assert found["forward", "output 0", "float64", "C1"].outcome is Outcome.FAIL
    assert found["forward", "output 0", "float32", "C2"].outcome is Outcome.FAIL
    assert sides.runs["jax"] == CASES["float64"] + CASES["float32"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_gradient_at_a_kink_warns(dtype):
    # relu at 0 has either derivative.
    sides = Sides(gradient=lambda g, x: np.where(x == 0, 1, g))
    found = judged(sides, (dtype,), TIED)
    criterion = "C1" if dtype == "float64" else "C2"
    kink = found["gradients", "input 0", dtype, criterion]
    assert (kink.outcome, kink.note) == (Outcome.WARN, KINK)
    assert found["gradients", "w", dtype, criterion].outcome is Outcome.PASS
    assert found["forward", "output 0", dtype, criterion].outcome is Outcome.PASS


def test_a_gradient_that_differs_beside_the_kink_too_fails():
    found = judged(Sides(gradient=lambda g, x: np.where(x == 0, 1, 1.01 * g)), ("float64",), TIED)
    wrong = found["gradients", "input 0", "float64", "C1"]
    assert (wrong.outcome, wrong.note) == (Outcome.FAIL, "")


def rounding(size):
    return lambda y, dtype: y * (1 + size) if dtype == "float32" else y


def test_what_agrees_in_float64_rounds_otherwise():
    # Beyond twice the least noise of C2, within the tolerance of C3.
    sides = Sides(rounding(1e-6))
    found = judged(sides, ("float32",))
    ratio = found["forward", "output 0", "float32", "C2"]
    assert ratio.value > ratio.limit
    assert (ratio.outcome, ratio.note) == (Outcome.WARN, BY_ROUNDING)
    assert found["forward", "output 0", "float32", "C3"].outcome is Outcome.PASS
    # The cases, fresh ones, and the first once more in float64.
    assert sides.runs["jax"] == CASES["float32"] + FRESH_CASES + CASES["float32"]
    asked = judged(Sides(rounding(1e-6)), ("float32",), limits={"C2": 2.0})
    assert asked["forward", "output 0", "float32", "C2"].outcome is Outcome.FAIL


def test_what_is_far_off_in_float32_alone_fails():
    found = judged(Sides(rounding(1e-3)), ("float32",))
    for criterion in ("C2", "C3"):
        assert found["forward", "output 0", "float32", criterion].outcome is Outcome.FAIL


def test_nan_in_other_places_is_no_round_off():
    def odd(y, dtype):
        return np.where(np.arange(COUNT) == 3, np.nan, y)

    found = judged(Sides(odd), ("float64", "float32"))
    for dtype in ("float64", "float32"):
        structure = found["forward", "output 0", dtype, "C0"]
        assert (structure.outcome, structure.note) == (Outcome.FAIL, "NaN or infinity in JAX only")
