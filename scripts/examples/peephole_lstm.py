"""The LSTM whose gates see the cell state, through a weight a unit.

Gers et al. 2002, https://www.jmlr.org/papers/v3/gers02a.html.

    ./scripts/jaxrnn train --model CharLM --cell scripts/examples/peephole_lstm.py:PEEPHOLE
"""

import jax
import jax.numpy as jnp

from jaxrnn import Cell, HiddenAndCell, gates_of


def step(
    carry: HiddenAndCell,
    x_gates: jax.Array,
    h_gates: jax.Array,
    *,
    p_i: jax.Array,
    p_f: jax.Array,
    p_o: jax.Array,
) -> HiddenAndCell:
    """The next carry; the gates are (B, 4 * H), the peepholes (H,)."""
    i, f, g, o = gates_of(x_gates + h_gates, 4)  # (B, H) each
    i = jax.nn.sigmoid(i + p_i * carry.c)
    f = jax.nn.sigmoid(f + p_f * carry.c)
    c = f * carry.c + i * jnp.tanh(g)
    o = jax.nn.sigmoid(o + p_o * c)  # sees the new cell state
    return HiddenAndCell(o * jnp.tanh(c), c)


# A layer makes and trains the parameters that the step takes by name.
PEEPHOLE = Cell("peephole", tuple("ifgo"), step, HiddenAndCell, params=("p_i", "p_f", "p_o"))
