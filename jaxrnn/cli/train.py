"""The command that trains a model, or resumes a run."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Suppress

from jaxrnn.cli import parse_command
from jaxrnn.cli.flags import config_in, flags_in, recipe_in, with_full_names
from jaxrnn.cli.watch import watch
from jaxrnn.runs.changes import CHANGEABLE
from jaxrnn.runs.config import Config
from jaxrnn.runs.environment import POOL, computation, differences, named_versions, versions
from jaxrnn.runs.experiment import Experiment, prepare, prompt_for
from jaxrnn.runs.judging import change_run
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.runs.run import PACKAGES, RUNS, Run, RunError, RunExistsError, checked_name
from jaxrnn.runs.speed import check_minutes, with_minutes
from jaxrnn.terminal import Screen

MOST_THREADS = 4096
"""Maximum number of threads that is taken from a run's record."""
TAKEN = "the run's own"
"""Placeholder of the corpus when a run is resumed without --corpus."""

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
    the run's first epoch) and --clip, which hold from there on and are recorded in the run."""
    minutes: float | None = None
    """Minutes of updates, instead of --steps: the speed is measured first, and the number of
    updates is recorded as the run's --steps. Validations come on top."""
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
            if self.config.steps is not None:
                raise ValueError(
                    "Say how long to train with --minutes or with --steps, not with both."
                )
        if self.name is not None and os.path.lexists(RUNS / checked_name(self.name)):
            raise RunExistsError.at(RUNS / self.name)
        # A large text, or a download, takes a while.
        with Screen() as screen:
            screen.show("reading the text", 0.0)
            experiment = prepare(self.config)
            if self.minutes is not None:
                screen.show("measuring the speed", 0.0)
                experiment, seconds = with_minutes(experiment, self.minutes)
                screen.line(
                    f"An update takes {1000 * seconds:.3g} ms: {self.minutes:g} minutes are "
                    f"{experiment.config.steps:,} updates."
                )
        prompt = prompt_for(experiment, self.prompt, RECIPES[self.recipe].prompt)
        run = self._created(experiment, prompt)
        if getattr(experiment.vocabulary, "lowercase", False):
            logger.warning("The text is lower-cased; --no-lowercase keeps its case.")
        return watch(run, experiment, debug_nans=self.debug_nans)

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
        # The first name that nobody has at this moment.
        for name in self._names():
            with contextlib.suppress(RunExistsError):
                return Run.create(RUNS / name, experiment, prompt=prompt)
        raise RunError(f"All names for a run in {RUNS} are taken: choose one with --name.")

    def _names(self) -> Iterator[str]:
        """Names for the run: none is that of another recipe."""
        base = self.recipe
        # A run on another text than the recipe's has that text's name, as far as it can name one.
        if self.config.corpus != RECIPES[self.recipe].config.corpus:
            stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(self.config.corpus).stem)
            base = stem.strip("-")[:50] or self.recipe
        # "stateful-rnn-2" is a recipe itself, so the check is one of every name.
        numbered = (f"{base}-{number}" for number in range(2, 10_000))
        for name in chain([base], numbered):
            if name == self.recipe or name not in RECIPES:
                yield name


def command(given: Sequence[str]) -> Train:
    """The command of a command line, after its name.

    Raises:
        ValueError: if an option is wrong, or does not go with --resume.
    """
    given = with_full_names(given)
    flags = flags_in(given)
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
                "--debug-nans, --corpus where the same text lies elsewhere now, and --schedule and "
                "--clip, which are changed from there on."
            )
        config = replace(config, corpus=TAKEN)
    default = Train(recipe=recipe_in(given), config=config, changed=tuple(changed))
    return parse_command(Train, "train", given, default)
