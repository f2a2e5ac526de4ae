"""Why is a moving average of the weights another one than PyTorch's?

The weights are the same in both frameworks, step by step; the averages that can be made of them
are made, and the one that is JAX's is named.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from parity.diagnosis.factors import common, factor_of
from parity.diagnosis.update_evidence import Case

Weights = list[np.ndarray]

DECAYS = (0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999)
# An average that was made again is the same up to here, relative to its move: what a decay that
# was read off the numbers has of their round-off.
SAME = 1e-9


def average_cause(case: Case, keys: Sequence[str]) -> str:
    """The average that gives JAX's numbers; empty if none of those that are known does."""
    moved = [key for key in keys if np.any(case.center.arrays[-1]["weights"][key])]
    if not moved:
        return ""
    key = moved[0]
    weights = [np.asarray(case.center.start[key], float)]
    weights += [np.asarray(step.weights[key], float) for step in case.center.steps]
    got = [np.asarray(step.averages[key], float) for step in case.got]
    theirs = _decay_of(weights, [step.averages[key] for step in case.center.steps])
    decays = dict.fromkeys(d for d in (_decay_of(weights, got), theirs, *DECAYS) if d is not None)
    for words, averages in _candidates(weights, list(decays), theirs):
        if _is(got, averages, weights):
            return words
    return ""


def _decay_of(weights: Weights, averages: Sequence[np.ndarray]) -> float | None:
    """The decay that the first average after a move shows; None if it shows none."""
    for t, average in enumerate(averages):
        move = weights[t + 1] - weights[0]
        if np.any(move):
            share = common([factor_of(average - weights[0], move)])
            return None if share is None else float(f"{1 - share:.9g}")
    return None


def _candidates(
    weights: Weights, decays: Sequence[float], theirs: float | None
) -> Iterator[tuple[str, Weights]]:
    """Words and the average after each step."""
    after = weights[1:]
    yield "it is not updated", [weights[0] for _ in after]
    yield "it is no average, but the weights themselves", after
    counts = range(1, len(weights))
    yield "it is the mean of all steps", [np.mean(after[:t], axis=0) for t in counts]
    yield (
        "it is the mean of all steps and the start",
        [np.mean(weights[: t + 1], axis=0) for t in counts],
    )
    known = "" if theirs is None else f", PyTorch's is {theirs:g}"
    for decay in decays:
        other = f"the decay is {decay:g}{known}" if decay != theirs else ""
        also = f" and {other}" if other else ""
        if other:
            yield other, _moving(weights[0], after, [decay] * len(after))
        yield (
            f"it takes the weights before the step{also}",
            _moving(weights[0], weights[:-1], [decay] * len(after)),
        )
        zeros = _moving(0 * weights[0], after, [decay] * len(after))
        yield f"it starts from zeros{also}", zeros
        corrected = [average / (1 - decay**t) for t, average in enumerate(zeros, 1)]
        yield f"it starts from zeros, with a bias correction{also}", corrected
        for first in (0, 1):
            slow = [min(decay, (1 + t) / (10 + t)) for t in range(first, first + len(after))]
            yield (
                f"the decay grows as (1 + t) / (10 + t) from t = {first} on{also}",
                _moving(weights[0], after, slow),
            )


def _moving(start: np.ndarray, weights: Weights, decays: Sequence[float]) -> Weights:
    """The exponential moving average after each step."""
    average = start
    found = []
    for decay, new in zip(decays, weights, strict=True):
        average = decay * average + (1 - decay) * new
        found.append(average)
    return found


def _is(got: Weights, expected: Weights, weights: Weights) -> bool:
    size = max(float(np.linalg.norm(after - weights[0])) for after in weights)
    return all(
        float(np.linalg.norm(one - other)) <= SAME * size
        for one, other in zip(got, expected, strict=True)
    )
