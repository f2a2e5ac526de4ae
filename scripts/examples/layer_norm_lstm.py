"""The LSTM with layer norms: a free cell, whose step is any function.

Ba, Kiros and Hinton 2016, supplement, https://arxiv.org/abs/1607.06450.

    ./scripts/jaxrnn train --model CharLM --cell scripts/examples/layer_norm_lstm.py:NORMED
"""

import jax
import jax.numpy as jnp

from jaxrnn import FreeCell, HiddenAndCell, gates_of


def norm(x: jax.Array, gain: jax.Array, bias: jax.Array) -> jax.Array:
    """Rows of mean 0 and variance 1, times the gain, plus the bias."""
    centered = x - x.mean(-1, keepdims=True)
    return gain * centered / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) + bias


def init(key: jax.Array, input_size: int, hidden_size: int) -> dict[str, jax.Array]:
    """The parameters by name."""
    I, H = input_size, hidden_size
    zeros = {"bias": 4 * H, "bias_ih": 4 * H, "bias_hh": 4 * H, "bias_c": H}
    params = {name: jnp.zeros(size) for name, size in zeros.items()}
    params |= {"gain_ih": jnp.ones(4 * H), "gain_hh": jnp.ones(4 * H), "gain_c": jnp.ones(H)}
    weight = jax.random.uniform(key, (4 * H, I + H), minval=-0.1, maxval=0.1)
    return params | {"weight_ih": weight[:, :I], "weight_hh": weight[:, I:]}


def step(p: dict, carry: HiddenAndCell, x: jax.Array) -> tuple[HiddenAndCell, jax.Array]:
    """The next carry, and the output, (B, H)."""
    gates = norm(x @ p["weight_ih"].T, p["gain_ih"], p["bias_ih"]) + p["bias"]  # (B, 4 * H)
    i, f, g, o = gates_of(gates + norm(carry.h @ p["weight_hh"].T, p["gain_hh"], p["bias_hh"]), 4)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(norm(c, p["gain_c"], p["bias_c"]))
    return HiddenAndCell(h, c), h


NORMED = FreeCell("normed", init, step, HiddenAndCell)
