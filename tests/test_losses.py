"""Losses against sums written out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import nll_loss, nll_loss_seq
from jaxrnn.nn.losses import bits_per_character, perplexity

T, B, V = 4, 3, 5


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    return rng.normal(size=(T, B, V)).astype(np.float32), rng.integers(0, V, (T, B))


def test_loss_is_the_mean_over_all_targets(case):
    log_probs, targets = case
    each = [-log_probs[t, b, targets[t, b]] for t in range(T) for b in range(B)]
    np.testing.assert_allclose(nll_loss_seq(log_probs, jnp.array(targets)), np.mean(each), 1e-6)
    last = [-log_probs[-1, b, targets[-1, b]] for b in range(B)]
    np.testing.assert_allclose(nll_loss(log_probs[-1], jnp.array(targets[-1])), np.mean(last), 1e-6)


def test_lengths_leave_the_rest_out_of_loss_and_gradient(case):
    log_probs, targets = case
    lengths = [2, 4, 1]
    each = [-log_probs[t, b, targets[t, b]] for b in range(B) for t in range(lengths[b])]
    args = (jnp.array(targets), jnp.array(lengths))
    np.testing.assert_allclose(nll_loss_seq(log_probs, *args), np.mean(each), 1e-6)
    gradient = jax.grad(nll_loss_seq)(jnp.array(log_probs), *args)
    assert [np.flatnonzero(gradient[:, b].any(-1)).max() + 1 for b in range(B)] == lengths


def test_nothing_to_average_is_not_a_number(case):
    log_probs, targets = case
    assert np.isnan(nll_loss_seq(log_probs, jnp.array(targets), jnp.zeros(B, int)))


def test_units():
    assert bits_per_character(math.log(2)) == 1
    assert math.isclose(perplexity(math.log(85)), 85)
    assert perplexity(1e6) == math.inf
