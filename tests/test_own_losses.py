"""A loss of one's own in `fit` and `train_step`: what it is given, and what it may return."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FLOAT32, relative

from jaxrnn import (
    TANH,
    Batch,
    BpttStream,
    Char3Model,
    CharLM,
    WindowSet,
    fit,
    make_optimizer,
    make_state,
    train_step,
)
from jaxrnn.training.diagnosis import first_bad
from jaxrnn.training.steps import batch_loss

V, B = 5, 4
MODEL = CharLM(V, 3, 8, cell=TANH)
ADAM = make_optimizer("adam")
TOKENS = np.random.default_rng(0).integers(0, V, 484).astype(np.uint8)
SOURCE = BpttStream(TOKENS, B, 8)
ONE = "1 x 1e-2"


def negative_log_likelihood(outputs, targets, model):
    return -jnp.take_along_axis(outputs, targets[..., None], -1)[..., 0]


def mean_of_it(outputs, targets, model):
    return negative_log_likelihood(outputs, targets, model).mean()


def regularized(outputs, targets, model, hidden):
    """Activation regularization, as of AWD-LSTM (Merity and others 2017)."""
    return negative_log_likelihood(outputs, targets, model) + 2.0 * (hidden**2).mean()


def weighted(outputs, targets, model, weights):
    losses = negative_log_likelihood(outputs, targets, model)
    return (losses * weights).sum() / weights.sum()


def trained(source, loss=None):
    return fit(MODEL, source, source, schedule=ONE, optimizer=ADAM, loss=loss, progress=False)


def test_the_usual_loss_written_out_trains_the_same_weights():
    usual, rows = trained(SOURCE)
    own, own_rows = trained(SOURCE, mean_of_it)
    assert relative(own.params, usual.params) < FLOAT32
    assert own_rows[-1].train == pytest.approx(rows[-1].train, rel=1e-5)
    assert own_rows[-1].validation == pytest.approx(rows[-1].validation, rel=1e-5)


def mean_loss(model, params, carry, batch, loss=None):
    """The loss of a batch, as one program."""
    nats, _ = jax.jit(partial(batch_loss, model, loss=loss))(params, carry, batch)
    return float(nats)


def test_targets_that_only_fill_the_array_do_not_count():
    state = make_state(MODEL, ADAM, B, jax.random.key(0))
    inputs, targets = SOURCE.window(0, 0)
    batch = Batch(inputs, targets, jnp.asarray(5), jnp.asarray(3))
    usual = mean_loss(MODEL, state.params, state.carry, batch)
    for loss in (negative_log_likelihood, weighted):
        own = mean_loss(MODEL, state.params, state.carry, batch, loss)
        assert own == pytest.approx(usual, rel=1e-6)
    whole = mean_loss(MODEL, state.params, state.carry, batch, mean_of_it)
    assert whole != pytest.approx(usual, rel=1e-4)


def test_hidden_states_are_the_outputs_of_the_recurrent_layers():
    sgd = make_optimizer("sgd")
    state = make_state(MODEL, sgd, B, jax.random.key(0))
    batch = Batch(*SOURCE.window(0, 0))

    def by_hand(params):
        """The loss, through the layers one after the other."""
        xs = params["e"]["embedding"][batch.inputs]  # (T, B, F)
        _, ys = MODEL.stack.apply({"params": params["rnn"]}, state.carry, xs)
        out = params["l_out"]
        log_probs = jax.nn.log_softmax(ys @ out["kernel"] + out["bias"])
        return regularized(log_probs, batch.targets, MODEL, ys).mean()

    expected, gradients = jax.jit(jax.value_and_grad(by_hand))(state.params)
    after, metrics = train_step(MODEL, sgd, state, batch, 0.1, loss=regularized)
    assert float(metrics.loss) == pytest.approx(float(expected), rel=1e-6)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradients)
    assert relative(after.params, moved) < FLOAT32


def test_the_loss_is_given_the_model():
    given = []

    def loss(outputs, targets, model):
        given.append((outputs.shape, targets.shape, model))
        return mean_of_it(outputs, targets, model)

    state = make_state(MODEL, ADAM, B, jax.random.key(0))
    batch = Batch(*SOURCE.window(0, 0))
    jax.eval_shape(partial(batch_loss, MODEL, loss=loss), state.params, state.carry, batch)
    assert given == [((8, B, V), (8, B), MODEL)]


@pytest.mark.slow
def test_a_model_of_one_prediction_gives_the_last_target():
    model = Char3Model(V, 3, 8)
    source = WindowSet(TOKENS, np.arange(0, 300, 3), 3, B)
    params = make_state(model, ADAM, B, jax.random.key(0)).params
    inputs, targets = source.inputs[:B].T, source.targets[:B].T
    batch = Batch(inputs, targets)
    own = mean_loss(model, params, (), batch, negative_log_likelihood)
    assert own == pytest.approx(mean_loss(model, params, (), batch), rel=1e-6)


def test_a_loss_that_is_not_finite_is_named():
    def broken(outputs, targets, model):
        return mean_of_it(outputs, targets, model) / 0.0

    state = make_state(MODEL, ADAM, B, jax.random.key(0))
    batch = Batch(*(jnp.asarray(tokens, jnp.int32) for tokens in SOURCE.window(0, 0)))
    assert first_bad(MODEL, state, batch, broken) == "The loss is inf"


PARTLY_FILLED = WindowSet(TOKENS, np.arange(0, 50, 3), 3, B)  # 17 windows: the last batch has one


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (3, r"loss must be a function of \(outputs, targets, model\).*, got 3"),
        (lambda outputs, targets: 0.0, r"got one of \(outputs, targets\)"),
        (lambda o, t, m: o, r"return the loss of each target, of shape \(8, 4\).* got shape \(8"),
        (lambda o, t, m: t, "got shape .* of int32"),
        (lambda o, t, m: None, "or one number, got None"),
    ],
)
def test_what_is_no_loss_is_refused_in_words(loss, words):
    with pytest.raises(ValueError, match=words) as caught:
        trained(SOURCE, loss)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source", [BpttStream(TOKENS, B, 9, random_bptt=True), PARTLY_FILLED], ids=["long", "wide"]
)
def test_a_mean_over_what_fills_the_array_is_refused(source):
    with pytest.raises(ValueError, match="some only fill the array here: return the loss of each"):
        trained(source, mean_of_it)


def test_hidden_states_of_a_model_without_are_refused():
    model = Char3Model(V, 3, 8)
    state = jax.eval_shape(lambda: make_state(model, ADAM, B, jax.random.key(0)))
    batch = Batch(*np.ones((2, 3, B), int))
    with pytest.raises(ValueError, match="Char3Model has no hidden states to give"):
        jax.eval_shape(partial(batch_loss, model, loss=regularized), state.params, (), batch)


def test_remat_and_a_loss_are_not_both():
    state = make_state(MODEL, ADAM, B, jax.random.key(0))
    batch = Batch(*SOURCE.window(0, 0))
    with pytest.raises(ValueError, match="remat_every has a loss of its own"):
        train_step(MODEL, ADAM, state, batch, 0.1, loss=regularized, remat_every=2)
