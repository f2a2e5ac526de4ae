"""Run tests, or checks of parity, on a mutated copy, up to the first that fails.

This runs in a process forked from one that has imported JAX, PyTorch and pytest, but nothing of
jaxrnn and parity: those come from the copy. What happens goes to a file at once, so that it is
known even of a process that dies or never ends.
"""

import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

PRELOADED = (
    "jax",
    "torch",
    "flax.linen",
    "optax",
    "pytest",
    "safetensors",
    "tyro",
    "rich.console",
    "rich.table",
    "random_mutants.worker",
)
"""What is imported once for all mutants."""

LARGEST_MEMORY = 24 << 30
"""Bytes of addresses that a process may have: a mutant may ask for any number."""
LONGEST_MESSAGE = 300
"""Maximum number of characters of a message."""


@dataclass(frozen=True)
class Task:
    """What to run, and where.

    Attributes:
        copy: the mutated copy of the sources.
        names: the tests or checks, in the order in which they run.
        result: the file that a `Progress` is written to, as JSON.
        log: the file for everything that is printed.
        environment: all environment variables.
        programs: the folder of compiled programs.
        every: whether all of them run, and not only up to the first that fails.
    """

    copy: str
    names: tuple[str, ...]
    result: str
    log: str
    environment: Mapping[str, str]
    programs: str
    every: bool = False


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        ran: how many tests or checks have ended.
        running: the one that runs; empty before the first one.
        since: when it began, in seconds since the epoch.
        failed: the first one that failed; empty if none has.
        message: what it said.
        others: those that failed after it.
        ended: whether the run has come to its end.
    """

    ran: int = 0
    running: str = ""
    since: float = 0.0
    failed: str = ""
    message: str = ""
    others: list[str] = field(default_factory=list)
    ended: bool = False

    def write(self, path: str) -> None:
        """Write it at once."""
        beside = Path(path + ".new")
        beside.write_text(json.dumps(asdict(self)))
        beside.replace(path)

    def begin(self, name: str, path: str) -> None:
        """The next one begins."""
        self.running = name
        self.since = time.time()
        self.write(path)

    def fail(self, name: str, message: str) -> None:
        """One has failed; of the first its message is kept, too."""
        if self.failed:
            self.others.append(name)
            return
        self.failed = name
        self.message = " ".join(message.split())[:LONGEST_MESSAGE]


def run_tests(task: Task) -> None:
    """Run tests with pytest; the target of a process."""
    _settle(task)
    import pytest

    from random_mutants.pytest_plugin import Chosen

    progress = Progress()
    files = list(dict.fromkeys(name.partition("::")[0] for name in task.names))
    # What is imported already cannot be rewritten, which is no error here.
    imported = "ignore::pytest.PytestAssertRewriteWarning"
    # No test is left out for being slow: those that are wanted are chosen by name.
    arguments = ["-q", "-p", "no:cacheprovider", "-W", imported, "-m", "", *files]
    if not task.every:
        arguments.append("--exitfirst")
    progress.begin("collection", task.result)
    code = pytest.main(arguments, plugins=[Chosen(task, progress)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        progress.fail("pytest", f"ended with {code!r}")
    progress.ended = True
    progress.write(task.result)


def run_checks(task: Task) -> None:
    """Run checks of the quick parity check; the target of a process."""
    _settle(task)
    progress = Progress()
    progress.begin("the list of checks", task.result)
    try:
        _run_checks(task, progress)
    except Exception as error:
        traceback.print_exc()
        progress.fail("the list of checks", f"{type(error).__name__}: {error}")
    progress.ended = True
    progress.write(task.result)


def _run_checks(task: Task, progress: Progress) -> None:
    from parity.core.compare import failures
    from random_mutants.checks import named_checks

    checks = named_checks()
    _must_be_of(task.copy)
    for name in task.names:
        if name not in checks:  # the mutant has changed the list
            continue
        progress.begin(name, task.result)
        failed = failures(checks[name].findings())
        progress.ran += 1
        if failed:
            progress.fail(name, f"{failed[0].criterion} {failed[0].array} {failed[0].note}")
        if failed and not task.every:
            progress.write(task.result)  # the search may take longer than there is time
            progress.message = str(checks[name].diagnosis())[:LONGEST_MESSAGE]
            return


def _settle(task: Task) -> None:
    # A process group of its own, so that what it starts ends with it.
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_MEMORY, LARGEST_MEMORY))
    os.environ.clear()
    os.environ.update(task.environment)
    sys.dont_write_bytecode = False  # the next mutant reads what this one has compiled
    tempfile.tempdir = None  # from now on that of the environment
    os.chdir(task.copy)
    sys.path.insert(0, task.copy)
    log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    already = [name for name in sys.modules if name.partition(".")[0] in ("jaxrnn", "parity")]
    assert not already, f"imported before the mutant was: {already}"
    share_programs(task.programs)


def share_programs(folder: str) -> None:
    """Read and write compiled programs in a folder that all mutants share."""
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def _must_be_of(copy: str) -> None:
    import jaxrnn

    found = Path(jaxrnn.__file__)
    assert found.is_relative_to(copy), f"jaxrnn is {found}, not that of {copy}"


def ranks(names: Sequence[str]) -> dict[str, int]:
    """The place of each name in the order."""
    return {name: i for i, name in enumerate(names)}
