"""`jax.experimental.rnn.lstm`: cuDNN's LSTM as a JAX function; a GPU only.

Its weights are one vector: the matrices of all layers, then their biases, in torch's gate order.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import rnn

from benchmarks.baselines.jax_training import Network, zeros
from benchmarks.cases import EMBEDDING, Case
from benchmarks.data import BIASES, Weights

MATRICES = ("weight_ih", "weight_hh")


def network(case: Case, weights: Weights) -> Network:
    """The model with torch's weights.

    Raises:
        ValueError: for another cell than the LSTM.
    """
    if case.cell != "lstm":
        raise ValueError(f"jax.experimental.rnn has an LSTM only, not {case.cell}.")
    layers = range(case.num_layers)
    names = [f"rnn.{name}_l{k}" for kind in (MATRICES, BIASES) for k in layers for name in kind]
    params = {
        "e": weights["e.weight"],
        "rnn": np.concatenate([weights[name].ravel() for name in names]),
        "kernel": weights["l_out.weight"].T,
        "bias": weights["l_out.bias"],
    }
    carry = jnp.stack([zeros(case)] * case.num_layers)  # (L, B, H)
    lengths = jnp.full(case.batch_size, case.steps, jnp.int32)

    def logits(params: Any, carry: Any, tokens: Any) -> tuple[Any, Any]:
        xs = params["e"][tokens].swapaxes(0, 1)  # (B, T, F): batches come first
        ys, h, c = rnn.lstm(
            xs,
            *carry,
            params["rnn"],
            lengths,
            EMBEDDING,
            case.hidden_size,
            case.num_layers,
            0.0,
            False,
            lax.Precision.HIGHEST,
        )
        return (h, c), ys.swapaxes(0, 1) @ params["kernel"] + params["bias"]

    return Network(params, (carry, carry), logits)
