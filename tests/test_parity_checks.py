"""The checks pass on the code as it is, and fail when the code is broken."""

from dataclasses import replace

import numpy as np
import pytest

import jaxrnn.training.optimizers
from jaxrnn.nn.layers import RNN
from jaxrnn.nn.models import (
    COURSE_MODELS,
    CharLM,
    CharRnn,
    CharSeqRnn,
    CharSeqStatefulGRU,
    CharSeqStatefulRnn,
)
from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import GRU, LSTM, RELU, Cell, Hidden
from jaxrnn.recurrent.recurrence import why_not_compiled
from jaxrnn.recurrent.scan import scanned
from parity.core.cases import sample_case, sample_weights
from parity.core.compare import Outcome, relative_l2, worst_outcome
from parity.core.layer_pairs import EVERY_WAY, LAYER_DROPOUT, layer_pair, loop_pairs
from parity.core.pairs import FEW, F, H, T, V, course_pairs, model_pair
from parity.core.references import LOOP_CELLS, TORCH_CELLS
from parity.diagnosis.training import torch_gradients, torch_replayed
from parity.measures.generation import greedy_findings
from parity.measures.initialization import initialization_findings
from parity.measures.training import ADAM, RULES, sgdr_rates, windows_of
from parity.measures.trajectories import (
    followed,
    load_text,
    longest,
    trained_pair,
    within_envelope,
)
from parity.measures.updates import CHANGING
from parity.mutation.tools import wrapped
from parity.suite.catalog import suite
from parity.suite.checks import Check, cell_of, paths_of, update_check, values_check
from parity.suite.findings import update_findings, value_findings
from parity.suite.workers import results

GOOD = {Outcome.PASS, Outcome.WARN}


def failed(findings):
    return {
        (f.quantity, f.criterion) for f in findings if f.outcome in (Outcome.FAIL, Outcome.ERROR)
    }


@pytest.fixture(scope="module")
def text():
    return load_text("python-docs")


def test_values_agree():
    findings = value_findings(model_pair("model", CharRnn(V, F, H)), ("float64", "float32"))
    assert worst_outcome(findings) in GOOD
    assert {f.quantity for f in findings} == {"forward", "loss", "gradients"}
    assert {f.criterion for f in findings} == {"C0", "C1", "C2", "C3"}


@pytest.mark.parametrize(
    "pair",
    [
        layer_pair(RNN(LSTM, H, 2, bidirectional=True), lengths=True),
        layer_pair(RNN(GRU, H, 3, dropout=LAYER_DROPOUT)),
    ],
    ids=lambda pair: pair.name,
)
def test_stacks_agree_with_packed_sequences_and_torch_dropout(pair):
    findings = value_findings(pair, ("float64",))
    assert worst_outcome(findings) is Outcome.PASS
    assert any(f.array == "input xs" for f in findings)


def test_bfloat16_agrees():
    findings = value_findings(model_pair("model", CharRnn(V, F, H)), ("bfloat16",))
    assert worst_outcome(findings) in GOOD


def test_gradients_of_relu_cells_in_bfloat16_are_shown_and_not_judged():
    findings = value_findings(layer_pair(RNN(RELU, H)), ("bfloat16",))
    numbers = {f.quantity: f.outcome for f in findings if f.criterion == "C2"}
    assert numbers["gradients"] is Outcome.ABSTAIN
    assert {numbers["forward"], numbers["loss"]} <= GOOD


def test_gradients_of_jax_move_the_weights_the_same_through_torchs_optimizer():
    pair = model_pair("model", CharSeqStatefulRnn(V, F, H))
    case = sample_case(pair, 0, "float64")
    _, after = torch_gradients(pair, ADAM, case)
    replayed = torch_replayed(pair, ADAM, case)
    for key, w in case.weights.items():
        assert relative_l2(replayed[key] - w, after[key] - w) < 1e-11


def test_a_long_trajectory_ends_with_the_text(text):
    short = replace(text, tokens=text.tokens[: 16 * 8 * 60])
    assert longest(text, 100) == 100
    assert longest(short, 100) == 50


def test_a_padded_window_agrees_with_a_short_one():
    pair = model_pair("model", CharSeqStatefulRnn(V, F, H), length=T - 2)
    assert worst_outcome(value_findings(pair, ("float64",))) is Outcome.PASS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_updates_agree(rule):
    pair = model_pair("model", CharSeqStatefulRnn(V, F, H))
    findings = update_findings("model", pair, rule, ("float64",))
    assert worst_outcome(findings) is Outcome.PASS
    moments = {f.array.split(" of ")[0] for f in findings if " of " in f.array}
    assert moments == {"move", "weights", *rule.moments.values()} - _absent(rule)


