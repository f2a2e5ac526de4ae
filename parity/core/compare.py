"""How equality is judged: distances, criteria and outcomes. Knows NumPy, and no framework.

A result has a name and a precision: A is PyTorch's, B is JAX's, R is PyTorch's in float64, all
from the same weights and inputs.

    C0  structure: the same names, shapes and precision, NaN and infinity in the same places
    C1  meaning, in float64: the distance of B and R is round-off
    C2  numerics: B is no further from R than A is, by a factor
    C3  a fixed tolerance for the distance of B and R, for what C2 lets through when A is bad
    C4  trajectories: training stays within the envelope of PyTorch runs from perturbed weights
    C5  generation: greedy texts agree wherever the margin exceeds the error
"""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

# Named arrays, such as the gradient of every parameter.
Arrays = Mapping[str, np.ndarray]

# Half the distance from 1 to the next number. TF32 rounds the factors of a matmul like that.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8}

# The precision of a result, where it is not that of the computation.
STORED_AS = {"tf32": "float32"}

# C1. Round-off lies at 1e-15, the mildest known difference in meaning (an epsilon) at 1e-8.
MEANING_LIMIT = {
    "forward": 1e-12,
    "loss": 1e-12,
    "gradients": 1e-11,
    "update": 1e-11,
    "trajectory": 1e-12,
}

# C2: how much further from the truth than PyTorch JAX may be, and where a warning begins.
NOISE_FACTOR = {"float32": 2.0, "tf32": 2.0, "bfloat16": 3.0}
WARNING_FACTOR = 1.5

# C1, for functions that magnify round-off: how much further apart the results may be than those of
# inputs and weights that differ in the last place. A function takes many roundings where these
# were one.
CONDITION_FACTOR = 32
# No limit of C1 is wider, whatever a function magnifies: where round-off decides a jump, a rounding
# moves the results by as much as a mistake.
WIDEST_MEANING = 1e-9

# C3: no tolerance is wider, whatever was measured.
WIDEST = {
    "float32": {"forward": 5e-6, "loss": 2e-6, "gradients": 2e-5, "update": 2e-5},
    "tf32": {"forward": 2e-2, "loss": 1e-2, "gradients": 4e-2, "update": 4e-2},
    "bfloat16": {"forward": 3e-2, "loss": 1e-2, "gradients": 6e-2, "update": 6e-2},
}
# The largest distance of JAX from PyTorch in float64 over 20 seeds; `parity tolerances` measures
# it. In bfloat16 one relu that changes its sign moves the gradient of a single case by a third;
# checks pool sixteen cases.
MEASURED = {
    "float32": {"forward": 2.1e-7, "loss": 2.5e-7, "gradients": 7.4e-7, "update": 3.3e-6},
    "bfloat16": {"forward": 9e-3, "loss": 7e-3, "gradients": 0.34},
}
TOLERANCE_FACTOR = 5


def _tolerances(dtype: str) -> dict[str, float]:
    tolerances = dict(WIDEST[dtype])
    for quantity, distance in MEASURED.get(dtype, {}).items():
        tolerances[quantity] = min(TOLERANCE_FACTOR * distance, tolerances[quantity])
    return tolerances


# C3: five times what was measured, which is a wide net below C2; the widest where nothing was.
TOLERANCES = {dtype: _tolerances(dtype) for dtype in WIDEST}


