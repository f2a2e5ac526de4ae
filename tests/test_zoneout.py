"""Zoneout: units that keep their state at random while a model trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import (
    GRU,
    LSTM,
    MIN_GRU,
    PEEPHOLE_LSTM,
    QRNN,
    RNN,
    TANH,
    BpttStream,
    CharLM,
    LinearCell,
    RNNCell,
    apply_model,
    fit,
    zoneout,
)
from jaxrnn.recurrent.linear import window_of
from jaxrnn.recurrent.recurrence import which_backend, why_not_compiled

T, B, I, H = 7, 3, 4, 5
BACKENDS = ["autodiff", "scan", "parallel"] + ([] if why_not_compiled() else ["compiled"])
ZONED = [
    zoneout(LSTM, c=0.5, h=0.2),
    zoneout(LSTM, c=0.4),
    zoneout(PEEPHOLE_LSTM, h=0.3),
    zoneout(GRU, h=0.3),
    zoneout(TANH, h=0.6),
    zoneout(QRNN, c=0.4),
    zoneout(MIN_GRU, h=0.5),
]
EXACT = 1e-13
"""Of sums of some dozens of products of numbers near 1 in float64."""


def layer(cell, layers=1, **options):
    rnn = RNN(cell, H, layers, **options)
    width = 2 if options.get("bidirectional") else 1
    xs = jax.random.normal(jax.random.key(0), (T, B, I))
    params = rnn.init(jax.random.key(1), None, xs)["params"]
    params = {name: array.astype(xs.dtype) for name, array in params.items()}
    rng = np.random.default_rng(2)
    fields = len(cell.carry._fields)
    masks = [jnp.asarray(rng.random((fields, T, B, H)) < 0.5) for _ in range(layers * width)]
    return rnn, params, xs, masks


def at(rows, one, other):
    """Of two trees of arrays (B, ...), the first one in some rows."""
    return jax.tree.map(lambda a, b: jnp.where(rows[:, None], a, b), one, other)


INNER = {cell.name: cell for cell in (LSTM, PEEPHOLE_LSTM, GRU, TANH, QRNN, MIN_GRU)}


def zoned_step(cell, params, carry, x, kept):
    """The step of the cell without zoneout; a field keeps its value where its mask says so.

    Of a linear cell that is the state, from which the output is made afterwards.
    """
    inner = INNER[cell.name.removeprefix("zoneout-")]
    x_gates = x @ params["weight_ih_l0"].T + params["bias_ih_l0"]
    if isinstance(inner, LinearCell):
        a, b = inner.coefficients(x_gates)
        state = jnp.where(kept[-1], carry[-1], a * carry[-1] + b)
        return cell.carry(*[inner.output(state, x_gates), state][-len(carry) :])
    own = {name: params[f"{name}_l0"] for name in cell.params}
    h_gates = carry.h @ params["weight_hh_l0"].T + params["bias_hh_l0"]
    after = inner.step(carry, x_gates, h_gates, **own)
    fields = zip(kept, carry, after, strict=True)
    return cell.carry(*(jnp.where(mask, old, new) for mask, old, new in fields))


def one_by_one(cell, params, xs, masks, *, lengths=None, resets=None):
    """The oracle: one time step after the other."""
    carry = cell.zeros(B, H, xs.dtype)
    before = jnp.zeros((B, I), xs.dtype)  # the previous input of a QRNN
    ys = []
    for t in range(T):
        running = jnp.ones(B, bool) if lengths is None else t < lengths
        fresh = jnp.zeros(B, bool) if resets is None else running & resets[t]
        start, seen = at(fresh, jax.tree.map(jnp.zeros_like, (carry, before)), (carry, before))
        x = xs[t]
        if window_of(cell) == 2:
            x = jnp.concatenate([x, seen], axis=-1)
        after = zoned_step(cell, params, start, x, masks[:, t])
        ys.append(at(running, after.h, jnp.zeros_like(after.h)))
        carry, before = at(running, (after, xs[t]), (carry, before))
    return carry, jnp.stack(ys)


def assert_close(got, expected):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=EXACT, atol=EXACT)


@pytest.mark.usefixtures("float64")
@pytest.mark.sample(1)
@pytest.mark.parametrize("how", BACKENDS)
@pytest.mark.parametrize("cell", ZONED, ids=lambda cell: f"{cell.name}-{cell.zoneout.rates}")
@pytest.mark.parametrize("some", [False, True], ids=["all steps", "lengths and resets"])
def test_training_keeps_what_the_masks_say(how, cell, some):
    """Values, last carry and gradients against the loop, on every backend."""
    rnn, params, xs, (masks,) = layer(cell)
    options = {}
    if some:
        options["lengths"] = jnp.array([T, 4, 1])
        options["resets"] = jnp.zeros((T, B), bool).at[3, 0].set(True).at[2, 1].set(True)
    weights = jax.random.normal(jax.random.key(3), (T, B, H))

    def ours(params, xs):
        (last,), ys = rnn.apply({"params": params}, None, xs, zoneout_masks=[masks], **options)
        fields = last[: len(cell.carry._fields)]  # without the input before
        return (ys * weights).sum() + sum((f**2).sum() for f in fields), (fields, ys)

    def loop(params, xs):
        last, ys = one_by_one(cell, params, xs, masks, **options)
        return (ys * weights).sum() + sum((f**2).sum() for f in last), (tuple(last), ys)

    with jaxrnn.backend(how):
        got = jax.value_and_grad(ours, argnums=(0, 1), has_aux=True)(params, xs)
    expected = jax.value_and_grad(loop, argnums=(0, 1), has_aux=True)(params, xs)
    assert_close(got, expected)


@pytest.mark.sample(1)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", ZONED[:1] + ZONED[5:6], ids=lambda cell: cell.name)
def test_a_mask_for_each_layer_and_direction(cell):
    """Both directions of two layers are those of single layers with the masks of their own."""
    rnn, params, xs, masks = layer(cell, 2, bidirectional=True)
    _, ys = rnn.apply({"params": params}, None, xs, zoneout_masks=masks)
    below = xs
    for number in range(2):
        outputs = []
        for k, direction in enumerate(("", "_reverse")):
            name = f"_l{number}{direction}"
            own = {
                f"{key.removesuffix(name)}_l0": array
                for key, array in params.items()
                if key.endswith(name)
            }
            turn = -1 if direction else 1
            mask = masks[2 * number + k][:, ::turn]
            single = RNN(cell, H)
            _, output = single.apply({"params": own}, None, below[::turn], zoneout_masks=[mask])
            outputs.append(output[::turn])
        below = jnp.concatenate(outputs, axis=-1)
    np.testing.assert_allclose(ys, below, rtol=EXACT, atol=EXACT)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", ["batch first", "one sequence"])
def test_masks_have_the_layout_of_the_inputs(shape):
    cell = ZONED[0]
    rnn, params, xs, (masks,) = layer(cell)
    _, expected = rnn.apply({"params": params}, None, xs, zoneout_masks=[masks])
    if shape == "batch first":
        turned = RNN(cell, H, batch_first=True)
        masks = masks.swapaxes(1, 2)
        _, ys = turned.apply({"params": params}, None, xs.swapaxes(0, 1), zoneout_masks=[masks])
        ys = ys.swapaxes(0, 1)
    else:
        _, ys = rnn.apply({"params": params}, None, xs[:, 0], zoneout_masks=[masks[:, :, 0]])
        expected = expected[:, 0]
    np.testing.assert_allclose(ys, expected, rtol=EXACT, atol=EXACT)


def test_masks_come_from_the_dropout_key():
    """As many units keep their state as the rates say; another key is another mask; none, none."""
    cell = zoneout(LSTM, c=0.7, h=0.2)
    rnn = RNN(cell, 50)
    xs = jax.random.normal(jax.random.key(0), (200, 4, I))
    params = rnn.init(jax.random.key(1), None, xs)["params"]

    def outputs(*seed):
        rngs = {"dropout": jax.random.key(*seed)} if seed else None
        return rnn.apply({"params": params}, None, xs, rngs=rngs)[1]

    ys = outputs(3)
    kept = (ys[1:] == ys[:-1]).mean()  # 40,000 units: a deviation of 0.002
    assert 0.19 < kept < 0.21
    np.testing.assert_array_equal(ys, outputs(3))
    assert (outputs(4) != ys).any()
    assert (outputs() != ys).any()
    np.testing.assert_array_equal(outputs(), outputs())
    assert (outputs()[1:] == outputs()[:-1]).mean() == 0


@pytest.mark.slow
def test_the_layers_have_masks_of_their_own():
    cell = zoneout(TANH, h=0.5)
    rnn = RNN(cell, 50, 2, bidirectional=True)
    xs = jax.random.normal(jax.random.key(0), (20, 4, I))
    params = rnn.init(jax.random.key(1), None, xs)["params"]
    _, state = rnn.apply(
        {"params": params},
        None,
        xs,
        rngs={"dropout": jax.random.key(2)},
        capture_intermediates=lambda module, name: name == "_sampled_zoneout",
    )
    masks = state["intermediates"]["_sampled_zoneout"]
    assert len(masks) == 4
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert 0.4 < (one == other).mean() < 0.6


def test_rates_of_zero_change_nothing():
    rnn, params, xs, _ = layer(zoneout(LSTM, c=0.0, h=0.0))
    _, expected = RNN(LSTM, H).apply({"params": params}, None, xs)
    _, plain = rnn.apply({"params": params}, None, xs)
    _, training = rnn.apply({"params": params}, None, xs, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(plain, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(training, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.sample(2)
@pytest.mark.skipif(bool(why_not_compiled()), reason="there is no compiled library")
@pytest.mark.parametrize("cell", ZONED, ids=lambda cell: f"{cell.name}-{cell.zoneout.rates}")
def test_training_runs_compiled(cell):
    assert which_backend(cell, jnp.float32) == "compiled"
    assert which_backend(cell.zoneout.training, jnp.float32) == "compiled"


def test_the_same_zoneout_is_the_same_cell():
    """So that a model that is made again finds its programs."""
    assert zoneout(LSTM, c=0.5, h=0.2) is zoneout(LSTM, h=0.2, c=0.5)
    assert zoneout(LSTM, c=0.5) != zoneout(LSTM, c=0.4)
    assert zoneout(LSTM, c=0.5, name="mine").name == "mine"


@pytest.mark.parametrize("remat_every", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_a_model_trains_with_zoneout(remat_every):
    """The step samples its masks from its own key: the loss of training is not that of none."""
    model = CharLM(5, 4, 16, cell=zoneout(LSTM, c=0.5, h=0.1))
    tokens = np.resize(np.array([0, 1, 2, 3, 4, 3, 2, 1]), 400)
    source = BpttStream(tokens, 4, 8)
    state, rows = fit(model, source, source, schedule="30 x 1e-2")
    assert rows[-1].validation < 0.2 < 1 < rows[0].train
    batch = jaxrnn.Batch(*source.window(0, 0))
    losses = []
    for key in (None, jax.random.key(1), jax.random.key(2)):
        loss, _ = jaxrnn.training.steps.batch_loss(
            model, state.params, state.carry, batch, key, remat_every=remat_every
        )
        losses.append(float(loss))
    assert len(set(losses)) == 3
    carry = model.initial_carry(4)
    _, log_probs = apply_model(model, state.params, carry, jnp.asarray(batch.inputs))
    assert log_probs.shape == (8, 4, 5)


REFUSED = [
    (lambda: zoneout(jaxrnn.LAYER_NORM_LSTM, c=0.5), "layer-norm-lstm is none"),
    (lambda: zoneout("lstm", c=0.5), "'lstm' is none"),
    (lambda: zoneout(LSTM), "takes a rate for at least one of h, c; got none"),
    (lambda: zoneout(LSTM, n=0.5), "takes a rate for at least one of h, c; got n"),
    (lambda: zoneout(QRNN, h=0.5), "takes a rate for at least one of c; got h"),
    (lambda: zoneout(LSTM, c=1.0), r"rate of c must lie in \[0, 1\), got 1.0"),
    (lambda: zoneout(LSTM, c=-0.1), r"rate of c must lie in \[0, 1\), got -0.1"),
    (lambda: zoneout(LSTM, c=float("nan")), r"rate of c must lie in \[0, 1\), got nan"),
    (lambda: zoneout(zoneout(LSTM, c=0.5), h=0.5), "'zoneout-lstm' has zoneout already"),
    (lambda: run(RNN(LSTM, H), np.ones((2, T, B, H), bool)), "are for cells with zoneout"),
    (lambda: run(RNN(ZONED[0], H, 2), np.ones((2, T, B, H), bool)), "direction, 2, got 1"),
    (lambda: run(RNN(ZONED[0], H), np.ones((T, B, H), bool)), "zoneout_masks must"),
    (lambda: run(RNN(ZONED[0], H), np.ones((2, T, B, H))), "must have truth values"),
    (lambda: run(RNN(ZONED[0], H, proj_size=2), None), "is for cells without zoneout"),
]


def run(rnn, masks):
    xs = jnp.zeros((T, B, I))
    params = rnn.init(jax.random.key(0), None, xs)["params"]
    rnn.apply({"params": params}, None, xs, zoneout_masks=[masks])


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_single_step_is_the_expectation():
    cell = ZONED[0]
    rnn, params, xs, _ = layer(cell)
    single = RNNCell(cell, H)
    own = {key.removesuffix("_l0"): array for key, array in params.items()}
    carry, y = single.apply({"params": own}, None, xs[0])
    (after,), ys = rnn.apply({"params": params}, None, xs[:1])
    np.testing.assert_allclose(y, ys[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(carry.c, after.c, rtol=1e-6, atol=1e-7)
