"""The command line of the parity suite: `parity check`, `mutants`, `report`, `caps`."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import torch
from rich.console import Console
from rich.table import Table
from tyro.conf import subcommand

from jaxrnn import __version__
from jaxrnn.output import check_output_folder, write_output
from jaxrnn.recurrent.recurrence import why_not_compiled
from jaxrnn.terminal import FAILED, Screen, parse, run_command
from parity.core.compare import MEASURED, TOLERANCES, Finding, Outcome
from parity.core.references import TORCH_CELLS
from parity.diagnosis.localize import grids
from parity.diagnosis.stacks import draw
from parity.measures.trajectories import load_text
from parity.mutation.catalog import MUTANTS
from parity.mutation.mutants import Verdict, tried, unharmed
from parity.report.page import html_page
from parity.report.report import Report
from parity.suite.catalog import suite
from parity.suite.tolerances import farthest
from parity.suite.workers import default_jobs, results

DESCRIPTION = """Show that JAX and PyTorch compute the same thing, and that we would have noticed
if they did not. `--version` prints the version."""


EXPLAINED = 3
"""Failed checks of which place, cause and a small case are shown."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Compare every model, layer and optimizer, and print the worst number of each check.

    Exits with 1 if anything fails.
    """

    quick: bool = False
    """Fewer sizes, precisions and steps: under a minute instead of under five."""
    corpus: str | None = None
    """What the trajectories train on; nietzsche where it lies in the data folder, else
    python-docs."""

    def __call__(self) -> int:
        report = _checked(quick=self.quick, corpus=self.corpus)
        _show(report)
        return 0 if report.passed else FAILED


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """Do the same, and write every number as JSON and as a page to look at."""

    quick: bool = False
    """Fewer sizes, precisions and steps."""
    corpus: str | None = None
    """What the trajectories train on."""
    output: Path = Path("parity-report")
    """The folder for report.json and report.html; it is made if it is not there."""

    def __call__(self) -> int:
        check_output_folder(self.output, ("report.json", "report.html"))
        report = _checked(quick=self.quick, corpus=self.corpus)
        report = replace(report, grids=_grids())
        write_output(self.output / "report.json", report.to_json(), parents=True)
        write_output(self.output / "report.html", html_page(report))
        _show(report)
        print(f"\nEvery number is in {self.output / 'report.json'}.")
        print(f"Open {self.output / 'report.html'} in a browser to look at them.")
        return 0 if report.passed else FAILED


@dataclass(frozen=True, kw_only=True)
class Mutants:
    """Put one fault after the other into the code and see which gate catches it.

    Exits with 1 if one is not caught, or if the code without a fault fails. One that cannot be put
    in here, such as a fault of the compiled recurrence without it, is skipped and named.
    """

    only: str = ""
    """Only the mutants whose names have this in them."""
    reproduce: bool = False
    """Whether to print, for each, the smallest case that shows it, as lines of Python."""
    corpus: str | None = None
    """What the trajectories train on; as for `check`."""

    def __call__(self) -> int:
        chosen = [mutant for mutant in MUTANTS if self.only in mutant.name]
        if not chosen:
            raise ValueError(f"No mutant has {self.only!r} in its name.")
        skipped = {mutant.name: reason for mutant in chosen if (reason := mutant.cannot())}
        chosen = [mutant for mutant in chosen if mutant.name not in skipped]
        for name, reason in skipped.items():
            print(f"Skipped {name}: {reason}.")
        if not chosen:
            print(f"No mutant was tried, {len(skipped)} skipped.")
            return 0
        text = load_text(self.corpus)
        with Screen() as screen:
            screen.show("the code without a fault", 0.0)
            sound = Report("the code without a fault", tuple(unharmed(chosen, text)))
            screen.line(sound.summary())
            verdicts = []
            for done, verdict in enumerate(tried(chosen, text, self.reproduce), 1):
                verdicts.append(verdict)
                screen.show(verdict.mutant.name, done / len(chosen))
        _print_table(VERDICT_HEADER, [_verdict_row(verdict) for verdict in verdicts])
        killed = sum(verdict.killed for verdict in verdicts)
        rest = f", {len(skipped)} skipped" if skipped else ""
        print(f"\n{killed} of {len(verdicts)} mutants caught{rest}.")
        right = sum(verdict.right for verdict in verdicts)
        print(f"Place and cause named rightly for {right} of {len(verdicts)}:")
        for verdict in verdicts:
            print(f"  {'' if verdict.right else 'WRONG '}{verdict.mutant.name} -> {verdict.named}")
            if verdict.lines:
                print(verdict.lines, end="\n\n")
        return 0 if sound.passed and killed == len(verdicts) else FAILED


VERDICT_HEADER = ("mutant", "", "gates", "margin", "check", "clearest in")


def _verdict_row(verdict: Verdict) -> tuple[str, ...]:
    state = "caught" if verdict.killed else "SURVIVED"
    numbers = (", ".join(verdict.gates), f"{verdict.margin:.0e}")
    return verdict.mutant.name, state, *numbers, verdict.mutant.probe, verdict.where


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Measure what the fixed caps of G3 are five times of: the largest distances in 20 draws.

    Exits with 1 if one lies twice as far out as `parity/compare.py` has it.
    """

    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    """The precisions to measure."""

    def __call__(self) -> int:
        if unknown := [dtype for dtype in self.dtypes if dtype not in MEASURED]:
            known = ", ".join(MEASURED)
            raise ValueError(f"dtypes must be among {known}, got {', '.join(unknown)}.")
        rows, within = [], True
        for dtype in self.dtypes:
            for check, far in farthest(dtype).items():
                kept, cap = MEASURED[dtype][check], TOLERANCES[dtype][check]
                numbers = (f"{far.value:.2g}", f"{kept:.2g}", f"{cap:.2g}")
                rows.append((check, dtype, *numbers, far.where))
                within = within and far.value <= 2 * kept
        _print_table(("check", "precision", "measured", "kept", "cap", "where"), rows)
        return 0 if within else FAILED


