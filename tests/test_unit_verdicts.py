"""How somebody's arrays are judged, from numbers made by hand: each limit from both sides."""

from dataclasses import replace

import numpy as np
import pytest

from parity.core.compare import (
    CONDITION_FACTOR,
    MEANING_LIMIT,
    NOISE_FACTOR,
    TOLERANCE_FACTOR,
    TOLERANCES,
    UNIT_ROUNDOFF,
    WARNING_FACTOR,
    WIDEST_MEANING,
    Comparison,
    Outcome,
)
from parity.modules.verdicts import (
    LEAST_NOISE,
    LIMITS,
    NOT_FINITE,
    PEER,
    ROUND_OFF,
    ROUNDINGS_OF_ZERO,
    UNDECIDED,
    UNRESOLVED,
    VARIANT_FACTOR,
    WIDEST_NOISE,
    ZERO,
    Group,
    Limits,
    Numbers,
    Sizes,
    chosen_limits,
    distance,
    exact,
    judged,
    meaning,
    numerics,
    reduced,
    sizes_of,
    structure,
)

NO_LIMITS = Limits({})
PASS, WARN, FAIL, ABSTAIN = Outcome.PASS, Outcome.WARN, Outcome.FAIL, Outcome.ABSTAIN
ABOVE, BELOW = 1 + 1e-6, 1 - 1e-6


def what(dtype="float64", quantity="forward"):
    return Comparison("pair", quantity, dtype)


def group(got, peer, reference=None, *, dtype="float64", moved=(), rounded=None, given=True):
    """A group with one output "y"."""

    def stacked(array):
        return {"forward": {"y": np.asarray(array)}}

    reference = peer if reference is None else reference
    others = tuple(stacked(array) for array in moved)
    more = None if rounded is None else stacked(rounded)
    return Group(
        "as given", dtype, stacked(got), stacked(peer), stacked(reference), others, given, more
    )


def numbers(**changes):
    """Numbers of an array of size 2 which is the module's only one."""
    usual = {"distance": 0.0, "own": 0.0, "moved": 0.0, "rounded": 0.0, "size": 2.0, "scale": 2.0}
    return Numbers(**{**usual, "largest": 2.0, "finite": True, **changes})


def test_the_limit_of_a_quantity_comes_before_that_of_its_criterion():
    limits = chosen_limits({"C1": 1e-3, "C1 gradients": 2})
    assert limits.of("C1", "gradients") == 2
    assert limits.of("C1", "forward") == 1e-3
    assert limits.of("C2", "forward") is None
    assert chosen_limits(None).values == {}
    assert len(LIMITS) == 9
    assert "C3 forward" in LIMITS


@pytest.mark.parametrize("limit", [0, -1.0, True, "1", float("nan")])
def test_a_limit_is_a_positive_number(limit):
    with pytest.raises(ValueError, match=r"limits\['C2'\] must be a positive number"):
        chosen_limits({"C2": limit})


def test_an_unknown_limit_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"must name some of C1, C1 forward, .*; got 'C4'"):
        chosen_limits({"C4": 1.0})


def test_the_size_of_an_array_is_the_root_mean_square_of_its_finite_numbers():
    first = {"forward": {"y": np.array([3.0, 3.0, np.nan, np.inf]), "z": np.array([5.0])}}
    second = {"forward": {"y": np.array([1.0, 7.0])}, "gradients": {"w": np.array([np.nan])}}
    sizes = sizes_of([first, second])
    assert sizes.arrays["forward"] == pytest.approx({"y": 5.0, "z": 5.0})
    assert sizes.arrays["gradients"] == {"w": 0.0}
    assert sizes.largest == pytest.approx({"forward": 5.0, "gradients": 0.0})
    assert sizes_of([{"gradients": {}}]).largest == {"gradients": 0.0}


def test_a_distance_is_that_of_the_entries_that_are_finite_on_both_sides():
    got = np.array([1.0, np.nan, 4.0, 10.0])
    truth = np.array([1.0, 5.0, np.inf, 6.0])
    assert distance(got, truth) == 4.0
    assert distance(np.array([3e200, 4e200]), np.zeros(2)) == pytest.approx(5e200)
    assert distance(np.zeros(3), np.zeros(3)) == 0.0
    assert distance(np.zeros(0), np.zeros(0)) == 0.0


