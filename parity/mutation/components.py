"""The mutants whose fault sits in one layer, direction, gate or time step alone."""

import flax.linen as nn
import jax.numpy as jnp

from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import GRU, LSTM, TANH, Hidden
from parity.mutation import cell_patches as f
from parity.mutation.mutants import Mutant

_gru, _both = "values of a gru stack", "values of an lstm stack"
_tanh, _dropped = "values of a tanh stack", "dropout"
R, Z, N = range(3)
I, F, G, O = range(4)

FORWARD = (
    Mutant(
        "layer 1: GRU: r and z exchanged",
        lambda: f.only_in("l1", lambda: f.stepping(GRU, f.gru_step(r_gate=1, z_gate=0))),
        _gru,
        "layer 1, h at step 0, gates r, z",
        "r and z exchanged",
    ),
    Mutant(
        "layer 1: GRU: reset before the product",
        lambda: f.only_in("l1", lambda: f.own_gru(f.reset_before_the_product)),
        _gru,
        "layer 1, h at step 0, gate n",
        "before the product",
    ),
    Mutant(
        "layer 1: GRU: hard sigmoid in z",
        lambda: f.only_in("l1", lambda: f.stepping(GRU, f.gru_step(squash_z=nn.hard_sigmoid))),
        _gru,
        "layer 1, h at step 0, gate z",
        "gate z uses a hard sigmoid",
    ),
    Mutant(
        "layer 0: bias_hh of z dropped",
        lambda: f.only_in("l0", lambda: f.recurrence_with(bias=f.rows_of(Z, 3, f.zeros))),
        _gru,
        "layer 0, h at step 0, gate z",
        "b_hh of gate z is missing",
    ),
    Mutant(
        "layer 1: weight_hh of r transposed",
        lambda: f.only_in("l1", lambda: f.recurrence_with(weight=f.rows_of(R, 3, lambda w: w.T))),
        _gru,
        "layer 1, h at step 0, gate r",
        "weight of gate r is transposed",
    ),
    Mutant(
        "layer 1: step 2 sees no input",
        lambda: f.only_in("l1", lambda: f.recurrence_with(gates=_without_step)),
        _gru,
        "layer 1, loop over time, from step 2",
    ),
    Mutant(
        "layer 1: no tanh",
        lambda: f.only_in("l1", lambda: f.stepping(TANH, lambda carry, x, h: Hidden(x + h))),
        _tanh,
        "layer 1, h at step 0",
        "there is no activation",
    ),
    Mutant(
        "layer 0 reverse: LSTM: forget gate + 1",
        lambda: f.only_in("l0_reverse", lambda: f.stepping(LSTM, f.lstm_step(forget=1.0))),
        _both,
        "layer 0 reverse, c at step 0, gate f",
        "1 is added to the forget",
    ),
    Mutant(
        "layer 1 reverse: carry starts from zeros",
        lambda: f.only_in("l1_reverse", lambda: f.recurrence_with(carry=f.zeros)),
        _both,
        "layer 1 reverse, c at step 0",
        "starts from zeros",
    ),
    Mutant(
        "layer 1 reverse: runs forward",
        lambda: f.only_in("l1_reverse", lambda: f.recurrence_with(reverse=lambda r: False)),
        _both,
        "layer 1 reverse, loop over time",
        "the wrong direction",
    ),
    Mutant(
        "layer 1: lengths ignored",
        lambda: f.only_in("l1", lambda: f.recurrence_with(alive=lambda a: None)),
        _both,
        "layer 1, loop over time",
        "lengths are ignored",
    ),
    Mutant(
        "layer 2: LSTM: output without tanh",
        lambda: f.only_in("l2", lambda: f.stepping(LSTM, f.lstm_step(output=lambda c, before: c))),
        _dropped,
        "layer 2, h at step 0",
        "the output has no tanh",
    ),
)

BACKWARD = (
    Mutant(
        "layer 0: gradient of weight_hh lost",
        lambda: f.only_in("l0", lambda: f.backward_with(lambda d: (f.zeros(d[0]), *d[1:]))),
        _gru,
        "the backward pass of layer 0, gradient of weight_hh",
        "nothing flows back",
    ),
    Mutant(
        "layer 1: gradient of weight_hh doubled in z",
        lambda: f.only_in(
            "l1",
            lambda: f.backward_with(lambda d: (f.rows_of(Z, 3, lambda w: 2 * w)(d[0]), *d[1:])),
        ),
        _gru,
        "the backward pass of layer 1, gradient of weight_hh, gate z",
        "2 times what it should be in gate z",
    ),
    Mutant(
        "layer 0 reverse: gradient of bias_hh lost in f",
        lambda: f.only_in(
            "l0_reverse",
            lambda: f.backward_with(lambda d: (d[0], f.rows_of(F, 4, f.zeros)(d[1]), *d[2:])),
        ),
        _both,
        "the backward pass of layer 0 reverse, gradient of bias_hh, gate f",
        "through gate f",
    ),
    Mutant(
        "layer 1 reverse: gradient of the carry lost",
        lambda: f.only_in(
            "l1_reverse", lambda: f.backward_with(lambda d: (*d[:2], f.zeros(d[2]), d[3]))
        ),
        _both,
        "the backward pass of layer 1 reverse, gradient of carry.h, carry.c",
        "nothing flows back",
    ),
    Mutant(
        "layer 1: gradient of the gates lost at step 1",
        lambda: f.only_in("l1", lambda: f.backward_with(lambda d: (*d[:3], d[3].at[1].set(0)))),
        _gru,
        "the backward pass of layer 1, gradient of weight_ih, bias_ih, xs",
    ),
    Mutant(
        "gradient cut between layers",
        lambda: f.wrapped(RNN, "_run", f.cut_between_layers),
        _gru,
        "the backward pass of layer 1, gradient of xs",
        "nothing flows back",
    ),
)

ONE_PART = (*FORWARD, *BACKWARD)


def _without_step(gates: jnp.ndarray) -> jnp.ndarray:
    """The input's half of the gates, zero at step 2, where there is one."""
    return gates.at[2].set(0) if len(gates) > 2 else gates
