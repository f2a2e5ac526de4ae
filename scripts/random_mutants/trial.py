"""Try mutants one by one: write each into a copy of the sources, and run its tests and checks."""

import contextlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from random_mutants.choice import Chooser
from random_mutants.mutants import Mutant
from random_mutants.recorder import CHECK, TEST
from random_mutants.results import Attempt, Result
from random_mutants.worker import PRELOADED, Progress, Task, run_checks, run_tests

START = 60.0
"""Seconds that a run may take beside its tests, for imports on a busy machine."""
SLOWER = 3.0
"""How much longer than when they were recorded tests may take, on a busy machine."""
COMPILING = 180.0
"""Seconds more where the library and the cells are compiled anew."""
STUCK = 5.0
"""A test that has taken this many times as long as it did, and `STUCK_SECONDS`, does not end: it
is caught by its time."""
STUCK_SECONDS = 40.0
LARGEST_DATA = 16 << 20
"""Bytes of a file of the data folder that is copied for a mutant; a larger one is not there."""


@dataclass(frozen=True)
class Folders:
    """What all mutants share.

    Attributes:
        scratch: the copy of the sources is in it, and everything that a run writes.
        native: the compiled library and cells of the unmutated sources.
        programs: the programs that XLA has compiled.
    """

    scratch: Path
    native: Path
    programs: Path

    @property
    def copy(self) -> Path:
        """The copy of the sources."""
        return self.scratch / "copy"


def commit_of(root: Path) -> str:
    """The commit of a repository.

    Raises:
        ValueError: if it is none.
    """
    ran = _git(root, "rev-parse", "HEAD")
    if ran.returncode:
        raise ValueError(f"{root} must be a git repository: {ran.stderr.strip()}")
    return ran.stdout.strip()


@contextlib.contextmanager
def scratch_copy(root: Path) -> Iterator[Path]:
    """A scratch folder with a copy of what is committed; it is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="random-mutants-", ignore_cleanup_errors=True) as made:
        copy = Path(made) / "copy"
        ran = _git(root, "clone", "--quiet", "--shared", str(root), str(copy))
        if ran.returncode:
            raise ValueError(f"{root} cannot be copied: {ran.stderr.strip()}")
        yield Path(made)


def environment_of(folders: Folders) -> dict[str, str]:
    """The environment variables of a run: nothing of the user's is where it can be written to."""
    home = folders.scratch / "home"
    temporary = folders.scratch / "tmp"
    for folder in (home, temporary):
        folder.mkdir(exist_ok=True)
    path = os.pathsep.join(map(str, (folders.copy, folders.copy / "scripts")))
    return {
        **os.environ,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "TMPDIR": str(temporary),
        "JAXRNN_DATA": str(folders.scratch / "data"),
        "JAXRNN_NATIVE_FOLDER": str(folders.scratch / "native"),
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
    }


