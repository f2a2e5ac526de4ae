"""How equality is judged: distances, gates and outcomes. Knows NumPy, and no framework.

A result has a name and a precision: A is PyTorch's, B is JAX's, R is PyTorch's in float64, all
from the same weights and inputs.

    G0  structure: the same names, shapes and precision, NaN and infinity in the same places
    G1  meaning, in float64: the distance of B and R is round-off
    G2  numerics: B is no further from R than A is, by a factor
    G3  a fixed cap on the distance of B and R, for what G2 lets through when A is bad
    G4  trajectories: training stays within the envelope of PyTorch runs one ulp apart
    G5  generation: greedy texts agree wherever the margin exceeds the error
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""Named arrays, such as the gradient of every parameter."""

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8}
"""Half the distance from 1 to the next number; tf32 rounds the factors of a product like that."""

STORED_AS = {"tf32": "float32"}
"""The precision of a result, where it is not that of the computation."""

MEANING_LIMIT = {
    "forward": 1e-12,
    "loss": 1e-12,
    "gradients": 1e-11,
    "update": 1e-11,
    "trajectory": 1e-12,
}
"""G1. Round-off lies at 1e-15, the mildest known difference in meaning (an epsilon) at 1e-8."""

NOISE_FACTOR = {"float32": 2.0, "tf32": 2.0, "bfloat16": 3.0}
"""G2: how much further from the truth than PyTorch JAX may be."""
WARNING_FACTOR = 1.5
"""G2: above this the outcome is a warning."""

WIDEST = {
    "float32": {"forward": 5e-6, "loss": 2e-6, "gradients": 2e-5, "update": 2e-5},
    "tf32": {"forward": 2e-2, "loss": 1e-2, "gradients": 4e-2, "update": 4e-2},
    "bfloat16": {"forward": 3e-2, "loss": 1e-2, "gradients": 6e-2, "update": 6e-2},
}
"""G3: no cap is wider, whatever was measured."""
MEASURED = {
    "float32": {"forward": 2.1e-7, "loss": 2.5e-7, "gradients": 7.4e-7, "update": 3.3e-6},
    "bfloat16": {"forward": 9e-3, "loss": 7e-3, "gradients": 0.34},
}
"""The largest distance of JAX from PyTorch in float64 in 20 draws, as `parity caps` shows it. In
bfloat16 one relu that changes sides moves the gradient of a single draw by a third; checks pool
sixteen draws."""
CAP_FACTOR = 5
TOLERANCES = {
    dtype: {
        check: min(CAP_FACTOR * MEASURED.get(dtype, {}).get(check, cap), cap)
        for check, cap in widest.items()
    }
    for dtype, widest in WIDEST.items()
}
"""G3: five times what was measured, which is a wide net below G2; the widest where nothing was."""


