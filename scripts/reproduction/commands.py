"""The commands: train the recipes and show the losses; follow a chaotic one until runs part."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.markdown import Markdown
from tyro.conf import Positional

from jaxrnn.checks import check_at_least_1
from jaxrnn.data.corpora import load_corpus
from jaxrnn.runs.environment import available_cores
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.terminal import FAILED, SIGNALLED, Screen, parse, run_command
from reproduction.findings import pairs_of
from reproduction.page import COMMAND, check_place, outcome_text, write_page
from reproduction.processes import Finished, reproduce
from reproduction.results import read_record
from reproduction.statistics import grouped
from reproduction.training import trainer_of
from reproduction.units import Dtype, Framework, Unit, check_recipe, study_units

LONG = ("stateful-lstm-15", "stateful-lstm-63", "early-lstm-31")
"""Recipes that take hours: trained only when they are asked for."""
USUAL = tuple(name for name, recipe in RECIPES.items() if recipe.validation and name not in LONG)
"""Recipes that are trained when none is asked for: those with a published validation loss."""
FOLDER = Path("runs/reproduce")
"""Where results are kept."""


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Train the course's recipes and lay the losses beside the published ones.

    What is finished is not trained again: the same command goes on where it was stopped. All that
    is trained by default takes about an hour on two cores. `horizon --help` says how to follow a
    chaotic recipe until JAX and PyTorch part.
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
    initialization or cell or, of the LSTM, dropout, weight decay, width or rate (ours, in float32;
    those of the recipes that are asked for)."""
    folder: Path = FOLDER
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

    def __call__(self) -> int:
        jobs = len(available_cores()) if self.jobs is None else self.jobs
        check_at_least_1(seeds=self.seeds, jobs=jobs)
        units = self._units()
        if self.page is not None:
            check_place(self.page)
        if not self.train:
            found = {unit.id: read_record(self.folder, unit) for unit in units}
            return self._ended(Finished({k: r for k, r in found.items() if r}, {}, 0))
        for unit in units:
            trainer_of(unit.framework)
        load_corpus(units[0].config.corpus)  # downloads it, if it is not there
        return self._ended(reproduce(units, self.folder, jobs))

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

    def _ended(self, finished: Finished) -> int:
        if finished.signal:
            print("\nStopped and saved. The same command goes on from there.")
            return SIGNALLED + finished.signal
        console = Console(width=None if sys.stdout.isatty() else 150)
        for outcome in grouped(finished.records.values()):
            pairs = pairs_of([*outcome.ours, *outcome.theirs], self.folder)
            console.print(Markdown(outcome_text(outcome, pairs)))
        for name, error in finished.failures.items():
            print(f"failed: {name}: {error}", file=sys.stderr)
        if self.page is not None:
            print(f"\nThe page of the results is {write_page(self.folder, self.page)}.")
        return FAILED if finished.failures else 0


@dataclass(frozen=True, kw_only=True)
class FollowHorizon:
    """Train a chaotic recipe in JAX and PyTorch from one start, until they are apart.

    Beside it PyTorch from weights one unit in the last place off. Without dropout.
    """

    recipe: str = "stateful-lstm"
    """What to train, at its first learning rate."""
    dtype: Dtype = "float64"
    """The precision."""
    steps: int = 600
    """How long."""
    seed: int = 0
    """Of the first weights and the windows."""
    folder: Path = FOLDER
    """Where horizon-DTYPE.json is written."""

    def __call__(self) -> int:
        check_at_least_1(steps=self.steps)
        trainer_of("torch")
        from reproduction import horizon  # needs PyTorch

        unit = horizon.horizon_unit(self.recipe, self.dtype, self.seed)
        with Screen() as screen:
            screen.show("compiling", 0.0)
            for found in horizon.followed(unit, self.steps):
                step = found["steps"][-1]
                apart = f"JAX and PyTorch {found['jax_torch'][-1]:.1e} apart"
                screen.show(f"step {step}", step / self.steps, apart)
        path, seen = horizon.write_horizon(self.folder, unit, found)
        for name, distances in (
            ("JAX and PyTorch", seen.jax_torch),
            ("PyTorch, 1 ulp apart", seen.torch_ulp),
        ):
            place = seen.first_apart(distances)
            step = None if place is None else seen.steps[place]
            when = f"from step {step}" if step else f"not within {self.steps} steps"
            limit = f"more than {seen.limit:g} apart"
            print(f"{name:22} {limit} {when}; {distances[-1]:.1e} at the end")
        print(f"Every number is in {path}.")
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: command(given)())


def command(given: Sequence[str]) -> Reproduce | FollowHorizon:
    """The command that a command line asks for.

    Raises:
        ValueError: if it cannot be read.
    """
    asked: Reproduce | FollowHorizon
    if given[:1] == ["horizon"]:
        asked = parse(FollowHorizon, given[1:], program=f"{COMMAND} horizon")
    else:
        asked = parse(Reproduce, given, program=COMMAND)
    return asked
