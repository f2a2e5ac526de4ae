"""Let a trained model write, the whole loop in one program.

Shapes: P prompt length, N characters to write, B texts at once, V vocabulary.
"""

import inspect
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.data.tokens import check_at_least_1, check_seed, check_tokens
from jaxrnn.data.vocabulary import END, Unknown, Vocabulary
from jaxrnn.native.writing import write, writes_compiled
from jaxrnn.nn.cells import Carry
from jaxrnn.nn.checks import as_array, as_floats, precision
from jaxrnn.nn.model import CharModel, apply_model, model_carry

MOST_CHARACTERS = 100_000_000
"""Maximum number of characters written in one call, over all texts: memory holds no more."""


FEWEST_PROMPT_STEPS = 8
"""A stateful model's prompts are padded to this many characters or a larger power of two."""
FEWEST_WRITTEN = 64
"""Room for this many characters, or a larger power of two, in a program that writes several."""
NOTHING = -1
"""Stands in the place of a token where no character has a probability, as NaN leaves none."""
SMALLEST_TEMPERATURE = float(np.finfo(np.float32).tiny)
"""Whatever is below it is drawn as at it: only the most likely characters are left by then."""
LARGEST_TEMPERATURE = 1 / SMALLEST_TEMPERATURE
"""Whatever is above it is drawn as at it: all characters are equally likely by then. The inverse of
a larger one would be rounded to zero."""


