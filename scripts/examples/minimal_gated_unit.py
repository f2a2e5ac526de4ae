"""The minimal gated unit in Flax's form: one gate instead of the GRU's two.

Zhou et al. 2016, https://arxiv.org/abs/1603.09420.

    ./scripts/jaxrnn train --model CharLM --cell scripts/examples/minimal_gated_unit.py:MINIMAL
"""

import jax
import jax.numpy as jnp

from jaxrnn import Cell, Hidden, gates_of


def step(carry: Hidden, x_gates: jax.Array, h_gates: jax.Array) -> Hidden:
    """The next carry, from both halves of the gates, (B, 2 * H) each."""
    x_f, x_n = gates_of(x_gates, 2)  # (B, H) each
    h_f, h_n = gates_of(h_gates, 2)
    f = jax.nn.sigmoid(x_f + h_f)
    n = jnp.tanh(x_n + f * h_n)
    return Hidden((1 - f) * n + f * carry.h)


MINIMAL = Cell("minimal", gates=("f", "n"), step=step)
