"""The mutants of models and losses."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.recurrent.recurrence import why_not_compiled
from parity.mutation import cell_patches as f
from parity.mutation import model_patches as m
from parity.mutation import training_patches as t
from parity.mutation.mutants import Mutant

_gru, _lstm = "values of CharSeqStatefulGRU", "values of CharLM, lstm"
_rnn = "values of CharSeqStatefulRnn"

MODELS = (
    Mutant(
        "square kernel transposed",
        lambda: f.wrapped(nn.Module, "param", _transposed),
        "values of CharLoopModel",
        "l_hidden",
        "transposed",
    ),
    Mutant(
        "bias of a Dense dropped",
        lambda: f.wrapped(nn.Module, "param", _without_bias),
        "values of Char3Model",
        "every Dense",
        "bias is missing",
    ),
    Mutant(
        "embedding row shift",
        lambda: m.embedding_with(lambda e, x: e[x - 1]),
        _rnn,
        "e",
        "rows are shifted by one",
    ),
    Mutant(
        "padding row not trained",
        lambda: m.embedding_with(lambda e, x: e.at[0].set(lax.stop_gradient(e[0]))[x]),
        _rnn,
        "gradient of e.weight",
        "row 0 is not trained",
    ),
    Mutant(
        "embedding scaled",
        lambda: m.embedding_with(lambda e, x: e[x] * e.shape[1] ** 0.5),
        "values of CharLoopConcatModel",
        "e",
        "root of its width",
    ),
    Mutant(
        "looked-up row shift",
        lambda: m.looking_up(lambda table, x: x if table is None else table[x - 1]),
        "values of CharLM, few tokens",
    ),
    Mutant(
        "looked-up row counted once",
        lambda: m.summing_up(m.counted_once),
        "values of CharLM, few tokens",
    ),
    Mutant(
        "compiled: gradient of the looked-up rows shifted",
        lambda: m.compiled_with("_gradients", m.table_gradient(lambda d: jnp.roll(d, 1, axis=0))),
        "values of CharLM, few tokens",
        cannot=why_not_compiled,
    ),
    Mutant(
        "compiled: gradient of bias_hh lost",
        lambda: m.compiled_with("_gradients", lambda d: d._replace(bias_hh=f.zeros(d.bias_hh))),
        "values of a gru stack",
        cannot=why_not_compiled,
    ),
    Mutant(
        "compiled: outputs one step late",
        lambda: m.compiled_with(
            "_run", lambda r: (r[0], r[1]._replace(ys=jnp.roll(r[1].ys, 1, axis=0)))
        ),
        "values of an lstm stack",
        cannot=why_not_compiled,
    ),
    Mutant(
        "log_softmax over the batch",
        lambda: m.log_softmax_with(lambda x: jax.nn.log_softmax(x, axis=-2)),
        "values of Char3Model",
        "log_softmax",
        "over the batch",
    ),
    Mutant(
        "log_softmax left out",
        lambda: m.log_softmax_with(lambda x: x),
        _gru,
        "log_softmax",
        "left out",
    ),
    Mutant(
        "loss summed",
        lambda: m.loss_with(lambda loss, p, y, w: loss(p, y, w) * y.size),
        _rnn,
        "the loss, from equal log prob",
        "it is summed",
    ),
    Mutant(
        "loss averaged over time only",
        lambda: m.loss_with(lambda loss, p, y, w: loss(p, y, w) * y.shape[-1]),
        _rnn,
        "the loss, from equal log prob",
        "averaged over time only",
    ),
    Mutant(
        "time and batch exchanged in the loss",
        lambda: m.loss_with(lambda loss, p, y, w: loss(p, y.T.reshape(y.shape), w)),
        _rnn,
        "the loss, from equal log prob",
        "time and batch of the targets",
    ),
    Mutant(
        "padded steps counted",
        lambda: m.loss_with(lambda loss, p, y, w: loss(p, y, None)),
        _lstm,
        "the loss, from equal log prob",
        "steps beyond the length count",
    ),
    Mutant("carry not cut", t.history_kept, _rnn, "gradient of input carry.h", "not cut"),
)


def _transposed(param: Any) -> Any:
    def read(self: nn.Module, name: str, *rest: Any, **options: Any) -> Any:
        """As `param`."""
        value = param(self, name, *rest, **options)
        square = value.ndim == 2 and value.shape[0] == value.shape[1]
        return value.T if square else value

    return read


def _without_bias(param: Any) -> Any:
    def read(self: nn.Module, name: str, *rest: Any, **options: Any) -> Any:
        """As `param`."""
        value = param(self, name, *rest, **options)
        return jnp.zeros_like(value) if name == "bias" else value

    return read
