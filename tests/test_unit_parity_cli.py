"""What `parity` prints and exits with, and how mutants are judged; nothing is measured here."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from jaxrnn import __version__
from parity import cli
from parity.core.compare import MEASURED, TOLERANCES, Comparison, Outcome
from parity.diagnosis.causes import Diagnosis
from parity.measures.trajectories import Text
from parity.mutation import mutants
from parity.mutation.mutants import (
    CHECKS,
    Mutant,
    Verdict,
    check_named,
    tried,
    unmutated_findings,
    verdict,
)
from parity.suite.tolerances import Farthest
from parity.suite.workers import Result

TEXT = Text("a-text", np.zeros(3, int), 2)


def finding(outcome, *, criterion="C1", value=0.5, array="h", note="", path=""):
    made = Comparison("pair", "forward", "float64").finding(
        criterion, array, outcome, value=value, limit=1.0, note=note
    )
    return replace(made, path=path)


PASSES, FAILS = finding(Outcome.PASS, path="scan"), finding(Outcome.FAIL, value=3.0)
ABSTAINS = [finding(Outcome.ABSTAIN, note="zero"), finding(Outcome.ABSTAIN, note="zero")]


def exit_code(*arguments):
    with pytest.raises(SystemExit) as exited:
        cli.main(arguments)
    return exited.value.code


@pytest.fixture
def suite(monkeypatch):
    """The suite with results of one's own; keeps what it was asked for."""
    asked = {}

    def use(*found, gpu=False):
        def results(**options):
            asked.update(options)
            for k, (findings, explanation) in enumerate(found):
                yield Result(f"check {k}", findings, explanation, len(found))

        monkeypatch.setattr(cli, "results", results)
        monkeypatch.setattr(cli.jax, "default_backend", lambda: "gpu" if gpu else "cpu")
        return asked

    def load(name):
        asked["text"] = name
        return TEXT

    monkeypatch.setattr(cli, "load_text", load)
    monkeypatch.setattr(cli, "default_jobs", lambda *, gpu: 7 if gpu else 3)
    monkeypatch.setattr(cli, "why_not_compiled", lambda: None)
    threads = torch.get_num_threads()
    yield use
    torch.set_num_threads(threads)


def test_the_version(capsys):
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"parity {__version__}\n"


@pytest.mark.parametrize("gpu", [False, True])
def test_a_suite_that_passes(suite, capsys, gpu):
    asked = suite(([PASSES, *ABSTAINS], ""), ([PASSES], ""), gpu=gpu)
    assert exit_code("check", "--quick", "--corpus", "fox") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert asked == {
        "text": "fox",
        "quick": True,
        "corpus": "fox",
        "tf32": gpu,
        "jobs": 7 if gpu else 3,
    }
    assert "The trajectories train on a-text." in out
    assert "quantity precision path criterion" in out  # the table, above the summary
    assert ("JAX has no GPU here" in out) != gpu
    assert "2 checks in 0 s, in" in out
    assert "The recurrence ran in these ways: scan." in out
    assert "2 numbers have no verdict: zero." in out
    assert torch.get_num_threads() == 1


def test_a_suite_that_fails(suite, capsys, monkeypatch):
    asked = suite(*(([FAILS], f"cause {k}") for k in range(cli.EXPLAINED + 1)), ([FAILS], ""))
    monkeypatch.setattr(cli, "why_not_compiled", lambda: "no compiler")
    assert exit_code("check") == cli.FAILED == 1
    assert (asked["quick"], asked["corpus"], asked["text"]) == (False, None, None)
    out = " ".join(capsys.readouterr().out.split())
    shown = [k for k in range(cli.EXPLAINED + 1) if f"cause {k}" in out]
    assert shown == list(range(cli.EXPLAINED))
    assert "ran in these ways: none; not compiled: no compiler." in out


@pytest.mark.parametrize(("found", "code"), [(PASSES, 0), (FAILS, 1)])
def test_a_report_is_written(suite, tmp_path, capsys, monkeypatch, found, code):
    suite(([found], ""))
    grid = {"layer 0": {"step 0": 1e-16}}
    monkeypatch.setattr(cli, "sample_stack_case", lambda cell: cell)
    monkeypatch.setattr(cli, "grids", lambda case: {"layer x time": grid})
    folder = tmp_path / "new" / "folder"
    assert exit_code("report", "--output", str(folder)) == code
    out = capsys.readouterr().out
    assert f"Every number is in {folder / 'report.json'}." in out.replace("\n", "")
    assert f"Open {folder / 'report.html'} in a browser" in out
    assert '"gru: layer x time"' in (folder / "report.json").read_text()
    assert "<html" in (folder / "report.html").read_text()
    # A file that cannot be a folder is refused before the work.
    asked = suite(([found], ""))
    asked.clear()
    assert exit_code("report", "--output", str(folder / "report.json")) == 2
    assert asked == {}