F64, F32 = np.zeros((1, 2)), np.zeros((1, 2), np.float32)
INTS, BOOLS = np.zeros((1, 2), np.int32), np.zeros((1, 2), bool)


@pytest.mark.parametrize(
    ("got", "peer", "dtype", "note"),
    [
        (F64, F64, "float64", ""),
        (np.zeros((1, 3)), F64, "float64", "expected shape (2,), got (3,)"),
        (F32, F64, "float64", "expected float64, got float32"),
        (F64, F32, "float32", "expected float32, got float64"),
        # What neither side has in the precision that was asked for is the same on both.
        (F32, F32, "float64", ""),
        (INTS, INTS.astype(np.int64), "float64", ""),
        (INTS.astype(np.uint8), INTS, "float64", ""),
        (BOOLS, INTS, "float64", "expected integers, got bool"),
        (INTS, BOOLS, "float64", "expected bool, got integers"),
        (F64, INTS, "float64", "expected integers, got float64"),
        (INTS, F64, "float64", "expected float64, got integers"),
        (F64 + np.nan, F64, "float64", "NaN or infinity in JAX only"),
    ],
)
def test_structure_is_shape_kind_and_places(got, peer, dtype, note):
    (finding,) = structure(what(dtype), group(got, peer, dtype=dtype))
    assert (finding.outcome, finding.note) == (FAIL if note else PASS, note)
    assert finding.criterion == "C0"


def test_only_outputs_have_to_be_there():
    nothing = {"forward": {}, "gradients": {}}
    empty = Group("", "float64", nothing, nothing, nothing, (), True)
    assert structure(what(quantity="gradients"), empty)[0].outcome is PASS
    assert structure(what(), empty)[0].outcome is FAIL


@pytest.mark.parametrize(("dtype", "criterion"), [("float64", "C1"), ("float32", "C2")])
@pytest.mark.parametrize(
    ("got", "moved", "outcome", "value", "note"),
    [
        ([[1, 2, 3, 4]], [], PASS, 0.0, ""),
        ([[1, 2, 3, 5]], [], FAIL, 0.25, "the share of entries that differ"),
        ([[1, 2, 3, 5]], [[[1, 2, 3, 9]]], WARN, 0.25, UNDECIDED),
        ([[1, 2, 4, 5]], [[[1, 2, 3, 9]]], FAIL, 0.5, "the share of entries that differ"),
        # Each entry may be moved by another rounding.
        ([[1, 2, 4, 5]], [[[1, 2, 3, 9]], [[1, 2, 0, 4]]], WARN, 0.5, UNDECIDED),
    ],
)
def test_integers_are_equal_unless_a_rounding_decides(
    got, moved, outcome, value, note, dtype, criterion
):
    results = group(got, [[1, 2, 3, 4]], moved=moved, dtype=dtype)
    assert judged(what(dtype), "y", results, Sizes({}, {}), NO_LIMITS) == [
        exact(what(dtype), "y", results)
    ]
    finding = exact(what(dtype), "y", results)
    assert (finding.criterion, finding.outcome, finding.value) == (criterion, outcome, value)
    assert finding.note == note


def test_floats_have_one_finding_in_float64_and_two_below():
    sizes = Sizes({"forward": {"y": 1.0}}, {"forward": 1.0})
    array = np.ones((1, 2))
    found = judged(what(), "y", group(array, array), sizes, NO_LIMITS)
    assert [f.criterion for f in found] == ["C1"]
    low = group(array, array, dtype="float32")
    found = judged(what("float32"), "y", low, sizes, NO_LIMITS)
    assert [f.criterion for f in found] == ["C2", "C3"]