class Rules(NamedTuple):
    """The numbers of a `Sampler` as arrays, so that a program can be used with any of them.

    Attributes:
        temperature: what log probabilities are divided by; None is greedy.
        top_k: how many of the most likely characters are drawn; None is all.
        top_p: what probability the most likely characters that are drawn reach; None is all.
        banned: which tokens are never drawn.
    """

    temperature: Float[Array | np.ndarray, ""] | None
    top_k: Int[Array | np.ndarray, ""] | None
    top_p: Float[Array | np.ndarray, ""] | None
    banned: Bool[Array | np.ndarray, " V"]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How the next character is drawn from the model's distribution.

    A subclass may draw in another way: override `allowed` or `pick`.

    Attributes:
        temperature: log probabilities are divided by it; at least 0. 1 draws from the model's own
            distribution, less is bolder, 0 is greedy: always the most likely character.
        top_k: only the k most likely characters are drawn, if given.
        top_p: only the most likely characters that together reach this probability, in (0, 1],
            are drawn, if given; the first is always among them. Holtzman et al. 2020,
            https://arxiv.org/abs/1904.09751.
        banned: tokens that are never drawn.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0, got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}.")

    def __call__(self, key: Array, log_probs: Float[Array, "B V"]) -> Int[Array, " B"]:
        """Draw one token a row; see `pick`."""
        log_probs = _as_log_probs(log_probs)
        return self.pick(_draws(key, log_probs.shape[:1], log_probs.dtype), log_probs)

    def pick(self, draws: Float[Array, " B"], log_probs: Float[Array, "B V"]) -> Int[Array, " B"]:
        """The token that each of the numbers from [0, 1) stands for.

        It is the first up to which the probabilities, in the order of the tokens, sum to more. It
        is -1 where the model says NaN or leaves nothing to draw: that is no token.

        Raises:
            ValueError: if `log_probs` has other axes or no floating numbers.
        """
        log_probs = _as_log_probs(log_probs)
        draws = as_floats("draws", draws, log_probs.shape[:1], jnp.result_type(draws))
        return _picked(draws, self.allowed(log_probs), greedy=self.temperature == 0)

    @property
    def simple(self) -> bool:
        """Whether it is what `jaxrnn.native.writing` knows: nothing cut off, nothing replaced."""
        uncut = self.top_k is None and self.top_p is None
        return self.plain and (self.temperature == 0 or uncut)

    @property
    def plain(self) -> bool:
        """Whether it draws by its numbers alone, without rules of a subclass."""
        return (type(self).allowed, type(self).pick) == _OURS

    def allowed(self, log_probs: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """The log probabilities of what may be drawn, not normalised; -inf for the rest."""
        return _allowed(self.rules(log_probs.shape[-1]), log_probs)

    def rules(self, vocabulary: int) -> Rules:
        """The numbers as arrays, for V = `vocabulary`.

        Raises:
            ValueError: if a banned token is outside [0, V), or all are banned.
        """
        banned = np.zeros(vocabulary, bool)
        for token in self.banned:
            if not 0 <= token < vocabulary:
                raise ValueError(f"banned tokens must lie in [0, {vocabulary}), got {token}.")
            banned[token] = True
        if banned.all():
            raise ValueError("All tokens are banned: leave at least one to draw.")
        if self.temperature == 0:
            return Rules(None, None, None, banned)
        temperature = float(min(max(self.temperature, SMALLEST_TEMPERATURE), LARGEST_TEMPERATURE))
        return Rules(
            np.asarray(temperature),
            None if self.top_k is None else np.asarray(min(self.top_k, vocabulary), np.int32),
            None if self.top_p is None else np.asarray(float(self.top_p)),
            banned,
        )


def _as_log_probs(log_probs: Any) -> Float[Array, "B V"]:
    log_probs = as_array("log_probs", log_probs, ("B", "V"))
    return as_floats("log_probs", log_probs, log_probs.shape, log_probs.dtype)


_OURS = (Sampler.allowed, Sampler.pick)


def _allowed(rules: Rules, log_probs: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """As `Sampler.allowed`; NaN in a row that leaves nothing to draw."""
    log_probs = jnp.where(rules.banned, -jnp.inf, log_probs)
    largest = log_probs.max(axis=-1, keepdims=True)
    drawable = jnp.isfinite(largest)
    if rules.temperature is None:
        best = jnp.argmax(log_probs, axis=-1, keepdims=True)
        only = jnp.where(jnp.arange(log_probs.shape[-1]) == best, 0, -jnp.inf)
        return jnp.where(drawable, only, jnp.nan)
    # Counted from the largest, which stays 0 whatever it is divided by.
    dtype = jnp.promote_types(log_probs.dtype, jnp.float32)
    scaled = (log_probs - largest).astype(dtype) / rules.temperature.astype(dtype)
    log_probs = jnp.where(drawable, jax.nn.log_softmax(scaled), jnp.nan)
    if rules.top_k is None and rules.top_p is None:
        return log_probs
    falling, order = lax.top_k(log_probs, log_probs.shape[-1])
    kept = jnp.ones(falling.shape, bool)
    if rules.top_k is not None:
        kept &= jnp.arange(falling.shape[-1]) < rules.top_k
    if rules.top_p is not None:
        before = jnp.cumsum(jnp.exp(falling), axis=-1) - jnp.exp(falling)
        kept &= before < rules.top_p.astype(dtype)
    kept = jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(kept | ~drawable, log_probs, -jnp.inf)


def _picked(
    draws: Float[Array, " B"], allowed: Float[Array, "B V"], *, greedy: bool
) -> Int[Array, " B"]:
    """As `Sampler.pick`, of what is allowed."""
    largest = allowed.max(axis=-1, keepdims=True)
    if greedy:
        found = jnp.argmax(allowed, axis=-1)
    else:
        weights = jnp.exp(allowed - largest).astype(draws.dtype)
        sums = jnp.cumsum(weights, axis=-1)
        found = (sums <= draws[:, None] * sums[:, -1:]).sum(axis=-1)
        last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
        found = jnp.minimum(found, last)  # rounded, a sum may never be more
    return jnp.where(jnp.isfinite(largest[:, 0]), found, NOTHING).astype(jnp.int32)


def _pick(
    own: Sampler | None, rules: Rules | None, draws: Array, log_probs: Float[Array, "B V"]
) -> Int[Array, " B"]:
    """Draw by the rules, or by a sampler with rules of its own, which is part of the program."""
    if rules is not None:
        return _picked(draws, _allowed(rules, log_probs), greedy=rules.temperature is None)
    assert own is not None
    known = ~jnp.isnan(log_probs).any(axis=-1)
    return jnp.where(known, own.pick(draws, log_probs), NOTHING).astype(jnp.int32)


def _draws(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Numbers from [0, 1), at least in float32: bfloat16 knows too few of them."""
    return jax.random.uniform(key, shape, jnp.promote_types(dtype, jnp.float32))


GREEDY = Sampler(temperature=0.0)
"""Always the most likely character."""


def generate(
    model: CharModel,
    params: Any,
    prompt: Int[Array | np.ndarray, "P B"],
    length: int,
    key: Array,
    *,
    sampler: Sampler | None = None,
    carry: Carry | None = None,
) -> tuple[Carry, Int[Array, "N B"]]:
    """Write on from a prompt, B texts at once.

    A stateful model reads the prompt once and then one character a step. A windowed model reads
    its whole window at every step: append a character, drop the first, as the course's
    `get_next_n`.

    Args:
        model: the model.
        params: its parameters.
        prompt: the tokens to go on from, time first, P at least 1. A windowed model uses them all
            as its window.
        length: N, at least 1.
        key: the random key.
        sampler: how to draw; from the model's own distribution if None.
        carry: a stateful model's carry before the prompt; zeros if None.

    Returns:
        The carry before the last character that was written, and the written tokens.

    Raises:
        ValueError: if the prompt has another shape or a token outside [0, V), N is below 1, or the
            model gives no character a finite probability, as where its weights hold NaN.
    """
    prompt = prompt if isinstance(prompt, jax.Array) else np.asarray(prompt)
    if prompt.ndim != 2 or prompt.shape[0] < 1:
        raise ValueError(f"prompt must be (P, B) with P at least 1, got shape {prompt.shape}.")
    check_at_least_1(length=length)
    if length * prompt.shape[1] > MOST_CHARACTERS:
        raise ValueError(
            f"At most {MOST_CHARACTERS:,} characters are written at once, got {length:,} for each "
            f"of {prompt.shape[1]:,} texts: write fewer, or go on from the end of the text."
        )
    check_tokens(prompt, model.vocabulary)
    sampler = sampler or Sampler()
    # A sampler's numbers are arguments of the program; rules of a subclass are part of it.
    own = None if sampler.plain else sampler
    rules = sampler.rules(model.vocabulary) if sampler.plain else None
    if carry is None:
        carry = model.initial_carry(prompt.shape[1], precision(params))
    carry = model_carry(model, params, carry, prompt.shape[1])
    room = 1 if length == 1 else _power_of_two(length, FEWEST_WRITTEN)
    if model.reads == "streams":
        carry, log_probs = _read(model, params, carry, prompt)
        carry, written = _write_streams(
            model, room, own, params, carry, log_probs, rules, key, length
        )
    else:
        tokens = _int32(prompt)
        written = _write_windows(model, room, own, params, tokens, rules, key, length)
    if isinstance(written, jax.core.Tracer):
        return carry, written[:length]
    found = np.asarray(written)[:length]  # on the host: a program of each length would be kept
    _check_written(found)
    return carry, jax.device_put(found)


def get_next(model: CharModel, params: Any, prompt: Int[Array, "P B"]) -> Int[Array, " B"]:
    """The most likely character after each prompt; the course's function of this name."""
    return generate(model, params, prompt, 1, jax.random.key(0), sampler=GREEDY)[1][0]


def _power_of_two(count: int, least: int) -> int:
    """The smallest power of two that is at least `count` and `least`."""
    return max(least, 1 << (count - 1).bit_length())


def _int32(prompt: Int[Array | np.ndarray, "P B"]) -> Int[Array | np.ndarray, "P B"]:
    """The tokens as int32, without a program of its own for their shape."""
    if isinstance(prompt, jax.core.Tracer):
        return prompt.astype(jnp.int32)
    return np.asarray(prompt, np.int32)


def _check_written(tokens: np.ndarray) -> None:
    """Refuse a text in which the model had nothing to say."""
    nowhere = np.argwhere(tokens == NOTHING)
    if len(nowhere):
        place, text = nowhere[0] + 1
        raise ValueError(
            f"The model gives no character a finite probability (character {place} of text "
            f"{text}): its weights or the carry hold NaN or infinity, or are far too large. Take "
            "another checkpoint."
        )


def _read(
    model: CharModel, params: Any, carry: Carry, prompt: Int[Array | np.ndarray, "P B"]
) -> tuple[Carry, Float[Array, "B V"]]:
    """The carry after the prompt, and what a stateful model says then.

    Prompts are padded, so that there are few programs for all their lengths.
    """
    tokens = _int32(prompt)
    count, batch = tokens.shape
    takes_lengths = "lengths" in inspect.signature(type(model).__call__).parameters
    if isinstance(tokens, jax.core.Tracer) or not takes_lengths:
        return _read_padded(model, params, carry, tokens, None)
    padded = np.zeros((_power_of_two(count, FEWEST_PROMPT_STEPS), batch), np.int32)
    padded[:count] = tokens
    return _read_padded(model, params, carry, padded, count)


@partial(jax.jit, static_argnames=("model",))
def _read_padded(
    model: CharModel,
    params: Any,
    carry: Carry,
    tokens: Int[Array, "P B"],
    count: Int[Array, ""] | None,
) -> tuple[Carry, Float[Array, "B V"]]:
    """As `_read`, of which the first `count` steps count, or all."""
    lengths = None if count is None else jnp.full(tokens.shape[1], count)
    carry, log_probs = apply_model(model, params, carry, tokens, lengths=lengths)
    return carry, log_probs[-1 if count is None else count - 1]


@partial(jax.jit, static_argnames=("model", "room", "own"))
def _write_streams(
    model: CharModel,
    room: int,
    own: Sampler | None,
    params: Any,
    carry: Carry,
    log_probs: Float[Array, "B V"],
    rules: Rules | None,
    key: Array,
    length: Int[Array, ""],
) -> tuple[Carry, Int[Array, "room B"]]:
    """The carry before the last character, and the first `length` of `room` characters."""
    draws = _draws(key, (room, len(log_probs)), log_probs.dtype)
    first = _pick(own, rules, draws[0], log_probs)
    if room == 1:
        return carry, first[None]
    pieces = model.pieces(params)
    uncut = rules is not None and rules.top_k is None and rules.top_p is None
    if pieces is not None and uncut and writes_compiled(pieces):
        assert rules is not None
        carry, rest = write(
            pieces,
            carry,
            jnp.maximum(first, 0),
            None if rules.temperature is None else draws[1:],
            room - 1,
            temperature=1.0 if rules.temperature is None else jnp.asarray(rules.temperature),
            banned=jnp.asarray(rules.banned),
            count=length - 1,
        )
        return carry, jnp.concatenate([first[None], rest])

    def step(i: Array, carried: tuple[Carry, Array]) -> tuple[Carry, Array]:
        carry, written = carried
        token = jnp.maximum(written[i - 1], 0)
        carry, log_probs = apply_model(model, params, carry, token[None])
        return carry, written.at[i].set(_pick(own, rules, draws[i], log_probs[-1]))

    written = jnp.zeros(draws.shape, jnp.int32).at[0].set(first)
    return lax.fori_loop(1, length, step, (carry, written))


@partial(jax.jit, static_argnames=("model", "room", "own"))
def _write_windows(
    model: CharModel,
    room: int,
    own: Sampler | None,
    params: Any,
    prompt: Int[Array, "P B"],
    rules: Rules | None,
    key: Array,
    length: Int[Array, ""],
) -> Int[Array, "room B"]:
    """The first `length` of `room` characters that a windowed model writes."""
    draws = _draws(key, (room, prompt.shape[1]), jax.tree.leaves(params)[0].dtype)

    def step(i: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        window, written = carried
        _, log_probs = apply_model(model, params, (), window)
        last = log_probs if log_probs.ndim == 2 else log_probs[-1]  # (B, V)
        token = _pick(own, rules, draws[i], last)
        window = jnp.concatenate([window[1:], jnp.maximum(token, 0)[None]])
        return window, written.at[i].set(token)

    written = jnp.zeros(draws.shape, jnp.int32)
    return lax.fori_loop(0, length, step, (prompt, written))[1]


def read_prompt(
    model: CharModel,
    vocabulary: Vocabulary,
    prompt: str,
    *,
    window: int,
    unknown: Unknown = "error",
) -> np.ndarray:
    """The tokens of a prompt that the model can go on from; arguments as `write_texts`.

    Raises:
        ValueError: if the prompt is too short or has unknown characters.
    """
    tokens = vocabulary.encode(prompt, unknown=unknown)
    least = 1 if model.reads == "streams" else window
    if len(tokens) < least:
        raise ValueError(
            f"The prompt has {len(tokens)} known characters: {type(model).__name__} needs at "
            f"least {least}."
        )
    return tokens


def write_texts(
    model: CharModel,
    params: Any,
    vocabulary: Vocabulary,
    prompt: str,
    *,
    window: int,
    length: int,
    count: int = 1,
    sampler: Sampler | None = None,
    unknown: Unknown = "error",
    seed: int = 0,
    stop_at_eos: bool = False,
) -> list[str]:
    """Texts that go on from a prompt, with the prompt in front.

    Where the model ends a document, by `<eos>`, the text goes on as a new document, behind a line
    end in the place of `<eos>`.

    Args:
        model: the model.
        params: its parameters.
        vocabulary: text <-> tokens. Tokens that stand for no text, but `<eos>`, are never written.
        prompt: what to go on from.
        window: how many characters a windowed model reads; a stateful one reads the whole prompt.
        length: characters to write.
        count: how many texts.
        sampler: how to draw.
        unknown: what becomes of characters that the vocabulary lacks; see `Vocabulary.encode`.
        seed: of the drawing.
        stop_at_eos: whether a text ends where the model ends a document, after fewer characters.

    Raises:
        ValueError: if a number is below 1, the prompt is too short or has unknown characters, or
            the model gives no character a finite probability.
    """
    check_at_least_1(count=count, length=length)
    check_seed(seed)
    tokens = read_prompt(model, vocabulary, prompt, window=window, unknown=unknown)
    read = tokens if model.reads == "streams" else tokens[-window:]
    banned = tuple(token for token in vocabulary.unprintable if token != vocabulary.end)
    sampler = replace(sampler or Sampler(), banned=banned)
    prompts = np.broadcast_to(read[:, None], (len(read), count))
    _, written = generate(model, params, prompts, length, jax.random.key(seed), sampler=sampler)
    begin = vocabulary.decode(tokens)
    columns = np.asarray(written).T  # (count, length)
    return [begin + _text(vocabulary, column, stop_at_eos) for column in columns]


def _text(vocabulary: Vocabulary, tokens: np.ndarray, stop_at_eos: bool) -> str:
    """The text of what was written: each `<eos>` a line end, or up to the first one."""
    ends = np.flatnonzero(tokens == vocabulary.end)
    if stop_at_eos and len(ends):
        return vocabulary.decode(tokens[: ends[0]])
    documents = np.split(tokens, ends)
    first, *others = (vocabulary.decode(document) for document in documents)
    return "\n".join([first, *(other.removeprefix(END) for other in others)])
