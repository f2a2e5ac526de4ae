"""Plans of a run, windows and rates, and each known deviation of them, number by number."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parity.measures.plans import CUTS, TrainingPlan, deviating_plans, window_at
from parity.measures.runs import BPTT, STREAM_BATCH, WINDOW_BATCH, overlapping, streams
from parity.measures.training import (
    MOMENTS,
    RULES,
    RULES_BY_NAME,
    TORCH_OPTIMIZERS,
    Rule,
    sgdr_rates,
    windows_of,
)
from parity.measures.trajectories import (
    CHUNK,
    ENVELOPE_RUNS,
    KEPT_RUNS,
    SMALL,
    Text,
    Trajectory,
    longest,
    named_results,
    perturbed,
    plan_of,
)

TOKENS = np.arange(100, 140)
STARTS = [np.array([0, 10, 20]), np.array([4, 14, 24]), np.array([8, 18])]
LENGTHS = (4, 4, 2)


def cut(starts, lengths=LENGTHS, tokens=TOKENS):
    return [window_at(tokens, s, n) for s, n in zip(starts, lengths, strict=True)]


PLAN = TrainingPlan(
    cut(STARTS), STARTS, [0.1, 0.1, 0.2, 0.3, 0.4, 0.4], epochs=2, sizes=(3, 8), batch_size=3
)


def found(plan=PLAN):
    return list(deviating_plans(plan, TOKENS))


def of(words, plan=PLAN):
    (other,) = [other for _, named, other in found(plan) if named == words]
    return other


def assert_windows(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_a_window_has_its_targets_one_step_later_and_ends_with_the_text():
    inputs, targets = window_at(TOKENS, np.array([0, 37]), 4)
    assert inputs.tolist() == [[100, 137], [101, 138], [102, 139], [103, 139]]
    assert targets.tolist() == [[101, 138], [102, 139], [103, 139], [104, 139]]


def test_places_and_words_are_in_order():
    late = ("the schedule", "the rate is that of the step before")
    carry = "every window starts from zeros: the carry is not handed on"
    expected = [late, late, ("the carry between windows", carry)]
    expected += [("the windows", words) for words in ("the targets are the inputs", *CUTS)]
    assert [(place, words) for place, words, _ in found()] == expected
    steady = replace(PLAN, rates=[0.1] * 6, validation=PLAN.windows)
    named = [place for place, _, _ in found(steady)]
    assert named[:2] == ["the carry between windows", "the carry between training and validation"]


def test_rates_are_late_from_the_start_or_from_where_they_change():
    one, other = (plan.rates for place, _, plan in found() if place == "the schedule")
    assert one == [0.1, 0.1, 0.1, 0.2, 0.3, 0.4]
    assert other == [0.1, 0.1, 0.2, 0.2, 0.3, 0.4]


def test_a_carry_that_is_not_handed_on_changes_nothing_else():
    for words, name in (
        ("every window starts from zeros: the carry is not handed on", "carried"),
        ("validation starts from zeros", "validation_carried"),
    ):
        plan = replace(PLAN, validation=PLAN.windows)
        other = of(words, plan)
        assert not getattr(other, name)
        assert getattr(PLAN, name)
        assert replace(other, **{name: True}) == plan


CUT = {
    "they start one character late": ([s + 1 for s in STARTS], LENGTHS),
    "the streams are interleaved": ([[0, 1, 2], [4, 5, 6], [8, 9]], LENGTHS),
    # The sizes are 3 and 8: windows of 4 are padded to 8, one of 2 to 3.
    "padded steps count and move the carry": (STARTS, (8, 8, 3)),
    "the filler rows of the last batch count": ([*STARTS[:2], [8, 18, 18]], LENGTHS),
}


@pytest.mark.parametrize("words", CUTS)
def test_windows_are_cut_as_the_words_say(words):
    starts, lengths = CUT[words]
    expected = cut([np.array(s) for s in starts], lengths)
    assert_windows(of(words).windows, expected)
    assert of(words).validation == ()
    # Validation on the windows of the training is cut in the same way.
    assert_windows(of(words, replace(PLAN, validation=PLAN.windows)).validation, expected)
    # On a text of its own from where that is read.
    text = TOKENS + 1000
    own = replace(
        PLAN,
        validation=cut(STARTS, tokens=text),
        validation_starts=STARTS,
        validation_tokens=text,
    )
    validated = of(words, own).validation
    assert_windows(validated, cut([np.array(s) for s in starts], lengths, text))


def test_targets_that_are_the_inputs_are_those_of_each_window():
    same = of("the targets are the inputs").windows
    assert_windows(same, [(inputs, inputs) for inputs, _ in PLAN.windows])


@pytest.mark.parametrize("sizes", [(), (3,), (4, 2)])
def test_a_window_of_a_size_that_is_not_padded_stays(sizes):
    words = "padded steps count and move the carry"
    found = of(words, replace(PLAN, sizes=sizes)).windows
    assert [len(inputs) for inputs, _ in found] == [4, 4, 3 if sizes == (3,) else 2]


def test_defaults_of_a_plan():
    plan = TrainingPlan([], [], [])
    assert (plan.epochs, plan.carried, plan.validation_carried) == (1, True, True)
    assert (plan.validation, plan.sizes, plan.batch_size) == ((), (), 0)


# What a plan is made from.


def test_streams_are_cut_to_their_end():
    windows = windows_of(np.arange(23), 2, [4, 4, 4])  # two rows of 11
    assert [len(inputs) for inputs, _ in windows] == [4, 4, 2]
    for inputs, targets in windows:
        np.testing.assert_array_equal(targets, inputs + 1)
    assert windows[2][1].tolist() == [[9, 20], [10, 21]]
    assert windows[0][0].dtype == np.int64


@pytest.mark.parametrize(("cycles", "steps"), [(1, 40), (2, 20), (3, 21)])
def test_cosine_restarts_double_and_begin_slowly(cycles, steps):
    rates = sgdr_rates(0.2, cycles, steps)
    expected = []
    for k in range(cycles):
        length = 2**k * steps
        expected += [0.1 * (1 + np.cos(np.pi * t / length)) for t in range(length)]
    slow = int(np.ceil(steps / 20))
    assert len(rates) == (2**cycles - 1) * steps
    assert rates[:slow] == [0.002] * slow
    np.testing.assert_allclose(rates[slow:], expected[slow:], atol=1e-12)


def text(length, vocab_size=30):
    tokens = np.random.default_rng(0).integers(vocab_size, size=length)
    return Text("text", tokens, vocab_size)


def test_parallel_streams_are_those_of_both_texts():
    data = streams(text(4000))
    plan = data.plan
    assert len(data.source.tokens) == 1500
    assert len(plan.validation_tokens) == len(data.validation.tokens) == 700
    np.testing.assert_array_equal(plan.validation_tokens, text(4000).tokens[1500:2200])
    for windows, starts, tokens in (
        (plan.windows, plan.starts, data.source.tokens),
        (plan.validation, plan.validation_starts, plan.validation_tokens),
    ):
        assert windows[0][0].shape == (BPTT, STREAM_BATCH)
        rows = len(tokens) // STREAM_BATCH
        assert sum(len(inputs) for inputs, _ in windows) == rows - 1
        for (inputs, targets), firsts in zip(windows, starts, strict=True):
            np.testing.assert_array_equal(inputs, window_at(tokens, firsts, len(inputs))[0])
            np.testing.assert_array_equal(targets, window_at(tokens, firsts, len(inputs))[1])
    steps = len(plan.windows)
    assert steps == data.source.steps(0)
    assert (plan.epochs, plan.batch_size, len(plan.rates)) == (4, STREAM_BATCH, 4 * steps)
    assert set(plan.rates[:steps]) == {3e-3}
    assert plan.rates[steps:] == sgdr_rates(3e-3, 2, steps)


def test_overlapping_windows_start_at_every_character():
    data = overlapping(text(1000))
    plan = data.plan
    starts = np.concatenate(plan.starts)
    np.testing.assert_array_equal(starts, np.arange(400 - BPTT - 1))
    assert {len(firsts) for firsts in plan.starts[:-1]} == {WINDOW_BATCH}
    assert 0 < len(plan.starts[-1]) < WINDOW_BATCH
    assert data.validation is data.source
    assert plan.validation is plan.windows
    assert plan.validation_tokens is None
    for (inputs, _), firsts in zip(plan.windows, plan.starts, strict=True):
        np.testing.assert_array_equal(inputs, window_at(data.source.tokens, firsts, BPTT)[0])


def test_the_plan_of_a_trajectory_reads_what_its_windows_are():
    a_text = text(16 * 200)
    plan = plan_of(a_text, 10)
    assert len(plan.windows) == len(plan.starts) == len(plan.rates) == 10
    assert plan.batch_size == SMALL.batch_size
    for (inputs, targets), starts in zip(plan.windows, plan.starts, strict=True):
        np.testing.assert_array_equal(inputs, window_at(a_text.tokens, starts, len(inputs))[0])
        np.testing.assert_array_equal(targets, window_at(a_text.tokens, starts, len(inputs))[1])
    assert len({len(inputs) for inputs, _ in plan.windows}) > 1
    assert set(plan.rates) == {1e-3}
    assert max(plan.sizes) >= max(len(inputs) for inputs, _ in plan.windows)


def test_a_trajectory_is_whole_chunks_of_what_the_text_has():
    scale = SMALL._replace(random_bptt=False)
    tokens = scale.batch_size * (scale.bptt * 3 * CHUNK + 1)
    assert longest(text(tokens), 1000, scale) == 3 * CHUNK
    assert longest(text(tokens - scale.batch_size * scale.bptt), 1000, scale) == 2 * CHUNK
    assert longest(text(tokens), CHUNK, scale) == CHUNK
    assert KEPT_RUNS == 2 + ENVELOPE_RUNS


def test_results_of_a_trajectory_have_names_and_its_weights_are_one_vector():
    weights = [{"b": np.array([[1.0, 2.0]]), "a": np.array([3.0], np.float32)}, {}]
    weights[1] = {key: 10 * array for key, array in weights[0].items()}
    run = Trajectory(np.ones(2), np.zeros(2), weights, {"carry.h": np.full(1, 7.0)})
    assert run.flat(1).tolist() == [30, 10, 20]
    assert run.flat(0).dtype == np.float64
    named = named_results(run)
    assert named.keys() == {"a at the end", "b at the end", "losses", "gradient norms", "carry.h"}
    assert named["a at the end"] == 30
    assert named["losses"] is run.losses


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_perturbed_weights_are_one_unit_away_up_or_down(dtype):
    weights = {"w": np.linspace(-2, 2, 40).astype(np.float32).astype(float)}
    after = perturbed(weights, 0, dtype)["w"].astype(dtype)
    before = weights["w"].astype(dtype)
    up = np.nextafter(before, np.inf, dtype=dtype)
    down = np.nextafter(before, -np.inf, dtype=dtype)
    assert np.all((after == up) | (after == down))
    assert 10 < np.sum(after == up) < 30
    assert np.array_equal(perturbed(weights, 0, dtype)["w"], after.astype(float))
    assert not np.array_equal(perturbed(weights, 1, dtype)["w"], after.astype(float))


# Rules of updates.


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_is_the_same_optimizer_in_both_frameworks(rule):
    assert RULES_BY_NAME[rule.name] is rule
    options = dict(rule.options)
    assert rule.clip == options.get("clip")
    assert rule.moments == MOMENTS[rule.optimizer]
    made = rule.in_torch([torch.zeros(1, requires_grad=True)], 0.25)
    assert type(made) is TORCH_OPTIMIZERS[rule.optimizer]
    group = made.param_groups[0]
    assert group["lr"] == 0.25
    assert "clip" not in group
    assert group["weight_decay"] == options.get("weight_decay", 0.0)
    assert group.get("momentum", 0.0) == options.get("momentum", 0.0)
    # Equal only to itself, so that no compiled program is shared.
    one, other = rule.in_jax(), rule.in_jax()
    assert one == one
    assert one != other
    assert one.clip == rule.clip


def test_torchs_own_default_of_adamw_is_not_asked_for():
    made = Rule("", "adamw").in_torch([torch.zeros(1, requires_grad=True)], 1.0)
    assert made.param_groups[0]["weight_decay"] == 0
