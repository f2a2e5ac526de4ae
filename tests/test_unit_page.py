"""A report's rows, lines and colors, one by one."""

import json
import math

import numpy as np
import pytest

from parity.core.compare import Comparison, Outcome
from parity.report.page import BAR, HEIGHT, LARGEST, SMALLEST, html_page, report_grids
from parity.report.report import HEADER, PACKAGES, SHOWN, Report, environment

WHAT = Comparison("pair", "gradients", "float64")
PASSED = WHAT.finding("C1", "w", Outcome.PASS, value=1e-13, limit=1e-11)
FAILED = WHAT.finding("C1", "v", Outcome.FAIL, value=2e-9, limit=1e-11, note="why")
BROKEN = WHAT.finding("C0", "", Outcome.ERROR, note="it broke")
NAMES = WHAT.finding("C0", "3 arrays", Outcome.PASS, value=0.0)
NOTHING = WHAT.finding("C1", "u", Outcome.ABSTAIN)


def report(*findings, **options):
    return Report("title", findings, environment={}, **options)


@pytest.mark.parametrize(
    ("findings", "outcome", "passed"),
    [
        ((), Outcome.ABSTAIN, False),
        ((NAMES,), Outcome.ABSTAIN, False),
        ((NAMES, NOTHING), Outcome.ABSTAIN, False),
        ((NAMES, PASSED), Outcome.PASS, True),
        ((PASSED, FAILED), Outcome.FAIL, False),
        ((BROKEN,), Outcome.ERROR, False),
        ((PASSED, BROKEN), Outcome.ERROR, False),
    ],
)
def test_the_verdict_needs_a_number_that_was_judged(findings, outcome, passed):
    assert report(*findings).outcome is outcome
    assert report(*findings).passed == passed


def test_the_summary_shows_remarks_and_the_first_failures():
    many = report(PASSED, *[FAILED] * SHOWN, remarks=("a remark",)).summary().splitlines()
    line = "  FAIL pair, gradients float64 C1 v: 2e-09 > 1e-11 (why)"
    assert many == ["title: FAIL", "  a remark", *[line] * SHOWN]
    more = report(*[FAILED] * (SHOWN + 2)).summary().splitlines()
    assert len(more) == 1 + SHOWN + 1
    assert more[-1] == "  and 2 more"


def test_a_failure_is_a_line_with_what_there_is_of_it():
    from dataclasses import replace

    full = replace(FAILED, path="scan", inputs="the second batch", note="")
    line = "  FAIL pair, gradients float64 scan C1 v, the second batch: 2e-09 > 1e-11"
    assert report(full).summary().splitlines()[1] == line
    assert report(BROKEN).summary().splitlines()[1] == (
        "  ERROR pair, gradients float64 C0  (it broke)"
    )


def test_the_table_has_a_row_for_each_quantity_precision_path_and_criterion():
    header, rows = report(PASSED, FAILED, BROKEN).table()
    assert header == HEADER
    assert rows == [
        ("gradients", "float64", "-", "C1", "2", "2e-09", "1e-11", "FAIL", "pair: v"),
        ("gradients", "float64", "-", "C0", "1", "nan", "0", "ERROR", "pair"),
    ]
    assert all(len(row) == len(header) for row in rows)


def test_json_has_no_number_that_it_cannot_hold():
    grids = {"map": {"row": {"0": math.inf, "1": np.float64(-math.inf), "2": 0.5}}}
    whole = Report("t", (PASSED, BROKEN), ("r",), grids, {"seed": 0, "odd": (math.nan, [1.5])})
    content = json.loads(whole.to_json())
    assert content["grids"] == {"map": {"row": {"0": "inf", "1": "-inf", "2": 0.5}}}
    assert content["environment"] == {"seed": 0, "odd": ["nan", [1.5]]}
    assert content["findings"][1]["value"] == "nan"
    assert content["findings"][0]["value"] == 1e-13
    assert [f["outcome"] for f in content["findings"]] == ["PASS", "ERROR"]
    assert (content["title"], content["outcome"], content["remarks"]) == ("t", "ERROR", ["r"])
    assert whole.to_json().startswith('{\n "title"')


