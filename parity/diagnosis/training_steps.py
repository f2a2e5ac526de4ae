"""The first step, array and cause by which a user's training in JAX parts from PyTorch's.

In the order in which a step computes: its loss, its gradients, then the update. What differs first
is to blame, and what comes after it is not looked at.
"""

from collections.abc import Sequence
from itertools import combinations
from math import prod
from typing import Any

import jax
import numpy as np

from parity.core.compare import relative_l2
from parity.diagnosis.average_causes import average_cause
from parity.diagnosis.causes import Diagnosis
from parity.diagnosis.factors import SAME, common, factor_of, listed, times
from parity.diagnosis.update_causes import ROUNDED, update_cause
from parity.diagnosis.update_evidence import Case
from parity.measures.envelopes import Verdict

# A factor between two losses is a number of terms up to here: it is read off two single numbers.
EXACT = 1e-9


def first_difference(case: Case) -> tuple[int, dict[tuple[str, str], Verdict]] | None:
    """The first step that differs, counted from 0, and its arrays that do."""
    for t, step in enumerate(case.got):
        verdicts = case.center.verdicts(t, case.center.quantities(step, case.center.steps[t]))
        wrong = {place: verdict for place, verdict in verdicts.items() if verdict.differs}
        if wrong:
            return t, wrong
    return None


def diagnose_training(case: Case, *, exact_gradients: bool) -> Diagnosis | None:
    """Step, arrays and cause of the first difference in float64; None if there is none.

    Args:
        case: the two loops; its `first` is found here.
        exact_gradients: whether JAX's gradients are those of the loss, and cannot have been
            clipped by the step that returned them.
    """
    found = first_difference(case)
    if found is None:
        return None
    t, wrong = found
    case = case._replace(first=t)
    named = {quantity: [name for q, name in wrong if q == quantity] for quantity, _ in wrong}
    if "loss" in named:
        return Diagnosis(f"step {t + 1}, the loss", _loss_cause(case, named))
    if "gradients" in named:
        factor = _gradient_factor(case)
        # Gradients that the step itself returns may be what is left after clipping.
        cause = "" if exact_gradients or not _may_be_clipped(case) else update_cause(case)
        words = cause or _gradient_cause(factor)
        return Diagnosis(f"step {t + 1}, the gradient of {listed(named['gradients'])}", words)
    if set(named) == {"averages"}:
        place = _place(case, named["averages"])
        words = average_cause(case, named["averages"])
        return Diagnosis(f"step {t + 1}, the average of {place}", words)
    buffers = {name for name, _ in case.loop.module.named_buffers()}
    moved = [name for name in named.get("weights", []) if name not in buffers]
    if not moved and "moments" not in named:
        return Diagnosis(
            f"step {t + 1}, the buffer {listed(named['weights'])}",
            _buffer_cause(case, named["weights"]),
        )
    place = _place(case, moved)
    if not moved:
        kinds = dict.fromkeys(name.partition(" of ")[0] for name in named["moments"])
        keys = dict.fromkeys(name.partition(" of ")[2] for name in named["moments"])
        place = f"{' and '.join(kinds)} of {_place(case, list(keys))}"
    words = _folding(case, moved) or update_cause(case) or _rest(wrong)
    return Diagnosis(f"step {t + 1}, {place}", words)


def _folding(case: Case, wrong: Sequence[str]) -> str:
    # Whether all that moves differently is folded, so that the two sides have other parameters.
    folded = [key for key in wrong if not np.array_equal(case.center.start[key], case.weights[key])]
    if not wrong or len(folded) < len(wrong):
        return ""
    return "PyTorch updates two biases, which JAX has folded into one: their sum moves otherwise"


def _place(case: Case, wrong: Sequence[str]) -> str:
    # The parameters that differ; of three or more, "every parameter" if all of them do.
    known = {name for name, _ in case.loop.module.named_parameters()}
    if len(wrong) > 2 and known <= set(wrong):
        return "every parameter"
    return f"parameter {listed(wrong)}"


def _rest(wrong: dict[tuple[str, str], Verdict]) -> str:
    # What can be said of an update that nothing known explains.
    largest = max(verdict.distance for verdict in wrong.values())
    if largest < EXACT:
        return f"a difference of {largest:.1g}, which only much round-off can be"
    if largest < ROUNDED:
        return f"a difference of {largest:.1g}, as if something were computed in float32"
    return (
        "no known deviation of the optimizer gives these numbers, so it may be the gradient: "
        "give jax_loss, or let jax_step return its gradients"
    )


