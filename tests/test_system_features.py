"""What Windows lacks is not needed: no locks, no SIGHUP, no flags of POSIX; a note says so."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import untrained_run

import jaxrnn
from jaxrnn import files
from jaxrnn.files import locked
from jaxrnn.recurrent.compiled import library
from jaxrnn.terminal import stop_requests
from jaxrnn.training.history import Position, Progress
from jaxrnn.training.state import memory_of_machine

PACKAGES = (Path(jaxrnn.__file__).parent, Path(jaxrnn.__file__).parents[1] / "parity")
MODULES = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "readline", "curses"}
"""Modules of the standard library that Windows does not have."""
SIGNALS = ("SIGHUP", "SIGQUIT", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGPIPE")
FUNCTIONS = ("sysconf", "sched_getaffinity", "getuid", "setsid", "killpg", "fork")
FLAGS = ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC")
TEXT = "the quick brown fox jumps over the lazy dog. " * 12
TRAIN = (
    *("train", "--corpus", "text.txt", "--name", "x", "--model", "CharSeqStatefulRnn"),
    *("--hidden", "8", "--embedding", "4", "--batch", "4", "--bptt", "40"),
    *("--schedule", "1 x 1e-2", "--no-random-bptt"),
)
SAMPLE = ("sample", "runs/x", "--length", "9")
NOTE = "note: This system has no locks for runs/x: see to it yourself that no other process"


def take_away(monkeypatch):
    """Windows, as far as the modules that are imported already can tell."""
    for module in (files, library):
        monkeypatch.setattr(module, "fcntl", None)
        monkeypatch.setattr(module, "IS_WINDOWS", True)
    for name in ("NOT_WAITING", "NO_LINK"):
        monkeypatch.setattr(files, name, 0)
    monkeypatch.setattr(files, "READING", os.O_RDONLY)
    for place, names in ((signal, SIGNALS), (os, (*FUNCTIONS, *FLAGS))):
        for name in names:
            monkeypatch.delattr(place, name)


def test_a_run_is_saved_and_loaded_without_locks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    take_away(monkeypatch)
    run = untrained_run("runs/x", corpus="text.txt")
    notes = []
    with locked(run.folder, notes.append) as check, stop_requests() as stopping:
        check()
        assert stopping() == 0
        run.save("last", Progress(run.load_state(), Position(), 1), 2.5)
    assert [f"note: {note}"[: len(NOTE)] for note in notes] == [NOTE]
    assert int(jaxrnn.load_run("runs/x").state.step) == 0
    assert run.path("last-1").is_file()
    assert memory_of_machine() is None


def test_the_compiled_recurrence_is_not_tried_on_windows(monkeypatch):
    take_away(monkeypatch)
    with pytest.raises(OSError, match="not compiled on Windows"):
        library.compiled_library()


def test_no_module_of_posix_is_imported_but_where_it_may_be_missing():
    found = []
    for path in sorted(path for package in PACKAGES for path in package.rglob("*.py")):
        text = path.read_text()
        if not any(f"import {name}" in text or f"from {name}" in text for name in MODULES):
            continue
        tree = ast.parse(text)
        tried = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
        allowed = {id(child) for node in tried for child in ast.walk(node)}
        for node in ast.walk(tree):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module}
            if names & MODULES and id(node) not in allowed:
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


WITHOUT = f"""
import os, signal, sys
for name in {sorted(MODULES)}:
    sys.modules[name] = None
for place, names in ((signal, {SIGNALS}), (os, {FUNCTIONS + FLAGS})):
    for name in names:
        delattr(place, name)
"""


def run_without(program, folder):
    """What a new process prints in which those modules cannot be imported."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "JAXRNN_NATIVE": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT + program],
        cwd=folder,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, ran.stderr


def test_the_ground_floor_is_imported_without_modules_of_posix(tmp_path):
    program = "import jaxrnn.files, jaxrnn.terminal, jaxrnn.output, jaxrnn.registry\n"
    program += "from jaxrnn import cli\nassert cli.main(['--help']) == 0"
    printed, _ = run_without(program, tmp_path)
    assert "usage: jaxrnn COMMAND" in printed


@pytest.mark.slow
def test_a_new_process_trains_samples_and_loads_without_them(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    program = f"""
from jaxrnn import cli
assert cli.main({TRAIN}) == 0
assert cli.main({SAMPLE}) == 0
import jaxrnn
print(jaxrnn.load_run("runs/x"))
"""
    printed, notes = run_without(program, tmp_path)
    assert "LoadedRun(runs/x: " in printed
    assert NOTE in notes
