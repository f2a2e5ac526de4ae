"""Linear cells: three evaluators of one equation, windows over inputs, and resets of every backend.

The oracles are `lax.scan` with autodiff, loops in NumPy, and the same texts in other pieces.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, random_stack, random_tree, relative

from jaxrnn import (
    CELLS,
    GRU,
    LRU,
    LSTM,
    MIN_GRU,
    PEEPHOLE_LSTM,
    QRNN,
    RG_LRU,
    RNN,
    SRU,
    TANH,
    CharLM,
    FreeCell,
    Hidden,
    LinearCell,
    apply_model,
    backend,
    gates_of,
    qrnn,
)
from jaxrnn.recurrent.inputs import Inputs
from jaxrnn.recurrent.linear import linear_scan
from jaxrnn.recurrent.linear_cells import LINEAR_CELLS
from jaxrnn.recurrent.recurrence import recurrence, which_backend, why_not_compiled

T, B, I, H = 7, 4, 3, 18
VALUES = 1e-14
"""Of float64 values of a few steps."""
GRADIENTS = 1e-13
"""Of float64 gradients."""
LENGTHS = np.array([7, 3, 0, 6])
FAST = ("scan", "parallel", "compiled")

pytestmark = pytest.mark.usefixtures("float64")


def ways():
    """The backends that are here."""
    return [way for way in FAST if way != "compiled" or not why_not_compiled()]


def outputs_and_gradients(run, *arguments):
    """Every output, and the gradients of a sum in which each has a weight of its own."""

    def loss(*arguments):
        outputs = run(*arguments)
        leaves = jax.tree.leaves(outputs)
        weights = [jnp.cos(jnp.arange(x.size) + 1.0).reshape(x.shape) for x in leaves]
        return sum((w * x).sum() for w, x in zip(weights, leaves, strict=True)), outputs

    numbers = tuple(range(len(arguments)))
    gradient = jax.jit(jax.value_and_grad(loss, numbers, has_aux=True))
    (_, outputs), gradients = gradient(*arguments)
    return outputs, gradients


def sampled_resets(seed=3):
    return np.random.default_rng(seed).random((T, B)) < 0.3


WHOLE: dict = {}
PARTS = {"lengths": LENGTHS, "resets": sampled_resets()}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        pytest.param(QRNN, PARTS, id="qrnn"),
        pytest.param(MIN_GRU, PARTS, id="mingru"),
        pytest.param(RG_LRU, WHOLE, id="rg-lru"),
        pytest.param(SRU, WHOLE, id="sru"),
        *(
            pytest.param(cell, options, id=f"{cell.name}-{len(options)}", marks=pytest.mark.slow)
            for cell in LINEAR_CELLS
            for options in (WHOLE, PARTS)
        ),
    ],
)
def test_all_backends_equal_a_scan_with_autodiff(cell, options):
    """Both directions, from a carry that is not zero."""
    rnn = RNN(cell, H, bidirectional=True)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float64)

    def run(params, carry, xs):
        return rnn.apply({"params": params}, carry, xs, **options)

    with backend("autodiff"):
        values, gradients = outputs_and_gradients(run, params, carry, xs)
    for way in ways():
        with backend(way):
            found, d_found = outputs_and_gradients(run, params, carry, xs)
        assert relative(found, values) < VALUES, way
        assert relative(d_found, gradients) < GRADIENTS, way


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("cell", "bidirectional"), [(QRNN, True), (MIN_GRU, False)], ids=["qrnn, both ways", "mingru"]
)
def test_rows_of_a_table_are_as_good_as_inputs(cell, bidirectional):
    """Values and gradients, where steps start anew or are not run, and for tokens outside it."""
    rnn = RNN(cell, H, bidirectional=bidirectional)
    params, carry, _ = random_stack(rnn, I, B, T, jnp.float64)
    rng = np.random.default_rng(1)
    tokens = jnp.asarray(rng.integers(-2, 7, (T, B)))
    table = jnp.asarray(rng.normal(size=(5, I)))
    options = {}
    if bidirectional:
        options["lengths"] = jnp.asarray(rng.integers(0, T + 1, B))
        options["resets"] = jnp.asarray(rng.random((T, B)) < 0.4)

    def read(params, carry, table):
        return rnn.apply({"params": params}, carry, Inputs(table, tokens), **options)

    def gathered(params, carry, table):
        xs = table[jnp.clip(tokens, 0, 4)]
        return rnn.apply({"params": params}, carry, xs, **options)

    with backend("autodiff"):
        expected = outputs_and_gradients(gathered, params, carry, table)
    for way in ways():
        with backend(way):
            assert relative(outputs_and_gradients(read, params, carry, table), expected) < EXACT


@pytest.mark.sample(2)
@pytest.mark.parametrize(("steps", "reverse"), [(0, False), (1, True), (5, False), (6, True)])
def test_linear_scan_equals_a_loop(steps, reverse):
    """Values, gradients, and gradients of gradients."""
    a, b = np.random.default_rng(0).normal(size=(2, steps, B, H))
    first = np.random.default_rng(1).normal(size=(B, H))

    def fast(a, b, first):
        return linear_scan(a, b, first, reverse=reverse)

    def loop(a, b, first):
        states = [None] * steps
        state = first
        for t in reversed(range(steps)) if reverse else range(steps):
            state = a[t] * state + b[t]
            states[t] = state
        return jnp.stack(states) if states else jnp.zeros((0, B, H))

    ours = outputs_and_gradients(fast, a, b, first)
    assert relative(ours, outputs_and_gradients(loop, a, b, first)) < GRADIENTS

    def curvature(run):
        def norm(a):
            gradient = jax.grad(lambda a: jnp.sin(run(a, b, first)).sum())(a)
            return (gradient**2).sum()

        return jax.jit(jax.grad(norm))(jnp.asarray(a))

    assert relative(curvature(fast), curvature(loop)) < EXACT


@pytest.mark.parametrize("cell", [QRNN], ids=lambda cell: cell.name)
def test_a_thousand_steps_in_windows_equal_one_long_window(cell):
    """The carry, with a window's previous input, goes on over 125 windows of 8 steps."""
    steps, windows = 1000, 125
    rnn = RNN(cell, H)
    params, carry, _ = random_stack(rnn, I, B, 1, jnp.float64)
    xs = jax.random.normal(jax.random.key(4), (steps, B, I))

    def apply(carry, xs):
        return rnn.apply({"params": params}, carry, xs)

    with backend("autodiff"):
        whole = jax.jit(apply)(carry, xs)
    for way in ways():
        with backend(way):
            pieces = xs.reshape(windows, -1, B, I)
            last, ys = jax.jit(lambda carry, xs: jax.lax.scan(apply, carry, xs))(carry, pieces)
        assert relative((last, ys.reshape(steps, B, H)), whole) < EXACT


