"""Which numbers of two programs are the same, however their axes are ordered.

Arrays of two frameworks that hold the same values often have other layouts: channels first or last,
heads split or merged, batch and time in one axis. So what is compared first are the sorted values.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

# Relative 2-norm of what counts as the same numbers, in float64: round-off through a deep net stays
# far below, and an epsilon of 1e-8 that is missing shows.
SAME = 1e-11
# Layouts are searched among the permutations of so many axes.
MOST_AXES = 5


class Sorted(NamedTuple):
    """The finite values of an array in their order, its 2-norm, and how many are not finite."""

    values: np.ndarray
    norm: float
    odd: int


def sorted_values(array: np.ndarray) -> Sorted:
    """An array's values in order."""
    flat = np.asarray(array, np.float64).ravel()
    finite = np.isfinite(flat)
    values = np.sort(flat[finite])
    return Sorted(values, float(np.linalg.norm(values)), int(flat.size - values.size))


def is_trivial(array: np.ndarray) -> bool:
    """Whether an array says nothing: it is empty, or one number everywhere."""
    flat = np.asarray(array).ravel()
    return flat.size == 0 or bool((flat == flat[0]).all()) or not np.isfinite(flat).any()


def same_values(one: Sorted, other: Sorted, tolerance: float = SAME) -> bool:
    """Whether two arrays hold the same values in any order."""
    if one.values.size != other.values.size or one.odd != other.odd:
        return False
    distance = np.linalg.norm(one.values - other.values)
    return bool(distance <= tolerance * max(one.norm, other.norm))


class Lookup:
    """Arrays that can be found by their values.

    Args:
        arrays: the arrays, by number in the order given; trivial ones are never found.
        ordered: whether those are left out whose numbers stand in an order that no layout has.
    """

    def __init__(self, arrays: Sequence[np.ndarray], *, ordered: bool = False) -> None:
        self._arrays = list(arrays) if ordered else []
        self.sorted: list[Sorted | None] = []
        by_size: dict[tuple[int, int], list[tuple[float, int]]] = {}
        for number, array in enumerate(arrays):
            if is_trivial(array):
                self.sorted.append(None)
                continue
            values = sorted_values(array)
            self.sorted.append(values)
            size = (values.values.size, values.odd)
            by_size.setdefault(size, []).append((values.norm, number))
        self._by_size = {size: sorted(group) for size, group in by_size.items()}

    def find(self, array: np.ndarray, tolerance: float = SAME) -> list[int]:
        """The numbers of the arrays with the same values in any order; lowest first."""
        wanted = sorted_values(array)
        group = self._by_size.get((wanted.values.size, wanted.odd), [])
        # Equal values have equal norms.
        margin = tolerance * wanted.norm
        first = bisect_left(group, (wanted.norm - margin, -1))
        last = bisect_right(group, (wanted.norm + margin, len(self.sorted)))
        found = []
        for _, number in group[first:last]:
            other = self.sorted[number]
            if other is not None and same_values(wanted, other, tolerance):
                found.append(number)
        if self._arrays:
            found = [number for number in found if may_be_laid_out(array, self._arrays[number])]
        return sorted(found)

    def alike(self, array: np.ndarray) -> list[int]:
        """The numbers of the arrays with as many values, the nearest first."""
        wanted = sorted_values(array)
        distances = []
        for _, number in self._by_size.get((wanted.values.size, wanted.odd), []):
            other = self.sorted[number]
            if other is not None:
                distances.append((float(np.linalg.norm(wanted.values - other.values)), number))
        return [number for _, number in sorted(distances)]


def may_be_laid_out(array: np.ndarray, like: np.ndarray) -> bool:
    """Whether one array may be another with its axes reordered, split and merged.

    False only where that is certain, as for rows that are flipped or shifted: where values repeat,
    their places are unknown.

    Args:
        array: an array.
        like: one with the same values in any order, but for round-off.
    """
    flat = np.asarray(array, np.float64).ravel()
    other = np.asarray(like, np.float64).ravel()
    order, other_order = np.argsort(flat), np.argsort(other)
    ordered = flat[order]
    gaps = np.diff(ordered)
    if not np.isfinite(ordered).all() or (gaps <= 2 * SAME * np.abs(flat).max(initial=0.0)).any():
        return True
    numbers = np.empty(flat.size, np.int64)
    numbers[other_order] = order
    places: Any = numbers.reshape(np.shape(like))  # of each number of `like` in `array`
    # The place in memory is a sum over the axes of `like`, if these are axes of `array`.
    total = np.zeros_like(places)
    for axis in range(places.ndim):
        along = places[tuple(slice(None) if k == axis else 0 for k in range(places.ndim))]
        if not _is_merged(along):
            return False
        total = total + along.reshape([-1 if k == axis else 1 for k in range(places.ndim)])
    return np.array_equal(places, total)


def _is_merged(places: np.ndarray) -> bool:
    """Whether places along an axis are those of axes that were merged, each with a stride."""
    count = len(places)
    if places[0] != 0:
        return False
    if count == 1:
        return True
    stride = places[1]
    run = int(np.argmin(np.append(places == stride * np.arange(count), False)))
    length = next(length for length in range(run, 0, -1) if count % length == 0)
    if stride <= 0 or length == 1:
        return False
    outer = places[::length]
    inner = stride * np.arange(length)
    return np.array_equal(places, (outer[:, None] + inner).ravel()) and _is_merged(outer)


def orders(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array with its axes in every order; as it is first."""
    if array.ndim > MOST_AXES:
        yield array
        return
    for axes in itertools.permutations(range(array.ndim)):
        yield array.transpose(axes)


def laid_out(array: np.ndarray, like: np.ndarray) -> Iterator[np.ndarray]:
    """The ways to bring `array` into the shape of `like` by reordering and merging its axes, or,
    where `like` has more of them merged, by splitting: the likeliest first.
    """
    seen = set()
    for ordered in orders(array):
        kept = tuple(ordered.strides)
        if kept in seen:
            continue
        seen.add(kept)
        # Axes may only be merged or split in their order.
        yield ordered.reshape(like.shape)
    for axes in itertools.permutations(range(like.ndim)) if like.ndim <= MOST_AXES else ():
        shape = tuple(like.shape[axis] for axis in axes)
        back = np.argsort(axes)
        yield array.reshape(shape).transpose(back)


def aligned(array: np.ndarray, like: np.ndarray, tolerance: float = SAME) -> np.ndarray | None:
    """`array` in the layout in which it equals `like`; None if there is none."""
    size = np.linalg.norm(np.nan_to_num(like, posinf=0.0, neginf=0.0))
    for candidate in laid_out(array, like):
        same = np.nan_to_num(candidate - like, nan=0.0, posinf=np.inf, neginf=np.inf)
        if np.linalg.norm(same) <= tolerance * size:
            return candidate
    return None
