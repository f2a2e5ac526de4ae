"""The command that measures a trained model on a text."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tyro.conf import Positional

from jaxrnn.data.corpora import CORPORA, load_corpus
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
        model = config.make_model(len(vocabulary))
        params = run.load_params(self.checkpoint)
        training = None
        if self.corpus is None:
            experiment = run.experiment()
            training = _as_in_training(model, params, experiment.validation)
            documents = experiment.held_out
        else:
            corpus = load_corpus(self.corpus)
            documents = (*corpus.documents, *(corpus.validation or ()))
        if documents:
            tokens = _tokens(vocabulary, documents, self.unknown)
            read = _read_all(model, params, tokens, config.bptt)
            whole = _whole(read, model)
        found = _together(training, whole if documents else None, ours=config.corpus in CORPORA)
        if self.per_character:
            if not documents:
                raise ValueError(
                    "--per-character needs a text of its own: name one with --corpus. Windows that "
                    "are drawn from the training text are no text."
                )
            texts = [vocabulary.itos[token] for token in np.concatenate(tokens).tolist()]
            losses = [None if np.isnan(loss) else float(loss) for loss in read.losses]
            found["per_character"] = list(zip(texts, losses, strict=True))
        _print_measured(found, as_json=self.json)
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


def _as_in_training(model: CharModel, params: Any, source: Source) -> dict[str, Any]:
    """The mean loss on a run's own validation text, by the windows of training's validation."""
    with Screen() as screen:
        for evaluated in evaluation(model, params, source):
            screen.show("evaluating", evaluated.share, f"{evaluated.nats:.4f} nats")
    streams = model.reads == "streams"
    how = "by its windows"
    if streams:
        how = f"{source.batch_size} streams side by side, from zeros, a closing <eos> counted"
    return _measured(evaluated.nats, evaluated.predicted, f"as in training: {how}")


def _read_all(model: CharModel, params: Any, tokens: Sequence[np.ndarray], window: int) -> Reading:
    with Screen() as screen:
        for read in reading(model, params, tokens, window=window):
            screen.show("evaluating", read.share, f"{read.nats:.4f} nats")
    return read


def _whole(read: Reading, model: CharModel) -> dict[str, Any]:
    """The mean loss on whole documents, and how they were read."""
    way = "every character once, "
    if model.reads != "streams":
        way += "by windows of each document"
    elif not read.cut:
        way += "one stream a document"
    else:
        way += (
            f"{read.streams} streams, each of which reads {WARM:,} characters before its own "
            "(less than 0.001 nats from one stream a document)"
        )
    found = _measured(read.nats, read.predicted, way)
    return {**found, "only_read": len(read.losses) - read.predicted}


def _measured(nats: float, characters: int, way: str) -> dict[str, Any]:
    if math.isnan(nats):
        raise ValueError("The loss is NaN: the weights are not usable. Take another checkpoint.")
    return {
        "characters": characters,
        "nats": nats,
        "bits": bits_per_character(nats),
        "perplexity": perplexity(nats),
        "way": way,
    }


def _tokens(
    vocabulary: Vocabulary, documents: Sequence[str], unknown: Unknown | None
) -> list[np.ndarray]:
    """The tokens of each document; characters that the model does not know are counted aloud."""
    tokens = [vocabulary.encode(document, unknown=unknown) for document in documents]
    replaced = sum(int((t == vocabulary.unknown).sum()) for t in tokens)
    if replaced:
        logger.warning(
            "%s characters are unknown to the model and count as <unk>.", f"{replaced:,}"
        )
    if unknown == "skip":
        given = sum(len(d.lower() if vocabulary.lowercase else d) for d in documents)
        skipped = given - sum(map(len, tokens))
        if skipped:
            logger.warning("%s unknown characters are left out.", f"{skipped:,}")
    return tokens


def _print_measured(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    for text, loss in found.get("per_character", []):
        print(f"{text!r:12}{'-' if loss is None else format(loss, '.6f')}")
    print(f"characters          {found['characters']:,}")
    print(f"nats per character  {found['nats']:.4f}")
    print(f"bits per character  {found['bits']:.4f}")
    print(f"perplexity          {found['perplexity']:.4f}")
    print(f"measured            {found['way']}")
    for name in ("every_character_once", "as_in_training"):
        if name in found:
            also = found[name]
            number = f"{also['nats']:.4f} nats over {also['characters']:,} characters"
            print(f"the other way       {number}: {also['way']}")


def command(given: Sequence[str]) -> Evaluate:
    """The command of a command line, after its name."""
    parsed: Evaluate = parse(Evaluate, given, program=f"{command_name()} evaluate")
    return parsed
