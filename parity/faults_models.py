"""Deliberate faults in embeddings, outputs and losses; see `parity.faults`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

import jaxrnn.nn.recurrence
import jaxrnn.training.steps
from parity.faults import Fault, replaced, wrapped


def loss_with(change: Callable[..., Any]) -> Fault:
    """The loss as `change(loss, log_probs, targets, weights)`."""

    def around(loss: Any) -> Any:
        """The changed loss."""
        return lambda log_probs, targets, weights=None: change(loss, log_probs, targets, weights)

    return wrapped(jaxrnn.training.steps, "nll_loss", around)


def log_softmax_with(value: Callable[[Any], Any]) -> Fault:
    """Every model's last step replaced."""
    return replaced(nn, "log_softmax", value)


def embedding_with(change: Callable[[Any, Any], Any]) -> Fault:
    """The embedding's lookup as `change(table, tokens)`."""

    def lookup(self: nn.Embed, tokens: Any) -> Any:
        """As `Embed.__call__`."""
        table = self.embedding
        return change(table, tokens)

    return replaced(nn.Embed, "__call__", lookup)


def looking_up(row: Callable[[Any, Any], Any]) -> Fault:
    """The gates of a step as `row(table, tokens)`, where they are looked up."""
    return replaced(jaxrnn.nn.recurrence, "_look_up", row)


def counted_once(rows: int, tokens: Any, gradients: Any) -> Any:
    """A row that was looked up several times has the gradient of one of them."""
    width = gradients.shape[-1]
    flat = gradients.reshape(-1, width)
    return jnp.zeros((rows, width), flat.dtype).at[tokens.reshape(-1)].set(flat)
