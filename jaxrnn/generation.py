"""Let a trained model write, the whole loop in one program.

Shapes: P prompt length, N characters to write, B texts at once, V vocabulary.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.data.tokens import check_at_least_1, check_seed, check_tokens
from jaxrnn.data.vocabulary import Unknown, Vocabulary
from jaxrnn.native.writing import write, writes_compiled
from jaxrnn.nn.cells import Carry
from jaxrnn.nn.model import CharModel, apply_model

MOST_CHARACTERS = 100_000_000
"""That are written in one call, over all texts: more would not fit into memory."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How the next character is drawn from the model's distribution.

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
        """Draw one token a row."""
        return self.pick(_draws(key, log_probs.shape[:1], log_probs.dtype), log_probs)

    def pick(self, draws: Float[Array, " B"], log_probs: Float[Array, "B V"]) -> Int[Array, " B"]:
        """The token that each of the numbers from [0, 1) stands for.

        It is the first up to which the probabilities, in the order of the tokens, sum to more.
        """
        allowed = self.allowed(log_probs)
        if self.temperature == 0:
            return jnp.argmax(allowed, axis=-1).astype(jnp.int32)
        weights = jnp.exp(allowed - allowed.max(axis=-1, keepdims=True)).astype(draws.dtype)
        sums = jnp.cumsum(weights, axis=-1)
        found = (sums <= draws[:, None] * sums[:, -1:]).sum(axis=-1)
        last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
        return jnp.minimum(found, last).astype(jnp.int32)  # rounded, a sum may never be more

    @property
    def simple(self) -> bool:
        """Whether it is what `jaxrnn.native.writing` knows: nothing cut off, nothing replaced."""
        ours = (type(self).allowed, type(self).pick) == _OURS
        return ours and (self.temperature == 0 or (self.top_k is None and self.top_p is None))

    def allowed(self, log_probs: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """The log probabilities of what may be drawn, not normalised; -inf for the rest."""
        if self.banned:
            log_probs = log_probs.at[:, jnp.array(self.banned)].set(-jnp.inf)
        if self.temperature == 0:
            best = jnp.argmax(log_probs, axis=-1, keepdims=True)
            return jnp.where(jnp.arange(log_probs.shape[-1]) == best, 0, -jnp.inf)
        log_probs = jax.nn.log_softmax(log_probs / self.temperature)
        if self.top_k is None and self.top_p is None:
            return log_probs
        falling, order = lax.top_k(log_probs, log_probs.shape[-1])
        kept = jnp.ones(falling.shape, bool)
        if self.top_k is not None:
            kept &= jnp.arange(falling.shape[-1]) < self.top_k
        if self.top_p is not None:
            before = jnp.cumsum(jnp.exp(falling), axis=-1) - jnp.exp(falling)
            kept &= before < self.top_p
        kept = jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1)
        return jnp.where(kept, log_probs, -jnp.inf)


_OURS = (Sampler.allowed, Sampler.pick)


