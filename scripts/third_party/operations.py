"""Operations of weight maps that the cases need beside parity's own."""

from dataclasses import dataclass

import numpy as np

from parity import FoldBiases, Operation


@dataclass(frozen=True)
class Flip(Operation):
    """A kernel turned around along some axes."""

    axes: tuple[int, ...]

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Reverse the order along the axes."""
        return [np.flip(array, self.axes) for array in arrays]

    # The same reversal undoes it.
    to_torch = from_torch


@dataclass(frozen=True)
class FoldAllButLast(Operation):
    """bias_ih and bias_hh in PyTorch; elsewhere their sum, but for the last gate, which has both.

    PyTorch's (G * H,) each become a sum for each of the first G - 1 gates, then the last gate's
    two, (H,) each. The reset gate of a GRU multiplies b_hn, so that it cannot be folded.
    """

    count: int
    inexact: str = FoldBiases.inexact

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The sums and the last two."""
        *of_x, last_x = np.split(arrays[0], self.count)
        *of_h, last_h = np.split(arrays[1], self.count)
        sums = [b_x + b_h for b_x, b_h in zip(of_x, of_h, strict=True)]
        return [*sums, last_x, last_h]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The sums in bias_ih, and zeros for their part of bias_hh."""
        *sums, last_x, last_h = arrays
        zeros = [np.zeros_like(array) for array in sums]
        return [np.concatenate([*sums, last_x]), np.concatenate([*zeros, last_h])]

    def gradients_to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The gradient of a sum is that of either."""
        *sums, last_x, last_h = arrays
        return [np.concatenate([*sums, last_x]), np.concatenate([*sums, last_h])]


@dataclass(frozen=True)
class DropFirstGate(Operation):
    """Arrays of `count` gates in PyTorch, of whose first the other framework knows nothing."""

    count: int
    inexact: str = "a gate of PyTorch's has no counterpart"

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """All gates but the first."""
        return [np.concatenate(np.split(array, self.count)[1:]) for array in arrays]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Zeros for the first."""
        filled = []
        for array in arrays:
            first = np.zeros_like(np.split(array, self.count - 1)[0])
            filled.append(np.concatenate([first, array]))
        return filled


@dataclass(frozen=True)
class JoinColumns(Operation):
    """Two matrices in PyTorch, (rows, first) and (rows, others), one beside the other elsewhere."""

    first: int

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Put them side by side."""
        return [np.concatenate(arrays, axis=1)]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Take them apart."""
        return np.split(arrays[0], [self.first], axis=1)
