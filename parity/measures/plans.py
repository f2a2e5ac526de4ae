"""What a PyTorch run reads and how it goes on, and the known deviations of that.

Shapes: T time steps, B batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

# Tokens and targets, (T, B) each.
Window = tuple[np.ndarray, np.ndarray]


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
        sizes: to which lengths JAX pads its windows.
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


def deviating_plans(
    plan: TrainingPlan, tokens: np.ndarray
) -> Iterator[tuple[str, str, TrainingPlan]]:
    """Place, cause, and the plan with that deviation.

    Args:
        plan: the right one.
        tokens: the whole text.
    """
    # Rates: one step late from the beginning, or from where the restarts begin.
    rates = list(plan.rates)
    if len(set(rates)) > 1:
        change = next(k for k, rate in enumerate(rates) if rate != rates[0])
        for first in (0, change):
            late = [*rates[: first + 1], *rates[first:-1]]
            yield "the schedule", "the rate is that of the step before", replace(plan, rates=late)

    # The carry.
    words = "every window starts from zeros: the carry is not handed on"
    yield "the carry between windows", words, replace(plan, carried=False)
    if plan.validation:
        other = replace(plan, validation_carried=False)
        yield "the carry between training and validation", "validation starts from zeros", other

    # What a window holds, in training and validation alike.
    same = [(inputs, inputs) for inputs, _ in plan.windows]
    yield "the windows", "the targets are the inputs", replace(plan, windows=same)
    for words, cut in CUTS.items():
        windows = _cut(cut, plan, tokens)
        validation: Sequence[Window] = ()
        # Validation on a text of its own, or on the windows of the training.
        if plan.validation_tokens is not None:
            validated = replace(plan, windows=plan.validation, starts=plan.validation_starts)
            validation = _cut(cut, validated, plan.validation_tokens)
        elif plan.validation:
            validation = windows
        yield "the windows", words, replace(plan, windows=windows, validation=validation)


def _cut(cut: "Cut", plan: TrainingPlan, tokens: np.ndarray) -> list[Window]:
    # The windows of a plan, cut in another way.
    wide = np.asarray(tokens, np.int64)
    return [cut(plan, k, wide) for k in range(len(plan.windows))]


def window_at(tokens: np.ndarray, starts: np.ndarray, length: int) -> Window:
    """The window of `length` characters at each start; past the end, the last character again."""
    places = starts[None, :] + np.arange(length + 1)[:, None]  # (T + 1, B)
    characters = tokens[np.minimum(places, len(tokens) - 1)]
    return characters[:-1], characters[1:]


def _late(plan: TrainingPlan, k: int, tokens: np.ndarray) -> Window:
    return window_at(tokens, plan.starts[k] + 1, len(plan.windows[k][0]))


def _interleaved(plan: TrainingPlan, k: int, tokens: np.ndarray) -> Window:
    starts = plan.starts[k][0] + np.arange(len(plan.starts[k]))
    return window_at(tokens, starts, len(plan.windows[k][0]))


def _padded(plan: TrainingPlan, k: int, tokens: np.ndarray) -> Window:
    length = len(plan.windows[k][0])
    # JAX pads to the next of a few sizes, so that few programs are compiled.
    size = min((size for size in plan.sizes if size >= length), default=length)
    return window_at(tokens, plan.starts[k], size)


def _filled(plan: TrainingPlan, k: int, tokens: np.ndarray) -> Window:
    starts = plan.starts[k]
    missing = max(plan.batch_size - len(starts), 0)
    filler = np.full(missing, starts[-1])  # the last row again, up to a whole batch
    return window_at(tokens, np.concatenate([starts, filler]), len(plan.windows[k][0]))


# Known deviations of what a window holds: (plan, number of the window, tokens) -> window.
Cut = Callable[[TrainingPlan, int, np.ndarray], Window]
CUTS: dict[str, Cut] = {
    "they start one character late": _late,
    "the streams are interleaved": _interleaved,
    "padded steps count and move the carry": _padded,
    "the filler rows of the last batch count": _filled,
}
