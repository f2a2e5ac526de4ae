"""Odd but honest input: emoji, NUL bytes, long lines, huge vocabularies; tokens out of range."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import (
    GRU,
    RNN,
    Batch,
    BpttStream,
    CharLM,
    Vocabulary,
    WindowSet,
    eval_step,
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


@pytest.mark.slow
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


def _odd_params():
    """Parameters that are none of the model's, each with a part of the message."""
    params = make_state(CharLM(7, 3, 4), ADAM, 3, jax.random.key(0)).params
    out = params["l_out"]
    return {
        "a weight missing": ({**params, "l_out": {"bias": out["bias"]}}, "l_out.kernel is missing"),
        "a layer missing": (
            {n: p for n, p in params.items() if n != "rnn"},
            "and 1 more|is missing",
        ),
        "another shape": (
            {**params, "e": {"embedding": jnp.zeros((9, 3))}},
            re.escape("e.embedding must have shape (7, 3), got (9, 3)"),
        ),
        "unknown": ({**params, "rnn_1": params["rnn"]}, "rnn_1.bias_hh_l0 is unknown"),
        "wrapped": ({"params": params}, "params.e.embedding is unknown|e.embedding is missing"),
        "integers": (
            {**params, "l_out": {**out, "kernel": jnp.ones((4, 7), int)}},
            "l_out.kernel must have floating numbers, got int",
        ),
        "no array": ({"e": 1.0}, "e.embedding is missing"),
        "a list": ([1.0], "e.embedding is missing"),
    }


@pytest.mark.parametrize("name", _odd_params())
def test_parameters_of_another_model_are_one_message(name):
    params, message = _odd_params()[name]
    model, adam = CharLM(7, 3, 4), ADAM
    tokens = np.ones((2, 3), int)
    state = make_state(model, adam, 3, jax.random.key(0))
    calls = [
        lambda: train_step(model, adam, state._replace(params=params), Batch(tokens, tokens), 0.1),
        lambda: eval_step(model, params, state.carry, Batch(tokens, tokens)),
        lambda: generate(model, params, tokens, 2, jax.random.key(0)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_parameter_that_a_layer_lacks_is_named():
    layer = RNN(GRU, 4)
    with pytest.raises(ValueError, match=r"weight_ih_l0 is missing; .*\(12, 2\)"):
        layer.apply({"params": {}}, layer.initial_carry(3), jnp.zeros((1, 3, 2)))


@pytest.mark.parametrize("size", [2.5, "4", None])
def test_a_size_that_is_no_integer_is_one_message(size):
    calls = [
        lambda: RNN(GRU, size).initial_carry(2),
        lambda: BpttStream(np.ones(100, int), batch_size=size, bptt=4),
    ]
    if size is not None:  # the carry of one sequence without a batch axis
        calls.append(lambda: RNN(GRU, 4).initial_carry(size))
    for call in calls:
        with pytest.raises(ValueError, match=f"must be an integer of at least ., got {size!r}"):
            call()
