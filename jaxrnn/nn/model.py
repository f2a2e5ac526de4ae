"""What the models share, and how any of them is run.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size.
"""

from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.array_checks import as_carry, as_integers, precision
from jaxrnn.nn.layers import RNN, dense, embed, embedded_tokens
from jaxrnn.recurrent.cells import Carry

Reads = Literal["trigrams", "overlapping", "non-overlapping", "streams"]


class Components(NamedTuple):
    """A model of an embedding, recurrent layers and an output layer, taken apart.

    Attributes:
        stack: the recurrent layers, unbound.
        embedding: (V, F) the table.
        rnn: the layers' parameters, by their names.
        kernel: (H, V) of the output layer.
        bias: (V,) of the output layer.
    """

    stack: RNN
    embedding: Array
    rnn: dict[str, Array]
    kernel: Array
    bias: Array

    @property
    def arrays(self) -> tuple[Any, ...]:
        """All that is not the description of the layers."""
        return self[1:]


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

    def components(self, params: Any) -> Components | None:
        """What the model computes, for a faster way to write; None if it is something else."""
        return None


def model_carry(model: CharModel, params: Any, carry: Carry, batch: int) -> Carry:
    """A carry of the model's, in the precision of its weights.

    Args:
        model: the model.
        params: its parameters.
        carry: the carry.
        batch: B.

    Raises:
        ValueError: if it has another structure or other shapes than `model.initial_carry(batch)`.
    """
    like = jax.eval_shape(partial(model.initial_carry, batch, precision(params)))
    return as_carry(carry, like)


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

    Raises:
        ValueError: if the tokens are no integers of two axes, or the carry is none of the model's.
    """
    tokens = as_integers("tokens", tokens, ("T", "B"))
    carry = model_carry(model, params, carry, tokens.shape[1])
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

    def components(self, params: Any) -> Components | None:
        if type(self).__call__ is not StatefulModel.__call__:
            return None
        out = params["l_out"]
        table = params["e"]["embedding"]
        return Components(self.stack, table, params["rnn"], out["kernel"], out["bias"])

    @nn.compact
    def __call__(
        self,
        carry: tuple[Carry, ...],
        tokens: Int[Array, "T B"],
        *,
        lengths: Int[Array, " B"] | None = None,
    ) -> tuple[tuple[Carry, ...], Float[Array, "T B V"]]:
        xs = embedded_tokens(embed(self.vocabulary, self.embedding, name="e"), tokens)
        carry, ys = self.stack.copy(name="rnn")(carry, xs, lengths=lengths)
        return carry, nn.log_softmax(dense(self.vocabulary, self.hidden, name="l_out")(ys))
