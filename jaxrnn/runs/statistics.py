"""Means and deviations over seeds, and differences between trainings with the same seeds."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
"""Confidence of an interval."""


class Spread(NamedTuple):
    """Some numbers in short.

    Attributes:
        mean: their mean.
        deviation: the standard deviation of a sample; None of one number.
        seeds: how many they are.
    """

    mean: float
    deviation: float | None
    seeds: int


class Difference(NamedTuple):
    """How much larger the numbers of one group are than those of another, seed by seed.

    Attributes:
        mean: the mean of the differences.
        interval: the 95 % confidence interval of that mean, by Student's t; None of one seed.
        n: number of seeds that both groups have.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int


def spread(values: Iterable[float]) -> Spread:
    """Numbers in short; there must be one."""
    array = np.fromiter(values, float)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else None
    return Spread(float(array.mean()), deviation, len(array))


def paired_difference(ones: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """The difference of two groups of numbers by seed, over the seeds that both have.

    Args:
        ones: the first group; the difference is positive where its numbers are larger.
        others: the second group.

    Returns:
        The difference; None where no seed is in both.
    """
    import scipy.stats  # it takes half a second

    seeds = sorted(ones.keys() & others.keys())
    if not seeds:
        return None
    found = spread(ones[seed] - others[seed] for seed in seeds)
    if found.deviation is None:
        return Difference(found.mean, None, found.seeds)
    # mean +- t * s / sqrt(n), t of n - 1 degrees of freedom
    quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, found.seeds - 1))
    half = quantile * found.deviation / np.sqrt(found.seeds)
    return Difference(found.mean, (float(found.mean - half), float(found.mean + half)), found.seeds)
