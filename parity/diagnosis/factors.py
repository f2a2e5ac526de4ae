"""Numbers that one array has more of than another, and how they are said."""

from collections.abc import Iterable, Sequence

import numpy as np

from parity.core.compare import Arrays

# Two amounts are the same up to here, and one is rounded to the digits that a user would write.
SAME = 1e-6
# How parallel the arrays are that differ by a factor only.
PARALLEL = 1e-6


def factor_of(got: np.ndarray, expected: np.ndarray) -> float:
    """The number by which `expected` becomes `got`; NaN if they are not parallel."""
    size = float(np.sum(expected * expected))
    if size == 0:
        return 1.0 if not np.any(got) else np.nan
    factor = float(np.sum(got * expected)) / size
    apart = np.linalg.norm(got - factor * expected)
    if not apart <= PARALLEL * max(np.linalg.norm(got), abs(factor) * np.sqrt(size)):
        return np.nan
    return written(factor)


def common(values: Iterable[float]) -> float | None:
    """The one value of all; None if they differ, or there is none."""
    numbers = list(values)
    if not numbers or any(np.isnan(numbers)) or np.ptp(numbers) > SAME * abs(numbers[0]):
        return None
    return float(numbers[0])


def written(number: float, tolerance: float = 0.1 * SAME) -> float:
    """A number as a user would write it, if it is that but for round-off."""
    for digits in (1, 2, 3, 4, 5, 6):
        rounded = float(f"{number:.{digits}g}")
        if abs(rounded - number) <= tolerance * abs(number):
            return rounded
    return number


def middle(values: Sequence[np.ndarray]) -> float:
    """The median, as a user would write it; of many numbers, each with much round-off."""
    numbers = np.concatenate([array.ravel() for array in values])
    return written(float(np.median(numbers)), 1e-4) if numbers.size else 0.0


def norm_of(arrays: Arrays) -> float:
    """The norm of all arrays together."""
    return float(np.sqrt(sum(float(np.sum(np.square(a, dtype=float))) for a in arrays.values())))


def times(factor: float) -> str:
    """A factor in words, such as "1/4 times"."""
    inverse = 1 / factor if factor else np.inf
    if 0 < abs(factor) < 1 and abs(inverse - round(inverse)) < SAME * abs(inverse):
        sign = "-" if factor < 0 else ""
        return f"{sign}1/{abs(round(inverse))} times"
    return f"{factor:.6g} times"


def listed(keys: Sequence[str]) -> str:
    """Names in words, the first four of many."""
    shown = ", ".join(keys[:4])
    return shown if len(keys) <= 4 else f"{shown} and {len(keys) - 4} more"
