"""Jobs in processes of their own: what is shown, what fails, what stops, and how many threads."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from jaxrnn.runs import jobs
from jaxrnn.runs.jobs import (
    Job,
    JobEvent,
    Stopped,
    environment,
    finish_jobs,
    introduction,
    run_job,
    run_jobs,
)

ROOT = Path(__file__).parents[1]
MODULE = """
import json, os, time
from pathlib import Path


def count(arguments, watch):
    path = Path(arguments["path"])
    done = json.loads(path.read_text()) if path.exists() else 0
    while done < arguments["of"]:
        watch(done / arguments["of"], f"at {done}")
        done += 1
        path.write_text(json.dumps(done))
        time.sleep(arguments.get("sleep", 0.0))


def diverge(arguments, watch):
    raise FloatingPointError("the loss is nan")


def refuse(arguments, watch):
    raise ValueError("wrong\\nin two lines")


def die(arguments, watch):
    os.kill(os.getpid(), 9)


def look(arguments, watch):
    names = ("OMP_NUM_THREADS", "JAX_PLATFORMS")
    Path(arguments["path"]).write_text(json.dumps([os.environ.get(name) for name in names]))


def either(arguments, watch):
    globals()[arguments["what"]](arguments, watch)
"""
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A module `work` with functions for jobs, found as a user's own is."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "work.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "work", raising=False)


class ScreenStub:
    """Keeps what is shown."""

    def __init__(self):
        self.shown = []

    def show(self, what, done, note=""):
        self.shown.append((what, done, note))


def test_an_error_of_a_job_ends_that_job_alone(tmp_path):
    path = tmp_path / "count"
    good = Job("good", "good", {"what": "count", "path": str(path), "of": 3})
    bad = Job("bad", "bad", {"what": "die"})
    done = []
    failures = finish_jobs("work:either", [bad, good], 2, lambda: 0, on_done=done.append)
    assert done == [good]
    assert path.read_text() == "3"
    assert failures == {"bad": "no message (code -9)"}


def test_a_process_that_dies_is_a_failure_with_its_last_words(tmp_path, monkeypatch):
    script = tmp_path / "dying"
    script.write_text("#!/bin/sh\necho 'the last words' >&2\nkill -9 $$\n")
    script.chmod(0o755)
    for program, words in (("/bin/false", "no message (code 1)"), (script, "the last words")):
        monkeypatch.setattr(jobs.sys, "executable", str(program))
        *_, last = run_jobs("work:count", [Job("one", "one", {})], 1, lambda: 0)
        assert last.ended
        assert last.error.startswith(words)
    assert last.error.endswith("(code -9)")


def test_processes_share_the_cores_and_one_alone_has_all(monkeypatch):
    threads = []

    class Started(jobs.JobProcess):
        def __init__(self, function, job, count):
            threads.append(count)
            super().__init__(function, job, count)

    monkeypatch.setattr(jobs, "JobProcess", Started)
    monkeypatch.setattr(jobs.sys, "executable", "/bin/false")
    monkeypatch.setattr(jobs, "available_cores", lambda: list(range(5)))
    one = Job("one", "one", {})
    two = Job("two", "two", {})
    list(run_jobs("work:count", [one], 3, lambda: 0))
    list(run_jobs("work:count", [one, two], 3, lambda: 0))
    list(run_jobs("work:count", [one], 3, lambda: 0, threads=1))
    assert threads == [0, 3, 3, 1]


def test_the_environment_of_a_process(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert environment(3)["OMP_NUM_THREADS"] == environment(3)["PJRT_NPROC"] == "3"
    assert "OMP_NUM_THREADS" not in environment(0)
    assert environment(1)["JAX_PLATFORMS"] == "cpu"
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert environment(1)["JAX_PLATFORMS"] == "cuda"
    # Modules are found in the same order as here.
    found = environment(1)["PYTHONPATH"].split(os.pathsep)
    assert found == [os.path.abspath(path) for path in sys.path]


def test_the_bar_weighs_jobs_by_their_time_and_the_longest_come_first(monkeypatch):
    long, short = Job("long", "a long one", {}, 30.0), Job("short", "a short one", {}, 10.0)
    begun = []

    def events(function, ordered, *_, **options):
        begun.extend(ordered)
        yield JobEvent(long, share=0.5, note="loss 2.0")
        yield JobEvent(short, ended=True, error="it diverged")

    monkeypatch.setattr(jobs, "run_jobs", events)
    screen = ScreenStub()
    failures = finish_jobs("work:count", [short, long], 2, lambda: 0, screen=screen)
    assert failures == {"short": "it diverged"}
    assert begun == [long, short]
    assert screen.shown == [
        ("starting", 0.0, ""),
        ("0/2 done", 0.375, "a long one loss 2.0"),
        ("1/2 done", 0.625, "a short one"),
    ]


@pytest.mark.parametrize(
    ("seconds", "processes", "expected"),
    [
        (
            [60.0, 120.0, 180.0],
            2,
            "3 of 5 trainings are to be done: about 3 minutes in 2 processes.",
        ),
        ([30.0], 4, "1 of 5 trainings are to be done: about a minute in one process."),
        ([30.0, None], 4, "2 of 5 trainings are to be done: in 2 processes."),
    ],
)
def test_what_is_to_be_done_in_a_line(seconds, processes, expected):
    waiting = [Job(str(i), "", {}, each) for i, each in enumerate(seconds)]
    assert introduction(waiting, 5, processes) == expected


class ChannelStub:
    """Keeps what is sent; the program behind it may be gone."""

    messages: ClassVar[list] = []
    gone = False

    def emit_if_read(self, message):
        if type(self).gone:
            raise BrokenPipeError
        self.messages.append(message)


@pytest.fixture
def channel(monkeypatch):
    monkeypatch.setattr(jobs, "Channel", ChannelStub)
    monkeypatch.setattr(jobs, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(ChannelStub, "messages", [])
    monkeypatch.setattr(ChannelStub, "gone", False)
    return ChannelStub


def test_a_job_reports_and_ends_with_its_code(channel, tmp_path, capsys):
    text = json.dumps({"path": str(tmp_path / "count"), "of": 2})
    assert run_job("work:count", text) == 0
    assert channel.messages == [{"share": 0.0, "note": "at 0"}]  # the second came too soon
    assert run_job("work:diverge", "{}") == 1
    assert capsys.readouterr().err == "error: the loss is nan\n"
    assert run_job("work:refuse", "{}") == 2
    assert capsys.readouterr().err == "error: wrong in two lines\n"


@pytest.mark.parametrize("how", ["a signal", "nobody reads", "the parent is gone"])
def test_a_job_that_is_asked_to_stop_keeps_what_is_done(channel, tmp_path, monkeypatch, how):
    path = tmp_path / "count"
    text = json.dumps({"path": str(path), "of": 5})
    asked = []
    if how == "nobody reads":
        channel.gone = True
    elif how == "a signal":
        monkeypatch.setattr(jobs, "SECONDS_BETWEEN_MESSAGES", 0.0)
        emit = channel.emit_if_read

        def signalled(self, message):
            emit(self, message)
            if len(self.messages) == 3:
                asked.append(os.kill(os.getpid(), signal.SIGTERM))

        monkeypatch.setattr(channel, "emit_if_read", signalled)
    else:
        parents = iter([1, 1, 2])
        monkeypatch.setattr(jobs.os, "getppid", lambda: next(parents))
    assert run_job("work:count", text) == jobs.STOPPED
    done = {"nobody reads": 0, "a signal": 3, "the parent is gone": 1}[how]
    assert (json.loads(path.read_text()) if path.exists() else 0) == done
    monkeypatch.undo()


def test_stopped_is_no_error_that_a_job_may_swallow():
    assert not issubclass(Stopped, ValueError | OSError | RuntimeError)


@pytest.mark.slow
def test_jobs_that_are_stopped_go_on_where_they_were(tmp_path):
    """A whole program: Ctrl-C reaches it alone, and it asks its processes to stop."""
    code = (
        "import sys, json\n"
        "from jaxrnn.runs.jobs import Job, finish_jobs\n"
        "from jaxrnn.terminal import stop_requests\n"
        "arguments = json.loads(sys.argv[1])\n"
        "with stop_requests() as stopping:\n"
        "    found = finish_jobs('work:count', [Job('one', 'one', arguments)], 2, stopping)\n"
        "print(json.dumps([found, stopping()]))\n"
    )
    path = tmp_path / "count"
    arguments = {"path": str(path), "of": 10_000, "sleep": 0.005}
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(1),
    )
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert err == ""
    assert json.loads(out) == [{}, signal.SIGINT]
    done = json.loads(path.read_text())
    assert 0 < done < 10_000
    arguments |= {"of": done + 2, "sleep": 0.0}
    finished = []
    finish_jobs("work:count", [Job("one", "one", arguments)], 1, lambda: 0, on_done=finished.append)
    assert [job.id for job in finished] == ["one"]
    assert json.loads(path.read_text()) == done + 2
