"""The models of the course, in the course's order, and one general model for research.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size.

Every model is called in the same way, so that one training step serves them all:

    carry, log_probs = apply_model(model, params, carry, tokens)      # tokens (T, B)

The windowed models remember nothing between two calls: their carry is the empty tuple. Those that
predict only the next character return (B, V), those that predict at every step (T, B, V).
Submodules are named as in the course's PyTorch code: e, l_in, l_hidden, rnn, l_out.
"""

import math
from functools import partial
from typing import Any, ClassVar, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxrnn.array_checks import as_carry, as_integers, as_lengths
from jaxrnn.checks import check_at_least_1, check_bool, check_share
from jaxrnn.nn.layers import (
    RNN,
    RNNCell,
    cell_of,
    dense,
    embed,
    embedded_tokens,
    identity,
    pure,
    uniform,
)
from jaxrnn.nn.model import CharModel, Components, Reads, StatefulModel, submodule
from jaxrnn.recurrent.cells import GRU, LSTM, TANH, AnyCell, Carry, Hidden
from jaxrnn.recurrent.recurrence import backend, length_mask
from jaxrnn.registry import Registry


class Char3Model(CharModel):
    """Three characters predict the fourth: a feed-forward net that uses its weights three times.

    x_k = relu(l_in(e(c_k)));  h = 0;  three times h = tanh(l_hidden(h + x_k));  l_out(h).
    """

    reads: ClassVar[Reads] = "trigrams"

    @nn.compact
    def __call__(
        self, carry: tuple[()], tokens: Int[Array, "3 B"]
    ) -> tuple[tuple[()], Float[Array, "B V"]]:
        if tokens.shape[0] != 3:
            raise ValueError(f"Char3Model reads 3 characters, got {tokens.shape[0]}.")
        e = embed(self.vocab_size, self.embedding_size, name="e")
        l_in = dense(self.hidden_size, self.embedding_size, name="l_in")
        l_hidden = dense(self.hidden_size, self.hidden_size, name="l_hidden")
        xs = nn.relu(l_in(e(tokens)))  # (3, B) -> (3, B, F) -> (3, B, H)
        h = jnp.zeros_like(xs[0])  # (B, H)
        h = jnp.tanh(l_hidden(h + xs[0]))
        h = jnp.tanh(l_hidden(h + xs[1]))
        h = jnp.tanh(l_hidden(h + xs[2]))
        return carry, nn.log_softmax(dense(self.vocab_size, self.hidden_size, name="l_out")(h))


class CharLoopModel(CharModel):
    """`Char3Model` with a loop over any number of characters: the first recurrent network."""

    reads: ClassVar[Reads] = "overlapping"

    @nn.compact
    def __call__(
        self, carry: tuple[()], tokens: Int[Array, "T B"]
    ) -> tuple[tuple[()], Float[Array, "B V"]]:
        e = embed(self.vocab_size, self.embedding_size, name="e")
        l_in = dense(self.hidden_size, self.embedding_size, name="l_in")
        xs = nn.relu(l_in(e(tokens)))  # (T, B) -> (T, B, F) -> (T, B, H)
        h = jnp.zeros_like(xs[0])  # (B, H)
        # A Linen module may not be called inside of a scan: `pure` takes its parameters out.
        l_hidden = pure(dense(self.hidden_size, self.hidden_size, name="l_hidden"), h)

        def step(h: Array, x: Array) -> tuple[Array, None]:
            return jnp.tanh(l_hidden(h + x)).astype(h.dtype), None

        h, _ = lax.scan(step, h, xs)
        return carry, nn.log_softmax(dense(self.vocab_size, self.hidden_size, name="l_out")(h))


class CharLoopConcatModel(CharModel):
    """Carry and character side by side instead of added, so that neither hides the other.

    For each character: z = relu(l_in([h, e(c)]));  h = tanh(l_hidden(z)).
    """

    reads: ClassVar[Reads] = "overlapping"

    @nn.compact
    def __call__(
        self, carry: tuple[()], tokens: Int[Array, "T B"]
    ) -> tuple[tuple[()], Float[Array, "B V"]]:
        xs = embed(self.vocab_size, self.embedding_size, name="e")(tokens)  # (T, B, F)
        h = jnp.zeros((tokens.shape[1], self.hidden_size), xs.dtype)  # (B, H)
        width = self.hidden_size + self.embedding_size
        example = jnp.concatenate([h, xs[0]], axis=-1)  # (B, H + F)
        l_in = pure(dense(self.hidden_size, width, name="l_in"), example)
        l_hidden = pure(dense(self.hidden_size, self.hidden_size, name="l_hidden"), h)

        def step(h: Array, x: Array) -> tuple[Array, None]:
            z = nn.relu(l_in(jnp.concatenate([h, x], axis=-1)))  # (B, H + F) -> (B, H)
            return jnp.tanh(l_hidden(z)).astype(h.dtype), None

        h, _ = lax.scan(step, h, xs)
        return carry, nn.log_softmax(dense(self.vocab_size, self.hidden_size, name="l_out")(h))


