"""The cells against their equations, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import CELLS, GRU, LSTM, RELU, TANH

B, H = 3, 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def tanh_equation(h, c, x, g):
    return np.tanh(x[0] + g[0]), None


def relu_equation(h, c, x, g):
    return np.maximum(x[0] + g[0], 0), None


def gru_equation(h, c, x, g):
    r, z = sigmoid(x[0] + g[0]), sigmoid(x[1] + g[1])
    n = np.tanh(x[2] + r * g[2])
    return (1 - z) * n + z * h, None


def lstm_equation(h, c, x, g):
    i, f, n, o = (x[k] + g[k] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(n)
    return sigmoid(o) * np.tanh(c), c


EQUATIONS = {
    TANH: tanh_equation,
    RELU: relu_equation,
    GRU: gru_equation,
    LSTM: lstm_equation,
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_step_equals_its_equation(cell):
    rng = np.random.default_rng(0)
    h, c = rng.normal(size=(2, B, H))
    gates = rng.normal(size=(2, len(cell.gates), B, H))
    side_by_side = [jnp.asarray(np.concatenate(list(half), axis=-1)) for half in gates]
    carry = cell.carry(*(jnp.asarray(x) for x in (h, c)[: len(cell.carry._fields)]))
    after = cell.step(carry, *side_by_side)
    expected = [x for x in EQUATIONS[cell](h, c, *gates) if x is not None]
    np.testing.assert_allclose(np.stack(after), np.stack(expected), rtol=0, atol=1e-15)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_step_is_elementwise(cell):
    width = len(cell.gates) * H
    carry = cell.carry(*(jnp.full((B, H), 0.3) for _ in cell.carry._fields))
    x = jax.random.normal(jax.random.key(0), (B, width))
    unit = 2
    touched = x.at[:, unit::H].add(1.0)
    before, after = cell.step(carry, x, x / 2), cell.step(carry, touched, x / 2)
    changed = np.abs(np.asarray(before.h) - np.asarray(after.h)) > 0
    assert changed[:, unit].all()
    assert not np.delete(changed, unit, axis=1).any()


def test_zeros_have_the_fields_and_the_dtype():
    carry = LSTM.zeros(2, 3, jnp.bfloat16)
    assert carry._fields == ("h", "c")
    assert all(x.shape == (2, 3) and x.dtype == jnp.bfloat16 and not x.any() for x in carry)
