"""The command that reproduces the course's losses."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tyro.conf import Positional

from jaxrnn.checks import check_at_least_1
from jaxrnn.data.corpora import load_corpus, nietzsche
from jaxrnn.reproduction.comparison import summaries
from jaxrnn.reproduction.page.writing import check_place, write_page
from jaxrnn.reproduction.processes import available_cores
from jaxrnn.reproduction.quick import (
    GradientJudgement,
    Judgement,
    judged,
    judged_gradients,
    quick_units,
)
from jaxrnn.reproduction.results import read_result
from jaxrnn.reproduction.running import trainer_of
from jaxrnn.reproduction.studies import study_units
from jaxrnn.reproduction.table import lines
from jaxrnn.reproduction.units import Dtype, Framework, Unit, check_recipe
from jaxrnn.reproduction.watching import Outcome, reproduce
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.terminal import FAILED, SIGNALLED

LONG = ("stateful-lstm-15", "stateful-lstm-63", "early-lstm-31")
"""Recipes that take hours: trained only when they are asked for."""
USUAL = tuple(name for name, recipe in RECIPES.items() if recipe.validation and name not in LONG)
"""Recipes that are trained when none is asked for: those with a published validation loss."""


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Train the course's recipes and lay the losses beside the published ones.

    What is finished is not trained again: the same command goes on where it was stopped. All that
    is trained by default takes about an hour on two cores; --quick about a minute.
    """

    recipes: Positional[tuple[str, ...]] = ()
    """Which. If none is given: loop, concat, rnn, many-outputs, identity, stateful-rnn,
    stateful-rnn-2, stateful-gru, stateful-lstm and early-lstm. Not those that take hours:
    stateful-lstm-15, stateful-lstm-63, early-lstm-31."""
    seeds: int = 3
    """Train each with the seeds 0, 1, ... up to this many."""
    framework: Literal["jax", "torch", "both"] = "jax"
    """Train ours, the same models in PyTorch from the same weights and windows, or both."""
    dtype: Dtype = "float32"
    """The precision."""
    schedule: str | None = None
    """Another schedule than the recipe's, such as "1 x 1e-3", to try something."""
    studies: bool = False
    """Train as well what the course does not say: the recipes with another split, carry, bptt,
    initialisation or, of the LSTM, dropout, weight decay, width or rate (ours, in float32; those
    of the recipes that are asked for)."""
    folder: Path = Path("runs/reproduce")
    """Where the results are kept."""
    jobs: int | None = None
    """Processes at once; one for each core if None."""
    page: Path | None = None
    """A folder to write the page of the results to: README.md, figures and results.json, of all
    that is finished in --folder, whichever recipes are asked for. What the page has already stays
    on it. To write a page again from its own results.json, name its folder as --folder, too, with
    --no-train."""
    train: bool = True
    """--no-train: train nothing; show, and write to --page, what is finished."""
    quick: bool = False
    """Only check this installation: are the gradients of three recipes, and the losses of their
    first epochs, right? About a minute."""

    def __call__(self) -> int:
        jobs = len(available_cores()) if self.jobs is None else self.jobs
        check_at_least_1(seeds=self.seeds, jobs=jobs)
        if self.quick:
            if self != Reproduce(quick=True, jobs=self.jobs):
                raise ValueError("--quick takes no recipes and no other flag but --jobs.")
            return _checked(jobs)
        units = self._units()
        if self.page is not None:
            check_place(self.page)
        if not self.train:
            return self._ended(units, _finished(units, self.folder))
        for unit in units:
            trainer_of(unit.framework)
        load_corpus(units[0].config.corpus)  # downloads it, if it is not there
        return self._ended(units, reproduce(units, self.folder, jobs))

    def _units(self) -> list[Unit]:
        for name in self.recipes:
            check_recipe(name)
        both = get_args(Framework) if self.framework == "both" else (self.framework,)
        recipes = tuple(dict.fromkeys(self.recipes or USUAL))
        units = [
            Unit(
                recipe=recipe,
                framework=framework,
                dtype=self.dtype,
                seed=seed,
                changes={} if self.schedule is None else {"schedule": self.schedule},
            )
            for recipe in recipes
            for seed in range(self.seeds)
            for framework in both
        ]
        if not self.studies:
            return units
        return units + [unit for unit in study_units() if unit.recipe in recipes]

    def _ended(self, units: list[Unit], outcome: Outcome) -> int:
        if outcome.signal:
            print("\nStopped and saved. The same command goes on from there.")
            return SIGNALLED + outcome.signal
        results = [outcome.results[unit.id] for unit in units if unit.id in outcome.results]
        for summary in summaries(results, self.folder):
            print("\n" + "\n".join(lines(summary)))
        for name, error in outcome.failures.items():
            print(f"failed: {name}: {error}", file=sys.stderr)
        if self.page is not None:
            print(f"\nThe page of the results is {write_page(self.folder, self.page)}.")
        return FAILED if outcome.failures else 0


def _finished(units: list[Unit], folder: Path) -> Outcome:
    """What is there of some units."""
    found = {unit.id: read_result(folder, unit) for unit in units}
    return Outcome({name: result for name, result in found.items() if result}, {}, 0)


def _checked(jobs: int) -> int:
    """Measure the gradients of three recipes, train their first epochs afresh, and judge both."""
    nietzsche()
    with tempfile.TemporaryDirectory() as folder:
        outcome = reproduce(quick_units(), Path(folder), jobs)
        gradients = judged_gradients(Path(folder))
    if outcome.signal:
        return SIGNALLED + outcome.signal
    losses = [judged(result) for result in outcome.results.values()]
    judgements: list[GradientJudgement | Judgement] = [*gradients, *losses]
    for judgement in judgements:
        print(judgement.line)
    for name, error in outcome.failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    complete = len(judgements) == 2 * len(quick_units())
    if outcome.failures or not complete or not all(judgement.passed for judgement in judgements):
        print("Your installation does NOT train correctly.")
        return FAILED
    print("Your installation trains correctly.")
    return 0