class CharRnn(CharModel):
    """The library's recurrent layer instead of a loop by hand; the last output predicts."""

    reads: ClassVar[Reads] = "overlapping"

    @property
    def stack(self) -> RNN:
        return RNN(TANH, self.hidden_size, parent=None)

    @nn.compact
    def __call__(
        self, carry: tuple[()], tokens: Int[Array, "T B"]
    ) -> tuple[tuple[()], Float[Array, "B V"]]:
        xs = embed(self.vocab_size, self.embedding_size, name="e")(tokens)  # (T, B, F)
        rnn = self.stack.copy(name="rnn")
        _, ys = rnn(rnn.initial_carry(tokens.shape[1], xs.dtype), xs)  # (T, B, H)
        logits = dense(self.vocab_size, self.hidden_size, name="l_out")(ys[-1])  # (B, V)
        return carry, nn.log_softmax(logits)


class CharSeqRnn(CharModel):
    """A prediction after every character: eight lessons from a window instead of one.

    Attributes:
        identity: whether `weight_hh_l0` starts as the identity matrix.
    """

    identity: bool = False

    reads: ClassVar[Reads] = "non-overlapping"

    @property
    def stack(self) -> RNN:
        recurrent_init = identity if self.identity else None
        return RNN(TANH, self.hidden_size, recurrent_init=recurrent_init, parent=None)

    @nn.compact
    def __call__(
        self, carry: tuple[()], tokens: Int[Array, "T B"]
    ) -> tuple[tuple[()], Float[Array, "T B V"]]:
        xs = embed(self.vocab_size, self.embedding_size, name="e")(tokens)  # (T, B, F)
        rnn = self.stack.copy(name="rnn")
        _, ys = rnn(rnn.initial_carry(tokens.shape[1], xs.dtype), xs)  # (T, B, H)
        logits = dense(self.vocab_size, self.hidden_size, name="l_out")(ys)  # (T, B, V)
        return carry, nn.log_softmax(logits)


class CharSeqStatefulRnn(StatefulModel):
    """`CharSeqRnn` with a memory: the carry is an argument and a result."""

    @property
    def stack(self) -> RNN:
        return RNN(TANH, self.hidden_size, parent=None)


class CharSeqStatefulRnn2(StatefulModel):
    """`CharSeqStatefulRnn` as a loop over one cell, with autodiff's own backward pass."""

    @property
    def stack(self) -> RNN:
        return RNN(TANH, self.hidden_size, parent=None)

    @nn.compact
    def __call__(
        self,
        carry: tuple[Hidden],
        tokens: Int[Array, "T B"],
        *,
        lengths: Int[Array, " B"] | None = None,
    ) -> tuple[tuple[Hidden], Float[Array, "T B V"]]:
        tokens = as_integers("tokens", tokens, ("T", "B"))
        steps, batch_size = tokens.shape
        e = embed(self.vocab_size, self.embedding_size, name="e")
        xs = e(tokens)  # (T, B, F)

        # The cell as a pure function, traced with an example: T may be 0. As a single step within
        # a loop it is faster without a call into the compiled library.
        like = jax.eval_shape(partial(self.initial_carry, batch_size))
        (before,) = as_carry(carry, like)  # (B, H)
        x = e(jnp.zeros(batch_size, tokens.dtype))  # (B, F)
        with backend("autodiff"):
            rnn = pure(RNNCell(TANH, self.hidden_size, name="rnn"), before, x)
        # A scan's carry must have the dtype that the cell returns.
        dtype: Any = self.get_variable("params", "rnn")["weight_hh"].dtype
        before = Hidden(carry[0].h.astype(dtype))

        if lengths is None:
            lengths = jnp.full(batch_size, steps)
        mask = length_mask(as_lengths(lengths, batch_size, steps), steps)  # (T, B)

        def step(before: Hidden, x: tuple[Array, Array]) -> tuple[Hidden, Array]:
            x_t, mask_t = x  # (B, F), (B,)
            after, _ = rnn(before, x_t)
            # Behind its end, a row keeps its carry and gives zeros.
            h = jnp.where(mask_t[:, None], after.h, before.h)
            return Hidden(h), jnp.where(mask_t[:, None], h, 0)

        with backend("autodiff"):
            after, ys = lax.scan(step, before, (xs, mask))  # (T, B, H)
        logits = dense(self.vocab_size, self.hidden_size, name="l_out")(ys)  # (T, B, V)
        return (after,), nn.log_softmax(logits)