def _absent(rule):
    """RMSprop's and SGD's states have a momentum buffer only with momentum."""
    return (
        set()
        if dict(rule.options).get("momentum") or rule.optimizer == "adam"
        else {"momentum_buffer"}
    )


def test_updates_agree_in_float32():
    pair = model_pair("model", CharSeqStatefulRnn(V, F, H))
    findings = update_findings("model", pair, RULES[0], ("float32",))
    assert worst_outcome(findings) in GOOD


def test_greedy_texts_agree():
    pair = model_pair("model", CharSeqStatefulGRU(V, F, H))
    weights = sample_weights(pair, np.random.default_rng(1))
    (finding,) = greedy_findings(pair, weights, "float32")
    assert (finding.criterion, finding.outcome) == ("C5", Outcome.PASS)
    assert "margin" in finding.note


def test_initialization_agrees_and_notices_a_missing_identity():
    right = model_pair("model", CharSeqRnn(V, F, H, identity=True))
    assert worst_outcome(initialization_findings(right)) is Outcome.PASS
    wrong = replace(right, model=CharSeqRnn(V, F, H))
    bad = [f.array for f in initialization_findings(wrong) if f.outcome is Outcome.FAIL]
    assert bad == ["rnn.weight_hh_l0"]


def test_a_trajectory_is_followed_digit_by_digit(text):
    pair = trained_pair(CharSeqStatefulRnn, text)
    assert worst_outcome(followed(pair, text, 50)) is Outcome.PASS


@pytest.mark.slow
def test_a_float32_trajectory_stays_within_the_envelope(text):
    pair = trained_pair(CharSeqStatefulRnn, text)
    findings = within_envelope(pair, text, 50)
    assert worst_outcome(findings) is Outcome.PASS
    assert "envelope" in findings[-1].note


def test_a_broken_cell_fails_in_every_value():
    def step(carry, x_gates, h_gates):
        after = GRU.step(carry, x_gates, h_gates)
        return Hidden(after.h * (1 + 1e-9))

    broken = model_pair("model", CharLM(V, F, H, cell=Cell("gru", GRU.gates, step)))
    failures = failed(value_findings(broken, ("float64",)))
    assert failures == {("forward", "C1"), ("loss", "C1"), ("gradients", "C1")}


def test_a_clipping_epsilon_is_noticed(monkeypatch):
    monkeypatch.setattr(jaxrnn.training.optimizers, "CLIP_EPSILON", 0.0)
    pair = model_pair("model", CharSeqStatefulRnn(V, F, H))
    rule = next(rule for rule in RULES if rule.name == "SGD, clipped")
    assert ("update", "C1") in failed(update_findings("model", pair, rule, ("float64",)))


def test_what_cannot_run_is_an_error_not_a_crash():
    def run():
        raise RuntimeError("no such thing")

    (finding,) = Check("pair", "values", run).findings()
    assert finding.outcome is Outcome.ERROR
    assert "no such thing" in finding.note


PARTS = 4
"""Into so many tests the quick suite is cut, for workers to share."""


@pytest.mark.sample(1)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_quick_suite_passes(part, text):
    """What `parity check --quick` runs, but for the updates, which have a test of their own."""
    checks = [check for check in suite(quick=True, text=text) if check.kind != "update"]
    for check in checks[part::PARTS]:
        findings = check.findings()
        assert worst_outcome(findings) in GOOD, (check.pair, check.kind, failed(findings))


def test_the_quick_suite_reaches_every_model_cell_optimizer_and_kind(text):
    checks = list(suite(quick=True, text=text))
    valued = {check.pair for check in checks if check.kind == "values"}
    assert {kind.__name__ for kind in COURSE_MODELS} <= valued
    assert {f"CharLM, {cell}, 2 layers" for cell in TORCH_CELLS} | {"CharLM, gru, tied"} <= valued
    assert {f"{cell}, 2 layers, both directions, lengths" for cell in TORCH_CELLS} <= valued
    assert {pair.name for pair in loop_pairs()} <= valued
    updated = {check.rule for check in checks if check.kind == "update"}
    assert updated == set(RULES)
    kinds = {check.kind for check in checks}
    assert kinds == {"values", "update", "initialization", "generation", "trajectory"}


@pytest.mark.slow
def test_the_full_suite_updates_several_models_by_every_rule(text):
    checks = [check for check in suite(quick=False, text=text) if check.kind == "update"]
    for rule in RULES:
        assert len({check.target.name for check in checks if check.rule == rule}) >= 3


