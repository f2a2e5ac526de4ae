"""How far apart runs may be: envelopes, limits and verdicts from numbers that are made by hand."""

import numpy as np
import pytest

from parity.core.compare import (
    CONDITION_FACTOR,
    MEANING_LIMIT,
    UNIT_ROUNDOFF,
    WIDEST_MEANING,
    Outcome,
)
from parity.measures.envelopes import (
    LIMITS,
    QUANTITIES,
    ROUNDINGS,
    SMALLEST_LOSS,
    STILL,
    Center,
    Verdict,
    float_arrays,
    matching_gradients,
    matching_moments,
    trajectory_findings,
)
from parity.measures.training_loops import Step
from parity.measures.trajectories import DIVERGED, ENVELOPE_FACTOR
from parity.measures.updates import UNDECIDED

START = {"w": np.array([1.0, 2.0, 2.0]), "b": np.array([5.0])}
MOVES = {"w": np.array([3.0, 0.0, 4.0]), "b": np.array([0.5])}


def step(t, *, by=0.0, loss=2.0, dtype=np.float64, **arrays):
    """After t steps, each of which moves w by (3, 0, 4); `by` is added to the first entry of w."""
    weights = {key: (START[key] + t * MOVES[key]).astype(dtype) for key in START}
    weights["w"][0] += by
    return Step(loss, weights, **arrays)


def run(by=(0.0, 0.0, 0.0), **options):
    return [step(t, by=b, **options) for t, b in enumerate(by, 1)]


def center(others=(), dtype="float64", exact=None, steps=None):
    return Center(START, steps or run(), [run(by) for by in others], dtype, exact)


def test_quantities_are_in_the_order_of_a_step_and_have_their_limits():
    assert QUANTITIES == ("loss", "gradients", "moments", "weights", "averages")
    update = MEANING_LIMIT["update"]
    assert {
        "loss": MEANING_LIMIT["loss"],
        "gradients": MEANING_LIMIT["gradients"],
        **dict.fromkeys(("moments", "weights", "averages"), update),
    } == LIMITS
    assert ROUNDINGS.keys() == LIMITS.keys()


def test_in_float64_moves_are_compared_and_below_it_weights_and_roots_of_squares():
    arrays = {
        "gradients": {"w": np.ones(3, np.float32)},
        "moments": {"exp_avg of w": np.full(3, 4.0), "exp_avg_sq of w": np.full(3, 4.0)},
        "averages": {"w": START["w"] + 1},
    }
    one = step(2, **arrays)
    wide = center().quantities(one)
    np.testing.assert_array_equal(wide["weights"]["w"], 2 * MOVES["w"])
    np.testing.assert_array_equal(wide["averages"]["w"], np.ones(3))
    assert wide["moments"]["exp_avg_sq of w"][0] == 4
    assert wide["gradients"]["w"].dtype == np.float64
    assert wide["loss"] == {"loss": np.array(2.0)}
    narrow = center(dtype="float32").quantities(one)
    np.testing.assert_array_equal(narrow["weights"]["w"], START["w"] + 2 * MOVES["w"])
    assert narrow["moments"]["exp_avg_sq of w"][0] == 2
    assert narrow["moments"]["exp_avg of w"][0] == 4
    assert center().quantities(step(1, loss=None))["loss"] == {}


def test_the_envelope_is_the_largest_distance_of_any_run_so_far():
    """Of moves of 5, 10 and 15; it does not shrink, though the runs come together again."""
    found = center(others=[(1e-5, 0, 1e-4), (-3e-5, 2e-5, 0)])
    limits = found.limits["weights", "w"]
    np.testing.assert_allclose([limit.size for limit in limits], [5, 10, 15])
    np.testing.assert_allclose([limit.envelope for limit in limits], [6e-6, 6e-6, 1e-4 / 15])
    assert [found.spread(t) > 0 for t in range(3)] == [True] * 3
    # The run in float64 is one of them.
    exact = center(dtype="float32", exact=run((0, 3e-4, 0)))
    sizes = np.linalg.norm([START["w"] + t * MOVES["w"] for t in (1, 2, 3)], axis=1)
    envelopes = [limit.envelope for limit in exact.limits["weights", "w"]]
    np.testing.assert_allclose(envelopes, [0, 3e-4 / sizes[1], 3e-4 / sizes[1]])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("envelope", [0.0, 1e-13, 1e-12, 1e-10, 1e-7, 1e-4])