class CharSeqStatefulGRU(StatefulModel):
    """The stateful model with a gated recurrent unit."""

    @property
    def stack(self) -> RNN:
        return RNN(GRU, self.hidden_size, parent=None)


class CharSeqStatefulLSTM(StatefulModel):
    """The stateful model with a stack of LSTM layers and dropout between them.

    Attributes:
        num_layers: number of LSTM layers.
        dropout: the fraction of each layer's outputs, but the last's, that is dropped in training.
    """

    hidden_size: int = 512
    num_layers: int = 2
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_at_least_1(num_layers=self.num_layers)
        check_share(dropout=self.dropout)
        super().__post_init__()

    @property
    def stack(self) -> RNN:
        return RNN(LSTM, self.hidden_size, self.num_layers, dropout=self.dropout, parent=None)


class CharLM(StatefulModel):
    """The general stateful character model: any cell, any depth.

    Attributes:
        cell: the recurrent cell, or its name.
        num_layers: number of recurrent layers.
        dropout: the fraction of each layer's outputs, but the last's, that is dropped in training.
        tied: whether the output layer uses the embedding's table as its kernel (Press and Wolf
            2017, https://arxiv.org/abs/1608.05859), which then starts as that kernel would; the
            bias is its own. Needs F = H.
    """

    cell: AnyCell = GRU
    num_layers: int = 1
    dropout: float = 0.0
    tied: bool = False

    def __post_init__(self) -> None:
        # A name and its cell are one model, whose programs are compiled once.
        self.cell = cell_of(self.cell)
        check_at_least_1(num_layers=self.num_layers)
        check_share(dropout=self.dropout)
        check_bool(tied=self.tied)
        if self.tied and self.embedding_size != self.hidden_size:
            raise ValueError(
                f"A tied output needs embedding_size = hidden_size, got {self.embedding_size} and "
                f"{self.hidden_size}."
            )
        super().__post_init__()

    @property
    def stack(self) -> RNN:
        return RNN(self.cell, self.hidden_size, self.num_layers, dropout=self.dropout, parent=None)

    def components(self, params: Any) -> Components | None:
        # A subclass with a `__call__` of its own may compute something else.
        if type(self).__call__ is not CharLM.__call__:
            return None
        table = params["e"]["embedding"]  # (V, F)
        if self.tied:
            return Components(self.stack, table, params["rnn"], table.T, params["bias_out"])
        out = params["l_out"]
        return Components(self.stack, table, params["rnn"], out["kernel"], out["bias"])

    @nn.compact
    def __call__(
        self,
        carry: tuple[Carry, ...],
        tokens: Int[Array, "T B"],
        *,
        lengths: Int[Array, " B"] | None = None,
    ) -> tuple[tuple[Carry, ...], Float[Array, "T B V"]]:
        # A tied table starts as the kernel of a dense layer would, not as an embedding.
        init = uniform(1 / math.sqrt(self.hidden_size)) if self.tied else None
        e = embed(self.vocab_size, self.embedding_size, init=init, name="e")
        xs = embedded_tokens(e, tokens)  # (T, B, F)
        carry, ys = submodule(self.stack)(carry, xs, lengths=lengths)  # (T, B, H)
        if self.tied:
            bias = self.param("bias_out", jax.nn.initializers.zeros, (self.vocab_size,))
            logits = e.attend(ys) + bias  # (T, B, V)
        else:
            logits = dense(self.vocab_size, self.hidden_size, name="l_out")(ys)
        return carry, nn.log_softmax(logits)


COURSE_MODELS: tuple[type[CharModel], ...] = (
    Char3Model,
    CharLoopModel,
    CharLoopConcatModel,
    CharRnn,
    CharSeqRnn,
    CharSeqStatefulRnn,
    CharSeqStatefulRnn2,
    CharSeqStatefulGRU,
    CharSeqStatefulLSTM,
)


def check_model(model: Any) -> None:
    """Refuse what is no class of models.

    Raises:
        ValueError: if it does not derive from `CharModel`, or has no valid `reads`.
    """
    if not isinstance(model, type) or not issubclass(model, CharModel):
        raise ValueError("it does not derive from CharModel or StatefulModel.")
    if getattr(model, "reads", None) not in get_args(Reads):
        known = ", ".join(get_args(Reads))
        raise ValueError(f"its `reads` must be one of {known} (StatefulModel has streams).")


MODELS: Registry[type[CharModel]] = Registry(
    "model", check_model, {model.__name__: model for model in (*COURSE_MODELS, CharLM)}
)
"""The models by name. A user's model has the name FILE.py:NAME, or is put in."""
