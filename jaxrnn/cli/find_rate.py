"""The command that suggests a learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from jaxrnn.cli import parse_command
from jaxrnn.cli.flags import config_in, recipe_in, with_full_names
from jaxrnn.output import check_output
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.plots import draw_rates
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.terminal import Screen, stop_requests
from jaxrnn.training.range_test import check_range, range_test

STEPS = 320
"""Default number of steps."""


@dataclass(frozen=True, kw_only=True)
class FindRate:
    """Raise the learning rate from step to step, plot the loss, and suggest a rate."""

    recipe: str = "python-docs"
    """The recipe with the other values; `recipes` lists them."""
    lowest: float = 1e-5
    """The first learning rate."""
    highest: float = 10.0
    """The last learning rate."""
    picture: Path = Path("learning-rates.png")
    """The .png file of the curve."""
    config: OmitArgPrefixes[Config] = RECIPES["python-docs"].config
    """The values of the recipe; --steps is the maximum number of steps."""

    def __call__(self) -> int:
        # Mistakes of the user's come before the work.
        check_output(self.picture, suffix=".png")
        steps = self.config.steps or STEPS
        check_range(self.lowest, self.highest, steps)
        experiment = prepare(self.config)
        curves = range_test(
            experiment.model,
            experiment.source,
            experiment.optimizer,
            experiment.fresh_state(),
            lowest=self.lowest,
            highest=self.highest,
            steps=steps,
        )
        # Each step has a higher rate, until the loss explodes.
        with Screen() as screen, stop_requests() as stopping:
            for curve in curves:
                screen.show("trying rates", len(curve.rates) / steps)
                if stopping():
                    break
        # Stopped early, the curve up to there is as good.
        rate, sentence = curve.suggestion()
        draw_rates(curve.rates, curve.losses, self.picture, suggested=rate)
        print(f"{sentence} The curve is {self.picture}.")
        return 0


def command(given: Sequence[str]) -> FindRate:
    """The command of a command line, after its name."""
    given = with_full_names(given)
    config = replace(config_in(given), steps=STEPS)
    default = FindRate(recipe=recipe_in(given), config=config)
    return parse_command(FindRate, "find-rate", given, default)
