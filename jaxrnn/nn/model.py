"""The base classes of the models, and the function that runs any of them.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size.
"""

import inspect
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.array_checks import as_carry, as_integers, check_key, described, precision
from jaxrnn.checks import check_at_least_1
from jaxrnn.nn.layers import RNN, dense, embed, embedded_tokens
from jaxrnn.recurrent.cells import Carry

# Maximum number of parameters that a message names.
FAULTS_NAMED = 5
# Number of models whose parameters' shapes are cached: to derive them takes a trace.
MODELS_REMEMBERED = 32

# Data set of a model: the trigrams of the course, shuffled windows, or contiguous streams.
Reads = Literal["trigrams", "overlapping", "non-overlapping", "streams"]


class Components(NamedTuple):
    """The parts of a model of an embedding, recurrent layers and an output layer.

    Attributes:
        stack: the recurrent layers, unbound.
        embedding: (V, F) table of the embedding.
        rnn: the recurrent layers' parameters, by their names.
        kernel: (H, V) kernel of the output layer.
        bias: (V,) bias of the output layer.
    """

    stack: RNN
    embedding: Array
    rnn: dict[str, Array]
    kernel: Array
    bias: Array

    @property
    def arrays(self) -> tuple[Any, ...]:
        """All but the description of the layers, which is no array."""
        return self[1:]


class CharModel(nn.Module):
    """The base class of all models.

    Attributes:
        vocab_size: V, number of different tokens.
        embedding_size: F, the width of a token's vector (the course's `n_fac`).
        hidden_size: H, the width of the carry (the course's `n_hidden`).
    """

    vocab_size: int
    embedding_size: int = 42
    hidden_size: int = 256

    reads: ClassVar[Reads]  # the data set that the model is made for

    def __post_init__(self) -> None:
        check_at_least_1(
            vocab_size=self.vocab_size,
            embedding_size=self.embedding_size,
            hidden_size=self.hidden_size,
        )
        super().__post_init__()

    @property
    def stack(self) -> RNN | None:
        """The recurrent layers, unbound; None for a model without, or with a loop of its own."""
        return None

    def initial_carry(self, batch_size: int, dtype: DTypeLike = jnp.float32) -> Carry:
        """The carry at the beginning of a text; the empty tuple for a model without memory."""
        return ()

    def components(self, params: Any) -> Components | None:
        """The parts of the model, for faster generation; None if it computes something else."""
        return None


def check_char_model(model: Any) -> None:
    """Refuse what is no model that training knows how to call.

    Raises:
        ValueError: if it is a class, or does not derive from `CharModel`.
    """
    if isinstance(model, type):
        raise ValueError(
            f"model must be a model and not its class: call it, {model.__name__}(vocab_size, ...)."
        )
    if not isinstance(model, CharModel):
        raise ValueError(
            f"model must be a model such as CharLM, or derive from jaxrnn.StatefulModel, got a "
            f"{type(model).__name__}."
        )


def check_params(model: CharModel, params: Any) -> None:
    """Refuse parameters that are none of the model's; all that differ are named.

    Raises:
        ValueError: if one is missing, unknown, of another shape, or holds no floating numbers, or
            the model does not return what a model must.
    """
    check_char_model(model)
    check_shapes(model, params, param_shapes(model))


