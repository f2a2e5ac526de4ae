"""Limits, tolerances and outcomes from both sides, each by the constant that decides it."""

import math

import numpy as np
import pytest

from parity.core.compare import (
    CONDITION_FACTOR,
    MEANING_LIMIT,
    MEASURED,
    NOISE_FACTOR,
    STORED_AS,
    TOLERANCE_FACTOR,
    TOLERANCES,
    UNIT_ROUNDOFF,
    WARNING_FACTOR,
    WIDEST,
    WIDEST_MEANING,
    Comparison,
    Outcome,
    failures,
    meaning,
    numerics,
    places,
    relative_l2,
    structural_findings,
    structure,
    worst,
    worst_outcome,
)

WHAT = Comparison("pair", "forward", "float64")
# So that a distance is what is added to the first number.
TRUTH = {"w": np.array([1.0, 0.0])}
NAN = np.array([np.nan])


def off(by):
    return {"w": np.array([1.0, by])}


def test_units_are_half_the_distance_from_1_to_the_next_number():
    import ml_dtypes

    assert UNIT_ROUNDOFF["float64"] == np.finfo(np.float64).eps / 2
    assert UNIT_ROUNDOFF["float32"] == np.finfo(np.float32).eps / 2
    assert UNIT_ROUNDOFF["bfloat16"] == float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps) / 2
    assert UNIT_ROUNDOFF["tf32"] == 2.0 ** -(10 + 1)  # ten bits of mantissa
    assert STORED_AS == {"tf32": "float32"}


def test_limits_lie_between_round_off_and_the_mildest_mistake():
    for limit in MEANING_LIMIT.values():
        assert 100 * UNIT_ROUNDOFF["float64"] < limit <= 1e-11
    assert 1e-11 < WIDEST_MEANING < 1e-8
    assert 1 < WARNING_FACTOR < min(NOISE_FACTOR.values())


def test_tolerances_are_so_many_times_what_was_measured_and_no_wider_than_the_widest():
    assert TOLERANCES.keys() == WIDEST.keys() == {"float32", "tf32", "bfloat16"}
    for dtype, by_quantity in TOLERANCES.items():
        assert by_quantity.keys() == WIDEST[dtype].keys()
        for quantity, tolerance in by_quantity.items():
            widest = WIDEST[dtype][quantity]
            measured = MEASURED.get(dtype, {}).get(quantity, math.inf)
            assert tolerance == min(widest, TOLERANCE_FACTOR * measured)
    # Of gradients in float32 the measurement decides, of those in bfloat16 the widest.
    assert TOLERANCES["float32"]["gradients"] < WIDEST["float32"]["gradients"]
    assert TOLERANCES["bfloat16"]["gradients"] == WIDEST["bfloat16"]["gradients"]
    assert TOLERANCES["tf32"] == WIDEST["tf32"]


def test_outcomes_are_ordered_from_best_to_worst():
    names = ["ABSTAIN", "PASS", "WARN", "FAIL", "ERROR"]
    assert [outcome.value for outcome in Outcome] == names
    assert [outcome.severity for outcome in Outcome] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "limit", "margin"),
    [(2.0, 4.0, 0.5), (3.0, 0.0, np.inf), (0.0, 0.0, 0.0), (np.nan, 0.0, np.inf)],
)
def test_a_margin_is_the_value_over_the_limit(value, limit, margin):
    assert WHAT.finding("C1", "w", Outcome.PASS, value=value, limit=limit).margin == margin


def test_a_finding_has_what_is_compared_and_no_number_by_default():
    found = WHAT.finding("C1", "w", Outcome.PASS)
    assert (found.pair, found.quantity, found.dtype) == tuple(WHAT)
    assert (found.criterion, found.array, found.outcome) == ("C1", "w", Outcome.PASS)
    assert math.isnan(found.value)
    assert (found.limit, found.note, found.path, found.inputs) == (0.0, "", "", "")


def test_distances_leave_out_what_is_not_finite():
    got, truth = np.array([np.nan, 3.0, 5.0, np.inf]), np.array([1.0, np.inf, 4.0, np.inf])
    assert relative_l2(got, truth) == 0.25
    assert relative_l2(np.array([2, 3], np.int8), np.array([2, 4], np.int8)) == 1 / 20**0.5


