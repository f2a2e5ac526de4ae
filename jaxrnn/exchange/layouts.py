"""How other frameworks lay out the weights of convolutions, heads, norms and recurrent layers.

More operations for the entries of a weight map, beside those of `operations`. Each names the layers
that need it. Shapes: O outputs, I inputs, k kernel sizes, H hidden size, G gates, L layers.
"""

import math
from dataclasses import dataclass

import numpy as np

from jaxrnn.exchange.operations import Identity, Operation


@dataclass(frozen=True)
class PermuteAxes(Operation):
    """The axes in another order, as in `numpy.transpose`.

    Args:
        order: axis k of the other framework is PyTorch's axis `order[k]`.
    """

    order: tuple[int, ...]

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Permute the axes."""
        return [np.transpose(array, self.order) for array in arrays]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Permute them back."""
        back = np.argsort(self.order).tolist()  # the inverse of a permutation
        return [np.transpose(array, back) for array in arrays]


@dataclass(frozen=True)
class Reshape(Operation):
    """The same numbers in another shape, such as a bias (O,) as (O, 1, 1).

    Args:
        torch_shape: the shape in PyTorch.
        shape: the shape in the other framework.
    """

    torch_shape: tuple[int, ...]
    shape: tuple[int, ...]

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Give each the other framework's shape."""
        return [_reshaped(array, self.torch_shape, self.shape) for array in arrays]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Give each PyTorch's shape."""
        return [_reshaped(array, self.shape, self.torch_shape) for array in arrays]


def _reshaped(array: np.ndarray, before: tuple[int, ...], after: tuple[int, ...]) -> np.ndarray:
    # NumPy would take any array of as many numbers.
    if array.shape != before:
        raise ValueError(f"expected shape {before}, got {array.shape}")
    return array.reshape(after)


@dataclass(frozen=True)
class Convolution(Operation):
    """A kernel (O, I, *k) in PyTorch, (*k, I, O) in Flax, Haiku and Keras, of any rank and groups.

    With groups, I is the number of inputs of one group in all of them. Equinox has PyTorch's
    layout.
    """

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Channels last, outputs behind inputs."""
        return [np.transpose(array, (*range(2, array.ndim), 1, 0)) for array in arrays]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs and inputs first."""
        moved = []
        for array in arrays:
            inputs, outputs = array.ndim - 2, array.ndim - 1
            moved.append(np.transpose(array, (outputs, inputs, *range(inputs))))
        return moved


@dataclass(frozen=True)
class TransposedConvolution(Operation):
    """A transposed convolution's kernel, (I, O / groups, *k) in PyTorch.

    PyTorch defines it as the gradient of a convolution, Flax by default as a convolution of the
    dilated input, whose kernel lies the other way round along each spatial axis.

    Args:
        layout: the other framework's axes: "kIO" is (*k, I, O), for `flax.linen.ConvTranspose` and
            `flax.nnx.ConvTranspose`; "kOI" is (*k, O, I), for both with `transpose_kernel=True`,
            for Keras and for Haiku; "OIk" is (O, I / groups, *k), for Equinox.
        flip: whether the other framework's kernel lies the other way round. So it does in Flax
            without `transpose_kernel`, in Haiku and in Equinox, and not in Keras.
        groups: of the convolution; other than 1 only in the layout "OIk".
    """

    layout: str = "kIO"
    flip: bool = True
    groups: int = 1

    def __post_init__(self) -> None:
        if self.layout not in ("kIO", "kOI", "OIk"):
            raise ValueError(f"layout must be kIO, kOI or OIk, got {self.layout!r}.")
        if self.groups != 1 and self.layout != "OIk":
            raise ValueError(f"groups must be 1 in the layout {self.layout}, got {self.groups}.")

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Flip the spatial axes, then move the others."""
        moved = []
        for array in arrays:
            array = self._swapped(self._flipped(array))  # (O, I / groups, *k)
            if self.layout == "kIO":
                array = np.transpose(array, (*range(2, array.ndim), 1, 0))
            elif self.layout == "kOI":
                array = np.transpose(array, (*range(2, array.ndim), 0, 1))
            moved.append(array)
        return moved

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Move the axes back, then flip."""
        moved = []
        for array in arrays:
            spatial = range(array.ndim - 2)
            if self.layout == "kIO":
                array = np.transpose(array, (array.ndim - 1, array.ndim - 2, *spatial))
            elif self.layout == "kOI":
                array = np.transpose(array, (array.ndim - 2, array.ndim - 1, *spatial))
            moved.append(self._flipped(self._swapped(array)))
        return moved

    def _flipped(self, array: np.ndarray) -> np.ndarray:
        # The first two axes are channels.
        return np.flip(array, tuple(range(2, array.ndim))) if self.flip else array

    def _swapped(self, array: np.ndarray) -> np.ndarray:
        # (I, O / groups, *k) to (O, I / groups, *k), or back: the same exchange within each group.
        groups = np.split(array, self.groups)
        return np.concatenate([np.swapaxes(group, 0, 1) for group in groups])


