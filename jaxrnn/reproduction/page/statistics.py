"""Means and deviations over seeds, differences between runs with the same seeds, verdicts."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrnn.reproduction.page.records import Findings, Record
from jaxrnn.runs.recipes import RECIPES

BAND = 0.02
"""Nats: what the project promises of the mean over the seeds."""


class Spread(NamedTuple):
    """Some numbers in short.

    Attributes:
        mean: of them.
        deviation: the standard deviation of a sample; None for one number.
        seeds: how many.
    """

    mean: float
    deviation: float | None
    seeds: int


class Apart(NamedTuple):
    """How far the means of two groups of runs are apart, over the seeds that both have.

    Attributes:
        difference: first mean minus second mean.
        deviation: between seeds, of both groups pooled; None where no group has two.
        seeds: how many both have.
    """

    difference: float
    deviation: float | None
    seeds: int


def spread(values: Iterable[float]) -> Spread:
    """Numbers in short; there must be one."""
    array = np.fromiter(values, float)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else None
    return Spread(float(array.mean()), deviation, len(array))


def validation(records: Sequence[Record], epoch: int | None = None) -> Spread:
    """The validation losses after an epoch; after the last if None."""
    return spread(r.last if epoch is None else r.validation[epoch] for r in records)


def training(records: Sequence[Record], epoch: int | None = None) -> Spread:
    """The training losses after an epoch; after the last if None."""
    return spread(r.train[r.unit.epochs if epoch is None else epoch] for r in records)


def seconds(records: Sequence[Record]) -> Spread:
    """What a run took."""
    return spread(record.seconds for record in records)


def shared(records: Sequence[Record]) -> Spread:
    """The losses on the windows that both splits hold out; every record must have one."""
    return spread(record.shared for record in records if record.shared is not None)


def apart(
    ones: Sequence[Record], others: Sequence[Record], epoch: int | None = None
) -> Apart | None:
    """How far validation losses are apart after an epoch; None where no seed is in both."""
    return _apart(ones, others, lambda records: validation(records, epoch))


def shared_apart(ones: Sequence[Record], others: Sequence[Record]) -> Apart | None:
    """The same for the losses on the windows that both splits hold out."""
    return _apart(ones, others, shared)


def _apart(
    ones: Sequence[Record],
    others: Sequence[Record],
    measure: Callable[[Sequence[Record]], Spread],
) -> Apart | None:
    left, right = ({r.unit.seed: r for r in records} for records in (ones, others))
    both = sorted(left.keys() & right.keys())
    if not both:
        return None
    spreads = [measure([group[seed] for seed in both]) for group in (left, right)]
    deviations = [measure(records).deviation for records in (ones, others)]
    squares = [deviation**2 for deviation in deviations if deviation is not None]
    pooled = math.sqrt(sum(squares) / len(squares)) if squares else None
    return Apart(spreads[0].mean - spreads[1].mean, pooled, len(both))


class Outcome(NamedTuple):
    """A recipe's results beside the published losses.

    Attributes:
        recipe: its name.
        ours: our records, by seed.
        theirs: PyTorch's.
        published: validation losses, by epoch.
        published_train: training losses, by epoch.
    """

    recipe: str
    ours: Sequence[Record]
    theirs: Sequence[Record]
    published: Mapping[int, float]
    published_train: Mapping[int, float]

    @property
    def epochs(self) -> int:
        """The last published epoch, which is the recipe's last."""
        return max(self.published)

    def difference(self, epoch: int | None = None) -> float:
        """Our mean minus the published validation loss; there must be a record."""
        epoch = self.epochs if epoch is None else epoch
        return validation(self.ours, epoch).mean - self.published[epoch]


def outcomes(findings: Findings) -> list[Outcome]:
    """Every recipe with a published validation loss, whether it has been run or not."""
    return [
        Outcome(
            recipe=name,
            ours=findings.of(name),
            theirs=findings.of(name, "torch"),
            published=recipe.validation,
            published_train=recipe.train,
        )
        for name, recipe in RECIPES.items()
        if recipe.validation
    ]


def verdict(difference: float) -> str:
    """What a difference to the published loss means."""
    if abs(difference) <= BAND:
        return f"within {BAND:g}"
    return f"{'**misses** by' if difference > 0 else 'better by'} {abs(difference):.3f}"