class Trials:
    """Tries mutants, one after the other.

    Args:
        folders: what they share.
        chooser: chooses their tests and checks.
        data: the folder of the corpora, of which each mutant gets a copy; None if there is none.
    """

    def __init__(self, folders: Folders, chooser: Chooser, data: Path | None) -> None:
        self._folders = folders
        self._chooser = chooser
        self._data = data
        # Processes are forked from one that has imported what takes long.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(list(PRELOADED))

    def try_one(self, mutant: Mutant, seed: int) -> Result:
        """Try a mutant on its tests, then on its checks; each ends with the first failure."""
        chosen = self._chooser.choose(mutant)
        recorded = self._chooser.recording.durations
        copy = self._folders.copy
        diff = mutant.diff(copy)
        with self._mutated(mutant):
            more = 0.0 if mutant.path.endswith(".py") else COMPILING
            tests = self._attempt(run_tests, chosen.tests, TEST, more)
            checks = self._attempt(run_checks, chosen.checks, CHECK, more)
        return Result(
            seed=seed,
            number=mutant.number,
            commit=self._chooser.recording.commit,
            path=mutant.path,
            area=mutant.area,
            room=mutant.room,
            kind=mutant.kind,
            line=mutant.first_line,
            diff=diff,
            chosen_by=chosen.by,
            left_out=chosen.left_out,
            recorded_seconds=sum(recorded[TEST + test] for test in chosen.tests),
            tests=tests,
            checks=checks,
        )

    def try_unmutated(self) -> None:
        """Run the shortest test and the shortest check without a mutant.

        Raises:
            RuntimeError: if one fails: then no failure would say anything of a mutant.
        """
        self._clean()
        for run, prefix in ((run_tests, TEST), (run_checks, CHECK)):
            durations = self._chooser.recording.durations
            names = [name for name in durations if name.startswith(prefix)]
            shortest = min(names, key=lambda name: durations[name]).removeprefix(prefix)
            attempt = self._attempt(run, (shortest,), prefix, COMPILING)
            if attempt.failed or attempt.ran != 1:
                words = f"{attempt.failed}: {attempt.message}"
                log = (self._folders.scratch / "log").read_text()
                raise RuntimeError(f"{shortest} fails without a mutant: {words}\n{log}")

    @contextlib.contextmanager
    def _mutated(self, mutant: Mutant) -> Iterator[None]:
        copy = self._folders.copy
        file = copy / mutant.path
        compiled = Path(importlib.util.cache_from_source(str(file)))
        self._clean()
        file.write_bytes(mutant.source(copy))
        compiled.unlink(missing_ok=True)  # it is told from another one by seconds and size alone
        try:
            yield
        finally:
            compiled.unlink(missing_ok=True)
            # Also what the mutant itself has written into the copy.
            _git(copy, "checkout", "--quiet", "--", ".")
            _git(copy, "clean", "-fdq")

    def _clean(self) -> None:
        # What one mutant has written is not there for the next one.
        scratch = self._folders.scratch
        for name in ("home", "tmp", "data", "native"):
            shutil.rmtree(scratch / name, ignore_errors=True)
        shutil.copytree(self._folders.native, scratch / "native", copy_function=os.link)
        (scratch / "data").mkdir()
        for file in self._data.iterdir() if self._data else ():
            if file.is_file() and file.stat().st_size <= LARGEST_DATA:
                shutil.copyfile(file, scratch / "data" / file.name)

    def _attempt(
        self, run: Callable[[Task], None], names: tuple[str, ...], prefix: str, more: float
    ) -> Attempt:
        if not names:
            return Attempt()
        recorded = self._chooser.recording.durations
        scratch = self._folders.scratch
        result = scratch / "result.json"
        result.unlink(missing_ok=True)
        task = Task(
            copy=str(self._folders.copy),
            names=names,
            result=str(result),
            log=str(scratch / "log"),
            environment=environment_of(self._folders),
            programs=str(self._folders.programs),
        )
        limit = START + SLOWER * sum(recorded[prefix + name] for name in names) + more
        started = time.monotonic()
        process = self._processes.Process(target=run, args=(task,))
        process.start()
        process.join(limit)
        seconds = time.monotonic() - started
        is_late = process.is_alive()
        _end(process)
        progress = _progress(result)
        if not progress.running:
            # Nothing of the mutant has run: this says nothing of it.
            raise RuntimeError(f"A run did not start:\n{Path(task.log).read_text()}")
        usual = recorded.get(prefix + progress.running, 0.0) + more
        failed, message = judged(progress, now=time.time(), is_late=is_late, usual=usual)
        return Attempt(
            chosen=len(names),
            ran=progress.ran,
            failed=failed,
            message=message,
            seconds=round(seconds, 1),
            unfinished=is_late and not failed,
            tried=names[: progress.ran],
        )


def judged(progress: Progress, *, now: float, is_late: bool, usual: float) -> tuple[str, str]:
    """What has failed in a run that is over, and what it said; empty if nothing has.

    Args:
        progress: how far the run has come.
        now: seconds since the epoch.
        is_late: whether it was ended for its time.
        usual: seconds that what runs last takes without a mutant.
    """
    if progress.failed:
        return progress.failed, progress.message
    if not is_late:
        died = "" if progress.ended else progress.running
        return died, "the process has died" if died else ""
    took = now - progress.since
    if took > max(STUCK * usual, STUCK_SECONDS):
        return progress.running, f"time: no end after {took:.0f} s, usually {usual:.1f} s"
    return "", ""


def _end(process: "multiprocessing.context.ForkServerProcess") -> None:
    if process.pid is not None and process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # of a process that has no group of its own yet
    process.join()


def _progress(path: Path) -> Progress:
    if not path.exists():
        return Progress()
    return Progress(**json.loads(path.read_text()))


def _git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True)
