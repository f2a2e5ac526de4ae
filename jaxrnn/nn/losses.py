"""Losses, in nats per character.

Shapes: T time steps, B batch, V vocabulary.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrnn.array_checks import as_array, as_floats, as_integers, as_lengths, converted


def nll_loss(
    log_probs: Float[Array, "*N V"],
    targets: Int[Array, "*N"],
    weights: Float[Array, "*N"] | None = None,
) -> Float[Array, ""]:
    """Mean negative log likelihood of the targets.

    Args:
        log_probs: log probabilities, of a model's last step (B, V) or of every step (T, B, V).
        targets: the true tokens, in [0, V). A value outside adds nothing to the sum, so check
            tokens before they get here (`Vocabulary.encode` never makes one).
        weights: the weight of each target, at least 0; one each if None. The mean is over the
            sum of the weights, and NaN when that is zero, as in torch when all are ignored.

    Raises:
        ValueError: if the shapes do not fit, or the targets are no integers.
    """
    log_probs = converted("log_probs", log_probs, "(..., V)")
    if not log_probs.ndim:
        raise ValueError("log_probs must have shape (..., V), got ().")
    log_probs = as_floats("log_probs", log_probs, log_probs.shape, log_probs.dtype)
    targets = as_integers("targets", targets, log_probs.shape[:-1])
    if weights is not None:
        weights = as_array("weights", weights, targets.shape)
    # A comparison instead of a gather: a target outside [0, V) adds nothing, and the gradient needs
    # no scatter.
    tokens = jnp.arange(log_probs.shape[-1], dtype=targets.dtype)  # (V,)
    chosen = jnp.where(targets[..., None] == tokens, log_probs, 0).sum(-1)  # (..., V) -> (...)
    if weights is None:
        return -chosen.mean()
    return -(chosen * weights).sum() / weights.sum()


def nll_loss_seq(
    log_probs: Float[Array, "T B V"],
    targets: Int[Array, "T B"],
    lengths: Int[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """`nll_loss` over sequences, of which the first `lengths` steps count, or all T."""
    log_probs = as_array("log_probs", log_probs, ("T", "B", "V"))
    if lengths is None:
        return nll_loss(log_probs, targets)
    lengths = as_lengths(lengths, log_probs.shape[1], log_probs.shape[0])
    mask = jnp.arange(log_probs.shape[0])[:, None] < lengths[None, :]  # (T, B)
    return nll_loss(log_probs, targets, mask.astype(log_probs.dtype))


def bits_per_character(nats: float) -> float:
    """Nats per character in bits per character: nats / ln 2."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """exp(nats): the number of equally likely characters that would have the same loss."""
    if nats >= 700:
        return math.inf  # exp of more is no float
    return math.exp(nats)