class Outcome(enum.Enum):
    """What came of a comparison; of several, the last in this order counts."""

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
        check: what was compared, such as "gradients".
        dtype: the precision.
        gate: "G0" to "G5".
        array: the name of the array.
        value: what was measured; NaN where nothing could be.
        limit: the largest value that passes.
        outcome: the verdict.
        note: what a reader should know.
        path: how the recurrence ran, "compiled" or "scan"; empty where there is none.
    """

    pair: str
    check: str
    dtype: str
    gate: str
    array: str
    value: float
    limit: float
    outcome: Outcome
    note: str = ""
    path: str = ""

    @property
    def margin(self) -> float:
        """value / limit: how close to failing, or how far beyond."""
        return self.value / self.limit if self.limit > 0 else np.inf if self.value else 0.0


class Diagnosis(NamedTuple):
    """What a difference was traced to.

    Attributes:
        place: where it starts, such as "layer 1 reverse, c at step 0, gate f".
        cause: the known fault that gives the same numbers; empty if none does.
    """

    place: str
    cause: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.cause or 'no known cause fits'}"


class Comparison(NamedTuple):
    """What is compared: its pair, the check, the precision."""

    pair: str
    check: str
    dtype: str

    def finding(
        self,
        gate: str,
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
            gate=gate,
            array=array,
            value=value,
            limit=limit,
            outcome=outcome,
            note=note,
        )


def relative_l2(got: np.ndarray, reference: np.ndarray) -> float:
    """|got - reference|_2 / |reference|_2, in float64; infinite if only the reference is zero."""
    return _relative(got, reference, np.linalg.norm)


def relative_inf(got: np.ndarray, reference: np.ndarray) -> float:
    """The same in the maximum norm."""
    return _relative(got, reference, lambda x: np.abs(x).max(initial=0.0))


def _relative(got: np.ndarray, reference: np.ndarray, norm: object) -> float:
    assert callable(norm)
    wide, truth = np.asarray(got, np.float64), np.asarray(reference, np.float64)
    if wide.shape != truth.shape:
        raise ValueError(f"Cannot compare shape {wide.shape} with {truth.shape}.")
    finite = np.isfinite(wide) & np.isfinite(truth)
    distance = float(norm((wide - truth)[finite].ravel()))
    size = float(norm(truth[finite].ravel()))
    if distance == 0:
        return 0.0
    return distance / size if size else np.inf


def structure(what: Comparison, got: Arrays, expected: Arrays) -> list[Finding]:
    """G0: one finding a problem, or a single one that passes.

    The values are not compared, but for where they are NaN or infinite. Nothing to compare is a
    failure.
    """
    problems = [(name, "is missing") for name in expected if name not in got]
    problems += [(name, "is not expected") for name in got if name not in expected]
    problems += [("", "there is nothing to compare")] if not expected else []
    stored = STORED_AS.get(what.dtype, what.dtype)
    for name in [name for name in expected if name in got]:
        a, b = got[name], expected[name]
        if a.shape != b.shape:
            problems.append((name, f"expected shape {b.shape}, got {a.shape}"))
        elif str(a.dtype) != stored:
            problems.append((name, f"expected {stored}, got {a.dtype}"))
        elif not _same_mask(a, b):
            problems.append((name, "NaN or infinity in other places"))
    if problems:
        return [
            what.finding("G0", name, Outcome.FAIL, value=1.0, note=note) for name, note in problems
        ]
    return [what.finding("G0", f"{len(expected)} arrays", Outcome.PASS, value=0.0)]


def _same_mask(got: np.ndarray, expected: np.ndarray) -> bool:
    a, b = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    odd = ~np.isfinite(b)
    return np.array_equal(~np.isfinite(a), odd) and np.array_equal(a[odd], b[odd], equal_nan=True)


def meaning(what: Comparison, got: Arrays, reference: Arrays) -> list[Finding]:
    """G1: got and reference are both in float64 and may differ by round-off only."""
    limit = MEANING_LIMIT[what.check]
    return [
        _judged(what, "G1", name, relative_l2(got[name], reference[name]), limit, reference[name])
        for name in reference
    ]


def numerics(what: Comparison, got: Arrays, peer: Arrays, reference: Arrays) -> list[Finding]:
    """G2 and G3: got and peer have the same precision, the reference is in float64."""
    unit, factor = UNIT_ROUNDOFF[what.dtype], NOISE_FACTOR[what.dtype]
    findings = []
    for name, truth in reference.items():
        distance = relative_l2(got[name], truth)
        noise = max(relative_l2(peer[name], truth), 2 * unit)
        ratio = _judged(what, "G2", name, distance / noise, factor, truth)
        if ratio.outcome is Outcome.PASS and ratio.value > WARNING_FACTOR:
            ratio = what.finding("G2", name, Outcome.WARN, value=ratio.value, limit=factor)
        cap = TOLERANCES[what.dtype][what.check]
        findings += [ratio, _judged(what, "G3", name, distance, cap, truth)]
    return findings


def _judged(
    what: Comparison, gate: str, name: str, value: float, limit: float, reference: np.ndarray
) -> Finding:
    if not np.any(reference) and value == 0:
        note = "zero on both sides"
        return what.finding(gate, name, Outcome.ABSTAIN, value=value, limit=limit, note=note)
    outcome = Outcome.PASS if value <= limit else Outcome.FAIL
    return what.finding(gate, name, outcome, value=value, limit=limit)


def worst_outcome(findings: Iterable[Finding]) -> Outcome:
    """The worst of the outcomes; ABSTAIN if there is none: nothing was shown."""
    return max((f.outcome for f in findings), key=lambda o: o.severity, default=Outcome.ABSTAIN)


def worst(findings: Sequence[Finding]) -> Finding:
    """The finding with the worst outcome, and among those the one nearest to or furthest past
    its limit."""
    return max(findings, key=lambda f: (f.outcome.severity, np.nan_to_num(f.margin)))
