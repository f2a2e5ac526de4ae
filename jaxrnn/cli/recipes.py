"""The command that lists the recipes."""

from dataclasses import dataclass

from jaxrnn.runs.recipes import RECIPES


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