def check_shapes(model: nn.Module, params: Any, expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse parameters that have other names or shapes than is expected.

    Args:
        model: the model, for the message.
        params: the parameters.
        expected: the shapes by name, from `shapes_of_params`.

    Raises:
        ValueError: as `check_params`.
    """
    # A whole training state: its parameters are meant.
    if hasattr(params, "params") and hasattr(params, "opt_state"):
        raise ValueError("params must be the parameters alone, got a whole state: state.params.")
    got = _named(params)
    faults = []
    for name, shape in expected.items():
        if name not in got:
            faults.append(f"{name} is missing, of shape {shape}")
        elif not hasattr(got[name], "shape"):
            faults.append(f"{name} must be an array, got a {type(got[name]).__name__}")
        elif jnp.shape(got[name]) != shape:
            faults.append(f"{name} must have shape {shape}, got {jnp.shape(got[name])}")
        elif not jnp.issubdtype(jnp.result_type(got[name]), jnp.floating):
            kind = jnp.result_type(got[name])
            faults.append(f"{name} must have floating numbers, got {kind}")
    for name in sorted(got.keys() - expected):
        faults.append(f"{name or 'an array without a name'} is unknown")
    if faults:
        listed = "; ".join(faults[:FAULTS_NAMED])
        if len(faults) > FAULTS_NAMED:
            listed += f"; and {len(faults) - FAULTS_NAMED} more"
        raise ValueError(f"The parameters are not those of {type(model).__name__}: {listed}.")


@lru_cache(maxsize=MODELS_REMEMBERED)
def param_shapes(model: CharModel) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's parameters, by their names."""
    tokens = jax.ShapeDtypeStruct((3, 1), jnp.int32)  # three characters, as Char3Model reads them

    def init(key: Array, tokens: Array) -> Any:
        carry = model.initial_carry(1)
        result, variables = model.init_with_output(key, carry, tokens)
        _check_result(model, carry, result)
        return variables["params"]

    return shapes_of_params(jax.eval_shape(init, jax.random.key(0), tokens))


def shapes_of_params(params: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of parameters by their names, such as "rnn.weight_hh_l0"."""
    return {name: leaf.shape for name, leaf in _named(params).items()}


def _check_result(model: CharModel, carry: Carry, result: Any) -> None:
    """Refuse a model that returns something else than a carry and log probabilities.

    Args:
        model: the model.
        carry: the carry that it was given, of a batch of 1.
        result: what it returned for three tokens.

    Raises:
        ValueError: if it is no pair, another carry, or of other shapes.
    """
    name = type(model).__name__
    if not isinstance(result, tuple) or len(result) != 2 or hasattr(result, "_fields"):
        raise ValueError(
            f"{name}.__call__ must return the carry and the log probabilities, "
            f"(carry, log_probs); it returns {described(result)}."
        )
    after, log_probs = result
    wanted: Any = jax.tree.structure(carry)
    same = wanted == jax.tree.structure(after) and all(
        jnp.shape(one) == jnp.shape(other)
        for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(carry), strict=True)
    )
    if not same:
        raise ValueError(
            f"{name}.__call__ must return the carry as it takes it, {described(carry)}; it "
            f"returns {described(after)}."
        )
    V = model.vocab_size
    if jnp.shape(log_probs) not in ((1, V), (3, 1, V)):
        raise ValueError(
            f"{name}.__call__ must return log probabilities of shape (T, B, V), or (B, V) of the "
            f"next token alone; for T = 3, B = 1 and V = {V} it returns {described(log_probs)}."
        )


def _named(params: Any) -> dict[str, Any]:
    """The arrays by name, such as "rnn.weight_hh_l0"."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def model_carry(model: CharModel, params: Any, carry: Carry, batch_size: int) -> Carry:
    """A carry of the model's, in the precision of its weights.

    Args:
        model: the model.
        params: its parameters.
        carry: the carry.
        batch_size: B.

    Raises:
        ValueError: if it has another structure or other shapes than `initial_carry(batch_size)`,
            or the parameters are none of the model's.
    """
    check_params(model, params)
    # Shapes alone: an array of zeros for every call would cost time.
    like = jax.eval_shape(partial(model.initial_carry, batch_size, precision(params)))
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
        lengths: for a stateful model, number of the T steps of each row that count.
        dropout_key: random key of the dropout masks; None leaves dropout out.

    Raises:
        ValueError: if the tokens are no integers of two axes, or the carry is none of the model's.
    """
    carry, log_probs, _ = _applied(model, params, carry, tokens, lengths, dropout_key)
    return carry, log_probs


def apply_with_hidden(
    model: CharModel,
    params: Any,
    carry: Carry,
    tokens: Int[Array, "T B"],
    *,
    lengths: Int[Array, " B"] | None = None,
    dropout_key: Array | None = None,
) -> tuple[Carry, Float[Array, "*T B V"], Float[Array, "T B H"]]:
    """As `apply_model`, and the outputs of the last recurrent layer of submodule `rnn`.

    Raises:
        ValueError: as `apply_model`; if the model has no such submodule.
    """
    kept = {"capture_intermediates": _is_rnn, "mutable": ["intermediates"]}
    carry, log_probs, variables = _applied(
        model, params, carry, tokens, lengths, dropout_key, **kept
    )
    # Of each call of the submodule, what it returned: the carry and the outputs.
    calls = variables.get("intermediates", {}).get("rnn", {}).get("__call__", ())
    if len(calls) != 1 or not isinstance(calls[0], tuple) or len(calls[0]) != 2:
        raise ValueError(
            f"{type(model).__name__} has no hidden states to give: they are the outputs of "
            "recurrent layers that are its submodule rnn."
        )
    _, hidden = calls[0]
    return carry, log_probs, hidden


def _is_rnn(module: nn.Module, method: str) -> bool:
    """Whether the results of a method are the hidden states."""
    return module.name == "rnn" and method == "__call__"


def _applied(
    model: CharModel,
    params: Any,
    carry: Carry,
    tokens: Int[Array, "T B"],
    lengths: Int[Array, " B"] | None,
    dropout_key: Array | None,
    **kept: Any,
) -> tuple[Carry, Float[Array, "*T B V"], Any]:
    """The carry, the log probabilities and whatever else of the model's variables is kept."""
    tokens = as_integers("tokens", tokens, ("T", "B"))
    carry = model_carry(model, params, carry, tokens.shape[1])
    if dropout_key is not None:
        check_key(dropout_key=dropout_key)
    # A windowed model takes no lengths.
    options: dict[str, Any] = {}
    if lengths is not None:
        if not takes_lengths(model):
            raise ValueError(
                f"{type(model).__name__}.__call__ takes no lengths, which windows of random "
                "length need: give it the argument (jaxrnn.StatefulModel has it), or windows of "
                "one length (random_bptt=False, --no-random-bptt)."
            )
        options["lengths"] = lengths
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    result: Any = model.apply({"params": params}, carry, tokens, rngs=rngs, **options, **kept)
    variables = {}
    if kept:
        result, variables = result
    carry, log_probs = result
    return carry, log_probs, variables


def takes_lengths(model: CharModel) -> bool:
    """Whether the model can be told how many steps of each row count."""
    parameters = inspect.signature(type(model).__call__).parameters.values()
    return any(one.name == "lengths" or one.kind is one.VAR_KEYWORD for one in parameters)


def submodule(stack: RNN) -> RNN:
    """The recurrent layers as the submodule `rnn` of the model that is being called.

    Raises:
        ValueError: if they read the batch first.
    """
    if stack.batch_first:
        raise ValueError(
            "The recurrent layers of a model read time first: leave batch_first False."
        )
    return stack.copy(name="rnn")


class StatefulModel(CharModel):
    """A model whose carry goes on from one window of the text to the next."""

    reads: ClassVar[Reads] = "streams"

    @property
    def stack(self) -> RNN:
        """The recurrent layers, unbound; submodule `rnn` of the model."""
        name = type(self).__name__
        raise ValueError(
            f"{name} does not say which recurrent layers it has: give it the property `stack`, or, "
            "with a `__call__` of its own, the method `initial_carry(batch_size, dtype)`."
        )

    def initial_carry(self, batch_size: int, dtype: DTypeLike = jnp.float32) -> Carry:
        return self.stack.initial_carry(batch_size, dtype, input_size=self.embedding_size)

    def components(self, params: Any) -> Components | None:
        # A subclass with a `__call__` of its own may compute something else.
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
        # (T, B, F), or the table and the tokens where a product with the table is less work.
        e = embed(self.vocab_size, self.embedding_size, name="e")
        xs = embedded_tokens(e, tokens)
        carry, ys = submodule(self.stack)(carry, xs, lengths=lengths)  # (T, B, H)
        logits = dense(self.vocab_size, self.hidden_size, name="l_out")(ys)  # (T, B, V)
        return carry, nn.log_softmax(logits)
