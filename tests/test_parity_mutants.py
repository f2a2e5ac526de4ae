"""Mutations are caught, each by a criterion and with a margin; the unmutated code passes."""

from dataclasses import replace

import pytest

import jaxrnn
import jaxrnn.recurrent.scan
from parity import cli
from parity.core.compare import Outcome, worst_outcome
from parity.measures.trajectories import load_text
from parity.mutation.catalog import MUTANTS
from parity.mutation.mutants import CHECKS, Mutant, tried, unmutated_findings
from parity.mutation.tools import only_in, wrapped

FEWEST = 40
SAMPLE = (
    "layer 1: GRU: hard sigmoid in z",
    "tied table counted once",
    "tied table transposed",
    "direction clipped, not the gradient",
    "layer 0 reverse: gradient of bias_hh lost in f",
    "loss summed",
    "compiled: outputs one step late",
    "peephole LSTM: o sees the old c",
    "sLSTM: stabilizer not handed on",
    "gradient of the peepholes lost",
    "embedded tokens: row counted once",
    "compiled: last step left out of the table's gradient",
    "GRU: reset before the matmul",
    "carry not cut",
    "Adam: bias correction in float32",
    "tied table starts as an embedding",
    "SGD: decay behind the momentum",
    "norm of the update reported for the gradient's",
    "learning rate one step late",
    "window off by one",
    "windows off by one",
    "embedded tokens: row shift",
)


@pytest.fixture(scope="module")
def text():
    return load_text("python-docs")


def test_there_are_enough_and_none_is_there_twice():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= FEWEST
    assert {mutant.check for mutant in MUTANTS} <= set(CHECKS)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", SAMPLE)
def test_a_mutant_is_caught(name, text):
    chosen = [mutant for mutant in MUTANTS if mutant.name == name]
    if reason := chosen[0].cannot():
        pytest.skip(reason)
    (verdict,) = tried(chosen, text)
    assert verdict.killed
    assert verdict.margin > 10
    assert verdict.right, verdict.named


@pytest.mark.parametrize("name", ["bias of a Dense dropped", "square kernel transposed"])
def test_what_is_wrong_with_an_output_layer_is_named(name, text):
    (verdict,) = tried([mutant for mutant in MUTANTS if mutant.name == name], text)
    assert verdict.right, verdict.named


@pytest.mark.slow
def test_unmutated_the_same_checks_pass_again(text):
    chosen = [mutant for mutant in MUTANTS if mutant.name in SAMPLE]
    assert worst_outcome(unmutated_findings(chosen, text)) is Outcome.PASS


def test_a_mutant_that_cannot_be_put_in_is_skipped_and_counted(capsys, monkeypatch):
    without = [
        replace(mutant, cannot=lambda: "there is no compiler")
        for mutant in MUTANTS
        if mutant.cannot.__name__ == "why_not_compiled"
    ]
    monkeypatch.setattr(cli, "MUTANTS", without)
    assert cli._run(["mutants", "--only", "compiled"]) == 0
    printed = capsys.readouterr().out
    assert "Skipped compiled: outputs one step late: there is no compiler." in printed
    assert f"No mutant was tried, {len(without)} skipped." in printed
    assert len(without) > 1


@pytest.mark.slow
def test_every_mutant_is_caught_and_its_cause_named(text):
    verdicts = list(tried([mutant for mutant in MUTANTS if not mutant.cannot()], text))
    assert [verdict.mutant.name for verdict in verdicts if not verdict.killed] == []
    wrong = [(verdict.mutant.name, str(verdict.named)) for verdict in verdicts if not verdict.right]
    assert len(wrong) <= 0.1 * len(verdicts), wrong


@pytest.mark.parametrize(
    "mutation",
    [
        lambda: wrapped(jaxrnn.recurrent.scan, "_renamed_since", lambda run: run),
        lambda: only_in(
            "l1", lambda: wrapped(jaxrnn.recurrent.scan, "_renamed_since", lambda run: run)
        ),
    ],
    ids=["everywhere", "in one layer"],
)
def test_a_mutant_that_no_longer_fits_the_code_is_an_error_with_its_name(mutation, text):
    mutant = Mutant("a mutation of yesterday's code", mutation, "values of a gru stack")
    with pytest.raises(ValueError, match=r"a mutation of yesterday's code.*has no _renamed_since"):
        list(tried([mutant], text))


def test_a_mutant_that_only_breaks_the_code_is_an_error_with_its_name(text):
    """What raises is noticed by anything; it would pass for caught without a number."""

    def raising(run):
        def broken(*arguments):
            raise TypeError("no such field")

        return broken

    mutant = Mutant(
        "a mutation that raises",
        lambda: wrapped(jaxrnn.recurrent.scan, "_step", raising),
        "values of CharLM, few tokens",
    )
    with (
        jaxrnn.backend("scan"),
        pytest.raises(ValueError, match=r"a mutation that raises.*no such"),
    ):
        list(tried([mutant], text))
