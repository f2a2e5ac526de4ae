"""The quick check passes the code as it is and fails it with a fault: for real, by training."""

import pytest

from jaxrnn import RECIPES, cli
from jaxrnn.reproduction import commands
from jaxrnn.reproduction.quick import BAND, Judgement, judged, quick_units
from jaxrnn.reproduction.running import run
from jaxrnn.reproduction.units import Unit
from jaxrnn.reproduction.watching import Outcome
from parity.mutation.cell_patches import backward_with
from parity.mutation.training_patches import batch_with, carry_with, recompiled

SMALL = Unit(
    recipe="stateful-rnn",
    changes={
        "corpus": "human-numbers",
        "hidden": 64,
        "schedule": "1 x 3e-3",
        "random_bptt": False,
    },
    study="quick",
)
"""A quick unit of two seconds that needs no download."""
EXPECTED = 0.466
"""Its validation loss: seeds 0 to 4 give 0.441, 0.460, 0.481, 0.472, 0.476."""

FAULTS = {
    "the carry is lost at each window": lambda: carry_with(lambda before, after: 0 * after),
    "the gradient of weight_hh is transposed": lambda: backward_with(lambda d: (d[0].T, *d[1:])),
    "targets are the inputs": lambda: batch_with(lambda b: b._replace(targets=b.inputs)),
}


def judgement(folder, unit, expected=None):
    result = run(unit, folder, lambda share, loss: None)
    if expected is None:
        return judged(result)
    return Judgement(unit, result["validation"]["1"], expected)


def test_the_code_as_it_is_passes(tmp_path):
    sound = judgement(tmp_path, SMALL, EXPECTED)
    assert sound.passed
    assert sound.line.endswith(": right")


BRITTLE = "the gradient of weight_hh is transposed"
"""Ends within the band on some machines: a known gap of `reproduce --quick`."""


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(f, marks=pytest.mark.xfail(reason="known gap: lies near the band's edge"))
        if f == BRITTLE
        else f
        for f in FAULTS
    ],
)
def test_a_fault_does_not_pass(tmp_path, fault):
    with recompiled(FAULTS[fault]()):
        broken = judgement(tmp_path, SMALL, EXPECTED)
    assert not broken.passed
    assert "OFF, by more than 0.04" in broken.line


@pytest.mark.parametrize(("off", "passed"), [(0.03, True), (0.05, False), (-0.05, False)])
def test_the_first_published_loss_is_what_counts(off, passed):
    for unit in quick_units():
        published = RECIPES[unit.recipe].validation[1]
        result = {"unit": unit.to_dict(), "validation": {"1": published + off}}
        assert judged(result).passed is passed
        assert unit.epochs == 1


@pytest.mark.slow
@pytest.mark.usefixtures("course_corpus")
def test_the_course_first_epoch_passes_and_with_a_fault_does_not(tmp_path):
    unit = next(unit for unit in quick_units() if unit.recipe == "stateful-rnn")
    assert judgement(tmp_path / "sound", unit).passed
    with recompiled(FAULTS["the carry is lost at each window"]()):
        broken = judgement(tmp_path / "broken", unit)
    assert broken.loss > broken.expected + 2 * BAND


@pytest.mark.parametrize(
    ("off", "failures", "code", "verdict"),
    [
        (0.01, {}, 0, "Your installation trains correctly."),
        (0.50, {}, 1, "Your installation does NOT train correctly."),
        (0.01, {"identity_jax": "no memory"}, 1, "Your installation does NOT train correctly."),
    ],
)
def test_the_command_says_so(capsys, monkeypatch, off, failures, code, verdict):
    def reproduce(units, folder, jobs):
        results = {
            unit.id: {
                "unit": unit.to_dict(),
                "validation": {"1": RECIPES[unit.recipe].validation[1] + off},
            }
            for unit in units
        }
        return Outcome(results, failures, 0)

    monkeypatch.setattr(commands, "reproduce", reproduce)
    monkeypatch.setattr(commands, "nietzsche", lambda: None)
    assert cli.main(["reproduce", "--quick"]) == code
    printed = capsys.readouterr()
    assert verdict in printed.out
    assert f"{off:+.3f}" in printed.out
    assert all(error in printed.err for error in failures.values())
