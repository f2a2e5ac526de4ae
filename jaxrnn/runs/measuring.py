"""The loss of a trained model on a text: as training validates, or every character once."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.data.tokenizers import (
    Document,
    Tokenizer,
    encode,
    pieces,
    token_name,
    unknown_token,
)
from jaxrnn.data.vocabulary import Unknown, Vocabulary
from jaxrnn.nn.losses import bits_per_character, perplexity
from jaxrnn.nn.model import CharModel
from jaxrnn.training.documents import WARM, Reading, reading
from jaxrnn.training.evaluation import Source, evaluation

logger = logging.getLogger(__name__)

OnProgress = Callable[[float, float], None]
"""Receives the fraction that is read, in (0, 1], and the mean loss so far, in nats."""


class Unit(NamedTuple):
    """The unit of a text that a loss is per.

    Attributes:
        name: "character", "byte" or "token".
        per_character: the mean number of units in a character of the text; None where the text
            has no characters or is not known.
    """

    name: str
    per_character: float | None = None

    @classmethod
    def of(
        cls,
        vocabulary: Tokenizer,
        documents: Sequence[Document] = (),
        tokens: Sequence[np.ndarray] = (),
    ) -> "Unit":
        """The unit of a tokenizer's losses on some documents."""
        characters = sum(map(len, _texts(documents)))
        per_character = None
        if characters:
            per_character = sum(map(len, tokens)) / characters
        return cls(token_name(vocabulary), per_character)


class Measured(NamedTuple):
    """The mean loss on a text, in all units.

    Attributes:
        nats: in nats per `unit`.
        bits: in bits per `unit`.
        perplexity: exp(nats).
        unit: "character", "byte" or "token".
        predicted: number of units predicted.
        way: how the text was read, in words.
        bits_per_character: bits per character of the text, which compare models with different
            tokenizers; None where the unit is a character, or the text is not known.
        only_read: number of units that were read and not predicted; None as training validates.
    """

    nats: float
    bits: float
    perplexity: float
    unit: str
    predicted: int
    way: str
    bits_per_character: float | None = None
    only_read: int | None = None

    def record(self) -> dict[str, Any]:
        """The values as a dictionary that JSON can express; those that are None are left out."""
        found = {
            f"{self.unit}s": self.predicted,
            "nats": self.nats,
            "bits": self.bits,
            "perplexity": self.perplexity,
            "way": self.way,
            "bits_per_character": self.bits_per_character,
            "only_read": self.only_read,
        }
        return {name: value for name, value in found.items() if value is not None}


def measure_as_in_training(
    model: CharModel,
    params: Any,
    source: Source,
    unit: Unit,
    *,
    at_most: int | None = None,
    on_progress: OnProgress | None = None,
) -> Measured:
    """The mean loss by the windows of training's validation.

    Args:
        model: the model.
        params: its parameters.
        source: the windows to validate on.
        unit: what the loss is per.
        at_most: number of tokens after which it ends, as in training; all if None.
        on_progress: shows how far it is.

    Raises:
        ValueError: if the loss is NaN.
    """
    for evaluated in evaluation(model, params, source, at_most=at_most):
        if on_progress is not None:
            on_progress(evaluated.share, evaluated.nats)
    how = "by its windows"
    if model.reads == "streams":
        how = f"{source.batch_size} streams side by side, from zeros"
        if unit.name == "character":
            how += ", a closing <eos> counted"
    return _measured(evaluated.nats, evaluated.predicted, f"as in training: {how}", unit)


def read_all(
    model: CharModel,
    params: Any,
    tokens: Sequence[np.ndarray],
    *,
    window: int,
    on_progress: OnProgress | None = None,
) -> Reading:
    """Predict each token of some documents from those before it.

    Args:
        model: the model.
        params: its parameters.
        tokens: the tokens of each document.
        window: number of tokens that a model of windows reads.
        on_progress: shows how far it is.

    Raises:
        ValueError: see `reading`.
    """
    for read in reading(model, params, tokens, window=window):
        if on_progress is not None:
            on_progress(read.share, read.nats)
    return read


def measured_once(read: Reading, model: CharModel, unit: Unit) -> Measured:
    """The mean loss on whole documents, every token once, and how they were read."""
    # A text in one long document is cut into streams, each with a beginning to warm up its carry.
    way = f"every {unit.name} once, "
    if model.reads != "streams":
        way += "by windows of each document"
    elif not read.cut:
        way += "one stream a document"
    else:
        way += (
            f"{read.streams} streams, each of which reads {WARM:,} {unit.name}s before its own "
            "(less than 0.001 nats from one stream a document)"
        )
    found = _measured(read.nats, read.predicted, way, unit)
    return found._replace(only_read=len(read.losses) - read.predicted)


def loss_of_each(
    vocabulary: Tokenizer, tokens: Sequence[np.ndarray], read: Reading
) -> list[tuple[str, float | None]]:
    """Each token's text and its loss in nats; None where it is only read, as JSON can express."""
    pairs = []
    names = pieces(vocabulary, np.concatenate(tokens))
    for name, loss in zip(names, read.losses, strict=True):
        nats = None if np.isnan(loss) else float(loss)
        pairs.append((name, nats))
    return pairs


def tokens_of(
    vocabulary: Tokenizer, documents: Sequence[Document], unknown: Unknown | None
) -> list[np.ndarray]:
    """The tokens of each document; a warning counts those that the model does not know."""
    tokens = [encode(vocabulary, document, unknown=unknown) for document in documents]
    # The loss of <unk> is not that of what it replaces.
    replacement = unknown_token(vocabulary)
    replaced = 0
    if replacement is not None:
        replaced = int(np.count_nonzero(np.concatenate(tokens) == replacement))
    if replaced:
        unit = token_name(vocabulary)
        logger.warning("%s %ss are unknown to the model and count as <unk>.", f"{replaced:,}", unit)
    if unknown == "skip" and isinstance(vocabulary, Vocabulary):
        texts = _texts(documents)
        # Lower-casing may change the number of characters.
        if vocabulary.lowercase:
            texts = list(map(str.lower, texts))
        skipped = sum(map(len, texts)) - sum(map(len, tokens))
        if skipped:
            logger.warning("%s unknown characters are left out.", f"{skipped:,}")
    return tokens


def _measured(nats: float, predicted: int, way: str, unit: Unit) -> Measured:
    """A mean loss in all units."""
    # JSON has no NaN.
    if math.isnan(nats):
        raise ValueError("The loss is NaN: the weights are not usable. Take another checkpoint.")
    bits = bits_per_character(nats)
    per_character = None
    if unit.name != "character" and unit.per_character is not None:
        per_character = bits * unit.per_character
    return Measured(nats, bits, perplexity(nats), unit.name, predicted, way, per_character)


def _texts(documents: Sequence[Document]) -> list[str]:
    """The documents with characters, and not those with tokens."""
    return [document for document in documents if isinstance(document, str)]
