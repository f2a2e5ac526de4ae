"""Run the tests of the compiled recurrence under AddressSanitizer and UBSan.

The library is built a second time, with both sanitizers, into a folder of its own; their run-time
libraries are preloaded into Python, which works under jaxlib as long as leaks and the order of
linking are not looked at. A report ends its process, so what is reported is left out and the rest
of its file is run again.

What XLA keeps in one piece of memory has no guard between its parts: there an index too far is
only seen where it leaves the piece.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrnn.recurrent.compiled.library import EXTRA_FLAGS, FOLDER
from stress.calls.run import Outcome, make_calls
from stress.paths import ROOT, python_path

TESTS = (
    "tests/test_native.py",
    "tests/test_native_gradients.py",
    "tests/test_checks.py",
    "tests/test_backends.py",
    "tests/test_recurrence.py",
    "tests/test_layers.py",
    "tests/test_writing.py",
)
"""Tests that reach the compiled code."""
FLAGS = "-fsanitize=address,undefined -O1 -g -fno-omit-frame-pointer"
LIBRARIES = ("libasan.so", "libubsan.so")
FRAMES = 3
"""Number of frames of a report that are shown: the innermost ones in the library's own source."""
MOST_REPORTS = 8
"""Number of reports in one file of tests after which the rest of it is given up."""
SECONDS = 1800
"""Seconds after which a file of tests is given up."""


class Fault(NamedTuple):
    """A sanitizer's report, or the death of a process without one.

    Attributes:
        test: the test, or the command, under way.
        what: the first line of the report.
        where: the innermost frames in the library's source, `file:line`.
    """

    test: str
    what: str
    where: tuple[str, ...]


class Sanitized(NamedTuple):
    """The outcome of a run under the sanitizers.

    Attributes:
        passed: how many tests passed.
        failed: the tests that failed without a report.
        faults: what was reported.
    """

    passed: int
    failed: list[str]
    faults: list[Fault]


class SanitizerError(Exception):
    """The sanitizers cannot be used here."""


def sanitize_tests(
    folder: Path,
    tests: Sequence[str] = TESTS,
    *,
    log: Callable[[str], None] = lambda text: None,
) -> Sanitized:
    """Run files of tests under the sanitizers.

    Args:
        folder: for the library and the reports.
        tests: the files, or single tests as pytest names them.
        log: is given the progress, a line a file.

    Raises:
        SanitizerError: if there is no GCC with its sanitizers, or the library does not compile.
    """
    variables = sanitized_environment(folder)
    passed = 0
    failed: list[str] = []
    faults: list[Fault] = []
    for test in tests:
        if not (ROOT / test.split("::")[0]).is_file():
            continue
        one = _file(test, folder, variables)
        log(f"{test}: {one.passed} passed, {len(one.failed)} failed, {len(one.faults)} reported")
        passed += one.passed
        failed += one.failed
        faults += one.faults
    return Sanitized(passed, failed, faults)


def sanitized_calls(folder: Path, count: int, seed: int = 0) -> tuple[Outcome, list[Fault]]:
    """Execute random calls under the sanitizers; arguments and errors as `sanitize_tests`.

    Returns:
        The outcome, in which a call that ended its process is wrong, and what was reported.
    """
    variables = sanitized_environment(folder)
    outcome = make_calls(0, count, seed, variables=variables)
    return outcome, faults_in(folder, "a random call")


def sanitized_environment(folder: Path) -> dict[str, str]:
    """The environment of a process under the sanitizers; builds their library into `folder`.

    Raises:
        SanitizerError: if there is no GCC with its sanitizers, or the library does not compile.
    """
    preloaded = [_runtime(name) for name in LIBRARIES]
    plain = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": python_path(),
        EXTRA_FLAGS: FLAGS,
        FOLDER: str(folder / "library"),
    }
    build = "from jaxrnn.recurrent.compiled.generated import compile_usual; compile_usual()"
    built = _run([sys.executable, "-c", build], plain)
    if built.returncode != 0:
        raise SanitizerError(f"The library does not compile: {_last_line(built.stderr)}")
    reports = folder / "report"
    return {
        **plain,
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": (
            f"detect_leaks=0:verify_asan_link_order=0:allow_user_segv_handler=0:log_path={reports}"
        ),
        "UBSAN_OPTIONS": f"halt_on_error=1:print_stacktrace=1:log_path={reports}",
        "PYTHONUNBUFFERED": "1",  # the test under way is known when the process dies
    }


def faults_in(folder: Path, test: str) -> list[Fault]:
    """The reports of processes that ran `test`; they are removed."""
    faults = []
    for path in sorted(folder.glob("report.*")):
        faults.append(parse_report(path.read_text(errors="replace"), test))
        path.unlink()
    return faults


def _file(test: str, folder: Path, variables: Mapping[str, str]) -> Sanitized:
    """Run one file of tests, again and again without those that end the process."""
    passed = 0
    failed: list[str] = []
    faults: list[Fault] = []
    left_out: list[str] = []
    while len(faults) < MOST_REPORTS:
        command = [sys.executable, "-m", "pytest", "-v", "--no-header", "--tb=line"]
        command += ["-p", "no:faulthandler", "-p", "no:cacheprovider", "-p", "no:xdist", test]
        command += [f"--deselect={name}" for name in left_out]
        run = _run(command, variables)
        outcomes = dict(re.findall(r"^(tests/\S.*) (PASSED|FAILED|ERROR)\b", run.stdout, re.M))
        good = [name for name, outcome in outcomes.items() if outcome == "PASSED"]
        bad = [name for name, outcome in outcomes.items() if outcome != "PASSED"]
        passed += len(good)
        failed += bad
        whole = re.search(r"^=+ .* in [\d.]+s", run.stdout, re.M) is not None
        under_way = test if whole else _under_way(run.stdout)
        new = faults_in(folder, ", ".join(bad) if whole and bad else under_way)
        if not whole and not new:
            new = [Fault(under_way, f"ended with {run.returncode}, without a report", ())]
        faults += new
        if whole or under_way in left_out or under_way == "before the first test":
            break
        left_out += [*outcomes, under_way]
    return Sanitized(passed, failed, faults)


def _under_way(printed: str) -> str:
    """The test that pytest named last."""
    names = re.findall(
        r"^(tests/\S+::.*?)(?: (?:PASSED|FAILED|ERROR|SKIPPED)\b.*)?$", printed, re.M
    )
    return names[-1].strip() if names else "before the first test"


def parse_report(report: str, test: str) -> Fault:
    """The fault in a sanitizer's report."""
    lines = [line for line in report.splitlines() if line.strip("= \t")]
    what = next((line for line in lines if "ERROR:" in line or "runtime error:" in line), lines[0])
    what = re.sub(r"^==\d+==\s*|0x[0-9a-f]{6,}.*$", "", what).strip()
    places = re.findall(r"/jaxrnn/recurrent/csrc/([\w.]+:\d+)", report)
    return Fault(test, what, tuple(dict.fromkeys(places))[:FRAMES])


def _runtime(name: str) -> str:
    """Where GCC has a run-time library."""
    try:
        run = _run(["g++", f"-print-file-name={name}"], dict(os.environ))
    except OSError:
        raise SanitizerError("There is no g++, whose sanitizers this needs.") from None
    found = run.stdout.strip()
    if not Path(found).is_absolute():
        raise SanitizerError(f"g++ has no {name}: install its sanitizers.")
    return found


def _run(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=dict(variables),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        printed = late.stdout.decode(errors="replace") if late.stdout else ""
        return subprocess.CompletedProcess(command, 124, printed, "")


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"
