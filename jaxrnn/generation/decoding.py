"""Generate tokens: the whole loop over the next tokens in one program.

Shapes: P prompt length, N tokens to generate, B texts at once, V vocabulary.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxrnn.array_checks import check_key, precision
from jaxrnn.checks import check_at_least_1, check_tokens, shown
from jaxrnn.generation.compiled import generate_compiled, runs_compiled
from jaxrnn.generation.sampler import GREEDY, NOTHING, Rules, Sampler, choose_token, sample_uniforms
from jaxrnn.nn.model import CharModel, apply_model, check_params, model_carry, takes_lengths
from jaxrnn.programs import power_of_two
from jaxrnn.recurrent.cells import Carry

# Maximum number of characters generated per call, over all texts, for the sake of memory.
MOST_CHARACTERS = 100_000_000
# Minimum padded length of a stateful model's prompt; longer ones are padded to a power of two.
FEWEST_PROMPT_STEPS = 8
# Minimum room for new characters in a program that generates several; else a power of two.
FEWEST_GENERATED = 64


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
    """Continue a prompt, B texts at once.

    A stateful model reads the prompt once and then one character a step. A windowed model reads
    its whole window at every step: append a character, drop the first, as the course's
    `get_next_n`.

    Args:
        model: the model.
        params: its parameters.
        prompt: the tokens to continue, time first, P at least 1. A windowed model uses them all
            as its window.
        length: N, at least 1.
        key: the random key.
        sampler: the sampling rules; the model's own distribution if None.
        carry: a stateful model's carry before the prompt; zeros if None.

    Returns:
        The carry before the last generated character, and the generated tokens.

    Raises:
        ValueError: if the prompt has another shape or a token outside [0, V), N is below 1, the
            parameters are none of the model's, or it gives no character a finite probability, as
            where its weights hold NaN.
    """
    # Check the arguments.
    check_params(model, params)
    if isinstance(prompt, str):
        raise ValueError(
            "prompt must be tokens (P, B), got a text: take "
            "jaxrnn.sample(model, params, vocabulary, prompt, length)."
        )
    if not isinstance(prompt, jax.Array):
        prompt = np.asarray(prompt)
    if prompt.ndim != 2 or prompt.shape[0] < 1:
        raise ValueError(f"prompt must be (P, B) with P at least 1, got shape {prompt.shape}.")
    check_at_least_1(length=length)
    if length * prompt.shape[1] > MOST_CHARACTERS:
        raise ValueError(
            f"At most {MOST_CHARACTERS:,} characters are written at once, got {length:,} for each "
            f"of {prompt.shape[1]:,} texts: write fewer, or go on from the end of the text."
        )
    check_tokens(prompt, model.vocab_size)
    check_key(key=key)
    if sampler is None:
        sampler = Sampler()
    if not isinstance(sampler, Sampler):
        raise ValueError(f"sampler must be a jaxrnn.Sampler, got {shown(sampler)}.")
    # A sampler's numbers are arguments of the program; rules of a subclass are part of it.
    own: Sampler | None = sampler
    rules = None
    if sampler.plain:
        own = None
        rules = sampler.rules(model.vocab_size)
    if carry is not None:
        carry = model_carry(model, params, carry, prompt.shape[1])

    # Generate, with room for a few more characters: one program for many lengths.
    room = 1 if length == 1 else power_of_two(length, FEWEST_GENERATED)
    if model.reads == "streams":
        carry, log_probs = _read(model, params, carry, prompt)
        carry, generated = _generate_streams(
            model, room, own, params, carry, log_probs, rules, key, length
        )
    else:
        tokens = _int32(prompt)
        generated = _generate_windows(model, room, own, params, tokens, rules, key, length)
        if carry is None:
            carry = model.initial_carry(prompt.shape[1], precision(params))
    if isinstance(generated, jax.core.Tracer):
        return carry, generated[:length]
    # On the host: a slice on the device is a program of its own for each length.
    found = np.asarray(generated)[:length]  # (room, B) -> (N, B)
    _check_generated(found)
    return carry, jax.device_put(found)


def get_next(model: CharModel, params: Any, prompt: Int[Array, "P B"]) -> Int[Array, " B"]:
    """The most likely character after each prompt; the course's function of this name."""
    _, generated = generate(model, params, prompt, 1, jax.random.key(0), sampler=GREEDY)
    return generated[0]  # (1, B) -> (B,)


