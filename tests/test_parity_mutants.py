"""Faults are caught, each by a gate and with a margin; the code without them passes."""

import pytest

from parity.compare import Outcome, worst_outcome
from parity.mutant_list import MUTANTS
from parity.mutants import PROBES, tried, unharmed
from parity.trajectories import load_text

FEWEST = 40
SAMPLE = (
    "GRU: reset before the product",
    "carry not cut",
    "Adam: bias correction in float32",
    "learning rate one step late",
)


@pytest.fixture(scope="module")
def text():
    return load_text("python-docs")


def test_there_are_enough_and_none_is_there_twice():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= FEWEST
    assert {mutant.probe for mutant in MUTANTS} <= set(PROBES)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_mutant_is_caught(name, text):
    chosen = [mutant for mutant in MUTANTS if mutant.name == name]
    (verdict,) = tried(chosen, text)
    assert verdict.killed
    assert verdict.margin > 10
    assert verdict.right or not chosen[0].cause, verdict.located


def test_without_a_fault_the_same_checks_pass_again(text):
    chosen = [mutant for mutant in MUTANTS if mutant.name in SAMPLE]
    assert worst_outcome(unharmed(chosen, text)) is Outcome.PASS


@pytest.mark.slow
def test_every_mutant_is_caught_and_its_cause_named(text):
    verdicts = list(tried(MUTANTS, text))
    assert [verdict.mutant for verdict in verdicts if not verdict.killed] == []
    located = [verdict for verdict in verdicts if verdict.located]
    assert sum(verdict.right for verdict in located) >= 0.9 * len(located)
