"""The command that lets a trained model generate text."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jaxrnn.data.tokenizers import end_of_document
from jaxrnn.generation.sampler import Sampler
from jaxrnn.runs.run import (
    Run,
)
from jaxrnn.runs.sampling import sample_run
from jaxrnn.terminal import (
    Screen,
    command_name,
    parse,
    printable,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Let a trained model write."""

    run: Positional[Path]
    """The run's folder."""
    prompt: str | None = None
    """What to go on from; the run's own prompt if None."""
    length: int = 400
    """How many characters to write."""
    count: int = 1
    """How many texts to write."""
    greedy: bool = False
    """Always take the most likely character (the same as --temperature 0)."""
    temperature: float = 1.0
    """Below 1 bolder, above 1 wilder."""
    top_k: int | None = None
    """Draw only among the K most likely characters."""
    top_p: float | None = None
    """Draw only among the most likely characters that together reach this probability."""
    unknown: Literal["error", "replace", "skip"] = "error"
    """What to do with a character of the prompt that the model does not know."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint to use."""
    seed: int = 0
    """Of the drawing."""
    stop_at_eos: bool = False
    """End a text where the model ends a document; else it goes on with a new one."""

    def __call__(self) -> int:
        run = Run(self.run)
        if self.stop_at_eos and end_of_document(run.vocabulary) is None:
            logger.warning("The model knows no end of a document: no text ends before --length.")
        sampler = Sampler(
            temperature=0.0 if self.greedy else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )
        with Screen() as screen:
            screen.show("writing", 0.0)
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
        print(printable(f"\n{'-' * 40}\n".join(texts)))
        return 0


def command(given: Sequence[str]) -> Sample:
    """The command of a command line, after its name."""
    parsed: Sample = parse(Sample, given, program=f"{command_name()} sample")
    return parsed