def test_a_table_is_cut_nowhere(capsys):
    cli._print_table(("a", "b"), [("x" * 100, "[bold]y")])
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["a", "b"]
    assert row.split() == ["x" * 100, "[bold]y"]


@pytest.mark.parametrize(("factor", "code"), [(2.0, 0), (2.1, 1)])
def test_tolerances_are_measured(monkeypatch, capsys, factor, code):
    def farthest(dtype):
        recorded = MEASURED[dtype]
        far = {quantity: Farthest(value, "somewhere") for quantity, value in recorded.items()}
        far["forward"] = Farthest(factor * recorded["forward"], "a place")
        return far

    monkeypatch.setattr(cli, "farthest", farthest)
    assert exit_code("tolerances", "--dtypes", "float32") == code
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (forward,) = [line.split() for line in lines if line.startswith("forward")]
    recorded = MEASURED["float32"]["forward"]
    numbers = (factor * recorded, recorded, TOLERANCES["float32"]["forward"])
    assert forward == ["forward", "float32", *(f"{x:.2g}" for x in numbers), "a", "place"]
    assert len(lines) == 1 + len(MEASURED["float32"])
    assert exit_code("tolerances") == code
    assert "bfloat16" in capsys.readouterr().out
    assert exit_code("tolerances", "--dtypes", "float16") == 2


# Mutants.


class FakeCheck:
    """Stands for a check of the suite."""

    def __init__(self, findings, diagnosis=None):
        self.found, self.named = findings, diagnosis

    def findings(self):
        return self.found

    def diagnosis(self):
        return self.named


def mutant(name, *, place="", cause="", check="x", cannot=lambda: None, mutation=None):
    mutation = mutation or contextlib.nullcontext
    return Mutant(name, mutation, check, place, cause, cannot)


NAMED = Diagnosis("layer 0, gate z", "r and z exchanged")
MUTANTS = (
    mutant("caught well", place="gate z", cause="exchanged"),
    mutant("caught badly", place="gate r"),
    mutant("survivor"),
    mutant("compiled", cannot=lambda: "no compiler"),
)


@pytest.fixture
def trying(monkeypatch):
    asked = []

    def use(unmutated=PASSES, survives=False):
        def verdicts(chosen, text, reproduced):
            asked.append(([m.name for m in chosen], text, reproduced))
            for one in chosen:
                if one.name == "survivor" and survives:
                    yield Verdict(one, (), 0.0, "")
                else:
                    lines = "the lines" if reproduced else ""
                    right = one.fits(NAMED)
                    yield Verdict(one, ("C0", "C1"), 2e3, "forward: h", NAMED, right, lines)

        monkeypatch.setattr(cli, "tried", verdicts)
        monkeypatch.setattr(cli, "unmutated_findings", lambda chosen, text: [unmutated])
        return asked

    monkeypatch.setattr(cli, "MUTANTS", MUTANTS)
    monkeypatch.setattr(cli, "load_text", lambda name: (TEXT, name))
    threads = torch.get_num_threads()
    yield use
    torch.set_num_threads(threads)


def test_mutants_that_are_all_caught(trying, capsys):
    asked = trying()
    assert exit_code("mutants", "--reproduce", "--corpus", "fox") == 0
    names = ["caught well", "caught badly", "survivor"]
    assert asked == [(names, (TEXT, "fox"), True)]
    out = capsys.readouterr().out
    assert "Skipped compiled: no compiler." in out
    assert "3 of 3 mutants caught, 1 skipped." in out
    assert "Place and cause named rightly for 2 of 3:" in out
    assert f"  caught well -> {NAMED}" in out
    assert f"  WRONG caught badly -> {NAMED}" in out
    assert out.count("the lines\n\n") == 3
    row = next(line for line in out.splitlines() if line.startswith(" caught well"))
    assert row.split()[2:] == ["caught", "C0,", "C1", "2e+03", "x", "forward:", "h"]


