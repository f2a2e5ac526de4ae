"""The command line: flags to calls, results to the screen."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import pooch
from tyro.conf import OmitArgPrefixes, Positional, subcommand

from jaxrnn.data.corpora import load_corpus
from jaxrnn.generation import Sampler
from jaxrnn.nn.losses import bits_per_character, perplexity
from jaxrnn.terminal import (
    FAILED,
    INTERRUPTED,
    Screen,
    command_name,
    parse,
    run_command,
    stop_requests,
)
from jaxrnn.training.config import Config
from jaxrnn.training.evaluation import Source, evaluation
from jaxrnn.training.experiment import Experiment, evaluation_source, prepare
from jaxrnn.training.history import NonFiniteLossError, Row
from jaxrnn.training.loop import Progress
from jaxrnn.training.plots import draw_losses, draw_rates
from jaxrnn.training.range_test import range_test
from jaxrnn.training.recipes import RECIPES
from jaxrnn.training.runs import Run, carry_out, checked_name

DESCRIPTION = """Recurrent character models in JAX: train them on text, let them write.

Start with `train`; it needs no download."""

RUNS = Path("runs")
SHOWN_TEMPERATURE = 0.5
"""Of the sample after training: bold enough that words are spelt right after a minute."""


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
            experiment = prepare(self.config)
            run = Run.create(folder, experiment, prompt=self._prompt(experiment))
        return _train(run, experiment, resume=self.resume is not None)

    def _folder(self) -> Path:
        if self.name is not None:
            return RUNS / checked_name(self.name)
        own_text = self.config.corpus != RECIPES[self.recipe].config.corpus
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(self.config.corpus).stem).strip("-")[:50]
        base = base if own_text and base else self.recipe
        names = [base, *(f"{base}-{n}" for n in range(2, 10_000))]
        return next(RUNS / name for name in names if not (RUNS / name).exists())

    def _prompt(self, experiment: Experiment) -> str:
        vocabulary = experiment.vocabulary
        if self.prompt is not None:
            vocabulary.encode(self.prompt, unknown="error")
            return self.prompt
        try:
            vocabulary.encode(RECIPES[self.recipe].prompt, unknown="error")
            return RECIPES[self.recipe].prompt
        except ValueError:
            first = experiment.validation.tokens[: self.config.bptt]
            return vocabulary.decode(first[~np.isin(first, vocabulary.unprintable)])


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _command(given)())


def _command(given: list[str]) -> Train | Sample | Evaluate | FindRate | Recipes:
    name = _value_of("--recipe", given) or "python-docs"
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}: take one of {', '.join(RECIPES)}.")
    resuming = [a.split("=")[0] for a in given if a.startswith("--")]
    if given[:1] == ["train"] and "--resume" in resuming and len(resuming) > 1:
        raise ValueError("--resume goes on with a run as it was begun and takes no other flag.")
    config = RECIPES[name].config
    kinds = (
        Annotated[Train, subcommand("train", default=Train(recipe=name, config=config))]
        | Annotated[Sample, subcommand("sample")]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[FindRate, subcommand("find-rate", default=FindRate(recipe=name, config=config))]
        | Annotated[Recipes, subcommand("recipes")]
    )
    command: Train | Sample | Evaluate | FindRate | Recipes = parse(
        kinds, given, program=command_name(), description=DESCRIPTION
    )
    jax.config.update("jax_compilation_cache_dir", str(pooch.os_cache("jaxrnn") / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return command


def _value_of(flag: str, given: Sequence[str]) -> str | None:
    for index, argument in enumerate(given):
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
        if argument == flag and index + 1 < len(given):
            return given[index + 1]
    return None


def _train(run: Run, experiment: Experiment, *, resume: bool) -> int:
    epochs = experiment.schedule.epochs
    stopped = False
    with Screen() as screen, stop_requests() as stopping:
        screen.line(_introduction(run, experiment))
        screen.show("compiling", 0.0)
        progresses = carry_out(run, experiment, resume=resume)
        try:
            for progress in progresses:
                _show(screen, progress, epochs)
                if progress.position.epoch < epochs and stopping():
                    stopped = True
                    progresses.close()
                    break
        except NonFiniteLossError as error:
            print(f"error: {error}", file=sys.stderr)
            print(f"The last good checkpoint is {run.folder}/last.safetensors.", file=sys.stderr)
            return FAILED
    draw_losses(run.history, run.folder / "loss.png", title=run.folder.name)
    command = command_name()
    if stopped:
        print(f"\nStopped and saved. Go on with:\n  {command} train --resume {run.folder}")
        return INTERRUPTED
    print(f"\n{run.folder.name} writes:\n")
    print(run.write(None, length=400, sampler=Sampler(temperature=SHOWN_TEMPERATURE))[0])
    print(f"\nThe loss curve is {run.folder / 'loss.png'}. What to type next:")
    print(f'  {command} sample {run.folder} --prompt "{run.prompt}" --temperature 0.8')
    print(f"  {command} evaluate {run.folder}")
    print(f"  {command} train --corpus FILE.txt")
    return 0


def _introduction(run: Run, experiment: Experiment) -> str:
    config, source = experiment.config, experiment.source
    state = jax.eval_shape(experiment.fresh_state)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state.params))
    return (
        f"{config.model} with {count:,} parameters on {config.corpus}: "
        f"{len(source.tokens):,} characters, {len(experiment.vocabulary)} different tokens.\n"
        f"{experiment.schedule.epochs} epochs of about {source.steps_per_epoch} steps, "
        f"schedule {config.schedule}; the run is kept in {run.folder}.\n\n"
        "epoch   train  validation  bits/char  perplexity  chars/s"
    )


def _show(screen: Screen, progress: Progress, epochs: int) -> None:
    position, row = progress.position, progress.row
    if row is not None and row.validation is not None:
        screen.line(_epoch_line(row))
    share = (position.epoch + position.window / max(progress.of, 1)) / epochs
    if progress.validating is not None:
        screen.show("validating", share, f"loss {position.train:.3f}")
        return
    if row is not None:
        speed = row.characters_per_second
    else:
        speed = position.characters / max(position.seconds, 1e-9)
    note = f"loss {position.train:.3f}  {speed / 1000:,.0f}k chars/s"
    screen.show(f"epoch {min(position.epoch + 1, epochs)}/{epochs}", share, note)


def _epoch_line(row: Row) -> str:
    return (
        f"{row.epoch:5g}  {row.train:6.3f}  {row.validation:10.4f}  {row.bits_per_character:9.4f}"
        f"  {row.perplexity:10.3f}  {row.characters_per_second:7,.0f}"
    )
