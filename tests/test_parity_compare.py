"""The criteria themselves: what each lets through and what not."""

import numpy as np
import pytest

from parity.core.compare import (
    MEANING_LIMIT,
    TOLERANCES,
    UNIT_ROUNDOFF,
    Comparison,
    Outcome,
    meaning,
    numerics,
    relative_l2,
    structure,
    worst,
    worst_outcome,
)

WIDE = Comparison("pair", "gradients", "float64")
NARROW = Comparison("pair", "gradients", "float32")
REFERENCE = {"w": np.array([1.0, -2.0, 4.0]), "b": np.array([3.0])}


def shifted(by):
    return {name: array * (1 + by) for name, array in REFERENCE.items()}


def outcomes(findings):
    return {finding.array: finding.outcome for finding in findings}


def test_distances_are_relative_to_the_reference():
    assert relative_l2(np.array([3.0, 4.0]), np.array([3.0, 0.0])) == pytest.approx(4 / 3)
    assert relative_l2(np.ones(2), np.zeros(2)) == np.inf
    assert relative_l2(np.zeros(2), np.zeros(2)) == 0
    with pytest.raises(ValueError, match="shape"):
        relative_l2(np.ones(2), np.ones((2, 1)))


@pytest.mark.parametrize(
    ("got", "problem"),
    [
        ({"w": REFERENCE["w"]}, "is missing"),
        ({**REFERENCE, "x": np.ones(1)}, "is not expected"),
        ({**REFERENCE, "b": np.ones((1, 1))}, "expected shape"),
        ({**REFERENCE, "b": np.ones(1, np.float32)}, "expected float64"),
        ({**REFERENCE, "b": np.array([np.nan])}, "NaN or infinity"),
    ],
)
def test_structure_fails_with_the_problem(got, problem):
    findings = structure(WIDE, got, REFERENCE)
    assert worst_outcome(findings) is Outcome.FAIL
    assert any(problem in finding.note for finding in findings)


def test_structure_passes_the_same_and_fails_nothing_to_compare():
    assert worst_outcome(structure(WIDE, REFERENCE, REFERENCE)) is Outcome.PASS
    assert worst_outcome(structure(WIDE, {}, {})) is Outcome.FAIL


def test_infinities_of_another_sign_are_another_structure():
    minus, plus = {"w": np.array([-np.inf])}, {"w": np.array([np.inf])}
    assert worst_outcome(structure(WIDE, minus, plus)) is Outcome.FAIL


def test_meaning_separates_round_off_from_a_clipping_epsilon():
    assert worst_outcome(meaning(WIDE, shifted(1e-15), REFERENCE)) is Outcome.PASS
    assert worst_outcome(meaning(WIDE, shifted(1e-8), REFERENCE)) is Outcome.FAIL
    assert MEANING_LIMIT["gradients"] == 1e-11


def test_a_zero_reference_abstains_or_fails():
    zero = {"w": np.zeros(3)}
    assert worst_outcome(meaning(WIDE, zero, zero)) is Outcome.ABSTAIN
    assert worst_outcome(meaning(WIDE, {"w": np.ones(3) * 1e-30}, zero)) is Outcome.FAIL


def test_numerics_measures_against_the_noise_of_the_peer():
    noise = 4e-7

    def judge(factor):
        return numerics(NARROW, shifted(factor * noise), shifted(noise), REFERENCE)

    assert worst_outcome(judge(1.0)) is Outcome.PASS
    assert worst_outcome(judge(1.7)) is Outcome.WARN
    assert worst_outcome(judge(2.1)) is Outcome.FAIL


def test_where_the_peer_is_right_by_luck_two_roundings_are_allowed_for():
    unit = UNIT_ROUNDOFF["float32"]

    def judge(roundings):
        return numerics(NARROW, shifted(roundings * unit), REFERENCE, REFERENCE)

    assert worst_outcome(judge(2.0)) is Outcome.PASS
    assert worst_outcome(judge(3.8)) is Outcome.WARN
    assert worst_outcome(judge(4.2)) is Outcome.FAIL


def test_the_tolerance_holds_when_the_peer_is_bad_too():
    far = 2 * TOLERANCES["float32"]["gradients"]
    findings = numerics(NARROW, shifted(far), shifted(far), REFERENCE)
    assert {f.criterion for f in findings if f.outcome is Outcome.FAIL} == {"C3"}


def test_the_worst_is_the_one_nearest_to_its_limit():
    got = {"w": REFERENCE["w"] * (1 + 1e-13), "b": REFERENCE["b"]}
    assert worst(meaning(WIDE, got, REFERENCE)).array == "w"
    assert outcomes(meaning(WIDE, got, REFERENCE)) == {"w": Outcome.PASS, "b": Outcome.PASS}
    assert worst_outcome([]) is Outcome.ABSTAIN


def test_a_function_that_jumps_does_not_widen_its_limit_without_bound():
    """A rounding may move its results by as much as a mistake; an infinite noise is no licence."""
    truth = {"a": np.ones(4)}
    off = {"a": np.ones(4) * (1 + 1e-8)}
    for noise in (1e-3, 1.0, np.inf):
        (finding,) = meaning(WIDE, off, truth, {"a": noise})
        assert finding.outcome is Outcome.FAIL
    (finding,) = meaning(WIDE, {"a": np.ones(4) * (1 + 1e-11)}, truth, {"a": 1e-12})
    assert finding.outcome is Outcome.PASS
