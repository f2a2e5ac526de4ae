"""The stack over any kind of layer: free cells, and a kind of one's own."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import (
    CELLS,
    GRU,
    LSTM,
    RNN,
    BpttStream,
    CharLM,
    FreeCell,
    HiddenAndCell,
    StatefulModel,
    fit,
    generate,
)
from jaxrnn.nn.layers import dense, embed
from jaxrnn.recurrent.inputs import Inputs
from jaxrnn.recurrent.layer import LAYERS

T, B, I, H, V = 7, 3, 4, 5, 6


def lstm_init(key, input_size, hidden_size):
    keys = jax.random.split(key, 4)
    bound = hidden_size**-0.5
    shapes = {
        "weight_ih": (4 * hidden_size, input_size),
        "weight_hh": (4 * hidden_size, hidden_size),
        "bias_ih": (4 * hidden_size,),
        "bias_hh": (4 * hidden_size,),
    }
    return {
        name: jax.random.uniform(k, shape, minval=-bound, maxval=bound)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def lstm_step(params, carry, x):
    """The LSTM written out, both products in it."""
    gates = x @ params["weight_ih"].T + params["bias_ih"]
    gates = gates + carry.h @ params["weight_hh"].T + params["bias_hh"]
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return HiddenAndCell(h, c), h


FREE_LSTM = FreeCell("free-lstm", lstm_init, lstm_step, HiddenAndCell)


def normed_step(params, carry, x):
    """A GRU-like step with a product behind the reset and a norm over units: no gated cell."""
    r, n = params["reset"], params["new"]
    reset = jax.nn.sigmoid(x @ r[:, : x.shape[-1]].T + carry.h @ r[:, x.shape[-1] :].T)
    new = x @ n[:, : x.shape[-1]].T + (reset * carry.h) @ n[:, x.shape[-1] :].T
    new = jnp.tanh(new - new.mean(axis=-1, keepdims=True))
    h = 0.5 * (carry.h + new)
    return carry._replace(h=h), h


def normed_init(key, input_size, hidden_size):
    shape = (hidden_size, input_size + hidden_size)
    return {name: jax.random.normal(key, shape) for name in ("reset", "new")}


NORMED = FreeCell("normed", normed_init, normed_step)


@pytest.mark.sample(1)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [7, 1, 0]])
def test_a_free_cell_computes_what_the_gated_one_does(embedded, bidirectional, lengths):
    gated = RNN(LSTM, H, 2, bidirectional=bidirectional)
    free = RNN(FREE_LSTM, H, 2, bidirectional=bidirectional)
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(V, I)))
    tokens = jnp.asarray(rng.integers(0, V, (T, B)))
    carry = jax.tree.map(
        lambda z: jnp.asarray(rng.normal(size=z.shape)), gated.initial_carry(B, float)
    )
    params = gated.init(jax.random.key(1), carry, table[tokens])
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    lengths = None if lengths is None else jnp.array(lengths)

    def run(stack):
        def loss(params, carry, table):
            xs = Inputs(table, tokens) if embedded else Inputs(table[tokens])
            after, ys = stack.apply(params, carry, xs, lengths=lengths)
            leaves = [jnp.cos(leaf).sum() for leaf in jax.tree.leaves((after, ys))]
            return sum(leaves), (after, ys)

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, carry, table)

    for ours, theirs in zip(jax.tree.leaves(run(free)), jax.tree.leaves(run(gated)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def test_the_parameters_are_those_of_the_cell():
    stack = RNN(NORMED, H, 2, bidirectional=True)
    params = stack.init(jax.random.key(0), stack.initial_carry(B), jnp.zeros((T, B, I)))["params"]
    shapes = {name: leaf.shape for name, leaf in params.items()}
    expected = {}
    for layer, width in ((0, I), (1, 2 * H)):
        for direction in ("", "_reverse"):
            for name in ("reset", "new"):
                expected[f"{name}_l{layer}{direction}"] = (H, width + H)
    assert shapes == expected


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("cell", [FREE_LSTM, NORMED], ids=lambda cell: cell.name)
def test_a_free_cell_trains_and_generates(cell):
    tokens = np.arange(900) % V
    model = CharLM(V, 4, 8, cell=cell)
    state, history = fit(model, BpttStream(tokens, 4, 8), None, schedule="3 x 3e-2")
    assert history[-1].train < 0.5 * np.log(V)
    _, generated = generate(model, state.params, np.array([[0], [1]]), 6, jax.random.key(0))
    assert generated.shape == (6, 1)


def test_forward_mode_and_every_order():
    stack = RNN(NORMED, H)
    carry = stack.initial_carry(B)
    xs = jnp.linspace(-1, 1, T * B * I).reshape(T, B, I)
    params = stack.init(jax.random.key(0), carry, xs)
    loss = lambda xs: stack.apply(params, carry, xs)[1].sum()  # noqa: E731
    _, tangent = jax.jvp(loss, (xs,), (jnp.ones_like(xs),))
    np.testing.assert_allclose(tangent, jax.grad(loss)(xs).sum(), rtol=1e-4)
    assert jax.hessian(loss)(xs).shape == xs.shape * 2


class TwoFields(NamedTuple):
    h: jax.Array
    count: jax.Array


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: FreeCell(
                "wide", lstm_init, lambda p, c, x: (c, jnp.zeros((B, H + 1))), HiddenAndCell
            ),
            r"outputs of shape \(4, 64\), it gives \(3, 6\)",
        ),
        (
            lambda: FreeCell("bare", lstm_init, lambda p, c, x: (c.h, c.h), HiddenAndCell),
            "The step of the cell 'bare' must give HiddenAndCell",
        ),
        (lambda: FreeCell("none", lambda *_: {}, lstm_step), "at least one array by name"),
        (lambda: RNN("lstmm", H), "cell must be one of tanh, relu.*got 'lstmm'"),
        (
            lambda: RNN(3, H).initial_carry(B),
            "cell must be one of the kinds Cell, LinearCell, FreeCell, or the name of one; got 3",
        ),
    ],
    ids=["wide", "bare", "none", "no name", "a number"],
)
def test_a_wrong_cell_is_refused_in_words(make, expected):
    with pytest.raises(ValueError, match=expected):
        make()


def test_recurrent_init_is_for_gated_cells():
    with pytest.raises(ValueError, match="recurrent_init is for gated cells"):
        RNN(NORMED, H, recurrent_init=jax.nn.initializers.zeros)


def test_a_carry_of_its_own_start_and_width():
    cell = FreeCell(
        "counting",
        lambda key, input_size, hidden_size: {"w": jnp.ones((hidden_size, input_size))},
        lambda p, c, x: (TwoFields(jnp.tanh(x @ p["w"].T), c.count + 1), jnp.tanh(x @ p["w"].T)),
        TwoFields,
        lambda batch, hidden, dtype: TwoFields(
            jnp.zeros((batch, hidden), dtype), jnp.full((batch, 1), 10, dtype)
        ),
    )
    stack = RNN(cell, H)
    carry = stack.initial_carry(B)
    params = stack.init(jax.random.key(0), carry, jnp.zeros((T, B, I)))
    after, _ = stack.apply(params, carry, jnp.zeros((T, B, I)), lengths=jnp.array([7, 2, 0]))
    assert after[0].count[:, 0].tolist() == [17, 12, 10]


def test_another_kind_of_cell_brings_its_layer(monkeypatch):
    @dataclass(frozen=True)
    class Delay:
        """Not a recurrence at all: the input of the step before."""

    @dataclass(frozen=True)
    class DelayLayer:
        cell: Delay
        hidden_size: int
        recurrent_init: object = None

        def initial_carry(self, batch_size, dtype=jnp.float32, *, input_size=None):
            return CELLS["tanh"].zeros(batch_size, self.hidden_size, dtype)

        def __call__(self, param, carry, xs, mask, *, reverse):
            scale = param("scale", jax.nn.initializers.ones, (self.hidden_size,))
            ys = jnp.concatenate([carry.h[None], xs.dense()[:-1]]) * scale
            return carry._replace(h=xs[-1]), ys

    monkeypatch.setitem(LAYERS, Delay, DelayLayer)
    stack = RNN(Delay(), I, 2)
    xs = jnp.arange(T * B * I, dtype=jnp.float32).reshape(T, B, I)
    params = stack.init(jax.random.key(0), stack.initial_carry(B), xs)
    assert set(params["params"]) == {"scale_l0", "scale_l1"}
    _, ys = stack.apply(params, stack.initial_carry(B), xs)
    np.testing.assert_array_equal(ys[2:], xs[:-2])


def test_a_model_with_a_loop_of_its_own_trains_without_metrics_of_gates():
    class Own(StatefulModel):
        """A submodule named rnn that is no recurrent layer of ours."""

        def initial_carry(self, batch_size, dtype=jnp.float32):
            return (GRU.zeros(batch_size, self.hidden_size, dtype),)

        def components(self, params):
            return None

        def __call__(self, carry, tokens, *, lengths=None):
            return self._run(carry, tokens)

        import flax.linen as nn

        @nn.compact
        def _run(self, carry, tokens):
            xs = dense(self.hidden_size, self.embedding_size, name="rnn")(
                embed(self.vocab_size, self.embedding_size, name="e")(tokens)
            )
            logits = dense(self.vocab_size, self.hidden_size, name="l_out")(jnp.tanh(xs))
            return carry, jax.nn.log_softmax(logits)

    _, history = fit(Own(V, 4, 8), BpttStream(np.arange(600) % V, 4, 8), None, schedule="2 x 1e-2")
    assert history[-1].saturated is None
    assert history[-1].train < np.log(V)
