"""Generated tasks that measure how long a network remembers: adding, copying, brackets.

Shapes: T time steps, B batch.

A task is endless: the batch of an update is a function of the seed and the update's number alone,
so that equal seeds give equal data, to every network and after every interruption.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SYMBOLS = 8
"""Number of symbols to copy from."""
COPIED = 10
"""Number of symbols to copy."""
KINDS = 4
"""Number of kinds of brackets."""
TRAINING = 0
"""First part of the random key of what is trained on."""
VALIDATION = 1
"""First part of the random key of what is validated on."""


class TaskBatch(NamedTuple):
    """Some sequences of a task.

    Attributes:
        inputs: (T, B) tokens, or (B, T, 2) numbers of the adding problem.
        targets: (T, B) tokens, or (B, 1) numbers of the adding problem.
    """

    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class MemoryTask:
    """A task with its length.

    Attributes:
        name: "adding", "copying" or "brackets".
        length: how long it is: T of adding and brackets, the number of steps between reading and
            writing of copying.
        measure: what the loss is, in words.
        baseline: the loss of the best guess that remembers nothing.
        vocab_size: V, number of different tokens; None where the inputs are numbers.
        ignored: the target that stands where nothing is predicted; None where everything counts.
    """

    name: str
    length: int
    measure: str
    baseline: float
    vocab_size: int | None = None
    ignored: int | None = None

    def training(self, seed: int, step: int, batch_size: int) -> TaskBatch:
        """The batch of update `step`, counted from 0."""
        return self._batch([TRAINING, seed, step], batch_size)

    def validation(self, seed: int, batch_size: int) -> TaskBatch:
        """Sequences to validate on, none of which is trained on."""
        return self._batch([VALIDATION, seed], batch_size)

    def _batch(self, key: list[int], batch_size: int) -> TaskBatch:
        return TASKS[self.name].sample(np.random.default_rng(key), self.length, batch_size)


def make_task(name: str, length: int | None = None) -> MemoryTask:
    """A task by name.

    Args:
        name: "adding", "copying" or "brackets".
        length: its length; that of the task's own if None.

    Raises:
        ValueError: if there is no such task, or the length does not fit.
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r:.60}.")
    kind = TASKS[name]
    if length is None:
        length = kind.length
    if isinstance(length, bool) or not isinstance(length, int) or length < kind.least:
        raise ValueError(
            f"The length of {name} must be a whole number of at least {kind.least}, got "
            f"{length!r:.40}."
        )
    if name == "brackets" and length % 2:
        raise ValueError(
            f"Brackets open and close: their length must be even, got {length}; take {length + 1}."
        )
    return kind.describe(length)


def _adding(rng: np.random.Generator, length: int, batch_size: int) -> TaskBatch:
    """Numbers, of which two are marked: their sum is the target.

    The adding problem of Hochreiter and Schmidhuber 1997, section 5.4, in the form of Arjovsky,
    Shah and Bengio 2016, https://arxiv.org/abs/1511.06464: numbers uniform in [0, 1), one mark in
    each half of the sequence.
    """
    inputs = np.zeros((batch_size, length, 2), np.float32)
    inputs[:, :, 0] = rng.random((batch_size, length), np.float32)
    rows = np.arange(batch_size)
    half = length // 2
    first = rng.integers(0, half, batch_size)
    second = rng.integers(half, length, batch_size)
    inputs[rows, first, 1] = 1
    inputs[rows, second, 1] = 1
    sums = inputs[rows, first, 0] + inputs[rows, second, 0]
    return TaskBatch(inputs, sums[:, None])


def _copying(rng: np.random.Generator, length: int, batch_size: int) -> TaskBatch:
    """Ten symbols, to be written again after `length` steps.

    Arjovsky, Shah and Bengio 2016, https://arxiv.org/abs/1511.06464, section 5.1: ten symbols of
    eight, `length - 1` blanks, a mark, ten blanks; the targets are `length + 10` blanks, then the
    ten symbols.
    """
    blank = SYMBOLS
    mark = SYMBOLS + 1
    total = length + 2 * COPIED
    symbols = rng.integers(0, SYMBOLS, (COPIED, batch_size), np.int32)
    inputs = np.full((total, batch_size), blank, np.int32)
    targets = inputs.copy()
    inputs[:COPIED] = symbols
    inputs[COPIED + length - 1] = mark
    targets[-COPIED:] = symbols
    return TaskBatch(inputs, targets)


def _brackets(rng: np.random.Generator, length: int, batch_size: int) -> TaskBatch:
    """Balanced brackets; at each one that closes, the target is the kind that it closes.

    A Dyck word, uniform among those of this length (Arnold and Sleep 1980, "Uniform random
    generation of balanced parenthesis strings"), whose brackets have random kinds. Inputs are the
    kind of a bracket that opens, and one mark for all that close: what it closes is in the memory
    alone. So the best guess without one has a loss of ln(4), whatever the length.
    """
    mark = KINDS
    inputs = np.full((length, batch_size), mark, np.int32)
    targets = np.full((length, batch_size), mark, np.int32)
    kinds = rng.integers(0, KINDS, (length, batch_size), np.int32)
    uniforms = rng.random((length, batch_size))
    rows = np.arange(batch_size)
    stack = np.zeros((length // 2 + 1, batch_size), np.int32)
    height = np.zeros(batch_size, np.int64)
    for t in range(length):
        left = length - t
        # The share of the words from here on that begin with a closing bracket.
        closing = height * (left + height + 2) / (2 * left * (height + 1))
        closes = uniforms[t] < closing  # (B,)
        opened = rows[~closes]
        inputs[t, opened] = kinds[t, opened]
        stack[height[opened], opened] = kinds[t, opened]
        height = np.where(closes, height - 1, height + 1)
        closed = rows[closes]
        targets[t, closed] = stack[height[closed], closed]
    return TaskBatch(inputs, targets)


def _adding_of(length: int) -> MemoryTask:
    # The best guess is the mean, 1: the variance of a sum of two uniform numbers is 2 / 12.
    return MemoryTask("adding", length, "mean squared error", 1 / 6)


def _copying_of(length: int) -> MemoryTask:
    # Blanks are free; ten symbols are guesses among eight.
    baseline = COPIED * math.log(SYMBOLS) / (length + 2 * COPIED)
    return MemoryTask("copying", length, "nats per step", baseline, vocab_size=SYMBOLS + 2)


def _brackets_of(length: int) -> MemoryTask:
    return MemoryTask(
        "brackets",
        length,
        "nats per closing bracket",
        math.log(KINDS),
        vocab_size=KINDS + 1,
        ignored=KINDS,
    )


class TaskKind(NamedTuple):
    """A kind of task.

    Attributes:
        sample: the function that samples a batch, of a random generator, the length and B.
        describe: the task of a length.
        length: the length that it has if none is asked for.
        least: its smallest length.
    """

    sample: Callable[[np.random.Generator, int, int], TaskBatch]
    describe: Callable[[int], MemoryTask]
    length: int
    least: int


TASKS: dict[str, TaskKind] = {
    "adding": TaskKind(_adding, _adding_of, length=100, least=2),
    "copying": TaskKind(_copying, _copying_of, length=100, least=1),
    "brackets": TaskKind(_brackets, _brackets_of, length=40, least=2),
}
"""The tasks by name."""
