"""The command line: flags to calls, results to the screen."""

import contextlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes, Positional, Suppress, subcommand

from jaxrnn import __version__
from jaxrnn.data.corpora import CORPORA, load_corpus
from jaxrnn.data.vocabulary import Unknown, Vocabulary
from jaxrnn.environment import POOL, computation, differences, named_versions, versions
from jaxrnn.exchange.commands import Export, Import, config_in
from jaxrnn.generation import Sampler
from jaxrnn.nn.losses import bits_per_character, perplexity
from jaxrnn.nn.model import CharModel
from jaxrnn.output import check_output
from jaxrnn.reproduction.commands import Reproduce
from jaxrnn.terminal import (
    Screen,
    command_name,
    keep_compiled_programs,
    parse,
    printable,
    run_command,
    stop_requests,
)
from jaxrnn.training.changes import CHANGEABLE
from jaxrnn.training.config import Config
from jaxrnn.training.documents import WARM, Reading, reading
from jaxrnn.training.evaluation import Source, evaluation
from jaxrnn.training.experiment import Experiment, prepare, prompt_for
from jaxrnn.training.judging import change_run
from jaxrnn.training.plots import draw_rates
from jaxrnn.training.range_test import range_test
from jaxrnn.training.recipes import RECIPES
from jaxrnn.training.runs import (
    PACKAGES,
    RUNS,
    Run,
    RunError,
    RunExistsError,
    checked_name,
)
from jaxrnn.watch import watch

MOST_THREADS = 4096
"""Threads that a run's record is believed to have had."""
TAKEN = "the run's own"
"""Stands for the corpus of a run that is gone on with."""

logger = logging.getLogger(__name__)

DESCRIPTION = """Recurrent character models in JAX: train them on text, let them write.

Start with `train`; it needs no download. `--version` prints the version."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model, or go on with a run. Every value of the recipe can be overridden."""

    recipe: str = "python-docs"
    """Where the other values come from; `recipes` lists them."""
    name: str | None = None
    """The run's folder in runs/. If None: the recipe's name, or that of the text where it is
    another one, with a number if that is taken or another recipe's."""
    resume: Path | None = None
    """The folder of a run to go on with, exactly where it stopped. Takes no other flag but
    --corpus, where the same text lies elsewhere now, --debug-nans, and --schedule (counted from
    the run's first epoch) and --clip, which hold from there on and are recorded in the run."""
    debug_nans: bool = False
    """When the loss or a gradient is not finite, find the first operation that made it so."""
    prompt: str | None = None
    """What samples begin with; the recipe's, or the beginning of the validation text, if None."""
    config: OmitArgPrefixes[Config] = RECIPES["python-docs"].config
    """The values of the recipe."""
    changed: Suppress[tuple[str, ...]] = ()
    """The options of `config` that a run that is gone on with is given."""

    def __call__(self) -> int:
        if self.resume is not None:
            return self._resumed(Run(self.resume))
        if self.name is not None and os.path.lexists(RUNS / checked_name(self.name)):
            raise RunExistsError.at(RUNS / self.name)  # before the text is read
        with Screen() as screen:
            screen.show("reading the text", 0.0)
            experiment = prepare(self.config)
        prompt = prompt_for(experiment, self.prompt, RECIPES[self.recipe].prompt)
        run = self._created(experiment, prompt)
        if experiment.vocabulary.lowercase:
            logger.warning("The text is lower-cased; --no-lowercase keeps its case.")
        return watch(run, experiment, debug_nans=self.debug_nans)

    def _resumed(self, run: Run) -> int:
        recorded = run.computation
        # Before anything starts XLA, which reads it once.
        threads = recorded.get("threads")
        if POOL not in os.environ and isinstance(threads, int) and 1 <= threads <= MOST_THREADS:
            os.environ[POOL] = str(threads)
        corpus = self.config.corpus if self.config.corpus != TAKEN else None
        experiment = run.experiment(corpus=corpus)
        now = {**named_versions(versions(PACKAGES)), **computation()}
        for sentence in differences(recorded, now):
            logger.warning("%s", sentence)
        wanted = {option: getattr(self.config, option) for option in self.changed}
        if wanted:
            experiment = change_run(
                run, experiment, wanted, say=lambda text: logger.warning("%s", text)
            )
        return watch(run, experiment, resume=True, debug_nans=self.debug_nans)

    def _created(self, experiment: Experiment, prompt: str) -> Run:
        """The run's folder; another process may take a name at any moment."""
        if self.name is not None:
            if self.name in set(RECIPES) - {self.recipe}:
                logger.warning(
                    "The run is named %s, which is a recipe too; it is trained as %s.",
                    self.name,
                    self.recipe,
                )
            return Run.create(RUNS / self.name, experiment, prompt=prompt)
        for name in self._names():
            with contextlib.suppress(RunExistsError):
                return Run.create(RUNS / name, experiment, prompt=prompt)
        raise RunError(f"All names for a run in {RUNS} are taken: choose one with --name.")

    def _names(self) -> Iterator[str]:
        """Names for the run: none is that of another recipe."""
        own_text = self.config.corpus != RECIPES[self.recipe].config.corpus
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(self.config.corpus).stem).strip("-")[:50]
        base = base if own_text and base else self.recipe
        names = (base, *(f"{base}-{n}" for n in range(2, 10_000)))
        yield from (name for name in names if name == self.recipe or name not in RECIPES)


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
        if self.stop_at_eos and run.vocabulary.end is None:
            logger.warning("The model knows no end of a document: no text ends before --length.")
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
                stop_at_eos=self.stop_at_eos,
            )
        print(printable(f"\n{'-' * 40}\n".join(texts)))
        return 0


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
        how = f"{source.batch} streams side by side, from zeros, a closing <eos> counted"
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
        check_output(self.picture)
        experiment = prepare(self.config)
        curves = range_test(experiment, lowest=self.lowest, highest=self.highest, steps=self.steps)
        with Screen() as screen, stop_requests() as stopping:
            for curve in curves:
                screen.show("trying rates", len(curve.rates) / self.steps)
                if stopping():
                    break
        rate, sentence = curve.suggestion()
        draw_rates(curve.rates, curve.losses, self.picture, suggested=rate)
        print(f"{sentence} The curve is {self.picture}.")
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
    if given == ["--version"]:
        print(f"jaxrnn {__version__}")
        return 0
    with _shown_notes():
        return run_command(lambda: _command(given)())


