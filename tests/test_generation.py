"""Generation: stateful mode and window mode against loops written out; the samplers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FLOAT32, relative
from stress.endurance import CompilationCounter

from jaxrnn import (
    GREEDY,
    LSTM,
    TANH,
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
from jaxrnn.generation.texts import generate_texts
from jaxrnn.nn.model import apply_model

V, B, LENGTH = 11, 3, 4
PROMPT = jnp.asarray(np.random.default_rng(0).integers(0, V, (5, B)))
KEY = jax.random.key(7)


def params_of(model):
    return make_state(model, make_optimizer("sgd"), B, jax.random.key(0)).params


def test_stateful_mode_equals_reading_the_whole_text_again():
    model = CharLM(V, 5, 16, cell=LSTM, num_layers=2)
    params, text = params_of(model), PROMPT
    for _ in range(LENGTH):
        _, log_probs = apply_model(model, params, model.initial_carry(B), text)
        text = jnp.concatenate([text, log_probs[-1].argmax(-1)[None]])
    carry, written = generate(model, params, PROMPT, LENGTH, KEY, sampler=GREEDY)
    np.testing.assert_array_equal(written, text[len(PROMPT) :])
    expected, _ = apply_model(model, params, model.initial_carry(B), text[:-1])
    assert relative(carry, expected) < FLOAT32


@pytest.mark.sample(1)
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


@pytest.mark.slow
@pytest.mark.sample(1)
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
    picked = Sampler().choose(jnp.full(1, draw), jnp.log(probabilities))
    assert picked.tolist() == [token]


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (5e-324, [1, 0, 0, 0, 0]),
        (1e-45, [1, 0, 0, 0, 0]),
        (1e-38, [1, 0, 0, 0, 0]),
        (1e-30, [1, 0, 0, 0, 0]),
        (1e30, [0.2] * 5),
        (1e39, [0.2] * 5),
        (1.7e308, [0.2] * 5),
        (10**400, [0.2] * 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("shift", [0.0, 1e30, -1e30], ids=str)
def test_extreme_temperatures_are_greedy_and_uniform(temperature, expected, shift):
    for log_probs in (LOG_PROBS, jnp.flip(LOG_PROBS)):
        flipped = expected if log_probs is LOG_PROBS else expected[::-1]
        logits = log_probs + shift if abs(shift) < 1e30 else log_probs * 1e30 + shift
        if shift and temperature > 1:
            continue  # so far apart, they are not uniform yet
        sampler = Sampler(temperature=temperature)
        allowed = jax.nn.softmax(sampler.allowed(logits))[0]
        np.testing.assert_allclose(allowed, flipped, atol=1e-6)
        drawn = sampler(KEY, jnp.broadcast_to(logits, (5_000, 5)))
        shares = np.bincount(np.asarray(drawn), minlength=5) / 5_000
        np.testing.assert_allclose(shares, flipped, atol=5 * 0.5 / np.sqrt(5_000))


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 1.0, 1e300])
@pytest.mark.parametrize("top_p", [None, 0.9])
def test_nothing_is_drawn_from_nan_nor_what_is_impossible(temperature, top_p):
    sampler = Sampler(temperature=temperature, top_p=top_p, banned=(0,))
    rows = [
        [0.0, np.nan, 1.0],
        [np.nan, -50.0, 50.0],  # what is banned may be anything
        [0.0, np.inf, 1.0],
        [0.0, -np.inf, -np.inf],
        [0.0, -np.inf, 1.0],
    ]
    picked = sampler.choose(jnp.full(5, 0.5), jnp.array(rows))
    assert picked.tolist() == [-1, 2, -1, -1, 2]


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
        ({"banned": (5,)}, r"banned tokens must lie in \[0, 5\), got 5"),
        ({"banned": (-1,)}, r"banned tokens must lie in \[0, 5\), got -1"),
        ({"banned": (0, 1, 2, 3, 4)}, "All tokens are banned"),
    ],
)
def test_bad_samplers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**options).allowed(LOG_PROBS)


@pytest.mark.parametrize(
    ("model", "sampler"),
    [
        (CharLM(V, 5, 16), Sampler()),
        (CharLM(V, 5, 16, cell=LSTM), Sampler(top_k=4, temperature=2.0)),
        (CharRnn(V, 5, 16), Sampler()),
        (CharSeqRnn(V, 5, 16), GREEDY),
    ],
    ids=["compiled", "top_k", "windows", "greedy"],
)
def test_weights_that_are_nan_give_one_clear_error_instead_of_a_text(model, sampler):
    params = params_of(model)
    params["l_out"]["bias"] = params["l_out"]["bias"].at[3].set(np.nan)
    with pytest.raises(ValueError, match=r"no character a finite probability \(character 1 of"):
        generate(model, params, PROMPT, LENGTH, KEY, sampler=sampler)


class Boldest(Sampler):
    """A sampler with rules of its own."""

    def choose(self, uniforms, log_probs):
        return jnp.argmax(self.allowed(log_probs), axis=-1)


def test_a_sampler_of_ones_own_draws_nothing_from_nan_either():
    model = CharLM(V, 5, 16)
    params = params_of(model)
    _, bold = generate(model, params, PROMPT, LENGTH, KEY, sampler=Boldest())
    _, greedy = generate(model, params, PROMPT, LENGTH, KEY, sampler=GREEDY)
    np.testing.assert_array_equal(bold, greedy)
    params["l_out"]["bias"] = params["l_out"]["bias"].at[3].set(np.nan)
    with pytest.raises(ValueError, match="no character a finite probability"):
        generate(model, params, PROMPT, LENGTH, KEY, sampler=Boldest())


@pytest.mark.sample(2)
@pytest.mark.parametrize("steps", [1, 7, 8, 9, 33])
def test_a_padded_prompt_leaves_the_carry_and_the_text_of_an_unpadded_one(steps):
    model = CharLM(V, 5, 16, cell=LSTM, num_layers=2)
    params = params_of(model)
    prompt = np.random.default_rng(1).integers(0, V, (steps, B))
    carry, first = generate(model, params, prompt, 1, KEY, sampler=GREEDY)
    expected, log_probs = apply_model(
        model, params, model.initial_carry(B), jnp.asarray(prompt, jnp.int32)
    )
    assert relative(carry, expected) < FLOAT32
    np.testing.assert_array_equal(first[0], log_probs[-1].argmax(-1))
    inside = jax.jit(lambda p: generate(model, params, p, 20, KEY))  # a prompt is not padded here
    np.testing.assert_array_equal(
        generate(model, params, prompt, 20, KEY)[1], inside(jnp.asarray(prompt))[1]
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "model", [CharLM(V, 5, 16), CharRnn(V, 5, 16)], ids=lambda model: type(model).__name__
)
@pytest.mark.parametrize("sampler", [Sampler(), Sampler(top_p=0.9)], ids=["compiled", "top_p"])
def test_a_shorter_text_is_the_beginning_of_a_longer_one(model, sampler):
    params = params_of(model)
    carry, long = generate(model, params, PROMPT, 150, KEY, sampler=sampler)
    for length in (1, 2, 63, 64, 65, 149):
        _, short = generate(model, params, PROMPT, length, KEY, sampler=sampler)
        np.testing.assert_array_equal(short, long[:length])
    if carry:
        read = jnp.concatenate([PROMPT, long[:-1]])
        expected, _ = apply_model(model, params, model.initial_carry(B), read)
        assert relative(carry, expected) < FLOAT32


def test_many_prompts_temperatures_and_lengths_share_a_few_programs():
    vocabulary = Vocabulary.from_characters(["abcdefgh"])
    model = CharLM(len(vocabulary), 5, 9)
    params, rng = params_of(model), np.random.default_rng(0)

    def write(sampler):
        prompt = "".join(rng.choice(list("abcdefgh"), rng.integers(1, 60)))
        length = int(rng.integers(1, 130))
        generate_texts(model, params, vocabulary, prompt, window=8, length=length, sampler=sampler)

    with CompilationCounter() as counter:
        for _ in range(80):
            write(Sampler(temperature=rng.uniform(0.01, 5)))
        uncut = counter.count
        for _ in range(15):
            write(Sampler(top_p=rng.uniform(0.1, 1), top_k=int(rng.integers(1, 9))))
    assert 0 < uncut <= 20  # 4 sizes of prompts, 3 of texts, and what they need around them
    assert counter.count - uncut <= 4


class Loves:
    """A model's stand-in: after each character of `text` comes the next one, again and again."""

    def __new__(cls, vocabulary, text):
        model = CharLM(len(vocabulary), len(vocabulary), len(vocabulary), cell=TANH)
        tokens = [vocabulary.stoi[token] for token in text]
        params = jax.tree.map(jnp.zeros_like, params_of(model))
        following = np.zeros((len(vocabulary),) * 2)
        following[tokens, [*tokens[1:], tokens[0]]] = 40.0
        params["e"]["embedding"] = jnp.eye(len(vocabulary))
        params["rnn"]["weight_ih_l0"] = 9 * jnp.eye(len(vocabulary))
        params["l_out"]["kernel"] = jnp.asarray(following)
        return model, params


