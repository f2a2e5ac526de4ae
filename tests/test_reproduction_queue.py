"""The command over its processes: what is done, what is not done again, what fails, stopping."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from jaxrnn import cli
from jaxrnn.reproduction import processes, watching
from jaxrnn.reproduction.processes import environment, run_all, shared_out
from jaxrnn.reproduction.results import read_result, result_path
from jaxrnn.reproduction.units import Unit
from jaxrnn.reproduction.watching import reproduce, result_line

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SMALL = {"corpus": "text.txt", "hidden": 8, "batch": 8, "random_bptt": False}


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder with a text; the compilation cache stays out of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT)
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def unit_of(seed=0, **options):
    changes = SMALL | {"schedule": "2 x 1e-2"} | options.pop("changes", {})
    return Unit(recipe="stateful-rnn", seed=seed, changes=changes, study="test", **options)


def test_units_run_side_by_side_once_and_failures_stop_nobody(capsys, tmp_path):
    good = [unit_of(0), unit_of(0, framework="torch")]
    bad = unit_of(1, changes={"schedule": "1 x 1e38", "optimizer": "sgd", "model": "CharLM"})
    first = reproduce([*good, bad], tmp_path / "results", jobs=2)
    printed = capsys.readouterr().out
    assert set(first.results) == {unit.id for unit in good}
    assert list(first.failures) == [bad.id]
    assert "with learning rate 1e+38" in first.failures[bad.id]
    for unit in good:
        result = first.results[unit.id]
        assert result == read_result(tmp_path / "results", unit)
        assert result_line(unit, result) in printed
    path = result_path(tmp_path / "results", good[0])
    path.write_text(path.read_text()[:100])
    before = result_path(tmp_path / "results", good[1]).stat().st_mtime_ns
    again = reproduce(good, tmp_path / "results", jobs=2)
    captured = capsys.readouterr()
    assert f"{path.name} is damaged" in captured.err
    assert "It is trained again now." in captured.err
    assert again.results[good[0].id]["rows"] == first.results[good[0].id]["rows"]
    assert result_path(tmp_path / "results", good[1]).stat().st_mtime_ns == before


def test_a_process_that_dies_is_a_failure_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(processes.sys, "executable", "/bin/false")
    events = list(run_all([unit_of()], tmp_path, 1, lambda: 0))
    assert [event.error for event in events] == ["The process ended with code 1: no message"]
    assert events[-1].ended


def test_processes_have_as_many_threads_as_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment(1)["OMP_NUM_THREADS"] == "1"
    assert environment(3)["PJRT_NPROC"] == "3"
    assert "OMP_NUM_THREADS" not in environment(0)


@pytest.mark.parametrize(
    ("cores", "count", "expected"),
    [
        ([4, 5], 1, [()]),
        ([4, 5], 2, [[4], [5]]),
        ([4, 5], 3, [[4], [5], [4]]),
        (list(range(5)), 2, [[0, 2, 4], [1, 3]]),
    ],
)
def test_processes_share_out_the_cores(cores, count, expected):
    assert shared_out(cores, count) == expected


def test_one_unit_has_all_cores_however_many_processes_there_may_be(tmp_path, monkeypatch):
    started = []

    class Started(processes.Process):
        def __init__(self, unit, folder, cores):
            started.append(cores)
            super().__init__(unit, folder, cores)

    monkeypatch.setattr(processes, "Process", Started)
    monkeypatch.setattr(processes.sys, "executable", "/bin/false")
    monkeypatch.setattr(processes, "available_cores", lambda: [0, 1, 2])
    list(run_all([unit_of()], tmp_path, 3, lambda: 0))
    assert started == [()]


def test_stopping_saves_and_ends_the_processes(tmp_path):
    script = tmp_path / "stopped.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from jaxrnn.reproduction.units import Unit\n"
        "from jaxrnn.reproduction.watching import reproduce\n"
        "unit = Unit.from_dict(json.loads(sys.argv[1]))\n"
        "sys.exit(reproduce([unit], Path('results'), 2).signal)\n"
    )
    unit = unit_of(changes={"schedule": "2000 x 1e-3"})
    process = subprocess.Popen(
        [sys.executable, str(script), json.dumps(unit.to_dict())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    history = tmp_path / "results" / "under-way" / unit.id / "history.jsonl"
    deadline = time.monotonic() + 60
    while process.poll() is None and not history.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (signal.SIGINT, "")
    assert out.startswith("1 of 1 trainings are to be done: about ")
    assert not result_path(tmp_path / "results", unit).exists()
    assert (history.parent / "last.safetensors").exists()


def test_the_bar_weighs_units_by_their_work(monkeypatch):
    shown = []

    class Screen:
        def show(self, what, done, note=""):
            shown.append((what, done))

    units = [unit_of(0), unit_of(1)]
    monkeypatch.setattr(watching, "expected_seconds", lambda unit: {0: 30.0, 1: 10.0}[unit.seed])
    board = watching._Board(Screen(), units)
    board.see(processes.Event(units[0], share=0.5))
    board.see(processes.Event(units[1], ended=True))
    assert shown == [("starting", 0.0), ("0/2 done", 0.375), ("1/2 done", 0.625)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "There is no recipe 'nothing'"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--framework", "keras"], "--framework"),
        (["--dtype", "float16"], "--dtype"),
        (["--schedule", "often"], "Cannot read 'often' as a phase"),
        (["--quick", "--seeds", "2"], "--quick takes no recipes and no other flag"),
        (["loop", "--quick"], "--quick takes no recipes and no other flag"),
        (["loop", "--folder", "text.txt"], "Cannot make text.txt: File exists"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("jaxrnn.reproduction.commands.load_corpus", lambda name: None)
    before = set(os.listdir("."))
    assert cli.main(["reproduce", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert set(os.listdir(".")) == before


def test_a_text_that_cannot_be_had_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXRNN_DATA", str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "nietzsche.txt").write_text("another text")
    for arguments in (["loop"], ["--quick"]):
        assert cli.main(["reproduce", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is not the course's text" in line
