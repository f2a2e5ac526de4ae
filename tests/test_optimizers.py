"""Optimizers against PyTorch's formulas, written out in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrnn import make_optimizer

RATE, STEPS = 0.1, 5
ULPS = 1e-13
"""Some hundred roundings in float64; an epsilon in the wrong place shows at 1e-8."""


def plain_adam(p, gradients, *, coupled=0.0, decoupled=0.0):
    m = v = 0
    for t, g in enumerate(gradients, 1):
        p = p * (1 - RATE * decoupled)
        g = g + coupled * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - RATE * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


def plain_sgd(p, gradients, *, momentum=0.0, coupled=0.0):
    v = 0
    for g in gradients:
        v = momentum * v + g + coupled * p
        p = p - RATE * v
    return p


def plain_rmsprop(p, gradients):
    v = 0
    for g in gradients:
        v = 0.99 * v + 0.01 * g * g
        p = p - RATE * g / (np.sqrt(v) + 1e-8)
    return p


def clipped(gradients, norm):
    return [g * min(1, norm / (np.linalg.norm(g) + 1e-6)) for g in gradients]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({"name": "adam"}, plain_adam),
        ({"name": "adam", "weight_decay": 0.1}, lambda p, g: plain_adam(p, g, coupled=0.1)),
        ({"name": "adamw", "weight_decay": 0.1}, lambda p, g: plain_adam(p, g, decoupled=0.1)),
        ({"name": "sgd"}, plain_sgd),
        ({"name": "sgd", "momentum": 0.9}, lambda p, g: plain_sgd(p, g, momentum=0.9)),
        ({"name": "sgd", "weight_decay": 0.1}, lambda p, g: plain_sgd(p, g, coupled=0.1)),
        ({"name": "rmsprop"}, plain_rmsprop),
        ({"name": "sgd", "clip": 0.5}, lambda p, g: plain_sgd(p, clipped(g, 0.5))),
        ({"name": "adam", "clip": 1e9}, plain_adam),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_updates_equal_the_formula(options, plain):
    rng = np.random.default_rng(0)
    p, gradients = rng.normal(size=20), rng.normal(size=(STEPS, 20))
    optimizer = make_optimizer(**options)
    ours, state = jnp.asarray(p), optimizer.init(jnp.asarray(p))
    for g in gradients:
        direction, state = optimizer.update(jnp.asarray(g), state, ours)
        ours = ours - RATE * direction
    expected = plain(p, gradients)
    assert np.abs(ours - expected).max() < ULPS * np.abs(expected - p).max()


def test_adam_in_float32_starts_more_exactly_than_optax():
    g = jnp.float32(0.1) * jnp.ones(3)
    expected = plain_adam(np.zeros(3), [np.asarray(g, float)]) / -RATE
    ours = make_optimizer("adam")
    errors = {}
    for name, optimizer in (("ours", ours), ("optax", optax.scale_by_adam())):
        direction, _ = optimizer.update(g, optimizer.init(g), g)
        errors[name] = float(np.abs(direction - expected).max())
    assert errors["ours"] < 3e-7 < errors["optax"]


def test_state_buffers_are_its_own():
    params = {"a": jnp.ones(3), "b": jnp.zeros(2)}
    leaves = jax.tree.leaves(make_optimizer("adam").init(params))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="one of adam, adamw, sgd, rmsprop, got 'lion'"):
        make_optimizer("lion")
    with pytest.raises(ValueError, match="momentum is for sgd"):
        make_optimizer("adam", momentum=0.9)
    with pytest.raises(ValueError, match="clip must be above 0"):
        make_optimizer("adam", clip=0.0)
