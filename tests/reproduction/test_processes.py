"""The command over its processes: what is done, what is not done again, what fails, stopping.

The processes themselves are tested in `tests/test_jobs.py`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reproduction import commands
from reproduction.processes import reproduce, result_line
from reproduction.results import read_record, result_path
from reproduction.units import Unit

ROOT = Path(__file__).parents[2]
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SMALL = {"corpus": "text.txt", "hidden_size": 8, "batch_size": 8, "random_bptt": False}

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture(autouse=True)
def text(workplace):
    (workplace / "text.txt").write_text(TEXT)


def unit_of(seed=0, **options):
    changes = SMALL | {"schedule": "2 x 1e-2"} | options.pop("changes", {})
    return Unit(recipe="stateful-rnn", seed=seed, changes=changes, study="test", **options)


@pytest.mark.slow
def test_units_run_side_by_side_once_and_failures_stop_nobody(capsys, tmp_path):
    good = [unit_of(0), unit_of(1)]
    bad = unit_of(2, changes={"schedule": "1 x 1e38", "optimizer": "sgd", "model": "CharLM"})
    first = reproduce([*good, bad], tmp_path / "results", jobs=2)
    printed = capsys.readouterr().out
    assert printed.startswith("3 of 3 trainings are to be done: about ")
    assert set(first.records) == {unit.id for unit in good}
    assert list(first.failures) == [bad.id]
    assert "with learning rate 1e+38" in first.failures[bad.id]
    for unit in good:
        assert first.records[unit.id] == read_record(tmp_path / "results", unit)
        assert result_line(first.records[unit.id]) in printed
    path = result_path(tmp_path / "results", good[0])
    path.write_text(path.read_text()[:100])
    before = result_path(tmp_path / "results", good[1]).stat().st_mtime_ns
    again = reproduce(good, tmp_path / "results", jobs=2)
    captured = capsys.readouterr()
    assert f"{path.name} is damaged" in captured.err
    assert "It is trained again now." in captured.err
    assert again.records[good[0].id].validation == first.records[good[0].id].validation
    assert result_path(tmp_path / "results", good[1]).stat().st_mtime_ns == before


@pytest.mark.slow
def test_stopping_saves_and_the_same_command_goes_on(tmp_path):
    """The starter's own call, from another folder, as a user types it."""
    code = (
        "import sys; from reproduction import commands; from reproduction.units import Unit;"
        "import json; commands.Reproduce._units = lambda self: [Unit(**json.loads(sys.argv[1]))];"
        "sys.exit(commands.main(['--folder', 'results']))"
    )
    unit = unit_of(changes={"schedule": "2000 x 1e-3"})
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(unit.to_dict())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])},
    )
    history = tmp_path / "results" / "under-way" / unit.id / "history.jsonl"
    deadline = time.monotonic() + 60
    while process.poll() is None and not history.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGINT, "")
    assert "1 of 1 trainings are to be done: about " in out
    assert "Stopped and saved. The same command goes on from there." in out
    assert not result_path(tmp_path / "results", unit).exists()
    assert (history.parent / "last.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "There is no recipe 'nothing'"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--framework", "keras"], "--framework"),
        (["--dtype", "float16"], "--dtype"),
        (["--schedule", "often"], "Cannot read 'often' as a phase"),
        (["loop", "--folder", "text.txt"], "Cannot make text.txt: File exists"),
        (["horizon", "--steps", "0"], "steps must be at least 1, got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(commands, "load_corpus", lambda name: None)
    before = set(os.listdir("."))
    assert commands.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert set(os.listdir(".")) == before


def test_a_text_that_cannot_be_had_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXRNN_DATA", str(tmp_path))
    (tmp_path / "nietzsche.txt").write_text("another text")
    assert commands.main(["loop"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not the course's text" in line
