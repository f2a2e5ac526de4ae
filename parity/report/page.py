"""A report as one HTML page that needs nothing else: heat maps, histograms and every table.

Colors are powers of ten, from white (no error at all) over blue (round-off) to red (no digit in
common). Everything that comes from outside is escaped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from parity.core.compare import Finding
from parity.report.report import Report

Grid = Mapping[str, Mapping[str, float]]

SMALLEST, LARGEST = -17, 0
"""Powers of ten at the ends of the color scale."""
BAR, HEIGHT = 26, 90
"""Pixels: the width of a histogram's bar and the height of the highest."""

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
    header, rows = report.table()
    parts = [
        f"<h1>{escape(report.title)}: <span class={outcome}>{outcome}</span></h1>",
        "".join(_remark(remark) for remark in report.remarks),
        "<h2>Worst number of each check</h2>",
        _table(header, rows),
        "<h2>How far from the limit</h2><p>How many numbers have which power of ten of value / "
        "limit; bar -3 holds those from 0.001 to 0.01, and from bar 0 on, in red, they lie beyond "
        "the limit.</p>",
        _histograms(report.findings),
        "<h2>Where</h2><p>Errors as powers of ten; empty where nothing was compared, = where the "
        "numbers are the same to the last bit.</p>",
        _legend(),
        *(_heat_map(title, grid) for title, grid in report_grids(report).items()),
        "<h2>Failures and warnings</h2>",
        _findings(report.findings),
        "<h2>Made with</h2>",
        _table(("what", "which"), _environment(report.environment)),
    ]
    title = escape(report.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _remark(remark: str) -> str:
    """A paragraph; of several lines, those after the first are shown as code."""
    first, _, code = remark.partition("\n")
    return f"<p>{escape(first)}</p>" + (f"<pre>{escape(code)}</pre>" if code else "")


def _legend() -> str:
    """The colors of the heat maps."""
    cells = "".join(_cell(10.0**power) for power in range(SMALLEST, LARGEST + 1))
    row = f"{_cell(0.0)}{cells}"
    ends = (
        "<td>same</td><td colspan=3>round-off</td>"
        f"<td colspan={LARGEST - SMALLEST - 5}></td><td colspan=3>no digit in common</td>"
    )
    return f'<table class="map legend"><tr>{row}</tr><tr>{ends}</tr></table>'


def report_grids(report: Report) -> dict[str, Grid]:
    """The report's own heat maps, and one of pairs x checks for float64."""
    grid: dict[str, dict[str, float]] = {}
    for finding in report.findings:
        if finding.gate == "G1" and not math.isnan(finding.value):
            name = f"{finding.pair}, {finding.path}" if finding.path else finding.pair
            row = grid.setdefault(name, {})
            row[finding.check] = max(row.get(finding.check, 0.0), finding.value)
    return {**report.grids, "float64, G1: subject x check": grid} if grid else dict(report.grids)


def _heat_map(title: str, grid: Grid) -> str:
    columns = list(dict.fromkeys(column for row in grid.values() for column in row))
    corner = "time step" if "time step" in title else "gate" if "gate" in title else ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(_cell(row.get(c)) for c in columns)}</tr>"
        for name, row in grid.items()
    )
    return (
        f"<h3>{escape(title)}</h3><div class=scroll><table class=map>"
        f"<tr><th>{corner}</th>{head}</tr>{body}</table></div>"
    )


def _cell(value: float | None) -> str:
    if value is None:
        return "<td></td>"
    if value == 0:
        return '<td style="background:#f4f6f8">=</td>'
    power = math.log10(value) if math.isfinite(value) else math.inf
    shown = round(power) if math.isfinite(power) else "inf"
    return f'<td style="background:{_color(power)}" title="{value:.3g}">{shown}</td>'


def _color(power: float) -> str:
    share = min(max((power - SMALLEST) / (LARGEST - SMALLEST), 0.0), 1.0)
    return f"hsl({215 - 215 * share:.0f} 75% {90 - 22 * share:.0f}%)"


def _histograms(findings: Iterable[Finding]) -> str:
    gates: dict[str, list[float]] = {}
    for finding in findings:
        margin = finding.margin
        if finding.limit > 0 and margin > 0 and not math.isnan(margin):
            gates.setdefault(f"{finding.gate}, {finding.dtype}", []).append(margin)
    return "".join(_histogram(title, margins) for title, margins in gates.items())


def _histogram(title: str, margins: Sequence[float]) -> str:
    powers = [math.floor(math.log10(m)) if math.isfinite(m) else 20 for m in margins]
    low, high = min(powers), max(*powers, 0)
    counts = [powers.count(power) for power in range(low, high + 1)]
    bars = "".join(_bar(k, low + k, count, max(counts)) for k, count in enumerate(counts))
    width = max(BAR * len(counts) + 8, 120)
    caption = f"<figcaption>{escape(title)}: {len(margins)} numbers</figcaption>"
    size = f'width="{width}" height="{HEIGHT + 30}"'
    return f"<figure>{caption}<svg {size} role=img>{bars}</svg></figure>"


def _bar(place: int, power: int, count: int, most: int) -> str:
    height = HEIGHT * count / most
    x, y = 4 + place * BAR, HEIGHT + 14 - height
    color = "#b3161b" if power >= 0 else "#3566b0"
    middle = x + (BAR - 2) / 2
    shown = f'<text x="{middle}" y="{HEIGHT + 24}" text-anchor="middle">{power}</text>'
    if count:
        shown += f'<text x="{middle}" y="{y - 3:.1f}" text-anchor="middle">{count}</text>'
    label = f"<title>10^{power}: {count}</title>"
    size = f'width="{BAR - 2}" height="{height:.1f}"'
    return f'<rect x="{x}" y="{y:.1f}" {size} fill="{color}">{label}</rect>{shown}'


def _findings(findings: Iterable[Finding]) -> str:
    bad = [f for f in findings if f.outcome.value in ("WARN", "FAIL", "ERROR")]
    if not bad:
        return "<p>None.</p>"
    header = (
        "pair",
        "check",
        "precision",
        "path",
        "gate",
        "array",
        "value",
        "limit",
        "outcome",
        "note",
    )
    rows = [
        (*(f.pair, f.check, f.dtype, f.path or "-", f.gate, f.array), *_numbers(f), *_verdict(f))
        for f in bad
    ]
    return _table(header, rows)


def _verdict(finding: Finding) -> tuple[str, str]:
    return finding.outcome.value, finding.note


def _numbers(finding: Finding) -> tuple[str, str]:
    return f"{finding.value:.3g}", f"{finding.limit:.3g}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(_td(value) for value in row)}</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _td(value: str) -> str:
    outcome = value in ("PASS", "WARN", "FAIL", "ABSTAIN", "ERROR")
    return f"<td{f' class={value}' if outcome else ''}>{escape(value)}</td>"


def _environment(environment: Mapping[str, object]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            rows += [(str(inner), str(version)) for inner, version in value.items()]
        else:
            rows.append((name, str(value)))
    return rows
