"""The arithmetic of the results: spreads, ratios repetition by repetition, geometric means."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The median of some numbers, and their quartiles."""

    median: float
    lower: float
    upper: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated linearly."""
    lower, median, upper = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, lower, upper)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How many times as long as we they took, repetition by repetition; above 1, we are faster.

    Repetitions are paired because the machine's speed drifts: what slows repetition k slows both.
    """
    if len(ours) != len(theirs):
        raise ValueError(
            f"Repetitions cannot be paired: {len(ours)} of ours, {len(theirs)} of theirs."
        )
    return [other / own for own, other in zip(ours, theirs, strict=True)]


def geometric_mean(values: Iterable[float]) -> float | None:
    """exp of the mean logarithm; None of nothing."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None


def fastest(medians: Mapping[str, float]) -> str | None:
    """The name with the least time; None of nothing."""
    return min(medians, key=lambda name: medians[name]) if medians else None


def norm(array: np.ndarray) -> float:
    """The Euclidean norm, summed in float64: in float32, sums of many squares are 1e-5 off."""
    return float(np.linalg.norm(np.asarray(array, np.float64)))


def agree(numbers: Sequence[float], reference: Sequence[float], tolerance: float) -> bool:
    """Whether two lists are equal within a relative tolerance."""
    return len(numbers) == len(reference) and all(
        abs(a - b) <= tolerance * abs(b) for a, b in zip(numbers, reference, strict=True)
    )
