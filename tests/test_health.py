"""Numerical health: what the history says, and what is named when something is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FLOAT32, relative
from stress.endurance import ALLOWED, CompilationCounter, generate_many, train_for

from jaxrnn import (
    GRU,
    LSTM,
    RELU,
    TANH,
    Batch,
    BpttStream,
    CharLM,
    Hidden,
    fit,
    make_optimizer,
    make_state,
    train_step,
)
from jaxrnn.data import windows
from jaxrnn.recurrent.cells import Cell, HiddenAndCell, gates_of
from jaxrnn.training.diagnosis import NonFiniteLossError, first_bad, first_bad_operation
from jaxrnn.training.diagnostics import saturated_share, update_ratio, watched
from jaxrnn.training.loop import training
from jaxrnn.training.schedules import parse_schedule

V, B, H = 5, 4, 6
TOKENS = np.random.default_rng(0).integers(0, V, 400).astype(np.uint8)
SGD = make_optimizer("sgd")


def model_of(cell=TANH, **options):
    return CharLM(V, 3, H, cell=cell, **options)


def state_of(model, optimizer=SGD):
    return make_state(model, optimizer, B, jax.random.key(0))


def near(y, low, high):
    width = high - low
    return (y < low + 0.05 * width) | (y > high - 0.05 * width)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_saturated_gates_are_those_of_the_equations():
    rng = np.random.default_rng(1)
    h, c = rng.normal(size=(2, B, H))
    x, g = 3 * rng.normal(size=(2, B, 4 * H))
    i, f, u, o = np.split(x + g, 4, axis=-1)
    after = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
    seen = [near(sigmoid(gate), 0, 1) for gate in (i, f, o)]
    seen += [near(np.tanh(u), -1, 1), near(np.tanh(after), -1, 1)]
    cell = watched(LSTM)
    zeros = cell.zeros(B, H)._replace(h=jnp.asarray(h), c=jnp.asarray(c))
    got = cell.step(zeros, jnp.asarray(x), jnp.asarray(g))
    np.testing.assert_array_equal(got.near, sum(seen).astype(float))
    np.testing.assert_array_equal(got.counted, 5)
    expected = LSTM.step(HiddenAndCell(h, c), x, g)
    assert relative(got.h, expected.h) < FLOAT32


def _forgetful(carry, x_gates, h_gates):
    forget, candidate = gates_of(x_gates + h_gates, 2)
    forget = jax.nn.sigmoid(forget)
    return Hidden(forget * carry.h + (1 - forget) * jnp.tanh(candidate))


FORGETFUL = Cell("forgetful", gates=("f", "n"), step=_forgetful)


@pytest.mark.sample(2)
@pytest.mark.parametrize("cell", [TANH, RELU, GRU, FORGETFUL], ids=lambda cell: cell.name)
def test_large_weights_saturate_every_cell_and_small_ones_none(cell):
    model, starts = model_of(cell), np.arange(B)
    params, carry = state_of(model).params, model.initial_carry(B)
    tokens = jnp.asarray(TOKENS)

    def share(scale):
        scaled = jax.tree.map(lambda p: scale * p, params)
        return saturated_share(model, scaled, carry, tokens, starts)

    small, large = share(1e-3), share(1e3)
    assert large > (0.3 if cell is RELU else 0.9)
    assert small < (0.7 if cell is RELU else 0.01)


def test_the_update_ratio_is_that_of_the_weights_before_and_after():
    model, adam = model_of(), make_optimizer("adam", clip=0.1)
    state = state_of(model, adam)
    batch = Batch(*(jnp.asarray(a, jnp.int32) for a in BpttStream(TOKENS, B, 8).window(0, 0)))
    after, metrics = train_step(model, adam, state, batch, 1e-2)

    def norm(tree):
        return np.sqrt(sum(np.sum(np.square(leaf, dtype=float)) for leaf in jax.tree.leaves(tree)))

    change = norm(jax.tree.map(lambda a, b: a - b, after.params, state.params))
    ratio = update_ratio(after.params, float(metrics.update_norm))
    assert ratio == pytest.approx(change / norm(after.params), rel=1e-4)


def spoilt(state, name):
    """The state with one parameter or carry made NaN."""
    if name == "carry":
        return state._replace(carry=jax.tree.map(lambda c: c.at[0, 0].set(jnp.nan), state.carry))
    rnn = dict(state.params["rnn"])
    rnn[name] = rnn[name].at[0].set(jnp.inf)
    return state._replace(params=state.params | {"rnn": rnn})


@pytest.mark.parametrize(
    ("name", "message"),
    [("carry", "carry/0/h is nan"), ("bias_hh_l0", "params/rnn/bias_hh_l0 is inf")],
)
def test_the_first_bad_tensor_is_named(name, message):
    model = model_of(RELU)
    batch = Batch(*(jnp.asarray(a, jnp.int32) for a in BpttStream(TOKENS, B, 8).window(0, 0)))
    assert first_bad(model, spoilt(state_of(model), name), batch) == message
    assert first_bad(model, state_of(model), batch) == "The update is not finite"


def test_the_first_bad_operation_is_named_with_its_line():
    def step(carry, x_gates, h_gates):
        return Hidden(jnp.log(x_gates + h_gates - 100.0))  # the bug

    model = model_of(Cell("broken", ("h",), step))
    state = state_of(model)
    batch = Batch(*(jnp.asarray(a, jnp.int32) for a in BpttStream(TOKENS, B, 2).window(0, 0)))
    assert "nan" in first_bad_operation(model, state, batch)
    assert "invalid value" in first_bad_operation(model, state, batch)


@pytest.mark.parametrize("debug", [False, True])
def test_a_diverging_run_names_tensor_step_and_rate_and_keeps_what_was_good(debug):
    model, source = model_of(RELU), BpttStream(TOKENS, B, 8)
    progresses = training(
        model, source, None, parse_schedule("1 x 1e-2, 1 x 1e30"), SGD, state_of(model),
        debug_nans=debug,
    )  # fmt: skip
    with pytest.raises(NonFiniteLossError) as caught:
        for _ in progresses:
            pass
    message, good = str(caught.value), caught.value.good
    assert "at step" in message
    assert "with learning rate 1e+30. " in message
    assert any(word in message for word in ("params/", "carry/", "The loss is"))
    assert ("The first operation: " in message) == debug
    assert good.position.epoch >= 1
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(good.state.params))


def test_a_validation_that_is_not_finite_stops_the_run():
    model, source = model_of(RELU), BpttStream(TOKENS[:40], B, 50)  # one window an epoch
    with pytest.raises(NonFiniteLossError, match=r"The validation loss is .* after step 1"):
        fit(model, source, source, schedule="1 x 1e38", optimizer=SGD)


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_epoch(monkeypatch):
    monkeypatch.setattr(windows, "PADDED_SIZES", 2)  # fewer programs to compile
    model, adam = model_of(GRU), make_optimizer("adam")
    source = BpttStream(TOKENS, B, 7, random_bptt=True)
    validation = BpttStream(TOKENS[:90], 2, 7, random_bptt=True)
    schedule, epochs = parse_schedule("1 x 1e-2, sgdr(1e-2, 2)"), []
    with CompilationCounter() as counter:
        for progress in training(model, source, validation, schedule, adam, state_of(model, adam)):
            if progress.row is not None and progress.row.validation is not None:
                epochs.append(counter.count)
    assert len(epochs) == 4
    assert epochs[0] > 0
    assert epochs == epochs[:1] * 4


@pytest.mark.slow
@pytest.mark.parametrize("share", [pytest.param(1.0, marks=pytest.mark.slow, id="long"), 0.02])
def test_memory_stays_flat(share, monkeypatch):
    monkeypatch.setattr(windows, "PADDED_SIZES", 2)  # fewer programs to compile
    for measured in (train_for(300 * share), generate_many(int(10_000 * share))):
        assert measured.compilations == 0, measured
        assert measured.growth <= ALLOWED, measured
