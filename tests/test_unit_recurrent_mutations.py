"""What the mutations of cells, recurrence and stacks change, against formulas in NumPy.

Each step is the library's own but for one thing, so that without the change it is the cell's.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn.recurrent.layer
import jaxrnn.recurrent.linear
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
    HiddenAndCell,
    SLSTMCarry,
)
from jaxrnn.recurrent.free_cells import GRU_RESET_BEFORE, MULTIPLICATIVE_LSTM
from jaxrnn.recurrent.inputs import Projection
from jaxrnn.recurrent.linear_cells import LRU, MIN_GRU, MIN_LSTM, QRNN, QRNN_1, RG_LRU, SRU
from parity.mutation import recurrent_mutations
from parity.mutation.catalog import MUTANTS
from parity.mutation.recurrent_mutations import (
    as_gated,
    coupled_lstm_step,
    gates_with,
    gru_step,
    lstm_step,
    mgu_step,
    peephole_lstm_step,
    pooling,
    positive,
    slstm_step,
)

B, H = 3, 4
RNG = np.random.default_rng(0)
X, XH = (RNG.normal(size=(B, 4 * H)) for _ in range(2))
H0, C0 = (RNG.normal(size=(B, H)) for _ in range(2))
N0, M0 = (RNG.uniform(0.5, 2.0, size=(B, H)) for _ in range(2))
P_I, P_F, P_O = (RNG.normal(size=H) for _ in range(3))
PEEPHOLES = {"p_i": P_I, "p_f": P_F, "p_o": P_O}
SLSTM_CARRY = SLSTMCarry(H0, C0, N0, M0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cut(array, count):
    return np.split(array[..., : count * H], count, axis=-1)


def same(got, expected, tolerance=1e-12):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=tolerance, atol=tolerance)


def of(name):
    (found,) = (mutant for mutant in MUTANTS if mutant.name == name)
    return found


CARRIES = {1: Hidden(H0), 2: HiddenAndCell(H0, C0), 4: SLSTM_CARRY}


def stepped(step, cell, **params):
    """What a step gives, with the gates that the cell has."""
    width = len(cell.gates) * H
    # One program compiles faster than its operations one by one.
    return jax.jit(step)(CARRIES[len(cell.carry._fields)], X[:, :width], XH[:, :width], **params)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("cell", "step", "params"),
    [
        (GRU, gru_step(), {}),
        (LSTM, lstm_step(), {}),
        (PEEPHOLE_LSTM, peephole_lstm_step(), PEEPHOLES),
        (COUPLED_LSTM, coupled_lstm_step(), {}),
        (MGU, mgu_step(), {}),
        (SLSTM, slstm_step(), {}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_without_a_change_a_step_is_the_cells(cell, step, params):
    same(stepped(step, cell, **params), stepped(cell.step, cell, **params))


def gru(*, r=0, z=1, new=False, squash=sigmoid, squash_z=None):
    x, h = cut(X, 3), cut(XH, 3)
    reset = squash(x[r] + h[r])
    update = (squash_z or squash)(x[z] + h[z])
    n = np.tanh(x[2] + reset * h[2])
    weight = 1 - update if new else update
    return weight * H0 + (1 - weight) * n


def lstm(order=(0, 1, 2, 3), forget=0.0, output=lambda c: np.tanh(c)):
    gates = cut(X + XH, 4)
    i, f, g, o = (gates[k] for k in order)
    c = sigmoid(f + forget) * C0 + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * output(c), c


def peephole(*, f=P_F, old=False):
    i, forget, g, o = cut(X + XH, 4)
    c = sigmoid(forget + f * C0) * C0 + sigmoid(i + P_I * C0) * np.tanh(g)
    return sigmoid(o + P_O * (C0 if old else c)) * np.tanh(c), c


def coupled_new():
    f, g, o = cut(X + XH, 3)
    c = (1 - sigmoid(f)) * C0 + sigmoid(f) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def mgu(*, new=False, reset=True):
    (x_f, x_n), (h_f, h_n) = cut(X, 2), cut(XH, 2)
    f = sigmoid(x_f + h_f)
    n = np.tanh(x_n + (f if reset else 1) * h_n)
    weight = 1 - f if new else f
    return weight * H0 + (1 - weight) * n


def slstm(*, log_forget=lambda f: np.log(sigmoid(f)), before=M0, divided=True):
    i, f, z, o = cut(X + XH, 4)
    past = log_forget(f) + before
    m = np.maximum(past, i)
    c = np.exp(past - m) * C0 + np.exp(i - m) * np.tanh(z)
    n = np.exp(past - m) * N0 + np.exp(i - m)
    return sigmoid(o) * (c / n if divided else c), c, n, m


def hard_sigmoid(x):
    return np.clip(x / 6 + 0.5, 0, 1)


h_lstm, c_lstm = lstm()
STEPS = {
    "GRU: r and z exchanged": (GRU, lambda: gru(r=1, z=0), {}),
    "GRU: z weighs the new": (GRU, lambda: gru(new=True), {}),
    "GRU: hard sigmoid": (GRU, lambda: gru(squash=hard_sigmoid), {}),
    "LSTM: gate order i, f, o, g": (LSTM, lambda: lstm((0, 1, 3, 2)), {}),
    "LSTM: gate order f, i, g, o": (LSTM, lambda: lstm((1, 0, 2, 3)), {}),
    "LSTM: forget gate + 1": (LSTM, lambda: lstm(forget=1.0), {}),
    "LSTM: output without tanh": (LSTM, lambda: lstm(output=lambda c: c), {}),
    "LSTM: output from the old c": (LSTM, lambda: lstm(output=lambda c: np.tanh(C0)), {}),
    "LSTM: h and c exchanged": (LSTM, lambda: (c_lstm, h_lstm), {}),
    "peephole LSTM: o sees the old c": (PEEPHOLE_LSTM, lambda: peephole(old=True), PEEPHOLES),
    "peephole LSTM: f sees nothing": (PEEPHOLE_LSTM, lambda: peephole(f=0), PEEPHOLES),
    "coupled LSTM: f weighs the new": (COUPLED_LSTM, coupled_new, {}),
    "MGU: f weighs the new": (MGU, lambda: mgu(new=True), {}),
    "MGU: no reset": (MGU, lambda: mgu(reset=False), {}),
    "sLSTM: exponential forget gate": (SLSTM, lambda: slstm(log_forget=lambda f: f), {}),
    "sLSTM: stabilizer not handed on": (SLSTM, lambda: slstm(before=0), {}),
    "sLSTM: output not divided": (SLSTM, lambda: slstm(divided=False), {}),
    "tanh for relu": (RELU, lambda: np.tanh((X + XH)[:, :H]), {}),
    "no tanh": (TANH, lambda: (X + XH)[:, :H], {}),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", STEPS)
def test_a_mutants_step_has_the_formula_of_its_name(name):
    cell, expected, params = STEPS[name]
    with of(name).applied():
        same(stepped(cell.step, cell, **params), expected(), 1e-11)


GATES = RNG.normal(size=(5, B, 3 * H))
LAM = RNG.normal(size=H)


def g(x):
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def rg_lru():
    r, i, x = cut(GATES, 3)
    return np.exp(-8 * np.log1p(np.exp(LAM)) * sigmoid(r)), sigmoid(i) * x


def pooled(f_new=False, squash=np.tanh):
    z, f, _ = cut(GATES, 3)
    f = 1 - sigmoid(f) if f_new else sigmoid(f)
    return f, (1 - f) * squash(z)


z_gate, n_gate, _ = cut(GATES, 3)
COEFFICIENTS = {
    "QRNN: f weighs the new": (QRNN, 3, lambda: pooled(f_new=True), {}),
    "QRNN, window 1: no tanh": (QRNN_1, 3, lambda: pooled(squash=lambda z: z), {}),
    "minGRU: no g": (MIN_GRU, 2, lambda: (1 - sigmoid(z_gate), sigmoid(z_gate) * n_gate), {}),
    "minLSTM: gates not normalized": (
        MIN_LSTM,
        3,
        lambda: (sigmoid(cut(GATES, 3)[0]), sigmoid(cut(GATES, 3)[1]) * g(cut(GATES, 3)[2])),
        {},
    ),
    "RG-LRU: input not scaled": (RG_LRU, 3, rg_lru, {"lam": LAM}),
    "LRU: input not scaled": (
        LRU,
        1,
        lambda: (np.broadcast_to(np.exp(-np.exp(LAM)), (5, B, H)), GATES[..., :H]),
        {"nu": LAM},
    ),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", COEFFICIENTS)
def test_a_linear_mutant_has_the_coefficients_of_its_name(name):
    cell, count, expected, params = COEFFICIENTS[name]
    before = cell.coefficients
    with of(name).applied():
        same(jax.jit(cell.coefficients)(GATES[..., : count * H], **params), expected())
    assert cell.coefficients is before


@pytest.mark.usefixtures("float64")
def test_pooling_and_g_are_the_cells_own():
    same(jax.jit(pooling())(GATES), pooled())
    gates = np.append(GATES.ravel(), 0.0)
    same(jax.jit(positive)(gates), g(gates))


@pytest.mark.usefixtures("float64")
def test_the_reset_gate_of_the_mutated_sru_sees_the_new_state():
    z, f, r, x = cut(X + XH, 4)
    f = sigmoid(f + P_I * C0)
    c = f * C0 + (1 - f) * z
    r = sigmoid(r + P_F * c)
    with of("SRU: r sees the new c").applied():
        got = stepped(SRU.step, SRU, v_f=P_I, v_r=P_F)
    same(got, (r * c + (1 - r) * x, c))


@pytest.mark.usefixtures("float64")
def test_gates_are_changed_on_both_sides():
    with gates_with(GRU, lambda x: 2 * x):
        got = stepped(GRU.step, GRU)
    same(got, jax.jit(GRU.step)(Hidden(H0), 2 * X[:, : 3 * H], 2 * XH[:, : 3 * H]))
    with of("float32 in a float64 path").applied():
        got = stepped(GRU.step, GRU)
    expected = stepped(GRU.step, GRU).h
    apart = np.abs(got.h - expected).max()
    assert 1e-10 < apart < 1e-6
    assert got.h.dtype == expected.dtype


def test_a_tanh_is_two_units_off_in_float32_alone():
    x = np.array([0.3, -1.0])
    low = jnp.asarray(x, jnp.float32)
    right = np.asarray(jnp.tanh(low), float)
    ratio = np.asarray(recurrent_mutations.rounded_tanh(low), float) / right - 1
    # Two units, and half of one for the rounding of the product.
    np.testing.assert_allclose(ratio / np.finfo(np.float32).eps, 2, atol=0.51)
    with jax.enable_x64(True):
        assert (recurrent_mutations.rounded_tanh(jnp.asarray(x)) == jnp.tanh(x)).all()


class Free(NamedTuple):
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias_ih: np.ndarray
    bias_hh: np.ndarray


I = 2
WEIGHTS = Free(*(RNG.normal(size=s) for s in ((12, I), (12, H), (12,), (12,))))
XS = RNG.normal(size=(B, I))


@pytest.mark.usefixtures("float64")
def test_a_free_cell_resets_after_the_product_as_a_gated_one():
    carry, y = jax.jit(as_gated(GRU))(WEIGHTS._asdict(), Hidden(H0), XS)
    x_gates = XS @ WEIGHTS.weight_ih.T + WEIGHTS.bias_ih
    h_gates = H0 @ WEIGHTS.weight_hh.T + WEIGHTS.bias_hh
    expected = jax.jit(GRU.step)(Hidden(H0), x_gates, h_gates)
    same((carry, y), (expected, expected.h))
    with of("GRU with the reset before: reset after the matmul").applied():
        step = jax.jit(GRU_RESET_BEFORE.step)
        same(step(WEIGHTS._asdict(), Hidden(H0), XS)[0], expected)


@pytest.mark.usefixtures("float64")
def test_a_multiplicative_lstm_without_multiplication_is_an_lstm():
    w, v, b = (RNG.normal(size=s) for s in ((16, I), (16, H), (16,)))
    params = {"weight_ih": w, "weight_hm": v, "bias": b}
    with of("multiplicative LSTM: not multiplied").applied():
        got = jax.jit(MULTIPLICATIVE_LSTM.step)(params, HiddenAndCell(H0, C0), XS)
    expected = jax.jit(LSTM.step)(HiddenAndCell(H0, C0), XS @ w.T + b, H0 @ v.T)
    same(got, (expected, expected.h))


# The GRU's own loop: x and h to the candidate, weight and bias of gate n.
CANDIDATES = {
    "GRU: reset before the matmul": lambda h, x, r, w, b: np.tanh(x + (r * h) @ w + b),
    "GRU: b_hn outside the reset": lambda h, x, r, w, b: np.tanh(x + r * (h @ w) + b),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CANDIDATES)
def test_a_gru_with_the_weight_inside_its_step(name, reverse):
    projected = reverse
    w_ih, w, b_ih, b = WEIGHTS
    xs = RNG.normal(size=(3, B, I))
    x_gates = xs @ w_ih.T + b_ih
    projection = Projection(w_ih, b_ih) if projected else None
    given = xs if projected else x_gates
    with of(name).applied():
        run = partial(jaxrnn.recurrent.layer.recurrence, GRU, reverse, projection=projection)
        last, ys = jax.jit(run)(w, b, Hidden(H0), given, None)
    h = H0
    blocks, biases = np.split(w, 3), np.split(b, 3)
    expected = {}
    for t in (2, 1, 0) if reverse else (0, 1, 2):
        x = np.split(x_gates[t], 3, axis=-1)
        r = sigmoid(x[0] + h @ blocks[0].T + biases[0])
        z = sigmoid(x[1] + h @ blocks[1].T + biases[1])
        n = CANDIDATES[name](h, x[2], r, blocks[2].T, biases[2])
        h = (1 - z) * n + z * h
        expected[t] = h
    same((last.h, ys), (h, np.stack([expected[t] for t in range(3)])))
