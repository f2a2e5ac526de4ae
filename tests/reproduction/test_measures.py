"""What is measured on trained models: the loss on shared windows, gradients on their way back."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproduction.measures import PLACES, STEPS_BACK, gradient_flow, loss_on_shared_windows

from jaxrnn.data.windows import overlapping_starts, split_starts
from jaxrnn.nn.model import apply_model
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare

TEXT = "".join(chr(97 + k * k % 23) for k in range(4_000))
CLOSE = 1e-5
"""Relative, in float32: sums over other orders."""
SAME = 1e-10
"""Relative, in float64, after a hundred products."""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return Config(model="CharRnn", corpus=str(path), hidden_size=8, embedding_size=5, batch_size=32)


def test_shared_windows_are_those_that_neither_split_trains_on(config):
    experiment = prepare(replace(config, split="contiguous"))
    params = experiment.fresh_state().params
    starts = overlapping_starts(len(TEXT), 8)
    trained_on = [set(split_starts(starts, 8, split)[0]) for split in ("random", "contiguous")]
    shared = [start for start in starts if not any(start in trained for trained in trained_on)]
    shared = [start for start in shared if start >= split_starts(starts, 8, "contiguous")[1][0]]
    tokens = experiment.validation.tokens
    windows = tokens[np.array(shared)[:, None] + np.arange(9)].T
    _, log_probs = apply_model(experiment.model, params, (), jnp.asarray(windows[:-1]))
    losses = -np.asarray(log_probs)[np.arange(len(shared)), windows[-1]]
    assert len(shared) == pytest.approx(0.04 * len(TEXT), rel=0.3)
    assert loss_on_shared_windows(experiment, params) == pytest.approx(losses.mean(), rel=CLOSE)
    random = prepare(config)
    assert loss_on_shared_windows(random, params) == loss_on_shared_windows(experiment, params)


def test_gradients_flow_back_through_the_recurrent_weight(config):
    experiment = prepare(replace(config, model="CharSeqRnn"))
    params = jax.tree.map(lambda w: 2 * w, experiment.fresh_state().params)
    flow = gradient_flow(experiment, params)
    assert len(flow) == STEPS_BACK
    tokens = experiment.validation.tokens
    places = np.linspace(0, len(tokens) - STEPS_BACK - 2, PLACES).astype(int)
    norms = [_norms_by_hand(params, tokens[p : p + STEPS_BACK + 2]) for p in places]
    np.testing.assert_allclose(flow, np.mean(norms, axis=0), rtol=SAME)


def _norms_by_hand(params, tokens):
    """The norms of one text's gradient: the transposed Jacobians, one after the other."""
    weights = {k: np.asarray(v, float) for k, v in params["rnn"].items()}
    table, out = np.asarray(params["e"]["embedding"], float), params["l_out"]
    kernel, bias = np.asarray(out["kernel"], float), np.asarray(out["bias"], float)
    h, states = np.zeros(kernel.shape[0]), []
    for token in tokens[:-1]:
        summed = weights["weight_ih_l0"] @ table[token] + weights["weight_hh_l0"] @ h
        h = np.tanh(summed + weights["bias_ih_l0"] + weights["bias_hh_l0"])
        states.append(h)
    logits = h @ kernel + bias
    probs = np.exp(logits - logits.max())
    error = probs / probs.sum() - (np.arange(len(bias)) == tokens[-1])
    gradient, norms = kernel @ error, []
    for h in reversed(states):
        norms.append(np.linalg.norm(gradient))
        gradient = weights["weight_hh_l0"].T @ (gradient * (1 - h**2))
    return norms[1:]
