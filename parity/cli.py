"""The command line: `parity check`, `compare`, `mutants`, `report`, `tolerances`."""

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
from parity.compare_files import CompareFiles
from parity.core.compare import MEASURED, TOLERANCES, Finding, Outcome
from parity.core.references import LOOP_CELLS, TORCH_CELLS
from parity.diagnosis.localize import grids
from parity.diagnosis.stacks import sample_stack_case
from parity.measures.trajectories import load_text
from parity.mutation.catalog import MUTANTS
from parity.mutation.mutants import Verdict, tried, unmutated_findings
from parity.report.page import html_page
from parity.report.report import Report
from parity.suite.tolerances import farthest
from parity.suite.workers import default_jobs, results

DESCRIPTION = """Show that JAX and PyTorch compute the same thing, and that we would have noticed
if they did not. `--version` prints the version."""

# Failed checks of which place, cause and a small case are shown.
EXPLAINED = 3


@dataclass(frozen=True, kw_only=True)
class RunSuite:
    """Compare every model, layer and optimizer, and print the worst number of each quantity.

    Exits with 1 if anything fails.
    """

    quick: bool = False
    """Fewer sizes, precisions and steps: less than a minute instead of some eight."""
    corpus: str | None = None
    """Text that the trajectories train on; nietzsche where it lies in the data folder, else
    python-docs."""

    def __call__(self) -> int:
        report = _run_suite(quick=self.quick, corpus=self.corpus)
        _show(report)
        return 0 if report.passed else FAILED


@dataclass(frozen=True, kw_only=True)
class WriteReport(RunSuite):
    """Do the same, and write every number as JSON and as a page to look at."""

    output: Path = Path("parity-report")
    """The folder for report.json and report.html; it is made if it is not there."""

    def __call__(self) -> int:
        # Before minutes of work, not after them.
        check_output_folder(self.output, ("report.json", "report.html"))
        report = _run_suite(quick=self.quick, corpus=self.corpus)
        report = replace(report, grids=_grids())
        numbers = self.output / "report.json"
        page = self.output / "report.html"
        write_output(numbers, report.to_json(), parents=True)
        write_output(page, html_page(report))
        _show(report)
        print(f"\nEvery number is in {numbers}.")
        print(f"Open {page} in a browser to look at them.")
        return 0 if report.passed else FAILED


@dataclass(frozen=True, kw_only=True)
class TryMutants:
    """Put one mistake after the other into the code and see which criterion catches it.

    Exits with 1 if one is not caught, or if the unmutated code fails. A mutant that does not apply
    here, such as one of the compiled recurrence without it, is skipped and named.
    """

    only: str = ""
    """Only the mutants whose names have this in them."""
    reproduce: bool = False
    """Whether to print, for each, the smallest case that shows it, as lines of Python."""
    corpus: str | None = None
    """Text that the trajectories train on; as for `check`."""

    def __call__(self) -> int:
        chosen = [mutant for mutant in MUTANTS if self.only in mutant.name]
        if not chosen:
            raise ValueError(f"No mutant has {self.only!r} in its name.")
        applicable = []
        for mutant in chosen:
            reason = mutant.cannot()
            if reason:
                print(f"Skipped {mutant.name}: {reason}.")
            else:
                applicable.append(mutant)
        skipped = len(chosen) - len(applicable)
        if not applicable:
            print(f"No mutant was tried, {skipped} skipped.")
            return 0
        text = load_text(self.corpus)
        title = "the unmutated code"
        verdicts = []
        with Screen() as screen:
            screen.show(title, 0.0)
            unmutated = Report(title, tuple(unmutated_findings(applicable, text)))
            # What fails without a mutation is no proof of anything.
            screen.line(unmutated.summary())
            for verdict in tried(applicable, text, self.reproduce):
                verdicts.append(verdict)
                screen.show(verdict.mutant.name, len(verdicts) / len(applicable))
        _show_verdicts(verdicts, skipped)
        caught = all(verdict.killed for verdict in verdicts)
        return 0 if unmutated.passed and caught else FAILED