def test_a_limit_follows_the_envelope_between_its_bounds(envelope, dtype):
    size = 5 if dtype == "float64" else np.linalg.norm(START["w"] + MOVES["w"])
    found = center(others=[(envelope * size, 0, 0)], dtype=dtype)
    limit = found.limits["weights", "w"][0]
    np.testing.assert_allclose(limit.envelope, envelope, rtol=1e-2)
    if dtype == "float64":
        expected = max(
            MEANING_LIMIT["update"],
            min(CONDITION_FACTOR * limit.envelope, WIDEST_MEANING),
            ENVELOPE_FACTOR * limit.envelope,
        )
    else:
        narrowest = ROUNDINGS["weights"] * UNIT_ROUNDOFF["float32"]
        expected = ENVELOPE_FACTOR * max(limit.envelope, narrowest)
    np.testing.assert_allclose(limit.limit, expected)


def test_entries_that_round_off_puts_anywhere_are_left_out_and_stay_so():
    typical = 5 / np.sqrt(3)
    for share, decided in ((0.9, True), (1.1, False)):
        found = center(others=[(share * DIVERGED * typical, 0, 0)])
        limits = found.limits["weights", "w"]
        assert [bool(limit.decided[0]) for limit in limits] == [decided] * 3
        assert all(limit.decided[1:].all() for limit in limits)
    # A gradient has no memory.
    gradients = [{"w": np.array([3.0, 0, 4])}] * 2
    steps = [step(t, gradients=g) for t, g in enumerate(gradients, 1)]
    other = [step(1, gradients={"w": np.array([3.1, 0, 4])}), steps[1]]
    limits = Center(START, steps, [other], "float64").limits["gradients", "w"]
    assert [bool(limit.decided[0]) for limit in limits] == [False, True]


def test_in_float32_weights_whose_gradient_is_small_are_undecided():
    moment = np.array([1.0, 0.9 * UNDECIDED, 1.1 * UNDECIDED]) ** 2
    for kind in ("exp_avg_sq", "square_avg"):
        steps = [step(t, moments={f"{kind} of w": moment}) for t in (1, 2)]
        found = Center(START, steps, [], "float32")
        assert found.limits["weights", "w"][0].decided.tolist() == [True, False, True]
        assert found.limits["weights", "b"][0].decided.tolist() == [True]
        assert found.limits["moments", f"{kind} of w"][0].decided.all()
        assert Center(START, steps, [], "float64").limits["weights", "w"][0].decided.all()


def test_a_loss_is_relative_to_no_less_than_a_share_of_the_largest():
    steps = run()
    steps[0].loss, steps[1].loss = -40.0, 1e-9
    found = Center(START, steps, [], "float64")
    sizes = [limit.size for limit in found.limits["loss", "loss"]]
    np.testing.assert_allclose(sizes, [40, 40 * SMALLEST_LOSS, 2])


def test_the_spread_is_that_of_all_weights_together():
    """w is 1e-2 of its 5 apart, b not at all of its 0.5."""
    others = [[step(1), step(2), step(3)]]
    others[0][0].weights["w"] = others[0][0].weights["w"] + np.array([0, 0, 1e-3])
    found = Center(START, run(), others, "float64")
    np.testing.assert_allclose(found.spread(0), 1e-3 / np.hypot(5, 0.5))
    still = [Step(1.0, dict(START)) for _ in range(2)]
    assert Center(START, still, [], "float64").spread(1) == 0


def test_the_horizon_is_where_the_spread_is_wide():
    scale = np.hypot(5, 0.5) * DIVERGED
    for t in range(3):
        other = run()
        for s in other[t:]:
            # In no entry so far that it were left out, but in all of them together.
            s.weights = {key: array + scale * 3 * 0.6 for key, array in s.weights.items()}
        found = Center(START, run(), [other], "float64")
        wide = [found.spread(k) > DIVERGED for k in range(3)]
        expected = wide.index(True) + 1 if any(wide) else 0
        assert found.horizon == expected
    assert center().horizon == 0


def test_numbers_that_overflow_are_followed_no_further():
    largest = np.sqrt(np.finfo(np.float64).max) / 1e6
    for size, diverged in ((0.9 * largest, 3), (1.1 * largest, 1), (np.nan, 1)):
        other = run((0, size, 0))
        found = Center(START, run(), [other], "float64")
        assert found.diverged == diverged
        assert all(limit.limit == np.inf for limit in found.limits["weights", "w"][diverged:])
        assert all(limit.limit < np.inf for limit in found.limits["weights", "w"][:diverged])
        # The first step is always compared.
        assert Center(START, run(), [run((size, 0, 0))], "float64").diverged == 3
    odd = run()
    odd[2].loss = np.inf
    assert Center(START, odd, [], "float64").diverged == 2
    counted = [Step(1.0, {"n": np.array(2**62)}) for _ in range(2)]
    assert Center({"n": np.array(0)}, counted, [], "float64").diverged == 2