def test_a_window_of_two_sees_the_input_before():
    """A loop in NumPy, over a text in two windows."""
    rnn = RNN(QRNN, H)
    params, (carry,), xs = random_stack(rnn, I, B, T, jnp.float64)
    weight, bias = (np.asarray(params[name]) for name in ("weight_ih_l0", "bias_ih_l0"))
    middle, first = rnn.apply({"params": params}, (carry,), xs[:3])
    (last,), second = rnn.apply({"params": params}, middle, xs[3:])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    c, before = np.asarray(carry.c), np.asarray(carry.x)
    ys = []
    for x in np.asarray(xs):
        gates = np.concatenate([x, before], axis=1) @ weight.T + bias  # (B, 3 * H)
        z, f, o = np.split(gates, 3, axis=1)
        c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(z)
        ys.append(sigmoid(o) * c)
        before = x
    assert relative(jnp.concatenate([first, second]), np.stack(ys)) < VALUES
    assert relative(tuple(last), (ys[-1], c, before)) < VALUES


def _counted(params, carry, x):
    h = jnp.tanh(carry.h + x @ params["w"].T)
    return Hidden(h), h


FREE = FreeCell(
    "counted",
    init=lambda key, inputs, hidden: {"w": jax.random.normal(key, (hidden, inputs))},
    step=_counted,
    carry_init=lambda batch, hidden, dtype: Hidden(jnp.full((batch, hidden), 0.7, dtype)),
)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "cell", [TANH, GRU, PEEPHOLE_LSTM, QRNN, SRU, FREE], ids=lambda cell: cell.name
)
def test_a_reset_starts_a_text_anew(cell):
    """Two rows, one in two pieces of which the later one has the initial carry; gradients too."""
    one = RNN(cell, H)
    params, (carry,), xs = random_stack(one, I, 2, 4, jnp.float64)
    resets = jnp.zeros((4, 2), bool).at[2, 0].set(True)
    fresh = one.initial_carry(1, jnp.float64, input_size=I)

    def run(params, carry, xs):
        return one.apply({"params": params}, (carry,), xs, resets=resets)

    def in_pieces(params, carry, xs):
        first, second = (jax.tree.map(lambda x, row=row: x[row : row + 1], carry) for row in (0, 1))
        _, ys_before = one.apply({"params": params}, (first,), xs[:2, :1])
        first, ys_after = one.apply({"params": params}, fresh, xs[2:, :1])
        second, ys_second = one.apply({"params": params}, (second,), xs[:, 1:])
        ys_first = jnp.concatenate([ys_before, ys_after])
        last = jax.tree.map(lambda *rows: jnp.concatenate(rows), first, second)
        return last, jnp.concatenate([ys_first, ys_second], axis=1)

    with backend("autodiff"):
        expected = outputs_and_gradients(in_pieces, params, carry, xs)
    for way in ways():
        with backend(way):
            found = outputs_and_gradients(run, params, carry, xs)
        assert relative(found, expected) < EXACT, way


