"""A contestant in its own process: answers requests, a line of JSON each way.

Usage: python -m benchmarks.worker CONTESTANT CASE DATA THREADS, where CASE is JSON and DATA the
file that `benchmarks.data.save` wrote. The answers go to the standard output that the process was
born with; what libraries print goes to standard error. Requests:

    {"do": "check"}              the numbers that must agree
    {"do": "run", "count": n}    seconds that n repetitions took
    {"do": "memory"}             the largest resident set so far, in MiB

The clock is read here, next to the work, so that the pipe costs nothing.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from benchmarks.cases import Case
from benchmarks.contestants import CONTESTANTS
from benchmarks.data import load


def main(arguments: Sequence[str]) -> int:
    """Build the contestant, say so, then answer until the input ends."""
    name, case_text, data, threads = arguments
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        contestant = build(name, Case(**json.loads(case_text)), Path(data), int(threads))
    except Exception as error:
        answer(answers, {"error": described(error)})
        return 1
    answer(answers, {"ready": True})
    for line in sys.stdin:
        answer(answers, answered(contestant, json.loads(line)))
    return 0


def build(name: str, case: Case, data: Path, threads: int) -> Any:
    """The contestant, with its weights and its text."""
    if name.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
    maker = CONTESTANTS[name].maker(case.kind)
    if maker is None:
        raise ValueError(f"{name} takes no part in {case.kind}.")
    return maker()(case, *load(data))


def answered(contestant: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request; an error is an answer too."""
    try:
        return {"value": REQUESTS[request["do"]](contestant, request)}
    except Exception as error:
        return {"error": described(error)}


def seconds(contestant: Any, request: dict[str, Any]) -> float:
    """Repeat, and say how long it took."""
    started = time.perf_counter()
    contestant.run(request["count"])
    return time.perf_counter() - started


def memory(contestant: Any, request: dict[str, Any]) -> float:
    """The peak of the resident set, in MiB (Linux counts KiB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


REQUESTS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "check": lambda contestant, request: contestant.check(),
    "run": seconds,
    "memory": memory,
}


def described(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def answer(answers: TextIO, value: dict[str, Any]) -> None:
    """Write one line."""
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
