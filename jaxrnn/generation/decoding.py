"""Generate tokens: the whole loop over the next tokens in one program.

Shapes: P prompt length, N tokens to generate, B texts at once, V vocabulary.
"""

import inspect
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxrnn.array_checks import precision
from jaxrnn.checks import check_at_least_1, check_tokens
from jaxrnn.generation.compiled import generate_compiled, runs_compiled
from jaxrnn.generation.sampler import GREEDY, NOTHING, Rules, Sampler, choose_token, sample_uniforms
from jaxrnn.nn.model import CharModel, apply_model, check_params, model_carry
from jaxrnn.recurrent.cells import Carry

# Maximum number of characters written in one call, over all texts: memory holds no more.
MOST_CHARACTERS = 100_000_000


# A stateful model's prompts are padded to this many characters or a larger power of two.
FEWEST_PROMPT_STEPS = 8
# Room for this many characters, or a larger power of two, in a program that writes several.
FEWEST_WRITTEN = 64


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
        ValueError: if the prompt has another shape or a token outside [0, V), N is below 1, the
            parameters are none of the model's, or it gives no character a finite probability, as
            where its weights hold NaN.
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
    check_tokens(prompt, model.vocab_size)
    check_params(model, params)
    sampler = sampler or Sampler()
    # A sampler's numbers are arguments of the program; rules of a subclass are part of it.
    own = None if sampler.plain else sampler
    rules = sampler.rules(model.vocab_size) if sampler.plain else None
    if carry is None:
        carry = model.initial_carry(prompt.shape[1], precision(params))
    carry = model_carry(model, params, carry, prompt.shape[1])
    room = 1 if length == 1 else _power_of_two(length, FEWEST_WRITTEN)
    if model.reads == "streams":
        carry, log_probs = _read(model, params, carry, prompt)
        carry, written = _generate_streams(
            model, room, own, params, carry, log_probs, rules, key, length
        )
    else:
        tokens = _int32(prompt)
        written = _generate_windows(model, room, own, params, tokens, rules, key, length)
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
    count, batch_size = tokens.shape
    takes_lengths = "lengths" in inspect.signature(type(model).__call__).parameters
    if isinstance(tokens, jax.core.Tracer) or not takes_lengths:
        return _read_padded(model, params, carry, tokens, None)
    padded = np.zeros((_power_of_two(count, FEWEST_PROMPT_STEPS), batch_size), np.int32)
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
def _generate_streams(
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
    uniforms = sample_uniforms(key, (room, len(log_probs)), log_probs.dtype)
    first = choose_token(own, rules, uniforms[0], log_probs)
    if room == 1:
        return carry, first[None]
    components = model.components(params)
    uncut = rules is not None and rules.top_k is None and rules.top_p is None
    if components is not None and uncut and runs_compiled(components):
        assert rules is not None
        carry, rest = generate_compiled(
            components,
            carry,
            jnp.maximum(first, 0),
            None if rules.temperature is None else uniforms[1:],
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
        return carry, written.at[i].set(choose_token(own, rules, uniforms[i], log_probs[-1]))

    written = jnp.zeros(uniforms.shape, jnp.int32).at[0].set(first)
    return lax.fori_loop(1, length, step, (carry, written))


@partial(jax.jit, static_argnames=("model", "room", "own"))
def _generate_windows(
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
    uniforms = sample_uniforms(key, (room, prompt.shape[1]), jax.tree.leaves(params)[0].dtype)

    def step(i: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        window, written = carried
        _, log_probs = apply_model(model, params, (), window)
        last = log_probs if log_probs.ndim == 2 else log_probs[-1]  # (B, V)
        token = choose_token(own, rules, uniforms[i], last)
        window = jnp.concatenate([window[1:], jnp.maximum(token, 0)[None]])
        return window, written.at[i].set(token)

    written = jnp.zeros(uniforms.shape, jnp.int32)
    return lax.fori_loop(0, length, step, (prompt, written))[1]
