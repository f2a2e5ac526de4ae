"""A report as one HTML page that needs nothing else: heat maps, histograms and every table.

Colors are powers of ten, from white (no error at all) over blue (round-off) to red (no digit in
common). Everything that comes from outside is escaped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from parity.core.compare import Finding, Outcome
from parity.report.report import Report

Grid = Mapping[str, Mapping[str, float]]

# Powers of ten at the ends of the color scale.
SMALLEST = -17
LARGEST = 0
# Pixels: the width of a histogram's bar and the height of the highest.
BAR = 26
HEIGHT = 90

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; color: #1b1f24; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .18rem .6rem; text-align: left; border-bottom: 1px solid #e3e6ea; }
.map td { border: 1px solid #fff; text-align: center; min-width: 2.6rem; font-size: .8rem; }
.scroll { overflow-x: auto; } pre { background: #f4f6f8; padding: .6rem; overflow-x: auto; }
.legend td { min-width: 2rem; padding: .18rem .3rem; }
.map th + th { text-align: center; }
.map th { font-weight: 400; font-size: .85rem; white-space: nowrap; }
.PASS { color: #17692f; } .WARN, .ABSTAIN { color: #8a5a00; }
.FAIL, .ERROR { color: #b3161b; font-weight: 600; } figure { display: inline-block; margin: 1rem; }
figcaption { font-size: .85rem; } svg text { font-size: 9px; fill: #57606a; }
"""


