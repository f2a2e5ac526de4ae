"""The command that lists the recipes."""

import logging
from dataclasses import asdict, dataclass
from functools import partial

from jaxrnn.cli import parse_command
from jaxrnn.runs.recipes import RECIPES, Recipe
from jaxrnn.terminal import print_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes, those of installed packages too, and the losses that the course published.

    One of your own is named where it is used: train --recipe FILE.py:NAME.
    """

    json: bool = False
    """Print one JSON object instead: by name summary, prompt, config, and train and validation,
    the published losses in nats per character by epoch."""

    def __call__(self) -> int:
        found = _found()
        if self.json:
            records = {}
            for name, recipe in found.items():
                records[name] = asdict(recipe) | {"config": recipe.config.to_dict()}
            print_json(records)
            return 0
        width = max(map(len, found))
        for name, recipe in found.items():
            line = f"{name:{width}}  {recipe.summary}"
            if recipe.validation:
                last = max(recipe.validation)  # epoch
                line += f" Published validation loss: {recipe.validation[last]:.3f}."
            print(line)
        return 0


def _found() -> dict[str, Recipe]:
    """The recipes by name, those of installed packages behind ours."""
    found = {}
    for name in [*RECIPES, *RECIPES.provided]:
        # What another package provides may fail, which hides none of the others.
        try:
            found[name] = RECIPES.find(name)
        except Exception as error:
            logger.warning("The recipe %s cannot be loaded: %s", name, error)
    return found


command = partial(parse_command, Recipes, "recipes")
