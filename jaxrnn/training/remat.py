"""Long windows in little memory: only a segment's activations are kept at once.

Shapes: T time steps, B batch, V vocabulary, S time steps of a segment.

The forward pass keeps the carry at the beginning of each segment; the backward pass computes a
segment again before it goes through it. Memory grows with T / S + S instead of T, for one more
forward pass. The gradient flows through the whole window as ever. Chen et al. 2016,
https://arxiv.org/abs/1604.06174.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxrnn.nn.losses import nll_loss
from jaxrnn.nn.model import CharModel, apply_model
from jaxrnn.recurrent.cells import Carry


def remat_loss(
    model: CharModel,
    params: Any,
    carry: Carry,
    inputs: Array,
    targets: Array,
    *,
    remat_every: int,
    weights: Float[Array, "T B"] | None = None,
    lengths: Array | None = None,
    key: Array | None = None,
) -> tuple[Float[Array, ""], Carry]:
    """The mean loss on a window, in nats per character, and the carry after it.

    Args:
        model: a model that predicts at every step and takes the carry on.
        params: its parameters.
        carry: the carry before the window.
        inputs: (T, B) tokens.
        targets: (T, B), the token after each.
        remat_every: S, at least 1. The last segment may be shorter.
        weights: how much each target counts; one each if None.
        lengths: (B,), how many of the T steps of each row count; all if None.
        key: of the dropout masks, of which each segment draws its own; None leaves dropout out.

    Raises:
        ValueError: if S is below 1 or the model reads no streams.
    """
    if remat_every < 1:
        raise ValueError(f"remat_every must be at least 1, got {remat_every}.")
    if model.reads != "streams":
        raise ValueError(
            f"{type(model).__name__} reads windows of its own; remat_every is for models whose "
            "carry goes on."
        )
    steps, batch_size = inputs.shape
    weights = jnp.ones((steps, batch_size), _dtype(params)) if weights is None else weights
    whole = steps // remat_every * remat_every
    loss_of = jax.checkpoint(partial(_loss_of_segment, model, params, lengths, key))

    def body(carried: tuple[Carry, Array], part: Any) -> tuple[tuple[Carry, Array], None]:
        carry, total = carried
        carry, loss = loss_of(carry, *part)
        return (carry, total + loss), None

    parts = [_cut(array[:whole], remat_every) for array in (inputs, targets, weights)]
    starts = jnp.arange(0, whole, remat_every)
    zero = jnp.zeros((), weights.dtype)
    (carry, total), _ = lax.scan(body, (carry, zero), (*parts, starts))
    if whole < steps:
        rest = (inputs[whole:], targets[whole:], weights[whole:], jnp.asarray(whole))
        (carry, total), _ = body((carry, total), rest)
    return total / weights.sum(), carry


def _loss_of_segment(
    model: CharModel,
    params: Any,
    lengths: Array | None,
    key: Array | None,
    carry: Carry,
    inputs: Array,
    targets: Array,
    weights: Array,
    start: Array,
) -> tuple[Carry, Array]:
    """The carry after a segment, and the sum of its losses."""
    steps = len(inputs)
    carry, log_probs = apply_model(
        model,
        params,
        carry,
        inputs,
        lengths=None if lengths is None else jnp.clip(lengths - start, 0, steps),
        dropout_key=None if key is None else jax.random.fold_in(key, start),
    )
    count = weights.sum()
    mean = nll_loss(log_probs, targets, jnp.where(count == 0, 1, weights))
    return carry, jnp.where(count == 0, 0, mean * count)


def _cut(array: Array, remat_every: int) -> Array:
    """(T, B) to (T / S, S, B)."""
    return array.reshape(-1, remat_every, *array.shape[1:])


def _dtype(params: Any) -> Any:
    return jax.tree.leaves(params)[0].dtype
