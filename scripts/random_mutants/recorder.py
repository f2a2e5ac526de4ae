"""Record which lines each test, and each check of `parity check --quick`, runs.

A plug-in of pytest (`-p random_mutants.recorder`) for the tests, and a program (`-m
random_mutants.recorder`) for the checks. Both leave a file of coverage.py with a context for each
test or check, and beside it what they took, as JSON. The same again goes on where it ended.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage, CoverageData

from random_mutants.worker import share_programs

DATA = "RANDOM_MUTANTS_DATA"
"""The environment variable that names the file of coverage.py to write."""
PROGRAMS = "RANDOM_MUTANTS_PROGRAMS"
"""The environment variable that names the folder of compiled programs, which all runs share."""
PACKAGES = ("jaxrnn", "parity")
TEST = "test "
"""Prefix of the context of a test, before its name in pytest."""
CHECK = "check "
"""Prefix of the context of a check, before its name."""
FILE = "file "
"""Prefix of the context of what a test file runs while its tests are collected, such as the making
of their cases."""
LIST = "list of checks"
"""The context of what makes the list of checks."""
PROCESSES = os.cpu_count() or 1
"""How many processes record the tests, each those of its own files."""
IMPORTING = "importing"
"""The context of what runs outside tests and checks: mostly imports."""


class Recorder:
    """Records lines by context.

    Args:
        data: the file of coverage.py to write, or to go on with.
    """

    def __init__(self, data: Path) -> None:
        data.parent.mkdir(parents=True, exist_ok=True)
        self._beside = data.with_suffix(".json")
        self.durations: dict[str, float] = {}
        self.files: list[str] = []
        if self._beside.exists():
            before = json.loads(self._beside.read_text())
            self.durations = before["durations"]
            self.files = before["files"]
        config = data.with_suffix(".cfg")
        config.write_text("[run]\nrelative_files = true\n")
        self._coverage = Coverage(data_file=str(data), config_file=str(config), source=PACKAGES)
        self._coverage.set_option("run:disable_warnings", ["module-not-measured"])
        self._coverage.load()  # what was recorded before stays

    def start(self) -> None:
        """Begin with what is imported."""
        self._coverage.start()
        self._coverage.switch_context(IMPORTING)

    def enter(self, context: str) -> None:
        """What follows belongs to this test or check."""
        self._coverage.switch_context(context)

    def leave_file(self) -> None:
        """The tests of a file are collected."""
        self._coverage.switch_context(IMPORTING)

    def leave(self, context: str, seconds: float, *, passed: bool) -> None:
        """A test or check is over; the duration of one that did not pass is not kept."""
        self._coverage.switch_context(IMPORTING)
        if passed:
            self.durations[context] = round(seconds, 3)

    def save(self) -> None:
        """Write what was recorded so far."""
        self._coverage.save()
        recorded = {"files": self.files, "durations": self.durations}
        self._beside.write_text(json.dumps(recorded, indent=0))

    def stop(self) -> None:
        """End, and write everything."""
        self._coverage.stop()
        self.save()


class Plugin:
    """The hooks of pytest that record."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._file = ""
        self._passed: dict[str, bool] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        _share_programs()

    def pytest_collection(self) -> None:
        # What a module runs when it is imported belongs to no file of tests.
        for package in PACKAGES:
            for module in pkgutil.walk_packages([package], f"{package}."):
                if not module.name.endswith("__main__"):
                    importlib.import_module(module.name)

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        if isinstance(collector, pytest.Module):
            self._recorder.enter(FILE + collector.nodeid)

    def pytest_collectreport(self) -> None:
        self._recorder.leave_file()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        file = item.nodeid.partition("::")[0]
        if file != self._file:
            self._end_file()
            self._file = file
        context = TEST + item.nodeid
        self._recorder.enter(context)
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        passed = self._passed.get(item.nodeid, False)
        self._recorder.leave(context, seconds, passed=passed)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        so_far = self._passed.get(report.nodeid, True)
        self._passed[report.nodeid] = so_far and report.passed

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus != pytest.ExitCode.INTERRUPTED:
            self._end_file()
        self._recorder.stop()

    def _end_file(self) -> None:
        # What one file of tests has traced runs no line in the next one: JAX remembers it.
        import jax

        jax.clear_caches()
        if self._file:
            self._recorder.files.append(self._file)
            self._recorder.save()


def _share_programs() -> None:
    if folder := os.environ.get(PROGRAMS):
        share_programs(folder)


def pytest_configure(config: Any) -> None:
    """Register the plug-in; called by pytest."""
    recorder = Recorder(Path(os.environ[DATA]))
    recorder.start()
    config.pluginmanager.register(Plugin(recorder))


def record_checks() -> None:
    """Run the checks of the quick parity check one by one, and record each."""
    recorder = Recorder(Path(os.environ[DATA]))
    recorder.start()
    _share_programs()
    import jax

    from parity.core.compare import failures
    from random_mutants.checks import named_checks

    recorder.enter(LIST)
    checks = named_checks()
    for name, check in checks.items():
        context = CHECK + name
        if context in recorder.durations:
            continue
        jax.clear_caches()
        recorder.enter(context)
        started = time.perf_counter()
        findings = check.findings()
        seconds = time.perf_counter() - started
        recorder.leave(context, seconds, passed=not failures(findings))
        recorder.save()
    recorder.stop()


