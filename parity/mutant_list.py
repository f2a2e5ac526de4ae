"""The mutants of cells, layers, models and losses, and the list of all."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.nn.cells import GRU, LSTM, RELU, TANH, Hidden
from parity import faults as f
from parity import faults_training as t
from parity.mutant_list_training import TRAINING
from parity.mutants import Mutant

_gru, _lstm = "values of CharSeqStatefulGRU", "values of CharLM, lstm"
_rnn, _both = "values of CharSeqStatefulRnn", "values of an lstm stack"

CELLS = (
    Mutant(
        "GRU: r and z exchanged",
        lambda: f.stepping(GRU, f.gru_step(r_gate=1, z_gate=0)),
        _gru,
        "r and z exchanged",
    ),
    Mutant(
        "GRU: z keeps the new",
        lambda: f.stepping(GRU, f.gru_step(keep=False)),
        _gru,
        "z weighs the new",
    ),
    Mutant(
        "GRU: reset before the product",
        lambda: f.own_gru(f.reset_before_the_product),
        _gru,
        "before the product",
    ),
    Mutant(
        "GRU: b_hn outside the reset",
        lambda: f.own_gru(f.bias_outside_the_reset),
        _gru,
        "b_hn is missing inside",
    ),
    Mutant(
        "GRU: hard sigmoid",
        lambda: f.stepping(GRU, f.gru_step(squash=nn.hard_sigmoid)),
        _gru,
        "hard sigmoid",
    ),
    Mutant(
        "LSTM: gate order i, f, o, g",
        lambda: f.stepping(LSTM, f.lstm_step("ifog")),
        _lstm,
        "g and o exchanged",
    ),
    Mutant(
        "LSTM: gate order f, i, g, o",
        lambda: f.stepping(LSTM, f.lstm_step("figo")),
        _lstm,
        "i and f exchanged",
    ),
    Mutant(
        "LSTM: forget gate + 1",
        lambda: f.stepping(LSTM, f.lstm_step(forget=1.0)),
        _lstm,
        "1 is added to the forget",
    ),
    Mutant(
        "LSTM: output without tanh",
        lambda: f.stepping(LSTM, f.lstm_step(output=lambda c, before: c)),
        _lstm,
        "the output has no tanh",
    ),
    Mutant(
        "LSTM: output from the old c",
        lambda: f.stepping(LSTM, f.lstm_step(output=lambda c, before: jnp.tanh(before))),
        _lstm,
        "old cell state",
    ),
    Mutant(
        "LSTM: h and c exchanged",
        lambda: f.stepping(LSTM, f.lstm_step(swapped=True)),
        _lstm,
        "h and c are exchanged",
    ),
    Mutant(
        "tanh for relu",
        lambda: f.stepping(RELU, TANH.step),
        "values of CharLM, relu",
        "the activation is tanh",
    ),
    Mutant(
        "no tanh",
        lambda: f.stepping(TANH, lambda carry, x, h: Hidden(x + h)),
        "values of a tanh stack",
        "there is no activation",
    ),
    Mutant(
        "float32 in a float64 path",
        lambda: f.cell_with(GRU, lambda x: x.astype("float32").astype(x.dtype)),
        _gru,
        "rounded to float32",
    ),
    Mutant(
        "float32 output",
        lambda: f.recurrence_with(result=lambda r, _: (r[0], r[1].astype("float32"))),
        "values of a gru stack",
    ),
)

RECURRENCE = (
    Mutant(
        "bias_hh dropped", lambda: f.recurrence_with(bias=jnp.zeros_like), _rnn, "b_hh is missing"
    ),
    Mutant(
        "weight_hh transposed",
        lambda: f.recurrence_with(weight=lambda w: w.T),
        _rnn,
        "weight is transposed",
    ),
    Mutant(
        "carry starts from zeros",
        lambda: f.recurrence_with(carry=_zeros),
        _rnn,
        "starts from zeros",
    ),
    Mutant("backward runs forward", lambda: f.recurrence_with(reverse=lambda r: False), _both),
    Mutant(
        "backward outputs not turned back",
        lambda: f.recurrence_with(result=lambda r, back: (r[0], r[1][::-1] if back else r[1])),
        _both,
    ),
    Mutant("lengths ignored", lambda: f.recurrence_with(alive=lambda a: None), _both),
    Mutant("one length too many", lambda: f.recurrence_with(alive=_one_more), _both),
    Mutant("directions exchanged", lambda: f.stack_with(f.directions_exchanged), _both),
    Mutant("carries of layers exchanged", lambda: f.stack_with(f.carries_exchanged), _both),
    Mutant("layer order", f.layers_exchanged, "values of a gru stack"),
    Mutant(
        "biases folded in training",
        lambda: f.recurrence_with(bias=lax.stop_gradient),
        "update, SGD, momentum",
    ),
    Mutant(
        "gradient of weight_hh transposed",
        lambda: f.backward_with(lambda d: (d[0].T, *d[1:])),
        _rnn,
    ),
    Mutant(
        "gradient of bias_hh averaged over the batch",
        lambda: f.backward_with(lambda d: (d[0], d[1] / 3, *d[2:])),
        _rnn,
    ),
    Mutant(
        "gradient of the carry lost",
        lambda: f.backward_with(lambda d: (*d[:2], _zeros(d[2]), d[3])),
        "values of a gru stack",
    ),
    Mutant(
        "dropout after the last layer",
        lambda: f.stack_with(f.dropped_after_the_last),
        "dropout",
    ),
    Mutant(
        "dropout without rescaling",
        lambda: f.dropping(lambda xs, mask, rate: jnp.where(mask, xs, 0)),
        "dropout",
    ),
    Mutant(
        "dropout of what should stay",
        lambda: f.dropping(lambda xs, mask, rate: jnp.where(mask, 0, xs / (1 - rate))),
        "dropout",
    ),
)

MODELS = (
    Mutant(
        "square kernel transposed",
        lambda: f.wrapped(nn.Module, "param", _transposed),
        "values of CharLoopModel",
    ),
    Mutant(
        "bias of a Dense dropped",
        lambda: f.wrapped(nn.Module, "param", _without_bias),
        "values of Char3Model",
    ),
    Mutant("embedding row shift", lambda: f.embedding_with(lambda e, x: e[x - 1]), _rnn),
    Mutant(
        "padding row not trained",
        lambda: f.embedding_with(lambda e, x: e.at[0].set(lax.stop_gradient(e[0]))[x]),
        _rnn,
    ),
    Mutant(
        "embedding scaled",
        lambda: f.embedding_with(lambda e, x: e[x] * e.shape[1] ** 0.5),
        "values of CharLoopConcatModel",
    ),
    Mutant(
        "log_softmax over the batch",
        lambda: f.log_softmax_with(lambda x: jax.nn.log_softmax(x, axis=-2)),
        "values of Char3Model",
    ),
    Mutant("log_softmax left out", lambda: f.log_softmax_with(lambda x: x), _gru),
    Mutant("loss summed", lambda: f.loss_with(lambda loss, p, y, w: loss(p, y, w) * y.size), _rnn),
    Mutant(
        "loss averaged over time only",
        lambda: f.loss_with(lambda loss, p, y, w: loss(p, y, w) * y.shape[-1]),
        _rnn,
    ),
    Mutant(
        "time and batch exchanged in the loss",
        lambda: f.loss_with(lambda loss, p, y, w: loss(p, y.T.reshape(y.shape), w)),
        _rnn,
    ),
    Mutant(
        "padded steps counted",
        lambda: f.loss_with(lambda loss, p, y, w: loss(p, y, None)),
        _lstm,
    ),
    Mutant("carry not cut", t.history_kept, _rnn),
)


MUTANTS = (*CELLS, *RECURRENCE, *MODELS, *TRAINING)
"""All of them."""


def _zeros(carry: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, carry)


def _one_more(alive: Any) -> Any:
    """One more step of each sequence counts, where there is one."""
    return None if alive is None else alive | jnp.roll(alive, 1, axis=0)


def _transposed(param: Any) -> Any:
    def read(self: nn.Module, name: str, *rest: Any, **options: Any) -> Any:
        value = param(self, name, *rest, **options)
        square = value.ndim == 2 and value.shape[0] == value.shape[1]
        return value.T if square else value

    return read


def _without_bias(param: Any) -> Any:
    def read(self: nn.Module, name: str, *rest: Any, **options: Any) -> Any:
        value = param(self, name, *rest, **options)
        return jnp.zeros_like(value) if name == "bias" else value

    return read
