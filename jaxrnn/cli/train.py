"""The command that trains a model, or resumes a run."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Suppress

from jaxrnn.cli import parse_command
from jaxrnn.cli.flags import config_in, flags_in, recipe_in, value_of, with_full_names
from jaxrnn.cli.watch import watch
from jaxrnn.registry import is_reference
from jaxrnn.runs.changes import CHANGEABLE
from jaxrnn.runs.config import Config
from jaxrnn.runs.environment import POOL, computation, differences, named_versions, versions
from jaxrnn.runs.experiment import Experiment, prepare, prompt_for
from jaxrnn.runs.exported import AnyRun, open_run
from jaxrnn.runs.fine_tuning import fine_tuning
from jaxrnn.runs.judging import change_run
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.runs.run import PACKAGES, RUNS, Run, RunExistsError, checked_name
from jaxrnn.runs.speed import check_minutes, with_minutes
from jaxrnn.terminal import Screen

MOST_THREADS = 4096
"""Maximum number of threads that is taken from a run's record."""
TAKEN = "the run's own"
"""Placeholder of the corpus when a run is resumed without --corpus."""

FOR_FROM = ("--checkpoint", "--keep-optimizer")
"""Flags that say how a run begins with another one's weights."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model, or resume a run. Every value of the recipe can be overridden."""

    recipe: str = "python-docs"
    """The recipe with the other values; `recipes` lists them."""
    name: str | None = None
    """The run's folder in runs/. If None: the recipe's name, or that of the text where it is
    another one, with a number if that is taken or another recipe's."""
    resume: Path | None = None
    """The folder of a run to resume, exactly where it stopped. Takes no other flag but
    --corpus, where the same text lies elsewhere now, --debug-nans, and --schedule (counted from
    the run's first epoch), --steps (from its first update) and --clip, which hold from there on and
    are recorded in the run."""
    minutes: float | None = None
    """Minutes of updates, instead of --steps: the speed is measured first, and the number of
    updates is recorded as the run's --steps. Validations come on top."""
    from_run: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A run, or a file that `export` wrote, whose weights a new run begins with, on its text or on
    another --corpus. All other values are its own unless they are given; model, sizes and tokens
    stay."""
    checkpoint: Literal["best", "last"] = "best"
    """--from: the checkpoint with the weights."""
    keep_optimizer: bool = False
    """--from: go on with the optimizer's state, too, instead of a fresh one."""
    debug_nans: bool = False
    """When the loss or a gradient is not finite, find the first operation that made it so."""
    prompt: str | None = None
    """What samples begin with; the recipe's, or the beginning of the validation text, if None."""
    config: OmitArgPrefixes[Config] = RECIPES["python-docs"].config
    """The values of the recipe."""
    changed: Suppress[tuple[str, ...]] = ()
    """Names of the options of `config` that are changed when a run is resumed."""

    def __call__(self) -> int:
        if self.resume is not None:
            return self._resumed(Run(self.resume))
        # Before the text is read, which may take long.
        if self.minutes is not None:
            check_minutes(self.minutes)
        if self.name is not None and os.path.lexists(RUNS / checked_name(self.name)):
            raise RunExistsError.at(RUNS / self.name)
        if self.from_run is not None:
            return self._fine_tuned(open_run(self.from_run))
        # A large text, or a download, takes a while.
        recipe = RECIPES.find(self.recipe)
        with Screen() as screen:
            screen.show("reading the text", 0.0)
            experiment = self._with_minutes(prepare(self.config), screen)
        prompt = prompt_for(experiment, self.prompt, recipe.prompt)
        usual = base_name(self.recipe)
        if self.config.corpus != recipe.config.corpus:
            usual = base_name(self.config.corpus, usual)
        run = self._created(usual, experiment, prompt=prompt)
        if getattr(experiment.vocabulary, "lowercase", False):
            logger.warning("The text is lower-cased; --no-lowercase keeps its case.")
        return watch(run, experiment, debug_nans=self.debug_nans)

    def _with_minutes(self, experiment: Experiment, screen: Screen) -> Experiment:
        """The experiment with as many updates as fit into --minutes, if they are given."""
        if self.minutes is None:
            return experiment
        screen.show("measuring the speed", 0.0)
        experiment, seconds = with_minutes(experiment, self.minutes)
        screen.line(
            f"An update takes {1000 * seconds:.3g} ms: {self.minutes:g} minutes are "
            f"{experiment.config.steps:,} updates."
        )
        return experiment

    def _fine_tuned(self, run: AnyRun) -> int:
        """Train a new run that begins with the weights of another one."""
        old = run.config
        options = {}
        for field in fields(Config):
            value = getattr(self.config, field.name)
            if field.name != "corpus" and value != getattr(old, field.name):
                options[field.name] = value
        corpus = self.config.corpus if "corpus" in self.changed else None
        with Screen() as screen:
            screen.show("reading the text", 0.0)
            start = fine_tuning(
                run,
                options,
                corpus=corpus,
                checkpoint=self.checkpoint,
                keep_optimizer=self.keep_optimizer,
            )
            experiment = self._with_minutes(start.experiment, screen)
        usual = base_name(str(run))
        if corpus is not None:
            usual = base_name(corpus, usual)
        new = self._created(
            usual,
            experiment,
            prompt=prompt_for(experiment, self.prompt, run.prompt),
            state=start.state,
            origin=start.origin,
        )
        for note in start.notes:
            logger.warning("%s", note)
        return watch(new, experiment, resume=True, debug_nans=self.debug_nans)

    def _resumed(self, run: Run) -> int:
        """Resume a run, with the changes of its settings that are asked for."""
        # As many threads as it had, for the same bits. XLA reads their number once, at its start.
        recorded = run.computation
        threads = recorded.get("threads")
        if POOL not in os.environ and isinstance(threads, int) and 1 <= threads <= MOST_THREADS:
            os.environ[POOL] = str(threads)
        corpus = None if self.config.corpus == TAKEN else self.config.corpus
        experiment = run.experiment(corpus=corpus)
        # Not an error: the run can be resumed, though not to the bit.
        now = {**named_versions(versions(PACKAGES)), **computation()}
        for sentence in differences(recorded, now):
            logger.warning("%s", sentence)
        wanted = {option: getattr(self.config, option) for option in self.changed}
        if wanted:
            emit = partial(logger.warning, "%s")
            experiment = change_run(run, experiment, wanted, emit=emit)
        return watch(run, experiment, resume=True, debug_nans=self.debug_nans)

    def _created(self, usual: str, experiment: Experiment, **start: Any) -> Run:
        """The run's folder.

        Args:
            usual: its name, where the user gives none.
            experiment: what it trains.
            start: what else it begins with; see `Run.create`.
        """
        if self.name is None:
            folders = (RUNS / name for name in self._names(usual))
            return Run.create_first(folders, experiment, **start)
        if self.name in set(RECIPES) - {self.recipe}:
            logger.warning(
                "The run is named %s, which is a recipe too; it is trained as %s.",
                self.name,
                self.recipe,
            )
        return Run.create(RUNS / self.name, experiment, **start)

    def _names(self, usual: str) -> Iterator[str]:
        """Names for the run: none is that of another recipe."""
        # "stateful-rnn-2" is a recipe itself, so the check is one of every name.
        numbered = (f"{usual}-{number}" for number in range(2, 10_000))
        for name in chain([usual], numbered):
            if name == self.recipe or name not in RECIPES:
                yield name


