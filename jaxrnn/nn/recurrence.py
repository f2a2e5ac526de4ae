"""Run a cell over time.

Shapes: T time steps, B batch, H hidden size, G the number of gates of the cell.

The products with the input need no carry, so the caller makes them for all steps at once; what
is left for the loop is one product with the recurrent weight and the cell's elementwise step.
There are two ways to run it: `jaxrnn.nn.scanned`, a `lax.scan` for any cell, and on CPUs, for the
usual cells, `jaxrnn.native`, the same loop compiled with the product and the step in one.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.native.calls import compiled, runs_compiled
from jaxrnn.nn.cells import Carry, Cell
from jaxrnn.nn.lookup import Lookup
from jaxrnn.nn.scanned import scanned


def input_gates(
    xs: Float[Array, "T B I"] | Lookup, weight_ih: Float[Array, "GH I"], bias_ih: Array
) -> Float[Array, "T B GH"] | Lookup:
    """The input half of the gates at every step: x @ weight_ih.T + bias_ih."""
    if isinstance(xs, Lookup):
        return xs._replace(table=xs.table @ weight_ih.T + bias_ih)
    return xs @ weight_ih.T + bias_ih


def alive_steps(lengths: Int[Array, " B"], steps: int) -> Bool[Array, "T B"]:
    """Which of `steps` time steps lie within each sequence's length."""
    return jnp.arange(steps)[:, None] < lengths[None, :]


def recurrence(
    cell: Cell,
    reverse: bool,
    weight_hh: Float[Array, "GH H"],
    bias_hh: Float[Array, " GH"],
    carry: Carry,
    x_gates: Float[Array, "T B GH"] | Lookup,
    alive: Bool[Array, "T B"] | None = None,
) -> tuple[Carry, Float[Array, "T B H"]]:
    """Run `cell` over the T steps of `x_gates`, from the last one to the first if `reverse`.

    Args:
        cell: the cell.
        reverse: whether time runs backwards; `ys[t]` belongs to `x_gates[t]` either way.
        weight_hh: the recurrent weight.
        bias_hh: the recurrent bias.
        carry: the carry before the first step that is run.
        x_gates: the input half of the gates, or where to look it up.
        alive: where False, the step leaves the carry as it is and its output is zero. None
            runs every step.

    Returns:
        The carry after the last step that is run, and the output of every step.
    """

    run = compiled if runs_compiled(cell, weight_hh) else scanned
    return run(cell, reverse, weight_hh, bias_hh, carry, x_gates, alive)