def test_the_full_suite_has_every_kind_for_the_cells_that_torch_has_not(text):
    kinds, ways = {}, {}
    for check in suite(quick=False, text=text):
        ways.setdefault(check.pair, set()).add(check.path)
        kinds.setdefault(check.kind, set()).add(check.pair)
    assert LOOP_CELLS
    for cell, pair in zip(LOOP_CELLS, loop_pairs(), strict=True):
        lengths = pair.name
        assert {lengths, f"{cell}, 1 layer"} <= kinds["values"]
        assert ways[lengths] == set(paths_of(cell_of(pair)))
        # Of zoneout each framework would sample masks of its own.
        updated = f"CharLM, {cell}, Adam" in kinds["update"]
        assert updated == (getattr(CELLS[cell], "zoneout", None) is None)
        assert f"CharLM, {cell}" in kinds["generation"]


@pytest.mark.slow
def test_processes_give_what_one_gives():
    options = {"quick": True, "corpus": "python-docs", "tf32": False, "chosen": [2]}
    (alone,), (other,) = (list(results(**options, jobs=jobs)) for jobs in (1, 2))
    assert alone == other
    assert alone.findings
    assert not alone.explanation


def test_a_batch_size_that_changes_starts_from_zeros_in_both_frameworks():
    pair = model_pair("model", CharSeqStatefulRnn(V, F, H))
    findings = update_check(pair, ADAM, rows=CHANGING).findings()
    assert worst_outcome(findings) is Outcome.PASS
    assert len(set(CHANGING)) > 1


def test_restarts_follow_the_course():
    rates = sgdr_rates(0.1, 2, 40)
    assert len(rates) == 120
    assert rates[:3] == [0.001, 0.001, rates[2]]
    assert rates[2] > 0.09
    assert rates[40] == pytest.approx(0.1)


def test_windows_are_parallel_streams():
    (inputs, targets), (rest, _) = windows_of(np.arange(12), 2, [3, 3])
    assert inputs.tolist() == [[0, 6], [1, 7], [2, 8]]
    assert targets.tolist() == [[1, 7], [2, 8], [3, 9]]
    assert rest.tolist() == [[3, 9], [4, 10]]


@pytest.mark.parametrize("quick", [True, False])
def test_every_check_of_a_recurrence_is_made_on_both_paths(quick):
    """But in the quick form what rules other than Adam make of gradients, which is the same."""
    found = list(suite(quick=quick, text=load_text("human-numbers")))
    once = {c.pair for c in found if quick and c.rule and c.rule.name != "Adam"}
    # In the full form the cells that torch has not have a test of their own.
    found = [c for c in found if quick or not c.cell or c.cell.name not in LOOP_CELLS]
    paths = {(c.pair, c.kind): set() for c in found if c.cell}
    for check in found:
        if check.cell:
            paths[check.pair, check.kind].add(check.path)
    both = {None} if why_not_compiled() else {"compiled", "scan"}
    assert paths
    for (pair, kind), made in paths.items():
        cell = CELLS.get(pair.partition(",")[0])
        expected = both
        if cell is not None and cell.name in LOOP_CELLS:
            ways = paths_of(cell)
            expected = set(ways if cell.name in EVERY_WAY else ways[:1])
        if pair in once:
            expected = expected - {"scan"}
        assert made == expected, (pair, kind)
    assert all(check.path is None for check in found if not check.cell)


def test_rows_are_looked_up_with_and_without_padding():
    """A padded window has no gradient at its last step: some windows must be whole."""
    # With so few tokens the rows are read from the projected table.
    looked_up = [pair for pair in course_pairs() if pair.model.vocab_size == FEW]
    assert {pair.lengths for pair in looked_up} == {True, False}


def test_a_linear_cell_is_checked_in_three_ways():
    assert paths_of(CELLS["mingru"])[-2:] == ["scan", "parallel"]
    assert "parallel" not in paths_of(CELLS["sru"])
    assert paths_of(None) == [None]


def doubled(gradients):
    return gradients._replace(weight_hh=2 * gradients.weight_hh)


def test_a_mutation_of_the_scan_alone_is_found_and_its_path_named():
    check = replace(values_check(layer_pair(RNN(GRU, 4))), path="scan")
    assert {finding.path for finding in check.findings()} == {"scan"}
    with wrapped(scanned, "backward", lambda backward: lambda *a: doubled(backward(*a))):
        assert worst_outcome(check.findings()) is Outcome.FAIL
        named = check.diagnosis()
        elsewhere = replace(check, path="compiled").diagnosis()
    assert named.place.endswith(", path scan")
    assert elsewhere.place.endswith(", path scan")