def test_the_environment_has_versions_seed_and_devices():
    found = environment()
    assert tuple(found["packages"]) == PACKAGES
    assert "not installed" not in (found["packages"]["jax"], found["packages"]["torch"])
    assert found["seed"] == 0
    assert found["date"].endswith("+00:00")
    assert len(found["date"]) == len("2026-01-01T00:00:00+00:00")
    assert found["jax_device"].startswith(("cpu: ", "gpu: ", "tpu: "))


def test_the_grid_of_float64_has_the_worst_of_each_quantity():
    from dataclasses import replace

    low = replace(PASSED, criterion="C2", dtype="float32", value=1.0)
    on_path = replace(PASSED, path="scan", value=3e-13)
    unknown = replace(PASSED, quantity="loss", value=math.nan)
    found = report_grids(report(PASSED, FAILED, PASSED, low, on_path, unknown))
    assert found == {
        "float64, C1: pair x quantity": {
            "pair": {"gradients": 2e-9},
            "pair, scan": {"gradients": 3e-13},
        }
    }
    own = {"own": {"row": {"0": 1.0}}}
    assert report_grids(report(low, grids=own)) == own


def cells(page):
    """Style, title and text of each colored cell."""
    import re

    pattern = r'<td style="background:([^"]*)"(?: title="([^"]*)")?>([^<]*)</td>'
    return re.findall(pattern, page)


def page_of(row, title="a map"):
    page = html_page(report(grids={title: row}))
    return page[page.index(f"<h3>{title}") :]


def test_colors_go_with_the_power_of_ten():
    values = {
        "a": 10.0**SMALLEST,
        "b": 10.0**LARGEST,
        "c": 1e-8,
        "d": 0.0,
        "e": math.inf,
        "f": 1e-30,
    }
    found = cells(page_of({"row": values}))
    assert [text for _, _, text in found] == ["-17", "0", "-8", "=", "inf", "-30"]
    blue, red = "hsl(215 75% 90%)", "hsl(0 75% 68%)"
    share = (-8 - SMALLEST) / (LARGEST - SMALLEST)
    between = f"hsl({215 * (1 - share):.0f} 75% {90 - 22 * share:.0f}%)"
    assert [style for style, _, _ in found] == [blue, red, between, "#f4f6f8", red, blue]
    assert found[2][1] == "1e-08"


def test_rows_have_the_columns_of_all_rows():
    page = page_of({"one": {"x": 1.0}, "two": {"y": 1.0}}, "layer x gate")
    assert "<tr><th>gate</th><th>x</th><th>y</th></tr>" in page
    one, two = page.split("<tr><th>one</th>")[1].split("<tr><th>two</th>")
    assert one.endswith("<td></td></tr>")
    assert two.startswith("<td></td><td ")
    assert "<tr><th>time step</th>" in page_of({"one": {"0": 1.0}}, "layer x time step")
    assert "<tr><th></th>" in page_of({"one": {"0": 1.0}}, "pair x quantity")


def test_the_legend_has_a_cell_for_each_power():
    page = html_page(report())
    legend = page[page.index('<table class="map legend">') :]
    legend = legend[: legend.index("</table>")]
    shown = [text for _, _, text in cells(legend)]
    assert shown == ["=", *(str(power) for power in range(SMALLEST, LARGEST + 1))]
    first, between, last = 3, len(shown) - 1 - 6, 3
    words = "<td>same</td><td colspan=3>round-off</td>"
    assert f"{words}<td colspan={between}></td><td colspan=3>no digit in common</td>" in legend
    assert first + between + last == len(shown) - 1


def margins(*values, limit=1.0):
    return [WHAT.finding("C1", "w", Outcome.PASS, value=v, limit=limit) for v in values]