class Outcome(enum.Enum):
    """The verdict on a comparison; of several, the last in this order counts."""

    ABSTAIN = "ABSTAIN"  # a degenerate case, which shows nothing
    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"
    ERROR = "ERROR"  # it could not be run

    @property
    def severity(self) -> int:
        """The place in the order from best to worst."""
        return list(Outcome).index(self)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number held against one limit.

    Attributes:
        pair: the model or layer, such as "CharSeqStatefulGRU".
        quantity: what was compared, such as "gradients".
        dtype: the precision.
        criterion: "C0" to "C5".
        array: the name of the array.
        value: what was measured; NaN where nothing could be.
        limit: the largest value that passes.
        outcome: the verdict.
        note: what a reader should know.
        path: how the recurrence ran, "compiled", "scan" or "parallel"; empty where there is none.
        inputs: from which inputs the number is, where several were tried.
    """

    pair: str
    quantity: str
    dtype: str
    criterion: str
    array: str
    value: float
    limit: float
    outcome: Outcome
    note: str = ""
    path: str = ""
    inputs: str = ""

    @property
    def margin(self) -> float:
        """value / limit: how close to failing, or how far beyond."""
        if self.limit > 0:
            return self.value / self.limit
        return np.inf if self.value else 0.0


class Comparison(NamedTuple):
    """What is compared: the pair, the quantity, the precision."""

    pair: str
    quantity: str
    dtype: str

    def finding(
        self,
        criterion: str,
        array: str,
        outcome: Outcome,
        *,
        value: float = np.nan,
        limit: float = 0.0,
        note: str = "",
    ) -> Finding:
        """A finding of this comparison."""
        return Finding(
            **self._asdict(),
            criterion=criterion,
            array=array,
            value=value,
            limit=limit,
            outcome=outcome,
            note=note,
        )


def relative_l2(got: np.ndarray, reference: np.ndarray) -> float:
    """|got - reference|_2 / |reference|_2, in float64; infinite if only the reference is zero.

    Raises:
        ValueError: if the shapes differ.
    """
    wide = np.asarray(got, np.float64)
    truth = np.asarray(reference, np.float64)
    if wide.shape != truth.shape:
        raise ValueError(f"Cannot compare shape {wide.shape} with {truth.shape}.")
    # Where NaN and infinity stand is C0's to judge.
    finite = np.isfinite(wide) & np.isfinite(truth)
    distance = float(np.linalg.norm(wide[finite] - truth[finite]))
    size = float(np.linalg.norm(truth[finite]))
    if distance == 0:
        return 0.0
    return distance / size if size else np.inf


def structure(what: Comparison, got: Arrays, expected: Arrays) -> list[Finding]:
    """C0: one finding a problem, or a single one that passes.

    The values are not compared, but for where they are NaN or infinite. Nothing to compare is a
    failure.
    """
    # TF32 is a way to compute, and its results are float32.
    stored = STORED_AS.get(what.dtype, what.dtype)
    return structural_findings(
        what, got, expected, lambda one, other: _structural_problem(one, other, stored)
    )


def structural_findings(
    what: Comparison,
    got: Arrays,
    expected: Arrays,
    problem_of: Callable[[np.ndarray, np.ndarray], str],
    *,
    may_be_none: bool = False,
) -> list[Finding]:
    """C0 by a rule of one's own.

    Args:
        what: what is compared.
        got: JAX's arrays.
        expected: PyTorch's.
        problem_of: why two arrays cannot be compared number by number; empty if they can.
        may_be_none: whether nothing to compare is no problem.
    """
    problems = [(name, "is missing") for name in expected if name not in got]
    problems += [(name, "is not expected") for name in got if name not in expected]
    if not expected and not may_be_none:
        problems.append(("", "there is nothing to compare"))
    for name, right in expected.items():
        if name in got:
            problem = problem_of(got[name], right)
            if problem:
                problems.append((name, problem))
    if not problems:
        return [what.finding("C0", f"{len(expected)} arrays", Outcome.PASS, value=0.0)]
    return [
        what.finding("C0", name, Outcome.FAIL, value=1.0, note=problem)
        for name, problem in problems
    ]


def _structural_problem(got: np.ndarray, expected: np.ndarray, dtype: str) -> str:
    # Why two arrays cannot be compared number by number; empty if they can.
    if got.shape != expected.shape:
        return f"expected shape {expected.shape}, got {got.shape}"
    if str(got.dtype) != dtype:
        return f"expected {dtype}, got {got.dtype}"
    return places(got, expected)


def places(got: np.ndarray, expected: np.ndarray) -> str:
    """Whether NaN and infinity stand in other places, in words; empty if they do not."""
    wide = np.asarray(got, np.float64)
    truth = np.asarray(expected, np.float64)
    odd = ~np.isfinite(truth)
    same_places = np.array_equal(~np.isfinite(wide), odd)
    # Infinities of opposite signs stand in the same places, and still differ.
    if same_places and np.array_equal(wide[odd], truth[odd], equal_nan=True):
        return ""
    where = "in other places"
    if not odd.any():
        where = "in JAX only"
    elif np.isfinite(wide).all():
        where = "in PyTorch only"
    return f"NaN or infinity {where}"


Noise = Mapping[str, float]
"""How far PyTorch's results move, by the names of the arrays, for a rounding of a precision."""


