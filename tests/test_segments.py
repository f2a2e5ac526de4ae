"""Windows in segments: the same numbers in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, random_tree, relative

from jaxrnn import LSTM, TANH, CharLM, CharRnn, make_optimizer, make_state, train_step
from jaxrnn.nn.losses import nll_loss
from jaxrnn.nn.model import apply_model
from jaxrnn.training.remat import remat_loss
from jaxrnn.training.steps import Batch, batch_loss

V, F, H, B = 11, 5, 7, 4


def model_and_window(steps, num_layers=2, dropout=0.0):
    model = CharLM(V, F, H, cell=LSTM, num_layers=num_layers, dropout=dropout)
    keys = jax.random.split(jax.random.key(0), 3)
    state = make_state(model, make_optimizer("adam"), B, keys[0])
    tokens = jax.random.randint(keys[1], (steps + 1, B), 0, V, jnp.int32)
    carry = random_tree(keys[2], state.carry)
    return model, state._replace(carry=carry), Batch(tokens[:-1], tokens[1:])


@pytest.mark.sample(4)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("remat_every", [1, 3, 4, 10, 50])
@pytest.mark.parametrize("length", [None, 10, 6])
def test_segments_change_neither_loss_nor_gradient_nor_carry(remat_every, length):
    model, state, batch = model_and_window(10)
    to64 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64), tree)  # noqa: E731
    params, carry = to64(state.params), to64(state.carry)
    if length is not None:
        batch = batch._replace(length=jnp.asarray(length), rows=jnp.asarray(3))

    def run(remat_every):
        loss = lambda p: batch_loss(model, p, carry, batch, remat_every=remat_every)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    assert relative(run(remat_every), run(None)) < EXACT


@pytest.mark.usefixtures("float64")
def test_each_segment_draws_its_own_dropout_masks():
    """Equal steps without memory have losses that the masks alone can tell apart."""
    segments = 3
    width = 2
    model = CharLM(V, F, H, cell=TANH, num_layers=2, dropout=0.5)
    tokens = jnp.full((segments * width, B), 3, jnp.int32)
    params = make_state(model, make_optimizer("sgd"), B, jax.random.key(0)).params
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    for layer in ("l0", "l1"):
        params["rnn"][f"weight_hh_{layer}"] *= 0

    @jax.jit
    def loss_of(weights, key):
        carry = model.initial_carry(B, jnp.float64)
        return remat_loss(
            model, params, carry, tokens, tokens, remat_every=width, weights=weights, key=key
        )[0]

    def losses(key):
        found = []
        for segment in range(segments):
            counted = jnp.arange(segments * width) // width == segment
            weights = jnp.broadcast_to(counted[:, None], tokens.shape).astype(jnp.float64)
            found.append(float(loss_of(weights, key)))
        return np.array(found)

    without = losses(None)
    np.testing.assert_allclose(without, without[0], rtol=EXACT)
    # Two keys, three segments each: six masks, no two of which are the same.
    drawn = np.concatenate([losses(jax.random.key(1)), losses(jax.random.key(2))])
    assert np.diff(np.sort(drawn)).min() > 1e-6 * without[0]


@pytest.mark.usefixtures("float64")
def test_a_segment_that_is_computed_again_draws_its_masks_again():
    """Loss and gradient are those of the segments one after the other, each with its own key.

    So no two segments have the same masks, and a segment has the same ones on its way back.
    """
    model, state, batch = model_and_window(5, dropout=0.5)
    key = jax.random.key(1)
    params, carry = (
        jax.tree.map(lambda x: x.astype(jnp.float64), tree) for tree in (state.params, state.carry)
    )

    def plain(params):
        after, total = carry, 0.0
        for start in (0, 2, 4):
            part = slice(start, start + 2)
            own = jax.random.fold_in(key, start)
            after, log_probs = apply_model(
                model, params, after, batch.inputs[part], dropout_key=own
            )
            total += nll_loss(log_probs, batch.targets[part]) * len(batch.inputs[part])
        return total / 5

    segmented = jax.jit(
        jax.value_and_grad(lambda p: batch_loss(model, p, carry, batch, key, remat_every=2)[0])
    )
    assert relative(segmented(params), jax.jit(jax.value_and_grad(plain))(params)) < EXACT


@pytest.mark.slow
def test_long_windows_need_a_fraction_of_the_memory():
    model, state, batch = model_and_window(2048, num_layers=1)
    optimizer = make_optimizer("adam")

    def peak(remat_every):
        lowered = train_step.__wrapped__.lower(
            model, optimizer, state, batch, 1e-3, remat_every=remat_every
        )
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert peak(64) < peak(None) / 4


def test_a_segment_below_one_and_a_model_without_memory_are_refused():
    model, state, batch = model_and_window(3)
    with pytest.raises(ValueError, match="remat_every must be at least 1, got 0"):
        batch_loss(model, state.params, state.carry, batch, remat_every=0)
    windowed = CharRnn(V, F, H)
    params = make_state(windowed, make_optimizer("sgd"), 2, jax.random.key(0)).params
    with pytest.raises(ValueError, match="CharRnn reads windows of its own"):
        batch_loss(windowed, params, (), batch, remat_every=2)
