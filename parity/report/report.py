"""Reports: what was found, where, and on what machine; as a table and as JSON."""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np
import torch

from jaxrnn.runs.environment import cpu_model
from parity.core.compare import Finding, Outcome, failures, worst, worst_outcome

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
# All weights and inputs are sampled from generators seeded from 0 on.
SEED = 0
# Failures in a summary.
SHOWN = 12

Row = tuple[str, ...]
HEADER: Row = (
    "quantity",
    "precision",
    "path",
    "criterion",
    "numbers",
    "worst",
    "limit",
    "outcome",
    "where",
)


def environment() -> dict[str, Any]:
    """When and where the numbers were made: versions, seed, threads and devices."""
    device = jax.devices()[0]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": cpu_model(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "seed": SEED,
        "torch_threads": torch.get_num_threads(),
        "jax_device": f"{device.platform}: {device.device_kind}",
        "torch_device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class Report:
    """The findings of a comparison, and their verdict.

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
        """The worst outcome of all; ABSTAIN where no number was judged."""
        found = worst_outcome(self.findings)
        return found if failures(self.findings) or self._judged else Outcome.ABSTAIN

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and something passed."""
        return self._judged and not failures(self.findings)

    @property
    def _judged(self) -> bool:
        """Whether a number was judged: names and shapes alone (C0) show nothing."""
        return any(f.criterion != "C0" and f.outcome is not Outcome.ABSTAIN for f in self.findings)

    def summary(self) -> str:
        """The verdict and what explains it, as lines of text."""
        lines = [f"{self.title}: {self.outcome.value}"]
        lines += [f"  {remark}" for remark in self.remarks]
        bad = failures(self.findings)
        lines += [f"  {_described(finding)}" for finding in bad[:SHOWN]]
        if len(bad) > SHOWN:
            lines.append(f"  and {len(bad) - SHOWN} more")
        return "\n".join(lines)

    def table(self) -> tuple[Row, list[Row]]:
        """One row for each quantity, precision, path and criterion: the worst of all pairs."""
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for finding in self.findings:
            key = (finding.quantity, finding.dtype, finding.path or "-", finding.criterion)
            groups.setdefault(key, []).append(finding)
        return HEADER, [_row(key, findings) for key, findings in groups.items()]

    def to_json(self) -> str:
        """Every number; NaN and infinities as strings."""
        return json.dumps(_finite(self.content()), indent=1, allow_nan=False)

    def content(self) -> dict[str, Any]:
        """What the JSON holds."""
        return {
            "title": self.title,
            "outcome": self.outcome.value,
            "environment": self.environment,
            "remarks": self.remarks,
            "findings": [asdict(f) | {"outcome": f.outcome.value} for f in self.findings],
            "grids": self.grids,
        }


def _row(key: Row, findings: Sequence[Finding]) -> Row:
    # The worst number stands for the group.
    shown = worst(findings)
    where = f"{shown.pair}: {shown.array}" if shown.array else shown.pair
    return (
        *key,
        str(len(findings)),
        f"{shown.value:.2g}",
        f"{shown.limit:.2g}",
        shown.outcome.value,
        where,
    )


def _described(finding: Finding) -> str:
    # One failure as a line of text.
    path = f" {finding.path}" if finding.path else ""
    number = f"{finding.quantity} {finding.dtype}{path} {finding.criterion} {finding.array}"
    line = f"{finding.outcome.value} {finding.pair}, {number}"
    if finding.inputs:
        line += f", {finding.inputs}"
    # What could not be measured has no number.
    if not math.isnan(finding.value):
        line += f": {finding.value:.2g} > {finding.limit:.2g}"
    if finding.note:
        line += f" ({finding.note})"
    return line


def _finite(value: Any) -> Any:
    # The same with NaN and infinities as strings, which JSON has no numbers for.
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
