"""What a step cannot be faster than: its operations and bytes, at this machine's measured rates.

Shapes: B batch, T time steps, V vocabulary, F embedding size, H hidden size, L layers, GH gates
times units.

The floor of a training step is its matrix products alone, at the rate of one large product: no
elementwise step, no optimizer, no memory. That of writing is the slower of two things: the products
of a character, and reading every weight once, at the rate at which this machine reads as many
bytes again and again, from whichever cache holds them. Both rates are those of as many threads as
the contestants get.

Usage: python -m benchmarks.floors, which prints the rate of the product on the threads that the
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
"""Rows and columns of the product whose rate is measured."""
SECONDS = 0.2
"""Measured for about so long; the best of several shorter times counts."""
TIMES = 8


def operations(case: Case) -> float:
    """Floating-point operations of the products of one repetition, or of one written character.

    Forward, the gradient of what goes in, and the gradient of the weight are one product each. The
    carry before the window needs no gradient; the first layer reads rows of a table instead.
    """
    B, T, H, V, L = case.batch_size, case.steps, case.hidden_size, VOCABULARY, case.num_layers
    GH = GATES[case.cell] * H
    if case.kind == "generation":
        return 2.0 * B * ((2 * L - 1) * GH * H + V * H)
    products, through_time = (1, 0) if case.kind == "forward" else (2, T - 1)
    recurrent = L * 2.0 * B * GH * H * (products * T + through_time)
    three = 1 if case.kind == "forward" else 3
    between = (L - 1) * three * 2.0 * T * B * GH * H
    return recurrent + between + three * 2.0 * (T * B * H * V + V * EMBEDDING * GH)


def bytes_read(case: Case) -> int:
    """What a written character reads in float32: every weight of the layers and of the output."""
    H, GH = case.hidden_size, GATES[case.cell] * case.hidden_size
    return 4 * ((2 * case.num_layers - 1) * GH * H + VOCABULARY * H)


def floor(case: Case, threads: int) -> float:
    """Seconds that one repetition takes at least, on so many threads."""
    computing = operations(case) / product_rate(threads)
    if case.kind != "generation":
        return computing
    reading = bytes_read(case) / read_rate(bytes_read(case), threads)
    return case.steps * max(computing, reading)


@cache
def product_rate(threads: int) -> float:
    """Operations a second of a product of two large matrices on so many threads.

    NumPy's product takes its number of threads from the environment when it is loaded, so this one
    is measured in a process of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run(
            [sys.executable, "-m", "benchmarks.floors"],
            stdout=subprocess.PIPE,
            check=True,
            env=environment(threads, Path(folder)),
        )
    return float(answer.stdout)


def measured_product_rate() -> float:
    """Operations a second of NumPy's product of two large matrices in this process."""
    a = np.ones((SIZE, SIZE), np.float32)
    out = np.empty_like(a)
    return 2.0 * SIZE**3 / _best(lambda: np.matmul(a, a, out=out))


def read_rate(size: int, threads: int) -> float:
    """Bytes a second of reading `size` bytes over and over, shared out among threads."""
    count = size // threads // 4 // 2
    repetitions = max(1, int(2e8 / size))
    pairs = [np.ones((2, count), np.float32) for _ in range(threads)]

    def read(pair: np.ndarray) -> None:
        for _ in range(repetitions):
            np.dot(pair[0], pair[1])

    def read_all() -> None:
        helpers = [threading.Thread(target=read, args=(pair,)) for pair in pairs[1:]]
        for helper in helpers:
            helper.start()
        read(pairs[0])
        for helper in helpers:
            helper.join()

    return 8.0 * count * threads * repetitions / _best(read_all)


def _best(act: Callable[[], object]) -> float:
    act()
    seconds: list[float] = []
    while len(seconds) < TIMES or sum(seconds) < SECONDS:
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    print(measured_product_rate())
