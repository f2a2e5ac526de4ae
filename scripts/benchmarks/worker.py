"""An implementation in its own process: answers requests, see `jaxrnn.runs.worker_process`.

Usage: python -m benchmarks.worker IMPLEMENTATION CASE DATA THREADS, where CASE is JSON and DATA the
file that `benchmarks.data.save` wrote. Requests:

    {"do": "check"}              the numbers that must agree
    {"do": "run", "count": n}    seconds that n calls took
    {"do": "memory"}             the peak of memory so far, in MiB

An answer is {"value": ...}, or {"error": "..."}; the first one, {"ready": true}, has no request.
The clock is read here, next to the work, so that the pipe costs nothing.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.data import load
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.process import DEVICE
from jaxrnn.runs.worker_process import Channel

LONGEST_ERROR = 400
"""Maximum number of characters of an error."""


def main(arguments: Sequence[str]) -> int:
    """Build the implementation, then answer until the input ends."""
    name, case_text, data, threads = arguments
    channel = Channel()
    try:
        implementation = build(name, Case(**json.loads(case_text)), Path(data), int(threads))
    except Exception as error:
        channel.emit({"error": described(error)})
        return 1
    channel.emit({"ready": True})
    for request in channel.requests():
        channel.emit(answer(implementation, request))
    return 0


def build(name: str, case: Case, data: Path, threads: int) -> Any:
    """The implementation, with its weights and inputs."""
    if name.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
    maker = IMPLEMENTATIONS[name].maker(case.kind)
    if maker is None:
        raise ValueError(f"{name} takes no part in {case.kind}.")
    make = maker()
    return make(case, *load(data))


def answer(implementation: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request; an error is an answer too."""
    do = REQUESTS[request["do"]]
    try:
        return {"value": do(implementation, request)}
    except Exception as error:
        return {"error": described(error)}


def seconds(implementation: Any, request: dict[str, Any]) -> float:
    """Seconds that the requested number of calls takes."""
    started = time.perf_counter()
    implementation.run(request["count"])
    return time.perf_counter() - started


def memory(implementation: Any, request: dict[str, Any]) -> float:
    """The peak of the GPU's memory or, on the CPU, of the resident set, in MiB."""
    if os.environ.get(DEVICE) == "cuda":
        return peak_on_gpu() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # Linux counts KiB


def peak_on_gpu() -> float:
    """Bytes that the framework of this process has had at most on the GPU."""
    if "torch" in sys.modules:
        return float(sys.modules["torch"].cuda.max_memory_allocated())
    statistics = sys.modules["jax"].local_devices()[0].memory_stats()
    return float(statistics["peak_bytes_in_use"])


REQUESTS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "check": lambda implementation, request: implementation.check(),
    "run": seconds,
    "memory": memory,
}


def described(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_ERROR]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
