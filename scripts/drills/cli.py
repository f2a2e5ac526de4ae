"""The command line of the drills: flags to calls, results to the screen."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from drills.calls import calls_drill
from drills.damage import damage_drill
from drills.endurance import generation_drill, training_drill, trainings_drill
from drills.kill import KillDrillError, kill_drill
from drills.mutate import mutation_drill
from drills.sanitize import TESTS, SanitizerError, sanitize_drill, sanitized_calls


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a drill; returns 0 if all is well, 1 if not."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return int(options.drill(options, Path(folder)))
        except (KillDrillError, SanitizerError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="faults.py", description=__doc__)
    drills = parser.add_subparsers(required=True)
    kill = drills.add_parser("kill", help="kill a run many times; it must end the same to the byte")
    kill.add_argument("--kills", type=int, default=50)
    kill.add_argument("--seed", type=int, default=0)
    kill.add_argument("--threads", action="store_true", help="resume on other processors each time")
    kill.set_defaults(drill=_kill)
    damage = drills.add_parser("damage", help="damage files; each must be noticed")
    damage.add_argument("--flips", type=int, default=1000)
    damage.add_argument("--mutations", type=int, default=0, help="of all the files of a run")
    damage.add_argument("--seed", type=int, default=0)
    damage.set_defaults(drill=_damage)
    endurance = drills.add_parser("endurance", help="train and write for long; memory stays flat")
    endurance.add_argument("--seconds", type=float, default=600.0)
    endurance.add_argument("--texts", type=int, default=10_000)
    endurance.add_argument("--trainings", type=int, default=300)
    endurance.set_defaults(drill=_endurance)
    calls = drills.add_parser("calls", help="random calls of every public function")
    calls.add_argument("--calls", type=int, default=100_000)
    calls.add_argument("--executed", type=int, default=3_000)
    calls.add_argument("--seed", type=int, default=0)
    calls.add_argument("--first", type=int, default=0, help="the number of the first call")
    calls.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    calls.set_defaults(drill=_calls)
    sanitize = drills.add_parser("sanitize", help="run the C++ tests under ASan and UBSan")
    sanitize.add_argument("tests", nargs="*", default=TESTS, help="files or names of tests")
    sanitize.add_argument("--calls", type=int, default=300, help="random calls to execute, too")
    sanitize.set_defaults(drill=_sanitize)
    return parser


def _kill(options: argparse.Namespace, folder: Path) -> int:
    began = time.monotonic()
    outcome = kill_drill(
        folder,
        options.kills,
        options.seed,
        threads=options.threads,
        say=lambda text: print(text, flush=True),
    )
    for phase, count in outcome.kills.most_common():
        print(f"{count:4d}  {phase}")
    for number, count in sorted(outcome.processors.items()):
        if number:
            print(f"{count:4d}  killed on {number} processors")
    for note in sorted(set(outcome.notes)):
        print(f"said: {note}")
    print(f"{outcome.kills.total()} kills in {time.monotonic() - began:.0f} s.")
    print(f"different: {', '.join(outcome.different) or 'nothing'}")
    return 1 if outcome.different else 0


def _damage(options: argparse.Namespace, folder: Path) -> int:
    noticed = damage_drill(folder, options.flips, options.seed)
    print(f"{noticed} of {options.flips} flipped bits were noticed.")
    began = time.monotonic()
    mutated = mutation_drill(
        folder, options.mutations, options.seed, say=lambda text: print(text, flush=True)
    )
    for kind, count in mutated.kinds.most_common():
        print(f"{count:6d}  {kind}")
    print(
        f"{mutated.kinds.total()} mutations of a run's files in {time.monotonic() - began:.0f} s: "
        f"{mutated.refused} were refused, {len(mutated.faults)} faults."
    )
    return 0 if noticed == options.flips and not mutated.faults else 1


def _endurance(options: argparse.Namespace, folder: Path) -> int:
    flat = True
    for measured in (training_drill(options.seconds), generation_drill(options.texts)):
        print(measured)
        flat &= measured.flat
    trained = trainings_drill(options.trainings)
    print(trained)
    flat &= trained.flat
    return 0 if flat else 1


def _sanitize(options: argparse.Namespace, folder: Path) -> int:
    sanitized = sanitize_drill(folder, options.tests, say=lambda text: print(text, flush=True))
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
    called = calls_drill(
        options.calls,
        options.executed,
        options.seed,
        first=options.first,
        jobs=options.jobs,
        say=lambda text: print(text, flush=True),
    )
    if called.wrong:
        print(called.report())
    seconds = time.monotonic() - began
    print(f"{called.traced} calls on shapes, {called.executed} executed, in {seconds:.0f} s.")
    print(f"{len(called.wrong)} faults; {called.right} calls had no mistake in them.")
    return 1 if called.wrong else 0