def meaning(
    what: Comparison, got: Arrays, reference: Arrays, noise: Noise | None = None
) -> list[Finding]:
    """C1: got and reference are both in float64 and may differ by round-off only.

    Args:
        what: what is compared.
        got: JAX's arrays.
        reference: PyTorch's.
        noise: of a rounding in float64; the limit is as it stands if None.
    """
    noise = noise or {}
    findings = []
    for name, truth in reference.items():
        distance = relative_l2(got[name], truth)
        conditioned = min(CONDITION_FACTOR * noise.get(name, 0.0), WIDEST_MEANING)
        limit = max(MEANING_LIMIT[what.quantity], conditioned)
        findings.append(_judged(what, "C1", name, distance, limit, truth))
    return findings


def numerics(
    what: Comparison, got: Arrays, peer: Arrays, reference: Arrays, noise: Noise | None = None
) -> list[Finding]:
    """C2 and C3: got and peer have the same precision, the reference is in float64.

    Args:
        what: what is compared.
        got: JAX's arrays.
        peer: PyTorch's.
        reference: PyTorch's in float64.
        noise: of a rounding in this precision, which PyTorch's own distance from the truth may
            undercut by luck. With it C3 only warns where C2 passes: the function may magnify
            round-off within itself. Not considered if None.
    """
    unit = UNIT_ROUNDOFF[what.dtype]
    factor = NOISE_FACTOR[what.dtype]
    noise = noise or {}
    findings = []
    for name, truth in reference.items():
        distance = relative_l2(got[name], truth)
        conditioned = noise.get(name, 0.0)
        tolerance = max(
            TOLERANCES[what.dtype][what.quantity], TOLERANCE_FACTOR * factor * conditioned
        )
        # PyTorch may be right by luck; either runner may round its own result twice.
        own = max(relative_l2(peer[name], truth), conditioned, 2 * unit)
        ratio = _judged(what, "C2", name, distance / own, factor, truth)
        if ratio.outcome is Outcome.PASS and ratio.value > WARNING_FACTOR:
            ratio = what.finding("C2", name, Outcome.WARN, value=ratio.value, limit=factor)
        findings.append(ratio)
        fixed = _judged(what, "C3", name, distance, tolerance, truth)
        if fixed.outcome is Outcome.FAIL and noise and ratio.outcome is not Outcome.FAIL:
            fixed = replace(fixed, outcome=Outcome.WARN, note="PyTorch's own results are as far")
        findings.append(fixed)
    return findings


def _judged(
    what: Comparison, criterion: str, name: str, value: float, limit: float, reference: np.ndarray
) -> Finding:
    # Two zeros are equal whatever the code does, and of NaNs nothing can be said.
    note = ""
    if not np.any(reference):
        note = "zero in both frameworks"
    elif not np.isfinite(np.asarray(reference, np.float64)).any():
        note = "NaN or infinite everywhere in both frameworks"
    if note and value == 0:
        return what.finding(criterion, name, Outcome.ABSTAIN, value=value, limit=limit, note=note)
    # A value of NaN fails: it is not below any limit.
    outcome = Outcome.PASS if value <= limit else Outcome.FAIL
    return what.finding(criterion, name, outcome, value=value, limit=limit)


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that failed, or could not be made."""
    return [finding for finding in findings if finding.outcome in (Outcome.FAIL, Outcome.ERROR)]


def worst_outcome(findings: Iterable[Finding]) -> Outcome:
    """The worst of the outcomes; ABSTAIN if there is none: nothing was shown."""
    outcomes = (finding.outcome for finding in findings)
    return max(outcomes, key=lambda outcome: outcome.severity, default=Outcome.ABSTAIN)


def worst(findings: Sequence[Finding]) -> Finding:
    """The finding with the worst outcome, and among those the one nearest to or furthest past
    its limit."""
    # A margin of NaN counts as 0, so that a number wins over it.
    return max(findings, key=lambda f: (f.outcome.severity, np.nan_to_num(f.margin)))