@pytest.mark.sample(1)
@pytest.mark.parametrize("cell", [GRU, QRNN, MIN_GRU], ids=lambda cell: cell.name)
def test_a_step_that_is_not_run_resets_nothing(cell):
    rnn = RNN(cell, H)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float64)
    lengths = jnp.array([0, 2, T, 1])
    beyond = np.arange(T)[:, None] >= np.asarray(lengths)
    for way in ways():
        with backend(way):
            plain = rnn.apply({"params": params}, carry, xs, lengths=lengths)
            found = rnn.apply({"params": params}, carry, xs, lengths=lengths, resets=beyond)
        assert relative(found, plain) == 0


def test_which_backend_a_linear_cell_gets():
    assert which_backend(MIN_GRU, jnp.float32) == ("scan" if why_not_compiled() else "compiled")
    with backend("parallel"):
        assert which_backend(MIN_GRU, jnp.float32) == "parallel"
        assert which_backend(SRU, jnp.float32) != "parallel"  # not linear in its state
        assert which_backend(GRU, jnp.float32) != "parallel"
    with backend("scan"):
        assert which_backend(MIN_GRU, jnp.float32) == "scan"


def test_a_cell_of_ones_own_runs_in_parallel():
    """A leaky integrator with a learned rate a unit, against a loop."""

    def coefficients(gates, *, rate):
        keep = jax.nn.sigmoid(rate)
        return jnp.broadcast_to(keep, gates.shape), (1 - keep) * jnp.tanh(gates)

    leaky = LinearCell("leaky", ("x",), params=("rate",), coefficients=coefficients)
    rnn = RNN(leaky, H)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float64)
    keep = 1 / (1 + np.exp(-np.asarray(params["rate_l0"])))
    state = np.asarray(carry[0].h)
    for x in np.asarray(xs):
        gates = x @ np.asarray(params["weight_ih_l0"]).T + np.asarray(params["bias_ih_l0"])
        state = keep * state + (1 - keep) * np.tanh(gates)
    for way in ways():
        with backend(way):
            (last,), _ = rnn.apply({"params": params}, carry, xs)
        assert relative(last.h, state) < VALUES


