"""Where time and batch stand in the arrays of a call: everything below runs on (T, B, ...).

Shapes: T time steps, B batch, I input size, H hidden size.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxrnn.recurrent.inputs import Inputs


class Layout(NamedTuple):
    """The leading axes of the sequences and carries that a caller gives and gets.

    Attributes:
        batched: whether there is a batch axis. Without it, a sequence is (T, ...) and a field of
            a carry (H,).
        batch_first: whether the sequences of a batch are (B, T, ...) instead of (T, B, ...).
    """

    batched: bool
    batch_first: bool

    @property
    def axes(self) -> tuple[str, ...]:
        """The leading axes of a sequence by their letters."""
        if not self.batched:
            return ("T",)
        return ("B", "T") if self.batch_first else ("T", "B")

    def shape(self, time_major: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in this layout of a sequence whose shape is (T, B, ...) time-major."""
        steps, batch_size, *rest = time_major
        if not self.batched:
            return (steps, *rest)
        return (batch_size, steps, *rest) if self.batch_first else time_major

    def to_time_major(self, sequence: Array) -> Array:
        """A sequence of this layout as (T, B, ...)."""
        if not self.batched:
            return sequence[:, None]
        return sequence.swapaxes(0, 1) if self.batch_first else sequence

    def from_time_major(self, sequence: Array) -> Array:
        """The way back: a sequence (T, B, ...) in this layout."""
        if not self.batched:
            return sequence[:, 0]
        return sequence.swapaxes(0, 1) if self.batch_first else sequence

    def with_batch(self, rows: Any) -> Any:
        """Arrays of one row for each sequence, such as a carry, with a batch axis in front."""
        return rows if self.batched else jax.tree.map(lambda array: array[None], rows)

    def without_batch(self, rows: Any) -> Any:
        """The way back: without the batch axis, if this layout has none."""
        return rows if self.batched else jax.tree.map(lambda array: array[0], rows)


def layout_of(xs: Any, *, batch_first: bool = False, time: bool = True) -> Layout:
    """The layout of a call, by the number of axes of its inputs.

    Args:
        xs: the inputs of all steps, or of one: an array, or `Inputs`; not checked yet.
        batch_first: whether a batch has its batch axis first.
        time: whether the inputs have a time axis.
    """
    if isinstance(xs, Inputs) and xs.tokens is not None:
        sequence = xs.tokens
        features = 0
    else:
        sequence = xs.values if isinstance(xs, Inputs) else xs
        features = 1
    try:
        axes = np.ndim(sequence)
    except ValueError:  # a list of rows of different lengths: no array, which the checks refuse
        axes = 0
    return Layout(batched=axes != time + features, batch_first=batch_first)
