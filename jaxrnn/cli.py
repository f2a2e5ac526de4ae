"""The command line: flags to calls, results to the screen."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, subcommand

from jaxrnn.data.corpora import load_corpus
from jaxrnn.exchange.commands import Export, Import, config_in
from jaxrnn.generation import Sampler
from jaxrnn.nn.losses import bits_per_character, perplexity
from jaxrnn.reproduction.commands import Reproduce
from jaxrnn.terminal import (
    Screen,
    command_name,
    keep_compiled_programs,
    parse,
    run_command,
    stop_requests,
)
from jaxrnn.training.config import Config
from jaxrnn.training.evaluation import Source, evaluation
from jaxrnn.training.experiment import evaluation_source, prepare, prompt_for
from jaxrnn.training.plots import draw_rates
from jaxrnn.training.range_test import range_test
from jaxrnn.training.recipes import RECIPES
from jaxrnn.training.runs import RUNS, Run, checked_name
from jaxrnn.watch import watch

DESCRIPTION = """Recurrent character models in JAX: train them on text, let them write.

Start with `train`; it needs no download."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model, or go on with a run. Every value of the recipe can be overridden."""

    recipe: str = "python-docs"
    """Where the other values come from; `recipes` lists them."""
    name: str | None = None
    """The run's folder in runs/. If None: the recipe's name, or that of the text where it is
    another one, with a number if that is taken."""
    resume: Path | None = None
    """The folder of a run to go on with, exactly where it stopped; takes no other flag."""
    debug_nans: bool = False
    """When the loss or a gradient is not finite, find the first operation that made it so."""
    prompt: str | None = None
    """What samples begin with; the recipe's, or the beginning of the validation text, if None."""
    config: OmitArgPrefixes[Config] = RECIPES["python-docs"].config
    """The values of the recipe."""

    def __call__(self) -> int:
        if self.resume is not None:
            run = Run(self.resume)
            experiment = run.experiment()
        else:
            folder = self._folder()
            with Screen() as screen:
                screen.show("reading the text", 0.0)
                experiment = prepare(self.config)
            prompt = prompt_for(experiment, self.prompt, RECIPES[self.recipe].prompt)
            run = Run.create(folder, experiment, prompt=prompt)
        return watch(run, experiment, resume=self.resume is not None, debug_nans=self.debug_nans)

    def _folder(self) -> Path:
        if self.name is not None:
            return RUNS / checked_name(self.name)
        own_text = self.config.corpus != RECIPES[self.recipe].config.corpus
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(self.config.corpus).stem).strip("-")[:50]
        base = base if own_text and base else self.recipe
        names = [base, *(f"{base}-{n}" for n in range(2, 10_000))]
        return next(RUNS / name for name in names if not (RUNS / name).exists())


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

    def __call__(self) -> int:
        run = Run(self.run)
        sampler = Sampler(
            temperature=0.0 if self.greedy else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )
        with Screen() as screen:
            screen.show("writing", 0.0)
            texts = run.write(
                self.prompt,
                length=self.length,
                count=self.count,
                sampler=sampler,
                unknown=self.unknown,
                checkpoint=self.checkpoint,
                seed=self.seed,
            )
        print(f"\n{'-' * 40}\n".join(texts))
        return 0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a trained model on a text."""

    run: Positional[Path]
    """The run's folder."""
    corpus: str | None = None
    """A corpus's name, a text file or a folder; the run's own validation text if None."""
    unknown: Literal["error", "replace", "skip"] | None = None
    """What to do with a character that the model does not know; <unk> if it has one, else error."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint to use."""

    def __call__(self) -> int:
        run = Run(self.run)
        source = self._source(run)
        model, params = run.config.make_model(len(run.vocabulary)), run.load_params(self.checkpoint)
        with Screen() as screen:
            for evaluated in evaluation(model, params, source):
                nats = evaluated.nats
                screen.show("evaluating", evaluated.share, f"{nats:.4f} nats")
        print(f"characters          {len(source.tokens):,}")
        print(f"nats per character  {nats:.4f}")
        print(f"bits per character  {bits_per_character(nats):.4f}")
        print(f"perplexity          {perplexity(nats):.4f}")
        return 0

    def _source(self, run: Run) -> Source:
        if self.corpus is None:
            return run.experiment().validation
        corpus = load_corpus(self.corpus)
        documents = (*corpus.documents, *(corpus.validation or ()))
        return evaluation_source(run.config, run.vocabulary, documents, unknown=self.unknown)


@dataclass(frozen=True, kw_only=True)
class FindRate:
    """Raise the learning rate from step to step, draw the loss, and suggest a rate."""

    recipe: str = "python-docs"
    """Where the other values come from; `recipes` lists them."""
    steps: int = 320
    """Steps to make at the most."""
    lowest: float = 1e-5
    """The first learning rate."""
    highest: float = 10.0
    """The last learning rate."""
    picture: Path = Path("learning-rates.png")
    """Where to draw the curve."""
    config: OmitArgPrefixes[Config] = RECIPES["python-docs"].config
    """The values of the recipe."""

    def __call__(self) -> int:
        experiment = prepare(self.config)
        curves = range_test(experiment, lowest=self.lowest, highest=self.highest, steps=self.steps)
        with Screen() as screen, stop_requests() as stopping:
            for curve in curves:
                screen.show("trying rates", len(curve.rates) / self.steps)
                if stopping():
                    break
        rate = curve.suggested
        draw_rates(curve.rates, curve.losses, self.picture, suggested=rate)
        print(f"The loss falls fastest at a learning rate of {rate:.1e}; see {self.picture}.")
        return 0


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes and the losses that the course published."""

    def __call__(self) -> int:
        width = max(map(len, RECIPES))
        for name, recipe in RECIPES.items():
            losses = list(recipe.validation.values())
            last = f" Published validation loss: {losses[-1]:.3f}." if losses else ""
            print(f"{name:{width}}  {recipe.summary}{last}")
        return 0


Command = Train | Sample | Evaluate | FindRate | Recipes | Reproduce | Export | Import


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _command(given)())


def _command(given: list[str]) -> Command:
    name = _value_of("--recipe", given) or "python-docs"
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}: take one of {', '.join(RECIPES)}.")
    flags = {a.split("=")[0] for a in given if a.startswith("--")}
    if given[:1] == ["train"] and "--resume" in flags and flags - {"--resume", "--debug-nans"}:
        raise ValueError(
            "--resume goes on with a run as it was begun and takes no other flag but --debug-nans."
        )
    config = RECIPES[name].config
    importing = Import(file=tyro.MISSING, recipe=name, config=config_in(given) or config)
    kinds = (
        Annotated[Train, subcommand("train", default=Train(recipe=name, config=config))]
        | Annotated[Sample, subcommand("sample")]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[FindRate, subcommand("find-rate", default=FindRate(recipe=name, config=config))]
        | Annotated[Recipes, subcommand("recipes")]
        | Annotated[Reproduce, subcommand("reproduce")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Import, subcommand("import", default=importing)]
    )
    command: Command = parse(kinds, given, program=command_name(), description=DESCRIPTION)
    keep_compiled_programs()
    return command


def _value_of(flag: str, given: Sequence[str]) -> str | None:
    for index, argument in enumerate(given):
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
        if argument == flag and index + 1 < len(given):
            return given[index + 1]
    return None
