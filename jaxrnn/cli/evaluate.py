"""The command that measures a trained model on a text."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from jaxrnn.cli import parse_command
from jaxrnn.data.corpora import CORPORA, load_corpus
from jaxrnn.runs.exported import open_run
from jaxrnn.runs.measuring import (
    OnProgress,
    Unit,
    loss_of_each,
    measure_as_in_training,
    measured_once,
    read_all,
    tokens_of,
)
from jaxrnn.terminal import Screen, print_json


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a trained model on a text.

    Of a text that is named with --corpus, every character is predicted once, after all of its
    document that stands before it; the first one of a document, before which nothing stands, is
    only read (of a windowed model, the first window). The run's own validation text is measured
    both ways, that of training, too, so that it can be compared with the column of that name.
    """

    run: Positional[Path]
    """The run's folder, or a file that `export` wrote."""
    corpus: str | None = None
    """A corpus's name, a text file or a folder; the run's own validation text if None."""
    unknown: Literal["error", "replace", "skip"] | None = None
    """Treatment of a character that the model does not know; <unk> if it has one, else error."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint to use."""
    per_character: bool = False
    """Print each character and its loss in nats, too, a line each: "-" where it is only read."""
    json: bool = False
    """Print one JSON object instead, with the keys nats, bits, perplexity, bits_per_character
    (unless the tokens are characters), characters (or bytes, tokens; their number), only_read and
    way, and per_character, pairs of a text and its loss. The run's own text is measured in the
    other way, too, under as_in_training or every_character_once. Infinite numbers are null."""

    def __call__(self) -> int:
        run = open_run(self.run)
        config = run.config
        vocabulary = run.vocabulary
        unit = Unit.of(vocabulary)
        model = config.make_model(vocabulary.size)
        params = run.load_params(self.checkpoint)

        # The run's own validation text, measured as in training.
        found: dict[str, Any] = {}
        if self.corpus is None:
            experiment = run.experiment()
            with Screen(stderr=self.json) as screen:
                measured = measure_as_in_training(
                    model,
                    params,
                    experiment.validation,
                    unit,
                    at_most=config.validation_tokens,
                    on_progress=_shown_on(screen),
                )
            found = measured.record()
            documents = experiment.held_out
        else:
            corpus = load_corpus(self.corpus)
            documents = (*corpus.documents, *(corpus.validation or ()))

        # Whole documents. A model of windows may have none: its validation text is some windows.
        if documents:
            tokens = tokens_of(vocabulary, documents, self.unknown)
            unit = Unit.of(vocabulary, documents, tokens)
            with Screen(stderr=self.json) as screen:
                read = read_all(
                    model, params, tokens, window=config.bptt, on_progress=_shown_on(screen)
                )
            whole = measured_once(read, model, unit).record()
            # The published losses of the recipes were measured as in training.
            if not found:
                found = whole
            elif config.corpus in CORPORA:
                found["every_character_once"] = whole
            else:
                found = {**whole, "as_in_training": found}
            if self.per_character:
                found["per_character"] = loss_of_each(vocabulary, tokens, read)
        elif self.per_character:
            raise ValueError(
                "--per-character needs a text of its own: name one with --corpus. Windows that "
                "are sampled from the training text are no text."
            )
        _print_measured(found, unit, as_json=self.json)
        return 0


def _shown_on(screen: Screen) -> OnProgress:
    """Shows how far an evaluation is."""
    return lambda share, nats: screen.show("evaluating", share, f"{nats:.4f} nats")


def _print_measured(found: dict[str, Any], unit: Unit, *, as_json: bool) -> None:
    """Print one JSON object, or a line for each number."""
    if as_json:
        print_json(found)
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
