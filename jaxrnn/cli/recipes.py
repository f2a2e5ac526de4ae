"""The command that lists the recipes."""

from dataclasses import asdict, dataclass
from functools import partial

from jaxrnn.cli import parse_command
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.terminal import print_json


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes and the losses that the course published."""

    json: bool = False
    """Print one JSON object instead: by name summary, prompt, config, and train and validation,
    the published losses in nats per character by epoch."""

    def __call__(self) -> int:
        if self.json:
            records = {}
            for name, recipe in RECIPES.items():
                records[name] = asdict(recipe) | {"config": recipe.config.to_dict()}
            print_json(records)
            return 0
        width = max(map(len, RECIPES))
        for name, recipe in RECIPES.items():
            line = f"{name:{width}}  {recipe.summary}"
            if recipe.validation:
                last = max(recipe.validation)  # epoch
                line += f" Published validation loss: {recipe.validation[last]:.3f}."
            print(line)
        return 0


command = partial(parse_command, Recipes, "recipes")
