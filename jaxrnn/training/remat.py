"""Rematerialization: long windows in little memory.

Shapes: T time steps, B batch, V vocabulary, S time steps between two stored carries.

The forward pass stores the carry at every S-th step; the backward pass computes the S steps behind
it again before it goes through them. Memory grows with T / S + S instead of T, for one more
forward pass. The gradient flows through the whole window as ever. Chen et al. 2016,
https://arxiv.org/abs/1604.06174.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxrnn.checks import check_at_least_1
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
        model: a model that predicts at every step and returns its carry.
        params: its parameters.
        carry: the carry before the window.
        inputs: (T, B) tokens.
        targets: (T, B), the token after each.
        remat_every: S, at least 1, and not necessarily a divisor of T.
        weights: the weight of each target; one each if None.
        lengths: (B,), number of the T steps of each row that count; all if None.
        key: the random key of the dropout masks, which are sampled anew every S steps; None leaves
            dropout out.

    Raises:
        ValueError: if S is below 1 or the model reads no streams.
    """
    check_at_least_1(remat_every=remat_every)
    if model.reads != "streams":
        raise ValueError(
            f"{type(model).__name__} reads windows of its own; remat_every is for models whose "
            "carry goes on."
        )
    steps, batch_size = inputs.shape
    if weights is None:
        weights = jnp.ones((steps, batch_size), jax.tree.leaves(params)[0].dtype)
    # jax.checkpoint stores the arguments of the function alone, not what is inside of it.
    loss_of = jax.checkpoint(partial(_partial_loss, model, params, lengths, key))

    def body(carried: tuple[Carry, Array], part: Any) -> tuple[tuple[Carry, Array], None]:
        carry, total = carried
        carry, loss = loss_of(carry, *part)
        return (carry, total + loss), None

    # S steps at a time.
    whole = steps // remat_every * remat_every
    arrays = (inputs, targets, weights)  # (T, B) each
    parts = [
        array[:whole].reshape(-1, remat_every, batch_size) for array in arrays
    ]  # (T / S, S, B)
    starts = jnp.arange(0, whole, remat_every)  # (T / S,)
    zero = jnp.zeros((), weights.dtype)
    (carry, total), _ = lax.scan(body, (carry, zero), (*parts, starts))
    # The rest, fewer than S.
    if whole < steps:
        rest = (inputs[whole:], targets[whole:], weights[whole:], jnp.asarray(whole))
        (carry, total), _ = body((carry, total), rest)
    return total / weights.sum(), carry


def _partial_loss(
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
    """The carry after S steps from `start` on, and the sum of their losses."""
    if lengths is not None:
        lengths = jnp.clip(lengths - start, 0, len(inputs))
    if key is not None:
        key = jax.random.fold_in(key, start)
    carry, log_probs = apply_model(model, params, carry, inputs, lengths=lengths, dropout_key=key)
    # Where no target counts, the mean is NaN, and so would be its gradient: the loss is taken with
    # other weights, and then not counted.
    count = weights.sum()
    mean = nll_loss(log_probs, targets, jnp.where(count == 0, 1, weights))
    return carry, jnp.where(count == 0, 0, mean * count)
