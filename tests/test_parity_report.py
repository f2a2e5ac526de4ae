"""Reports: nothing is lost in JSON, nothing is executed in HTML, and the command line is polite."""

import json
import math
from html.parser import HTMLParser

import pytest

import parity.measures.trajectories
import parity.suite.catalog
from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import GRU, LSTM, TANH
from parity.cli import main
from parity.core.compare import Comparison, Outcome
from parity.core.layer_pairs import layer_pair
from parity.diagnosis.localize import grids, localize
from parity.diagnosis.stacks import sample_stack_case
from parity.mutation.recurrent_mutations import gru_step, stepping
from parity.mutation.tools import only_in
from parity.report.page import html_page
from parity.report.report import Report
from parity.suite.checks import Check, values_check
from parity.suite.shrink import reproduction, shrunken

EVIL = "<script>alert('x')</script>"
WHAT = Comparison(EVIL, "gradients", "float64")
FINDINGS = (
    WHAT.finding("C1", "w", Outcome.PASS, value=1e-16, limit=1e-11),
    WHAT.finding("C1", "v", Outcome.FAIL, value=math.inf, limit=1e-11, note=EVIL),
    WHAT.finding("C0", "u", Outcome.ERROR, note="it broke"),
)
REPORT = Report(EVIL, FINDINGS, (EVIL,), grids={"a map": {EVIL: {"0": 1e-16, "1": 0.0}}})


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong place; collects the tags."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_json_has_every_finding_and_the_environment():
    content = json.loads(REPORT.to_json())
    assert content["outcome"] == "ERROR"
    assert [f["array"] for f in content["findings"]] == ["w", "v", "u"]
    assert content["findings"][1]["value"] == "inf"
    assert {"jax", "torch"} <= set(content["environment"]["packages"])
    assert content["environment"]["torch_threads"] >= 1


def test_the_page_is_whole_and_escaped():
    page, parser = html_page(REPORT), Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.seen
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert {"svg", "table"} <= parser.seen


def test_the_table_shows_the_worst_of_each_group():
    _, rows = REPORT.table()
    assert [row[7] for row in rows] == ["FAIL", "ERROR"]
    assert rows[0][4] == "2"


def test_only_a_report_with_something_that_passed_passes():
    assert not REPORT.passed
    assert Report("t", FINDINGS[:1]).passed
    assert not Report("t", ()).passed
    assert "it broke" in REPORT.summary()


@pytest.mark.sample(1)
@pytest.mark.parametrize("cell", [GRU, LSTM], ids=lambda cell: cell.name)
def test_nothing_is_found_where_nothing_is_wrong(cell):
    case = sample_stack_case(cell, bidirectional=True, lengths=True)
    assert localize(case) is None
    for grid in grids(case).values():
        assert max(max(row.values()) for row in grid.values()) < 1e-13


def test_layer_step_gates_and_cause_are_named():
    with only_in("l1_reverse", lambda: stepping(GRU, gru_step(r_gate=1, z_gate=0))):
        found = localize(sample_stack_case(GRU, bidirectional=True))
    assert found.place == "layer 1 reverse, h at step 0, gates r, z"
    assert "r and z exchanged" in found.cause


@pytest.mark.slow
def test_the_case_shrinks_and_its_lines_show_the_difference(capsys):
    check = values_check(layer_pair(RNN(GRU, 10, 2)))
    with stepping(GRU, gru_step(z_weighs_new=True)):
        small = shrunken(check)
        assert (small.num_layers, small.sizes.T, small.sizes.B, small.sizes.H) == (1, 1, 1, 1)
        lines = reproduction(check)
        exec(lines, {})
        assert "Outcome.FAIL" in capsys.readouterr().out
    exec(lines, {})
    assert "Outcome.FAIL" not in capsys.readouterr().out
    assert shrunken(check) is None


def test_a_check_without_sizes_is_run_again_by_its_name(monkeypatch, capsys):
    check = Check("pair", "trajectory", lambda: [FINDINGS[1]])
    other = Check("other pair", "trajectory", lambda: [FINDINGS[0]])
    monkeypatch.setattr(parity.suite.catalog, "suite", lambda **options: [other, check])
    monkeypatch.setattr(parity.measures.trajectories, "load_text", lambda: None)
    exec(reproduction(check), {})
    printed = capsys.readouterr().out
    assert "Outcome.FAIL" in printed
    assert "Outcome.PASS" not in printed


@pytest.mark.slow
def test_a_mutation_of_the_second_layer_needs_two_layers_to_show():
    check = values_check(layer_pair(RNN(GRU, 10, 2)))
    with only_in("l1", lambda: stepping(GRU, gru_step(z_weighs_new=True))):
        small = shrunken(check)
    assert (small.num_layers, small.sizes.T, small.sizes.B, small.sizes.H) == (2, 1, 1, 1)


def test_a_cell_that_is_wrong_backwards_only_is_found_there():
    import jax

    with stepping(TANH, jax.custom_jvp(TANH.step)):
        TANH.step.defjvp(lambda p, t: (_tanh(*p), jax.tree.map(lambda x: 2 * x, _tanh_jvp(p, t))))
        found = localize(sample_stack_case(TANH))
    assert found.place.startswith("the backward pass of layer 1, gradient of weight_ih, weight_hh")


def _tanh(carry, x_gates, h_gates):
    import jax.numpy as jnp

    return type(carry)(jnp.tanh(x_gates + h_gates))


def _tanh_jvp(primals, tangents):
    import jax

    return jax.jvp(_tanh, primals, tangents)[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["check", "--fast"],
        ["check", "--corpus", "nowhere.txt"],
        ["mutants", "--only", "?"],
        ["tolerances", "--dtypes", "float8"],
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
