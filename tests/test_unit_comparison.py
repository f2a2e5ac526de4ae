"""Second opinions on what fails at first: the rules by themselves, on results made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from parity.core.cases import Case
from parity.core.compare import Comparison, Outcome
from parity.modules.check import CAST, _drawn_anew, _may_be_a_cast, _weights_in_words
from parity.modules.comparison import (
    CASES,
    JUMP,
    NO_OUTPUT,
    WIDEST_OWN,
    Judge,
    _by_case,
    _is_plain,
    _jumping,
    _selected,
    _shows,
    _without_outputs,
    compared,
    perturbed,
    stored_case,
    together,
)
from parity.modules.inputs import given_batch
from parity.modules.remarks import SHOWN, shown_nothing, warned
from parity.modules.verdicts import CONSTANT, FIXED, VARIANT_FACTOR, Group, Limits

PASS, WARN, FAIL, ABSTAIN = Outcome.PASS, Outcome.WARN, Outcome.FAIL, Outcome.ABSTAIN
RNG = np.random.default_rng(0)


def finding(
    outcome=PASS, criterion="C1", quantity="forward", array="y", dtype="float64", **changes
):
    inputs = changes.pop("inputs", "")
    made = Comparison("pair", quantity, dtype).finding(criterion, array, outcome, **changes)
    return replace(made, inputs=inputs)


def test_results_of_several_cases_are_stacked():
    cases = [{"forward": {"y": np.full(2, k)}, "gradients": {}} for k in range(3)]
    found = together(cases)
    np.testing.assert_array_equal(found["forward"]["y"], [[0, 0], [1, 1], [2, 2]])
    assert found["gradients"] == {}


def test_every_float_moves_by_a_unit_and_other_numbers_stay():
    case = Case({"w": RNG.normal(size=100), "n": np.array([3])}, {"0": np.ones(100, np.float32)})
    moved = perturbed(case, 0.25, np.random.default_rng(0))
    ratios = moved.weights["w"] / case.weights["w"]
    assert set(np.round(ratios, 9)) == {0.75, 1.25}
    assert set(moved.inputs["0"]) == {0.75, 1.25}
    assert moved.weights["n"] is case.weights["n"]


@pytest.mark.parametrize(("dtype", "stored"), [("float64", np.float32), ("float32", np.float32)])
def test_inputs_are_what_a_precision_can_hold(dtype, stored):
    case = Case({"w": np.array([0.1])}, {"0": np.array([0.1]), "1": np.array([7])})
    found = stored_case(case, dtype)
    assert found.inputs["0"] == np.float64(stored(0.1))
    assert found.inputs["1"] is case.inputs["1"]
    assert found.weights is case.weights
    low = stored_case(case, "bfloat16").inputs["0"]
    assert low != found.inputs["0"]


def test_a_plain_difference_is_one_of_outputs_that_no_round_off_explains():
    plain = finding(FAIL, value=WIDEST_OWN * 1.01)
    assert _is_plain(plain)
    assert not _is_plain(replace(plain, value=WIDEST_OWN))
    assert not _is_plain(replace(plain, outcome=WARN))
    assert not _is_plain(replace(plain, criterion="C2"))
    assert not _is_plain(replace(plain, quantity="gradients"))


def test_the_distance_of_each_case():
    truth = np.zeros((2, 2, 2))
    got = truth.copy()
    got[0, 0] = [3, 4]
    got[1, 0, 0] = np.nan
    np.testing.assert_array_equal(_by_case(got, truth), [5, 0])


def group(moved, truth=None, *, dtype="float32"):
    truth = np.ones((4, 2)) if truth is None else truth
    results = {"forward": {"y": truth, "z": truth}}
    others = tuple({"forward": {"y": array}} for array in moved)
    return Group("as given", dtype, results, results, results, others, True)


def test_a_case_jumps_if_it_moves_further_than_in_proportion():
    truth = np.ones((4, 2))
    usual = np.array([1.0, 0.0]) * 1e-3
    wide = truth + usual * JUMP
    for factor, jumps in ((0.99, False), (1.01, True)):
        moved = wide.copy()
        moved[2] = truth[2] + 4 * JUMP * usual * factor
        found = _jumping(
            group([truth + usual / 2, truth + usual]),
            [{"forward": {"y": wide}}, {"forward": {"y": moved}}],
            "forward",
            "y",
        )
        assert found.tolist() == [False, False, jumps, False]
    whole = np.ones((4, 2), int)
    other = whole.copy()
    other[1, 0] = 2
    found = _jumping(group([whole], whole), [{"forward": {"y": other}}], "forward", "y")
    assert found.tolist() == [False, True, False, False]


def test_a_group_of_some_cases():
    truth = np.arange(8.0).reshape(4, 2)
    whole = replace(group([truth + 1], truth), rounded={"forward": {}})
    found = _selected(whole, np.array([True, False, True, False]), "forward", "y")
    for results in (found.got, found.peer, found.reference):
        assert list(results["forward"]) == ["y"]
        np.testing.assert_array_equal(results["forward"]["y"], truth[[0, 2]])
    np.testing.assert_array_equal(found.moved[0]["forward"]["y"], truth[[0, 2]] + 1)
    assert (found.label, found.dtype, found.given) == ("as given", "float32", True)


def test_a_ratio_of_noises_is_luck_up_to_a_factor():
    ratio = finding(FAIL, "C2", "gradients", "w", value=VARIANT_FACTOR)
    assert Judge._by_luck({("gradients", "w", "C2"): ratio}, "w")
    assert not Judge._by_luck({("gradients", "w", "C2"): ratio}, "v")
    much = replace(ratio, value=VARIANT_FACTOR * 1.01)
    assert not Judge._by_luck({("gradients", "w", "C2"): much}, "w")


def test_noise_is_a_ratio_alone_that_fails():
    ratio = finding(FAIL, "C2", value=VARIANT_FACTOR)
    fixed = finding(PASS, "C3")

    def noisy(*found):
        return Judge._is_noisy({("forward", "y", f.criterion): f for f in found}, "forward", "y")

    assert noisy(ratio, fixed)
    assert not noisy(replace(ratio, value=VARIANT_FACTOR * 1.01), fixed)
    assert not noisy(ratio, replace(fixed, outcome=FAIL))
    assert not noisy(replace(ratio, outcome=PASS), fixed)
    assert not Judge._is_noisy({("forward", "z", "C2"): ratio}, "forward", "y")


def test_findings_agree_if_there_are_some_and_none_fails():
    assert Judge._agrees([finding(WARN), finding(ABSTAIN)], "forward", "y")
    assert not Judge._agrees([finding(PASS), finding(FAIL)], "forward", "y")
    assert Judge._agrees([finding(PASS), finding(FAIL, array="z")], "forward", "y")
    assert not Judge._agrees([finding(array="z")], "forward", "y")
    assert not Judge._agrees([finding(quantity="gradients")], "forward", "y")


def outputs(*arrays):
    return [{"forward": {"y": np.asarray(array, float)}} for array in arrays]


def test_an_output_that_never_changes_shows_nothing():
    good = finding()
    assert _shows(good, outputs([[1, 2], [3, 4]]), []) is good
    assert _shows(good, outputs([[2, 2], [2, 2]]), []).note == CONSTANT
    assert _shows(good, outputs([[2]]), []) is good
    same = _shows(good, outputs([[1, 2], [1, 2]]), outputs([[1, 2]]))
    assert (same.outcome, same.note) == (ABSTAIN, FIXED)
    assert _shows(good, outputs([[1, 2], [1, 2]]), outputs([[1, 3]])) is good
    assert _shows(good, outputs([[1, 2]]), []) is good
    odd = _shows(good, outputs([[1, np.nan], [1, np.nan]]), [])
    assert odd.note == FIXED
    for other in (
        finding(WARN),
        finding(FAIL),
        finding(criterion="C0"),
        finding(quantity="gradients"),
    ):
        assert _shows(other, outputs([[2, 2], [2, 2]]), []) is other


def test_gradients_show_nothing_where_no_output_does():
    gradient = finding(quantity="gradients")
    structure = finding(criterion="C0")
    failed = finding(FAIL, quantity="gradients")
    found = _without_outputs(
        [finding(ABSTAIN), structure, gradient, replace(gradient, outcome=WARN), failed]
    )
    assert [f.outcome for f in found] == [ABSTAIN, PASS, ABSTAIN, ABSTAIN, FAIL]
    assert found[2].note == found[3].note == NO_OUTPUT
    shown = [finding(), finding(ABSTAIN, array="z"), gradient]
    assert _without_outputs(shown) is shown
    assert _without_outputs([structure, gradient])[1].outcome is ABSTAIN


# The whole comparison, of functions in NumPy.


class Fakes:
    """Runners of y = w * x with what one side does otherwise."""

    def __init__(self, jax=lambda y: y, refuse=lambda x: False):
        self.jax, self.refuse = jax, refuse
        self.count = 0

    def __call__(self, side, dtype):
        def run(case):
            x, w = np.asarray(case.inputs["0"]), case.weights["w"]
            if self.refuse(x):
                raise ValueError("out   of\nrange")
            x, w = x.astype(dtype), w.astype(dtype)
            y = np.asarray(w * x, dtype)
            if side == "jax":
                self.count += 1
                y = np.asarray(self.jax(y), dtype)
            return {"forward": {"output 0": y}, "gradients": {"w": x, "input 0": w}}

        return run


def cases_of(batch, count, dtype):
    found = []
    for seed in range(count):
        w = np.random.default_rng(seed).normal(size=4)
        found.append(Case({"w": np.float32(w).astype(float)}, batch.arrays))
    return found


X = np.random.default_rng(9).normal(size=4).astype(np.float32).astype(float)


def tried(fakes, dtypes=("float64", "float32"), variants=(), limits=None):
    judge = Judge(fakes, cases_of, "pair", Limits(limits or {}))
    return compared(judge, [given_batch([X])], variants, dtypes)


def test_equal_functions_pass_in_every_precision():
    fakes = Fakes()
    found = tried(fakes)
    assert {f.outcome for f in found.findings} == {PASS}
    assert {f.dtype for f in found.findings} == {"float64", "float32"}
    assert fakes.count == CASES["float64"] + CASES["float32"]
    assert {f.inputs for f in found.findings} == {"inputs as given"}
    assert found.reference["forward"]["output 0"].shape == (CASES["float64"], 4)
    criteria = {(f.dtype, f.criterion) for f in found.findings}
    assert criteria == {
        ("float64", "C0"),
        ("float64", "C1"),
        ("float32", "C0"),
        ("float32", "C2"),
        ("float32", "C3"),
    }


@pytest.mark.parametrize("off", [1e-9, 1e-2])
def test_an_output_that_differs_fails(off):
    found = tried(Fakes(lambda y: y * (1 + off)), ("float64",))
    failed = [f for f in found.findings if f.outcome is FAIL]
    assert [(f.quantity, f.criterion) for f in failed] == [("forward", "C1")]
    assert failed[0].value == pytest.approx(off, rel=1e-3)
    allowed = tried(Fakes(lambda y: y * (1 + off)), ("float64",), limits={"C1": 1.0})
    assert not any(f.outcome is FAIL for f in allowed.findings)


def test_a_variant_is_compared_or_refused_with_pytorchs_words():
    large = replace(given_batch([1000 * X], "large"), given=False)
    odd = replace(given_batch([X - 1e6], "odd"), given=False)
    found = tried(
        Fakes(lambda y: np.clip(y, -50, 50), lambda x: (x < -1e5).any()),
        variants=[large, odd],
    )
    assert found.refused == {"odd": "ValueError: out of range"}
    failed = {(f.dtype, f.inputs) for f in found.findings if f.outcome is FAIL}
    assert failed == {("float64", "large")}


# Words.


def test_what_may_be_a_cast():
    assert _may_be_a_cast(finding(FAIL, "C0", note="expected float64, got float32"))
    assert not _may_be_a_cast(finding(FAIL, "C0", note="expected float32, got float64"))
    assert _may_be_a_cast(finding(FAIL, value=CAST * 0.99))
    assert not _may_be_a_cast(finding(FAIL, value=CAST))
    assert not _may_be_a_cast(finding(FAIL, "C2", value=0.0))


def test_given_parameters_in_words():
    good = [finding(array="a"), finding(array="b")]
    assert _weights_in_words(good) == ["The parameters are the weights of the PyTorch module."]
    bad = [*good, finding(FAIL, array="c"), finding(FAIL, array="d")]
    (words,) = _weights_in_words(bad)
    assert words.startswith("2 of 4 parameters are not PyTorch's weights: c, d. The functions")


def test_inputs_of_the_same_kind_are_drawn_anew():
    arrays = [
        3 + 0.5 * RNG.normal(size=2000),
        np.arange(50),
        np.array([0.0, 1.0]),
        np.full(900, 2.5),
    ]
    batch = given_batch(arrays)
    found = _drawn_anew(batch, 1)
    assert found["0"].mean() == pytest.approx(3, abs=0.1)
    assert found["0"].std() == pytest.approx(0.5, rel=0.1)
    assert sorted(found["1"]) == list(range(50))
    assert (found["1"] != np.arange(50)).any()
    np.testing.assert_array_equal(found["2"], [0, 1])
    assert found["3"].std() == pytest.approx(1.0, rel=0.1)
    again, other = _drawn_anew(batch, 1), _drawn_anew(batch, 2)
    np.testing.assert_array_equal(found["0"], again["0"])
    assert (found["0"] != other["0"]).all()


def test_arrays_that_show_nothing_in_words():
    gradient = finding(ABSTAIN, quantity="gradients", array="w", note="zero")
    other = finding(quantity="gradients", array="v")
    assert shown_nothing([finding(ABSTAIN, note="zero"), gradient, other]) == [
        "y shows nothing: zero.",
        "The gradient of w shows nothing: zero.",
    ]
    assert shown_nothing([gradient, gradient]) == [
        "No gradient shows anything: all are zero, or NaN, in both frameworks."
    ]
    assert shown_nothing([finding(), other]) == []
    assert shown_nothing([finding(ABSTAIN, quantity="values", note="x")]) == []


def test_warnings_are_one_sentence_for_each_reason():
    many = [finding(WARN, array=f"a{k}", note="near", inputs="i") for k in range(SHOWN + 2)]
    found = warned(
        [
            *many,
            many[0],
            finding(WARN, note="near", inputs="j"),
            finding(WARN),
            finding(FAIL, note="x"),
        ]
    )
    named = ", ".join(f"a{k}" for k in range(SHOWN))
    assert found == [f"{named} and 2 more, i: near.", "y, j: near."]
    assert warned(many[:SHOWN]) == [f"{named}, i: near."]