def _show_verdicts(verdicts: Sequence[Verdict], skipped: int) -> None:
    header = ("mutant", "", "criteria", "margin", "check", "clearest in")
    rows = []
    for verdict in verdicts:
        mutant = verdict.mutant
        state = "caught" if verdict.killed else "SURVIVED"
        criteria = ", ".join(verdict.criteria)
        margin = f"{verdict.margin:.0e}"
        rows.append((mutant.name, state, criteria, margin, mutant.check, verdict.where))
    _print_table(header, rows)

    killed = sum(verdict.killed for verdict in verdicts)
    rest = f", {skipped} skipped" if skipped else ""
    print(f"\n{killed} of {len(verdicts)} mutants caught{rest}.")
    right = sum(verdict.right for verdict in verdicts)
    print(f"Place and cause named rightly for {right} of {len(verdicts)}:")
    for verdict in verdicts:
        mark = "" if verdict.right else "WRONG "
        print(f"  {mark}{verdict.mutant.name} -> {verdict.named}")
        if verdict.lines:
            print(verdict.lines, end="\n\n")


@dataclass(frozen=True, kw_only=True)
class MeasureTolerances:
    """Measure what the tolerances of C3 are five times of: the largest distances over 20 seeds.

    Exits with 1 if one lies twice as far out as `parity/core/compare.py` has it.
    """

    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    """The precisions to measure."""

    def __call__(self) -> int:
        unknown = [dtype for dtype in self.dtypes if dtype not in MEASURED]
        if unknown:
            known = ", ".join(MEASURED)
            raise ValueError(f"dtypes must be among {known}, got {', '.join(unknown)}.")
        rows = []
        within = True
        for dtype in self.dtypes:
            for quantity, far in farthest(dtype).items():
                recorded = MEASURED[dtype][quantity]
                numbers = (far.value, recorded, TOLERANCES[dtype][quantity])
                rows.append((quantity, dtype, *(f"{number:.2g}" for number in numbers), far.where))
                # Luck of the seeds may double a distance, a change of the code does more.
                within = within and far.value <= 2 * recorded
        header = ("quantity", "precision", "measured", "recorded", "tolerance", "where")
        _print_table(header, rows)
        return 0 if within else FAILED


COMMANDS = (
    Annotated[RunSuite, subcommand("check")]
    | Annotated[CompareFiles, subcommand("compare")]
    | Annotated[TryMutants, subcommand("mutants")]
    | Annotated[WriteReport, subcommand("report")]
    | Annotated[MeasureTolerances, subcommand("tolerances")]
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


def _run_suite(*, quick: bool, corpus: str | None) -> Report:
    text = load_text(corpus)
    gpu = jax.default_backend() == "gpu"
    remarks = [f"The trajectories train on {text.name}."]
    if not gpu:
        remarks.append("JAX has no GPU here: everything ran on the CPU, and TF32 was left out.")
    jobs = default_jobs(gpu=gpu)
    findings: list[Finding] = []
    explanations: list[str] = []
    with Screen() as screen:
        started = time.perf_counter()
        screen.show("starting", 0.0)
        count = 0
        running = results(quick=quick, corpus=corpus, tf32=gpu, jobs=jobs)
        for count, result in enumerate(running, 1):
            screen.show(result.name, count / result.total)
            findings += result.findings
            if result.explanation:
                explanations.append(result.explanation)
        seconds = time.perf_counter() - started
    remarks.append(f"{count} checks in {seconds:.0f} s, in {jobs} processes.")
    # Last what the findings show: paths, missing verdicts, causes.
    remarks += [_paths(findings), *_without_verdict(findings), *explanations[:EXPLAINED]]
    return Report("jaxrnn against PyTorch", tuple(findings), tuple(remarks))


def _paths(findings: Sequence[Finding]) -> str:
    # Which ways of running the recurrence were checked.
    paths = sorted({finding.path for finding in findings if finding.path})
    words = ", ".join(paths) or "none"
    reason = why_not_compiled()
    if reason:
        words += f"; not compiled: {reason}"
    return f"The recurrence ran in these ways: {words}."


def _without_verdict(findings: Sequence[Finding]) -> list[str]:
    # A line for each reason for which numbers have no verdict.
    reasons = Counter(f.note for f in findings if f.outcome is Outcome.ABSTAIN)
    return [f"{count} numbers have no verdict: {reason}." for reason, count in reasons.items()]


def _grids() -> dict[str, dict[str, dict[str, float]]]:
    # Layer x time and layer x gate, for every cell.
    found = {}
    for name, cell in (TORCH_CELLS | LOOP_CELLS).items():
        for title, grid in grids(sample_stack_case(cell)).items():
            found[f"{name}: {title}"] = grid
    return found


def _show(report: Report) -> None:
    _print_table(*report.table())
    print()
    print(report.summary())


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    # A pipe has no width of its own; there no column is to be cut.
    width = None if sys.stdout.isatty() else 150
    Console(width=width).print(table, markup=False)
