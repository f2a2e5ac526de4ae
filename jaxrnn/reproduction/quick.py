"""A minute's check of an installation: do three recipes begin as the course's did?

The first epoch of a recipe is judged by its validation loss. Between seeds that varies with a
standard deviation of about 0.01 nats, so a loss outside the band around the published one means
that something computes other numbers than it should: a carry that is lost, a wrong gradient, a
text that is another one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxrnn.reproduction.units import Unit
from jaxrnn.runs.recipes import RECIPES

QUICK_RECIPES = ("stateful-gru", "stateful-rnn", "many-outputs")
"""Short ones that have most of the parts of all: both data sets, the carry, gates."""
BAND = 0.04
"""Nats: what the first epoch's validation loss may be off the published one, either way."""


class Judgement(NamedTuple):
    """How a unit came out.

    Attributes:
        unit: the unit.
        loss: its validation loss.
        expected: what it should be.
        band: by how much it may be off, either way.
    """

    unit: Unit
    loss: float
    expected: float
    band: float = BAND

    @property
    def passed(self) -> bool:
        """Whether the loss is inside the band; one that is too low means that targets leak."""
        return abs(self.loss - self.expected) <= self.band

    @property
    def line(self) -> str:
        """The judgement in words."""
        verdict = "right" if self.passed else f"OFF, by more than {self.band:g}"
        return (
            f"{self.unit.recipe:14} validation loss {self.loss:.3f} after one epoch, published "
            f"{self.expected:.3f}, {self.loss - self.expected:+.3f}: {verdict}"
        )


def quick_units() -> list[Unit]:
    """The first epochs of the quick recipes."""
    return [
        Unit(
            recipe=recipe,
            changes={"schedule": f"1 x {Unit(recipe=recipe).first_rate:g}"},
            study="quick",
        )
        for recipe in QUICK_RECIPES
    ]


def judged(result: Mapping[str, Any]) -> Judgement:
    """The results of a quick unit against the published loss."""
    unit = Unit.from_dict(result["unit"])
    return Judgement(unit, result["validation"]["1"], RECIPES[unit.recipe].validation[1])
