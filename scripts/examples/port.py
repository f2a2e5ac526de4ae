"""The same two models in Flax Linen, with channels last inside, and the same training."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

SIZE, HEADS, HIDDEN, BLOCKS, CLASSES = 16, 4, 32, 12, 5


class Block(nn.Module):
    """Attention and a dense part, each behind a norm and beside what comes in."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, E) to (B, T, E)."""
        y = nn.LayerNorm(epsilon=1e-5, name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, name="attention")(y)
        y = nn.Dense(HIDDEN, name="wide")(nn.LayerNorm(epsilon=1e-5, name="norm2")(x))
        return x + nn.Dense(SIZE, name="narrow")(nn.gelu(y, approximate=False))


class Transformer(nn.Module):
    """Blocks, a norm, and the scores of each class."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, E) to (B, classes)."""
        for k in range(BLOCKS):
            x = Block(name=f"blocks_{k}")(x)
        return nn.Dense(CLASSES, name="head")(nn.LayerNorm(epsilon=1e-5, name="norm")(x.mean(1)))


class ConvNet(nn.Module):
    """Two convolutions with group norm, the mean over the picture, and the scores."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, channels, Y, X) to (B, classes)."""
        x = jnp.moveaxis(x, 1, -1)  # (B, Y, X, channels)
        x = nn.Conv(8, (3, 3), padding=1, name="conv1")(x)
        x = nn.relu(nn.GroupNorm(4, epsilon=1e-5, name="norm1")(x))
        x = nn.Conv(12, (3, 3), 2, padding="VALID", name="conv2")(x)
        x = nn.relu(nn.GroupNorm(4, epsilon=1e-5, name="norm2")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


def training(
    apply: Callable[..., jax.Array],
) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """The state before training, and the step: Adam on the cross-entropy of a batch."""
    optimizer = optax.adam(1e-3)

    def loss(params: Any, batch: Any) -> jax.Array:
        scores = apply(params, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(scores, batch["y"]).mean()

    def init(params: Any) -> Any:
        return params, optimizer.init(params)

    def step(state: Any, batch: Any) -> Any:
        params, moments = state
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(params, updates), moments), value

    return init, step
