"""Generate texts: from a prompt's characters to the characters that follow."""

import logging
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxrnn.checks import check_at_least_1, check_bool, check_seed, check_text
from jaxrnn.data.tokenizers import (
    Tokenizer,
    check_vocabulary,
    encode,
    end_of_document,
    token_name,
    unprintable,
)
from jaxrnn.data.vocabulary import Unknown, Vocabulary
from jaxrnn.generation.decoding import generate
from jaxrnn.generation.sampler import Sampler
from jaxrnn.nn.model import CharModel, check_char_model

logger = logging.getLogger(__name__)


def sample(
    model: CharModel,
    params: Any,
    vocabulary: Tokenizer,
    prompt: str,
    length: int = 400,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    window: int | None = None,
    unknown: Unknown = "error",
    seed: int = 0,
    stop_at_eos: bool = False,
) -> str:
    """A text that continues a prompt, with the prompt in front.

    Args:
        model: the model.
        params: its parameters, `state.params` of a trained state.
        vocabulary: text <-> tokens.
        prompt: the text to continue.
        length: number of characters to generate.
        temperature: divisor of the logits; 0 takes the most likely character.
        top_k: number of most likely characters to sample among; all if None.
        top_p: share of the probability that the characters to sample among reach; all if None.
        window: number of characters that a windowed model reads; the whole prompt if None.
        unknown: see `generate_texts`.
        seed: seed of the sampling.
        stop_at_eos: see `generate_texts`.

    Raises:
        ValueError: see `generate_texts`.
    """
    check_char_model(model)
    check_vocabulary(vocabulary)
    check_text(prompt=prompt)
    if window is None:
        window = max(1, len(encode(vocabulary, prompt, unknown=unknown)))
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p)
    (text,) = generate_texts(
        model,
        params,
        vocabulary,
        prompt,
        window=window,
        length=length,
        sampler=sampler,
        unknown=unknown,
        seed=seed,
        stop_at_eos=stop_at_eos,
    )
    return text


def read_prompt(
    model: CharModel,
    vocabulary: Tokenizer,
    prompt: str,
    *,
    window: int,
    unknown: Unknown = "error",
) -> np.ndarray:
    """The tokens of a prompt that the model can continue; arguments as `generate_texts`.

    Raises:
        ValueError: if the prompt is too short or has unknown characters.
    """
    tokens = encode(vocabulary, prompt, unknown=unknown)
    if unknown == "skip" and isinstance(vocabulary, Vocabulary):
        given = prompt.lower() if vocabulary.lowercase else prompt  # may be longer
        left_out = len(given) - len(tokens)
        if left_out > 0:
            logger.warning("%d unknown characters of the prompt are left out.", left_out)
    least = 1 if model.reads == "streams" else window
    if len(tokens) < least:
        raise ValueError(
            f"The prompt has {len(tokens)} known {token_name(vocabulary)}s: "
            f"{type(model).__name__} needs at least {least}."
        )
    return tokens


def generate_texts(
    model: CharModel,
    params: Any,
    vocabulary: Tokenizer,
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
    """Texts that continue a prompt, with the prompt in front.

    Where the model ends a document, by `<eos>`, the text goes on as a new document, behind a line
    end in the place of `<eos>`.

    Args:
        model: the model.
        params: its parameters.
        vocabulary: text <-> tokens. Tokens that stand for no text, but `<eos>`, are never sampled.
        prompt: the text to continue.
        window: number of characters that a windowed model reads; a stateful one reads the whole
            prompt.
        length: number of characters to generate.
        count: number of texts.
        sampler: the sampling rules; the model's own distribution if None.
        unknown: treatment of characters that the vocabulary lacks; see `Vocabulary.encode`.
        seed: seed of the sampling.
        stop_at_eos: whether a text ends where the model ends a document, after fewer characters.

    Raises:
        ValueError: if a number is below 1, the prompt is too short or has unknown characters, or
            the model gives no character a finite probability.
    """
    check_at_least_1(count=count, length=length, window=window)
    check_seed(seed)
    check_bool(stop_at_eos=stop_at_eos)
    if vocabulary.size != model.vocab_size:
        raise ValueError(
            f"The vocabulary has {vocabulary.size} tokens and the model {model.vocab_size}: take "
            "the one that the model was made for."
        )
    tokens = read_prompt(model, vocabulary, prompt, window=window, unknown=unknown)
    read = tokens if model.reads == "streams" else tokens[-window:]

    # Nothing that cannot be printed, but the end of a document.
    banned = set(unprintable(vocabulary)) - {end_of_document(vocabulary)}
    sampler = replace(sampler or Sampler(), banned=tuple(sorted(banned)))
    prompts = np.broadcast_to(read[:, None], (len(read), count))  # (P, B)
    _, generated = generate(model, params, prompts, length, jax.random.key(seed), sampler=sampler)

    columns = np.asarray(generated).T  # (N, B) -> (B, N)
    # Prompt and continuation are decoded together: a character may have bytes in both.
    texts = [np.concatenate([tokens, column]) for column in columns]
    return [_text(vocabulary, text, stop_at_eos) for text in texts]


def _text(vocabulary: Tokenizer, tokens: np.ndarray, stop_at_eos: bool) -> str:
    """The text of tokens: each `<eos>` a line end, or up to the first one."""
    end = end_of_document(vocabulary)
    if end is None:
        return vocabulary.decode(tokens)
    ends = np.flatnonzero(tokens == end)
    if stop_at_eos and len(ends):
        return vocabulary.decode(tokens[: ends[0]])
    first, *others = np.split(tokens, ends)
    name = vocabulary.decode(np.array([end]))  # the text of <eos>, which begins each of the others
    lines = [vocabulary.decode(first)]
    for other in others:
        lines.append(vocabulary.decode(other).removeprefix(name))
    return "\n".join(lines)
