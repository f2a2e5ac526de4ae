"""The gated recurrent unit that resets h before the product, as its paper has it: a free cell.

Cho et al. 2014, version 3, https://arxiv.org/abs/1406.1078.

    ./scripts/jaxrnn train --model CharLM --cell scripts/examples/gru_reset_before.py:RESET_BEFORE
"""

import jax
import jax.numpy as jnp

from jaxrnn import FreeCell, Hidden, gates_of, uniform


def init(key: jax.Array, input_size: int, hidden_size: int) -> dict[str, jax.Array]:
    """The parameters by name, uniform in +-1 / sqrt(H) as PyTorch's."""
    GH = 3 * hidden_size
    weight_ih, weight_hh, bias_ih, bias_hh = jax.random.split(key, 4)
    start = uniform(hidden_size**-0.5)
    return {
        "weight_ih": start(weight_ih, (GH, input_size)),
        "weight_hh": start(weight_hh, (GH, hidden_size)),
        "bias_ih": start(bias_ih, (GH,)),
        "bias_hh": start(bias_hh, (GH,)),
    }


def step(p: dict, carry: Hidden, x: jax.Array) -> tuple[Hidden, jax.Array]:
    """The next carry, and the output, (B, H)."""
    x_r, x_z, x_n = gates_of(x @ p["weight_ih"].T + p["bias_ih"], 3)
    W_r, W_z, W_n = jnp.split(p["weight_hh"], 3)
    b_r, b_z, b_n = jnp.split(p["bias_hh"], 3)
    r = jax.nn.sigmoid(x_r + carry.h @ W_r.T + b_r)
    z = jax.nn.sigmoid(x_z + carry.h @ W_z.T + b_z)
    n = jnp.tanh(x_n + (r * carry.h) @ W_n.T + b_n)
    h = (1 - z) * n + z * carry.h
    return Hidden(h), h


RESET_BEFORE = FreeCell("reset before", init, step)
