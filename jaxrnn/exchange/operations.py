"""What happens to weights on their way from PyTorch to another framework, and back.

Each operation takes the list of an entry's arrays and gives the list of the other side's. All but
`FoldBiases` only move numbers about, so they move gradients and moments just as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np


class Operation:
    """What happens to the arrays of one entry of a weight map; as it stands, nothing.

    Attributes:
        inexact: what is lost on the way from PyTorch, so that the way back cannot restore it;
            empty if nothing is.
    """

    inexact: str = ""

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """PyTorch's arrays in the other framework's form."""
        return arrays

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The other framework's arrays in PyTorch's form."""
        return arrays

    def gradients_to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The other framework's gradients as the gradients of PyTorch's arrays."""
        return self.to_torch(arrays)


@dataclass(frozen=True)
class Identity(Operation):
    """The same array."""


@dataclass(frozen=True)
class Transpose(Operation):
    """(out, in) in PyTorch, (in, out) in the other framework."""

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Exchange the two axes."""
        return [array.T for array in arrays]

    # The same exchange undoes it.
    to_torch = from_torch


@dataclass(frozen=True)
class PermuteGates(Operation):
    """Gates in another order: gate k of the other framework is PyTorch's gate `order[k]`."""

    order: tuple[int, ...]

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Reorder the gates along the first axis."""
        return [self._permuted(array, self.order) for array in arrays]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Reorder them back."""
        back = np.argsort(self.order).tolist()  # the inverse of a permutation
        return [self._permuted(array, back) for array in arrays]

    def _permuted(self, array: np.ndarray, order: Iterable[int]) -> np.ndarray:
        gates = np.split(array, len(self.order))  # G arrays of (H, ...)
        return np.concatenate([gates[k] for k in order])


@dataclass(frozen=True)
class SplitGates(Operation):
    """One array of `count` gates in PyTorch, one array a gate in the other framework."""

    count: int

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Cut along the first axis."""
        gates: list[np.ndarray] = []
        for array in arrays:
            gates += np.split(array, self.count)  # (G * H, ...) to G times (H, ...)
        return gates

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Concatenate along the first axis."""
        joined = []
        for first in range(0, len(arrays), self.count):
            gates = arrays[first : first + self.count]
            joined.append(np.concatenate(gates))  # G times (H, ...) to (G * H, ...)
        return joined


@dataclass(frozen=True)
class StackLayers(Operation):
    """One array a layer in PyTorch, one array with a leading layer axis in the other framework."""

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Stack along a new first axis."""
        return [np.stack(arrays)]  # L arrays of (...) to one of (L, ...)

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Take the layers apart."""
        return list(arrays[0])


@dataclass(frozen=True)
class FoldBiases(Operation):
    """bias_ih + bias_hh in PyTorch, one bias in the other framework.

    The outputs agree, and so do the gradients: each of PyTorch's two biases has the gradient of
    the one. But PyTorch updates both, so that their sum moves twice as far.
    """

    inexact: str = (
        "two biases are folded into one, so the gradient's norm, clipping, the optimizer's "
        "update and every trajectory mean something else"
    )

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The sum of the two."""
        # Both are added to the gates: only their sum matters to the output.
        return [arrays[0] + arrays[1]]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The one bias, and zeros for the other."""
        return [arrays[0], np.zeros_like(arrays[0])]

    def gradients_to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The gradient of the sum is that of either."""
        return [arrays[0], arrays[0]]


@dataclass(frozen=True)
class Absent(Operation):
    """A weight of PyTorch's, of this shape, that the other framework does not have."""

    shape: tuple[int, ...]
    inexact: str = (
        "PyTorch's weight has no counterpart, so no criterion that depends on it can pass"
    )

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Nothing."""
        return []

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Zeros."""
        return [np.zeros(self.shape)]


@dataclass(frozen=True)
class Chain(Operation):
    """Operations one after the other, in the order of the way from PyTorch."""

    operations: tuple[Operation, ...]
    inexact: str = ""

    def __post_init__(self) -> None:
        losses = "; ".join(filter(None, map(attrgetter("inexact"), self.operations)))
        # The class is frozen; what it is made of decides.
        object.__setattr__(self, "inexact", losses)

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """First to last."""
        for operation in self.operations:
            arrays = operation.from_torch(arrays)
        return arrays

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Last to first."""
        for operation in reversed(self.operations):
            arrays = operation.to_torch(arrays)
        return arrays

    def gradients_to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Last to first."""
        for operation in reversed(self.operations):
            arrays = operation.gradients_to_torch(arrays)
        return arrays
