"""An implementation's process, seen from outside: start it, ask it, give up on it.

All implementations get the same number of threads: torch through `set_num_threads`, XLA through
`PJRT_NPROC`, the sizes of OpenMP's pools through their variables. Nothing else is pinned. Each
worker has a cache folder of its own, so that nothing compiled or tuned earlier helps anybody.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.implementations import IMPLEMENTATIONS
from jaxrnn.runs.worker_process import WorkerError, WorkerProcess, WorkerTimeoutError

SCRIPTS = Path(__file__).resolve().parent.parent
DEVICE = "JAXRNN_BENCHMARK_DEVICE"
"""Variable that tells a worker where PyTorch computes: "cuda" or, without it, the CPU."""
START_LIMIT = 120.0
"""Seconds in which a worker must have imported its libraries."""


class Worker:
    """An implementation's process.

    Args:
        name: the implementation.
        case: what it measures.
        data: the file with weights and text.
        threads: how many threads it gets.
        cache: the folder that stands for the user's cache; compiled programs are kept there.
        limit: seconds after which an answer is given up.
        gpu: whether a GPU computes.
    """

    def __init__(
        self,
        name: str,
        case: Case,
        data: Path,
        threads: int,
        cache: Path,
        *,
        limit: float,
        gpu: bool = False,
    ) -> None:
        self.name = name
        self._limit = limit
        threads = IMPLEMENTATIONS[name].threads or threads
        arguments = [name, json.dumps(case.to_dict()), str(data), str(threads)]
        self._process = WorkerProcess(
            [sys.executable, "-m", "benchmarks.worker", *arguments],
            env=environment(threads, cache, gpu=gpu),
        )

    def ready(self) -> None:
        """Wait until it is built."""
        self._answer(START_LIMIT)

    def check(self) -> list[float]:
        """The numbers that must agree."""
        numbers: list[float] = self._ask({"do": "check"})
        return numbers

    def run(self, count: int) -> float:
        """Seconds that `count` calls took."""
        return float(self._ask({"do": "run", "count": count}))

    def memory(self) -> float:
        """The largest resident set so far, in MiB."""
        return float(self._ask({"do": "memory"}))

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        self._process.send(request)
        return self._answer(self._limit)["value"]

    def _answer(self, limit: float) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._process.receive(limit)
        except WorkerTimeoutError:
            self._process.kill()
            raise
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer


def gpus() -> list[str]:
    """The GPUs of this machine, by the driver's own list."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line for line in found.stdout.splitlines() if line.startswith("GPU")]


def environment(threads: int, cache: Path, *, gpu: bool = False) -> dict[str, str]:
    """The environment of a process that is measured."""
    device = {"JAX_PLATFORMS": "cpu", **os.environ}
    if gpu:
        device |= {
            "JAX_PLATFORMS": "cuda",
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # no TF32
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            DEVICE: "cuda",
        }
    roots = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **device,
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