def _int32(prompt: Int[Array | np.ndarray, "P B"]) -> Int[Array | np.ndarray, "P B"]:
    """The tokens as int32, without a program of its own for their shape."""
    if isinstance(prompt, jax.core.Tracer):
        return prompt.astype(jnp.int32)
    return np.asarray(prompt, np.int32)


def _check_generated(tokens: np.ndarray) -> None:
    """Refuse a text in which the model gave no character a finite probability."""
    nowhere = np.argwhere(tokens == NOTHING)
    if len(nowhere):
        place, text = nowhere[0] + 1
        raise ValueError(
            f"The model gives no character a finite probability (character {place} of text "
            f"{text}): its weights or the carry hold NaN or infinity, or are far too large. Take "
            "another checkpoint."
        )


def _read(
    model: CharModel, params: Any, carry: Carry | None, prompt: Int[Array | np.ndarray, "P B"]
) -> tuple[Carry, Float[Array, "B V"]]:
    """The carry after the prompt, and a stateful model's log probabilities of the next token.

    Prompts are padded, so that there are few programs for all their lengths.
    """
    tokens = _int32(prompt)
    count, batch_size = tokens.shape
    # A user's model may take no lengths: its prompts are not padded.
    if isinstance(tokens, jax.core.Tracer) or not takes_lengths(model):
        return _read_padded(model, params, carry, tokens, None)
    padded = np.zeros((power_of_two(count, FEWEST_PROMPT_STEPS), batch_size), np.int32)
    padded[:count] = tokens
    return _read_padded(model, params, carry, padded, count)


@partial(jax.jit, static_argnames=("model",))
def _read_padded(
    model: CharModel,
    params: Any,
    carry: Carry | None,
    tokens: Int[Array, "P B"],
    count: Int[Array, ""] | None,
) -> tuple[Carry, Float[Array, "B V"]]:
    """As `_read`, of the first `count` steps, or of all."""
    # The beginning of a text. Outside of this program, each operation would be one to compile.
    if carry is None:
        carry = model.initial_carry(tokens.shape[1], precision(params))
    last: Any = -1
    lengths = None
    if count is not None:
        last = count - 1
        lengths = jnp.full(tokens.shape[1], count)  # (B,)
    carry, log_probs = apply_model(model, params, carry, tokens, lengths=lengths)
    return carry, log_probs[last]  # (P, B, V) -> (B, V)


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
    uniforms = sample_uniforms(key, (room, len(log_probs)), log_probs.dtype)  # (room, B)
    first = choose_token(own, rules, uniforms[0], log_probs)
    if room == 1:
        return carry, first[None]

    # The compiled loop, for models that it knows and rules that need no sorting.
    components = model.components(params)
    simple = rules is not None and rules.top_k is None and rules.top_p is None
    if components is not None and simple and runs_compiled(components):
        assert rules is not None
        greedy = rules.temperature is None
        carry, rest = generate_compiled(
            components,
            carry,
            jnp.maximum(first, 0),  # NOTHING is no token that could be embedded
            None if greedy else uniforms[1:],
            room - 1,
            temperature=1.0 if greedy else jnp.asarray(rules.temperature),
            banned=jnp.asarray(rules.banned),
            count=length - 1,
        )
        return carry, jnp.concatenate([first[None], rest])

    # The plain loop: feed the last token, choose the next one.
    def step(i: Array, carried: tuple[Carry, Array]) -> tuple[Carry, Array]:
        carry, generated = carried
        token = jnp.maximum(generated[i - 1], 0)  # (B,)
        carry, log_probs = apply_model(model, params, carry, token[None])  # (1, B, V)
        chosen = choose_token(own, rules, uniforms[i], log_probs[-1])
        return carry, generated.at[i].set(chosen)

    generated = jnp.zeros(uniforms.shape, jnp.int32).at[0].set(first)
    return lax.fori_loop(1, length, step, (carry, generated))


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
    """The first `length` of `room` characters of a windowed model."""
    uniforms = sample_uniforms(key, (room, prompt.shape[1]), jax.tree.leaves(params)[0].dtype)

    def step(i: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        window, generated = carried
        _, log_probs = apply_model(model, params, (), window)
        if log_probs.ndim == 3:
            log_probs = log_probs[-1]  # (P, B, V) -> (B, V)
        token = choose_token(own, rules, uniforms[i], log_probs)
        # Drop the first character, append the new one.
        window = jnp.concatenate([window[1:], jnp.maximum(token, 0)[None]])  # (P, B)
        return window, generated.at[i].set(token)

    generated = jnp.zeros(uniforms.shape, jnp.int32)
    _, generated = lax.fori_loop(0, length, step, (prompt, generated))
    return generated
