"""Odd but honest input: emoji, NUL bytes, long lines, huge vocabularies; tokens out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import (
    Batch,
    BpttStream,
    CharLM,
    Vocabulary,
    WindowSet,
    evaluate,
    fit,
    generate,
    get_next,
    make_optimizer,
    make_state,
    train_step,
)
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare

V = 5
MODEL = CharLM(V, 3, 4)
ADAM = make_optimizer("adam")


@pytest.mark.parametrize(
    "text",
    [
        "😀👩‍👩‍👧🏽 ",
        "e\u0301a\u0308 ",
        "שלום עליכם ",
        "a\0b\0 ",
        "\ufeffone\r\ntwo\r\n",
        "x" * 9 + "y",
    ],
    ids=["emoji", "combining", "right-to-left", "NUL", "BOM and CRLF", "one line"],
)
def test_odd_texts_are_learnt_and_written(text):
    vocabulary = Vocabulary.from_frequency([text * 20], min_frequency=1)
    tokens = vocabulary.encode(text * 20)
    assert vocabulary.decode(tokens) == (text * 20).lower()
    model = CharLM(40, 3, 4)  # one size for all, so that it is compiled once
    state = make_state(model, ADAM, 2, jax.random.key(0))
    inputs, targets = BpttStream(tokens, 2, 8).window(0, 0)
    _, metrics = train_step(model, ADAM, state, Batch(inputs, targets), 1e-2)
    assert np.isfinite(metrics.loss)


def test_a_megabyte_on_one_line_is_one_corpus(tmp_path):
    path = tmp_path / "line"
    path.write_text("the quick brown fox " * 52_429)
    experiment = prepare(Config(corpus=str(path)))
    total = len(experiment.source.tokens) + len(experiment.validation.tokens)
    assert total >= 2**20


def test_a_vocabulary_of_100000_characters_trains():
    characters = [chr(c) for c in range(0x20, 0x20000) if not 0xD800 <= c < 0xE000][:100_000]
    vocabulary = Vocabulary.from_frequency(["".join(characters)], min_frequency=1, lowercase=False)
    assert len(vocabulary) == 100_003
    tokens = vocabulary.encode("".join(characters[-40:]))
    model = CharLM(len(vocabulary), 2, 2)
    state = make_state(model, ADAM, 2, jax.random.key(0))
    batch = Batch(*BpttStream(tokens, 2, 4).window(0, 0))
    _, metrics = train_step(model, ADAM, state, batch, 1e-2)
    assert float(metrics.loss) == pytest.approx(np.log(len(vocabulary)), rel=0.2)


BAD = np.array([[0, 1], [V, 2], [1, 1]])


def test_tokens_out_of_range_are_refused_on_the_host():
    state = make_state(MODEL, ADAM, 2, jax.random.key(0))
    message = r"tokens must be in \[0, 5\), got 5"
    with pytest.raises(ValueError, match=message):
        train_step(MODEL, ADAM, state, Batch(BAD, BAD), 1e-2)
    with pytest.raises(ValueError, match=message):
        generate(MODEL, state.params, BAD, 2, jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        get_next(MODEL, state.params, jnp.asarray(BAD))
    source = BpttStream(np.resize(BAD, 60), 2, 4)
    with pytest.raises(ValueError, match=message):
        evaluate(MODEL, state.params, source)
    with pytest.raises(ValueError, match=message):
        fit(MODEL, source, schedule="1 x 1e-2")
    with pytest.raises(ValueError, match="tokens must be at least 0, got -1"):
        BpttStream(np.arange(60) - 1, 2, 4)
    with pytest.raises(ValueError, match="tokens must be integers, got float64"):
        WindowSet(np.zeros(60), np.arange(3), 4, 2)
    with pytest.raises(ValueError, match="lies outside the 60 tokens"):
        WindowSet(np.zeros(60, int), np.array([56]), 4, 2)