@dataclass(frozen=True)
class SplitOutputs(Operation):
    """A dense layer whose outputs have several axes: kernel (I, *shape) and bias of that shape.

    In PyTorch they are (O, I) and (O,), with O the product of the shape. It is the layout of
    queries, keys and values in Flax (`DenseGeneral`, `MultiHeadDotProductAttention`) and Keras,
    with (heads, head size) as the shape.
    """

    shape: tuple[int, ...]

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs last, and their axis split."""
        return [array.T.reshape(*array.shape[1:], *self.shape) for array in arrays]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """One axis of outputs, first."""
        moved = []
        for array in arrays:
            if array.shape[-len(self.shape) :] != self.shape:
                raise ValueError(f"expected outputs of shape {self.shape}, got {array.shape}")
            inputs = array.shape[: -len(self.shape)]  # (I,) of a kernel, () of a bias
            moved.append(array.reshape(*inputs, math.prod(self.shape)).T)
        return moved


@dataclass(frozen=True)
class SplitInputs(Operation):
    """A dense kernel whose inputs have several axes, (*shape, O); in PyTorch (O, I).

    It is the layout of the output projection of attention in Flax and Keras, with
    (heads, head size) as the shape.
    """

    shape: tuple[int, ...]

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs last, and the axis of inputs split."""
        return [array.T.reshape(*self.shape, *array.shape[:1]) for array in arrays]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """One axis of inputs, last."""
        moved = []
        for array in arrays:
            if array.shape[:-1] != self.shape:
                raise ValueError(f"expected inputs of shape {self.shape}, got {array.shape}")
            moved.append(array.reshape(math.prod(self.shape), array.shape[-1]).T)
        return moved


@dataclass(frozen=True)
class InterleaveHeads(Operation):
    """Fused queries, keys and values: (3, heads, size) along PyTorch's first axis, (heads, 3, size)
    in the other framework.

    Args:
        num_heads: the number of heads.
        parts: how many are fused, 3 of them.
    """

    num_heads: int
    parts: int = 3

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Part by part to head by head."""
        return [self._exchanged(array, self.parts, self.num_heads) for array in arrays]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Head by head to part by part."""
        return [self._exchanged(array, self.num_heads, self.parts) for array in arrays]

    def _exchanged(self, array: np.ndarray, outer: int, inner: int) -> np.ndarray:
        split = array.reshape(outer, inner, -1, *array.shape[1:])  # (3, heads, size, ...)
        return np.swapaxes(split, 0, 1).reshape(array.shape)


@dataclass(frozen=True)
class ConcatenateInputs(Operation):
    """(G * H, I) and (G * H, H) in PyTorch, one (I + H, G * H) that multiplies [x, h].

    Args:
        gates: G; `haiku.LSTM` has 4.
    """

    gates: int

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Side by side, outputs last."""
        return [np.concatenate(arrays, axis=1).T]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Take them apart."""
        (array,) = arrays
        hidden_size = array.shape[1] // self.gates
        return [array[:-hidden_size].T, array[-hidden_size:].T]


@dataclass(frozen=True)
class FoldGruBiases(Operation):
    """A GRU's two biases (3 H,) in PyTorch; in the other framework b_ih + b_hh of the gates r and z
    beside b_in, (3 H,), and b_hn alone, (H,).

    Args:
        split: whether the first three are arrays of their own, as in `flax.linen.GRUCell`;
            `equinox.nn.GRUCell` has one array.
    """

    split: bool = False
    inexact: str = (
        "the biases of two gates of three are folded into one, so the gradient's norm, clipping, "
        "the optimizer's update and every trajectory mean something else"
    )

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Sums of the first two gates; the candidate's two as they are."""
        input_bias, hidden_bias = arrays
        r, z, hidden = np.split(hidden_bias, 3)
        folded = input_bias + np.concatenate([r, z, np.zeros_like(hidden)])
        return [*(np.split(folded, 3) if self.split else [folded]), hidden]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The folded ones as biases of the input, and zeros for those of the hidden state."""
        *folded, hidden = arrays
        nothing = np.zeros_like(hidden)
        return [np.concatenate(folded), np.concatenate([nothing, nothing, hidden])]

    def gradients_to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The gradient of a sum is that of either."""
        *folded, hidden = arrays
        gradient = np.concatenate(folded)  # (3 H,)
        return [gradient, np.concatenate([gradient[: -len(hidden)], hidden])]


