"""Sequences of numbers with a target each: many steps in, one value or class out.

Shapes: N sequences, T time steps, I input size, B batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.checks import as_host_array, check_at_least_0, check_at_least_1, check_bool


class SequenceBatch(NamedTuple):
    """Some sequences.

    Attributes:
        inputs: (B, T, I) the sequences.
        targets: (B, ...) what they stand for.
        lengths: (B,) number of their steps that count, or None for all.
    """

    inputs: Any
    targets: Any
    lengths: Any = None


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of numbers, in batches of a new random order each epoch.

    Attributes:
        inputs: (N, T, I) floating numbers; what lies behind a sequence's end is not read.
        targets: (N, ...) floating numbers to predict, or (N,) integers, the classes.
        lengths: (N,) number of steps of each sequence, in [1, T]; all T if None.
        batch_size: B; the last batch of an epoch may have fewer sequences.
        shuffled: whether the order is random.
        seed: seed of the order.

    Raises:
        ValueError: if the arrays do not fit each other, or hold something else.
    """

    inputs: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray | None = None
    batch_size: int = 64
    shuffled: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least_1(batch_size=self.batch_size)
        check_at_least_0(seed=self.seed)
        check_bool(shuffled=self.shuffled)
        inputs = as_host_array("inputs", self.inputs)
        targets = as_host_array("targets", self.targets)
        if inputs.ndim != 3 or not np.issubdtype(inputs.dtype, np.floating):
            hint = ""
            if inputs.ndim == 2:
                hint = " One number a step is inputs[:, :, None]."
            raise ValueError(
                "inputs must be floating numbers of shape (N, T, I), one sequence a row; got "
                f"{inputs.dtype} of shape {inputs.shape}.{hint}"
            )
        if 0 in inputs.shape:
            raise ValueError(f"inputs must hold at least one number, got shape {inputs.shape}.")
        if not np.issubdtype(targets.dtype, np.number):
            raise ValueError(f"targets must be numbers or classes, got {targets.dtype}.")
        if targets.shape[:1] != inputs.shape[:1]:
            raise ValueError(
                f"targets must have one entry for each of {len(inputs)} sequences, got shape "
                f"{targets.shape}."
            )
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "targets", targets)
        if self.lengths is not None:
            object.__setattr__(self, "lengths", self._checked_lengths())

    def _checked_lengths(self) -> np.ndarray:
        lengths = as_host_array("lengths", self.lengths)
        count, steps, _ = self.inputs.shape
        if lengths.shape != (count,) or not np.issubdtype(lengths.dtype, np.integer):
            raise ValueError(
                f"lengths must be {count} integers, one for each sequence; got {lengths.dtype} of "
                f"shape {lengths.shape}."
            )
        outside = lengths[(lengths < 1) | (lengths > steps)]
        if outside.size:
            raise ValueError(
                f"lengths must lie in [1, {steps}], as a sequence has at least one step; got "
                f"{outside[0]}."
            )
        return lengths.astype(np.int32)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self) // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """(N,) the order of the sequences in an epoch, a function of seed and epoch alone."""
        order = np.arange(len(self))
        if self.shuffled:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        return order

    def batches(self, order: np.ndarray) -> Iterator[SequenceBatch]:
        """The sequences in batches, in an order."""
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            lengths = None if self.lengths is None else self.lengths[rows]
            yield SequenceBatch(self.inputs[rows], self.targets[rows], lengths)
