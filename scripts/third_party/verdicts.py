"""Verdicts: what `parity.check` finds for a case, and what the module computes if it is not equal.

No verdict is written by hand. A module is equal if it passes. If it does not, one reference after
the other is tried that the counterpart becomes by an option, a rule for the weights, or another
equation, and the one that passes is named.
"""

from dataclasses import asdict, dataclass
from typing import Any

import parity
from parity import Report
from third_party.cases import Case, Kind, Port, Variant
from third_party.evaluate import agrees, why_not_float64
from third_party.smallest import failed, smallest_case

EQUATION = "A different equation than "
"""How a remark of parity's begins that names what a recurrent layer computes."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a case has shown.

    Attributes:
        module: the case's module.
        counterpart: what it was compared with.
        verdict: "equal", "equal after folding", "equal with ...", "another equation", "faulty",
            "differs" if nothing known explains it, "not checked" if it could not be run.
        detail: which equation, the smallest case, or what else a reader must know.
        difference: the largest distance of an output from PyTorch's, relative to its size, before
            anything is done about it; None if there is none.
        dtype: the precision of that difference, the highest that could be compared.
    """

    module: str
    counterpart: str
    verdict: str
    detail: str = ""
    difference: float | None = None
    dtype: str = ""

    def to_json(self) -> dict[str, Any]:
        """The verdict as a message."""
        return asdict(self)


def verdict_of(case: Case) -> Verdict:
    """Check a case; what raises an error is a verdict, too."""
    try:
        return _Judge(case).verdict()
    except Exception as error:  # whatever another package raises is the result of its case
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Verdict(
            module=case.module, counterpart=case.counterpart, verdict=NOT_CHECKED, detail=reason
        )


class _Judge:
    """A case and the precisions that it can be compared in."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.port = case.port(case.sizes)
        self.narrow = why_not_float64(self.port)
        self.dtypes = ("float32",) if self.narrow else ("float64", "float32")
        self.dtype = self.dtypes[0]

    def verdict(self) -> Verdict:
        report = self.check(self.port)
        verdict, *details = self._judged(report)
        if self.narrow:
            details.append(f"compared in float32: {self.narrow}")
        details.append(self.case.note)
        return Verdict(
            module=self.case.module,
            counterpart=self.case.counterpart,
            verdict=verdict,
            detail="; ".join(filter(None, details)),
            difference=self._difference(report),
            dtype=self.dtype,
        )

    def check(self, port: Port) -> Report:
        # The inputs are of the kind that the modules are made for; variants of them are not all.
        return parity.check(*port, dtypes=self.dtypes, variants=False)

    def _judged(self, report: Report) -> list[str]:
        # The verdict, then its details.
        if not failed(report) and not report.passed:
            return [NOT_CHECKED, " ".join(report.summary().split())]
        if self._means_the_same(report):
            return [_equal(self.port), _rounding(report)]
        promise = self.case.promise
        if promise and promise.holds():
            return ["faulty", promise.words, _named_equation(report), self._smallest()]
        found = self._explaining()
        if found:
            variant, explained = found
            return [*_explained(variant, self.case), _rounding(explained)]
        named = _named_equation(report)
        return [ANOTHER_EQUATION, named] if named else ["differs", _worst(report)]

    def _explaining(self) -> tuple[Variant, Report] | None:
        """The first variant that the module equals, and its report."""
        for variant in self.case.variants:
            port = variant.port(self.case.sizes)
            if agrees(port, self.dtype):
                report = self.check(port)
                if self._means_the_same(report):
                    return variant, report
        return None

    def _means_the_same(self, report: Report) -> bool:
        """Whether nothing fails in the highest precision that could be compared."""
        found = [finding for finding in report.findings if finding.dtype == self.dtype]
        return bool(found) and all(f.outcome.value not in ("FAIL", "ERROR") for f in found)

    def _smallest(self) -> str:
        return f"smallest case: {smallest_case(self.case.port, self.case.sizes)}"

    def _difference(self, report: Report) -> float | None:
        """The largest distance of an output."""
        criterion = {"float64": "C1", "float32": "C3"}[self.dtype]
        distances = [
            finding.value
            for finding in report.findings
            if (finding.dtype, finding.quantity, finding.criterion)
            == (self.dtype, "forward", criterion)
        ]
        return max(distances, default=None)


def _equal(port: Port) -> str:
    folded = any("folded" in lost for lost in port.weight_map.inexact.values())
    return "equal after folding" if folded else "equal"


ANOTHER_EQUATION = "another equation"
NOT_CHECKED = "not checked"
VERDICTS: dict[Kind, str] = {
    "option": "{equal} with {words}",
    "weights": "{equal}",
    "equation": ANOTHER_EQUATION,
}
"""The verdict on a module that equals a variant, by how that differs from the counterpart."""


def _explained(variant: Variant, case: Case) -> tuple[str, str]:
    equal = _equal(variant.port(case.sizes))
    verdict = VERDICTS[variant.kind].format(equal=equal, words=variant.words)
    detail = "" if variant.kind == "option" else variant.words
    return verdict, detail


def _named_equation(report: Report) -> str:
    """The equation that parity names; empty if it names none."""
    for remark in report.remarks:
        if remark.startswith(EQUATION):
            return remark.partition(": ")[2].rstrip(".")
    return ""


def _rounding(report: Report) -> str:
    """What fails in a lower precision only; empty if nothing does."""
    return f"rounds worse than PyTorch: {_worst(report)}" if failed(report) else ""


def _worst(report: Report) -> str:
    """The failure that is farthest from its limit, in words."""
    bad = [finding for finding in report.findings if finding.outcome.value == "FAIL"]
    shown = max(bad, key=lambda finding: finding.margin)
    return (
        f"{shown.quantity} {shown.dtype} {shown.criterion} {shown.array}: "
        f"{shown.value:.2g} > {shown.limit:.2g} {shown.note}"
    ).strip()
