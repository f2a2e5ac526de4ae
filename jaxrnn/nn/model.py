"""What the models share, and how any of them is run.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.nn.cells import Carry
from jaxrnn.nn.layers import RNN, dense, embed, look_up

Reads = Literal["trigrams", "overlapping", "non-overlapping", "streams"]


class CharModel(nn.Module):
    """What all the models share.

    Attributes:
        vocabulary: V, the number of different tokens.
        embedding: F, the width of a token's vector (the course's `n_fac`).
        hidden: H, the width of the carry (the course's `n_hidden`).
    """

    vocabulary: int
    embedding: int = 42
    hidden: int = 256

    reads: ClassVar[Reads]
    """The data set that the model is made for."""

    def initial_carry(self, batch: int, dtype: DTypeLike = jnp.float32) -> Carry:
        """The carry from which a text starts; the empty tuple for a model without memory."""
        return ()


def apply_model(
    model: CharModel,
    params: Any,
    carry: Carry,
    tokens: Int[Array, "T B"],
    *,
    lengths: Int[Array, " B"] | None = None,
    dropout_key: Array | None = None,
) -> tuple[Carry, Float[Array, "*T B V"]]:
    """Run a model: the carry after the tokens, and log probabilities (B, V) or (T, B, V).

    Args:
        model: the model.
        params: its parameters.
        carry: the carry before the tokens, from `model.initial_carry` or an earlier call.
        tokens: the characters, time first.
        lengths: for a stateful model, how many of the T steps of each row count.
        dropout_key: of the dropout masks; None leaves dropout out.
    """
    options: dict[str, Any] = {} if lengths is None else {"lengths": lengths}
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    result: Any = model.apply({"params": params}, carry, tokens, rngs=rngs, **options)
    return result


class StatefulModel(CharModel):
    """A model whose carry goes on from one window of the text to the next."""

    reads: ClassVar[Reads] = "streams"

    @property
    def stack(self) -> RNN:
        """The recurrent layers, unbound; submodule `rnn` of the model."""
        raise TypeError(f"{type(self).__name__} does not say which recurrent layers it has.")

    def initial_carry(self, batch: int, dtype: DTypeLike = jnp.float32) -> Carry:
        return self.stack.initial_carry(batch, dtype)

    @nn.compact
    def __call__(
        self,
        carry: tuple[Carry, ...],
        tokens: Int[Array, "T B"],
        *,
        lengths: Int[Array, " B"] | None = None,
    ) -> tuple[tuple[Carry, ...], Float[Array, "T B V"]]:
        xs = look_up(embed(self.vocabulary, self.embedding, name="e"), tokens)
        carry, ys = self.stack.copy(name="rnn")(carry, xs, lengths=lengths)
        return carry, nn.log_softmax(dense(self.vocabulary, self.hidden, name="l_out")(ys))