@dataclass(frozen=True)
class OffsetGate(Operation):
    """A constant that the other framework adds to one gate by itself, taken off its bias.

    `haiku.LSTM` adds 1 to its forget gate, the third of its four.

    Args:
        gate: its number in the other framework's order.
        gates: G.
        offset: what is added there.
    """

    gate: int
    gates: int
    offset: float = 1.0
    inexact: str = (
        "the other framework adds a constant to a gate's bias, so weight decay and rounding mean "
        "something else"
    )

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Take the constant off."""
        return [self._moved(array, -self.offset) for array in arrays]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Add the constant."""
        return [self._moved(array, self.offset) for array in arrays]

    def gradients_to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """A constant changes no gradient."""
        return arrays

    def _moved(self, array: np.ndarray, offset: float) -> np.ndarray:
        offsets = np.zeros(self.gates)
        offsets[self.gate] = offset
        return array + np.repeat(offsets, len(array) // self.gates).astype(array.dtype)


@dataclass(frozen=True)
class Inverse(Operation):
    """Another operation the other way round: what it does from PyTorch is done on the way back.

    `Inverse(SplitGates(3))` makes one fused array of PyTorch's queries, keys and values.
    """

    operation: Operation

    def __post_init__(self) -> None:
        if self.operation.inexact:
            raise ValueError(f"operation must lose nothing to have an inverse: {self.operation}.")

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The way back of the operation."""
        return self.operation.to_torch(arrays)

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The operation itself."""
        return self.operation.from_torch(arrays)


@dataclass(frozen=True)
class Stacked(Operation):
    """The same operation on each of `layers` layers, whose arrays the other framework stacks.

    PyTorch's keys are those of the first layer, then those of the second, and so on; each array of
    the other framework has a leading layer axis, as `flax.linen.scan` over layers makes it.
    """

    layers: int
    operation: Operation = Identity()  # noqa: RUF009  (frozen, without fields)
    inexact: str = ""

    def __post_init__(self) -> None:
        # The class is frozen; what it is made of decides.
        object.__setattr__(self, "inexact", self.operation.inexact)

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Each layer's arrays by the operation, then stacked."""
        size, rest = divmod(len(arrays), self.layers)
        if rest:
            raise ValueError(f"{len(arrays)} arrays are no {self.layers} layers")
        by_layer = []
        for first in range(0, len(arrays), size):
            by_layer.append(self.operation.from_torch(arrays[first : first + size]))
        return [np.stack(layers) for layers in zip(*by_layer, strict=True)]  # (L, ...) each

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Each layer's arrays, taken back."""
        moved = []
        for layer in zip(*arrays, strict=True):
            moved += self.operation.to_torch(list(layer))
        return moved

    def gradients_to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Each layer's gradients."""
        moved = []
        for layer in zip(*arrays, strict=True):
            moved += self.operation.gradients_to_torch(list(layer))
        return moved


@dataclass(frozen=True)
class Tied(Operation):
    """One weight of PyTorch's under two or more keys, a single one in the other framework.

    Args:
        keys: how many keys it has.
        operation: what happens to the one array.
    """

    keys: int = 2
    operation: Operation = Identity()  # noqa: RUF009  (frozen, without fields)

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The one weight, by the operation."""
        first, *others = arrays
        if not all(np.array_equal(first, other) for other in others):
            raise ValueError("tied weights must be equal, and are not")
        return self.operation.from_torch([first])

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The weight under each key."""
        return self.operation.to_torch(arrays) * self.keys

    def gradients_to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The gradient under each key: PyTorch's one weight has a single gradient, the sum."""
        return self.operation.gradients_to_torch(arrays) * self.keys


@dataclass(frozen=True)
class Fill(Operation):
    """A weight of the other framework's that PyTorch does not have, with one value everywhere.

    Such as the scale of a norm without weights, or a bias that is zero. The entry has no keys.
    """

    shape: tuple[int, ...]
    value: float = 0.0
    inexact: str = "the weight has no counterpart in PyTorch, and is left out of the comparison"

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The value."""
        return [np.full(self.shape, self.value)]

    def to_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Nothing."""
        return []
