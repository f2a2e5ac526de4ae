"""Reports: what was found, where, and on what machine; as a table and as JSON."""

import json
import math
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np
import torch

from parity.core.compare import Finding, Outcome, worst, worst_outcome

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
SEED = 0
"""All weights and inputs are drawn from generators seeded from 0 on."""

Row = tuple[str, ...]


def environment() -> dict[str, Any]:
    """What the numbers depend on: versions, seed, threads and devices."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "seed": SEED,
        "torch_threads": torch.get_num_threads(),
        "jax_device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "torch_device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class Report:
    """The outcome of a comparison.

    Attributes:
        title: what was compared.
        findings: every number that was held against a limit.
        remarks: what else a reader must know: what a weight map makes meaningless, what a
            difference was traced to.
        grids: heat maps by title; a grid is rows of cells by label.
        environment: versions, seed, threads and devices.
    """

    title: str
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = ()
    grids: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=environment)

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of all."""
        return worst_outcome(self.findings)

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and something passed."""
        bad = {Outcome.FAIL, Outcome.ERROR}
        outcomes = {finding.outcome for finding in self.findings}
        return not outcomes & bad and bool(outcomes & {Outcome.PASS, Outcome.WARN})

    def summary(self) -> str:
        """The verdict and what explains it, as lines of text."""
        lines = [f"{self.title}: {self.outcome.value}"]
        lines += [f"  {remark}" for remark in self.remarks]
        bad = [f for f in self.findings if f.outcome in (Outcome.FAIL, Outcome.ERROR)]
        lines += [f"  {_described(finding)}" for finding in bad[:SHOWN]]
        if len(bad) > SHOWN:
            lines.append(f"  and {len(bad) - SHOWN} more")
        return "\n".join(lines)

    def table(self) -> tuple[Row, list[Row]]:
        """One row for each check, precision and gate, with the worst number of all pairs."""
        return HEADER, list(_rows(self.findings))

    def to_json(self) -> str:
        """Every number; NaN and infinities as strings."""
        findings = [asdict(f) | {"outcome": f.outcome.value} for f in self.findings]
        content = {
            "title": self.title,
            "outcome": self.outcome.value,
            "environment": self.environment,
            "remarks": self.remarks,
            "findings": findings,
            "grids": self.grids,
        }
        return json.dumps(_finite(content), indent=1, allow_nan=False)


HEADER: Row = (
    "check",
    "precision",
    "path",
    "gate",
    "numbers",
    "worst",
    "limit",
    "outcome",
    "where",
)
SHOWN = 12
"""Failures in a summary."""


def _rows(findings: Iterable[Finding]) -> Iterator[Row]:
    groups: dict[tuple[str, str, str, str], list[Finding]] = {}
    for finding in findings:
        key = (finding.check, finding.dtype, finding.path, finding.gate)
        groups.setdefault(key, []).append(finding)
    for (check, dtype, path, gate), group in groups.items():
        shown = worst(group)
        where = f"{shown.pair}: {shown.array}" if shown.array else shown.pair
        numbers = (f"{shown.value:.2g}", f"{shown.limit:.2g}", shown.outcome.value)
        yield check, dtype, path or "-", gate, str(len(group)), *numbers, where


def _described(finding: Finding) -> str:
    path = f" {finding.path}" if finding.path else ""
    kind = f"{finding.check} {finding.dtype}{path} {finding.gate}"
    what = f"{finding.pair}, {kind} {finding.array}"
    number = "" if math.isnan(finding.value) else f": {finding.value:.2g} > {finding.limit:.2g}"
    return f"{finding.outcome.value} {what}{number}" + (
        f" ({finding.note})" if finding.note else ""
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