def test_structure_names_every_problem_once():
    got = {"a": np.ones(2), "c": np.ones((1, 2)), "d": np.ones(2, np.float32), "x": np.ones(1)}
    expected = {"a": np.ones(2), "b": np.ones(2), "c": np.ones(2), "d": np.ones(2)}
    found = structure(WHAT, got, expected)
    assert [(f.array, f.note) for f in found] == [
        ("b", "is missing"),
        ("x", "is not expected"),
        ("c", "expected shape (2,), got (1, 2)"),
        ("d", "expected float64, got float32"),
    ]
    assert {(f.criterion, f.outcome, f.value) for f in found} == {("C0", Outcome.FAIL, 1.0)}
    (passed,) = structure(WHAT, expected, expected)
    assert (passed.array, passed.outcome, passed.value) == ("4 arrays", Outcome.PASS, 0.0)


def test_results_of_tf32_are_stored_in_float32():
    what = Comparison("pair", "forward", "tf32")
    arrays = {"w": np.ones(2, np.float32)}
    assert worst_outcome(structure(what, arrays, arrays)) is Outcome.PASS
    wide = {"w": np.ones(2)}
    assert structure(what, wide, wide)[0].note == "expected float32, got float64"


def test_nothing_to_compare_is_a_problem_unless_it_may_be():
    (found,) = structural_findings(WHAT, {}, {}, lambda a, b: "")
    assert (found.array, found.note) == ("", "there is nothing to compare")
    (found,) = structural_findings(WHAT, {}, {}, lambda a, b: "", may_be_none=True)
    assert (found.array, found.outcome) == ("0 arrays", Outcome.PASS)
    # What is given beside nothing is a problem all the same.
    found = structural_findings(WHAT, {"x": NAN}, {}, lambda a, b: "", may_be_none=True)
    assert [(f.array, f.note) for f in found] == [("x", "is not expected")]


def test_a_rule_of_ones_own_gets_jaxs_array_first():
    found = structural_findings(WHAT, {"a": 1}, {"a": 2}, lambda got, right: f"{got} for {right}")
    assert found[0].note == "1 for 2"


@pytest.mark.parametrize(
    ("got", "expected", "words"),
    [
        ([1.0, np.nan], [1.0, np.nan], ""),
        ([1.0, np.inf], [2.0, np.inf], ""),
        ([1.0, -np.inf], [1.0, np.inf], "NaN or infinity in other places"),
        ([np.nan, 1.0], [1.0, np.nan], "NaN or infinity in other places"),
        ([np.nan, 1.0], [1.0, 1.0], "NaN or infinity in JAX only"),
        ([1.0, 1.0], [np.inf, 1.0], "NaN or infinity in PyTorch only"),
        ([np.inf], [np.nan], "NaN or infinity in other places"),
    ],
)
def test_places_of_nan_and_infinity(got, expected, words):
    assert places(np.array(got), np.array(expected)) == words


@pytest.mark.parametrize("quantity", MEANING_LIMIT)
def test_meaning_passes_up_to_its_limit(quantity):
    what, limit = WHAT._replace(quantity=quantity), MEANING_LIMIT[quantity]
    for share, outcome in ((0.9, Outcome.PASS), (1.1, Outcome.FAIL)):
        (found,) = meaning(what, off(share * limit), TRUTH)
        assert (found.criterion, found.array, found.outcome) == ("C1", "w", outcome)
        assert found.limit == limit
        np.testing.assert_allclose(found.value, share * limit)


@pytest.mark.parametrize("noise", [0.0, 1e-14, 1e-12, 1e-11, 1e-10])
def test_the_limit_of_meaning_follows_the_noise_up_to_the_widest(noise):
    (found,) = meaning(WHAT, off(0), TRUTH, {"w": noise})
    expected = max(MEANING_LIMIT["forward"], min(CONDITION_FACTOR * noise, WIDEST_MEANING))
    assert found.limit == expected
    # The noise of another array does not count.
    assert meaning(WHAT, off(0), TRUTH, {"v": noise})[0].limit == MEANING_LIMIT["forward"]


LOW = Comparison("pair", "forward", "float32")
UNIT = UNIT_ROUNDOFF["float32"]


def judged(distance, peer, noise=None, what=LOW):
    ratio, fixed = numerics(what, off(distance), off(peer), TRUTH, noise)
    assert (ratio.criterion, fixed.criterion) == ("C2", "C3")
    return ratio, fixed