COMMANDS = (
    Annotated[Check, subcommand("check")]
    | Annotated[Mutants, subcommand("mutants")]
    | Annotated[WriteReport, subcommand("report")]
    | Annotated[Tolerances, subcommand("caps")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the console script `parity`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        print(f"parity {__version__}")
        sys.exit(0)
    sys.exit(run_command(lambda: _run(arguments)))


def _run(arguments: Sequence[str]) -> int:
    command = parse(COMMANDS, arguments, program="parity", description=DESCRIPTION)
    torch.set_num_threads(1)  # the number of threads changes the order of summation
    return int(command())


def _checked(*, quick: bool, corpus: str | None) -> Report:
    text = load_text(corpus)
    gpu = jax.default_backend() == "gpu"
    remarks = [f"The trajectories train on {text.name}."]
    if not gpu:
        remarks.append("JAX sees no GPU: everything ran on the CPU, and TF32 was left out.")
    count = sum(1 for _ in suite(quick=quick, text=text, tf32=gpu))
    jobs = default_jobs(gpu=gpu)
    findings: list[Finding] = []
    explained: list[str] = []
    with Screen() as screen:
        started = time.perf_counter()
        screen.show("starting", 0.0)
        for done, result in enumerate(
            results(quick=quick, corpus=corpus, tf32=gpu, chosen=range(count), jobs=jobs), 1
        ):
            screen.show(result.name, done / count)
            findings += result.findings
            explained += [result.explanation] if result.explanation else []
        seconds = time.perf_counter() - started
        remarks.append(f"{count} checks in {seconds:.0f} s, in {jobs} processes.")
    remarks.append(_paths(findings))
    remarks += _not_judged(findings)
    return Report("jaxrnn against PyTorch", tuple(findings), (*remarks, *explained[:EXPLAINED]))


def _paths(findings: Sequence[Finding]) -> str:
    """Which ways of running the recurrence were checked."""
    ran = sorted({finding.path for finding in findings} - {""})
    reason = why_not_compiled()
    missing = f"; not compiled: {reason}" if reason else ""
    return f"The recurrence ran in these ways: {', '.join(ran) or 'none'}{missing}."


def _not_judged(findings: Sequence[Finding]) -> list[str]:
    """A line for each reason for which numbers have no verdict."""
    reasons = Counter(f.note for f in findings if f.outcome is Outcome.ABSTAIN)
    return [f"{count} numbers have no verdict: {reason}." for reason, count in reasons.items()]


def _grids() -> dict[str, dict[str, dict[str, float]]]:
    """Layer x time and layer x gate, for every cell."""
    return {
        f"{name}: {title}": grid
        for name, cell in TORCH_CELLS.items()
        for title, grid in grids(draw(cell)).items()
    }


def _show(report: Report) -> None:
    _print_table(*report.table())
    print()
    print(report.summary())


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 150).print(table, markup=False)