@contextlib.contextmanager
def _shown_notes() -> Iterator[None]:
    """Within it, each warning of the library is a line on standard error."""
    library = logging.getLogger("jaxrnn")
    handler = _Notes(logging.WARNING)
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)


class _Notes(logging.Handler):
    """Prints warnings as notes, control characters escaped: names of files may hold some."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a screen that is lost ends nothing
            print(f"note: {printable(record.getMessage())}", file=sys.stderr)


def _command(given: list[str]) -> Command:
    name = _value_of("--recipe", given) or "python-docs"
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}: take one of {', '.join(RECIPES)}.")
    flags = {a.split("=")[0] for a in given if a.startswith("--")}
    resuming = given[:1] == ["train"] and "--resume" in flags
    changeable = {f"--{option}" for option in CHANGEABLE}
    if resuming and flags - {"--resume", "--corpus", "--debug-nans", *changeable}:
        raise ValueError(
            "--resume goes on with a run as it was begun and takes no other flag but --debug-nans, "
            "--corpus where the same text lies elsewhere now, and --schedule and --clip, which "
            "are changed from there on."
        )
    changed = tuple(option for option in CHANGEABLE if resuming and f"--{option}" in flags)
    config = RECIPES[name].config
    if resuming:
        config = replace(config, corpus=TAKEN)
    if flags.isdisjoint({"--recipe", "--lowercase", "--no-lowercase"}) and _own_text(given):
        config = replace(config, lowercase=False)  # a user's text keeps its case
    importing = Import(file=tyro.MISSING, recipe=name, config=config_in(given) or config)
    kinds = (
        Annotated[
            Train, subcommand("train", default=Train(recipe=name, config=config, changed=changed))
        ]
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


def _own_text(given: Sequence[str]) -> bool:
    """Whether a command line trains on a text that is the user's, not one of ours."""
    corpus = _value_of("--corpus", given)
    return given[:1] != ["import"] and corpus is not None and corpus not in CORPORA


def _value_of(flag: str, given: Sequence[str]) -> str | None:
    for index, argument in enumerate(given):
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
        if argument == flag and index + 1 < len(given):
            return given[index + 1]
    return None
