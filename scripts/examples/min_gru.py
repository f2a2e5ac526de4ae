"""minGRU: gates of the input alone, so that time may run in parallel.

Feng et al. 2024, https://arxiv.org/abs/2410.01201.

    ./scripts/jaxrnn train --model CharLM --cell scripts/examples/min_gru.py:MINIMAL_GRU
"""

import jax
import jax.numpy as jnp

from jaxrnn import LinearCell, gates_of


def coefficients(gates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a and b of h' = a * h + b, from the gates, (..., 2 * H)."""
    z, n = gates_of(gates, 2)
    z = jax.nn.sigmoid(z)
    candidate = jnp.where(n >= 0, n + 0.5, jax.nn.sigmoid(n))  # above 0
    return 1 - z, z * candidate


MINIMAL_GRU = LinearCell("minimal-gru", ("z", "n"), coefficients=coefficients)
