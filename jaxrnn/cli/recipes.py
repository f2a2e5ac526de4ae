"""The command that lists the recipes."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxrnn.runs.recipes import RECIPES
from jaxrnn.terminal import command_name, parse


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


def command(given: Sequence[str]) -> Recipes:
    """The command of a command line, after its name."""
    parsed: Recipes = parse(Recipes, given, program=f"{command_name()} recipes")
    return parsed
