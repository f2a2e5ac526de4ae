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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
LONGEST = 300.0
"""Seconds that a run may take in any case."""
COMPILING = 90.0
"""Seconds more where the library and the cells are compiled anew."""
STUCK = 5.0
"""A test that has taken this many times as long as it did, and `STUCK_SECONDS`, does not end: it
is caught by its time."""
STUCK_SECONDS = 40.0
IMPORTS = 30.0
"""Seconds that imports may take on a busy machine."""
POLL = 0.5
"""Seconds between looks at a run."""
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
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **kept,
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
        self._recorded = chooser.recording.durations
        # Processes are forked from one that has imported what takes long.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(list(PRELOADED))

    def try_one(self, mutant: Mutant, seed: int, earlier: Result | None = None) -> Result:
        """Try a mutant on its tests, then on its checks; each ends with the first failure.

        Args:
            mutant: the mutant.
            seed: of the draw.
            earlier: what became of it before: it is tried on what it was not tried on then.
        """
        before = (Attempt(), Attempt()) if earlier is None else (earlier.tests, earlier.checks)
        known = [TEST + name for name in before[0].tried]
        known += [CHECK + name for name in before[1].tried]
        chosen = self._chooser.choose(mutant, known)
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
            recorded_seconds=self._chooser.seconds(chosen),
            tests=tests.after(before[0]),
            checks=checks.after(before[1]),
        )

    def try_unmutated(self) -> None:
        """Run the shortest test and the shortest check without a mutant.

        Raises:
            RuntimeError: if one fails: then no failure would say anything of a mutant.
        """
        self._clean()
        for run, prefix in ((run_tests, TEST), (run_checks, CHECK)):
            names = [name for name in self._recorded if name.startswith(prefix)]
            shortest = min(names, key=lambda name: self._recorded[name]).removeprefix(prefix)
            attempt = self._attempt(run, (shortest,), prefix, COMPILING)
            if attempt.failed or attempt.ran != 1:
                words = f"{attempt.failed}: {attempt.message}"
                log = (self._folders.scratch / "log").read_text()
                raise RuntimeError(f"{shortest} fails without a mutant: {words}\n{log}")

    def try_slow(self, mutant: Mutant, earlier: Result) -> Result:
        """Try a mutant that nothing caught on slow tests."""
        known = [TEST + name for name in earlier.slow.tried]
        names = self._chooser.choose_slow(mutant, known)
        more = 0.0 if mutant.path.endswith(".py") else COMPILING
        with self._mutated(mutant):
            slow = self._attempt(run_tests, names, TEST, more)
        return replace(earlier, slow=slow.after(earlier.slow))

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

    def find_unsound(self, results: Sequence[Result]) -> set[str]:
        """Of what has caught mutants, what fails without one: that has shown nothing.

        Returns:
            The contexts of these tests and checks, which are chosen no more.
        """
        self._clean()
        found = set()
        for run, prefix in ((run_tests, TEST), (run_checks, CHECK)):
            failed = [r.tests.failed if prefix == TEST else r.checks.failed for r in results]
            known = [n for n in dict.fromkeys(failed) if prefix + n in self._recorded]
            if known:
                progress, _ = self._run(run, tuple(known), prefix, COMPILING, every=True)
                names = [progress.failed, *progress.others]
                found |= {prefix + name for name in names if name in known}
        self._chooser.unsound |= found
        return found

    def _attempt(
        self, run: Callable[[Task], None], names: tuple[str, ...], prefix: str, more: float
    ) -> Attempt:
        if not names:
            return Attempt()
        started = time.monotonic()
        progress, is_late = self._run(run, names, prefix, more)
        return Attempt(
            chosen=len(names),
            ran=progress.ran,
            failed=progress.failed,
            message=progress.message,
            seconds=round(time.monotonic() - started, 1),
            unfinished=is_late and not progress.failed,
            tried=names[: progress.ran],
        )

    def _run(
        self,
        run: Callable[[Task], None],
        names: tuple[str, ...],
        prefix: str,
        more: float,
        *,
        every: bool = False,
    ) -> tuple[Progress, bool]:
        # How far it came, and whether it was ended for its time.
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
            every=every,
        )
        expected = [self._recorded.get(prefix + name, IMPORTS) for name in names]
        limit = min(START + SLOWER * sum(expected), LONGEST) + more
        started = time.monotonic()
        process = self._processes.Process(target=run, args=(task,))
        process.start()
        late = ""
        while not late and process.is_alive() and time.monotonic() - started < limit:
            process.join(POLL)
            progress = _progress(result)
            usual = self._recorded.get(prefix + progress.running, IMPORTS)
            if progress.ran == 0:
                usual += more  # the first one compiles
            late = judged(progress, now=time.time(), usual=usual)
        is_late = process.is_alive()
        _end(process)
        progress = _progress(result)
        if not progress.running:
            # Nothing of the mutant has run: this says nothing of it.
            raise RuntimeError(f"A run did not start:\n{Path(task.log).read_text()}")
        if not is_late and not progress.ended:
            late = "the process has died"
        if late:
            progress.fail(progress.running, late)
        return progress, is_late


def judged(progress: Progress, *, now: float, usual: float) -> str:
    """Words for what runs far longer than it does without a mutant; else empty.

    What has failed already may take its time, for its cause is looked for.

    Args:
        progress: how far the run has come.
        now: seconds since the epoch.
        usual: seconds that what runs now takes without a mutant.
    """
    took = now - progress.since
    if not progress.running or progress.failed or took < max(STUCK * usual, STUCK_SECONDS):
        return ""
    return f"time: no end after {took:.0f} s, usually {usual:.1f} s"


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
