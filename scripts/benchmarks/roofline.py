"""The least time of a step: its operations and bytes, at this machine's measured rates.

Shapes: B batch, T time steps, V vocabulary, F embedding size, H hidden size, L layers, GH gates
times units.

The roofline of a training step is its matmuls alone, at the rate of one large matmul: no
elementwise step, no optimizer, no memory. That of generation is the slower of two things: the
matmuls of a character, and reading every weight once, at the rate at which this machine reads as
many bytes again and again, from whichever cache holds them. Both rates are those of as many threads
as the implementations get.

Reference: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
multicore architectures", 2009, https://doi.org/10.1145/1498765.1498785

Usage: python -m benchmarks.roofline, which prints the rate of the matmul on the threads that the
environment allows.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.cases import EMBEDDING, VOCABULARY, Case
from benchmarks.data import GATES
from benchmarks.process import environment

SIZE = 1024
"""Rows and columns of the matmul whose rate is measured."""
SECONDS = 0.2
"""Least time of a measurement, whose shortest part counts."""
TIMES = 8
"""Least number of the parts."""
READS = 2e8
"""Bytes read in one part of a measurement."""


def operations(case: Case) -> float:
    """Floating-point operations of the matmuls of one call, or of one generated character."""
    B, T, H, V, L = case.batch_size, case.steps, case.hidden_size, VOCABULARY, case.num_layers
    GH = GATES[case.cell] * H
    recurrent_step = 2.0 * B * GH * H  # (B, H) times (H, GH), which is also that between layers
    if case.of_numbers:
        forward = 2 * L * T * recurrent_step
        # As for training, below; the inputs have a gradient too.
        return 3 * forward - L * recurrent_step if case.kind == "layer" else forward
    if case.kind == "generation":
        return (2 * L - 1) * recurrent_step + 2.0 * B * V * H
    # The first layer reads rows of a table, the embedding times the input weight, instead.
    table = 2.0 * V * EMBEDDING * GH
    output = 2.0 * T * B * H * V
    between = (L - 1) * T * recurrent_step
    recurrent = L * T * recurrent_step
    if case.kind == "forward":
        return recurrent + between + table + output
    # The gradients of what goes in and of the weight are one matmul each. The carry before the
    # window needs no gradient.
    recurrent_backward = L * (T + T - 1) * recurrent_step
    return recurrent + recurrent_backward + 3 * (between + table + output)


def bytes_read(case: Case) -> int:
    """Bytes read for a generated character: every weight of layers and output, in float32."""
    H = case.hidden_size
    GH = GATES[case.cell] * H
    numbers = (2 * case.num_layers - 1) * GH * H + VOCABULARY * H
    return 4 * numbers


def roofline(case: Case, threads: int) -> float:
    """The least number of seconds that one call takes on a number of threads."""
    computing = operations(case) / matmul_rate(threads)
    if case.kind != "generation":
        return computing
    reading = bytes_read(case) / read_rate(bytes_read(case), threads)
    return case.steps * max(computing, reading)


@cache
def matmul_rate(threads: int) -> float:
    """Operations a second of a matmul of two large matrices on a number of threads.

    NumPy's matmul takes its number of threads from the environment when it is loaded, so this one
    is measured in a process of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run(
            [sys.executable, "-m", "benchmarks.roofline"],
            stdout=subprocess.PIPE,
            check=True,
            env=environment(threads, Path(folder)),
        )
    return float(answer.stdout)


def measured_matmul_rate() -> float:
    """Operations a second of NumPy's matmul of two large matrices in this process."""
    a = np.ones((SIZE, SIZE), np.float32)
    out = np.empty_like(a)
    return 2.0 * SIZE**3 / _shortest(lambda: np.matmul(a, a, out=out))


def read_rate(size: int, threads: int) -> float:
    """Bytes a second of reading `size` bytes over and over, shared out among threads."""
    count = size // threads // 4 // 2  # float32 numbers in each of a thread's two vectors
    repeated = max(1, int(READS / size))
    pairs = [np.ones((2, count), np.float32) for _ in range(threads)]

    def read(pair: np.ndarray) -> None:
        for _ in range(repeated):
            np.dot(pair[0], pair[1])

    def read_all() -> None:
        helpers = [threading.Thread(target=read, args=(pair,)) for pair in pairs[1:]]
        for helper in helpers:
            helper.start()
        read(pairs[0])
        for helper in helpers:
            helper.join()

    return 8.0 * count * threads * repeated / _shortest(read_all)


def _shortest(act: Callable[[], object]) -> float:
    """The shortest of several times that something takes, in seconds."""
    act()  # the first time is longer: memory comes page by page
    seconds: list[float] = []
    while len(seconds) < TIMES or sum(seconds) < SECONDS:
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    print(measured_matmul_rate())
