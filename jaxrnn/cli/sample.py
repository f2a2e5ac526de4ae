"""The command that lets a trained model generate text."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jaxrnn.cli import parse_command
from jaxrnn.data.tokenizers import end_of_document
from jaxrnn.generation.sampler import Sampler
from jaxrnn.runs.exported import open_run
from jaxrnn.runs.sampling import sample_run
from jaxrnn.terminal import Screen, print_json, printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Generate text with a trained model."""

    run: Positional[Path]
    """The run's folder, or a file that `export` wrote."""
    prompt: str | None = None
    """The text to continue; the run's own prompt if None."""
    length: int = 400
    """Number of characters to generate."""
    count: int = 1
    """Number of texts to generate."""
    greedy: bool = False
    """Always take the most likely character (the same as --temperature 0)."""
    temperature: float = 1.0
    """Divisor of the logits: below 1 the likely characters are likelier, above 1 the others are."""
    top_k: int | None = None
    """Sample only among the K most likely characters."""
    top_p: float | None = None
    """Sample only among the most likely characters that together reach this probability."""
    unknown: Literal["error", "replace", "skip"] = "error"
    """Treatment of a character of the prompt that the model does not know."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint to use."""
    seed: int = 0
    """Seed of the sampling."""
    stop_at_eos: bool = False
    """End a text where the model ends a document, instead of continuing with a new one."""
    json: bool = False
    """Print one JSON object instead, with the keys run, checkpoint, prompt, seed and texts: a list
    of the texts, each with the prompt in front."""

    def __call__(self) -> int:
        run = open_run(self.run)
        # Not every tokenizer has a token for it.
        if self.stop_at_eos and end_of_document(run.vocabulary) is None:
            logger.warning("The model knows no end of a document: no text ends before --length.")
        sampler = Sampler(
            temperature=0.0 if self.greedy else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )
        with Screen(stderr=self.json) as screen:
            screen.show("sampling", 0.0)
            texts = sample_run(
                run,
                self.prompt,
                length=self.length,
                count=self.count,
                sampler=sampler,
                unknown=self.unknown,
                checkpoint=self.checkpoint,
                seed=self.seed,
                stop_at_eos=self.stop_at_eos,
            )
        if self.json:
            found = {
                "run": str(self.run),
                "checkpoint": self.checkpoint,
                "prompt": run.prompt if self.prompt is None else self.prompt,
                "seed": self.seed,
                "texts": texts,
            }
            print_json(found)
            return 0
        # What a model generates may hold control characters.
        print(printable(f"\n{'-' * 40}\n".join(texts)))
        return 0


command = partial(parse_command, Sample, "sample")
