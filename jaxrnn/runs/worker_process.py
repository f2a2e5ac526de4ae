"""Worker processes that exchange lines of JSON with the program that starts them.

The one who starts has a `WorkerProcess`, the worker a `Channel`:

    worker = WorkerProcess([sys.executable, "-m", "package.worker"], env=environment)
    worker.send({"do": "run"})          channel = Channel()
    worker.receive(60.0)                for request in channel.requests():
    worker.close()                          channel.emit({"value": 1})

Messages leave a worker through the standard output that it was born with. What the worker's
libraries print cannot get between them: it goes to standard error, of which the last line is the
reason when a worker dies. `jaxrnn.runs.jobs` runs many at once.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

READ_SIZE = 1 << 16
"""Bytes read from the pipe at a time."""
LONGEST_REASON = 400
"""Maximum number of characters of an error's message."""


class WorkerError(RuntimeError):
    """A worker that failed, died or did not answer in time; the message says which."""


class WorkerTimeoutError(WorkerError):
    """No message arrived in time; the worker still runs."""


class WorkerEndedError(WorkerError):
    """The worker has ended, and all its messages are read."""


class WorkerProcess:
    """A worker, as the program sees it that starts it.

    Args:
        command: the program and its arguments.
        env: all its environment variables.
        cwd: the folder that it starts in; this process's if None.
        own_session: whether signals from the terminal, such as that of Ctrl-C, do not reach it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        own_session: bool = False,
    ) -> None:
        self._unread = b""  # the beginning of a message whose end has not arrived
        # A file, because a pipe that nobody reads would stop a worker that prints much.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the process)
        self._process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=own_session,
        )

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            WorkerEndedError: if the worker has ended.
        """
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise WorkerEndedError(self.end()) from None

    def receive(self, timeout: float | None) -> Any:
        """The next message.

        Args:
            timeout: seconds to wait for it; 0 takes one only if it is there already, and None waits
                until the worker ends.

        Raises:
            WorkerTimeoutError: if no message arrives in time.
            WorkerEndedError: if the worker ends before it sends one; half a message is none.
            WorkerError: if a line is no JSON: it was printed before the worker made its `Channel`.
        """
        stdout = self._process.stdout
        assert stdout is not None
        began = time.monotonic()
        while b"\n" not in self._unread:
            passed = time.monotonic() - began
            left = None if timeout is None else max(0.0, timeout - passed)
            ready, _, _ = select.select([stdout], [], [], left)
            if not ready:
                raise WorkerTimeoutError(f"No answer within {timeout:g} s.")
            data = os.read(stdout.fileno(), READ_SIZE)
            if not data:
                raise WorkerEndedError(self.end())
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            raise WorkerError(f"The process sent {line[:100]!r}, which is no message.") from None

    def arrived(self) -> list[Any]:
        """The messages that are there already, without waiting for more."""
        messages = []
        while True:
            try:
                messages.append(self.receive(0.0))
            except (WorkerTimeoutError, WorkerEndedError):
                return messages

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None as long as it runs."""
        return self._process.poll()

    def end(self) -> str:
        """Wait for the end of the process and describe it in one line."""
        code = self._process.wait()
        return f"The process ended with code {code}: {self.last_words()}"[:LONGEST_REASON]

    def errors(self) -> str:
        """All that it has written to standard error."""
        # `pread` leaves the place alone at which the process goes on writing.
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), size, 0).decode(errors="replace")

    def last_words(self) -> str:
        """The last line that it has written to standard error."""
        lines = self.errors().strip().splitlines()
        return lines[-1] if lines else "no message"

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it if it still runs, and close its pipes."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue  # a request that nobody has read


class Channel:
    """The way to the program that started this process; made once, before anything is printed.

    Args:
        printed: where this process's standard output goes from now on.
    """

    def __init__(self, *, printed: Literal["to standard error", "nowhere"] = "to standard error"):
        self._out = os.dup(sys.stdout.fileno())  # not inherited by processes that this one starts
        if printed == "nowhere":
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        else:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def requests(self) -> Iterator[Any]:
        """The messages of the program that started this one, until it closes their pipe."""
        for line in sys.stdin:
            yield json.loads(line)

    def emit(self, message: Any) -> None:
        """Send a message; waits if many are unread.

        Raises:
            BrokenPipeError: if nobody is there to read it any more.
        """
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._out, data) :]

    def emit_if_read(self, message: Any) -> None:
        """Send a message of up to 4,096 bytes, or drop it if so many are unread that it would wait.

        Raises:
            BrokenPipeError: if nobody is there to read it any more.
        """
        _, writable, _ = select.select([], [self._out], [], 0.0)
        if writable:
            self.emit(message)
