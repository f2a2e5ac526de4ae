"""The command that measures a trained model on a text."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tyro.conf import Positional

from jaxrnn.data.corpora import CORPORA, load_corpus
from jaxrnn.data.tokenizers import Document, Tokenizer, encode, token_name
from jaxrnn.data.vocabulary import Unknown, Vocabulary
from jaxrnn.nn.losses import bits_per_character, perplexity
from jaxrnn.nn.model import CharModel
from jaxrnn.runs.run import (
    Run,
)
from jaxrnn.terminal import (
    Screen,
    command_name,
    parse,
)
from jaxrnn.training.documents import WARM, Reading, reading
from jaxrnn.training.evaluation import Source, evaluation

logger = logging.getLogger(__name__)


class Unit(NamedTuple):
    """What a loss is per.

    Attributes:
        name: "character", "byte" or "token".
        per_character: how many of them a character of the text has on average, if it has
            characters and is known.
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
        characters = sum(len(document) for document in documents if isinstance(document, str))
        count = sum(len(read) for read in tokens)
        return cls(token_name(vocabulary), count / characters if characters else None)


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
    """What to do with a character that the model does not know; <unk> if it has one, else error."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint to use."""
    per_character: bool = False
    """Print each character and its loss in nats, too, a line each: "-" where it is only read."""
    json: bool = False
    """Print one JSON object instead of lines for a reader."""

    def __call__(self) -> int:
        run = Run(self.run)
        config, vocabulary = run.config, run.vocabulary
        unit = Unit.of(vocabulary)
        model = config.make_model(vocabulary.size)
        params = run.load_params(self.checkpoint)
        training = None
        if self.corpus is None:
            experiment = run.experiment()
            training = _as_in_training(model, params, experiment.validation, unit)
            documents = experiment.held_out
        else:
            corpus = load_corpus(self.corpus)
            documents = (*corpus.documents, *(corpus.validation or ()))
        if documents:
            tokens = _tokens(vocabulary, documents, self.unknown)
            unit = Unit.of(vocabulary, documents, tokens)
            read = _read_all(model, params, tokens, config.bptt)
            whole = _whole(read, model, unit)
        found = _together(training, whole if documents else None, ours=config.corpus in CORPORA)
        if self.per_character:
            if not documents:
                raise ValueError(
                    "--per-character needs a text of its own: name one with --corpus. Windows that "
                    "are drawn from the training text are no text."
                )
            texts = [vocabulary.decode(token) for token in np.concatenate(tokens)[:, None]]
            losses = [None if np.isnan(loss) else float(loss) for loss in read.losses]
            found["per_character"] = list(zip(texts, losses, strict=True))
        _print_measured(found, unit, as_json=self.json)
        return 0


def _together(
    training: dict[str, Any] | None, whole: dict[str, Any] | None, *, ours: bool
) -> dict[str, Any]:
    """Both measures of a text; that of training comes first on the texts of the recipes."""
    if training is None or whole is None:
        return dict(training or whole or {})
    if ours:
        return {**training, "every_character_once": whole}
    return {**whole, "as_in_training": training}


def _as_in_training(model: CharModel, params: Any, source: Source, unit: Unit) -> dict[str, Any]:
    """The mean loss on a run's own validation text, by the windows of training's validation."""
    with Screen() as screen:
        for evaluated in evaluation(model, params, source):
            screen.show("evaluating", evaluated.share, f"{evaluated.nats:.4f} nats")
    streams = model.reads == "streams"
    how = "by its windows"
    if streams:
        how = f"{source.batch_size} streams side by side, from zeros"
        how += ", a closing <eos> counted" if unit.name == "character" else ""
    return _measured(evaluated.nats, evaluated.predicted, f"as in training: {how}", unit)


def _read_all(model: CharModel, params: Any, tokens: Sequence[np.ndarray], window: int) -> Reading:
    with Screen() as screen:
        for read in reading(model, params, tokens, window=window):
            screen.show("evaluating", read.share, f"{read.nats:.4f} nats")
    return read


def _whole(read: Reading, model: CharModel, unit: Unit) -> dict[str, Any]:
    """The mean loss on whole documents, and how they were read."""
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
    if math.isnan(nats):
        raise ValueError("The loss is NaN: the weights are not usable. Take another checkpoint.")
    found = {
        f"{unit.name}s": predicted,
        "nats": nats,
        "bits": bits_per_character(nats),
        "perplexity": perplexity(nats),
        "way": way,
    }
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
    texts = [document for document in documents if isinstance(document, str)]
    replaced = sum(int((t == vocabulary.unknown).sum()) for t in tokens)
    if replaced:
        logger.warning(
            "%s characters are unknown to the model and count as <unk>.", f"{replaced:,}"
        )
    if unknown == "skip":
        given = sum(len(d.lower() if vocabulary.lowercase else d) for d in texts)
        skipped = given - sum(map(len, tokens))
        if skipped:
            logger.warning("%s unknown characters are left out.", f"{skipped:,}")
    return tokens


def _print_measured(found: dict[str, Any], unit: Unit, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
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
    for name in ("every_character_once", "as_in_training"):
        if name in found:
            also = found[name]
            count = also[f"{unit.name}s"]
            number = f"{also['nats']:.4f} nats over {count:,} {unit.name}s"
            print(f"the other way       {number}: {also['way']}")


def command(given: Sequence[str]) -> Evaluate:
    """The command of a command line, after its name."""
    parsed: Evaluate = parse(Evaluate, given, program=f"{command_name()} evaluate")
    return parsed
