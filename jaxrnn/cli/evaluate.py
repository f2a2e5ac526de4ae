"""The command that measures a trained model on a text."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tyro.conf import Positional

from jaxrnn.cli import parse_command
from jaxrnn.data.corpora import CORPORA, load_corpus
from jaxrnn.data.tokenizers import Document, Tokenizer, encode, token_name
from jaxrnn.data.vocabulary import Unknown, Vocabulary
from jaxrnn.nn.losses import bits_per_character, perplexity
from jaxrnn.nn.model import CharModel
from jaxrnn.runs.run import Run
from jaxrnn.terminal import Screen
from jaxrnn.training.documents import WARM, Reading, reading
from jaxrnn.training.evaluation import Source, evaluation

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a trained model on a text.

    Of a text that is named with --corpus, every character is predicted once, after all of its
    document that stands before it; the first one of a document, before which nothing stands, is
    only read (of a windowed model, the first window). The run's own validation text is measured
    both ways, that of training, too, so that it can be compared with the column of that name.
    """

    run: Positional[Path]
    """The run's folder."""
    corpus: str | None = None
    """A corpus's name, a text file or a folder; the run's own validation text if None."""
    unknown: Literal["error", "replace", "skip"] | None = None
    """Treatment of a character that the model does not know; <unk> if it has one, else error."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint to use."""
    per_character: bool = False
    """Print each character and its loss in nats, too, a line each: "-" where it is only read."""
    json: bool = False
    """Print one JSON object instead of lines for a reader."""

    def __call__(self) -> int:
        run = Run(self.run)
        config = run.config
        vocabulary = run.vocabulary
        unit = Unit.of(vocabulary)
        model = config.make_model(vocabulary.size)
        params = run.load_params(self.checkpoint)

        # The run's own validation text, measured as in training.
        found: dict[str, Any] = {}
        if self.corpus is None:
            experiment = run.experiment()
            found = _as_in_training(model, params, experiment.validation, unit)
            documents = experiment.held_out
        else:
            corpus = load_corpus(self.corpus)
            documents = (*corpus.documents, *(corpus.validation or ()))

        # Whole documents. A model of windows may have none: its validation text is some windows.
        if documents:
            tokens = _tokens(vocabulary, documents, self.unknown)
            unit = Unit.of(vocabulary, documents, tokens)
            read = _read_all(model, params, tokens, config.bptt)
            whole = _whole(read, model, unit)
            # The published losses of the recipes were measured as in training.
            if not found:
                found = whole
            elif config.corpus in CORPORA:
                found["every_character_once"] = whole
            else:
                found = {**whole, "as_in_training": found}
            if self.per_character:
                found["per_character"] = _per_character(vocabulary, tokens, read)
        elif self.per_character:
            raise ValueError(
                "--per-character needs a text of its own: name one with --corpus. Windows that "
                "are sampled from the training text are no text."
            )
        _print_measured(found, unit, as_json=self.json)
        return 0


def _per_character(
    vocabulary: Tokenizer, tokens: Sequence[np.ndarray], read: Reading
) -> list[tuple[str, float | None]]:
    """Each token and its loss in nats; None where it is only read, which JSON can express."""
    pairs = []
    for token, loss in zip(np.concatenate(tokens), read.losses, strict=True):
        nats = None if np.isnan(loss) else float(loss)
        pairs.append((vocabulary.decode(token[None]), nats))
    return pairs


def _as_in_training(model: CharModel, params: Any, source: Source, unit: Unit) -> dict[str, Any]:
    """The mean loss on a run's own validation text, by the windows of training's validation."""
    with Screen() as screen:
        for evaluated in evaluation(model, params, source):
            screen.show("evaluating", evaluated.share, f"{evaluated.nats:.4f} nats")
    how = "by its windows"
    if model.reads == "streams":
        how = f"{source.batch_size} streams side by side, from zeros"
        if unit.name == "character":
            how += ", a closing <eos> counted"
    return _measured(evaluated.nats, evaluated.predicted, f"as in training: {how}", unit)


def _read_all(model: CharModel, params: Any, tokens: Sequence[np.ndarray], window: int) -> Reading:
    """Predict each token of some documents from those before it."""
    with Screen() as screen:
        for read in reading(model, params, tokens, window=window):
            screen.show("evaluating", read.share, f"{read.nats:.4f} nats")
    return read


def _whole(read: Reading, model: CharModel, unit: Unit) -> dict[str, Any]:
    """The mean loss on whole documents, and how they were read."""
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
    return {**found, "only_read": len(read.losses) - read.predicted}


def _measured(nats: float, predicted: int, way: str, unit: Unit) -> dict[str, Any]:
    """A mean loss in all units, as --json prints it."""
    # JSON has no NaN.
    if math.isnan(nats):
        raise ValueError("The loss is NaN: the weights are not usable. Take another checkpoint.")
    found = {
        f"{unit.name}s": predicted,
        "nats": nats,
        "bits": bits_per_character(nats),
        "perplexity": perplexity(nats),
        "way": way,
    }
    # Bits per character of the text compare models with different tokenizers.
    if unit.name != "character" and unit.per_character is not None:
        found["bits_per_character"] = bits_per_character(nats) * unit.per_character
    return found


def _tokens(
    vocabulary: Tokenizer, documents: Sequence[Document], unknown: Unknown | None
) -> list[np.ndarray]:
    """The tokens of each document; a warning counts characters that the model does not know."""
    tokens = [encode(vocabulary, document, unknown=unknown) for document in documents]
    if not isinstance(vocabulary, Vocabulary):
        return tokens
    # The loss of <unk> is not that of the character it replaces.
    replaced = np.count_nonzero(np.concatenate(tokens) == vocabulary.unknown)
    if replaced:
        logger.warning(
            "%s characters are unknown to the model and count as <unk>.", f"{replaced:,}"
        )
    if unknown == "skip":
        texts = _texts(documents)
        # Lower-casing may change the number of characters.
        if vocabulary.lowercase:
            texts = list(map(str.lower, texts))
        skipped = sum(map(len, texts)) - sum(map(len, tokens))
        if skipped:
            logger.warning("%s unknown characters are left out.", f"{skipped:,}")
    return tokens


def _texts(documents: Sequence[Document]) -> list[str]:
    """The documents with characters, and not those with tokens."""
    return [document for document in documents if isinstance(document, str)]


def _print_measured(found: dict[str, Any], unit: Unit, *, as_json: bool) -> None:
    """Print one JSON object, or a line for each number."""
    if as_json:
        print(json.dumps(found))
        return
    # Escaped, as a token may be a line end or a control character.
    for text, loss in found.get("per_character", []):
        print(f"{text!r:12}{'-' if loss is None else format(loss, '.6f')}")
    lines = {
        f"{unit.name}s": format(found[f"{unit.name}s"], ","),
        f"nats per {unit.name}": format(found["nats"], ".4f"),
        f"bits per {unit.name}": format(found["bits"], ".4f"),
    }
    if "bits_per_character" in found:
        lines["bits per character"] = format(found["bits_per_character"], ".4f")
    lines["perplexity"] = format(found["perplexity"], ".4f")
    lines["measured"] = found["way"]
    for name, value in lines.items():
        print(f"{name:20}{value}")
    # The run's own text, in the other of the two ways.
    for name in ("every_character_once", "as_in_training"):
        if name in found:
            also = found[name]
            count = also[f"{unit.name}s"]
            number = f"{also['nats']:.4f} nats over {count:,} {unit.name}s"
            print(f"the other way       {number}: {also['way']}")


command = partial(parse_command, Evaluate, "evaluate")
