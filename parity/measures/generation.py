"""Greedy generation: the text that JAX generates against the text that PyTorch generates (C5).

Shapes: P characters of the prompt, N generated ones, B batch, V vocabulary.

Where the two most likely characters are closer than twice the error of their log probabilities,
either may be chosen: a tie. After a difference the reference's character is fed and both go on.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxrnn.generation.decoding import generate
from jaxrnn.generation.sampler import GREEDY
from jaxrnn.nn.models import CharModel
from parity.core.bridge import jax_dtype, numpy_of, torch_device
from parity.core.compare import Arrays, Comparison, Finding, Outcome
from parity.core.pairs import Pair
from parity.core.runners import jax_params, precision, torch_module

# Characters of the prompt, which is also the window of a model without memory.
PROMPT = 3
# Characters generated after it.
CHARACTERS = 60


class Generated(NamedTuple):
    """A text and what it was chosen from: tokens (P + N,), log probabilities (N, V)."""

    tokens: np.ndarray
    log_probs: np.ndarray


def greedy_findings(pair: Pair, weights: Arrays, dtype: str) -> list[Finding]:
    """C5: `CHARACTERS` characters after a prompt; the value is 1 if a difference is no tie."""
    what = Comparison(pair.name, "generation", dtype)
    prompt = np.arange(PROMPT) % _model(pair).vocab_size
    reference = torch_generated(pair, weights, prompt, "float64")

    # How close was each choice, and how far off are JAX's log probabilities?
    difference = jax_log_probs(pair, weights, reference, dtype) - reference.log_probs
    error = np.abs(difference).max(-1)  # (N, V) to (N,)
    top_two = np.sort(reference.log_probs, axis=-1)[:, -2:]  # (N, 2)
    margin = top_two[:, 1] - top_two[:, 0]  # (N,)

    # Differences that the round-off explains are ties, the first other one fails.
    ties = 0
    outcome = Outcome.PASS
    for k in _flips(pair, weights, reference, dtype):
        if not margin[k] < 2 * error[k]:
            outcome = Outcome.FAIL
            break
        ties += 1
    note = f"margin at least {margin.min():.1e}, error at most {error.max():.1e}"
    if ties:
        note = f"{ties} ties; {note}"
    wrong = float(outcome is Outcome.FAIL)
    return [what.finding("C5", f"{CHARACTERS} characters", outcome, value=wrong, note=note)]


def _model(pair: Pair) -> CharModel:
    assert pair.model is not None
    return pair.model


def _flips(pair: Pair, weights: Arrays, reference: Generated, dtype: str) -> Iterator[int]:
    # The characters, counted from 0, at which JAX chooses another one than the reference.
    first = 0
    while first < CHARACTERS:
        prompt = reference.tokens[: PROMPT + first]
        tokens = jax_generated(pair, weights, prompt, CHARACTERS - first, dtype)
        different = np.flatnonzero(tokens != reference.tokens[PROMPT + first :])
        if not len(different):
            return
        yield first + int(different[0])
        # From here on with the reference's character in the prompt.
        first += int(different[0]) + 1


def jax_generated(
    pair: Pair, weights: Arrays, prompt: np.ndarray, count: int, dtype: str
) -> np.ndarray:
    """What `jaxrnn.generate` generates: (count,) tokens."""
    model = _model(pair)
    if model.reads != "streams":
        prompt = prompt[-PROMPT:]
    with precision(dtype):
        params = jax_params(pair, weights, dtype)
        key = jax.random.key(0)  # greedy choices are not random
        columns = jnp.asarray(prompt[:, None])  # (P,) to (P, B) with B = 1
        tokens = generate(model, params, columns, count, key, sampler=GREEDY)[1]  # (count, 1)
        return numpy_of(tokens)[:, 0]


def jax_log_probs(pair: Pair, weights: Arrays, reference: Generated, dtype: str) -> np.ndarray:
    """JAX's log probabilities of each character of the reference's text: (N, V)."""
    model = _model(pair)
    with precision(dtype):
        params = jax_params(pair, weights, dtype)
        if model.reads == "streams":
            carry = jax.tree.map(lambda a: a.astype(jax_dtype(dtype)), model.initial_carry(1))
            tokens = jnp.asarray(reference.tokens[:-1, None], jnp.int32)  # (P + N - 1, 1)
            log_probs = model.apply({"params": params}, carry, tokens)[1]  # (P + N - 1, 1, V)
            return numpy_of(log_probs)[PROMPT - 1 :, 0].astype(float)  # (N, V)
        # Without memory every character has a window of its own: they are one batch.
        windows = np.lib.stride_tricks.sliding_window_view(reference.tokens[:-1], PROMPT)
        tokens = jnp.asarray(windows.T, jnp.int32)  # (P, N)
        log_probs = model.apply({"params": params}, (), tokens)[1]
        return _last_step(numpy_of(log_probs)).astype(float)


def _last_step(log_probs: Any) -> Any:
    # (T, B, V) or (B, V) to (B, V): some models predict after every step, some after the last.
    return log_probs if log_probs.ndim == 2 else log_probs[-1]


def torch_generated(pair: Pair, weights: Arrays, prompt: np.ndarray, dtype: str) -> Generated:
    """What the reference generates, one character at a time."""
    stateful = _model(pair).reads == "streams"
    tokens = list(prompt)
    rows = []
    with precision(dtype), torch.no_grad():
        reference = torch_module(pair, weights, dtype).eval()
        carry = reference.initial_carry(1)  # type: ignore[operator]
        window = tokens
        for _ in range(CHARACTERS):
            column = torch.tensor(window, device=torch_device())[:, None]  # (T,) to (T, 1)
            carry, log_probs = reference(carry, column)
            rows.append(numpy_of(_last_step(log_probs)[0]))  # (V,)
            tokens.append(int(rows[-1].argmax()))
            # The carry remembers what came before; a window has to hold it.
            window = tokens[-1:] if stateful else tokens[-PROMPT:]
    return Generated(np.array(tokens), np.stack(rows).astype(float))