def test_a_distance_is_relative_and_infinite_where_it_cannot_be():
    found = center()
    move = MOVES["w"]
    assert found.distance("weights", "w", 0, move) == 0
    np.testing.assert_allclose(
        found.distance("weights", "w", 0, move + np.array([0, 0.3, 0.4])), 0.1
    )
    # Relative to another reference that is given.
    np.testing.assert_allclose(found.distance("weights", "w", 0, 3 * move, 2 * move), 0.5)
    assert found.distance("weights", "w", 0, move[:2]) == np.inf
    assert found.distance("weights", "w", 0, np.array([3, np.nan, 4])) == np.inf
    still = Center(START, [Step(1.0, dict(START))], [], "float64")
    assert still.distance("weights", "w", 0, np.zeros(3)) == 0
    assert still.distance("weights", "w", 0, np.ones(3)) == np.inf
    # The same infinities count as the same.
    odd = [Step(1.0, START, {"w": np.array([np.inf, np.nan, 4.0])})]
    strange = Center(START, odd, [], "float64")
    same, other = np.array([np.inf, np.nan, 4.0]), np.array([-np.inf, np.nan, 4.0])
    decided = strange.limits["gradients", "w"][0].decided
    assert decided[2]
    assert strange.distance("gradients", "w", 0, same) == 0
    if decided[0]:
        assert strange.distance("gradients", "w", 0, other) == np.inf


def test_only_what_is_decided_is_compared():
    found = center(others=[(1.0, 0, 0)])
    assert found.distance("weights", "w", 0, MOVES["w"] + [7.0, 0, 0]) == 0
    assert found.distance("weights", "w", 0, MOVES["w"] + [0, 7.0, 0]) > 1


def test_verdicts_are_of_what_both_have():
    found = center()
    got = {"loss": {"loss": np.array(2.2)}, "weights": {"w": MOVES["w"], "x": np.ones(1)}}
    verdicts = found.verdicts(1, got, ("loss", "weights"))
    assert verdicts.keys() == {("loss", "loss"), ("weights", "w")}
    verdict = verdicts["loss", "loss"]
    np.testing.assert_allclose(verdict.distance, 0.1)
    assert (verdict.step, verdict.limit) == (2, MEANING_LIMIT["loss"])


def test_a_verdict_differs_beyond_a_limit_that_says_something():
    narrow, wide = 1e-9, ENVELOPE_FACTOR * DIVERGED
    assert not Verdict(1, narrow, narrow).differs
    assert Verdict(1, 1.01 * narrow, narrow).differs
    assert Verdict(1, np.nan, narrow).differs
    assert Verdict(1, 1.0, wide).differs
    assert not Verdict(1, 1.0, 1.01 * wide).differs
    assert not Verdict(1, 1.0, 1.01 * wide).judged


def moments(**arrays):
    return Step(moments={name.replace("_of_", " of "): np.array(a) for name, a in arrays.items()})


def test_moments_have_the_names_of_pytorchs():
    theirs = Step()
    for k, name in enumerate(("exp_avg of w", "exp_avg_sq of w", "square_avg of b", "sum of w"), 1):
        theirs.moments[name] = np.array([float(k)])
    ours = Step()
    names = ("mu of w", "nu of w", "nu of b", "sum_of_squares of w", "mu of b")
    for k, name in enumerate(names, 5):
        ours.moments[name] = np.array([float(k)])
    found = {name: float(array[0]) for name, array in matching_moments(ours, theirs).items()}
    assert found == {
        "exp_avg of w": 5,
        "exp_avg_sq of w": 6,
        "square_avg of b": 7,
        "sum of w": 8,
    }


@pytest.mark.parametrize("scale", [1.0, -1.0, -0.25])
def test_a_trace_may_have_the_rate_or_the_sign_in_it(scale):
    theirs = moments(momentum_buffer_of_w=[1.0, 2.0])
    groups = [{"lr": 0.25, "keys": ["w"]}, {"lr": 0.125, "keys": ["b"]}, {"lr": 0.0, "keys": ["w"]}]
    theirs.groups = groups
    ours = moments(trace_of_w=[scale * 1.0, scale * 2.0])
    (found,) = matching_moments(ours, theirs).values()
    np.testing.assert_array_equal(found, [1.0, 2.0])
    # Another group's rate explains nothing.
    other = moments(trace_of_w=[-0.125, -0.25])
    (found,) = matching_moments(other, theirs).values()
    assert not np.allclose(found, [1.0, 2.0])
    # An average of directions has no such scale.
    flipped = moments(mu_of_w=[-1.0, -2.0])
    (found,) = matching_moments(flipped, moments(exp_avg_of_w=[1.0, 2.0])).values()
    np.testing.assert_array_equal(found, [-1.0, -2.0])