def test_the_numbers_of_a_group():
    reference = np.array([[3.0, 4.0]])
    results = group(
        reference + np.array([0.0, 2.0]),
        reference + np.array([1.0, 0.0]),
        reference,
        moved=[reference + np.array([0.5, 0.0]), reference + np.array([0.25, 0.0])],
        rounded=reference + np.array([0.0, 1.0]),
    )
    sizes = Sizes({"forward": {"y": 50.0}}, {"forward": 1.0})
    found = Numbers.of("forward", "y", results, sizes)
    assert (found.distance, found.own, found.moved) == (2.0, 1.0, 0.5)
    assert found.rounded == UNIT_ROUNDOFF["float64"] / UNIT_ROUNDOFF["float32"]
    assert found.size == pytest.approx(5.0)
    # The user's own inputs are their own measure, whatever others there are.
    assert found.scale == found.size
    assert found.largest == pytest.approx(5.0)
    assert found.finite
    assert found.zero == ROUNDINGS_OF_ZERO * UNIT_ROUNDOFF["float64"] * found.largest
    variant = group(reference, reference, given=False)
    found = Numbers.of("forward", "y", variant, Sizes({"forward": {"y": 50.0}}, {"forward": 70.0}))
    assert found.scale == pytest.approx(50.0 * np.sqrt(2))
    assert found.largest == pytest.approx(70.0 * np.sqrt(2))
    assert (found.moved, found.rounded) == (0.0, 0.0)
    small = Numbers.of("forward", "y", variant, Sizes({"forward": {}}, {"forward": 0.0}))
    assert small.scale == pytest.approx(5.0)
    nothing = group([[np.nan, np.inf]], [[np.nan, np.inf]])
    assert not Numbers.of("forward", "y", nothing, sizes).finite
    some = group([[np.nan, 1.0]], [[np.nan, 1.0]])
    assert Numbers.of("forward", "y", some, sizes).finite


def test_what_shows_nothing_is_said():
    assert numbers().shows_nothing == ""
    assert numbers(finite=False, size=0.0).shows_nothing == NOT_FINITE
    assert numbers(size=0.0).shows_nothing == ZERO
    assert numbers(size=0.0, distance=1.0).shows_nothing == ROUND_OFF
    zero = numbers().zero
    assert numbers(size=zero).shows_nothing == ROUND_OFF
    assert numbers(size=zero * ABOVE).shows_nothing == ""


@pytest.mark.parametrize("quantity", ["forward", "gradients"])
def test_meaning_has_a_limit_for_each_quantity(quantity):
    limit = MEANING_LIMIT[quantity]
    within = meaning(what(quantity=quantity), "y", numbers(distance=2 * limit), NO_LIMITS)
    beyond = meaning(what(quantity=quantity), "y", numbers(distance=2 * limit * ABOVE), NO_LIMITS)
    assert (within.outcome, within.value, within.limit) == (PASS, limit, limit)
    assert (within.criterion, within.array, within.note) == ("C1", "y", "")
    assert (beyond.outcome, beyond.note) == (FAIL, "")


@pytest.mark.parametrize("source", ["moved", "rounded"])
def test_a_module_that_magnifies_round_off_widens_the_limit_of_meaning(source):
    noise = 1e-12
    limit = CONDITION_FACTOR * noise / 2
    near = {source: noise, "distance": 2 * limit * BELOW}
    finding = meaning(what(), "y", numbers(**near), NO_LIMITS)
    assert (finding.outcome, finding.limit) == (PASS, pytest.approx(limit))
    # But not beyond the widest, where nothing is shown if the noise is that of the inputs.
    far = {source: 1.0, "distance": 2 * WIDEST_MEANING * ABOVE}
    finding = meaning(what(), "y", numbers(**far), NO_LIMITS)
    assert finding.limit == WIDEST_MEANING
    assert finding.outcome is (ABSTAIN if source == "moved" else FAIL)
    assert finding.note == (UNRESOLVED if source == "moved" else "")


def test_unresolved_ends_where_a_rounding_no_longer_moves_as_far():
    moved = 1e-3
    for factor, outcome in ((BELOW, ABSTAIN), (ABOVE, FAIL)):
        distance = CONDITION_FACTOR * moved * factor
        found = meaning(what(), "y", numbers(moved=moved, distance=distance), NO_LIMITS)
        assert found.outcome is outcome
    # What the user asks for is not to be talked away.
    found = meaning(what(), "y", numbers(moved=moved, distance=moved), Limits({"C1": 1e-6}))
    assert (found.outcome, found.limit) == (FAIL, 1e-6)
    found = meaning(what(), "y", numbers(moved=moved, distance=moved), Limits({"C1": 1.0}))
    assert (found.outcome, found.limit) == (PASS, 1.0)


def test_what_is_zero_abstains_unless_jax_has_more_than_round_off():
    zero = numbers().zero
    found = meaning(what(), "y", numbers(size=0.0, scale=0.0, distance=zero), NO_LIMITS)
    assert (found.outcome, found.note, found.value) == (ABSTAIN, ROUND_OFF, zero)
    found = meaning(what(), "y", numbers(size=0.0, scale=0.0, distance=1e-3), NO_LIMITS)
    assert (found.outcome, found.value) == (FAIL, 1e-3)