@pytest.mark.slow
@pytest.mark.parametrize("cell", [QRNN], ids=lambda cell: cell.name)
def test_a_character_model_has_the_cell(cell):
    """The carry of a model knows how wide its inputs are; its loss falls."""
    model = CharLM(11, 5, H, cell=cell, num_layers=2)
    carry = model.initial_carry(B)
    tokens = jnp.tile(jnp.arange(11), 2)[:12, None] + jnp.zeros((1, B), jnp.int32)
    tokens = tokens % 11
    params = model.init(jax.random.key(0), carry, tokens[:-1])["params"]

    @jax.jit
    def step(params):
        def loss(params):
            _, log_probs = apply_model(model, params, carry, tokens[:-1])
            return -jnp.take_along_axis(log_probs, tokens[1:, :, None], axis=-1).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, d: p - 1.0 * d, params, gradient)

    losses = []
    for _ in range(60):
        value, params = step(params)
        losses.append(float(value))
    assert losses[0] > 2
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qrnn(window=3), "window must be 1 or 2, got 3."),
        (lambda: qrnn(pooling="ifo"), "pooling must be 'fo' or 'f', got 'ifo'."),
        (
            lambda: LinearCell(
                "x", ("x",), coefficients=lambda g: (g, g), output=lambda c, g: c + g
            ),
            "A linear cell with an output of its own needs a carry with h and c.",
        ),
        (
            lambda: RNN(QRNN, H).initial_carry(B),
            "The carry of the cell 'qrnn' has an input: initial_carry needs input_size.",
        ),
        (
            lambda: RNN(MIN_GRU, H, recurrent_init=jax.nn.initializers.ones).initial_carry(B),
            "recurrent_init is for cells with recurrent gates; mingru has none.",
        ),
        (
            lambda: recurrence(
                MIN_GRU, False, jnp.ones((4, 2)), jnp.ones(4), Hidden(jnp.ones((1, 2))),
                jnp.ones((3, 1, 4)),
            ),
            "The cell 'mingru' has no recurrent gates: weight_hh is None.",
        ),
        (
            lambda: recurrence(
                MIN_GRU, False, None, jnp.ones(5), Hidden(jnp.ones((1, 2))), jnp.ones((3, 1, 4))
            ),
            "bias_hh must have the same number of units, at least 1, for each of 2 gates, got "
            "shape (5,).",
        ),
        (
            lambda: recurrence(
                MIN_GRU, False, None, jnp.ones(4), Hidden(jnp.ones((1, 2))), jnp.ones((3, 1, 4)),
                resets=jnp.ones((3, 1)),
            ),
            "resets must have truth values, got float64.",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        make()


def test_a_gate_of_its_own_is_seen_in_the_output():
    """`output` reads the gates of its own step."""

    def coefficients(gates):
        x, _ = gates_of(gates, 2)
        return 0.5 * jnp.ones_like(x), x

    def output(c, gates):
        _, o = gates_of(gates, 2)
        return o * c

    cell = LinearCell(
        "gated", ("x", "o"), carry=LSTM.carry, coefficients=coefficients, output=output
    )
    carry = random_tree(jax.random.key(0), cell.zeros(B, H, jnp.float64))
    gates = jax.random.normal(jax.random.key(1), (T, B, 2 * H))
    c = carry.c
    ys = []
    for t in range(T):
        x, o = jnp.split(gates[t], 2, axis=-1)
        c = 0.5 * c + x
        ys.append(o * c)
    for way in ways():
        with backend(way):
            last, found = recurrence(cell, False, None, jnp.zeros(2 * H), carry, gates)
        assert relative((last, found), (LSTM.carry(ys[-1], c), jnp.stack(ys))) < VALUES


SATURATED = 1e5
"""Inputs so large that gates round to 0 and 1."""


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", ["autodiff", "compiled"])
@pytest.mark.parametrize(
    "cell",
    [RG_LRU, *(cell for cell in CELLS.values() if cell != RG_LRU)],
    ids=lambda cell: cell.name,
)
def test_gradients_are_finite_where_gates_saturate(cell, way):
    """An infinite slope beside a zero is NaN: such as sqrt(1 - a^2) where a rounds to 1."""
    if way == "compiled" and why_not_compiled():
        pytest.skip(why_not_compiled())
    rnn = RNN(cell, H)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float32)

    def loss(params, carry, xs):
        _, outputs = rnn.apply({"params": params}, carry, xs)
        return outputs.sum()

    with backend(way):
        gradients = jax.grad(loss, (0, 1, 2))
        for size in (-SATURATED, SATURATED):
            found = gradients(params, carry, size * xs)
            assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found)), size


@pytest.mark.sample(1)
@pytest.mark.parametrize("cell", [RG_LRU, LRU], ids=lambda cell: cell.name)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_a_decay_of_zero_has_a_finite_gradient(cell, dtype):
    """A parameter so small that a = 1 leaves h as it is, and every gradient finite."""
    rnn = RNN(cell, H)
    params, carry, xs = random_stack(rnn, I, B, T, dtype)
    own = next(iter(cell.param_init))
    small = {
        name: jnp.full_like(leaf, -1e4) if own in name else leaf for name, leaf in params.items()
    }

    def run(params):
        _, outputs = rnn.apply({"params": params}, carry, xs)
        return outputs

    assert jnp.isfinite(run(small)).all()
    assert jnp.abs(run(small) - carry[0].h).max() < 0.1
    gradients = jax.grad(lambda params: run(params).astype(jnp.float32).sum())(small)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