def test_clipped_gradients_stand_for_those_of_the_batch():
    raw = {"w": np.array([6.0, 8.0])}
    clipped = {"w": np.array([0.6, 0.8])}
    reference = Step(gradients=raw, applied=clipped)
    (found,) = matching_gradients(Step(gradients=clipped), reference).values()
    np.testing.assert_allclose(found, raw["w"])
    off = {"w": clipped["w"] + [0.1, 0.0]}
    (found,) = matching_gradients(Step(gradients=off), reference).values()
    np.testing.assert_allclose(found, raw["w"] + [1.0, 0.0])
    (found,) = matching_gradients(Step(gradients={"w": raw["w"] + 1}), reference).values()
    np.testing.assert_allclose(found, raw["w"] + 1)


def test_gradients_that_pytorch_has_not_are_left_out():
    ours = Step(gradients={"w": np.ones(2), "x": np.ones(2)})
    raw = {"w": np.array([6.0, 8.0])}
    for reference in (Step(gradients=raw), Step(gradients=raw, applied=raw)):
        assert matching_gradients(ours, reference).keys() == {"w"}
    # An update that was given only some is not the one of this batch.
    both = {"w": raw["w"], "b": raw["w"]}
    partly = Step(gradients=both, applied={"w": np.ones(2)})
    (found,) = matching_gradients(Step(gradients={"w": np.ones(2)}), partly).values()
    np.testing.assert_array_equal(found, np.ones(2))
    assert matching_gradients(Step(), Step(gradients=raw, applied=raw)) == {}


def finding(got, *, dtype="float64", others=(), steps=None, array="w"):
    findings = trajectory_findings("pair", center(others, dtype, steps=steps), got)
    (found,) = [f for f in findings if f.array == array and f.quantity == "weights"]
    return found


def test_a_finding_is_of_the_first_step_that_differs():
    for by, note in (((0, 0.1, 0.1), "from step 2 on"), ((0, 0, 0.1), "at step 3")):
        found = finding(run(by))
        assert (found.outcome, found.note, found.criterion) == (Outcome.FAIL, note, "C1")
        assert found.limit == MEANING_LIMIT["update"]
    np.testing.assert_allclose(finding(run((0, 0.1, 0.3))).value, 0.01)
    assert finding(run((0, 0.1, 0)), dtype="float32").criterion == "C4"


def test_a_finding_that_passes_is_of_the_nearest_step():
    found = finding(run((0, 1e-12, 0)))
    assert (found.outcome, found.note) == (Outcome.PASS, "step 2 of 3")
    np.testing.assert_allclose(found.value, 1e-13, rtol=1e-2)


def test_steps_that_round_off_decides_are_not_judged():
    """All entries are so far apart that none is left out, but all of them together."""
    others = []
    for sign in (1, -1):
        other = run()
        apart = sign * 0.9 * DIVERGED * 15 / np.sqrt(3)
        other[2].weights["w"] = other[2].weights["w"] + apart
        others.append(other)
    limit = Center(START, run(), others, "float64").limits["weights", "w"][2]
    assert limit.decided.all()
    np.testing.assert_allclose(limit.envelope, 0.9 * DIVERGED)
    assert limit.limit == ENVELOPE_FACTOR * limit.envelope


def test_what_shows_nothing_abstains_with_the_reason():
    still = [Step(1.0, {"w": START["w"], "b": START["b"] + t}) for t in (1, 2)]
    found = finding(still, steps=still)
    assert (found.outcome, found.note) == (Outcome.ABSTAIN, STILL)
    zeros = [step(t, gradients={"w": np.zeros(3)}) for t in (1, 2)]
    odd = [step(t, gradients={"w": np.full(3, np.nan)}) for t in (1, 2)]
    for steps, note in (
        (zeros, "zero in both frameworks"),
        (odd, "NaN or infinite in both frameworks"),
    ):
        found = trajectory_findings("pair", Center(START, steps, [], "float64"), steps)
        (of_gradients,) = [f for f in found if f.quantity == "gradients"]
        assert (of_gradients.outcome, of_gradients.note) == (Outcome.ABSTAIN, note)
    apart = [[Step(1.0, {"w": START["w"] + 9 * t, "b": START["b"]}) for t in (1, 2, 3)]]
    found = trajectory_findings("pair", Center(START, run(), apart, "float64"), run())
    (of_w,) = [f for f in found if (f.quantity, f.array) == ("weights", "w")]
    assert (of_w.outcome, of_w.note) == (Outcome.ABSTAIN, "round-off decides every entry")


def test_floats_are_told_from_what_counts():
    arrays = {"a": np.ones(1, np.float32), "n": np.ones(1, int), "m": np.ones(1, bool)}
    assert float_arrays(arrays).keys() == {"a"}