LOW = ["float32", "bfloat16"]


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize(("given", "of"), [(True, NOISE_FACTOR), (False, {})])
def test_numerics_is_a_factor_of_pytorchs_own_distance(dtype, given, of):
    factor = of.get(dtype, VARIANT_FACTOR)
    # Within the tolerance of C3, so that C2 alone decides.
    least = LEAST_NOISE * UNIT_ROUNDOFF[dtype]
    own = 2 * least
    for much, outcome in ((BELOW, WARN if given else PASS), (ABOVE, FAIL)):
        values = numbers(own=own, distance=own * factor * much)
        ratio, _ = numerics(what(dtype), "y", values, NO_LIMITS, given=given)
        assert ratio.outcome is outcome
        assert (ratio.criterion, ratio.array, ratio.limit) == ("C2", "y", factor)
        assert ratio.value == pytest.approx(factor, rel=1e-3)
    half = numbers(own=own / 4, distance=own * factor * BELOW)
    assert numerics(what(dtype), "y", half, NO_LIMITS, given=given)[0].value == pytest.approx(
        factor, rel=1e-3
    )


def test_what_lies_on_a_limit_is_within_it():
    # Powers of two, so that nothing is rounded.
    own = 2.0**-10
    factor = NOISE_FACTOR["float32"]
    limits = Limits({"C3": own * factor})
    found = numerics(
        what("float32"), "y", numbers(own=2 * own, distance=2 * own * factor), limits, given=True
    )
    assert [f.outcome for f in found] == [WARN, PASS]
    assert found[0].value == factor
    free = numbers(own=2.0, distance=2.0 * factor)
    assert numerics(what("float32"), "y", free, NO_LIMITS, given=True)[0].outcome is ABSTAIN


def test_a_ratio_warns_from_its_own_factor_on_and_only_for_the_users_inputs():
    own = 1e-5
    for much, given, outcome in ((BELOW, True, PASS), (ABOVE, True, WARN), (ABOVE, False, PASS)):
        values = numbers(own=own, distance=own * WARNING_FACTOR * much)
        ratio, _ = numerics(what("float32"), "y", values, NO_LIMITS, given=given)
        assert ratio.outcome is outcome


@pytest.mark.parametrize("source", ["own", "moved"])
def test_noise_beyond_the_widest_resolves_nothing(source):
    values = numbers(**{source: 1.0}, distance=0.9)
    ratio, fixed = numerics(what("float32"), "y", values, NO_LIMITS, given=True)
    assert ratio.value == pytest.approx(0.45 / WIDEST_NOISE["float32"])
    assert (ratio.outcome, ratio.note) == (ABSTAIN, UNRESOLVED)
    assert (fixed.outcome, fixed.note) == (ABSTAIN, UNRESOLVED)
    factor = NOISE_FACTOR["float32"]
    for much, outcome in ((BELOW, ABSTAIN), (ABOVE, FAIL)):
        values = numbers(**{source: 1.0}, distance=factor * much)
        found = numerics(what("float32"), "y", values, NO_LIMITS, given=True)
        assert [f.outcome for f in found] == [outcome, outcome]


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("quantity", ["forward", "gradients"])
def test_the_tolerance_of_c3(dtype, quantity):
    tolerance = TOLERANCES[dtype][quantity]
    for much, outcome in ((BELOW, PASS), (ABOVE, WARN)):
        # PyTorch is as far off, so that C2 passes and C3 may only warn.
        off = 2 * tolerance * much
        values = numbers(own=off, distance=off)
        ratio, fixed = numerics(what(dtype, quantity), "y", values, NO_LIMITS, given=True)
        assert ratio.outcome is PASS
        assert fixed.outcome is outcome
        assert (fixed.criterion, fixed.limit) == ("C3", tolerance)
        assert fixed.value == pytest.approx(tolerance, rel=1e-3)
        assert fixed.note == ("" if outcome is PASS else PEER)
    found = numerics(what(dtype, quantity), "y", numbers(distance=2.0), NO_LIMITS, given=True)
    assert [f.outcome for f in found] == [FAIL, FAIL]


