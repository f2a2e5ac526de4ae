"""Cells: what a recurrent network does in one time step, as one elementwise function.

Shapes: B batch, H hidden size, G the number of gates of the cell.

A cell never multiplies matrices. `jaxrnn.recurrent.recurrence` hands it the two halves of the
gates,

    x_gates = x @ weight_ih.T + bias_ih        (B, G * H)
    h_gates = h @ weight_hh.T + bias_hh        (B, G * H)

and the cell turns them, with the carry, into the next carry. A cell of your own is the same few
lines and gets everything that is built on cells: layers, directions, training, generation.

    def step(carry, x_gates, h_gates):
        forget, candidate = gates_of(x_gates + h_gates, 2)
        forget = jax.nn.sigmoid(forget)
        return Hidden(forget * carry.h + (1 - forget) * jnp.tanh(candidate))

    FORGETFUL = Cell("forgetful", gates=("f", "n"), step=step)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrnn.registry import Registry


class Hidden(NamedTuple):
    """The carry of a cell whose whole memory is its output."""

    h: Float[Array, "B H"]


class HiddenAndCell(NamedTuple):
    """The carry of an LSTM: the output `h` and the cell state `c`."""

    h: Float[Array, "B H"]
    c: Float[Array, "B H"]


Carry = Any
"""A NamedTuple whose first field is `h`, the output; every field is (B, H)."""

Step = Callable[[Any, Float[Array, "B GH"], Float[Array, "B GH"]], Any]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: the shape of its carry and one elementwise step.

    Args:
        name: the name by which `CELLS` and a run's configuration know the cell.
        gates: one letter a gate, in the order of the rows of `weight_ih` and `weight_hh`.
        step: `step(carry, x_gates, h_gates) -> carry`, elementwise, with gates of (B, G * H).
        carry: the NamedTuple of the carry; `h` comes first.
    """

    name: str
    gates: tuple[str, ...]
    step: Step
    carry: Any = Hidden

    def zeros(self, batch_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32) -> Carry:
        """The carry from which a text starts: zeros, (B, H) a field."""
        return self.carry(
            *(jnp.zeros((batch_size, hidden_size), dtype) for _ in self.carry._fields)
        )


def gates_of(gates: Float[Array, "B GH"], count: int) -> list[Float[Array, "B H"]]:
    """Cut (B, G * H) into `count` gates of (B, H)."""
    return jnp.split(gates, count, axis=-1)


def _tanh_step(carry: Hidden, x_gates: Array, h_gates: Array) -> Hidden:
    return Hidden(jnp.tanh(x_gates + h_gates))


def _relu_step(carry: Hidden, x_gates: Array, h_gates: Array) -> Hidden:
    return Hidden(jax.nn.relu(x_gates + h_gates))


def _gru_step(carry: Hidden, x_gates: Array, h_gates: Array) -> Hidden:
    x_r, x_z, x_n = gates_of(x_gates, 3)
    h_r, h_z, h_n = gates_of(h_gates, 3)
    r = jax.nn.sigmoid(x_r + h_r)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return Hidden(n + z * (carry.h - n))


def _lstm_step(carry: HiddenAndCell, x_gates: Array, h_gates: Array) -> HiddenAndCell:
    i, f, g, o = gates_of(x_gates + h_gates, 4)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return HiddenAndCell(jax.nn.sigmoid(o) * jnp.tanh(c), c)


TANH = Cell("tanh", gates=("h",), step=_tanh_step)
"""h' = tanh(W_ih x + b_ih + W_hh h + b_hh), as `torch.nn.RNN`. Elman 1990."""

RELU = Cell("relu", gates=("h",), step=_relu_step)
"""h' = relu(W_ih x + b_ih + W_hh h + b_hh), as `torch.nn.RNN(nonlinearity="relu")`."""

GRU = Cell("gru", gates=("r", "z", "n"), step=_gru_step)
"""The gated recurrent unit as `torch.nn.GRU` computes it.

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = n + z * (h - n)

The reset gate multiplies the finished product, `b_hn` included. The paper multiplies `h` before
the product (Cho et al. 2014, https://arxiv.org/abs/1406.1078); the two are different functions.
"""

LSTM = Cell("lstm", gates=("i", "f", "g", "o"), step=_lstm_step, carry=HiddenAndCell)
"""Long short-term memory with a forget gate, as `torch.nn.LSTM`.

    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')

with i, f, g, o the quarters of W_ih x + b_ih + W_hh h + b_hh. Hochreiter and Schmidhuber 1997;
the forget gate is from Gers et al. 2000.
"""


def check_cell(cell: Any) -> None:
    """Refuse what is no `Cell`.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(cell, Cell):
        raise ValueError(f"it is of type {type(cell).__name__}, not a jaxrnn.Cell.")


BUILT_IN = (TANH, RELU, GRU, LSTM)

CELLS: Registry[Cell] = Registry("cell", check_cell, {cell.name: cell for cell in BUILT_IN})
"""The cells by name. One of your own is FILE.py:NAME, or is put in: `CELLS["mine"] = MINE`."""
