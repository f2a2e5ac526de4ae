"""One training step, many in one program, and what flows between windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, FLOAT32, relative

from jaxrnn import (
    GRU,
    LSTM,
    TANH,
    Batch,
    BpttStream,
    CharLM,
    CharRnn,
    WindowSet,
    eval_step,
    make_optimizer,
    make_state,
    repackage,
    train_step,
)
from jaxrnn.data.windows import overlapping_starts
from jaxrnn.nn.losses import nll_loss
from jaxrnn.nn.model import apply_model
from jaxrnn.training.steps import batch_loss, eval_steps, train_steps

V, B = 11, 3
ADAM = make_optimizer("adam")
TOKENS = np.random.default_rng(0).integers(0, V, 400).astype(np.uint8)
RATE = 1e-2


def model_of(cell=GRU, **options):
    return CharLM(V, 5, 7, cell=cell, **options)


def batch_of(stream, epoch, k):
    return Batch(*(jnp.asarray(x, jnp.int32) for x in stream.window(epoch, k)))


@pytest.mark.sample(2)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", [TANH, GRU, LSTM], ids=lambda c: c.name)
def test_no_gradient_crosses_the_window(cell):
    model = model_of(cell)
    stream = BpttStream(TOKENS, B, 6)
    params = make_state(model, ADAM, B, jax.random.key(0)).params
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    first, second = batch_of(stream, 0, 0), batch_of(stream, 0, 1)

    def second_loss(carry_before, cut):
        carry, _ = apply_model(model, params, carry_before, first.inputs)
        carry = repackage(carry) if cut else carry
        _, log_probs = apply_model(model, params, carry, second.inputs)
        return nll_loss(log_probs, second.targets)

    start = model.initial_carry(B, jnp.float64)
    crossing = jax.grad(second_loss)(start, False)
    stopped = jax.grad(second_loss)(start, True)
    assert all(np.abs(leaf).max() > 1e-9 for leaf in jax.tree.leaves(crossing))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(stopped))
    through_step = jax.grad(lambda c: batch_loss(model, params, c, second)[0])(start)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(through_step))


def test_the_carry_flows_through_the_step():
    model = model_of()
    stream = BpttStream(TOKENS, B, 6)
    state = make_state(model, ADAM, B, jax.random.key(0))
    middle, _ = train_step(model, ADAM, state, batch_of(stream, 0, 0), RATE)
    expected, _ = apply_model(model, state.params, state.carry, batch_of(stream, 0, 0).inputs)
    assert relative(middle.carry, expected) < FLOAT32
    forgetful = middle._replace(carry=model.initial_carry(B))
    _, with_carry = train_step(model, ADAM, middle, batch_of(stream, 0, 1), RATE)
    _, without = train_step(model, ADAM, forgetful, batch_of(stream, 0, 1), RATE)
    assert abs(float(with_carry.loss - without.loss)) > 1e-5


def test_the_carry_starts_anew_when_the_batch_size_changes_and_only_then():
    model = model_of(LSTM)
    params = make_state(model, ADAM, B, jax.random.key(0)).params
    carry = jax.tree.map(jnp.ones_like, model.initial_carry(B))
    tokens = jnp.asarray(TOKENS[:24], jnp.int32)
    same = Batch(*[tokens.reshape(8, B)] * 2)
    smaller = Batch(*[tokens.reshape(12, 2)] * 2)
    kept, _ = apply_model(model, params, carry, same.inputs)
    fresh, _ = apply_model(model, params, model.initial_carry(2), smaller.inputs)
    assert relative(eval_step(model, params, carry, same)[0], kept) < FLOAT32
    after, _ = eval_step(model, params, carry, smaller)
    assert relative(after, fresh) < FLOAT32
    back, _ = eval_step(model, params, after, same)
    from_zeros, _ = apply_model(model, params, model.initial_carry(B), same.inputs)
    assert relative(back, from_zeros) < FLOAT32


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", [TANH, LSTM], ids=lambda c: c.name)
def test_a_padded_window_trains_as_the_short_one(cell):
    model = model_of(cell, num_layers=2)
    params = make_state(model, ADAM, B, jax.random.key(0)).params
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    carry = jax.tree.map(lambda c: c + 0.1, model.initial_carry(B, jnp.float64))
    tokens = jnp.asarray(TOKENS[: 9 * B].reshape(9, B), jnp.int32)
    short = Batch(tokens[:5], tokens[1:6])
    padded = Batch(tokens[:8], tokens[1:9], length=jnp.asarray(5))

    run = jax.jit(
        lambda params, batch: jax.value_and_grad(batch_loss, argnums=1, has_aux=True)(
            model, params, carry, batch
        )
    )
    assert relative(run(params, padded), run(params, short)) < EXACT


@pytest.mark.usefixtures("float64")
def test_the_metrics_are_the_loss_and_the_norms_of_gradient_and_update():
    """The loss is that before the update, and the gradient's norm that before clipping."""
    model = model_of()
    optimizer = make_optimizer("adam", clip=1e-2)
    batch = batch_of(BpttStream(TOKENS, B, 6), 0, 0)
    state = make_state(model, optimizer, B, jax.random.key(0))
    state = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
    after, metrics = train_step(model, optimizer, state, batch, RATE)

    def loss_of(params):
        return batch_loss(model, params, state.carry, batch)[0]

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(state.params)
    moves = jax.tree.map(lambda new, old: new - old, after.params, state.params)
    norms = [
        np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]))
        for tree in (gradients, moves)
    ]
    np.testing.assert_allclose(metrics, [loss, *norms], rtol=EXACT)


