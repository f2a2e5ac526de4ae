"""What a check is made of and how its results are judged and run, without running nets."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from jaxrnn.nn.layers import RNN
from jaxrnn.nn.models import CharLM, CharLoopModel, CharSeqStatefulRnn
from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import GRU, RELU
from parity.core.compare import Comparison, Outcome, worst_outcome
from parity.core.layer_pairs import layer_pair
from parity.core.pairs import SIZES, Sizes, model_pair
from parity.diagnosis.causes import Diagnosis
from parity.measures.training import ADAM
from parity.measures.updates import CHANGING, MOVE, UNDECIDED, undecided
from parity.suite import findings as judging
from parity.suite import shrink, workers
from parity.suite.checks import Check, cell_of, paths_of, update_check, values_check
from parity.suite.findings import CASES, JUMPING, JUMPS, gradient_jumps, resolved
from parity.suite.shrink import SMALLEST, SmallCase, reproduction, shrunken

PAIR = model_pair("pair", CharLoopModel(7, 3, 4))


def test_small_gradients_decide_nothing():
    moment = np.array([1.0, 0.9 * UNDECIDED, 1.1 * UNDECIDED]) ** 2
    names = ("exp_avg_sq of w", "square_avg of v", "exp_avg of u", "weights of w")
    masks = undecided(dict.fromkeys(names, moment))
    assert masks.keys() == {"weights of w", "weights of v"}
    assert masks["weights of w"].tolist() == [False, True, False]
    assert undecided({"exp_avg_sq of w": np.zeros(0)})["weights of w"].shape == (0,)


def test_what_a_low_precision_cannot_resolve_is_left_out():
    arrays = {f"{MOVE}w": np.ones(2), "weights of w": np.array([3.0, 5.0])}
    arrays |= {"exp_avg_sq of w": np.array([4.0, 9.0]), "exp_avg of w": np.array([4.0, 9.0])}
    found = resolved(arrays, {"weights of w": np.array([True, False])})
    assert {name: array.tolist() for name, array in found.items()} == {
        "weights of w": [0, 5],
        "exp_avg_sq of w": [2, 3],
        "exp_avg of w": [4, 9],
    }


def test_gradients_jump_in_bfloat16_of_some_cells():
    for name in ("relu", "slstm", "mingru", "minlstm", "gru", "lstm"):
        pair = layer_pair(RNN(CELLS[name], 4))
        for dtype in ("bfloat16", "float32"):
            for quantity in ("gradients", "forward"):
                what = Comparison("pair", quantity, dtype)
                jumps = name in JUMPING and (dtype, quantity) == ("bfloat16", "gradients")
                assert gradient_jumps(pair, what) == jumps
    assert not gradient_jumps(PAIR, Comparison("pair", "gradients", "bfloat16"))


def runners(got, peer, truth):
    """Makers of runners that give arrays for each precision, whatever the case."""

    def in_jax(dtype):
        return lambda weights, inputs: {"gradients": {"w": got}}

    def in_torch(dtype):
        array = truth if dtype == "float64" else peer
        return lambda weights, inputs: {"gradients": {"w": array}}

    return in_jax, in_torch


def found(dtype, got, peer, truth, pair=PAIR):
    return judging.runner_findings("name", pair, *runners(got, peer, truth), dtype)


def test_float64_is_judged_by_meaning_and_the_others_by_numerics():
    one = np.ones(3)
    findings = found("float64", one, None, one)
    assert [(f.criterion, f.outcome) for f in findings] == [
        ("C0", Outcome.PASS),
        ("C1", Outcome.PASS),
    ]
    low = one.astype(np.float32)
    # PyTorch in the same precision is the peer, and in float64 the truth.
    off = low * np.float32(1 + 1e-6)
    for got, peer, outcome in ((off, off, Outcome.PASS), (off, low, Outcome.FAIL)):
        findings = found("float32", got, peer, one)
        assert [f.criterion for f in findings] == ["C0", "C2", "C3"]
        assert findings[1].outcome is outcome
        assert {(f.pair, f.quantity, f.dtype) for f in findings} == {
            ("name", "gradients", "float32")
        }
    assert CASES == {"float64": 2, "float32": 16, "tf32": 16, "bfloat16": 16}


def test_arrays_of_another_shape_have_no_distance():
    findings = found("float64", np.ones((1, 3)), None, np.ones(3))
    assert [(f.criterion, f.outcome) for f in findings] == [("C0", Outcome.FAIL)]


def test_numbers_that_jump_are_shown_without_a_verdict():
    import ml_dtypes

    low, far = np.ones(3, ml_dtypes.bfloat16), 3 * np.ones(3, ml_dtypes.bfloat16)
    pair = layer_pair(RNN(RELU, 4))
    findings = found("bfloat16", far, low, np.ones(3), pair)
    assert [(f.criterion, f.outcome, f.note) for f in findings[1:]] == [
        ("C2", Outcome.ABSTAIN, JUMPS),
        ("C3", Outcome.ABSTAIN, JUMPS),
    ]
    assert worst_outcome(found("bfloat16", far, low, np.ones(3))) is Outcome.FAIL


# Checks.

WHAT = Comparison("pair", "forward", "float64")
WRONG = WHAT.finding("C1", "ys", Outcome.FAIL, value=1.0, limit=0.5)
RIGHT = WHAT.finding("C1", "ys", Outcome.PASS, value=0.1, limit=0.5)


def test_names_and_kinds_of_checks():
    check = values_check(PAIR)
    assert (check.pair, check.kind, check.target, check.rule) == ("pair", "values", PAIR, None)
    check = update_check(PAIR, ADAM)
    assert (check.pair, check.kind, check.rule) == ("pair, Adam", "update", ADAM)
    changing = update_check(PAIR, ADAM, rows=CHANGING)
    assert changing.pair == "pair, Adam, batch changing"
    assert check.path is None


def test_cells_that_run_in_one_way_have_no_path():
    assert cell_of(PAIR) is None
    assert cell_of(layer_pair(RNN(CELLS["mogrifier-lstm"], 4))) is None
    assert cell_of(layer_pair(RNN(GRU, 4))) is GRU
    assert "scan" in paths_of(GRU)


def test_an_error_is_a_finding_in_one_line():
    def run():
        raise KeyError("a\n  b")

    (finding,) = Check("pair", "values", run).findings()
    assert (finding.outcome, finding.criterion, finding.quantity) == (
        Outcome.ERROR,
        "C0",
        "values",
    )
    assert finding.note == "KeyError: 'a\\n b'"
    assert (finding.pair, finding.path) == ("pair", "")


def test_a_search_that_fails_is_its_own_cause():
    def explain():
        raise ValueError("no")

    named = Check("pair", "values", lambda: [WRONG], explain).diagnosis()
    assert named == ("unknown", "ValueError while looking for it")
    named = Check("pair", "values", lambda: [WRONG], lambda: Diagnosis("here", "why")).diagnosis()
    assert named == ("here", "why")


def test_rounding_alone_names_the_first_array_and_its_path():
    low = replace(WRONG, dtype="float32", array="zs", quantity="loss")
    check = Check("pair", "values", lambda: [RIGHT, low, replace(low, array="later")])
    assert check.diagnosis() == (
        "zs (loss), in float32 alone",
        "it is right in float64, but rounded more than PyTorch's",
    )


# The smallest case.


def shrinking(monkeypatch, differs):
    """Whether a case differs is decided by its sizes and layers."""
    monkeypatch.setattr(SmallCase, "differs", lambda case: differs(case.sizes, case.num_layers))


@pytest.mark.parametrize(
    ("differs", "sizes", "layers"),
    [
        (lambda s, n: True, SMALLEST, 1),
        (lambda s, n: n >= 2, SMALLEST, 2),
        (lambda s, n: n >= 3, SMALLEST, 3),
        (lambda s, n: s.T >= 2, SMALLEST._replace(T=2), 1),
        (lambda s, n: s.B >= 3, SMALLEST._replace(B=3), 1),
        (lambda s, n: s.H >= 2 and s.F >= 2, SMALLEST._replace(F=2, H=2), 1),
        (lambda s, n: s.V >= 3, SMALLEST._replace(V=3), 1),
        (lambda s, n: s.T >= 4, SMALLEST._replace(T=SIZES.T), 1),
    ],
)
def test_one_size_after_the_other_shrinks(differs, sizes, layers, monkeypatch):
    shrinking(monkeypatch, differs)
    small = shrunken(values_check(layer_pair(RNN(GRU, 10, 3))))
    assert (small.sizes, small.num_layers) == (sizes, layers)


def test_what_does_not_differ_has_no_smallest_case(monkeypatch):
    shrinking(monkeypatch, lambda sizes, layers: False)
    assert shrunken(values_check(PAIR)) is None
    assert shrunken(Check("pair", "trajectory", lambda: [])) is None
    assert Sizes(1, 1, 2, 1, 1) == SMALLEST


def test_a_small_case_is_a_model_or_a_stack_of_these_sizes():
    sizes = Sizes(T=3, B=2, V=5, F=2, H=4)
    stack = layer_pair(RNN(GRU, 10, 3, dropout=0.2), lengths=True)
    for layers, dropout in ((1, 0.0), (2, 0.2)):
        module = SmallCase(values_check(stack), stack, sizes, layers).module
        assert (module.hidden_size, module.num_layers, module.dropout) == (4, layers, dropout)
    small = SmallCase(values_check(stack), stack, sizes, 2)
    assert small.pair.lengths
    assert small.pair.sample_inputs(np.random.default_rng(0))["xs"].shape == (3, 2, 2)
    tied = model_pair("tied", CharLM(9, 9, 9, cell=GRU, tied=True, num_layers=2))
    module = SmallCase(values_check(tied), tied, sizes, 1).module
    found = (module.vocab_size, module.embedding_size, module.hidden_size, module.num_layers)
    assert found == (5, 4, 4, 1)
    short = model_pair("short", CharSeqStatefulRnn(9, 4, 5), length=3)
    small = SmallCase(values_check(short), short, sizes, 1)
    assert (small.module.embedding_size, small.length) == (2, 2)
    assert replace(small, sizes=sizes._replace(T=1)).length == 1
    assert SmallCase(values_check(PAIR), PAIR, sizes, 1).length is None


def test_a_case_is_run_by_its_own_kind_of_check_on_its_path(monkeypatch):
    seen = []

    def made(kind):
        def make(*arguments):
            seen.append((kind, *arguments[1:]))
            return Check("pair", kind, lambda: [WRONG], cell=GRU)

        return make

    monkeypatch.setattr(shrink, "values_check", made("values"))
    monkeypatch.setattr(shrink, "update_check", made("update"))
    pair = layer_pair(RNN(GRU, 4))
    assert SmallCase(values_check(pair), pair, SMALLEST, 1).differs()
    assert SmallCase(update_check(pair, ADAM), pair, SMALLEST, 1).differs()
    assert seen == [("values",), ("update", ADAM)]
    broken = replace(WRONG, outcome=Outcome.ERROR)
    monkeypatch.setattr(shrink, "values_check", lambda p: Check("p", "v", lambda: [broken]))
    assert not SmallCase(values_check(pair), pair, SMALLEST, 1).differs()


def test_lines_make_the_pair_again(monkeypatch):
    shrinking(monkeypatch, lambda sizes, layers: True)
    stack = layer_pair(RNN(GRU, 10, 2, bidirectional=True), lengths=True)
    lines = reproduction(replace(values_check(stack), path="scan"))
    assert "layer_pair(RNN(cell=CELLS['gru'], hidden_size=1, bidirectional=True), " in lines
    assert "lengths=True, sizes=Sizes(1, 1, 2, 1, 1))" in lines
    assert "with on_path('scan'):\n    print(worst(values_check(pair).findings()))" in lines
    lines = reproduction(update_check(PAIR, ADAM))
    assert "CharLoopModel(vocab_size=2, embedding_size=1, hidden_size=1), length=None" in lines
    assert "update_check(pair, RULES_BY_NAME['Adam'])" in lines


# Processes.


@pytest.fixture
def four(monkeypatch):
    def check(pair, kind, path=None, finding=RIGHT):
        return Check(pair, kind, lambda: [finding], lambda: Diagnosis("here", "why"), path=path)

    checks = [
        check("a", "values", "compiled"),
        check("b", "values"),
        check("a", "update"),
        check("a", "values", "scan", WRONG),
    ]
    monkeypatch.setattr(workers, "suite", lambda **options: iter(checks))
    monkeypatch.setattr(workers, "load_text", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(workers, "reproduction", lambda check: "lines")
    return checks


def test_checks_of_the_same_runs_are_one_group_and_failures_are_explained(four):
    options = {"quick": True, "corpus": None, "tf32": False, "jobs": 1}
    found = list(workers.results(**options))
    names = ["values: a, compiled", "values: a, scan", "values: b", "update: a"]
    assert [result.name for result in found] == names
    assert {result.total for result in found} == {4}
    words = ["", "a, values, scan: here: why\nlines", "", ""]
    assert [result.explanation for result in found] == words
    chosen = list(workers.results(**options, chosen=[2, 0]))
    assert [result.name for result in chosen] == ["update: a", "values: a, compiled"]
    assert {result.total for result in chosen} == {2}


def test_processes_are_one_for_each_core_but_no_more_than_some(monkeypatch):
    for cores, jobs in ((1, 1), (3, 3), (workers.MOST_JOBS + 2, workers.MOST_JOBS)):
        monkeypatch.setattr(workers, "available_cores", lambda cores=cores: range(cores))
        assert workers.default_jobs(gpu=False) == jobs
        assert workers.default_jobs(gpu=True) == 1


@pytest.mark.parametrize("before", [None, "--xla_dump_to=x"])
def test_new_processes_compile_without_optimizations_unless_flags_are_given(before, monkeypatch):
    if before is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", before)
    with workers._few_passes():
        assert os.environ["XLA_FLAGS"] == (before or "--xla_backend_optimization_level=0")
    assert os.environ.get("XLA_FLAGS") == before
