"""What a layer's difference is called: loops, carries, dropout and gradients."""

import numpy as np
import pytest

from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import GRU, LSTM, TANH
from parity.core.compare import MEANING_LIMIT
from parity.diagnosis.causes import (
    ROUNDED,
    Diagnosis,
    cause_between,
    cause_in_carry,
    cause_in_cell,
    cause_in_gradient,
    cause_in_loop,
    factor_between,
    fitting,
    gate_names,
    gates_of,
)
from parity.diagnosis.localize import differing, differs
from parity.diagnosis.stacks import (
    Part,
    dropped,
    joined,
    layer_words,
    parts_of,
    reference_parts,
    run_part,
    sample_stack_case,
    single_steps,
    stack_gradients,
)

CASE = sample_stack_case(LSTM, num_layers=3, dropout=0.4)
PARTS = reference_parts(CASE)
BOTH = sample_stack_case(TANH, bidirectional=True, lengths=True, inputs=10)
BOTH_PARTS = reference_parts(BOTH)


def test_a_diagnosis_is_its_place_and_cause():
    assert str(Diagnosis("here", "a cause")) == "here: a cause"
    assert str(Diagnosis("here")) == "here: no known cause fits"


def test_the_first_candidate_of_the_same_shape_within_the_limit_fits():
    one = np.array([1.0, 0.0])
    for quantity in ("forward", "gradients"):
        limit = MEANING_LIMIT[quantity]
        for share, words in ((0.9, "near"), (1.1, "")):
            candidates = [("shape", one[None]), ("near", one), ("later", one)]
            assert fitting(candidates, one + [0, share * limit], quantity) == words  # noqa: RUF005
    assert fitting([("a", one)], one + np.array([0, 0.9 * MEANING_LIMIT["forward"]])) == "a"
    assert fitting([("a", one)], one + np.array([0, 0.9 * MEANING_LIMIT["gradients"]])) == ""


def test_arrays_differ_by_shape_precision_and_more_than_round_off():
    one = np.array([1.0, 0.0])
    limit = MEANING_LIMIT["forward"]
    assert not differs(one + np.array([0, 0.9 * limit]), one)
    assert differs(one + np.array([0, 1.1 * limit]), one)
    assert not differs(one + np.array([0, 1.1 * limit]), one, "gradients")
    assert differs(one[:, None], one)
    assert differs(one.astype(np.float32), one)
    assert not differs(0 * one, 0 * one)
    named = {"a": one, "b": 2 * one, "c": one}
    expected = {"a": one, "b": one, "c": one + np.array([0, 1.1 * limit])}
    assert differing(named, expected) == ["b", "c"]
    assert differing(named, expected, "gradients") == ["b"]


# Cells.


def stepped(case, parts, name):
    steps, _ = single_steps(*parts[name])
    return steps, run_part(steps)


def test_a_cell_has_another_equation_or_another_weight_or_is_rounded():
    steps, expected = stepped(BOTH, BOTH_PARTS, "l1")
    cast = expected._replace(ys=expected.ys.astype(np.float32))
    assert cause_in_cell(BOTH, "l1", steps, cast, expected) == "the output is float32"
    without = {**steps.weights, "bias_hh": 0 * steps.weights["bias_hh"]}
    got = run_part(steps._replace(weights=without))
    words = "the hidden bias b_hh is missing"
    assert cause_in_cell(BOTH, "l1", steps, got, expected) == words
    for kind, other, place in (
        ("weight_hh", "l1_reverse", "layer 1 reverse"),
        ("bias_ih", "l0", "layer 0"),
    ):
        swapped = {**steps.weights, kind: BOTH.weights[f"{kind}_{other}"]}
        got = run_part(steps._replace(weights=swapped))
        words = f"its {kind} is that of {place}"
        assert cause_in_cell(BOTH, "l1", steps, got, expected) == words
    rounded = expected.ys.astype(np.float32).astype(np.float64)
    words = "values are rounded to float32 on the way"
    got = expected._replace(ys=rounded)
    assert cause_in_cell(BOTH, "l1", steps, got, expected) == words
    for share, known in ((0.9, words), (1.1, "")):
        got = expected._replace(ys=expected.ys * (1 + share * ROUNDED))
        assert cause_in_cell(BOTH, "l1", steps, got, expected) == known


# Loops over time.


def loop_case(name):
    part, results = BOTH_PARTS[name]
    return part, results


