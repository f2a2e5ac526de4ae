"""Worker processes: messages both ways, silence, deaths in words, and nothing that blocks."""

import json
import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from jaxrnn.runs.worker_process import (
    WorkerEndedError,
    WorkerError,
    WorkerProcess,
    WorkerTimeoutError,
)

ROOT = Path(__file__).parents[1]
PATIENCE = 30.0


def worker_of(program, **options):
    """A worker that runs these lines, with a channel."""
    lines = f"import os, sys, time\nfrom jaxrnn.runs.worker_process import Channel\n{program}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return closing(WorkerProcess([sys.executable, "-c", lines], env=env, **options))


def test_requests_are_answered_in_order_and_prints_do_not_get_between():
    program = """
print("printed early", file=sys.stderr)
channel = Channel()
for request in channel.requests():
    print("printed by a library", flush=True)
    os.write(1, b"printed by C\\n")
    channel.emit({"twice": 2 * request})
"""
    with worker_of(program) as worker:
        long = "x" * 300_000  # more than a pipe holds
        for request in (1, 2.5, "a\nb", ["é"], long):
            worker.send(request)
        expected = [2, 5.0, "a\nba\nb", ["é", "é"], 2 * long]
        assert [worker.receive(PATIENCE)["twice"] for _ in expected] == expected
        assert worker.errors().startswith("printed early\nprinted by a library\nprinted by C\n")
        assert worker.poll() is None


def test_what_is_printed_can_go_nowhere():
    program = 'channel = Channel(printed="nowhere")\nprint("x", flush=True)\nchannel.emit(1)'
    with worker_of(program) as worker:
        assert worker.receive(PATIENCE) == 1
        assert worker.errors() == ""


def test_silence_is_an_error_that_leaves_the_worker_running():
    program = "channel = Channel()\nfor request in channel.requests(): channel.emit(request)"
    with worker_of(program) as worker:
        with pytest.raises(WorkerTimeoutError, match=r"No answer within 0\.01 s"):
            worker.receive(0.01)
        worker.send("still there")
        assert worker.receive(PATIENCE) == "still there"


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("sys.exit('the last words')", 1, "the last words"),
        ("os._exit(3)", 3, "no message"),
        ("raise ValueError('why')", 1, "ValueError: why"),
        ("os.kill(os.getpid(), 9)", -9, "no message"),
    ],
)
def test_a_death_is_one_line_after_all_messages_are_read(end, code, words):
    program = f"channel = Channel()\nchannel.emit(1)\nos.write(channel._out, b'[2, ')\n{end}"
    with worker_of(program) as worker:
        assert worker.receive(PATIENCE) == 1
        line = f"The process ended with code {code}: {words}"
        with pytest.raises(WorkerEndedError) as ended:
            worker.receive(None)
        assert str(ended.value) == line
        assert worker.poll() == code
        with pytest.raises(WorkerEndedError) as ended:
            worker.send(1)
        assert str(ended.value) == line


def test_a_line_that_is_no_message_is_named():
    message = "sent b'hello', which is no message"
    with (
        worker_of("print('hello', flush=True)") as worker,
        pytest.raises(WorkerError, match=message),
    ):
        worker.receive(PATIENCE)


def test_arrived_messages_are_taken_without_waiting():
    program = """
channel = Channel()
channel.emit(1)
channel.emit(2)
for request in channel.requests():
    channel.emit(request)
"""
    with worker_of(program) as worker:
        began = time.monotonic()
        found = []
        while len(found) < 2 and time.monotonic() - began < PATIENCE:
            found += worker.arrived()
        assert found == [1, 2]
        assert worker.arrived() == []


def test_a_message_that_nobody_reads_is_dropped_and_does_not_block():
    """A pipe holds some 64 KiB: of 3 MB, the first part arrives, and then what is emitted later."""
    program = """
channel = Channel()
for number in range(3000):
    channel.emit_if_read([number, "x" * 1000])
print("done", file=sys.stderr, flush=True)
for request in channel.requests():
    channel.emit_if_read(request)
"""
    with worker_of(program) as worker:
        began = time.monotonic()
        while "done" not in worker.errors() and time.monotonic() - began < PATIENCE:
            time.sleep(0.01)
        assert worker.last_words() == "done"
        numbers = [number for number, _ in worker.arrived()]
        assert numbers == list(range(len(numbers)))
        assert 0 < len(numbers) < 3000
        worker.send("later")
        assert worker.receive(PATIENCE) == "later"


def test_closing_ends_a_worker_whatever_it_does():
    program = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nchannel = Channel()\n"
    with worker_of(program + "channel.emit(0)\nwhile True: pass") as worker:
        assert worker.receive(PATIENCE) == 0
        worker.terminate()
        assert worker.poll() is None
    assert worker.poll() == -signal.SIGKILL


STARTER = """
import os, sys
from jaxrnn.runs.worker_process import WorkerProcess
lines = sys.argv[1]
worker = WorkerProcess([sys.executable, "-c", lines], env=dict(os.environ))
print(worker.receive(30.0), flush=True)
os._exit(0)
"""


def test_a_worker_notices_that_nobody_is_left_to_read(tmp_path):
    noticed = tmp_path / "noticed"
    program = f"""
import os, time
from pathlib import Path
from jaxrnn.runs.worker_process import Channel
channel = Channel()
channel.emit("ready")
try:
    while True:
        channel.emit_if_read(0)
        time.sleep(0.01)
except BrokenPipeError:
    Path({json.dumps(str(noticed))}).touch()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with closing(WorkerProcess([sys.executable, "-c", STARTER, program], env=env)) as starter:
        with pytest.raises(WorkerError):  # it prints a word, which is no message, and ends
            starter.receive(PATIENCE)
        began = time.monotonic()
        while not noticed.exists() and time.monotonic() - began < PATIENCE:
            time.sleep(0.01)
        assert noticed.exists()
