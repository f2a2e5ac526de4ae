"""Whole documents: every character predicted once, as a model that reads them alone predicts it."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import (
    LSTM,
    BpttStream,
    Char3Model,
    CharLM,
    CharLoopConcatModel,
    CharLoopModel,
    CharRnn,
    CharSeqRnn,
    fit,
    make_optimizer,
    make_state,
)
from jaxrnn.nn.model import apply_model
from jaxrnn.training import documents as module
from jaxrnn.training.documents import reading

V = 9
ROUNDED = 2e-6
"""Absolute, of a float32 loss near 2 nats in programs of another shape."""


def read_documents(model, params, documents, *, window):
    """The end of `reading`: every character that can be is predicted."""
    *_, last = reading(model, params, documents, window=window)
    return last


def params_of(model):
    params = make_state(model, make_optimizer("sgd"), 1, jax.random.key(0)).params
    return jax.tree.map(lambda w: 3 * w, params)


def text_of(length, seed=0):
    return np.random.default_rng(seed).integers(0, V, length).astype(np.uint8)


run = jax.jit(apply_model, static_argnums=0)


def alone(model, params, tokens):
    """The loss of each character but the first, in one stream."""
    inputs = jnp.asarray(tokens[:-1, None], jnp.int32)
    _, log_probs = run(model, params, model.initial_carry(1), inputs)
    return -np.take_along_axis(np.asarray(log_probs)[:, 0], tokens[1:, None].astype(int), 1)[:, 0]


@pytest.mark.parametrize("length", [2, 141, 250, 1_000, 10_000])
def test_a_text_is_read_in_one_stream(length):
    model, tokens = CharLM(V, 5, 16, cell=LSTM, num_layers=2), text_of(length)
    params = params_of(model)
    read = read_documents(model, params, [tokens], window=8)
    assert (read.predicted, read.streams, read.cut) == (length - 1, 1, False)
    expected = alone(model, params, tokens)
    np.testing.assert_allclose(read.losses[1:], expected, atol=ROUNDED)
    assert read.nats == pytest.approx(expected.mean(), abs=ROUNDED)


def test_each_document_is_read_as_if_it_were_alone():
    model = CharLM(V, 5, 16)
    params = params_of(model)
    lengths = [1, 300, 0, 2, *np.random.default_rng(1).choice([3, 40, 59], 90).tolist()]
    documents = [text_of(length, seed) for seed, length in enumerate(lengths)]
    read = read_documents(model, params, documents, window=8)
    assert read.predicted == sum(max(length - 1, 0) for length in lengths)
    for document, losses in zip(
        documents, np.split(read.losses, np.cumsum(lengths)[:-1]), strict=True
    ):
        assert np.isnan(losses[:1]).all()
        if len(document) > 1:
            np.testing.assert_allclose(losses[1:], alone(model, params, document), atol=ROUNDED)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("model", "window"),
    [
        (Char3Model(V, 5, 16), 3),
        (CharLoopModel(V, 5, 16), 6),
        (CharLoopConcatModel(V, 5, 16), 6),
        (CharRnn(V, 5, 16), 6),
        (CharSeqRnn(V, 5, 16), 6),
    ],
    ids=lambda value: type(value).__name__,
)
def test_windowed_models_predict_every_character_behind_the_first_window_once(model, window):
    params = params_of(model)
    documents = [text_of(50, 1), text_of(window, 2), text_of(37, 3)]
    every_step = model.reads == "non-overlapping"
    read = read_documents(model, params, documents, window=window)
    least = 1 if every_step else window
    assert read.predicted == sum(len(document) - least for document in documents)
    begin = 0
    for document in documents:
        for place in range(least, len(document)):
            # Read from the beginning of the window, no matter what it reads behind the place.
            first = (place - 1) // window * window if every_step else place - window
            inputs = np.resize(document[first:], (window, 1)).astype(np.int32)
            _, log_probs = run(model, params, (), inputs)
            said = np.asarray(log_probs)[place - 1 - first if every_step else ...].reshape(V)
            assert read.losses[begin + place] == pytest.approx(-said[document[place]], abs=ROUNDED)
        begin += len(document)


@pytest.mark.slow
def test_a_cut_moves_the_loss_of_a_trained_model_by_less_than_a_thousandth(monkeypatch):
    """Streams of 400 characters here, instead of 8,192, and read 64 before instead of 1,024."""
    text = "".join(f"{n} and {n + 1} make {2 * n + 1}; " for n in range(600))
    tokens = np.unique(list(text), return_inverse=True)[1].astype(np.uint8)
    model = CharLM(int(tokens.max()) + 1, 8, 32)
    state, _ = fit(model, BpttStream(tokens, 16, 16), schedule="6 x 1e-2")
    one = read_documents(model, state.params, [tokens[:8_000]], window=8)
    assert one.nats < 1.2
    monkeypatch.setattr(module, "OWN", 400)
    monkeypatch.setattr(module, "WARM", 64)
    cut = read_documents(model, state.params, [tokens[:8_000]], window=8)
    assert (cut.streams, cut.cut) == (19, True)
    assert cut.predicted == one.predicted == 7_999
    assert abs(cut.nats - one.nats) < 1e-3
    monkeypatch.setattr(module, "WARM", 0)
    cold = read_documents(model, state.params, [tokens[:8_000]], window=8)
    assert abs(cold.nats - one.nats) > abs(cut.nats - one.nats)


def test_streams_share_a_document_without_gap_or_overlap():
    streams = module.streams_of(100, 100 + 70_001)
    assert len(streams) == 8
    assert (streams[0].begin, streams[0].own, streams[-1].end) == (100, 100, 100 + 70_000)
    for before, after in pairwise(streams):
        assert before.end == after.own
        assert after.own - after.begin == module.WARM
    assert len(module.streams_of(0, 2 * module.OWN)) == 1
    assert len(module.streams_of(0, 10**8)) == module.MOST_STREAMS


def test_what_cannot_be_measured_is_refused():
    model = CharLM(V, 5, 16)
    params = params_of(model)
    with pytest.raises(ValueError, match="No document has 2 characters: CharLM has nothing"):
        read_documents(model, params, [text_of(1)], window=8)
    with pytest.raises(ValueError, match="No document has 9 characters: CharRnn"):
        read_documents(CharRnn(V, 5, 16), params, [text_of(8)], window=8)
    with pytest.raises(ValueError, match=r"tokens must be in \[0, 9\), got 9"):
        read_documents(model, params, [np.array([1, 9])], window=8)
    bad = jax.tree.map(lambda w: w * np.nan, params)
    with pytest.raises(ValueError, match="The loss is NaN"):
        read_documents(model, bad, [text_of(20)], window=8)