def test_a_mutant_that_survives(trying, capsys):
    trying(survives=True)
    assert exit_code("mutants") == 1
    out = capsys.readouterr().out
    assert "2 of 3 mutants caught, 1 skipped." in out
    assert "SURVIVED" in out
    assert "the lines" not in out
    assert exit_code("mutants", "--only", "caught") == 0
    assert "2 of 2 mutants caught.\n" in capsys.readouterr().out
    trying(unmutated=FAILS)
    assert exit_code("mutants") == 1


def test_mutants_that_are_not_there_or_cannot_be_tried(trying, capsys):
    trying()
    assert exit_code("mutants", "--only", "nothing") == 2
    assert "No mutant has 'nothing' in its name." in capsys.readouterr().err
    assert exit_code("mutants", "--only", "compiled") == 0
    assert "No mutant was tried, 1 skipped." in capsys.readouterr().out


def test_place_and_cause_are_named_rightly_if_the_words_are_in_them():
    one = mutant("m", place="gate z", cause="exchanged")
    assert one.fits(NAMED)
    assert not one.fits(Diagnosis("layer 0, gate r", "exchanged"))
    assert not one.fits(Diagnosis("gate z", "another"))
    broken = Diagnosis("gate z", "exchanged, an error while looking for it")
    assert not one.fits(broken)


def test_the_verdict_is_that_of_the_clearest_failure():
    one = mutant("m")
    found = [
        PASSES,
        finding(Outcome.FAIL, criterion="C2", value=2.0),
        finding(Outcome.FAIL, value=5.0, array="c"),
        finding(Outcome.FAIL, value=np.nan, array="n"),
        finding(Outcome.ERROR, criterion="C0"),
        finding(Outcome.WARN, value=9.0),
    ]
    assert verdict(one, found) == Verdict(one, ("C1", "C2"), 5.0, "forward: c")
    assert verdict(one, found).killed
    nothing = verdict(one, [PASSES, *ABSTAINS])
    assert nothing == Verdict(one, (), 0.0, "")
    assert not nothing.killed
    assert not nothing.right
    with pytest.raises(ValueError, match="'m' does not fit the code it changes: it broke"):
        verdict(one, [PASSES, finding(Outcome.ERROR, note="it broke")])


def test_a_mutant_is_tried_within_its_mutation(monkeypatch):
    inside = []

    @contextlib.contextmanager
    def mutation():
        inside.append(True)
        yield
        inside.clear()

    def made(name, text):
        assert (name, text, inside) == ("x", TEXT, [True])
        return FakeCheck([FAILS], NAMED)

    monkeypatch.setattr(mutants, "check_named", made)
    monkeypatch.setattr(mutants, "reproduction", lambda check: f"lines {inside}")
    chosen = [
        mutant("a", place="gate z", mutation=mutation),
        mutant("b", place="no", mutation=mutation),
    ]
    first, second = tried(chosen, TEXT, True)
    assert (first.right, second.right) == (True, False)
    assert first.named == NAMED
    assert first.lines == "lines [True]"
    assert [v.lines for v in tried(chosen, TEXT)] == ["", ""]
    monkeypatch.setattr(mutants, "check_named", lambda *_: FakeCheck([PASSES], NAMED))
    (survived,) = tried([mutant("a")], TEXT, True)
    assert (survived.killed, survived.named, survived.right, survived.lines) == (
        False,
        None,
        False,
        "",
    )
    monkeypatch.setattr(mutants, "check_named", lambda *_: FakeCheck([FAILS], None))
    assert not next(tried([mutant("a")], TEXT)).right


def test_a_check_has_its_name_and_each_runs_once(monkeypatch):
    names = []
    monkeypatch.setattr(
        mutants, "check_named", lambda name, text: names.append(name) or FakeCheck([PASSES])
    )
    found = unmutated_findings([mutant("a"), mutant("b", check="y"), mutant("c")], TEXT)
    assert names == ["x", "y"]
    assert found == [PASSES, PASSES]


@pytest.mark.parametrize("name", ["values of mingru, parallel", "update, Adam", "dropout"])
def test_the_checks_of_the_table(name):
    check = check_named(name, TEXT)
    assert check.pair == name
    assert (check.path == "parallel") == name.endswith("parallel")
    assert name in CHECKS


def test_an_error_within_a_mutation_is_no_misfit():
    with pytest.raises(KeyError), mutant("m").applied():
        raise KeyError
    broken = mutant("m", mutation=lambda: None)
    words = r"The mutant 'm' does not fit the code it changes: TypeError: "
    with pytest.raises(ValueError, match=words), broken.applied():
        pass
