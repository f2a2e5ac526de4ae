"""The command that trains a model, or goes on with a run."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Suppress

from jaxrnn.cli.flags import config_in, flags_in, recipe_in, with_full_names
from jaxrnn.cli.watch import watch
from jaxrnn.runs.changes import CHANGEABLE
from jaxrnn.runs.config import Config
from jaxrnn.runs.environment import POOL, computation, differences, named_versions, versions
from jaxrnn.runs.experiment import Experiment, prepare, prompt_for
from jaxrnn.runs.judging import change_run
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.runs.run import (
    PACKAGES,
    RUNS,
    Run,
    RunError,
    RunExistsError,
    checked_name,
)
from jaxrnn.terminal import (
    Screen,
    command_name,
    parse,
)

MOST_THREADS = 4096
"""Threads that a run's record is believed to have had."""
TAKEN = "the run's own"
"""Stands for the corpus of a run that is gone on with."""

logger = logging.getLogger(__name__)


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
        if getattr(experiment.vocabulary, "lowercase", False):
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


def command(given: Sequence[str]) -> Train:
    """The command of a command line, after its name.

    Raises:
        ValueError: if an option is wrong, or does not go with --resume.
    """
    given = with_full_names(given)
    flags = flags_in(given)
    config = config_in(given)
    changed: tuple[str, ...] = ()
    if "--resume" in flags:
        changeable = {f"--{option}" for option in CHANGEABLE}
        if flags - {"--resume", "--corpus", "--debug-nans", "--help", *changeable}:
            raise ValueError(
                "--resume goes on with a run as it was begun and takes no other flag but "
                "--debug-nans, --corpus where the same text lies elsewhere now, and --schedule and "
                "--clip, which are changed from there on."
            )
        changed = tuple(option for option in CHANGEABLE if f"--{option}" in flags)
        config = replace(config, corpus=TAKEN)
    default = Train(recipe=recipe_in(given), config=config, changed=changed)
    parsed: Train = parse(Train, given, program=f"{command_name()} train", default=default)
    return parsed