def figure(*findings):
    import re

    page = html_page(report(*findings))
    bars = re.findall(r'<rect x="(\d+)" y="([\d.]+)" width="(\d+)" height="([\d.]+)" fill="(#\w+)">'
                      r"<title>10\^(-?\d+): (\d+)</title></rect>", page)  # fmt: skip
    return page, [tuple(bar) for bar in bars]


def test_a_histogram_counts_powers_of_ten_up_to_the_limit():
    page, bars = figure(*margins(2e-3, 5e-3, 0.2, 0.0, math.nan), *margins(1.0, limit=0.0))
    assert [(power, count) for *_, power, count in bars] == [
        ("-3", "2"),
        ("-2", "0"),
        ("-1", "1"),
        ("0", "0"),
    ]
    assert [int(x) for x, *_ in bars] == [4 + k * BAR for k in range(4)]
    assert [float(height) for _, _, _, height, *_ in bars] == [HEIGHT, 0, HEIGHT / 2, 0]
    assert [float(y) for _, y, *_ in bars] == [14, HEIGHT + 14, HEIGHT / 2 + 14, HEIGHT + 14]
    assert {width for _, _, width, *_ in bars} == {str(BAR - 2)}
    blue, red = "#3566b0", "#b3161b"
    assert [fill for _, _, _, _, fill, *_ in bars] == [blue, blue, blue, red]
    assert "C1, float64: 3 numbers" in page
    assert f'<svg width="{max(BAR * 4 + 8, 120)}" height="{HEIGHT + 30}"' in page
    # The power below each bar, the count above it if there is one.
    assert f'<text x="{4 + (BAR - 2) / 2}" y="{HEIGHT + 24}" text-anchor="middle">-3</text>' in page
    assert f'<text x="{4 + (BAR - 2) / 2}" y="11.0" text-anchor="middle">2</text>' in page
    assert 'text-anchor="middle">0</text></svg>' in page.replace("</text><rect", "</text>\n<rect")


def test_a_histogram_has_a_bar_for_infinity_far_to_the_right():
    _, bars = figure(*margins(0.5, math.inf))
    assert [int(power) for *_, power, _ in bars] == list(range(-1, 21))
    assert bars[-1][-1] == "1"
    _, bars = figure(*margins(3e-2))
    assert [int(power) for *_, power, _ in bars] == [-2, -1, 0]


def test_only_warnings_failures_and_errors_are_listed_with_all_that_is_known():
    warned = WHAT.finding("C2", "x", Outcome.WARN, value=1.7, limit=2.0, note="near")
    page = html_page(report(PASSED, warned, NOTHING))
    listed = page[page.index("Failures and warnings") :]
    row = ["pair", "gradients", "float64", "-", "C2", "x", "1.7", "2"]
    shown = "".join(f"<td>{cell}</td>" for cell in row)
    assert f"<tr>{shown}<td class=WARN>WARN</td><td>near</td></tr>" in listed
    assert listed.count("<tr>") == 2 + 1  # head, row, and the head of what it was made with
    assert "<p>None.</p>" in html_page(report(PASSED))
    names = ["pair", "quantity", "precision", "path", "criterion", "array", "value", "limit"]
    assert "".join(f"<th>{n}</th>" for n in (*names, "outcome", "note")) in listed


def test_a_remark_of_several_lines_shows_code():
    page = html_page(report(remarks=("first\nx = 1\ny < 2", "alone")))
    assert "<p>first</p><pre>x = 1\ny &lt; 2</pre>" in page
    assert "<p>alone</p><" in page
    assert "<p>alone</p><pre>" not in page


def test_the_environment_is_flat():
    made_with = {"seed": 0, "packages": {"jax": "1", "torch": "2"}}
    page = html_page(Report("t", (), environment=made_with))
    flat = (("seed", 0), ("jax", 1), ("torch", 2))
    rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in flat)
    assert f"<tr><th>what</th><th>which</th></tr>{rows}</table>" in page
