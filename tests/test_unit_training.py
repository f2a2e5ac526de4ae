"""Training loops compared, and maps that are suggested: the rules that need no loop."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from jaxrnn.exchange.layouts import Tied
from jaxrnn.exchange.operations import FoldBiases, Identity, Transpose
from jaxrnn.exchange.weights import WeightMap, WeightMapError, entry
from parity.core.compare import Comparison, Outcome
from parity.diagnosis.update_causes import ROUNDED
from parity.modules import suggest
from parity.modules.convert import convert
from parity.modules.mapping.matching import Option, Part, _doubt, _exchange, _projection, _tied
from parity.modules.mapping.names import Name
from parity.modules.mapping.neutral import NeutralWeights, _range, moved, sampled_weights
from parity.modules.mapping.trying import AGREE, UNLIKELY, _without, distance, likely
from parity.modules.remarks import _changed, modes_in_words, random_parts
from parity.modules.training import (
    _abstaining,
    _is_key,
    _only_rounded,
    _other_key,
    _other_numbers,
    _same_step,
    _still_words,
    default_params,
)

RNG = np.random.default_rng(0)
PASS, WARN, FAIL, ABSTAIN = Outcome.PASS, Outcome.WARN, Outcome.FAIL, Outcome.ABSTAIN


def test_the_parameters_of_a_state():
    assert default_params(SimpleNamespace(params=1)) == 1
    assert default_params({"params": 2, "other": 3}) == 2
    assert default_params((4, 5)) == 4
    assert default_params([6]) == 6
    for state in ((), {"other": 1}, 3):
        with pytest.raises(ValueError, match="params_of must be given for a state of type"):
            default_params(state)


def step(loss, **weights):
    arrays = {key: np.asarray(array) for key, array in weights.items()}
    return SimpleNamespace(loss=loss, weights=arrays)


def test_two_steps_are_the_same_if_loss_and_weights_are():
    nan = float("nan")
    assert _same_step(step(1.0, a=[1.0], n=[2]), step(1.0, a=[1.0], n=[2]))
    assert not _same_step(step(1.0, a=[1.0]), step(2.0, a=[1.0]))
    assert not _same_step(step(1.0, a=[1.0]), step(1.0, a=[1.5]))
    assert not _same_step(step(1.0, a=[1.0], b=[1]), step(1.0, a=[1.0], b=[2]))
    assert _same_step(step(nan, a=[nan]), step(nan, a=[nan]))
    assert _same_step(step(None, a=[1.0]), step(None, a=[1.0]))
    assert not _same_step(step(nan, a=[1.0]), step(1.0, a=[1.0]))


def test_other_numbers_of_the_same_kind():
    np.testing.assert_array_equal(_other_numbers(np.array([0.0, 2.0])), [0.25, 3.25])
    np.testing.assert_array_equal(_other_numbers(np.array([2, 3, 7])), [7, 6, 2])
    np.testing.assert_array_equal(_other_numbers(np.array([True, False])), [True, False])
    assert _other_numbers(np.zeros(0, int)).size == 0


def test_random_keys_of_either_kind_become_others():
    raw = jnp.asarray(np.array([1, 2], np.uint32))
    typed = jax.random.wrap_key_data(raw)
    for leaf in (typed, raw, jnp.stack([raw, raw])):
        assert _is_key(leaf)
    for leaf in (jnp.zeros(2), np.array([1, 2], np.uint32), jnp.zeros(3, jnp.uint32), 3):
        assert not _is_key(leaf)
        assert _other_key(leaf) is leaf
    np.testing.assert_array_equal(_other_key(raw), [2, 3])
    np.testing.assert_array_equal(jax.random.key_data(_other_key(typed)), [2, 3])


def finding(outcome, criterion="C1", value=0.0, note="n"):
    made = Comparison("pair", "weights", "float64")
    return made.finding(criterion, "w", outcome, value=value, limit=1.0, note=note)


@pytest.mark.parametrize(
    ("before", "criterion", "after"),
    [
        (PASS, "C1", ABSTAIN),
        (WARN, "C4", ABSTAIN),
        (FAIL, "C1", FAIL),
        (PASS, "C0", PASS),
    ],
)
def test_what_passes_abstains_where_nothing_is_shown(before, criterion, after):
    found = _abstaining(finding(before, criterion), "why")
    assert (found.outcome, found.note) == (after, "why" if after is ABSTAIN else "n")


def test_what_is_rounded_in_the_state_warns_up_to_a_limit():
    found = _only_rounded(finding(FAIL, value=ROUNDED))
    assert (found.outcome, found.note) == (WARN, "n; float32 in the state")
    for other in (finding(FAIL, value=ROUNDED * 1.01), finding(PASS)):
        assert _only_rounded(other) is other


def test_what_moves_in_neither_framework_in_words():
    assert _still_words(["a"], 3) == ["a moves in neither framework."]
    (words,) = _still_words(["a", "b"], 3)
    assert words.endswith(" move in neither framework.")
    assert _still_words(["a", "b", "c"], 3) == _still_words([], 3) == []


# Checkpoints.


def linear(dtype=np.float32):
    return {"kernel": np.zeros((2, 3), dtype), "bias": np.zeros(3, dtype)}


MAP = WeightMap([entry("weight", "kernel", Transpose()), entry("bias", "bias")])


def test_a_checkpoint_comes_back_in_the_precision_of_the_tree():
    state = {"weight": torch.randn(3, 2), "bias": torch.randn(3)}
    found = convert(state, MAP, like=linear())
    np.testing.assert_array_equal(found["kernel"], state["weight"].numpy().T)
    low = convert(state, MAP, like=linear(ml_dtypes.bfloat16))
    assert low["kernel"].dtype == jnp.bfloat16
    state["bias"][1] = 1e6
    with pytest.raises(WeightMapError, match="bias has 1 values beyond the range of float16"):
        convert(state, MAP, like=linear(np.float16))


def test_what_does_not_come_back_is_named():
    # Integers that a float of the tree cannot hold.
    state = {"weight": torch.ones(3, 2), "bias": torch.tensor([1, 2, 2**24 + 1])}
    with pytest.raises(WeightMapError, match="bias does not come back as it was"):
        convert(state, MAP, like=linear())
    folded = WeightMap([entry(("a", "b"), "bias", FoldBiases())])
    pair = {"a": torch.randn(3), "b": torch.randn(3)}
    found = convert(pair, folded, like={"bias": np.zeros(3, np.float32)})
    np.testing.assert_allclose(found["bias"], pair["a"] + pair["b"])


# Remarks.


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.rnn = nn.LSTM(2, 2, 2, dropout=0.1)
        self.plain = nn.Linear(2, 2)


def test_the_mode_of_a_module_in_words():
    assert modes_in_words(nn.Linear(2, 2)) == []
    assert modes_in_words(nn.Dropout(0.0)) == []
    both = Both()
    assert "compared in training mode" in modes_in_words(both)[0]
    assert "compared in evaluation mode" in modes_in_words(both.eval())[0]
    both.drop.train()
    assert "partly in training mode (drop)" in modes_in_words(both)[0]
    assert random_parts(both) == ["drop (Dropout, 0.3)"]
    assert random_parts(both.train()) == ["drop (Dropout, 0.3)", "rnn (LSTM, 0.1)"]
    assert random_parts(nn.Dropout(0.5)) == ["the module (Dropout, 0.5)"]
    assert "evaluation" in modes_in_words(nn.BatchNorm1d(2).eval())[0]


@pytest.mark.parametrize(
    ("array", "other"),
    [
        (np.array([True, False]), [False, True]),
        (np.array([True, True]), None),
        (np.array([3, 5, 4]), [5, 3, 3]),
        (np.array([3, 3]), None),
        (np.array([0.0, 1.0]), [1.0, 0.0]),
        (np.array([1.0, 1.0]), None),
        (np.array([-np.inf, 0.0]), [0.0, -np.inf]),
    ],
)
def test_another_input_that_a_module_takes(array, other):
    found = _changed(array, np.random.default_rng(0))
    assert (found is None) == (other is None)
    if other is not None:
        np.testing.assert_array_equal(found, other)
        assert found.dtype == array.dtype
    floats = _changed(np.array([0.5, 2.0]), np.random.default_rng(0))
    assert (floats != [0.5, 2.0]).all()


# Maps.


PLAIN = Identity()


def option(path, cost=0.0, key="k", operation=PLAIN):
    return Option((entry(key, path, operation),), cost)


def test_options_that_names_speak_against_or_that_are_taken_are_left_out():
    part = Part(("k",), [option("a", 0.1), option("b", 0.1 + UNLIKELY), option("c", 1.0)], "d")
    (found,) = likely([part])
    assert [o.entries[0].paths for o in found.options] == [("a",), ("b",)]
    assert (found.keys, found.doubt) == (("k",), "d")
    (left,) = _without([part], option("a"))
    assert [o.entries[0].paths for o in left.options] == [("b",), ("c",)]
    (kept,) = _without([Part(("k",), [option("a")], "d")], option("a"))
    assert (kept.options, kept.doubt) == ([option("a")], "d")


def test_the_distance_of_outputs_is_the_farthest():
    one, two = np.array([1.0, 0.0]), np.array([2.0, 0.0])
    assert distance([one, two], [one, two]) == 0
    assert distance([one, 1.5 * two], [2 * one, two]) == 0.5
    assert distance([np.array([np.nan, 1.0])], [np.array([np.nan, 2.0])]) == 0.5
    assert distance([np.array([np.nan, 1.0])], [np.array([1.0, 1.0])]) == np.inf
    assert distance([one * np.nan], [one * np.nan]) == np.inf


def test_what_names_and_shapes_leave_open_in_words():
    close = [option("p"), option("p", 0.4, operation=Transpose())]
    assert _doubt(["k"], close) == "the layout of k as p: Identity and Transpose both fit"
    assert _doubt(["k"], close[:1]) == ""
    far = [option("p"), option("p", 0.5, operation=Transpose())]
    assert _doubt(["k"], far) == ""
    costs = np.array([[0.0, 0.1], [0.0, 0.04]])
    assert _exchange(0, {0: 0, 1: 1}, costs, [["a"], ["b"]]) == (
        "which of a and b is which: their order alone decides"
    )
    assert _exchange(1, {0: 0, 1: 1}, costs, [["a"], ["b", "c"]]).startswith("which of a and b, c")
    clear = costs + np.array([[0, 0.1], [0.0, 0.0]])
    assert _exchange(0, {0: 0, 1: 1}, clear, [["a"], ["b"]]) == ""

    def called(*words):
        return Name(frozenset(words), (), "", 0.0)

    assert _projection(called("query", "x"), called("out")) == 0.5
    assert _projection(called("query"), called("query", "out")) == 0.0
    assert _projection(called("x"), called("out")) == 0.0


def test_a_tied_weight_has_all_its_keys():
    part = Part(("a",), [option("p", 0.2, "a", Transpose())], "d")
    found = _tied(part, {"a": ("a", "b")})
    assert (found.keys, found.doubt) == (("a", "b"), "d")
    assert found.options == [Option((entry(("a", "b"), "p", Tied(2, Transpose())),), 0.2)]
    assert _tied(part, {"c": ("c", "d")}) is part
    weights = sampled_weights(found, {"a": (2, 3), "b": (2, 3)}, np.random.default_rng(0))
    np.testing.assert_array_equal(weights["a"], weights["b"])
    np.testing.assert_array_equal(moved(found.chosen, weights)["p"], weights["a"].T)


def test_the_range_of_random_weights():
    assert _range("bn.running_var", (3,)) == (1.0, 0.5)
    assert _range("bias", (3,)) == (0.3, 0.5)
    assert _range("weight", (3, 16)) == (0.0, 0.5)
    assert _range("weight", (3, 4, 4)) == (0.0, 0.5)


def test_on_neutral_weights_no_open_question_has_an_influence():
    turned = Part(("w",), [option("x", 0, "w"), option("x", 0, "w", Transpose())])
    either = [Part((k,), [option("y", 0, k), option("z", 0, k)]) for k in ("a", "b")]
    folded = entry(("c", "d"), "s", FoldBiases())
    both = Part(("c", "d"), [Option((folded,), 0.0)])
    shapes = {"w": (3, 3), "a": (2,), "b": (2,), "c": (2,), "d": (2,), "e": (2,)}
    neutral = NeutralWeights([turned, *either, both], shapes)
    closed = Part(("e",), [option("q", 0, "e")])
    rng = np.random.default_rng(0)
    theirs, ours = neutral.sampled([turned, *either, both], [closed], rng)
    for one in (turned, *either):
        for choice in one.options:
            for path, array in moved(choice, theirs).items():
                np.testing.assert_array_equal(array, ours[path])
    assert len(np.unique(theirs["w"])) == 6  # a symmetric matrix of 3 rows
    np.testing.assert_array_equal(theirs["a"], theirs["b"])
    assert not theirs["c"].any()
    assert not ours["s"].any()
    np.testing.assert_array_equal(theirs["e"], ours["q"])
    assert np.abs(theirs["w"]).max() <= 2 / np.sqrt(3)
    assert (np.abs(theirs["a"] - 0.3) <= 0.5).all()


@pytest.mark.parametrize(
    ("apart", "words"),
    [
        (AGREE, "apart."),
        (AGREE * 1.01, "apart: one of the functions computes in float32"),
        (suggest.ROUNDED, "apart: one of the functions computes in float32"),
        (suggest.ROUNDED * 1.01, "apart: the functions differ, or the map is wrong."),
    ],
)
def test_a_suggested_map_says_how_far_the_outputs_are_apart(apart, words):
    made = suggest.SuggestedMap(
        [entry("a", "b")], ambiguous=["x"], unmatched=["y"], agreement=apart
    )
    text = " ".join(str(made).replace("#", " ").split())
    assert text.startswith("Not decided: x. No counterpart: y. On random weights the outputs are")
    assert words in text
    assert made.code() == str(made)
    plain = suggest.SuggestedMap([entry("a", "b")])
    assert (plain.agreement, plain.ambiguous, plain.unmatched) == (None, (), ())
    assert "#" not in plain.code()