def command(given: Sequence[str]) -> Train:
    """The command of a command line, after its name.

    Raises:
        ValueError: if an option is wrong, or does not go with --resume.
    """
    given = with_full_names(given)
    flags = flags_in(given)
    if {"--minutes", "--steps"} <= flags:
        raise ValueError("Say how long to train with --minutes or with --steps, not with both.")
    if "--from" in flags:
        return _from_run(given, flags)
    if not flags.isdisjoint(FOR_FROM):
        raise ValueError(f"{' and '.join(FOR_FROM)} are for --from RUN.")
    config = config_in(given)
    changed: list[str] = []
    if "--resume" in flags:
        # What may change is recorded; everything else is as it was when the run began.
        for option in CHANGEABLE:
            if f"--{option}" in flags:
                flags.remove(f"--{option}")
                changed.append(option)
        if flags - {"--resume", "--corpus", "--debug-nans", "--help"}:
            raise ValueError(
                "--resume goes on with a run as it was begun and takes no other flag but "
                "--debug-nans, --corpus where the same text lies elsewhere now, and --schedule, "
                "--clip and --steps, which are changed from there on. A new run from its weights "
                "takes all flags: --from RUN."
            )
        config = replace(config, corpus=TAKEN)
    default = Train(recipe=recipe_in(given), config=config, changed=tuple(changed))
    return parse_command(Train, "train", given, default)


def _from_run(given: Sequence[str], flags: set[str]) -> Train:
    """The command where a run begins with the weights of another one.

    Raises:
        ValueError: if an option is wrong, or does not go with --from.
    """
    folder = value_of("--from", given)
    if folder is None:
        raise ValueError("--from needs the folder of a run: --from runs/NAME.")
    if "--resume" in flags:
        raise ValueError("--resume goes on with a run, --from begins a new one: take one of them.")
    if "--recipe" in flags:
        raise ValueError("--from takes the values of its run, not of a recipe: leave --recipe out.")
    # Its values are the defaults, so they must be known before the command line is parsed.
    changed = ("corpus",) if "--corpus" in flags else ()
    default = Train(config=open_run(folder).config, changed=changed)
    return parse_command(Train, "train", given, default)


def base_name(named: str, otherwise: str = "run") -> str:
    """A name for a run after a recipe, a text or a run, as far as that can name one."""
    # Of FILE.py:NAME, the name.
    if is_reference(named):
        named = named.rpartition(":")[2]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(named).stem)
    return stem.strip("-")[:50] or otherwise
