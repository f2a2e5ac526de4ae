"""The mutants of models and losses, and the mutations that they make.

Shapes: T time steps, B batch, V vocabulary, F embedding size.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

import jaxrnn.recurrent.compiled.calls
import jaxrnn.recurrent.scan
import jaxrnn.training.steps
from jaxrnn.recurrent.recurrence import backend, why_not_compiled
from parity.mutation.mutants import (
    GRU_MODEL,
    GRU_STACK,
    LSTM_MODEL,
    LSTM_STACK,
    RNN_MODEL,
    Mutant,
)
from parity.mutation.tools import Mutation, both, replaced, wrapped, zeros
from parity.mutation.training_mutations import history_kept


def parameters_with(change: Callable[[str, Any], Any]) -> Mutation:
    """Every parameter of a Linen module as `change(name, value)`."""

    def around(param: Any) -> Any:
        # Every parameter is read through `Module.param`.
        def read(self: nn.Module, name: str, *rest: Any, **options: Any) -> Any:
            return change(name, param(self, name, *rest, **options))

        return read

    return wrapped(nn.Module, "param", around)


def _transposed(name: str, value: Any) -> Any:
    # Only a square one still fits.
    square = value.ndim == 2 and value.shape[0] == value.shape[1]
    return value.T if square else value


def _without_bias(name: str, value: Any) -> Any:
    return jnp.zeros_like(value) if name == "bias" else value


def embedding_with(rows: Callable[[Any, Any], Any]) -> Mutation:
    """The embedding as `rows(table, tokens)`: (V, F) and (T, B) to (T, B, F)."""

    def call(self: nn.Embed, tokens: Any) -> Any:
        return rows(self.embedding, tokens)

    return replaced(nn.Embed, "__call__", call)


def output_with(logits: Callable[[Any, Any], Any]) -> Mutation:
    """The output layer of a tied table as `logits(table, outputs)`: (V, F) and (T, B, F)."""

    def attend(self: nn.Embed, query: Any) -> Any:
        return logits(self.embedding, query)

    return replaced(nn.Embed, "attend", attend)


def _first_row_fixed(table: Any, tokens: Any) -> Any:
    first = lax.stop_gradient(table[0])
    return table.at[0].set(first)[tokens]


# The functions of `lax.scan` take no part where the recurrence runs compiled, so it may not.


def embedded_tokens_with(rows: Callable[[Any, Any], Any]) -> Mutation:
    """The gates of a step as `rows(table, tokens)`, in the scan."""
    return both(backend("scan"), replaced(jaxrnn.recurrent.scan, "_read", rows))


def _row_before(table: Any, tokens: Any) -> Any:
    return tokens if table is None else table[tokens - 1]


def table_gradient_with(gradient: Callable[..., Any]) -> Mutation:
    """The gradient of the table as `gradient(rows, tokens, gradients)`, in the scan."""
    return both(backend("scan"), replaced(jaxrnn.recurrent.scan, "_gather_transposed", gradient))


def counted_once(rows: int, tokens: Any, gradients: Any) -> Any:
    """A row that was read several times has the gradient of one of them."""
    width = gradients.shape[-1]
    flat = gradients.reshape(-1, width)  # (T, B, G * H) to (T * B, G * H)
    return jnp.zeros((rows, width), flat.dtype).at[tokens.reshape(-1)].set(flat)


def without_last_step(rows: int, tokens: Any, gradients: Any) -> Any:
    """The rows that the last step read have no gradient from there."""
    where = tokens[:-1] == jnp.arange(rows)[:, None, None]  # (V, T - 1, B)
    return jnp.einsum("vtb,tbg->vg", where.astype(gradients.dtype), gradients[:-1])


def table_gradient_of_earlier_steps() -> Mutation:
    """The same in the compiled recurrence: the last step reads rows of its own, which are lost."""

    def around(run: Callable[..., Any]) -> Any:
        def changed(cell: Any, reverse: bool, wanted: Any, inputs: Any, *rest: Any) -> Any:
            x_gates = inputs.x_gates
            if x_gates.tokens is None or len(x_gates.tokens) < 2:
                return run(cell, reverse, wanted, inputs, *rest)
            table = x_gates.values  # (V, G * H)
            last = x_gates.tokens[-1]
            own = len(table) + jnp.arange(len(last), dtype=last.dtype)
            longer = x_gates._replace(
                values=jnp.concatenate([table, table[last]]), tokens=x_gates.tokens.at[-1].set(own)
            )
            d = run(cell, reverse, wanted, inputs._replace(x_gates=longer), *rest)
            return d._replace(x_gates=d.x_gates._replace(values=d.x_gates.values[: len(table)]))

        return changed

    return wrapped(jaxrnn.recurrent.compiled.calls, "_gradients", around)


def compiled_with(call: str, change: Callable[[Any], Any]) -> Mutation:
    """One of the two calls of the compiled recurrence, with its results changed."""

    def around(run: Callable[..., Any]) -> Any:
        return lambda *arguments, **options: change(run(*arguments, **options))

    return wrapped(jaxrnn.recurrent.compiled.calls, call, around)


def _table_gradient_shifted(inputs: Any) -> Any:
    x_gates = inputs.x_gates
    if x_gates.values.ndim != 2:  # the gradient of a table is (V, G * H)
        return inputs
    shifted = jnp.roll(x_gates.values, 1, axis=0)
    return inputs._replace(x_gates=x_gates._replace(values=shifted))


def _outputs_late(results: Any) -> Any:
    last, residuals = results
    return last, residuals._replace(ys=jnp.roll(residuals.ys, 1, axis=0))


def loss_with(change: Callable[..., Any]) -> Mutation:
    """The loss as `change(loss, log_probs, targets, weights)`."""

    def around(loss: Any) -> Any:
        return lambda log_probs, targets, weights=None: change(loss, log_probs, targets, weights)

    return wrapped(jaxrnn.training.steps, "nll_loss", around)


MODELS = (
    # Dense layers.
    Mutant(
        "square kernel transposed",
        lambda: parameters_with(_transposed),
        "values of CharLoopModel",
        "l_hidden",
        "transposed",
    ),
    Mutant(
        "bias of a Dense dropped",
        lambda: parameters_with(_without_bias),
        "values of Char3Model",
        "every Dense",
        "bias is missing",
    ),
    # The embedding.
    Mutant(
        "embedding row shift",
        lambda: embedding_with(lambda e, x: e[x - 1]),
        RNN_MODEL,
        "e",
        "rows are shifted by one",
    ),
    Mutant(
        "padding row not trained",
        lambda: embedding_with(_first_row_fixed),
        RNN_MODEL,
        "gradient of e.weight",
        "row 0 is not trained",
    ),
    Mutant(
        "embedding scaled",
        lambda: embedding_with(lambda e, x: e[x] * e.shape[1] ** 0.5),
        "values of CharLoopConcatModel",
        "e",
        "root of its width",
    ),
    # The gates of a step, where they are read from the projected table of the embedding.
    Mutant(
        "embedded tokens: row shift",
        lambda: embedded_tokens_with(_row_before),
        "values of CharLM, few tokens",
        "e",
        "shifted by one",
    ),
    Mutant(
        "embedded tokens: row counted once",
        lambda: table_gradient_with(counted_once),
        "values of CharLM, few tokens",
        "gradient of e.weight",
        "several times counts once",
    ),
    Mutant(
        "embedded tokens: last step left out of the table's gradient",
        lambda: table_gradient_with(without_last_step),
        "values of CharLM, few tokens",
        "gradient of e.weight",
        "the last step of the window",
    ),
    Mutant(
        "training: last step left out of the table's gradient",
        lambda: table_gradient_with(without_last_step),
        "trajectory",
        "gradient of e.weight",
        "the last step of the window",
    ),
    # One table for embedding and output layer.
    Mutant(
        "tied table counted once",
        lambda: embedding_with(lambda e, x: lax.stop_gradient(e)[x]),
        "values of CharLM, tied",
        "gradient of e.weight",
        "the embedding has no part",
    ),
    Mutant(
        "tied table cut off from the output layer",
        lambda: output_with(lambda e, h: h @ lax.stop_gradient(e).T),
        "values of CharLM, tied",
        "gradient of e.weight",
        "the output layer has no part",
    ),
    Mutant(
        "tied table transposed",
        lambda: output_with(lambda e, h: h @ e),
        "values of CharLM, square tied",
        "the output layer",
        "its weight is transposed",
    ),
    # The compiled recurrence.
    Mutant(
        "compiled: last step left out of the table's gradient",
        table_gradient_of_earlier_steps,
        "values of CharLM, few tokens",
        "gradient of e.weight",
        "the last step of the window",
        cannot=why_not_compiled,
    ),
    Mutant(
        "compiled: gradient of the table shifted",
        lambda: compiled_with("_gradients", _table_gradient_shifted),
        "values of CharLM, few tokens",
        "gradient of e.weight",
        "shifted by one",
        cannot=why_not_compiled,
    ),
    Mutant(
        "compiled: gradient of bias_hh lost",
        lambda: compiled_with("_gradients", lambda d: d._replace(bias_hh=zeros(d.bias_hh))),
        GRU_STACK,
        cannot=why_not_compiled,
    ),
    Mutant(
        "compiled: outputs one step late",
        lambda: compiled_with("_run", _outputs_late),
        LSTM_STACK,
        cannot=why_not_compiled,
    ),
    # The end of a model, and the loss.
    Mutant(
        "log_softmax over the batch",
        lambda: replaced(nn, "log_softmax", lambda x: jax.nn.log_softmax(x, axis=-2)),
        "values of Char3Model",
        "log_softmax",
        "over the batch",
    ),
    Mutant(
        "log_softmax left out",
        lambda: replaced(nn, "log_softmax", lambda x: x),
        GRU_MODEL,
        "log_softmax",
        "left out",
    ),
    Mutant(
        "loss summed",
        lambda: loss_with(lambda loss, p, y, w: loss(p, y, w) * y.size),
        RNN_MODEL,
        "the loss, from equal log prob",
        "it is summed",
    ),
    Mutant(
        "loss averaged over time only",
        lambda: loss_with(lambda loss, p, y, w: loss(p, y, w) * y.shape[-1]),
        RNN_MODEL,
        "the loss, from equal log prob",
        "averaged over time only",
    ),
    Mutant(
        "time and batch exchanged in the loss",
        lambda: loss_with(lambda loss, p, y, w: loss(p, y.T.reshape(y.shape), w)),
        RNN_MODEL,
        "the loss, from equal log prob",
        "time and batch of the targets",
    ),
    Mutant(
        "padded steps counted",
        lambda: loss_with(lambda loss, p, y, w: loss(p, y, None)),
        LSTM_MODEL,
        "the loss, from equal log prob",
        "steps beyond the length count",
    ),
    Mutant("carry not cut", history_kept, RNN_MODEL, "gradient of input carry.h", "not cut"),
)
