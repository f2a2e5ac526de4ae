"""The command that lists the recipes."""

from dataclasses import dataclass
from functools import partial

from jaxrnn.cli import parse_command
from jaxrnn.runs.recipes import RECIPES


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes and the losses that the course published."""

    def __call__(self) -> int:
        width = max(map(len, RECIPES))
        for name, recipe in RECIPES.items():
            line = f"{name:{width}}  {recipe.summary}"
            if recipe.validation:
                last = max(recipe.validation)  # epoch
                line += f" Published validation loss: {recipe.validation[last]:.3f}."
            print(line)
        return 0


command = partial(parse_command, Recipes, "recipes")
