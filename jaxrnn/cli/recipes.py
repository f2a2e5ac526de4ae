"""The command that lists the recipes."""

import logging
from dataclasses import dataclass
from functools import partial

from jaxrnn.cli import parse_command
from jaxrnn.runs.recipes import RECIPES

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes, those of installed packages too, and the losses that the course published.

    One of your own is named where it is used: train --recipe FILE.py:NAME.
    """

    def __call__(self) -> int:
        names = [*RECIPES, *RECIPES.provided]
        width = max(map(len, names))
        for name in names:
            # What another package provides may fail, which hides none of the others.
            try:
                recipe = RECIPES.find(name)
            except Exception as error:
                logger.warning("The recipe %s cannot be loaded: %s", name, error)
                continue
            line = f"{name:{width}}  {recipe.summary}"
            if recipe.validation:
                last = max(recipe.validation)  # epoch
                line += f" Published validation loss: {recipe.validation[last]:.3f}."
            print(line)
        return 0


command = partial(parse_command, Recipes, "recipes")