def _loss_cause(case: Case, named: dict[str, list[str]]) -> str:
    """Why the first loss that differs does."""
    t = case.first
    got = case.got[t].loss
    expected = case.center.steps[t].loss
    if got is None or expected is None or not np.isfinite([got, expected]).all() or expected == 0:
        return "it is the model or the loss function, not the update"
    words = "it is the model or the loss function, not the update; parity.check compares those"
    if t > 0:
        words = "it differs with the same weights: the step does not treat every batch alike"
    factor = got / expected
    reduction = _reduction(factor, case.batches[t])
    if abs(factor - 1) < EXACT:
        words = f"a difference of {abs(factor - 1):.1g}, which only much round-off can be"
    elif abs(factor - 1) < ROUNDED:
        words = f"a difference of {abs(factor - 1):.1g}, as if it were computed in float32"
    elif reduction:
        words = reduction
    losses = [step.loss for step in case.center.steps]
    for shift, when in ((1, "after"), (-1, "before")):
        other = losses[t + shift] if 0 <= t + shift < len(losses) else None
        if other and abs(got / other - 1) < EXACT:
            words = f"it is PyTorch's loss of the step {when}"
    if not {"gradients", "moments", "weights"} & named.keys():
        words += "; only the loss that is returned differs, the update is the same"
    return words


def _reduction(factor: float, batch: Any) -> str:
    """Whether two losses differ by a number of terms, in words; empty if not."""
    for count, where in _counts(batch):
        for value, words in (
            (count, "JAX sums up over {} what PyTorch averages"),
            (1 / count, "JAX averages over {} what PyTorch sums up"),
        ):
            if count > 1 and abs(factor / value - 1) < EXACT:
                return f"it is {times(value)} PyTorch's: {words.format(where)}"
    for value, words in (
        (2.0, "a factor 1/2 is missing"),
        (0.5, "there is a factor 1/2"),
        (1 / np.log(2), "it is in bits, PyTorch's in nats"),
        (np.log(2), "it is in nats, PyTorch's in bits"),
        (-1.0, "its sign is the opposite"),
    ):
        if abs(factor / value - 1) < EXACT:
            return f"it is {times(value)} PyTorch's: {words}"
    return f"it is {times(factor)} PyTorch's: no number of terms of this batch"


def _counts(batch: Any) -> Sequence[tuple[int, str]]:
    """The numbers over which a batch can be averaged, and what they count."""
    found: dict[int, str] = {}
    for leaf in jax.tree.leaves(batch):
        shape = np.shape(leaf)
        axes = range(len(shape))
        for size in (1, 2, 3):
            for chosen in combinations(axes, size):
                count = prod(shape[axis] for axis in chosen)
                plural = "axes" if size > 1 else "axis"
                words = f"{plural} {' and '.join(map(str, chosen))} of {shape}"
                found.setdefault(count, words)
    return list(found.items())


def _gradient_factor(case: Case) -> float | None:
    """The number by which PyTorch's gradients become JAX's; None if there is none."""
    step = case.center.steps[case.first]
    got = case.got[case.first].gradients
    expected = step.gradients
    return common(factor_of(got[key], expected[key]) for key in expected if key in got)


def _may_be_clipped(case: Case) -> bool:
    # Clipping makes gradients smaller, and none of them zero.
    got = case.got[case.first].gradients
    for key, expected in case.center.steps[case.first].gradients.items():
        if key in got and (np.linalg.norm(got[key]) == 0) != (np.linalg.norm(expected) == 0):
            return False
        if key in got and np.linalg.norm(got[key]) > np.linalg.norm(expected) * (1 + SAME):
            return False
    return True


def _gradient_cause(factor: float | None) -> str:
    if factor is not None and abs(factor - 1) > SAME:
        return f"all gradients are {times(factor)} PyTorch's, though the losses agree"
    return "the losses agree, so it is how JAX takes the gradient: what is cut off or masked"


def _buffer_cause(case: Case, keys: Sequence[str]) -> str:
    """What a running statistic does otherwise."""
    t = case.first
    before = case.center.start if t == 0 else case.got[t - 1].weights
    factors = []
    for key in keys:
        got = np.asarray(case.got[t].weights[key], float) - before[key]
        expected = np.asarray(case.center.steps[t].weights[key], float) - before[key]
        factors.append(factor_of(got, expected))
    factor = common([found for found in factors if not np.isnan(found)])
    means = all(key.endswith("running_var") for key, f in zip(keys, factors, strict=True) if f != f)
    if factor is not None and means:
        # A variance has the factor of its own denominator beside that.
        words = "it moves" if len(keys) == 1 else "the running mean moves"
        return f"{words} {times(factor)} as far: another momentum"
    return _biased_variance(case, keys, before)


def _biased_variance(case: Case, keys: Sequence[str], before: Any) -> str:
    # A running variance of n numbers: torch divides by n - 1, others by n.
    for module in case.loop.module.modules():
        momentum = getattr(module, "momentum", None)
        if momentum is None or not hasattr(module, "running_var"):
            continue
        for count, where in _counts(case.batches[case.first]):
            if count > 1 and _is_biased(case, keys, before, float(momentum), count):
                return (
                    f"the variance is divided by {count}, PyTorch's by {count - 1} "
                    f"({where}): the biased one"
                )
    return ""


def _is_biased(case: Case, keys: Sequence[str], before: Any, momentum: float, count: int) -> bool:
    for key in keys:
        old = np.asarray(before[key], float)
        expected = np.asarray(case.center.steps[case.first].weights[key], float)
        variance = (expected - (1 - momentum) * old) / momentum
        biased = (1 - momentum) * old + momentum * variance * (count - 1) / count
        if not relative_l2(np.asarray(case.got[case.first].weights[key], float), biased) < EXACT:
            return False
    return bool(keys)