def test_a_rounding_that_moves_the_result_widens_the_tolerance():
    moved = 1e-4
    values = numbers(moved=moved)
    _, fixed = numerics(what("float32"), "y", values, NO_LIMITS, given=True)
    assert fixed.limit == pytest.approx(TOLERANCE_FACTOR * NOISE_FACTOR["float32"] * moved / 2)
    _, fixed = numerics(what("float32"), "y", numbers(moved=1.0), NO_LIMITS, given=True)
    widest = WIDEST_NOISE["float32"]
    assert fixed.limit == pytest.approx(TOLERANCE_FACTOR * NOISE_FACTOR["float32"] * widest)


def test_the_users_limits_of_numerics():
    values = numbers(own=1e-4, distance=1e-4)
    ratio, fixed = numerics(
        what("float32"), "y", values, Limits({"C2": 0.5, "C3": 1e-6}), given=True
    )
    assert (ratio.limit, ratio.outcome) == (0.5, FAIL)
    assert (fixed.limit, fixed.outcome) == (1e-6, FAIL)
    # A limit of C3 that is asked for does not only warn.
    ratio, fixed = numerics(what("float32"), "y", values, Limits({"C3": 1e-6}), given=True)
    assert (ratio.outcome, fixed.outcome) == (PASS, FAIL)


def test_zero_in_float64_is_round_off_of_the_larger_arrays_below():
    zero = numbers().zero * UNIT_ROUNDOFF["float32"] / UNIT_ROUNDOFF["float64"]
    values = numbers(size=0.0, scale=0.0, distance=zero * BELOW)
    found = numerics(what("float32"), "y", values, NO_LIMITS, given=True)
    assert [(f.criterion, f.outcome, f.note) for f in found] == [
        ("C2", ABSTAIN, ROUND_OFF),
        ("C3", ABSTAIN, ROUND_OFF),
    ]
    assert found[0].limit == NOISE_FACTOR["float32"]
    assert found[1].limit == TOLERANCES["float32"]["forward"]
    assert found[0].value == values.distance
    values = numbers(size=0.0, scale=0.0, distance=zero * 10)
    found = numerics(what("float32"), "y", values, NO_LIMITS, given=True)
    assert all(f.outcome is FAIL for f in found)


def finding(outcome, *, criterion="C1", array="y", inputs="own", value=0.0, limit=1.0):
    found = what().finding(criterion, array, outcome, value=value, limit=limit)
    return replace(found, inputs=inputs)


GIVEN = {"own": True, "variant": False}


def test_the_worst_of_all_inputs_is_kept():
    found = [
        finding(PASS, value=0.1),
        finding(FAIL, inputs="variant", value=2.0),
        finding(FAIL, inputs="variant", value=np.nan),
        finding(PASS, array="z", value=0.2),
        finding(PASS, array="z", value=0.3, inputs="variant"),
        finding(PASS, criterion="C2", value=0.9),
    ]
    kept = reduced(found, GIVEN)
    assert [(f.criterion, f.array, f.value) for f in kept] == [
        ("C1", "y", 2.0),
        ("C1", "z", 0.3),
        ("C2", "y", 0.9),
    ]


def test_a_variant_shows_nothing_where_the_users_inputs_do_not():
    (kept,) = reduced([finding(ABSTAIN), finding(PASS, inputs="variant")], GIVEN)
    assert kept.outcome is ABSTAIN
    (kept,) = reduced([finding(ABSTAIN), finding(WARN, inputs="variant")], GIVEN)
    assert kept.outcome is WARN
    first = finding(ABSTAIN, value=0.1)
    found = [finding(PASS, inputs="variant"), first, finding(ABSTAIN, value=0.2)]
    assert reduced(found, GIVEN) == [first]
    (kept,) = reduced([finding(ABSTAIN), finding(PASS)], GIVEN)
    assert kept.outcome is PASS
    (kept,) = reduced([finding(PASS, inputs="variant")], GIVEN)
    assert kept.outcome is PASS
    # What is not known to be a variant counts as given.
    (kept,) = reduced([finding(ABSTAIN, inputs="?"), finding(PASS, inputs="variant")], GIVEN)
    assert kept.outcome is ABSTAIN


def test_structures_that_pass_are_one_finding():
    passes = [finding(PASS, criterion="C0", array=a) for a in ("2 arrays", "3 arrays")]
    assert len(reduced(passes, GIVEN)) == 1
    fails = [finding(FAIL, criterion="C0", array=a) for a in ("y", "z")]
    assert len(reduced([*passes, *fails], GIVEN)) == 3
    assert len(reduced([finding(PASS), finding(PASS, array="z")], GIVEN)) == 2
