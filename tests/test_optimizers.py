"""Optimizers against PyTorch's formulas, written out in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrnn import Batch, BpttStream, CharLM, Optimizer, fit, make_optimizer, make_state, train_step

V, B = 5, 4
MODEL = CharLM(V, 3, 8)
SOURCE = BpttStream(np.resize(np.arange(V), 300).astype(np.uint8), B, 8)
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


def plain_rmsprop(p, gradients, *, momentum=0.0, coupled=0.0):
    v = m = 0
    for g in gradients:
        g = g + coupled * p
        v = 0.99 * v + 0.01 * g * g
        m = momentum * m + g / (np.sqrt(v) + 1e-8)
        p = p - RATE * m
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
        # Behind the momentum the decay would not add up.
        (
            {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1},
            lambda p, g: plain_sgd(p, g, momentum=0.9, coupled=0.1),
        ),
        ({"name": "rmsprop"}, plain_rmsprop),
        (
            {"name": "rmsprop", "momentum": 0.9, "weight_decay": 0.1},
            lambda p, g: plain_rmsprop(p, g, momentum=0.9, coupled=0.1),
        ),
        ({"name": "sgd", "clip": 0.5}, lambda p, g: plain_sgd(p, clipped(g, 0.5))),
        # Of moments and decay, it is the gradient that is clipped, and not the update.
        (
            {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1, "clip": 0.5},
            lambda p, g: plain_sgd(p, clipped(g, 0.5), momentum=0.9, coupled=0.1),
        ),
        ({"name": "adam", "clip": 0.5}, lambda p, g: plain_adam(p, clipped(g, 0.5))),
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
        updates, state = optimizer.update(jnp.asarray(g), state, ours, rate=RATE)
        ours = optax.apply_updates(ours, updates)
    expected = plain(p, gradients)
    assert np.abs(ours - expected).max() < ULPS * np.abs(expected - p).max()


def test_adam_in_float32_starts_more_exactly_than_optax():
    g = jnp.float32(0.1) * jnp.ones(3)
    expected = plain_adam(np.zeros(3), [np.asarray(g, float)]) / -RATE
    ours = make_optimizer("adam")
    errors = {}
    updates, _ = ours.update(g, ours.init(g), g, rate=1.0)
    errors["ours"] = float(np.abs(-updates - expected).max())
    theirs = optax.scale_by_adam()
    direction, _ = theirs.update(g, theirs.init(g), g)
    errors["optax"] = float(np.abs(direction - expected).max())
    assert errors["ours"] < 3e-7 < errors["optax"]


def test_state_buffers_are_its_own():
    params = {"a": jnp.ones(3), "b": jnp.zeros(2)}
    leaves = jax.tree.leaves(make_optimizer("adam").init(params))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_bad_settings_are_refused():
    with pytest.raises(
        ValueError, match=r"one of adam, adamw, sgd, rmsprop, or FILE.py:NAME .* got 'lion'"
    ):
        make_optimizer("lion")
    with pytest.raises(ValueError, match="momentum is for sgd"):
        make_optimizer("adam", momentum=0.9)
    with pytest.raises(ValueError, match="clip must be above 0"):
        make_optimizer("adam", clip=0.0)


def test_equal_optimizers_are_equal_and_others_are_not():
    """Optimizers are static arguments: equal ones share their compiled programs."""
    one, same = make_optimizer("sgd", momentum=0.9), make_optimizer("sgd", momentum=0.9)
    assert one == same
    assert hash(one) == hash(same)
    others = [
        make_optimizer("sgd", momentum=0.8),
        make_optimizer("sgd", momentum=0.9, clip=1.0),
        make_optimizer("sgd", momentum=0.9, weight_decay=0.1),
        make_optimizer("rmsprop", momentum=0.9),
    ]
    assert len({one, *others}) == 5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_parameter_keeps_its_precision_and_moves_by_the_rounded_step(dtype):
    p, g = jnp.linspace(-1, 1, 7, dtype=dtype), jnp.linspace(2, -3, 7, dtype=dtype)
    updates, _ = make_optimizer("sgd").update(g, make_optimizer("sgd").init(p), p, rate=RATE)
    after = optax.apply_updates(p, updates)
    assert after.dtype == dtype
    np.testing.assert_array_equal(after, p - (RATE * g).astype(dtype))


def one_step(optimizer, *rate):
    state = make_state(MODEL, optimizer, B, jax.random.key(0))
    after, metrics = train_step(MODEL, optimizer, state, Batch(*SOURCE.window(0, 0)), *rate)
    return state.params, after.params, metrics


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(RATE),
        optax.sgd(optax.constant_schedule(RATE)),
        optax.chain(optax.identity(), optax.scale(-RATE)),
        optax.inject_hyperparams(optax.sgd)(RATE),
        optax.MultiSteps(optax.sgd(RATE), 1),
        optax.chain(optax.sgd(RATE), optax.contrib.reduce_on_plateau()),
    ],
    ids=["sgd", "schedule", "chain", "hyperparameters", "several steps", "plateau"],
)
def test_any_transformation_moves_as_its_documentation_says(optimizer):
    """`optax.sgd(rate)` and its like are our "sgd" at that rate."""
    _, expected, of_ours = one_step(make_optimizer("sgd"), RATE)
    before, after, metrics = one_step(optimizer)
    for old, new, right in zip(*map(jax.tree.leaves, (before, after, expected)), strict=True):
        np.testing.assert_allclose(new - old, right - old, rtol=1e-4, atol=1e-8)
    assert float(metrics.update_norm) == pytest.approx(float(of_ours.update_norm), rel=1e-5)


@pytest.mark.slow
def test_fit_descends_with_an_optimizer_that_brings_its_own_rate():
    rate = 3e-2
    _, rows = fit(MODEL, SOURCE, SOURCE, optimizer=optax.adam(rate), epochs=2)
    _, named = fit(MODEL, SOURCE, SOURCE, optimizer="adam", schedule=f"2 x {rate}")
    assert rows[-1].validation == pytest.approx(named[-1].validation, rel=1e-3)
    assert rows[-1].validation < rows[0].train < 1.7
    assert {row.rate for row in rows} == {None}
    decayed = optax.adam(optax.cosine_decay_schedule(rate, 20))
    _, rows = fit(MODEL, SOURCE, SOURCE, optimizer=decayed, epochs=2)
    assert rows[-1].validation < rows[0].train


def test_a_direction_of_optaxs_takes_rates_from_a_schedule():
    lion = Optimizer(optax.scale_by_lion, (("b1", 0.9),))
    _, rows = fit(MODEL, SOURCE, SOURCE, optimizer=lion, schedule="1 x 1e-2")
    _, theirs = fit(MODEL, SOURCE, SOURCE, optimizer=optax.lion(1e-2, weight_decay=0.0), epochs=1)
    assert rows[-1].validation == pytest.approx(theirs[-1].validation, rel=1e-3)


NO_RATE = optax.adam(1e-3)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (lambda: fit(MODEL, SOURCE, optimizer=NO_RATE, schedule="1 x 1"), "leave schedule out"),
        (lambda: fit(MODEL, SOURCE, optimizer=NO_RATE), "say how long with epochs"),
        (lambda: fit(MODEL, SOURCE, optimizer=NO_RATE, epochs=0), "epochs must be at least 1"),
        (lambda: fit(MODEL, SOURCE), "takes its length and its rates from schedule"),
        (lambda: fit(MODEL, SOURCE, epochs=1), "takes its length and its rates from schedule"),
        (lambda: fit(MODEL, SOURCE, optimizer="lion", schedule="1 x 1"), "got 'lion'"),
        (
            lambda: fit(MODEL, SOURCE, optimizer=1e-3, schedule="1 x 1"),
            r"or an optax\..* got 0.001",
        ),
        (lambda: one_step(NO_RATE, 1e-3), "leave rate out"),
        (lambda: one_step(make_optimizer("adam")), "needs a learning rate"),
        (
            lambda: one_step(optax.chain(optax.clip(1.0), make_optimizer("adam"))),
            "needs a learning rate",
        ),
    ],
)
def test_a_rate_given_twice_or_not_at_all_is_refused(train, words):
    with pytest.raises(ValueError, match=words):
        train()
