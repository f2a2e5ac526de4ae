"""A model of whole sequences of numbers: recurrent layers, and a dense layer behind the last step.

Shapes: T time steps, B batch, I input size, H hidden size, D directions, O outputs.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrnn.checks import check_at_least_1
from jaxrnn.nn.layers import RNN, cell_of, dense
from jaxrnn.recurrent.cells import GRU, AnyCell


class SequenceModel(nn.Module):
    """Many-to-one: what a sequence ends with goes through a dense layer.

    The last layer's `h` after each sequence's own last step, of both directions side by side, as
    `h_n` of PyTorch's modules over a packed sequence.

    Attributes:
        outputs: O, the number of values to predict, or of classes.
        cell: the recurrent cell, or its name.
        hidden_size: H.
        num_layers: number of recurrent layers.
        bidirectional: whether a second recurrence reads the sequence from its end.
        dropout: the share of each layer's outputs, but the last's, that is dropped in training.
    """

    outputs: int
    cell: AnyCell = GRU
    hidden_size: int = 64
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.cell = cell_of(self.cell)
        check_at_least_1(outputs=self.outputs)
        self._stack(parent=None)  # its own checks
        super().__post_init__()

    def _stack(self, **options: Any) -> RNN:
        """The recurrent layers."""
        return RNN(
            self.cell,
            self.hidden_size,
            self.num_layers,
            self.bidirectional,
            self.dropout,
            **options,
        )

    @nn.compact
    def __call__(
        self, xs: Float[Array, "T B I"], *, lengths: Int[Array, " B"] | None = None
    ) -> Float[Array, "B O"]:
        carry, _ = self._stack(name="rnn")(None, xs, lengths=lengths)
        directions = 2 if self.bidirectional else 1
        h = jnp.concatenate([layer.h for layer in carry[-directions:]], axis=-1)  # (B, D * H)
        return dense(self.outputs, directions * self.hidden_size, name="l_out")(h)  # (B, O)