def _draws(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Numbers from [0, 1), at least in float32: bfloat16 knows too few of them."""
    return jax.random.uniform(key, shape, jnp.promote_types(dtype, jnp.float32))


GREEDY = Sampler(temperature=0.0)
"""Always the most likely character."""


def generate(
    model: CharModel,
    params: Any,
    prompt: Int[Array, "P B"],
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
        ValueError: if the prompt has another shape or a token outside [0, V), or N is below 1.
    """
    if prompt.ndim != 2 or prompt.shape[0] < 1:
        raise ValueError(f"prompt must be (P, B) with P at least 1, got shape {prompt.shape}.")
    check_at_least_1(length=length)
    if length * prompt.shape[1] > MOST_CHARACTERS:
        raise ValueError(
            f"At most {MOST_CHARACTERS:,} characters are written at once, got {length:,} for each "
            f"of {prompt.shape[1]:,} texts: write fewer, or go on from the end of the text."
        )
    check_tokens(prompt, model.vocabulary)
    prompt = jnp.asarray(prompt, jnp.int32)
    if carry is None:
        carry = model.initial_carry(prompt.shape[1], jax.tree.leaves(params)[0].dtype)
    write = _write_streams if model.reads == "streams" else _write_windows
    return write(model, length, sampler or Sampler(), params, carry, prompt, key)


def get_next(model: CharModel, params: Any, prompt: Int[Array, "P B"]) -> Int[Array, " B"]:
    """The most likely character after each prompt; the course's function of this name."""
    return generate(model, params, prompt, 1, jax.random.key(0), sampler=GREEDY)[1][0]


@partial(jax.jit, static_argnames=("model", "length", "sampler"))
def _write_streams(
    model: CharModel,
    length: int,
    sampler: Sampler,
    params: Any,
    carry: Carry,
    prompt: Array,
    key: Array,
) -> tuple[Carry, Array]:
    carry, log_probs = apply_model(model, params, carry, prompt)
    draws = _draws(key, (length, prompt.shape[1]), log_probs.dtype)
    first = sampler.pick(draws[0], log_probs[-1])
    if length == 1:
        return carry, first[None]
    pieces = model.pieces(params)
    if pieces is not None and sampler.simple and writes_compiled(pieces):
        carry, rest = write(
            pieces,
            carry,
            first,
            None if sampler.temperature == 0 else draws[1:],
            length - 1,
            temperature=sampler.temperature,
            banned=sampler.banned,
        )
        return carry, jnp.concatenate([first[None], rest])

    def step(carried: tuple[Carry, Array], draws: Array) -> tuple[tuple[Carry, Array], Array]:
        carry, token = carried
        carry, log_probs = apply_model(model, params, carry, token[None])
        token = sampler.pick(draws, log_probs[-1])
        return (carry, token), token

    (carry, _), rest = lax.scan(step, (carry, first), draws[1:])
    return carry, jnp.concatenate([first[None], rest])


@partial(jax.jit, static_argnames=("model", "length", "sampler"))
def _write_windows(
    model: CharModel,
    length: int,
    sampler: Sampler,
    params: Any,
    carry: Carry,
    prompt: Array,
    key: Array,
) -> tuple[Carry, Array]:
    def step(window: Array, draws: Array) -> tuple[Array, Array]:
        _, log_probs = apply_model(model, params, carry, window)
        token = sampler.pick(draws, log_probs if log_probs.ndim == 2 else log_probs[-1])
        return jnp.concatenate([window[1:], token[None]]), token

    draws = _draws(key, (length, prompt.shape[1]), jax.tree.leaves(params)[0].dtype)
    _, tokens = lax.scan(step, prompt, draws)
    return carry, tokens


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
) -> list[str]:
    """Texts that go on from a prompt, with the prompt in front.

    Args:
        model: the model.
        params: its parameters.
        vocabulary: text <-> tokens. Tokens that stand for no text are never written.
        prompt: what to go on from.
        window: how many characters a windowed model reads; a stateful one reads the whole prompt.
        length: characters to write.
        count: how many texts.
        sampler: how to draw.
        unknown: what becomes of characters that the vocabulary lacks; see `Vocabulary.encode`.
        seed: of the drawing.

    Raises:
        ValueError: if a number is below 1, or the prompt is too short or has unknown characters.
    """
    check_at_least_1(count=count, length=length)
    check_seed(seed)
    tokens = read_prompt(model, vocabulary, prompt, window=window, unknown=unknown)
    read = tokens if model.reads == "streams" else tokens[-window:]
    sampler = replace(sampler or Sampler(), banned=vocabulary.unprintable)
    prompts = jnp.asarray(np.broadcast_to(read[:, None], (len(read), count)))
    _, written = generate(model, params, prompts, length, jax.random.key(seed), sampler=sampler)
    return [
        vocabulary.decode(tokens) + vocabulary.decode(column) for column in np.asarray(written).T
    ]
