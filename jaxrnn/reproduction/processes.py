"""Units in processes of their own, several at once.

Two processes of one thread each get more done than one of two threads: the programs are small.
Nor does it help to train the seeds of a recipe together with `vmap`. Training steps a second, each
seed's counted, CharSeqStatefulRnn at B 64, T 8, H 256, on two cores of an AMD EPYC (jax 0.10.2):

    two processes, one thread each                      530
    one process, two threads                            275
    three seeds in a vmap, one process, two threads     245
    three seeds in a vmap, two processes                300

(The vmap was given windows of one length; random lengths would cost it more.) So there is a process
a core, with one thread, as long as there are as many units as cores; where there are fewer, the
processes share out the cores between them.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrnn.reproduction.units import Unit

SECONDS_BETWEEN_LOOKS = 0.2
"""At most, until a request to stop is seen."""
THREADS = ("PJRT_NPROC", "NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""The variables that say how many threads XLA, OpenMP and PyTorch start."""


class Event(NamedTuple):
    """Something that a process told.

    Attributes:
        unit: whose process.
        share: of the unit, that is done.
        loss: the training loss.
        ended: whether the process has ended.
        error: why it has, if the unit failed.
        stopped: whether it was stopped before the unit was done.
    """

    unit: Unit
    share: float = 0.0
    loss: float = float("nan")
    ended: bool = False
    error: str = ""
    stopped: bool = False


class Process:
    """A process that runs one unit; see `jaxrnn.reproduction.worker`.

    Args:
        unit: the unit.
        folder: of the results.
        cores: the cores to run on, with a thread each; all of them if there is none.
    """

    def __init__(self, unit: Unit, folder: Path, cores: Sequence[int]) -> None:
        self.unit, self.cores = unit, cores
        self._left, self._last = b"", Event(unit)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        command = [sys.executable, "-m", "jaxrnn.reproduction.worker", str(folder)]
        self._process = subprocess.Popen(
            [*command, json.dumps(unit.to_dict())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(len(cores)),
            start_new_session=True,  # Ctrl-C is for us; we tell it
        )
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, cores)

    @property
    def output(self) -> int:
        """The descriptor to read from."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def stop(self) -> None:
        """Ask it to save and end."""
        self._process.send_signal(signal.SIGTERM)

    def read(self) -> Event:
        """The newest of what it has told, once there is something to read."""
        data = os.read(self.output, 1 << 16)
        if not data:
            return self._end()
        *lines, self._left = (self._left + data).split(b"\n")
        for line in lines:
            self._last = Event(self.unit, **{"loss": self._last.loss} | _told(line))
        return self._last

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _end(self) -> Event:
        code = self._process.wait()
        last = self._last._replace(ended=True)
        if last.error or last.stopped or last.share == 1.0:
            return last
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        message = lines[-1][:300] if lines else "no message"
        return last._replace(error=f"The process ended with code {code}: {message}")


def _told(line: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(line)
    return {"share": 1.0} if told.pop("done", False) else told


def run_all(
    units: Sequence[Unit], folder: Path, jobs: int, stopping: Callable[[], int]
) -> Iterator[Event]:
    """Run units in order, `jobs` at once, and yield what their processes tell.

    Args:
        units: what to run.
        folder: of the results.
        jobs: processes at once, at the most.
        stopping: when it gives something else than 0, all processes are asked to save and end.
    """
    waiting, running, asked = deque(units), list[Process](), False
    shares = shared_out(available_cores(), max(1, min(jobs, len(units))))
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                if stopping() and not asked:
                    asked = True
                    waiting.clear()
                    for process in running:
                        process.stop()
                while waiting and shares:
                    process = Process(waiting.popleft(), folder, shares.pop(0))
                    running.append(process)
                    selector.register(process.output, selectors.EVENT_READ, process)
                for key, _ in selector.select(SECONDS_BETWEEN_LOOKS):
                    event = key.data.read()
                    if event.ended:
                        selector.unregister(key.fd)
                        running.remove(key.data)
                        shares.insert(0, key.data.cores)
                        key.data.close()
                    yield event
        finally:
            for process in running:
                process.close()


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def shared_out(cores: Sequence[int], processes: int) -> list[Sequence[int]]:
    """Which cores each process has: none where there is one process, which need not be bound."""
    if processes == 1:
        return [()]
    return [cores[k::processes] or [cores[k % len(cores)]] for k in range(processes)]


def environment(threads: int) -> dict[str, str]:
    """The environment of a process: on the CPU, unless JAX_PLATFORMS says otherwise.

    Args:
        threads: how many it starts; as many as it likes if 0.
    """
    limits = dict.fromkeys(THREADS, str(threads)) if threads else {}
    return {"JAX_PLATFORMS": "cpu", **os.environ, **limits}