@pytest.mark.parametrize("name", ["l0", "l0_reverse"])
def test_a_loop_that_is_wrong_is_named(name):
    part, right = loop_case(name)
    reverse = part._replace(reverse=not part.reverse)

    def words_of(ys):
        return cause_in_loop(part, right._replace(ys=ys))

    assert words_of(run_part(reverse).ys) == "time runs in the wrong direction"
    assert words_of(right.ys[::-1]) == "the outputs are not turned back"
    assert words_of(run_part(part._replace(mask=None)).ys) == "the lengths are ignored"
    counts = part.mask.sum(0)
    longer = np.arange(len(part.xs))[:, None] < counts + 1
    longer[0] = True
    expected = "one step too many of each sequence counts"
    assert words_of(run_part(part._replace(mask=longer)).ys) == expected
    for t in range(2):
        mask = part.mask.copy()
        mask[t] = False
        assert words_of(run_part(part._replace(mask=mask)).ys) == f"step {t} is left out"
    assert words_of(right.ys.astype(np.float32)) == "the output is float32"
    assert words_of(1.5 * right.ys) == ""


def test_a_carry_that_is_not_handed_on_is_named():
    part, right = PARTS["l0"]
    ys = []
    for t in range(len(part.xs)):
        ys.append(run_part(part._replace(xs=part.xs[t : t + 1])).ys[0])
    got = right._replace(ys=np.stack(ys))
    assert cause_in_loop(part, got) == "the carry is not handed on from step to step"
    # Without lengths nothing is said about them.
    no_steps = part._replace(mask=np.ones(part.xs.shape[:2], bool))
    assert part.mask is None
    np.testing.assert_allclose(run_part(no_steps).ys, right.ys, rtol=1e-12)


def test_steps_run_in_the_order_of_the_part():
    part, _ = loop_case("l0_reverse")
    assert list(part.steps) == [3, 2, 1, 0]
    assert list(loop_case("l0")[0].steps) == [0, 1, 2, 3]
    assert Part("tanh", {}, part.xs, part.carry).counted.all()
    counted = part.counted
    counted[:] = False
    assert part.mask.any()


# Carries.


def test_a_carry_that_is_another_is_named():
    h, c = CASE.carry[0]
    kind = type(CASE.carry[0])
    assert cause_in_carry(CASE, 0, kind(0 * h, 0 * c)) == "it is zero"
    words = "the carries are read in the opposite order"
    assert cause_in_carry(CASE, 0, CASE.carry[2]) == words
    assert cause_in_carry(CASE, 0, kind(c, h)) == "its fields are exchanged"
    for k, j in ((0, 1), (1, 0), (1, 2)):
        words = f"it is the carry of layer and direction {j}"
        assert cause_in_carry(CASE, k, CASE.carry[j]) == words
    assert cause_in_carry(CASE, 0, kind(2 * h, c)) == ""
    plain = sample_stack_case(TANH)
    assert cause_in_carry(plain, 0, type(plain.carry[0])(2 * plain.carry[0].h)) == ""


# Between layers.


def test_what_lies_between_two_layers_is_named():
    ys = PARTS["l0"][1].ys
    right, rate = CASE.masks[0], CASE.stack.dropout

    def words_of(got, below=0):
        return cause_between(CASE, [ys], below, got)

    assert words_of(ys) == "there is no dropout"
    assert words_of(np.where(right, ys, 0)) == "dropout does not rescale what it leaves"
    assert words_of(dropped(ys, ~right, rate)) == "dropout drops what should stay"
    assert words_of(dropped(ys, CASE.masks[1], rate)) == "the mask is that of layer 1"
    assert words_of(dropped(ys, right, rate), 1) == "the mask is that of layer 0"
    assert words_of(3 * ys) == "they are 3 times what they should be"
    assert words_of(ys**2) == ""
    assert words_of(ys[:1]) == ""
    after = "dropout acts after the last layer too, with the mask of layer {}"
    for k, mask in enumerate(CASE.masks):
        assert words_of(dropped(ys, mask, rate), None) == after.format(k)
    np.testing.assert_allclose(dropped(ys, right, rate)[right], ys[right] / 0.6)
    assert not dropped(ys, right, rate)[~right].any()


def test_outputs_of_the_directions_may_be_exchanged():
    outputs = [BOTH_PARTS["l0"][1].ys, BOTH_PARTS["l0_reverse"][1].ys]
    words = "the outputs of the directions are exchanged"
    for below in (0, None):
        assert cause_between(BOTH, outputs, below, joined(outputs[::-1])) == words
    half = cause_between(BOTH, outputs, 0, 0.5 * joined(outputs))
    assert half == "they are 0.5 times what they should be"


# Gradients.


def gradient(name, change, parts=PARTS, of="l0"):
    part, results = parts[of]
    expected = results.gradients[name]
    return cause_in_gradient(part, name, change(np.array(expected)), expected)


def test_a_gradient_that_is_wrong_as_a_whole_is_named():
    assert gradient("weight_hh", lambda g: 0 * g) == "it is zero: nothing flows back"
    assert gradient("weight_hh", lambda g: -g) == "its sign is wrong"
    assert gradient("carry.h", lambda g: 3 * g) == "it is 3 times what it should be"
    assert gradient("bias_ih", lambda g: g**2) == ""

    def turned(g):
        return np.concatenate([square.T for square in np.split(g, 4)])

    assert gradient("weight_hh", turned) == "it is transposed"


