"""The other end of a worker's pipe: start it, ask it, give up on it.

Both sides get the same number of threads: torch through `set_num_threads`, XLA through
`PJRT_NPROC`, the sizes of OpenMP's pools through their variables. Nothing else is pinned. Each
worker has a cache folder of its own, so that nothing compiled or tuned earlier helps anybody.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.contestants import CONTESTANTS

SCRIPTS = Path(__file__).resolve().parent.parent
START_LIMIT = 120.0
"""Seconds in which a worker must have imported its libraries."""


class WorkerError(RuntimeError):
    """A worker that failed, died or did not answer in time; the message says which."""


class Worker:
    """A contestant's process.

    Args:
        name: the contestant.
        case: what it measures.
        data: the file with weights and text.
        threads: how many threads it gets.
        cache: the folder that stands for the user's cache; compiled programs are kept there.
        limit: seconds after which an answer is given up.
    """

    def __init__(
        self, name: str, case: Case, data: Path, threads: int, cache: Path, *, limit: float
    ) -> None:
        self.name, self._limit, self._left = name, limit, b""
        threads = CONTESTANTS[name].threads or threads
        arguments = [name, json.dumps(case.to_dict()), str(data), str(threads)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(threads, cache),
        )

    def ready(self) -> None:
        """Wait until it is built."""
        self._answer(START_LIMIT)

    def check(self) -> list[float]:
        """The numbers that must agree."""
        numbers: list[float] = self._ask({"do": "check"})
        return numbers

    def run(self, count: int) -> float:
        """Seconds that `count` repetitions took."""
        return float(self._ask({"do": "run", "count": count}))

    def memory(self) -> float:
        """The largest resident set so far, in MiB."""
        return float(self._ask({"do": "memory"}))

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue

    def _ask(self, request: dict[str, Any]) -> Any:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._death()) from None
        return self._answer(self._limit)["value"]

    def _answer(self, limit: float) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._line(limit))
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _line(self, limit: float) -> bytes:
        stdout, deadline = self._process.stdout, time.monotonic() + limit
        assert stdout is not None
        while b"\n" not in self._left:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                self._process.kill()
                self._process.wait()
                raise WorkerError(f"No answer within {limit:g} s.")
            read = os.read(stdout.fileno(), 1 << 16)
            if not read:
                raise WorkerError(self._death())
            self._left += read
        line, _, self._left = self._left.partition(b"\n")
        return line

    def _death(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"The process ended with code {code}: {lines[-1] if lines else 'no message'}"[:400]


def environment(threads: int, cache: Path) -> dict[str, str]:
    """The environment of a process that is measured."""
    roots = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    return {
        "JAX_PLATFORMS": "cpu",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(root for root in roots if root),
        "PJRT_NPROC": str(threads),
        "NPROC": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "XDG_CACHE_HOME": str(cache),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jaxrnn" / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "KERAS_HOME": str(cache / "keras"),
    }
