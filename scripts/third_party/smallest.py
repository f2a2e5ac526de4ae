"""The smallest case in which a module and its counterpart differ, with all its numbers."""

from dataclasses import dataclass

import numpy as np

import parity
from parity import Report
from third_party.cases import MakePort, Port, Sizes
from third_party.evaluate import Evaluation, Numbers, sampled

VISIBLE = 0.01
"""Smallest difference of two numbers that is worth showing in four digits."""
SEEDS = 20
"""Samples among which a visible difference is looked for."""
SIMPLE = (0.0, 1.0)
"""Numbers tried in place of each weight and input, the simplest first."""


@dataclass(frozen=True)
class SmallestCase:
    """A case that cannot be made smaller, nor simpler by one number.

    Attributes:
        sizes: its sizes by their letters.
        numbers: the numbers that are not zero, by name, such as "bias_hh_l0[2]".
        in_jax: the number of the outputs that differs most, in JAX.
        in_torch: the same number in PyTorch.
    """

    sizes: dict[str, int]
    numbers: dict[str, float]
    in_jax: float
    in_torch: float

    def __str__(self) -> str:
        sizes = ", ".join(f"{letter} {size}" for letter, size in self.sizes.items())
        shown = ", ".join(f"{name} {number:.3g}" for name, number in self.numbers.items())
        zeros = f"{shown}, all else 0" if shown else "weights, inputs and carry 0"
        return f"{sizes}; {zeros}: {self.in_jax:.4f} in JAX, {self.in_torch:.4f} in PyTorch"


def smallest_case(port: MakePort, sizes: Sizes) -> SmallestCase:
    """Shrink the sizes while `parity.check` fails, then simplify the numbers.

    Args:
        port: makes the port.
        sizes: of a case that fails.

    Returns:
        The case, in which the outputs still differ visibly.
    """
    small = dict(sizes)
    for letter in sizes:
        for size in (1, 2):
            if size < small[letter]:
                candidate = {**small, letter: size}
                if _fails(port, candidate):
                    small = candidate
    made = port(small)
    evaluation = Evaluation(made)
    numbers = _simplified(evaluation, _visible_numbers(made, evaluation))
    ours, theirs = _farthest(evaluation, numbers)
    return SmallestCase(small, _not_zero(numbers), ours, theirs)


def _visible_numbers(port: Port, evaluation: Evaluation) -> Numbers:
    """The first of some samples in which the outputs differ visibly.

    Raises:
        ValueError: if they do in none.
    """
    for seed in range(SEEDS):
        numbers = sampled(port, seed)
        if _visible(evaluation, numbers):
            return numbers
    raise ValueError(f"no outputs differ by {VISIBLE} in {SEEDS} samples")


def failed(report: Report) -> bool:
    """Whether numbers differ, and not just that something could not be run."""
    outcomes = {finding.outcome.value for finding in report.findings}
    return "FAIL" in outcomes and "ERROR" not in outcomes


def _fails(port: MakePort, sizes: Sizes) -> bool:
    try:
        report = parity.check(*port(sizes), dtypes=("float64",), variants=False)
    except (ValueError, RuntimeError):
        return False  # the module does not take this size
    return failed(report)


def _visible(evaluation: Evaluation, numbers: Numbers) -> bool:
    return max(array.max(initial=0.0) for array in evaluation.differences(numbers)) > VISIBLE


def _simplified(evaluation: Evaluation, numbers: Numbers) -> Numbers:
    """Each number replaced by a simple one, where the outputs still differ visibly."""
    for array in [*numbers.weights.values(), *numbers.inputs]:
        if not np.issubdtype(array.dtype, np.floating):
            continue
        for place in np.ndindex(array.shape):
            before = array[place]
            for simple in SIMPLE:
                array[place] = simple
                if _visible(evaluation, numbers):
                    break
            else:
                array[place] = before
    return numbers


def _not_zero(numbers: Numbers) -> dict[str, float]:
    named = dict(numbers.weights)
    named |= {f"input {k}": array for k, array in enumerate(numbers.inputs)}
    found = {}
    for name, array in named.items():
        for place in zip(*np.nonzero(array), strict=True):
            where = ", ".join(str(k) for k in place)
            found[f"{name}[{where}]"] = float(array[place])
    return found


def _farthest(evaluation: Evaluation, numbers: Numbers) -> tuple[float, float]:
    """The pair of numbers that is farthest apart, of all outputs."""
    ours = np.concatenate([array.ravel() for array in evaluation.in_jax(numbers)])
    theirs = np.concatenate([array.ravel() for array in evaluation.in_torch(numbers)])
    k = int(np.abs(ours - theirs).argmax())
    return float(ours[k]), float(theirs[k])
