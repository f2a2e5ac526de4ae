"""A minute's check of an installation: do three recipes begin as the course's did?

Two criteria for each recipe. Before training, the gradients of one window are compared with finite
differences of its loss (`jaxrnn.reproduction.gradients`): that sees a gradient that is wrong in one
weight, by a factor of thousands, on every machine. After an epoch, the validation loss is compared
with the published one: that sees what makes loss and gradient wrong together, a carry that is
lost, targets that leak, a text that is another one. It is no measure of gradients: a training with
a wrong one may well end inside the band.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrnn.reproduction.gradients import TOLERANCES, GradientError, read_gradient_errors
from jaxrnn.reproduction.units import QUICK, Unit
from jaxrnn.runs.recipes import RECIPES

QUICK_RECIPES = ("stateful-gru", "stateful-rnn", "many-outputs")
"""Short ones that have most of the parts of all: both data sets, the carry, gates."""
BAND = 0.06
"""Nats: what the first epoch's validation loss may be off the published one, either way.

Seeds 0 to 9 of the quick recipes have standard deviations of 0.006, 0.007 and 0.009 and means
within 0.008 of the published loss: the band is at least five deviations wide. Rounded otherwise, a
seed ends at the same loss to 1e-5, but other versions of JAX may draw other weights from it. With
the carry lost at each window, the stateful ones end 0.17 and 0.22 above; with targets that are the
inputs, all end more than 1.6 below.
"""


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


class GradientJudgement(NamedTuple):
    """How the gradients of a unit came out.

    Attributes:
        unit: the unit.
        errors: of each gradient that was measured, at least one.
    """

    unit: Unit
    errors: Sequence[GradientError]

    @property
    def worst(self) -> GradientError:
        """The error that is the largest in units of its tolerance; NaN is larger than any."""
        return max(self.errors, key=lambda e: math.inf if math.isnan(e.ratio) else e.ratio)

    @property
    def passed(self) -> bool:
        """Whether every gradient is within its tolerance."""
        return self.worst.ratio <= 1  # False of NaN

    @property
    def line(self) -> str:
        """The judgement in words."""
        recipe, worst = self.unit.recipe, self.worst
        if not self.passed:
            return (
                f"{recipe:14} gradient of {worst.name} off by {worst.error:.2g} of its size "
                f"({worst.how}, {worst.way}, {worst.dtype}): OFF, by more than "
                f"{TOLERANCES[worst.dtype]:g}"
            )
        largest = {
            dtype: max(e.error for e in self.errors if e.dtype == dtype) for dtype in TOLERANCES
        }
        off = ", ".join(f"{error:.0e} in {dtype}" for dtype, error in largest.items())
        return f"{recipe:14} gradients off finite differences by at most {off}: right"


def quick_units() -> list[Unit]:
    """The first epochs of the quick recipes."""
    return [
        Unit(
            recipe=recipe,
            changes={"schedule": f"1 x {Unit(recipe=recipe).first_rate:g}"},
            study=QUICK,
        )
        for recipe in QUICK_RECIPES
    ]


def judged(result: Mapping[str, Any]) -> Judgement:
    """The results of a quick unit against the published loss."""
    unit = Unit.from_dict(result["unit"])
    return Judgement(unit, result["validation"]["1"], RECIPES[unit.recipe].validation[1])


def judged_gradients(folder: Path) -> list[GradientJudgement]:
    """The gradients of the quick units whose results, or what there is of them, are in a folder."""
    judgements = []
    for unit in quick_units():
        errors = read_gradient_errors(folder, unit)
        if errors:  # none of a unit that failed before they were measured
            judgements.append(GradientJudgement(unit, errors))
    return judgements
