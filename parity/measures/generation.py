"""Greedy generation: the text that JAX writes against the text that PyTorch writes (G5).

Where the two most likely characters are closer than twice the error of their log probabilities,
either may be chosen: a TIE. After a difference the reference's character is fed and both go on.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxrnn.generation.decoding import generate
from jaxrnn.generation.sampler import GREEDY
from jaxrnn.nn.models import CharModel
from parity.core.bridge import jax_dtype, numpy_of
from parity.core.compare import Arrays, Comparison, Finding, Outcome
from parity.core.pairs import Pair
from parity.core.references import CharReference
from parity.core.runners import jax_params, precision, torch_device, torch_module

PROMPT = 3
"""Characters, which is also the window of a model without memory."""
CHARACTERS = 60


class Written(NamedTuple):
    """A text and what it was chosen from: tokens (P + N,), log probabilities (N, V)."""

    tokens: np.ndarray
    log_probs: np.ndarray


def greedy_findings(pair: Pair, weights: Arrays, dtype: str) -> list[Finding]:
    """G5: `CHARACTERS` characters after a prompt; the value is 1 if a difference is no tie."""
    what = Comparison(pair.name, "generation", dtype)
    model = pair.model
    assert model is not None
    prompt = np.arange(PROMPT) % model.vocab_size
    reference = torch_written(pair, weights, prompt, "float64")
    error = np.abs(jax_log_probs(pair, weights, reference, dtype) - reference.log_probs).max(-1)
    top_two = np.sort(reference.log_probs, axis=-1)[:, -2:]
    margin = top_two[:, 1] - top_two[:, 0]  # (N,)
    ties, wrong = 0, False
    for k in _flips(pair, weights, reference, dtype):
        wrong = not margin[k] < 2 * error[k]
        if wrong:
            break
        ties += 1
    note = f"{ties} ties; " if ties else ""
    note += f"margin at least {margin.min():.1e}, error at most {error.max():.1e}"
    outcome = Outcome.FAIL if wrong else Outcome.PASS
    name = f"{CHARACTERS} characters"
    return [what.finding("G5", name, outcome, value=float(wrong), note=note)]


def _flips(pair: Pair, weights: Arrays, reference: Written, dtype: str) -> Iterator[int]:
    """The characters, counted from 0, at which JAX chooses another one than the reference."""
    first = 0
    while first < CHARACTERS:
        prompt = reference.tokens[: PROMPT + first]
        written = jax_written(pair, weights, prompt, CHARACTERS - first, dtype)
        different = np.flatnonzero(written != reference.tokens[PROMPT + first :])
        if not len(different):
            return
        yield first + int(different[0])
        first += int(different[0]) + 1


def jax_written(
    pair: Pair, weights: Arrays, prompt: np.ndarray, count: int, dtype: str
) -> np.ndarray:
    """What `jaxrnn.generate` writes: (count,) tokens."""
    model = pair.model
    assert model is not None
    prompt = prompt if model.reads == "streams" else prompt[-PROMPT:]
    with precision(dtype):
        params, key = jax_params(pair, weights, dtype), jax.random.key(0)
        _, tokens = generate(
            model, params, jnp.asarray(prompt[:, None]), count, key, sampler=GREEDY
        )
        return numpy_of(tokens)[:, 0]


def jax_log_probs(pair: Pair, weights: Arrays, reference: Written, dtype: str) -> np.ndarray:
    """What the JAX model says about each character of the reference's text: (N, V)."""
    model = pair.model
    assert model is not None
    with precision(dtype):
        params = jax_params(pair, weights, dtype)
        if model.reads == "streams":
            carry = jax.tree.map(lambda a: a.astype(jax_dtype(dtype)), model.initial_carry(1))
            tokens = jnp.asarray(reference.tokens[:-1, None], jnp.int32)
            _, log_probs = model.apply({"params": params}, carry, tokens)
            return numpy_of(log_probs)[PROMPT - 1 :, 0].astype(float)
        windows = np.lib.stride_tricks.sliding_window_view(reference.tokens[:-1], PROMPT)
        _, log_probs = model.apply({"params": params}, (), jnp.asarray(windows.T, jnp.int32))
        last = numpy_of(log_probs).astype(float)
        return last if last.ndim == 2 else last[-1]


def torch_written(pair: Pair, weights: Arrays, prompt: np.ndarray, dtype: str) -> Written:
    """What the reference writes, one character at a time."""
    with precision(dtype), torch.no_grad():
        reference = torch_module(pair, weights, dtype).eval()
        step = _stream_step if _is_stateful(pair.model) else _window_step
        tokens, carry = list(prompt), reference.initial_carry(1)  # type: ignore[operator]
        fed, kept = tokens, []
        for _ in range(CHARACTERS):
            carry, log_probs = step(reference, carry, fed)  # type: ignore[arg-type]
            kept.append(log_probs)
            tokens = [*tokens, int(log_probs.argmax())]
            fed = tokens[-1:] if _is_stateful(pair.model) else tokens[-PROMPT:]
    return Written(np.array(tokens), np.stack(kept).astype(float))


def _is_stateful(model: CharModel | None) -> bool:
    return model is not None and model.reads == "streams"


def _stream_step(
    reference: CharReference, carry: object, fed: list[int]
) -> tuple[object, np.ndarray]:
    carry, log_probs = reference(carry, torch.tensor(fed, device=torch_device())[:, None])
    return carry, numpy_of(log_probs[-1, 0])


def _window_step(
    reference: CharReference, carry: object, fed: list[int]
) -> tuple[object, np.ndarray]:
    _, log_probs = reference(carry, torch.tensor(fed, device=torch_device())[:, None])
    return carry, numpy_of(log_probs[0] if log_probs.ndim == 2 else log_probs[-1, 0])
