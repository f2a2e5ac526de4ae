"""The command line of the stress tests: flags to calls, results to the screen."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stress.calls.run import make_calls
from stress.damage import flip_bits
from stress.endurance import generate_many, train_for, train_many
from stress.kill import KillTestError, kill_repeatedly
from stress.mutate import mutate_files
from stress.sanitize import TESTS, SanitizerError, sanitize_tests, sanitized_calls


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stress test; returns 0 if all is well, 1 if not."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace, Path], int] = options.run
    with tempfile.TemporaryDirectory() as folder:
        try:
            return run(options, Path(folder))
        except (KillTestError, SanitizerError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./scripts/stress", description="Stress tests.")
    tests = parser.add_subparsers(required=True)
    kill = tests.add_parser("kill", help="kill a run many times; it must end the same to the byte")
    kill.add_argument("--kills", type=int, default=50)
    kill.add_argument("--seed", type=int, default=0)
    kill.add_argument("--threads", action="store_true", help="resume on other processors each time")
    kill.set_defaults(run=_kill)
    damage = tests.add_parser("damage", help="damage files; each must be noticed")
    damage.add_argument("--flips", type=int, default=1000)
    damage.add_argument("--mutations", type=int, default=0, help="of all the files of a run")
    damage.add_argument("--seed", type=int, default=0)
    damage.set_defaults(run=_damage)
    endurance = tests.add_parser("endurance", help="train and generate for long; memory stays flat")
    endurance.add_argument("--seconds", type=float, default=600.0)
    endurance.add_argument("--texts", type=int, default=10_000)
    endurance.add_argument("--trainings", type=int, default=300)
    endurance.set_defaults(run=_endurance)
    calls = tests.add_parser("calls", help="random calls of every public function")
    calls.add_argument("--calls", type=int, default=100_000)
    calls.add_argument("--executed", type=int, default=3_000)
    calls.add_argument("--seed", type=int, default=0)
    calls.add_argument("--first", type=int, default=0, help="the number of the first call")
    calls.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    calls.set_defaults(run=_calls)
    sanitize = tests.add_parser("sanitize", help="run the C++ tests under ASan and UBSan")
    sanitize.add_argument("tests", nargs="*", default=TESTS, help="files or names of tests")
    sanitize.add_argument("--calls", type=int, default=300, help="random calls to execute, too")
    sanitize.set_defaults(run=_sanitize)
    return parser


def _log(text: str) -> None:
    print(text, flush=True)


def _kill(options: argparse.Namespace, folder: Path) -> int:
    began = time.monotonic()
    outcome = kill_repeatedly(
        folder, options.kills, options.seed, threads=options.threads, log=_log
    )
    for phase, count in outcome.kills.most_common():
        print(f"{count:4d}  {phase}")
    for number, count in sorted(outcome.processors.items()):
        if number:
            print(f"{count:4d}  killed on {number} processors")
    for note in sorted(set(outcome.notes)):
        print(f"logged: {note}")
    print(f"{outcome.kills.total()} kills in {time.monotonic() - began:.0f} s.")
    print(f"different: {', '.join(outcome.different) or 'nothing'}")
    return 1 if outcome.different else 0


def _damage(options: argparse.Namespace, folder: Path) -> int:
    noticed = flip_bits(folder, options.flips, options.seed)
    print(f"{noticed} of {options.flips} flipped bits were noticed.")
    began = time.monotonic()
    outcome = mutate_files(folder, options.mutations, options.seed, log=_log)
    for kind, count in outcome.kinds.most_common():
        print(f"{count:6d}  {kind}")
    print(
        f"{outcome.kinds.total()} mutations of a run's files in {time.monotonic() - began:.0f} s: "
        f"{outcome.refused} were refused, {len(outcome.faults)} faults."
    )
    return 0 if noticed == options.flips and not outcome.faults else 1


def _endurance(options: argparse.Namespace, folder: Path) -> int:
    trained = train_for(options.seconds)
    print(trained)
    generated = generate_many(options.texts)
    print(generated)
    trainings = train_many(options.trainings)
    print(trainings)
    return 0 if trained.flat and generated.flat and trainings.flat else 1


def _sanitize(options: argparse.Namespace, folder: Path) -> int:
    sanitized = sanitize_tests(folder, options.tests, log=_log)
    called, reported = sanitized_calls(folder, options.calls)
    if called.wrong:
        print(called.report())
    print(f"{called.executed} random calls.")
    faults = [*sanitized.faults, *reported]
    for fault in faults:
        print(f"{fault.test}\n    {fault.what}\n    at {', '.join(fault.where) or 'unknown'}")
    for test in sanitized.failed:
        print(f"failed: {test}")
    print(f"{sanitized.passed} passed, {len(sanitized.failed)} failed.")
    print(f"{len(faults)} reports of the sanitizers.")
    well = not faults and not sanitized.failed and not called.wrong
    return 0 if well and sanitized.passed else 1


def _calls(options: argparse.Namespace, folder: Path) -> int:
    began = time.monotonic()
    outcome = make_calls(
        options.calls,
        options.executed,
        options.seed,
        first=options.first,
        jobs=options.jobs,
        log=_log,
    )
    if outcome.wrong:
        print(outcome.report())
    seconds = time.monotonic() - began
    print(f"{outcome.traced} calls on shapes, {outcome.executed} executed, in {seconds:.0f} s.")
    print(f"{len(outcome.wrong)} faults; {outcome.right} calls had no mistake in them.")
    return 1 if outcome.wrong else 0
