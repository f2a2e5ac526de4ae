"""What a PyTorch run reads and how it goes on, and the known faults of that.

Shapes: T time steps, B batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

Window = tuple[np.ndarray, np.ndarray]
"""Tokens and targets, (T, B) each."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a run goes: what it reads, at which rates, and what becomes of the carry.

    Attributes:
        windows: of an epoch.
        starts: where each stream of each window starts in the text: (B,).
        rates: the learning rate of every step of the run.
        epochs: how many there are.
        carried: whether the carry goes on from window to window.
        validation: the windows that are validated on after every epoch.
        validation_starts: where each stream of those starts, in a text of their own; empty if the
            validation reads the training's windows.
        validation_tokens: that text.
        validation_carried: whether validation goes on from the training's carry.
        sizes: to which lengths the JAX side pads its windows.
        batch: how many streams a whole batch has.
    """

    windows: Sequence[Window]
    starts: Sequence[np.ndarray]
    rates: Sequence[float]
    epochs: int = 1
    carried: bool = True
    validation: Sequence[Window] = ()
    validation_starts: Sequence[np.ndarray] = ()
    validation_tokens: np.ndarray | None = None
    validation_carried: bool = True
    sizes: tuple[int, ...] = ()
    batch_size: int = 0


def faulty_plans(
    course: TrainingPlan, tokens: np.ndarray
) -> Iterator[tuple[str, str, TrainingPlan]]:
    """Place, cause, and the course with that fault.

    Args:
        course: the right one.
        tokens: the whole text.
    """
    if len(set(course.rates)) > 1:
        for first in (0, _changes(course.rates)):
            late = [*course.rates[: first + 1], *course.rates[first:-1]]
            yield "the schedule", "the rate is that of the step before", replace(course, rates=late)
    words = "every window starts from zeros: the carry is not handed on"
    yield "the carry between windows", words, replace(course, carried=False)
    if course.validation:
        other = replace(course, validation_carried=False)
        yield "the carry between training and validation", "validation starts from zeros", other
    same = [(read, read) for read, _ in course.windows]
    yield "the windows", "the targets are the inputs", replace(course, windows=same)
    for words, cut in CUTS.items():
        windows = _cut(cut, course, tokens)
        others = _cut(cut, _validation(course), course.validation_tokens)
        validation = others or (windows if course.validation else [])
        yield "the windows", words, replace(course, windows=windows, validation=validation)


def _changes(rates: Sequence[float]) -> int:
    """The first step whose rate is another than that of the first: there the restarts begin."""
    return next(k for k, rate in enumerate(rates) if rate != rates[0])


def _validation(course: TrainingPlan) -> TrainingPlan:
    """The validation's windows as a course; none if they are the training's."""
    starts = course.validation_starts
    return replace(course, windows=course.validation if len(starts) else (), starts=starts)


def _cut(cut: "Cut", course: TrainingPlan, tokens: np.ndarray | None) -> list[Window]:
    """The windows of a course, cut in another way."""
    wide = np.asarray(tokens if tokens is not None else (), np.int64)
    return [cut(course, k, wide) for k in range(len(course.windows))]


def window_at(tokens: np.ndarray, starts: np.ndarray, length: int) -> Window:
    """The window of `length` characters at each start; past the end, the last character again."""
    places = starts[None, :] + np.arange(length + 1)[:, None]
    component = tokens[np.minimum(places, len(tokens) - 1)]
    return component[:-1], component[1:]


def _late(course: TrainingPlan, k: int, tokens: np.ndarray) -> Window:
    return window_at(tokens, course.starts[k] + 1, len(course.windows[k][0]))


def _interleaved(course: TrainingPlan, k: int, tokens: np.ndarray) -> Window:
    starts = course.starts[k][0] + np.arange(len(course.starts[k]))
    return window_at(tokens, starts, len(course.windows[k][0]))


def _padded(course: TrainingPlan, k: int, tokens: np.ndarray) -> Window:
    length = len(course.windows[k][0])
    size = min((size for size in course.sizes if size >= length), default=length)
    return window_at(tokens, course.starts[k], size)


def _filled(course: TrainingPlan, k: int, tokens: np.ndarray) -> Window:
    starts = course.starts[k]
    filler = np.full(max(course.batch_size - len(starts), 0), starts[-1])
    return window_at(tokens, np.concatenate([starts, filler]), len(course.windows[k][0]))


Cut = Callable[[TrainingPlan, int, np.ndarray], Window]
CUTS: dict[str, Cut] = {
    "they start one character late": _late,
    "the streams are interleaved": _interleaved,
    "padded steps count and move the carry": _padded,
    "the filler rows of the last batch count": _filled,
}
"""Known faults in what a window holds: (course, number of the window, tokens) -> window."""