@pytest.mark.parametrize("dtype", NOISE_FACTOR)
def test_jax_may_be_so_many_times_as_far_as_pytorch(dtype):
    what = LOW._replace(dtype=dtype)
    peer = 8 * UNIT_ROUNDOFF[dtype]
    factor = NOISE_FACTOR[dtype]
    for ratio, outcome in (
        (0.9 * WARNING_FACTOR, Outcome.PASS),
        (1.1 * WARNING_FACTOR, Outcome.WARN),
        (0.99 * factor, Outcome.WARN),
        (1.01 * factor, Outcome.FAIL),
    ):
        found, _ = judged(ratio * peer, peer, what=what)
        assert (found.outcome, found.limit) == (outcome, factor)
        np.testing.assert_allclose(found.value, ratio)


def test_pytorch_may_be_right_by_luck():
    """Then two roundings stand for its distance, or the noise that is known."""
    found, _ = judged(1.2 * 2 * UNIT, 0.0)
    np.testing.assert_allclose(found.value, 1.2)
    found, _ = judged(10 * UNIT, 0.0, {"w": 8 * UNIT})
    np.testing.assert_allclose(found.value, 10 / 8)
    found, _ = judged(10 * UNIT, 16 * UNIT, {"w": 8 * UNIT})
    np.testing.assert_allclose(found.value, 10 / 16)
    found, _ = judged(10 * UNIT, 0.0, {"v": 8 * UNIT})
    np.testing.assert_allclose(found.value, 10 / 2)


def test_the_fixed_tolerance_is_from_both_sides():
    tolerance = TOLERANCES["float32"]["forward"]
    for share, outcome in ((0.9, Outcome.PASS), (1.1, Outcome.FAIL)):
        _, fixed = judged(share * tolerance, share * tolerance)
        assert (fixed.outcome, fixed.limit) == (outcome, tolerance)


def test_with_noise_the_fixed_tolerance_is_wider_and_warns_where_c2_passes():
    noise = 1e-5
    wide = TOLERANCE_FACTOR * NOISE_FACTOR["float32"] * noise
    ratio, fixed = judged(0.5 * wide, 0.5 * wide, {"w": noise})
    assert (fixed.limit, fixed.outcome) == (wide, Outcome.PASS)
    ratio, fixed = judged(1.1 * wide, 1.1 * wide, {"w": noise})
    assert (ratio.outcome, fixed.outcome) == (Outcome.PASS, Outcome.WARN)
    assert fixed.note == "PyTorch's own results are as far"
    ratio, fixed = judged(1.1 * wide, noise, {"w": noise})
    assert (ratio.outcome, fixed.outcome) == (Outcome.FAIL, Outcome.FAIL)
    _, fixed = judged(1.1 * wide, 1.1 * wide)
    assert fixed.outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("truth", "note"),
    [
        ([0.0, 0.0], "zero in both frameworks"),
        ([np.nan, np.inf], "NaN or infinite everywhere in both frameworks"),
    ],
)
def test_what_shows_nothing_abstains(truth, note):
    (found,) = meaning(WHAT, {"w": np.array(truth)}, {"w": np.array(truth)})
    assert (found.outcome, found.note, found.value) == (Outcome.ABSTAIN, note, 0.0)
    assert found.limit == MEANING_LIMIT["forward"]


def test_a_zero_that_is_none_in_jax_fails():
    (found,) = meaning(WHAT, {"w": np.ones(2)}, {"w": np.zeros(2)})
    assert (found.outcome, found.value, found.note) == (Outcome.FAIL, np.inf, "")
    (found,) = meaning(WHAT, {"w": np.array([1.0, np.nan])}, {"w": np.array([1.0, np.nan])})
    assert found.outcome is Outcome.PASS


def test_the_worst_of_several():
    def finding(array, outcome, value):
        return WHAT.finding("C1", array, outcome, value=value, limit=1.0)

    findings = [
        finding("a", Outcome.PASS, 0.9),
        finding("b", Outcome.FAIL, 2.0),
        finding("c", Outcome.FAIL, np.nan),
        finding("d", Outcome.WARN, 7.0),
        finding("e", Outcome.ABSTAIN, 9.0),
    ]
    assert worst(findings).array == "b"
    assert worst(findings[:1] + findings[4:]).array == "a"
    assert worst_outcome(findings) is Outcome.FAIL
    assert [f.array for f in failures(findings)] == ["b", "c"]
    broken = WHAT.finding("C0", "f", Outcome.ERROR)
    assert worst_outcome([*findings, broken]) is Outcome.ERROR
    assert failures([broken, *findings])[0] is broken
