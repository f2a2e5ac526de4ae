"""The cells against their equations, written out in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import (
    CELLS,
    COUPLED_LSTM,
    GRU,
    LRU,
    LSTM,
    MGU,
    MIN_GRU,
    MIN_LSTM,
    PEEPHOLE_LSTM,
    QRNN,
    QRNN_1,
    QRNN_F,
    RELU,
    RG_LRU,
    SLSTM,
    SRU,
    TANH,
    ZONEOUT_LSTM,
    ZONEOUT_QRNN,
    Cell,
    Hidden,
)

B, H = 3, 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def tanh_equation(carry, x, g):
    return (np.tanh(x[0] + g[0]),)


def relu_equation(carry, x, g):
    return (np.maximum(x[0] + g[0], 0),)


def gru_equation(carry, x, g):
    r, z = sigmoid(x[0] + g[0]), sigmoid(x[1] + g[1])
    n = np.tanh(x[2] + r * g[2])
    return ((1 - z) * n + z * carry.h,)


def lstm_equation(carry, x, g):
    i, f, n, o = (x[k] + g[k] for k in range(4))
    c = sigmoid(f) * carry.c + sigmoid(i) * np.tanh(n)
    return sigmoid(o) * np.tanh(c), c


def peephole_lstm_equation(carry, x, g, p_i, p_f, p_o):
    i, f, n, o = (x[k] + g[k] for k in range(4))
    c = sigmoid(f + p_f * carry.c) * carry.c + sigmoid(i + p_i * carry.c) * np.tanh(n)
    return sigmoid(o + p_o * c) * np.tanh(c), c


def coupled_lstm_equation(carry, x, g):
    f, n, o = (x[k] + g[k] for k in range(3))
    c = sigmoid(f) * carry.c + (1 - sigmoid(f)) * np.tanh(n)
    return sigmoid(o) * np.tanh(c), c


def mgu_equation(carry, x, g):
    f = sigmoid(x[0] + g[0])
    return ((1 - f) * np.tanh(x[1] + f * g[1]) + f * carry.h,)


def slstm_equation(carry, x, g):
    i, f, z, o = (x[k] + g[k] for k in range(4))
    m = np.maximum(np.log(sigmoid(f)) + carry.m, i)
    kept, added = np.exp(np.log(sigmoid(f)) + carry.m - m), np.exp(i - m)
    c, n = kept * carry.c + added * np.tanh(z), kept * carry.n + added
    return sigmoid(o) * c / n, c, n, m


def qrnn_equation(carry, x, b):
    z, f, o = x + b
    c = sigmoid(f) * carry.c + (1 - sigmoid(f)) * np.tanh(z)
    return sigmoid(o) * c, c


def qrnn_f_equation(carry, x, b):
    z, f = x + b
    return (sigmoid(f) * carry.h + (1 - sigmoid(f)) * np.tanh(z),)


def positive(x):
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def min_gru_equation(carry, x, b):
    z, n = x + b
    return ((1 - sigmoid(z)) * carry.h + sigmoid(z) * positive(n),)


def min_lstm_equation(carry, x, b):
    f, i, n = x + b
    total = sigmoid(f) + sigmoid(i)
    return (sigmoid(f) / total * carry.h + sigmoid(i) / total * positive(n),)


def rg_lru_equation(carry, x, b, *, lam):
    r, i, projected = x + b
    a = sigmoid(-np.asarray(lam)) ** (8 * sigmoid(r))
    return (a * carry.h + np.sqrt(1 - a**2) * sigmoid(i) * projected,)


def lru_equation(carry, x, b, *, nu):
    a = np.exp(-np.exp(nu))
    return (a * carry.h + np.sqrt(1 - a**2) * (x + b)[0],)


def sru_equation(carry, x, b, *, v_f, v_r):
    z, f, r, projected = x + b
    f, r = sigmoid(f + v_f * carry.c), sigmoid(r + v_r * carry.c)
    c = f * carry.c + (1 - f) * z
    return r * c + (1 - r) * projected, c


def zoneout_lstm_equation(carry, x, g):
    h, c = lstm_equation(carry, x, g)
    return 0.05 * carry.h + 0.95 * h, (carry.c + c) / 2


def zoneout_qrnn_equation(carry, x, b):
    z, f, o = x + b
    c = sigmoid(f) * carry.c + (1 - sigmoid(f)) * np.tanh(z)
    c = 0.1 * carry.c + 0.9 * c
    return sigmoid(o) * c, c


EQUATIONS = {
    TANH: tanh_equation,
    RELU: relu_equation,
    GRU: gru_equation,
    LSTM: lstm_equation,
    PEEPHOLE_LSTM: peephole_lstm_equation,
    COUPLED_LSTM: coupled_lstm_equation,
    MGU: mgu_equation,
    SLSTM: slstm_equation,
    ZONEOUT_LSTM: zoneout_lstm_equation,
    ZONEOUT_QRNN: zoneout_qrnn_equation,
    QRNN: qrnn_equation,
    QRNN_1: qrnn_equation,
    QRNN_F: qrnn_f_equation,
    MIN_GRU: min_gru_equation,
    MIN_LSTM: min_lstm_equation,
    RG_LRU: rg_lru_equation,
    LRU: lru_equation,
    SRU: sru_equation,
}
ROUNDING = 4e-15
"""Of numbers near 1 that are made by a few quotients, powers and sums."""


def params_of(cell, rng):
    return {name: jnp.asarray(rng.normal(size=H)) for name in cell.params}


def test_every_cell_has_its_equation_here():
    assert {cell for cell in CELLS.values() if isinstance(cell, Cell)} == set(EQUATIONS)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", EQUATIONS, ids=lambda cell: cell.name)
def test_step_equals_its_equation(cell):
    rng = np.random.default_rng(0)
    carry = cell.carry(*(jnp.asarray(x) for x in rng.normal(size=(len(cell.carry._fields), B, H))))
    gates = rng.normal(size=(2, len(cell.gates), B, H))
    side_by_side = [jnp.asarray(np.concatenate(list(half), axis=-1)) for half in gates]
    params = params_of(cell, rng)
    after = cell.step(carry, *side_by_side, **params)
    expected = EQUATIONS[cell](carry, *gates, **params)
    np.testing.assert_allclose(np.stack(after), np.stack(expected), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("cell", EQUATIONS, ids=lambda cell: cell.name)
def test_step_is_elementwise(cell):
    width = len(cell.gates) * H
    carry = cell.carry(*(jnp.full((B, H), 0.3) for _ in cell.carry._fields))
    x = jax.random.normal(jax.random.key(0), (B, width))
    unit = 2
    touched = x.at[:, unit::H].add(1.0)
    params = params_of(cell, np.random.default_rng(0))
    before = cell.step(carry, x, x / 2, **params)
    after = cell.step(carry, touched, x / 2, **params)
    changed = np.abs(np.asarray(before.h) - np.asarray(after.h)) > 0
    assert changed[:, unit].all()
    assert not np.delete(changed, unit, axis=1).any()


def test_zeros_have_the_fields_and_the_dtype():
    carry = LSTM.zeros(2, 3, jnp.bfloat16)
    assert carry._fields == ("h", "c")
    assert all(x.shape == (2, 3) and x.dtype == jnp.bfloat16 and not x.any() for x in carry)


@pytest.mark.usefixtures("float64")
def test_a_minimal_gated_unit_is_that_of_flax():
    """`flax.linen.MGUCell` has one bias for f and two for n."""
    I = 4
    keys = jax.random.split(jax.random.key(0), 3)
    h, x = jax.random.normal(keys[0], (B, H)), jax.random.normal(keys[1], (B, I))
    theirs = nn.MGUCell(H, param_dtype=jnp.float64)
    params = theirs.init(keys[2], h, x)["params"]
    params = jax.tree.map(lambda p: p + 0.1, params)  # no bias is zero
    expected, _ = theirs.apply({"params": params}, h, x)
    x_gates = jnp.concatenate(
        [x @ params[name]["kernel"] + params[name]["bias"] for name in ("if", "in")], axis=-1
    )
    h_gates = jnp.concatenate(
        [h @ params["hf"]["kernel"], h @ params["hn"]["kernel"] + params["hn"]["bias"]], axis=-1
    )
    np.testing.assert_allclose(MGU.step(Hidden(h), x_gates, h_gates).h, expected, rtol=1e-14)


def slstm_outputs(i, f, z, o, m):
    """The outputs of an sLSTM for gates (T,), from an empty memory with some stabilizer."""
    carry = SLSTM.zeros(1, 1, i.dtype)._replace(m=jnp.full((1, 1), m, i.dtype))
    ys = []
    for gates in zip(i, f, z, o, strict=True):
        carry = SLSTM.step(carry, jnp.stack(gates)[None], jnp.zeros((1, 4), i.dtype))
        ys.append(float(carry.h[0, 0]))
    return np.array(ys)


@pytest.mark.usefixtures("float64")
def test_the_stabilizer_of_an_slstm_changes_no_output():
    """Against the sums of the paper without it: c = f c + exp(i) tanh(z), n = f n + exp(i)."""
    i, f, z, o = jax.random.normal(jax.random.key(0), (4, 7))
    c, n, expected = 0.0, 0.0, []
    for step in range(7):
        c = sigmoid(f[step]) * c + np.exp(i[step]) * np.tanh(z[step])
        n = sigmoid(f[step]) * n + np.exp(i[step])
        expected.append(sigmoid(o[step]) * c / n)
    for m in (0.0, -300.0, 300.0):
        np.testing.assert_allclose(slstm_outputs(i, f, z, o, m), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [-1000.0, 1000.0])
def test_an_slstm_takes_gates_of_any_size(size):
    """exp(1000) is infinite, and exp(-1000) zero: without the stabilizer, NaN."""
    ones = jnp.ones(5)
    np.testing.assert_allclose(
        slstm_outputs(size * ones, 3 * ones, ones, ones, 0.0),
        np.full(5, sigmoid(1.0) * np.tanh(1.0)),
        rtol=1e-6,
    )