@pytest.mark.parametrize("k", range(4))
def test_a_gradient_that_misses_a_gate_names_it(k):
    def without(g):
        np.split(g, 4)[k][:] = 0
        return g

    gate = "ifgo"[k]
    assert gradient("bias_hh", without) == f"nothing flows back through gate {gate}"

    def scaled(g):
        np.split(g, 4)[k][:] *= 3
        return g

    assert gradient("weight_ih", scaled) == f"it is 3 times what it should be in gate {gate}"


def test_a_gradient_that_misses_a_step_names_it():
    for t in range(4):

        def without(g, t=t):
            g[t] = 0
            return g

        assert gradient("xs", without) == f"nothing flows back at step {t}"
        assert gradient("xs", lambda g: 2 * g) == "it is 2 times what it should be"


def test_a_factor_that_averaging_explains_is_said():
    # Four steps and three rows.
    third, fourth = 1 / 3, 1 / 4
    words = "it is 0.333 times what it should be (averaged over the batch)"
    assert gradient("weight_ih", lambda g: third * g) == words
    words = "it is 0.25 times what it should be (averaged over time)"
    assert gradient("weight_ih", lambda g: fourth * g) == words


def test_the_factor_is_the_nearest_in_the_euclidean_norm():
    x = np.array([1.0, 2.0, -1.0])
    assert factor_between(-2.5 * x, x) == -2.5
    assert factor_between(np.array([3.0, 0, 0]), x) == 0.5


def test_gates_are_those_of_arrays_with_rows_for_each():
    part, _ = PARTS["l0"]
    assert gate_names(GRU) == ("r", "z", "n")
    assert gate_names(CELLS["mogrifier-lstm"]) == ("all",)
    assert gates_of(part, "weight_ih", np.zeros((20, 6))) == ("i", "f", "g", "o")
    assert gates_of(part, "weight_ih", np.zeros((5, 6))) == ("all",)
    assert gates_of(part, "xs", np.zeros((20, 3, 6))) == ("all",)


# Stacks.


def test_names_of_layers_and_directions():
    assert parts_of(BOTH.stack) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    assert parts_of(CASE.stack) == ["l0", "l1", "l2"]
    assert layer_words("l1_reverse") == "layer 1 reverse"
    assert layer_words("l0") == "layer 0"


def test_layers_read_the_outputs_below_them_in_torchs_way():
    for name, below in (("l1", "l0"), ("l2", "l1")):
        mask = CASE.masks[int(name[1]) - 1]
        expected = np.where(mask, PARTS[below][1].ys / (1 - 0.4), 0)
        np.testing.assert_array_equal(PARTS[name][0].xs, expected)
    side_by_side = [BOTH_PARTS[name][1].ys for name in ("l0", "l0_reverse")]
    for name in ("l1", "l1_reverse"):
        np.testing.assert_array_equal(BOTH_PARTS[name][0].xs, np.concatenate(side_by_side, -1))
        assert BOTH_PARTS[name][0].reverse == name.endswith("_reverse")
    np.testing.assert_array_equal(BOTH_PARTS["l0"][0].mask.sum(0), BOTH.lengths)
    assert BOTH.lengths.tolist() == [4, 3, 2]


def test_a_step_that_does_not_count_leaves_the_carry_and_gives_zero():
    part, results = BOTH_PARTS["l0"]
    assert not results.ys[~part.mask].any()
    np.testing.assert_array_equal(results.last.h[2], results.ys[1, 2])
    steps, times = single_steps(part, results)
    assert times.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3]
    np.testing.assert_array_equal(steps.xs[0, 3:6], part.xs[1])
    np.testing.assert_array_equal(steps.carry.h[3:6], results.ys[0])
    assert steps.mask is None


def test_gradients_of_the_whole_stack_are_those_of_its_parts():
    """Of one layer without lengths they are the same but for the carry after it."""
    case = sample_stack_case(GRU, num_layers=1)
    found = stack_gradients(case)
    assert found.keys() == case.weights.keys()
    assert all(np.any(array) for array in found.values())


def test_a_sampled_case_has_no_zeros_and_its_sizes():
    assert CASE.xs.shape == (4, 3, 6)
    assert (CASE.stack.hidden_size, CASE.stack.num_layers) == (5, 3)
    assert [mask.shape for mask in CASE.masks] == [(4, 3, 5)] * 2
    assert 0.4 < np.mean(CASE.masks) < 0.8
    for array in (*CASE.weights.values(), CASE.xs, *CASE.carry[0]):
        assert np.all(array != 0)
    assert sample_stack_case(LSTM).masks == ()
    assert sample_stack_case(LSTM).lengths is None
    assert np.abs(CASE.xs).max() <= 1.5
    assert max(np.abs(array).max() for array in CASE.weights.values()) <= 1