def test_a_document_ends_and_the_text_ends_there_or_goes_on_as_a_new_one():
    vocabulary = Vocabulary.from_frequency(["abc"] * 3)
    model, params = Loves(vocabulary, ["a", "b", "c", "<eos>"])
    options = {"window": 8, "length": 9}
    for sampler in (Sampler(), GREEDY, Sampler(top_k=2)):
        write = partial(
            generate_texts, model, params, vocabulary, "ab", sampler=sampler, count=2, **options
        )
        assert write() == ["ab" + "c\nabc\nabc"] * 2
        assert write(stop_at_eos=True) == ["abc"] * 2
    assert generate_texts(
        model, params, vocabulary, "abc", window=8, length=9, stop_at_eos=True
    ) == ["abc"]


@pytest.mark.slow
def test_nul_is_written_where_it_is_a_character_and_not_where_it_is_the_padding():
    for vocabulary in (
        Vocabulary.from_frequency(["a\0b"] * 3),
        Vocabulary.from_characters(["a\0b"]),
    ):
        model, params = Loves(vocabulary, ["a", "\0", "b"])
        text = generate_texts(model, params, vocabulary, "ab", window=8, length=5)[0]
        assert text == "ab" + "a\0ba\0"
    vocabulary = Vocabulary.from_characters(["ab"])
    model, params = Loves(vocabulary, ["a", "\0", "b"])
    text = generate_texts(model, params, vocabulary, "ab", window=8, length=50)[0]
    assert set(text) == {"a", "b"}