def html_page(report: Report) -> str:
    """The whole page."""
    outcome = report.outcome.value
    title = escape(report.title)
    body = [
        f"<h1>{title}: <span class={outcome}>{outcome}</span></h1>",
        *map(_remark, report.remarks),
        "<h2>Worst number of each quantity</h2>",
        _criteria(),
        _table(*report.table()),
        "<h2>How far from the limit</h2><p>How many numbers have which power of ten of value / "
        "limit; bar -3 holds those from 0.001 to 0.01, and from bar 0 on, in red, they lie beyond "
        "the limit.</p>",
        _histograms(report.findings),
        "<h2>Where</h2><p>Errors as powers of ten; empty where nothing was compared, = where the "
        "numbers are the same to the last bit.</p>",
        _legend(),
        *(_heat_map(name, grid) for name, grid in report_grids(report).items()),
        "<h2>Failures and warnings</h2>",
        _findings(report.findings),
        "<h2>Made with</h2>",
        _table(("what", "which"), _environment(report.environment)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


# What the criteria ask for, as the page explains them.
CRITERIA = {
    "C0": "structure: the same names, shapes and kinds of numbers, NaN and infinity in the same "
    "places",
    "C1": "meaning, in float64: the two differ by round-off only",
    "C2": "numerics, in a lower precision: JAX is no further from the result in float64 than "
    "PyTorch is, by a factor",
    "C3": "a fixed limit for that distance, below which C2 lets much through",
    "C4": "trajectories: training stays among runs of PyTorch's that start or round otherwise",
    "C5": "generation: greedy texts agree wherever the margin exceeds the error",
}
OUTCOMES = (
    "PASS: within the limit. WARN: within it by a rule that the note names. ABSTAIN: shows nothing."
    " FAIL: beyond the limit. ERROR: could not be run."
)


def _criteria() -> str:
    # The legend of the tables.
    lines = "".join(f"<li><b>{name}</b> {escape(text)}</li>" for name, text in CRITERIA.items())
    summary = "<summary>What the criteria are</summary>"
    return f"<details>{summary}<ul>{lines}</ul><p>{OUTCOMES}</p></details>"


def _remark(remark: str) -> str:
    # A paragraph; of several lines, those after the first are shown as code.
    first, _, code = remark.partition("\n")
    paragraph = f"<p>{escape(first)}</p>"
    if code:
        paragraph += f"<pre>{escape(code)}</pre>"
    return paragraph


# Heat maps.


def _legend() -> str:
    # The colors of the heat maps.
    powers = range(SMALLEST, LARGEST + 1)
    cells = "".join(_cell(10.0**power) for power in powers)
    between = len(powers) - 6  # beside three cells at each end
    words = (
        "<td>same</td><td colspan=3>round-off</td>"
        f"<td colspan={between}></td><td colspan=3>no digit in common</td>"
    )
    return f'<table class="map legend"><tr>{_cell(0.0)}{cells}</tr><tr>{words}</tr></table>'


def report_grids(report: Report) -> dict[str, Grid]:
    """The report's own heat maps, and one of pairs x quantities for float64."""
    errors: dict[str, dict[str, float]] = {}
    for finding in report.findings:
        if finding.criterion == "C1" and not math.isnan(finding.value):
            name = f"{finding.pair}, {finding.path}" if finding.path else finding.pair
            # The worst of all arrays of a quantity.
            row = errors.setdefault(name, {})
            row[finding.quantity] = max(row.get(finding.quantity, 0.0), finding.value)
    grids: dict[str, Grid] = dict(report.grids)
    if errors:
        grids["float64, C1: pair x quantity"] = errors
    return grids


def _heat_map(title: str, grid: Grid) -> str:
    # Rows may lack cells, so the columns are those of all rows, in the order of their appearance.
    columns: dict[str, None] = {}
    for row in grid.values():
        columns |= dict.fromkeys(row)
    lines = []
    for name, row in grid.items():
        cells = "".join(_cell(row.get(column)) for column in columns)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    corner = next((word for word in ("time step", "gate") if word in title), "")
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return (
        f"<h3>{escape(title)}</h3><div class=scroll><table class=map>"
        f"<tr><th>{corner}</th>{head}</tr>{''.join(lines)}</table></div>"
    )


def _cell(value: float | None) -> str:
    if value is None:
        return "<td></td>"
    if value == 0:
        return '<td style="background:#f4f6f8">=</td>'
    power = math.inf
    shown = "inf"
    if math.isfinite(value):
        power = math.log10(value)
        shown = str(round(power))
    # White is the smallest, blue to red the rest.
    share = (power - SMALLEST) / (LARGEST - SMALLEST)
    share = min(max(share, 0.0), 1.0)
    color = f"hsl({215 - 215 * share:.0f} 75% {90 - 22 * share:.0f}%)"
    return f'<td style="background:{color}" title="{value:.3g}">{shown}</td>'


# Histograms.


def _histograms(findings: Iterable[Finding]) -> str:
    # One for each criterion and precision.
    margins: dict[str, list[float]] = {}
    for finding in findings:
        margin = finding.margin
        # A margin of 0 has no power of ten.
        if finding.limit > 0 and margin > 0 and not math.isnan(margin):
            margins.setdefault(f"{finding.criterion}, {finding.dtype}", []).append(margin)
    return "".join(_histogram(title, group) for title, group in margins.items())


def _histogram(title: str, margins: Sequence[float]) -> str:
    # Infinity has a bar of its own, far to the right.
    powers = [math.floor(math.log10(m)) if math.isfinite(m) else 20 for m in margins]
    low = min(powers)
    counts = [powers.count(power) for power in range(low, max(*powers, 0) + 1)]
    bars = "".join(_bar(k, low + k, count, max(counts)) for k, count in enumerate(counts))
    width = max(BAR * len(counts) + 8, 120)
    return (
        f"<figure><figcaption>{escape(title)}: {len(margins)} numbers</figcaption>"
        f'<svg width="{width}" height="{HEIGHT + 30}" role=img>{bars}</svg></figure>'
    )


def _bar(place: int, power: int, count: int, most: int) -> str:
    # A bar, the power of ten below it, and the count above it.
    height = HEIGHT * count / most
    x = 4 + place * BAR
    y = HEIGHT + 14 - height
    middle = x + (BAR - 2) / 2
    color = "#b3161b" if power >= 0 else "#3566b0"
    bar = (
        f'<rect x="{x}" y="{y:.1f}" width="{BAR - 2}" height="{height:.1f}" fill="{color}">'
        f"<title>10^{power}: {count}</title></rect>"
        f'<text x="{middle}" y="{HEIGHT + 24}" text-anchor="middle">{power}</text>'
    )
    if count:
        bar += f'<text x="{middle}" y="{y - 3:.1f}" text-anchor="middle">{count}</text>'
    return bar


# Tables.


def _findings(findings: Iterable[Finding]) -> str:
    rows = []
    for f in findings:
        if f.outcome.value in ("WARN", "FAIL", "ERROR"):
            cells = {
                "pair": f.pair,
                "quantity": f.quantity,
                "precision": f.dtype,
                "path": f.path or "-",
                "criterion": f.criterion,
                "array": f.array,
                "value": f"{f.value:.3g}",
                "limit": f"{f.limit:.3g}",
                "outcome": f.outcome.value,
                "note": f.note,
            }
            rows.append(cells)
    if not rows:
        return "<p>None.</p>"
    return _table(list(rows[0]), [list(cells.values()) for cells in rows])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_td, row))}</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _td(value: str) -> str:
    if value in Outcome.__members__:  # colored
        return f"<td class={value}>{value}</td>"
    return f"<td>{escape(value)}</td>"


def _environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    # Name and value of everything, also of what lies one level down.
    rows: list[tuple[str, str]] = []
    for name, value in environment.items():
        # "packages" has names and versions of its own.
        inner = value if isinstance(value, Mapping) else {name: value}
        for key, version in inner.items():
            rows.append((str(key), str(version)))
    return rows