def steps_of(source, epoch):
    count = source.steps(epoch)
    return source.windows(epoch, 0, count + 2), count


@pytest.mark.sample(1)
@pytest.mark.parametrize("random_bptt", [False, True])
def test_many_steps_in_one_program_equal_single_ones(random_bptt):
    model = model_of()
    stream = BpttStream(TOKENS, B, 8, random_bptt)
    windows, count = steps_of(stream, 1)
    rates = np.linspace(1e-2, 1e-3, count + 2).astype(np.float32)
    state = single = make_state(model, ADAM, B, jax.random.key(0))
    losses = []
    for k in range(count):
        single, metrics = train_step(model, ADAM, single, batch_of(stream, 1, k), rates[k])
        losses.append(metrics.loss)
    state = jax.tree.map(lambda x: x.copy(), state)
    many, metrics = train_steps(
        model, ADAM, state, windows.with_tokens(jnp.asarray(TOKENS)), rates, count
    )
    np.testing.assert_allclose(metrics.loss[:count], losses, rtol=FLOAT32)
    assert not metrics.loss[count:].any()
    assert int(many.step) == count
    assert relative(many.params, single.params) < 1e-4  # 15 steps of float32 Adam
    assert relative(many.carry, single.carry) < 1e-3


def test_a_batch_with_fewer_rows_counts_only_those():
    model = CharRnn(V, 5, 7)
    windows = WindowSet(TOKENS[:30], overlapping_starts(30), 8, 16, shuffled=False)
    assert windows.steps(0) == 2  # of 16 and 5 windows
    params = make_state(model, ADAM, 16, jax.random.key(0)).params
    read, count = steps_of(windows, 0)
    _, losses = eval_steps(model, params, (), read, count)
    _, log_probs = apply_model(model, params, (), jnp.asarray(windows.inputs.T, jnp.int32))
    each = -np.asarray(log_probs)[np.arange(21), windows.targets[:, -1]]
    np.testing.assert_allclose(losses[:2], [each[:16].mean(), each[16:].mean()], rtol=1e-5)


def test_few_programs_serve_all_random_lengths():
    model = model_of()
    stream = BpttStream(np.resize(TOKENS, 4000), B, 8, True)
    assert len({int(n) for n in steps_of(stream, 0)[0].lengths}) > 12
    state = make_state(model, ADAM, B, jax.random.key(0))
    before = train_steps._cache_size()
    for epoch in range(3):
        for first in range(0, stream.steps(epoch), 50):
            state, _ = train_steps(
                model,
                ADAM,
                state,
                stream.windows(epoch, first, 50),
                np.full(50, RATE, np.float32),
                min(50, stream.steps(epoch) - first),
            )
    assert train_steps._cache_size() == before + 1
    assert len(stream.sizes) <= 6


def test_dropout_masks_differ_by_step_and_are_the_keys():
    model = model_of(num_layers=2, dropout=0.5)
    batch = batch_of(BpttStream(TOKENS, B, 6), 0, 0)
    state = make_state(model, ADAM, B, jax.random.key(0))
    losses = [
        float(train_step(model, ADAM, s, batch, 0.0)[1].loss)
        for s in (state, state, state._replace(step=jnp.asarray(7)))
    ]
    assert losses[0] == losses[1] != losses[2]
