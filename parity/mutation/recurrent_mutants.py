"""The mutants of cells, of the recurrence and of stacks."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

import jaxrnn.recurrent.free_cells
from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import (
    COUPLED_LSTM,
    GRU,
    LSTM,
    MGU,
    PEEPHOLE_LSTM,
    RELU,
    SLSTM,
    TANH,
    Hidden,
)
from jaxrnn.recurrent.free_cells import (
    GRU_RESET_BEFORE,
    MOGRIFIER_LSTM,
    MULTIPLICATIVE_LSTM,
    PAPER_MGU,
    mogrifier_lstm,
)
from jaxrnn.recurrent.handwritten import Arguments
from jaxrnn.recurrent.linear_cells import LRU, MIN_GRU, MIN_LSTM, QRNN, QRNN_1, RG_LRU, SRU
from jaxrnn.recurrent.zoneout import ZONEOUT_LSTM, ZONEOUT_QRNN, zoneout
from parity.mutation.mutants import (
    COUPLED_STACK,
    FREE_STACKS,
    GRU_MODEL,
    GRU_STACK,
    LINEAR_STACKS,
    LSTM_MODEL,
    LSTM_STACK,
    MGU_STACK,
    PARALLEL,
    PEEPHOLE_STACK,
    RNN_MODEL,
    ROUNDED_STACK,
    SLSTM_STACK,
    TANH_STACK,
    ZONEOUT_STACKS,
    Mutant,
)
from parity.mutation.recurrent_mutations import (
    as_gated,
    backward_with,
    bias_outside_the_reset,
    carries_exchanged,
    coefficients_with,
    coupled_lstm_step,
    cut_between_layers,
    directions_exchanged,
    dropped_after_the_last,
    dropping,
    gates_with,
    gru_step,
    layers_exchanged,
    lru_unscaled,
    lstm_step,
    mgu_step,
    min_gru_without_g,
    min_lstm_unnormalized,
    own_gru,
    parallel_backward_with,
    peephole_lstm_step,
    pooling,
    recurrence_with,
    reset_before_the_matmul,
    rg_lru_unscaled,
    rounded_tanh,
    slstm_step,
    sru_step,
    stack_with,
    states_with,
    stepping,
    without_multiplication,
    without_the_input_before,
)
from parity.mutation.tools import only_in, replaced, rows_of, wrapped, zeros

# The places of two gates of the GRU, and of the forget gate of the LSTM, among the rows.
R = 0
Z = 1
F = 1


def _one_more(mask: Any) -> Any:
    # One more step of each sequence counts, where there is one.
    return None if mask is None else mask | jnp.roll(mask, 1, axis=0)


def _not_turned_back(ys: Any, reverse: bool) -> Any:
    return ys[::-1] if reverse else ys


def _without_step_2(gates: jnp.ndarray) -> jnp.ndarray:
    # The input's half of the gates; single steps of the search have no step 2.
    return gates.at[2].set(0) if len(gates) > 2 else gates


def _without_step_1(d_gates: jnp.ndarray) -> jnp.ndarray:
    return d_gates.at[1].set(0)


def _twice_in_z(d: Arguments) -> Arguments:
    return d._replace(weight_hh=rows_of(Z, 3, lambda rows: 2 * rows)(d.weight_hh))


def _weight_lost(d: Arguments) -> Arguments:
    return d._replace(weight_hh=zeros(d.weight_hh))


def _transposed_weight(d: Arguments) -> Arguments:
    assert d.weight_hh is not None
    return d._replace(weight_hh=d.weight_hh.T)


def _bias_lost_in_f(d: Arguments) -> Arguments:
    return d._replace(bias_hh=rows_of(F, 4, zeros)(d.bias_hh))


RECURRENT = (
    # Cells: gates, activations and what the step computes.
    Mutant(
        "GRU: r and z exchanged",
        lambda: stepping(GRU, gru_step(r_gate=1, z_gate=0)),
        GRU_MODEL,
        "layer 0, h at step 0, gates r, z",
        "r and z exchanged",
    ),
    Mutant(
        "GRU: tanh 2 units in the last place off in float32",
        lambda: stepping(GRU, gru_step(candidate=rounded_tanh)),
        ROUNDED_STACK,
        "ys (forward), in float32 alone",
        "right in float64",
    ),
    Mutant(
        "GRU: z weighs the new",
        lambda: stepping(GRU, gru_step(z_weighs_new=True)),
        GRU_MODEL,
        "layer 0, h at step 0",
        "z weighs the new",
    ),
    Mutant(
        "GRU: reset before the matmul",
        lambda: own_gru(reset_before_the_matmul),
        GRU_MODEL,
        "layer 0, h at step 0, gate n",
        "before the matmul",
    ),
    Mutant(
        "GRU: b_hn outside the reset",
        lambda: own_gru(bias_outside_the_reset),
        GRU_MODEL,
        "layer 0, h at step 0, gate n",
        "b_hn is missing inside",
    ),
    Mutant(
        "GRU: hard sigmoid",
        lambda: stepping(GRU, gru_step(squash=nn.hard_sigmoid)),
        GRU_MODEL,
        "layer 0, h at step 0, gates r, z",
        "the gates use a hard sigmoid",
    ),
    # The LSTM.
    Mutant(
        "LSTM: gate order i, f, o, g",
        lambda: stepping(LSTM, lstm_step("ifog")),
        LSTM_MODEL,
        "layer 0, c at step 0",
        "g and o exchanged",
    ),
    Mutant(
        "LSTM: gate order f, i, g, o",
        lambda: stepping(LSTM, lstm_step("figo")),
        LSTM_MODEL,
        "layer 0, c at step 0",
        "i and f exchanged",
    ),
    Mutant(
        "LSTM: forget gate + 1",
        lambda: stepping(LSTM, lstm_step(forget=1.0)),
        LSTM_MODEL,
        "layer 0, c at step 0, gate f",
        "1 is added to the forget",
    ),
    Mutant(
        "LSTM: output without tanh",
        lambda: stepping(LSTM, lstm_step(output=lambda c, before: c)),
        LSTM_MODEL,
        "layer 0, h at step 0",
        "the output has no tanh",
    ),
    Mutant(
        "LSTM: output from the old c",
        lambda: stepping(LSTM, lstm_step(output=lambda c, before: jnp.tanh(before))),
        LSTM_MODEL,
        "layer 0, h at step 0",
        "old cell state",
    ),
    Mutant(
        "LSTM: h and c exchanged",
        lambda: stepping(LSTM, lstm_step(swapped=True)),
        LSTM_MODEL,
        "layer 0, c at step 0",
        "h and c are exchanged",
    ),
    # The cells that torch has not.
    Mutant(
        "peephole LSTM: o sees the old c",
        lambda: stepping(PEEPHOLE_LSTM, peephole_lstm_step(old_for_o=True)),
        PEEPHOLE_STACK,
        "layer 0, h at step 0",
        "the output gate sees the old cell state",
    ),
    Mutant(
        "peephole LSTM: f sees nothing",
        lambda: stepping(PEEPHOLE_LSTM, peephole_lstm_step(seen_by_f=False)),
        PEEPHOLE_STACK,
        "layer 0, c at step 0, gate f",
        "gate f has no peephole",
    ),
    Mutant(
        "zoneout LSTM: rates exchanged",
        lambda: stepping(ZONEOUT_LSTM, zoneout(LSTM, c=0.05, h=0.5).step),
        ZONEOUT_STACKS["zoneout-lstm"],
        "layer 0, c at step 0",
        "the zoneout rates of h and c are exchanged",
    ),
    Mutant(
        "zoneout QRNN: none",
        lambda: coefficients_with(ZONEOUT_QRNN, QRNN.coefficients),
        ZONEOUT_STACKS["zoneout-qrnn"],
        "layer 0, c at step 0",
        "there is no zoneout",
    ),
    Mutant(
        "coupled LSTM: f weighs the new",
        lambda: stepping(COUPLED_LSTM, coupled_lstm_step(f_weighs_new=True)),
        COUPLED_STACK,
        "layer 0, c at step 0",
        "f weighs the new",
    ),
    Mutant(
        "MGU: f weighs the new",
        lambda: stepping(MGU, mgu_step(f_weighs_new=True)),
        MGU_STACK,
        "layer 0, h at step 0",
        "f weighs the new",
    ),
    Mutant(
        "MGU: no reset",
        lambda: stepping(MGU, mgu_step(reset=False)),
        MGU_STACK,
        "layer 0, h at step 0",
        "the candidate has no reset",
    ),
    Mutant(
        "sLSTM: exponential forget gate",
        lambda: stepping(SLSTM, slstm_step(log_forget=lambda f: f)),
        SLSTM_STACK,
        "layer 0, c at step 0",
        "the forget gate is an exponential",
    ),
    Mutant(
        "sLSTM: stabilizer not handed on",
        lambda: stepping(SLSTM, slstm_step(handed_on=False)),
        SLSTM_STACK,
        "layer 0, c at step 0",
        "the stabilizer is not handed on",
    ),
    Mutant(
        "sLSTM: output not divided",
        lambda: stepping(SLSTM, slstm_step(divided=False)),
        SLSTM_STACK,
        "layer 0, h at step 0",
        "not divided by the normalizer",
    ),
    # Cells without a recurrent product.
    Mutant(
        "QRNN: f weighs the new",
        lambda: coefficients_with(QRNN, pooling(f_weighs_new=True)),
        LINEAR_STACKS["qrnn"],
        "layer 0, c at step 0",
        "f weighs the new",
    ),
    Mutant(
        "QRNN: the input before is lost",
        without_the_input_before,
        LINEAR_STACKS["qrnn"],
        "layer 0, c at step 0",
        "the input before is taken for zero",
    ),
    Mutant(
        "QRNN, window 1: no tanh",
        lambda: coefficients_with(QRNN_1, pooling(squash=lambda z: z)),
        LINEAR_STACKS["qrnn-1"],
        "layer 0, c at step 0",
        "the candidate has no tanh",
    ),
    Mutant(
        "QRNN, f pooling: the input before is lost",
        without_the_input_before,
        LINEAR_STACKS["qrnn-f"],
        "layer 0, c at step 0",
        "the input before is taken for zero",
    ),
    Mutant(
        "minGRU: no g",
        lambda: coefficients_with(MIN_GRU, min_gru_without_g),
        LINEAR_STACKS["mingru"],
        "layer 0, h at step 0",
        "the candidate does not go through g",
    ),
    Mutant(
        "minLSTM: gates not normalized",
        lambda: coefficients_with(MIN_LSTM, min_lstm_unnormalized),
        LINEAR_STACKS["minlstm"],
        "layer 0, h at step 0",
        "the gates are not normalized",
    ),
    Mutant(
        "RG-LRU: input not scaled",
        lambda: coefficients_with(RG_LRU, rg_lru_unscaled),
        LINEAR_STACKS["rg-lru"],
        "layer 0, h at step 0",
        "the input is not scaled",
    ),
    Mutant(
        "LRU: input not scaled",
        lambda: coefficients_with(LRU, lru_unscaled),
        LINEAR_STACKS["lru"],
        "layer 0, h at step 0",
        "the input is not scaled",
    ),
    Mutant(
        "parallel: one step late",
        lambda: states_with(lambda states, _: jnp.roll(states, 1, axis=0)),
        PARALLEL,
        "layer 0, loop over time",
    ),
    Mutant(
        "parallel: gradient of the carry lost",
        lambda: parallel_backward_with(lambda a, b, first: (a, b, zeros(first))),
        PARALLEL,
        "the backward pass of layer 1, gradient of carry.h",
        "nothing flows back",
    ),
    Mutant(
        "SRU: r sees the new c",
        lambda: stepping(SRU, sru_step),
        LINEAR_STACKS["sru"],
        "layer 0, h at step 0, gate r",
        "the reset gate sees the new state",
    ),
    # Free cells.
    Mutant(
        "layer-norm LSTM: no epsilon",
        lambda: replaced(jaxrnn.recurrent.free_cells, "EPSILON", 0.0),
        FREE_STACKS["layer-norm-lstm"],
        "layer 0, c at step 0",
    ),
    Mutant(
        "GRU with the reset before: reset after the matmul",
        lambda: stepping(GRU_RESET_BEFORE, as_gated(GRU)),
        FREE_STACKS["gru-reset-before"],
        "layer 0, h at step 0",
        "the reset gate is applied after the matmul",
    ),
    Mutant(
        "multiplicative LSTM: not multiplied",
        lambda: stepping(MULTIPLICATIVE_LSTM, without_multiplication),
        FREE_STACKS["multiplicative-lstm"],
        "layer 0, c at step 0",
    ),
    Mutant(
        "Mogrifier: one round less",
        lambda: stepping(MOGRIFIER_LSTM, mogrifier_lstm(rounds=4).step),
        FREE_STACKS["mogrifier-lstm"],
        "layer 0, c at step 0",
    ),
    Mutant(
        "MGU of the paper: as Flax has it",
        lambda: stepping(PAPER_MGU, as_gated(MGU)),
        FREE_STACKS["paper-mgu"],
        "layer 0, h at step 0",
        "f is applied after the matmul",
    ),
    # Activations and precision.
    Mutant(
        "tanh for relu",
        lambda: stepping(RELU, TANH.step),
        "values of CharLM, relu",
        "layer 0, h at step 0",
        "the activation is tanh",
    ),
    Mutant(
        "no tanh",
        lambda: stepping(TANH, lambda carry, x, h: Hidden(x + h)),
        TANH_STACK,
        "layer 0, h at step 0",
        "there is no activation",
    ),
    Mutant(
        "float32 in a float64 path",
        lambda: gates_with(GRU, lambda x: x.astype("float32").astype(x.dtype)),
        GRU_MODEL,
        "layer 0, h at step 0",
        "rounded to float32",
    ),
    Mutant(
        "float32 output",
        lambda: recurrence_with(outputs=lambda ys, _: ys.astype("float32")),
        GRU_STACK,
        "layer 0, output at step 0",
        "the output is float32",
    ),
    # The recurrence and the stack: weights, time, lengths, layers, gradients, dropout.
    Mutant(
        "bias_hh dropped",
        lambda: recurrence_with(bias=jnp.zeros_like),
        RNN_MODEL,
        "layer 0, h at step 0",
        "b_hh is missing",
    ),
    Mutant(
        "weight_hh transposed",
        lambda: recurrence_with(weight=lambda w: w.T),
        RNN_MODEL,
        "layer 0, h at step 0",
        "weight is transposed",
    ),
    Mutant(
        "carry starts from zeros",
        lambda: recurrence_with(carry=zeros),
        RNN_MODEL,
        "layer 0, h at step 0",
        "starts from zeros",
    ),
    # Time: its direction, and the lengths.
    Mutant(
        "backward runs forward",
        lambda: recurrence_with(reverse=lambda r: False),
        LSTM_STACK,
        "layer 0 reverse, loop over time",
        "the wrong direction",
    ),
    Mutant(
        "backward outputs not turned back",
        lambda: recurrence_with(outputs=_not_turned_back),
        LSTM_STACK,
        "layer 0 reverse, loop over time",
        "not turned back",
    ),
    Mutant(
        "lengths ignored",
        lambda: recurrence_with(mask=lambda mask: None),
        LSTM_STACK,
        "layer 0, loop over time",
        "lengths are ignored",
    ),
    Mutant(
        "one length too many",
        lambda: recurrence_with(mask=_one_more),
        LSTM_STACK,
        "layer 0, loop over time",
        "one step too many",
    ),
    # Layers and directions.
    Mutant(
        "directions exchanged",
        lambda: stack_with(directions_exchanged),
        LSTM_STACK,
        "after the last layer",
        "directions are exchanged",
    ),
    Mutant(
        "carries of layers exchanged",
        lambda: stack_with(carries_exchanged),
        LSTM_STACK,
        "the carry handed to layer 0",
        "opposite order",
    ),
    Mutant(
        "layer order",
        layers_exchanged,
        GRU_STACK,
        "layer 0, h at step 0",
        "weight_hh is that of layer 1",
    ),
    # Gradients.
    Mutant(
        "biases folded in training",
        lambda: recurrence_with(bias=lax.stop_gradient),
        "update, SGD, momentum",
        "the backward pass of layer 0, gradient of bias_hh",
        "nothing flows back",
    ),
    Mutant(
        "gradient of weight_hh transposed",
        lambda: backward_with(_transposed_weight),
        RNN_MODEL,
        "the backward pass of layer 0, gradient of weight_hh",
        "transposed",
    ),
    Mutant(
        "gradient of bias_hh averaged over the batch",
        lambda: backward_with(lambda d: d._replace(bias_hh=d.bias_hh / 3)),
        RNN_MODEL,
        "the backward pass of layer 0, gradient of bias_hh",
        "averaged over the batch",
    ),
    Mutant(
        "gradient of the carry lost",
        lambda: backward_with(lambda d: d._replace(carry=zeros(d.carry))),
        GRU_STACK,
        "the backward pass of layer 1, gradient of carry.h",
        "nothing flows back",
    ),
    Mutant(
        "gradient of the peepholes lost",
        lambda: backward_with(lambda d: d._replace(params=zeros(d.params))),
        PEEPHOLE_STACK,
        "the backward pass of layer 1, gradient of p_i, p_f, p_o",
        "nothing flows back",
    ),
    # What lies between the layers.
    Mutant(
        "dropout after the last layer",
        lambda: stack_with(dropped_after_the_last),
        "dropout",
        "after the last layer",
        "dropout acts after the last layer",
    ),
    Mutant(
        "dropout without rescaling",
        lambda: dropping(lambda xs, mask, rate: jnp.where(mask, xs, 0)),
        "dropout",
        "between layer 0 and layer 1",
        "does not rescale",
    ),
    Mutant(
        "dropout of what should stay",
        lambda: dropping(lambda xs, mask, rate: jnp.where(mask, 0, xs / (1 - rate))),
        "dropout",
        "between layer 0 and layer 1",
        "drops what should stay",
    ),
    Mutant(
        "outputs scaled between layers",
        lambda: dropping(lambda xs, mask, rate: 1.5 * xs),
        GRU_STACK,
        "between layer 0 and layer 1",
        "1.5 times",
    ),
    Mutant(
        "gradient cut where layers meet",
        lambda: dropping(lambda xs, mask, rate: lax.stop_gradient(xs)),
        GRU_STACK,
        "the backward pass between layer 1 and layer 0",
        "nothing flows back",
    ),
    # The same in one layer, direction, gate or time step alone: the rest of the stack is right.
    Mutant(
        "layer 1: GRU: r and z exchanged",
        lambda: only_in("l1", lambda: stepping(GRU, gru_step(r_gate=1, z_gate=0))),
        GRU_STACK,
        "layer 1, h at step 0, gates r, z",
        "r and z exchanged",
    ),
    Mutant(
        "layer 1: GRU: reset before the matmul",
        lambda: only_in("l1", lambda: own_gru(reset_before_the_matmul)),
        GRU_STACK,
        "layer 1, h at step 0, gate n",
        "before the matmul",
    ),
    Mutant(
        "layer 1: GRU: hard sigmoid in z",
        lambda: only_in("l1", lambda: stepping(GRU, gru_step(squash_z=nn.hard_sigmoid))),
        GRU_STACK,
        "layer 1, h at step 0, gate z",
        "gate z uses a hard sigmoid",
    ),
    Mutant(
        "layer 0: bias_hh of z dropped",
        lambda: only_in("l0", lambda: recurrence_with(bias=rows_of(Z, 3, zeros))),
        GRU_STACK,
        "layer 0, h at step 0, gate z",
        "b_hh of gate z is missing",
    ),
    Mutant(
        "layer 1: weight_hh of r transposed",
        lambda: only_in("l1", lambda: recurrence_with(weight=rows_of(R, 3, lambda w: w.T))),
        GRU_STACK,
        "layer 1, h at step 0, gate r",
        "weight of gate r is transposed",
    ),
    Mutant(
        "layer 1: step 2 has no input",
        lambda: only_in("l1", lambda: recurrence_with(gates=_without_step_2)),
        GRU_STACK,
        "layer 1, loop over time, from step 2",
    ),
    Mutant(
        "layer 1: no tanh",
        lambda: only_in("l1", lambda: stepping(TANH, lambda carry, x, h: Hidden(x + h))),
        TANH_STACK,
        "layer 1, h at step 0",
        "there is no activation",
    ),
    Mutant(
        "layer 0 reverse: LSTM: forget gate + 1",
        lambda: only_in("l0_reverse", lambda: stepping(LSTM, lstm_step(forget=1.0))),
        LSTM_STACK,
        "layer 0 reverse, c at step 0, gate f",
        "1 is added to the forget",
    ),
    Mutant(
        "layer 1 reverse: carry starts from zeros",
        lambda: only_in("l1_reverse", lambda: recurrence_with(carry=zeros)),
        LSTM_STACK,
        "layer 1 reverse, c at step 0",
        "starts from zeros",
    ),
    Mutant(
        "layer 1 reverse: runs forward",
        lambda: only_in("l1_reverse", lambda: recurrence_with(reverse=lambda r: False)),
        LSTM_STACK,
        "layer 1 reverse, loop over time",
        "the wrong direction",
    ),
    Mutant(
        "layer 1: lengths ignored",
        lambda: only_in("l1", lambda: recurrence_with(mask=lambda mask: None)),
        LSTM_STACK,
        "layer 1, loop over time",
        "lengths are ignored",
    ),
    Mutant(
        "layer 2: LSTM: output without tanh",
        lambda: only_in("l2", lambda: stepping(LSTM, lstm_step(output=lambda c, before: c))),
        "dropout",
        "layer 2, h at step 0",
        "the output has no tanh",
    ),
    # Gradients of one layer, direction, gate or time step alone.
    Mutant(
        "layer 0: gradient of weight_hh lost",
        lambda: only_in(
            "l0", lambda: backward_with(lambda d: d._replace(weight_hh=zeros(d.weight_hh)))
        ),
        GRU_STACK,
        "the backward pass of layer 0, gradient of weight_hh",
        "nothing flows back",
    ),
    Mutant(
        "layer 1: gradient of weight_hh doubled in z",
        lambda: only_in(
            "l1",
            lambda: backward_with(_twice_in_z),
        ),
        GRU_STACK,
        "the backward pass of layer 1, gradient of weight_hh, gate z",
        "2 times what it should be in gate z",
    ),
    Mutant(
        "layer 0 reverse: gradient of bias_hh lost in f",
        lambda: only_in(
            "l0_reverse",
            lambda: backward_with(_bias_lost_in_f),
        ),
        LSTM_STACK,
        "the backward pass of layer 0 reverse, gradient of bias_hh, gate f",
        "through gate f",
    ),
    Mutant(
        "layer 1 reverse: gradient of the carry lost",
        lambda: only_in(
            "l1_reverse", lambda: backward_with(lambda d: d._replace(carry=zeros(d.carry)))
        ),
        LSTM_STACK,
        "the backward pass of layer 1 reverse, gradient of carry.h, carry.c",
        "nothing flows back",
    ),
    Mutant(
        "layer 1: gradient of the gates lost at step 1",
        lambda: only_in(
            "l1",
            lambda: backward_with(lambda d: d._replace(x_gates=d.x_gates.map(_without_step_1))),
        ),
        GRU_STACK,
        "the backward pass of layer 1, gradient of",
        "nothing flows back at step 1",
    ),
    Mutant(
        "gradient cut between layers",
        lambda: wrapped(RNN, "_run", cut_between_layers),
        GRU_STACK,
        "the backward pass of layer 1, gradient of xs",
        "nothing flows back",
    ),
)