def test_texts_begin_with_the_prompt_and_have_the_length():
    vocabulary = Vocabulary.from_frequency(["abcabcabc " * 3], min_frequency=1)
    model = CharLM(len(vocabulary), 5, 8)
    texts = generate_texts(
        model, params_of(model), vocabulary, "AB", window=8, length=20, count=3, seed=1
    )
    assert len(texts) == 3
    assert all(t.startswith("ab") and "<unk>" not in t and "<pad>" not in t for t in texts)


def test_prompts_that_cannot_be_read_are_refused():
    vocabulary = Vocabulary.from_characters(["abc"])
    model = CharRnn(len(vocabulary), 5, 8)
    params = params_of(model)
    with pytest.raises(ValueError, match=r"'x' .* is not in the vocabulary"):
        generate_texts(model, params, vocabulary, "abxc", window=3, length=5)
    with pytest.raises(ValueError, match="2 known characters: CharRnn needs at least 3"):
        generate_texts(model, params, vocabulary, "axb", window=3, length=5, unknown="skip")
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        generate_texts(model, params, vocabulary, "abc", window=3, length=5, count=0)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        generate_texts(model, params, vocabulary, "abc", window=3, length=0)
    with pytest.raises(ValueError, match=r"\(P, B\) with P at least 1"):
        generate(model, params, PROMPT[:0], 3, KEY)
