"""What is read from a user's JAX step: state, loss, gradients and moments, without running nets."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.exchange.weights import WeightMap
from parity.measures.jax_loops import JaxLoop

PARAMS = {"dense": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
MAP = WeightMap.for_flax(["dense/kernel", "dense/bias"])
RNG = np.random.default_rng(0)
WEIGHTS = {"dense.weight": RNG.normal(size=(2, 3)), "dense.bias": RNG.normal(size=2)}
BATCH = np.ones((4, 3))


def loop(step, *, init=lambda params: {"params": params}, loss=None, **options):
    return JaxLoop(init, step, PARAMS, lambda state: state["params"], loss, MAP, **options)


def one(step, dtype="float64", **options):
    (found,) = loop(step, **options).steps(WEIGHTS, [BATCH], dtype)
    return found


class Metrics(NamedTuple):
    loss: object
    grads: object = None


LOSSES = {
    "a number": (2.0, 2.0),
    "an array of one": (np.array([[2.0]]), 2.0),
    "metrics": ({"loss": 2.0, "accuracy": 1.0}, 2.0),
    "an object": (SimpleNamespace(loss=2.0), 2.0),
    "a named tuple": (Metrics(2.0), 2.0),
    "the first of several": ((2.0, 7.0), 2.0),
    "a list": ([2.0], 2.0),
    "metrics without a loss": ({"accuracy": 1.0}, None),
    "nothing": ((), None),
    "an array": (np.ones(2), None),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_found_in_what_a_step_returns(name):
    result, loss = LOSSES[name]
    assert one(lambda state, batch: (state, result)).loss == loss


def test_a_step_may_return_the_state_alone_or_more_than_a_loss():
    assert one(lambda state, batch: state).loss is None
    assert one(lambda state, batch: (state, 3.0, "more")).loss == 3.0


def test_a_state_that_is_none_is_refused_in_one_line():
    with pytest.raises(ValueError, match="must return the state first"):
        one(lambda state, batch: (2.0, state))
    with pytest.raises(ValueError, match="must return the new state"):
        one(lambda state, batch: 2.0)


class Changing:
    """A state that is changed in place, as objects are."""

    def __init__(self, params):
        self.params = params


@pytest.mark.parametrize("alone", [False, True])
def test_an_object_may_be_changed_in_place(alone):
    def model_of(state):
        return state if alone else state["model"]

    def step(state, batch):
        model = model_of(state)
        model.params = jax.tree.map(lambda array: array + 1, model.params)
        return 2.0

    def init(params):
        return Changing(params) if alone else {"model": Changing(params)}

    def params_of(state):
        return model_of(state).params

    changing = JaxLoop(init, step, PARAMS, params_of, None, MAP)
    (found,) = changing.steps(WEIGHTS, [BATCH], "float64")
    assert found.loss == 2.0
    for key, array in WEIGHTS.items():
        np.testing.assert_allclose(found.weights[key], array + 1)


def test_weights_have_pytorchs_names_and_precision():
    for dtype in ("float64", "float32"):
        found = one(lambda state, batch: (state, batch.sum()), dtype)
        assert found.loss == 12
        for key, array in WEIGHTS.items():
            assert str(found.weights[key].dtype) == dtype
            np.testing.assert_allclose(found.weights[key], array, rtol=1e-6)
    odd = one(lambda state, batch: jax.tree.map(lambda a: a * jnp.nan, state))
    assert np.isnan(odd.weights["dense.weight"]).all()


@pytest.mark.parametrize("name", ["gradients", "grads", "grad"])
def test_gradients_are_those_that_a_step_names(name):
    def step(state, batch):
        return state, {"loss": 1.0, name: {"dense": {"kernel": 2 * jnp.ones((3, 2))}}}

    found = one(step)
    # Of some parameters alone: the others have none.
    assert found.gradients.keys() == {"dense.weight"}
    np.testing.assert_array_equal(found.gradients["dense.weight"], np.full((2, 3), 2.0))


def test_gradients_may_be_an_attribute_or_lie_among_variables():
    gradient = {"params": {"dense": {"bias": jnp.array([1.0, 2.0])}}}
    found = one(lambda state, batch: (state, Metrics(1.0, gradient["params"])))
    np.testing.assert_array_equal(found.gradients["dense.bias"], [1, 2])
    assert one(lambda state, batch: (state, 1.0)).gradients == {}
    with pytest.raises(ValueError, match="a tree like that of params, got other"):
        one(lambda state, batch: (state, {"loss": 1.0, "grads": {"other": jnp.zeros(2)}}))
    with pytest.raises(ValueError, match="got no array"):
        one(lambda state, batch: (state, {"loss": 1.0, "grads": {}}))


def test_a_loss_is_differentiated_before_the_step():
    def loss(params, batch):
        return jnp.sum(params["dense"]["bias"] ** 2) + 0 * batch.sum()

    def step(state, batch):
        return {"params": jax.tree.map(lambda array: 0 * array, state["params"])}, 1.0

    found = one(step, loss=loss)
    np.testing.assert_allclose(found.gradients["dense.bias"], 2 * WEIGHTS["dense.bias"])
    assert not found.gradients["dense.weight"].any()
    assert not found.weights["dense.bias"].any()


def with_moments(**moments):
    return {"init": lambda params: {"params": params, "opt_state": moments}}


def test_moments_are_found_by_their_names_in_the_state():
    kernel = jnp.full((3, 2), 3.0)
    moments = {"mu": {"dense": {"kernel": kernel}}, "trace": {"dense": {"bias": jnp.ones(2)}}}
    moments["other"] = {"dense": {"kernel": kernel}}
    found = one(lambda state, batch: state, **with_moments(**moments))
    assert found.moments.keys() == {"mu of dense.weight", "trace of dense.bias"}
    np.testing.assert_array_equal(found.moments["mu of dense.weight"], np.full((2, 3), 3.0))


def test_what_a_state_keeps_in_float32_is_told_in_float64_alone():
    kept = {"mu": {"dense": {"bias": jnp.ones(2, jnp.float32)}}, "rate": jnp.float32(1)}
    options = with_moments(**kept)
    found = one(lambda state, batch: state, **options)
    assert found.rounded == ("opt_state/mu/dense/bias",)
    assert one(lambda state, batch: state, "float32", **options).rounded == ()


def test_an_average_is_read_with_the_names_of_the_weights():
    def average(state):
        return jax.tree.map(lambda array: 2 * array, state["params"])

    found = one(lambda state, batch: state, average_of=average)
    np.testing.assert_allclose(found.averages["dense.bias"], 2 * WEIGHTS["dense.bias"])
    with pytest.raises(ValueError, match=r"average_of must give .* without dense/bias"):
        one(
            lambda state, batch: state, average_of=lambda s: {"dense": {"kernel": jnp.ones((3, 2))}}
        )
    assert one(lambda state, batch: state).averages == {}


def test_arrays_of_nnx_have_a_name_more():
    def step(state, batch):
        params = state["params"]
        gradients = {"dense": {"bias": {"value": jnp.ones(2)}}}
        return {"params": params}, {"loss": 1.0, "grads": gradients}

    wrapped = {"dense": {name: {"value": leaf} for name, leaf in PARAMS["dense"].items()}}
    found = loop(step)._weights(wrapped, "params_of")
    assert found.keys() == WEIGHTS.keys()
    assert one(step).gradients.keys() == {"dense.bias"}
