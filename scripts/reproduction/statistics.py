"""Means and deviations over seeds, and differences between runs with the same seeds."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxrnn.runs.recipes import RECIPES
from jaxrnn.runs.statistics import Spread, spread
from reproduction.findings import Findings
from reproduction.results import Record
from reproduction.units import Unit

MOST_EPOCHS = 20
"""Epochs of a recipe that are shown one by one."""


class Apart(NamedTuple):
    """How far the means of two groups of runs are apart, over the seeds that both have."""

    difference: float  # first mean minus second mean
    deviation: float | None  # between seeds, of both groups pooled; None where no group has two


def validation(records: Iterable[Record], epoch: int | None = None) -> Spread:
    """The validation losses after an epoch; after the last if None."""
    return spread(r.validation[epoch or r.unit.epochs] for r in records)


def training(records: Iterable[Record], epoch: int | None = None) -> Spread:
    """The training losses after an epoch; after the last if None."""
    return spread(r.train[epoch or r.unit.epochs] for r in records)


def shared(records: Iterable[Record]) -> Spread:
    """The losses on the windows that both splits hold out; every record must have one."""
    return spread(record.shared for record in records if record.shared is not None)


def apart(
    ones: Sequence[Record],
    others: Sequence[Record],
    measure: Callable[[Iterable[Record]], Spread] = validation,
) -> Apart | None:
    """How far two groups are apart, by their last losses if by nothing else; None if no seed is in
    both."""
    left, right = ({r.unit.seed: r for r in records} for records in (ones, others))
    both = sorted(left.keys() & right.keys())
    if not both:
        return None
    means = [measure([group[seed] for seed in both]).mean for group in (left, right)]
    deviations = [measure(records).deviation for records in (ones, others)]
    squares = [deviation**2 for deviation in deviations if deviation is not None]
    pooled = math.sqrt(sum(squares) / len(squares)) if squares else None
    return Apart(means[0] - means[1], pooled)


class Outcome(NamedTuple):
    """Results in one precision beside the published losses."""

    unit: Unit  # one of those that were, or will be, trained
    ours: Sequence[Record]  # our records, by seed
    theirs: Sequence[Record]  # PyTorch's

    @property
    def recipe(self) -> str:
        """Its name."""
        return self.unit.recipe

    @property
    def published(self) -> Mapping[int, float]:
        """Validation losses, by epoch."""
        return self.unit.published

    @property
    def published_train(self) -> Mapping[int, float]:
        """Training losses, by epoch."""
        return {} if self.unit.changes else RECIPES[self.unit.recipe].train

    @property
    def apart(self) -> Apart | None:
        """Ours from PyTorch's, at the end."""
        return apart(self.ours, self.theirs)

    @property
    def times(self) -> list[float]:
        """The mean seconds of a run of ours, then of PyTorch's, of those that have been run."""
        groups = [records for records in (self.ours, self.theirs) if records]
        return [spread(record.seconds for record in records).mean for records in groups]

    @property
    def differences(self) -> dict[int, float]:
        """Our means minus the published validation losses, by epoch; there must be a record."""
        return {e: validation(self.ours, e).mean - loss for e, loss in self.published.items()}

    @property
    def difference(self) -> float:
        """The last of them."""
        return self.differences[self.unit.epochs]

    @property
    def shown_epochs(self) -> list[int]:
        """All; of a long recipe those that the course published, and the last."""
        epochs = range(1, self.unit.epochs + 1)
        if len(epochs) <= MOST_EPOCHS:
            return list(epochs)
        return sorted({*self.published, epochs[-1]})


def outcomes(findings: Findings) -> list[Outcome]:
    """Every recipe with a published validation loss, whether it has been run or not."""
    return [
        Outcome(Unit(recipe=name), findings.of(name), findings.of(name, "torch"))
        for name, recipe in RECIPES.items()
        if recipe.validation
    ]


def grouped(records: Iterable[Record]) -> list[Outcome]:
    """Records gathered by everything but seed and framework, in the order of first appearance."""
    groups: dict[str, Outcome] = {}
    for record in records:
        unit = replace(record.unit, framework="jax", seed=0)
        outcome = groups.setdefault(unit.id, Outcome(unit, [], []))
        same = outcome.ours if record.unit.framework == "jax" else outcome.theirs
        assert isinstance(same, list)
        same.append(record)
    return list(groups.values())
