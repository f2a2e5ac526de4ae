"""The command that compares cells and models."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from jaxrnn.cli import parse_command
from jaxrnn.cli.flags import config_in, flags_in, recipe_in, with_full_names
from jaxrnn.runs.comparing import COMPARISONS, run_comparison
from jaxrnn.runs.comparison_plan import TASK_CONFIG, Equal, plan_comparison
from jaxrnn.runs.config import Config
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.terminal import FAILED, SIGNALLED, Screen, stop_requests


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Train cells and models with the same seeds on the same data, and show who is better.

    Each is a cell in CharLM (gru, lstm, ..., FILE.py:NAME) or a model (its name, or FILE.py:NAME).
    The first is the baseline of the differences. Trainings run in processes of their own, with one
    thread each. Ctrl-C saves; the same command goes on from there. --seed is the first seed.
    """

    contenders: Positional[tuple[str, ...]]
    """What to compare, at least two."""
    recipe: str = "python-docs"
    """The recipe with the other values; `recipes` lists them."""
    seeds: int = 3
    """Number of seeds."""
    minutes: float | None = None
    """Minutes of updates on one core, instead of --steps: the speed is measured first."""
    equal: Equal = "characters"
    """What is equal besides data and seeds: characters (the same number of updates), minutes (the
    same time for each), or parameters (the same updates; --hidden-size is chosen for each but the
    first)."""
    task: Literal["adding", "copying", "brackets"] | None = None
    """A generated task that measures memory, instead of a text."""
    task_length: int | None = None
    """The length of the task; if None, 100, and 40 of brackets."""
    folder: Path | None = None
    """Where everything is kept; comparisons/NAME if None."""
    jobs: int | None = None
    """Processes at once; one for each core if None."""
    config: OmitArgPrefixes[Config] = RECIPES["python-docs"].config
    """The values of the recipe."""

    def __call__(self) -> int:
        with Screen() as screen, stop_requests() as stopping:
            screen.show("reading the text", 0.0)
            plan = plan_comparison(
                self.contenders,
                self.config,
                seeds=self.seeds,
                minutes=self.minutes,
                equal=self.equal,
                task=self.task,
                task_length=self.task_length,
            )
            folder = COMPARISONS / plan.name if self.folder is None else self.folder
            comparison = run_comparison(plan, folder, stopping, jobs=self.jobs, screen=screen)
            signal = stopping()
        if signal:
            print("\nStopped and saved. The same command goes on from there.")
            return SIGNALLED + signal
        print(f"\n{comparison.table()}\n")
        for name, error in comparison.failures.items():
            print(f"failed: {name}: {error}", file=sys.stderr)
        print(f"The table, the learning curves and the records are in {folder}.")
        return FAILED if comparison.failures else 0


def command(given: Sequence[str]) -> Compare:
    """The command of a command line, after its name.

    Raises:
        ValueError: if an option is wrong, or says what the contenders say.
    """
    given = with_full_names(given)
    flags = flags_in(given)
    for name in ("model", "cell"):
        if f"--{name}" in flags:
            raise ValueError(
                f"The contenders say which {name}: name them first, and leave --{name} out."
            )
    if "--task" not in flags:
        config = replace(config_in(given), model="CharLM", identity=False)
    elif flags & {"--corpus", "--recipe"}:
        raise ValueError("A task is generated: leave --corpus and --recipe out, or --task.")
    else:
        config = TASK_CONFIG
    default = Compare(contenders=(), recipe=recipe_in(given), config=config)
    return parse_command(Compare, "compare", given, default)
