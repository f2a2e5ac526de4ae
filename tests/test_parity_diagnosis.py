"""What is said about a difference is right: gates, fresh weights, metrics and paths."""

from dataclasses import replace

import numpy as np
import pytest

from jaxrnn.nn.layers import RNN
from jaxrnn.nn.models import CharSeqStatefulRnn
from jaxrnn.recurrent import linear
from jaxrnn.recurrent.cells import PEEPHOLE_LSTM
from jaxrnn.recurrent.compiled import calls
from jaxrnn.recurrent.linear_cells import MIN_GRU
from jaxrnn.recurrent.scan import scanned
from parity.core.compare import Comparison, Outcome, worst_outcome
from parity.core.layer_pairs import layer_pair
from parity.core.pairs import F, H, V, model_pair
from parity.diagnosis import initialization, training
from parity.diagnosis.causes import cause_in_gradient
from parity.diagnosis.stacks import reference_parts, sample_stack_case
from parity.mutation.tools import wrapped
from parity.suite.checks import Check, paths_of, values_check

SIZE = 4
"""All sizes of a case whose every axis divides by the four gates of an LSTM."""


@pytest.mark.parametrize(
    ("name", "gated"),
    [
        ("weight_ih", True),
        ("weight_hh", True),
        ("bias_ih", True),
        ("bias_hh", True),
        ("p_i", False),
        ("xs", False),
        ("carry.h", False),
        ("carry.c", False),
    ],
)
def test_gates_are_named_of_what_has_gates_alone(name, gated):
    """The first quarter of the rows is twice what it should be: of a weight, that is a gate."""
    sizes = dict.fromkeys(("steps", "batch_size", "inputs", "hidden_size"), SIZE)
    case = sample_stack_case(PEEPHOLE_LSTM, num_layers=1, **sizes)
    part, results = reference_parts(case)["l0"]
    expected = results.gradients[name]
    got = np.array(expected)
    got[: len(got) // 4] *= 2
    words = cause_in_gradient(part, name, got, expected)
    assert ("gate" in words) == gated, words
    if gated:
        assert words == "it is 2 times what it should be in gate i"


def uniform(rng, bound, shape):
    return rng.uniform(-bound, bound, (32, *shape))


def shifted_quarter(array, place, shift):
    """The rows of one of four blocks, (samples, 4 * H, ...), with something added."""
    changed = array.copy()
    rows = array.shape[1] // 4
    changed[:, place * rows : (place + 1) * rows] += shift
    return changed


RNG = np.random.default_rng(0)
BIAS = uniform(RNG, 0.3, (24,))
WEIGHT = uniform(RNG, 0.3, (24, 6))
TABLE = uniform(RNG, 0.3, (16, 10))
STARTS = {
    "a forget gate that starts at 1": (
        "rnn.bias_ih_l0", shifted_quarter(uniform(RNG, 0.3, (24,)), 1, 1.0), BIAS,
        "its mean is +1.0 in gate f",
    ),
    "a table that starts as an embedding": (
        "e.weight", RNG.normal(size=TABLE.shape), TABLE,
        "it is normal with deviation ",
    ),
    "a quarter of a table": (
        "e.weight", shifted_quarter(TABLE, 1, 1.0), TABLE, "it is of mean 0.2",
    ),
    "the bias of an output layer": (
        "l_out.bias", shifted_quarter(uniform(RNG, 0.3, (24,)), 1, 1.0), BIAS, "it is of mean 0.2",
    ),
    "a weight of another distribution in one gate": (
        "rnn.weight_hh_l0", np.concatenate([RNG.normal(size=(32, 6, 6)), WEIGHT[:, 6:]], axis=1),
        WEIGHT, "it is of mean",
    ),
    "another bound": (
        "rnn.weight_hh_l0", uniform(RNG, 0.6, (24, 6)), WEIGHT,
        "it spreads 2 times as far as PyTorch's",
    ),
    "zeros": ("l_out.bias", 0 * BIAS, BIAS, "it is always 0, PyTorch's is uniform"),
}  # fmt: skip


@pytest.mark.parametrize("name", STARTS)
def test_words_about_fresh_weights_explain_them(name, monkeypatch):
    key, got, expected, words = STARTS[name]
    monkeypatch.setattr(initialization, "jax_samples", lambda pair: {key: got})
    monkeypatch.setattr(initialization, "torch_samples", lambda pair: {key: expected})
    named = initialization.diagnose_initialization(layer_pair(RNN(PEEPHOLE_LSTM, 6)))
    assert named.place == f"the start of {key}"
    assert named.cause.startswith(words)
    assert ("gate" in named.cause) == ("gate" in words)


def changing(change):
    """A backward pass whose gradients are changed."""
    return lambda run: lambda *arguments: change(run(*arguments))


def with_twice_the_bias(gradients):
    return gradients._replace(bias_hh=2 * gradients.bias_hh)


def with_twice_the_second(gradients):
    d_a, d_b, d_carry = gradients
    return d_a, 2 * d_b, d_carry


MUTATIONS = {
    "compiled": lambda: wrapped(calls, "_gradients", changing(with_twice_the_bias)),
    "scan": lambda: wrapped(scanned, "backward", changing(with_twice_the_bias)),
    "parallel": lambda: wrapped(linear, "_backward", changing(with_twice_the_second)),
}
"""A mistake in the backward pass of each way to run a recurrence."""


@pytest.mark.sample(2)
@pytest.mark.parametrize("mutated", MUTATIONS)
def test_numbers_are_from_the_path_that_is_named_and_so_is_the_diagnosis(mutated):
    """A mistake of one way changes the numbers of no other, in whatever order they run."""
    check = values_check(layer_pair(RNN(MIN_GRU, 4)))
    ways = paths_of(check.cell)
    if mutated not in ways:
        pytest.skip("there is no compiler")
    with MUTATIONS[mutated]():
        for path in ways:
            run = replace(check, path=path)
            findings = run.findings()
            assert {finding.path for finding in findings} == {path}
            wrong = worst_outcome(findings) is Outcome.FAIL
            assert wrong == (path == mutated)
            if wrong:
                assert run.diagnosis().place.endswith(f", path {path}")


@pytest.mark.parametrize(
    ("judged", "failed", "place"),
    [
        (("float64", "float32"), ("float32",), "ys (forward), in float32 alone"),
        (("float64", "float32", "bfloat16"), ("bfloat16",), "ys (forward), in bfloat16 alone"),
        # What no search explains in float64, or what was not judged there, is not rounding's.
        (("float64", "float32"), ("float64", "float32"), "nowhere that was looked at"),
        (("float32",), ("float32",), "nowhere that was looked at"),
    ],
    ids=str,
)
def test_what_differs_in_a_low_precision_alone_is_rounded(judged, failed, place):
    findings = []
    for dtype in judged:
        outcome = Outcome.FAIL if dtype in failed else Outcome.PASS
        what = Comparison("pair", "forward", dtype)
        findings.append(what.finding("C2", "ys", outcome, value=1.0, limit=1.0))
    check = Check("pair", "values", lambda: findings)
    assert check.diagnosis().place == place


@pytest.mark.parametrize(
    ("wrong", "place"),
    [(0, "the choice of the character"), (5, "the loop over characters, from number 5 on")],
)
def test_a_text_that_differs_from_a_later_character_on_is_the_loops(wrong, place, monkeypatch):
    pair = model_pair("model", CharSeqStatefulRnn(V, F, H))
    made = training.jax_generated

    def changed(*arguments):
        tokens = np.array(made(*arguments))
        tokens[wrong:] = (tokens[wrong:] + 1) % V
        return tokens

    assert training.diagnose_generation(pair) is None
    monkeypatch.setattr(training, "jax_generated", changed)
    assert training.diagnose_generation(pair).place.startswith(place)
