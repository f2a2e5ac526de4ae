"""The mutants of cells and of the recurrence, and the list of all."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxrnn.recurrent.cells import GRU, LSTM, RELU, TANH, Hidden
from parity.mutation import cell_patches as f
from parity.mutation.cell_patches import zeros
from parity.mutation.components import ONE_PART
from parity.mutation.models import MODELS
from parity.mutation.mutants import Mutant
from parity.mutation.training import TRAINING

_gru, _lstm = "values of CharSeqStatefulGRU", "values of CharLM, lstm"
_rnn, _both = "values of CharSeqStatefulRnn", "values of an lstm stack"

CELLS = (
    Mutant(
        "GRU: r and z exchanged",
        lambda: f.stepping(GRU, f.gru_step(r_gate=1, z_gate=0)),
        _gru,
        "layer 0, h at step 0, gates r, z",
        "r and z exchanged",
    ),
    Mutant(
        "GRU: z keeps the new",
        lambda: f.stepping(GRU, f.gru_step(keep=False)),
        _gru,
        "layer 0, h at step 0",
        "z weighs the new",
    ),
    Mutant(
        "GRU: reset before the product",
        lambda: f.own_gru(f.reset_before_the_product),
        _gru,
        "layer 0, h at step 0, gate n",
        "before the product",
    ),
    Mutant(
        "GRU: b_hn outside the reset",
        lambda: f.own_gru(f.bias_outside_the_reset),
        _gru,
        "layer 0, h at step 0, gate n",
        "b_hn is missing inside",
    ),
    Mutant(
        "GRU: hard sigmoid",
        lambda: f.stepping(GRU, f.gru_step(squash=nn.hard_sigmoid)),
        _gru,
        "layer 0, h at step 0, gates r, z",
        "the gates use a hard sigmoid",
    ),
    Mutant(
        "LSTM: gate order i, f, o, g",
        lambda: f.stepping(LSTM, f.lstm_step("ifog")),
        _lstm,
        "layer 0, c at step 0",
        "g and o exchanged",
    ),
    Mutant(
        "LSTM: gate order f, i, g, o",
        lambda: f.stepping(LSTM, f.lstm_step("figo")),
        _lstm,
        "layer 0, c at step 0",
        "i and f exchanged",
    ),
    Mutant(
        "LSTM: forget gate + 1",
        lambda: f.stepping(LSTM, f.lstm_step(forget=1.0)),
        _lstm,
        "layer 0, c at step 0, gate f",
        "1 is added to the forget",
    ),
    Mutant(
        "LSTM: output without tanh",
        lambda: f.stepping(LSTM, f.lstm_step(output=lambda c, before: c)),
        _lstm,
        "layer 0, h at step 0",
        "the output has no tanh",
    ),
    Mutant(
        "LSTM: output from the old c",
        lambda: f.stepping(LSTM, f.lstm_step(output=lambda c, before: jnp.tanh(before))),
        _lstm,
        "layer 0, h at step 0",
        "old cell state",
    ),
    Mutant(
        "LSTM: h and c exchanged",
        lambda: f.stepping(LSTM, f.lstm_step(swapped=True)),
        _lstm,
        "layer 0, c at step 0",
        "h and c are exchanged",
    ),
    Mutant(
        "tanh for relu",
        lambda: f.stepping(RELU, TANH.step),
        "values of CharLM, relu",
        "layer 0, h at step 0",
        "the activation is tanh",
    ),
    Mutant(
        "no tanh",
        lambda: f.stepping(TANH, lambda carry, x, h: Hidden(x + h)),
        "values of a tanh stack",
        "layer 0, h at step 0",
        "there is no activation",
    ),
    Mutant(
        "float32 in a float64 path",
        lambda: f.cell_with(GRU, lambda x: x.astype("float32").astype(x.dtype)),
        _gru,
        "layer 0, h at step 0",
        "rounded to float32",
    ),
    Mutant(
        "float32 output",
        lambda: f.recurrence_with(result=lambda r, _: (r[0], r[1].astype("float32"))),
        "values of a gru stack",
        "layer 0, output at step 0",
        "the output is float32",
    ),
)

RECURRENCE = (
    Mutant(
        "bias_hh dropped",
        lambda: f.recurrence_with(bias=jnp.zeros_like),
        _rnn,
        "layer 0, h at step 0",
        "b_hh is missing",
    ),
    Mutant(
        "weight_hh transposed",
        lambda: f.recurrence_with(weight=lambda w: w.T),
        _rnn,
        "layer 0, h at step 0",
        "weight is transposed",
    ),
    Mutant(
        "carry starts from zeros",
        lambda: f.recurrence_with(carry=zeros),
        _rnn,
        "layer 0, h at step 0",
        "starts from zeros",
    ),
    Mutant(
        "backward runs forward",
        lambda: f.recurrence_with(reverse=lambda r: False),
        _both,
        "layer 0 reverse, loop over time",
        "the wrong direction",
    ),
    Mutant(
        "backward outputs not turned back",
        lambda: f.recurrence_with(result=lambda r, back: (r[0], r[1][::-1] if back else r[1])),
        _both,
        "layer 0 reverse, loop over time",
        "not turned back",
    ),
    Mutant(
        "lengths ignored",
        lambda: f.recurrence_with(alive=lambda a: None),
        _both,
        "layer 0, loop over time",
        "lengths are ignored",
    ),
    Mutant(
        "one length too many",
        lambda: f.recurrence_with(alive=_one_more),
        _both,
        "layer 0, loop over time",
        "one step too many",
    ),
    Mutant(
        "directions exchanged",
        lambda: f.stack_with(f.directions_exchanged),
        _both,
        "after the last layer",
        "directions are exchanged",
    ),
    Mutant(
        "carries of layers exchanged",
        lambda: f.stack_with(f.carries_exchanged),
        _both,
        "the carry handed to layer 0",
        "opposite order",
    ),
    Mutant(
        "layer order",
        f.layers_exchanged,
        "values of a gru stack",
        "layer 0, h at step 0",
        "weight_hh is that of layer 1",
    ),
    Mutant(
        "biases folded in training",
        lambda: f.recurrence_with(bias=lax.stop_gradient),
        "update, SGD, momentum",
        "the backward pass of layer 0, gradient of bias_hh",
        "nothing flows back",
    ),
    Mutant(
        "gradient of weight_hh transposed",
        lambda: f.backward_with(lambda d: (d[0].T, *d[1:])),
        _rnn,
        "the backward pass of layer 0, gradient of weight_hh",
        "transposed",
    ),
    Mutant(
        "gradient of bias_hh averaged over the batch",
        lambda: f.backward_with(lambda d: (d[0], d[1] / 3, *d[2:])),
        _rnn,
        "the backward pass of layer 0, gradient of bias_hh",
        "averaged over the batch",
    ),
    Mutant(
        "gradient of the carry lost",
        lambda: f.backward_with(lambda d: (*d[:2], zeros(d[2]), d[3])),
        "values of a gru stack",
        "the backward pass of layer 1, gradient of carry.h",
        "nothing flows back",
    ),
    Mutant(
        "dropout after the last layer",
        lambda: f.stack_with(f.dropped_after_the_last),
        "dropout",
        "after the last layer",
        "dropout acts after the last layer",
    ),
    Mutant(
        "dropout without rescaling",
        lambda: f.dropping(lambda xs, mask, rate: jnp.where(mask, xs, 0)),
        "dropout",
        "between layer 0 and layer 1",
        "does not rescale",
    ),
    Mutant(
        "dropout of what should stay",
        lambda: f.dropping(lambda xs, mask, rate: jnp.where(mask, 0, xs / (1 - rate))),
        "dropout",
        "between layer 0 and layer 1",
        "drops what should stay",
    ),
    Mutant(
        "outputs scaled between layers",
        lambda: f.dropping(lambda xs, mask, rate: 1.5 * xs),
        "values of a gru stack",
        "between layer 0 and layer 1",
        "1.5 times",
    ),
    Mutant(
        "gradient cut where layers meet",
        lambda: f.dropping(lambda xs, mask, rate: lax.stop_gradient(xs)),
        "values of a gru stack",
        "the backward pass between layer 1 and layer 0",
        "nothing flows back",
    ),
)

MUTANTS = (*CELLS, *RECURRENCE, *ONE_PART, *MODELS, *TRAINING)
"""All of them."""


def _one_more(alive: Any) -> Any:
    """One more step of each sequence counts, where there is one."""
    return None if alive is None else alive | jnp.roll(alive, 1, axis=0)