@dataclass(frozen=True)
class Recording:
    """What was recorded, for reading.

    Attributes:
        folder: where it is.
        commit: of the sources.
        durations: seconds of each test and check, by context.
        files: the test files.
        slow: the tests that are slow, of which nothing is recorded.
    """

    folder: Path
    commit: str
    durations: Mapping[str, float]
    files: tuple[str, ...]
    slow: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "Recording":
        """What `record` has left in a folder.

        Raises:
            ValueError: if it has left nothing there, or not everything.
        """
        whole = folder / "commit"
        if not whole.exists():
            raise ValueError(f"{folder} has no recorded lines; record them with --record.")
        durations: dict[str, float] = {}
        files: list[str] = []
        for part in sorted(folder.glob("*.json")):
            recorded = json.loads(part.read_text())
            durations |= recorded["durations"]
            files += recorded["files"]
        slow = folder / "slow.txt"
        return cls(
            folder=folder,
            commit=whole.read_text().strip(),
            durations=durations,
            files=tuple(files),
            slow=tuple(slow.read_text().splitlines() if slow.exists() else ()),
        )

    def contexts(self, path: str) -> dict[int, set[str]]:
        """The tests and checks that run each line of a file, by its number."""
        found: dict[int, set[str]] = {}
        for data in self._data:
            for line, names in data.contexts_by_lineno(path).items():
                found.setdefault(line, set()).update(names)
        return found

    @cached_property
    def _data(self) -> list[CoverageData]:
        parts = []
        for part in sorted(self.folder.glob("*.db")):
            data = CoverageData(str(part))
            data.read()
            parts.append(data)
        return parts


def record(root: Path, folder: Path, commit: str, environment: Mapping[str, str]) -> None:
    """Run all tests and the quick check once, and record them; goes on where it was ended.

    What was recorded at a commit with the same sources stays; tests that changed since then are
    recorded again.

    Args:
        root: the root of the unmutated sources.
        folder: where what is recorded goes.
        commit: of the sources.
        environment: the environment variables of a run.

    Raises:
        ValueError: if the folder has what was recorded of other sources.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / "begun"
    if begun.exists():
        _forget_changed(root, folder, begun.read_text(), commit)
    begun.write_text(commit)
    parts = [folder / f"tests-{number}" for number in range(PROCESSES)]
    before = [file for part in parts for file in _recorded(part)["files"]]
    files = sorted(str(path.relative_to(root)) for path in root.glob("tests/**/test_*.py"))
    left = [file for file in files if file not in before]
    with ThreadPoolExecutor(PROCESSES) as threads:
        tasks = []
        for number, part in enumerate(parts):
            share = left[number::PROCESSES]
            if share:
                tasks.append(threads.submit(_record_tests, root, part, share, environment))
        for task in tasks:
            task.result()
    checks = {**environment, DATA: str(folder / "checks.db")}
    subprocess.run([sys.executable, "-m", __name__], cwd=root, env=checks, check=True)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "slow"]
    listed = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    (folder / "slow.txt").write_text("\n".join(names))
    (folder / "commit").write_text(commit)


def _forget_changed(root: Path, folder: Path, old: str, new: str) -> None:
    # What is recorded of test files that are not what they were.
    changed = _changed_files(root, old, new)
    sources = [file for file in changed if file.partition("/")[0] in PACKAGES]
    if sources:
        raise ValueError(f"{folder} is of commit {old}; {sources[0]} changed since: remove it.")
    for beside in folder.glob("tests-*.json"):
        recorded = _recorded(beside.with_suffix(""))
        recorded["files"] = [file for file in recorded["files"] if file not in changed]
        recorded["durations"] = {
            context: seconds
            for context, seconds in recorded["durations"].items()
            if context.removeprefix(TEST).partition("::")[0] not in changed
        }
        beside.write_text(json.dumps(recorded, indent=0))


def _changed_files(root: Path, old: str, new: str) -> list[str]:
    command = ["git", "-C", str(root), "diff", "--name-only", old, new]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise ValueError(f"Commit {old}, of which lines are recorded, is not there any more.")
    return ran.stdout.splitlines()


def _recorded(part: Path) -> dict[str, Any]:
    # The files and durations of a part; none before it has begun.
    beside = part.with_suffix(".json")
    return json.loads(beside.read_text()) if beside.exists() else {"files": [], "durations": {}}


def _record_tests(
    root: Path, part: Path, files: Sequence[str], environment: Mapping[str, str]
) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", __name__, *files]
    ran = subprocess.run(command, cwd=root, env={**environment, DATA: str(part) + ".db"})
    # Tests that fail are not chosen, and nothing else follows from them; some files have slow
    # tests alone.
    ended = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    if ran.returncode not in ended:
        raise ValueError(f"The tests could not be recorded: pytest ended with {ran.returncode}.")


if __name__ == "__main__":
    record_checks()
