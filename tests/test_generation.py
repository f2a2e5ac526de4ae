"""Generation: stateful mode and window mode against loops written out; the samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FLOAT32, relative

from jaxrnn import (
    GREEDY,
    LSTM,
    CharLM,
    CharRnn,
    CharSeqRnn,
    Sampler,
    Vocabulary,
    generate,
    get_next,
    make_optimizer,
    make_state,
)
from jaxrnn.generation import write_texts
from jaxrnn.nn.model import apply_model

V, B, LENGTH = 11, 3, 4
PROMPT = jnp.asarray(np.random.default_rng(0).integers(0, V, (5, B)))
KEY = jax.random.key(7)


def params_of(model):
    return make_state(model, make_optimizer("sgd"), B, jax.random.key(0)).params


def test_stateful_mode_equals_reading_the_whole_text_again():
    model = CharLM(V, 5, 16, cell=LSTM, layers=2)
    params, text = params_of(model), PROMPT
    for _ in range(LENGTH):
        _, log_probs = apply_model(model, params, model.initial_carry(B), text)
        text = jnp.concatenate([text, log_probs[-1].argmax(-1)[None]])
    carry, written = generate(model, params, PROMPT, LENGTH, KEY, sampler=GREEDY)
    np.testing.assert_array_equal(written, text[len(PROMPT) :])
    expected, _ = apply_model(model, params, model.initial_carry(B), text[:-1])
    assert relative(carry, expected) < FLOAT32


@pytest.mark.parametrize(
    "model", [CharRnn(V, 5, 16), CharSeqRnn(V, 5, 16)], ids=lambda model: type(model).__name__
)
def test_window_mode_is_the_courses_get_next_n(model):
    params, window, expected = params_of(model), PROMPT, []
    for _ in range(LENGTH):
        character = get_next(model, params, window)
        expected.append(character)
        window = jnp.concatenate([window[1:], character[None]])
    _, written = generate(model, params, PROMPT, LENGTH, KEY, sampler=GREEDY)
    np.testing.assert_array_equal(written, jnp.stack(expected))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "model", [CharRnn(V, 5, 16), CharLM(V, 5, 16)], ids=lambda model: type(model).__name__
)
def test_float64_writes_too(model):
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params_of(model))
    _, written = generate(model, params, PROMPT, LENGTH, KEY)
    assert written.shape == (LENGTH, B)


def test_texts_that_are_written_together_are_drawn_apart_and_repeatably():
    model = CharLM(V, 5, 16)
    params, same = params_of(model), jnp.zeros((2, 4), int)
    _, first = generate(model, params, same, 30, KEY)
    _, again = generate(model, params, same, 30, KEY)
    np.testing.assert_array_equal(first, again)
    assert len({tuple(column) for column in np.asarray(first).T.tolist()}) == 4


LOG_PROBS = jnp.log(jnp.array([[0.4, 0.3, 0.15, 0.1, 0.05]]))


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (Sampler(), [0.4, 0.3, 0.15, 0.1, 0.05]),
        (GREEDY, [1, 0, 0, 0, 0]),
        (Sampler(temperature=0.5), np.square([0.4, 0.3, 0.15, 0.1, 0.05]) / 0.285),
        (Sampler(top_k=2), [4 / 7, 3 / 7, 0, 0, 0]),
        (Sampler(top_k=99), [0.4, 0.3, 0.15, 0.1, 0.05]),
        (Sampler(top_p=0.75), [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        (Sampler(top_p=1e-9), [1, 0, 0, 0, 0]),
        (Sampler(banned=(0, 4)), [0, 0.3 / 0.55, 0.15 / 0.55, 0.1 / 0.55, 0]),
        (Sampler(temperature=0.0, banned=(0,)), [0, 1, 0, 0, 0]),
        (Sampler(top_k=3, top_p=0.6, banned=(1,)), [0.4 / 0.55, 0, 0.15 / 0.55, 0, 0]),
    ],
    ids=str,
)
def test_samplers_draw_from_the_distribution_that_they_say(sampler, expected):
    allowed = jax.nn.softmax(sampler.allowed(LOG_PROBS))[0]
    np.testing.assert_allclose(allowed, expected, atol=1e-6)
    draws = 20_000
    drawn = sampler(KEY, jnp.broadcast_to(LOG_PROBS, (draws, 5)))
    shares = np.bincount(np.asarray(drawn), minlength=5) / draws
    np.testing.assert_allclose(shares, expected, atol=5 * 0.5 / np.sqrt(draws))


@pytest.mark.parametrize(
    ("draw", "token"),
    [(0.0, 1), (0.29, 1), (0.31, 2), (0.59, 2), (0.61, 4), (1 - 2**-24, 4)],
)
def test_a_number_stands_for_the_token_at_which_the_sum_passes_it(draw, token):
    probabilities = jnp.array([[0.0, 0.3, 0.3, 0.0, 0.4, 0.0]])
    picked = Sampler().pick(jnp.full(1, draw), jnp.log(probabilities))
    assert picked.tolist() == [token]


def test_only_one_of_equally_likely_characters_is_greedy_or_among_the_first_k():
    level = jnp.zeros((1, 5))
    for sampler in (GREEDY, Sampler(top_k=1)):
        assert np.isfinite(sampler.allowed(level)).sum() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
    ],
)
def test_bad_samplers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**options)


def test_texts_begin_with_the_prompt_and_have_the_length():
    vocabulary = Vocabulary.from_frequency(["abcabcabc " * 3], min_frequency=1)
    model = CharLM(len(vocabulary), 5, 8)
    texts = write_texts(
        model, params_of(model), vocabulary, "AB", window=8, length=20, count=3, seed=1
    )
    assert len(texts) == 3
    assert all(t.startswith("ab") and "<unk>" not in t and "<pad>" not in t for t in texts)


def test_prompts_that_cannot_be_read_are_refused():
    vocabulary = Vocabulary.from_characters(["abc"])
    model = CharRnn(len(vocabulary), 5, 8)
    params = params_of(model)
    with pytest.raises(ValueError, match=r"'x' .* is not in the vocabulary"):
        write_texts(model, params, vocabulary, "abxc", window=3, length=5)
    with pytest.raises(ValueError, match="2 known characters: CharRnn needs at least 3"):
        write_texts(model, params, vocabulary, "axb", window=3, length=5, unknown="skip")
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        write_texts(model, params, vocabulary, "abc", window=3, length=5, count=0)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        write_texts(model, params, vocabulary, "abc", window=3, length=0)
    with pytest.raises(ValueError, match=r"\(P, B\) with P at least 1"):
        generate(model, params, PROMPT[:0], 3, KEY)
