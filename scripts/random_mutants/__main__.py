"""Random mutants of the sources: how many do the tests and the quick parity check catch?

    ./scripts/random-mutants --record           which test runs which line (half an hour, once)
    ./scripts/random-mutants                    100 mutants; the same again goes on where it ended
    ./scripts/random-mutants --seed 3 --mutants 20 --output /tmp/mutants
    ./scripts/random-mutants --draw             show the mutants, and try none
    ./scripts/random-mutants --report           the report on what was tried so far
    ./scripts/random-mutants --again            those that nothing caught, on more tests
    ./scripts/random-mutants --slow             those that nothing caught, on slow tests

A mutant is one place of what is committed, changed at random: an operator, a constant, an index, an
argument, a condition, a statement. Each is tried on the tests and checks that run its lines, the
nearest and shortest first, up to the first that fails. Exits with 1 if one survives that
scripts/random_mutants/survivors.md has no reason for.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from random_mutants.choice import Chooser
from random_mutants.compiler import Compiler
from random_mutants.mutants import Mutant, all_places, draw
from random_mutants.recorder import CHECK, PROGRAMS, TEST, Recording, record
from random_mutants.report import NOTES, key_of, read_reasons, report
from random_mutants.results import Result, Results
from random_mutants.trial import Folders, Trials, commit_of, environment_of, scratch_copy

ROOT = Path(__file__).parents[2]
CACHE = Path(sys.prefix) / "random-mutants"
"""The default folder of what was recorded, beside the packages."""
ACTIONS = {
    "record": "record which test runs which line",
    "draw": "show the mutants",
    "report": "report on what was tried",
    "again": "try survivors on tests that exceeded the budget",
    "slow": "try survivors on slow tests",
}
"""What is done instead of trying mutants for the first time."""


def parsed() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="random-mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mutants", type=int, default=100, help="how many (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--output", type=Path, default=CACHE / "results", help="a folder")
    parser.add_argument(
        "--coverage", type=Path, default=CACHE, help="the folder of what is recorded"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="budget of a mutant's tests, and of its checks"
    )
    parser.add_argument("--jobs", type=int, default=1, choices=[1], help="mutants at a time (1)")
    doing = parser.add_mutually_exclusive_group()
    for name, words in ACTIONS.items():
        doing.add_argument(f"--{name}", action="store_true", help=words)
    return parser.parse_args()


def main() -> int:
    """Record, draw, try or report.

    Returns:
        1 if a mutant survives without a reason, else 0.
    """
    options = parsed()
    results = Results(options.output / "results.jsonl")
    if options.report:
        return _show(results.read())
    with scratch_copy(ROOT) as scratch:
        programs = options.coverage / "programs"
        folders = Folders(scratch, options.coverage / "native", programs)
        if options.record:
            environment = {**environment_of(folders), PROGRAMS: str(programs)}
            environment["JAXRNN_NATIVE_FOLDER"] = str(folders.native)
            environment["JAXRNN_DATA"] = os.environ.get("JAXRNN_DATA", "")
            environment["PYTHONPATH"] += os.pathsep + str(ROOT / "scripts")
            record(folders.copy, options.coverage, commit_of(folders.copy), environment)
            return 0
        compiles = Compiler(folders.copy, scratch)
        places = all_places(folders.copy)
        drawn = draw(folders.copy, places, seed=options.seed, compiles=compiles)
        mutants = itertools.islice(drawn, options.mutants)
        if options.draw:
            for mutant in mutants:
                print(
                    f"{mutant.number}: {mutant.kind} in {mutant.path}\n{mutant.diff(folders.copy)}"
                )
            return 0
        _try(mutants, results, folders, options)
    return _show(_tried(results, options))


def _try(
    mutants: Iterator[Mutant], results: Results, folders: Folders, options: argparse.Namespace
) -> None:
    recording = Recording.read(options.coverage)
    commit = commit_of(folders.copy)
    if recording.commit != commit:
        # Tests that are new since then are not chosen; lines are looked for where they were.
        print(
            f"note: recorded at {recording.commit[:12]}, tried at {commit[:12]}.", file=sys.stderr
        )
    data = os.environ.get("JAXRNN_DATA")
    chooser = Chooser(folders.copy, recording, options.seconds)
    trials = Trials(folders, chooser, Path(data) if data else None)
    trials.try_unmutated()
    before: dict[str, Result] = {result.name: result for result in results.read()}
    by_number = {}
    for mutant in mutants:
        by_number[mutant.number] = mutant
        known = before.get(f"{options.seed}-{mutant.number}")
        if options.slow and known is not None and known.outcome == "neither":
            after = trials.try_slow(mutant, known)
            results.append(after)
            print(f"{after.name}: {after.slow.failed or 'survives'}", flush=True)
        elif is_wanted(known, again=options.again):
            _try_one(trials, mutant, results, options.seed, known)
    # What fails without a mutant, too, has caught nothing: those mutants are tried without it.
    while unsound := trials.find_unsound(tried := _tried(results, options)):
        for result in tried:
            if {TEST + result.tests.failed, CHECK + result.checks.failed} & unsound:
                _try_one(trials, by_number[result.number], results, options.seed)


def _try_one(
    trials: Trials, mutant: Mutant, results: Results, seed: int, known: Result | None = None
) -> None:
    result = trials.try_one(mutant, seed, known)
    results.append(result)
    seconds = result.tests.seconds + result.checks.seconds
    words = result.tests.failed or result.checks.failed or "survives"
    print(f"{result.name} {result.outcome} ({seconds:.0f} s): {result.path}: {words}", flush=True)


def _tried(results: Results, options: argparse.Namespace) -> list[Result]:
    # Of the mutants that are asked for, those that were tried.
    found = []
    for result in results.read():
        if result.seed == options.seed and result.number < options.mutants:
            found.append(result)
    return found


def is_wanted(known: Result | None, *, again: bool) -> bool:
    """Whether a mutant is to be tried, given what became of it before, if it was tried.

    Args:
        known: what became of it; None if it was not tried.
        again: whether survivors are tried again.
    """
    return known is None or (again and known.outcome == "neither")


def _show(results: list[Result]) -> int:
    reasons = read_reasons(NOTES.read_text())
    print(report(results, reasons))
    survivors = [result for result in results if result.outcome == "neither"]
    unknown = [r for r in survivors if key_of(r.path, r.diff) not in reasons]
    return int(bool(unknown))


if __name__ == "__main__":
    sys.exit(main())
