"""Deliberate faults in embeddings, outputs and losses; see `parity.mutation.cell_patches`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

import jaxrnn.recurrent.compiled.calls
import jaxrnn.recurrent.scan
import jaxrnn.training.steps
from jaxrnn.recurrent.embedded import EmbeddedTokens
from parity.mutation.cell_patches import Fault, both, only_scanned, replaced, wrapped


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
    """The gates of a step as `row(table, tokens)`, where they are looked up in `lax.scan`."""
    return both(only_scanned(), replaced(jaxrnn.recurrent.scan, "_embedded_tokens", row))


def summing_up(gradient: Callable[..., Any]) -> Fault:
    """The gradient of the table as `gradient(rows, tokens, gradients)`, in `lax.scan`."""
    return both(only_scanned(), replaced(jaxrnn.recurrent.scan, "_gather_transposed", gradient))


def counted_once(rows: int, tokens: Any, gradients: Any) -> Any:
    """A row that was looked up several times has the gradient of one of them."""
    width = gradients.shape[-1]
    flat = gradients.reshape(-1, width)
    return jnp.zeros((rows, width), flat.dtype).at[tokens.reshape(-1)].set(flat)


def compiled_with(call: str, change: Callable[[Any], Any]) -> Fault:
    """One of the two calls of the compiled recurrence, with its results changed."""

    def around(run: Callable[..., Any]) -> Any:
        """The changed call."""
        return lambda *arguments, **options: change(run(*arguments, **options))

    return wrapped(jaxrnn.recurrent.compiled.calls, call, around)


def table_gradient(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Changes the gradient of the table in what the compiled backward call gives."""

    def changed(inputs: Any) -> Any:
        """The same gradients but for that one."""
        x_gates = inputs.x_gates
        if not isinstance(x_gates, EmbeddedTokens):
            return inputs
        return inputs._replace(x_gates=x_gates._replace(table=change(x_gates.table)))

    return changed
