"""The Markdown tables, made from the results file alone.

Times are medians over the repetitions, with quartiles in the table of ours. A ratio is a baseline's
time over ours, repetition by repetition, its median: above 1, ours is faster. roofline.py explains
the roofline.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.arithmetic import fastest, geometric_mean, spread
from benchmarks.cases import Case
from benchmarks.implementations import OURS

Result = dict[str, Any]

HEADINGS = {
    "training": "Training: forward, loss, backward, clipping, Adam",
    "forward": "Forward pass and loss",
    "generation": "Generation",
    "layer": "A layer alone, inputs of H numbers: values and gradients of weights and inputs",
    "inference": "A layer alone, inputs of H numbers: forward pass",
    "scaling": "Scaling: training",
    "remat": "Long windows: training, with and without recomputed activations",
}
BEST = "best of a group"
"""Key of the geometric mean over the fastest baseline of each case."""


def report(results: dict[str, Any]) -> str:
    """All the tables of a results file."""
    sections = [_heading(results)]
    for part, title in HEADINGS.items():
        records = results.get(part)
        if records:
            sections.append(f"## {title}")
            sections.append(_ours(records))
            sections.append(_ratios(results, records))
            sections.append(_costs(results, records))
            sections.append(_remarks(results, records))
    if results.get("job"):
        sections.append("## Whole job, process start to final validation loss")
        sections.append(_jobs(results["job"]))
    return "\n\n".join(section for section in sections if section) + "\n"


def summary(records: Sequence[Result], group: Sequence[str]) -> dict[str, float | None]:
    """Geometric means of ratios: for each baseline, and for the best of `group` in each case."""
    means = {name: geometric_mean(_ratio_column(records, name)) for name in _baselines(records)}
    best = [_best_ratio(record, group) for record in records]
    means[BEST] = geometric_mean(ratio for ratio in best if ratio is not None)
    return means


def _heading(results: dict[str, Any]) -> str:
    machine = results["machine"]
    settings = results["settings"]
    date = results["date"][:10]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return (
        f"`{results['command']}`\n\n{date}; {machine['cpu']}, {machine['cores']} "
        f"cores, {settings['threads']} threads each; {settings['repetitions']} repetitions of "
        f"about {settings['seconds']:g} s in turn; float32. {versions}."
    )


def _ours(records: Sequence[Result]) -> str:
    """Our times beside the roofline."""
    rows = []
    for record in records:
        ours = record["implementations"].get(OURS, {})
        if ours.get("status") != "measured":
            continue
        case = Case(**record["case"])
        time = ours["time"]
        roofline = record["roofline_s"]
        microseconds = time["median"] / case.characters * 1e6
        rows.append(
            [
                case.label,
                _ms(time["median"]),
                f"{_ms(time['lower'])} - {_ms(time['upper'])}",
                f"{microseconds:.3g}",
                "" if roofline is None else _ms(roofline),
                "" if roofline is None else _number(time["median"] / roofline),
            ]
        )
    what = "vector" if Case(**records[0]["case"]).of_numbers else "character"
    heads = ["B, T, H, layers", "jaxrnn, ms", "quartiles", f"us per {what}"]
    return table([*heads, "roofline, ms", "times the roofline"], rows)


def _ratios(results: dict[str, Any], records: Sequence[Result]) -> str:
    """How many times as long as ours each baseline took, and the best of them."""
    names = _baselines(records)
    if not names:
        return ""
    kind = records[0]["case"]["kind"]
    if kind in ("generation", "layer", "inference"):  # none is in JAX
        group = names
        best_title = "best PyTorch" if kind == "generation" else "best"
    else:
        group = results["jax_baselines"]
        best_title = "best JAX baseline"
    means = summary(records, group)
    with_best = means[BEST] is not None
    rows = []
    for record in records:
        row = [Case(**record["case"]).label]
        row += [_ratio_cell(record["implementations"].get(name, {})) for name in names]
        if with_best:
            row.append(_number(_best_ratio(record, group)))
        rows.append(row)
    heads = ["times as long as jaxrnn", *_titles(results, names)]
    last = ["geometric mean", *(_number(means[name]) for name in names)]
    if with_best:
        heads.append(best_title)
        last.append(_number(means[BEST]))
    return table(heads, [*rows, last])


def _costs(results: dict[str, Any], records: Sequence[Result]) -> str:
    """First call, which compiles, peak memory, and the first call of a second process of ours."""
    names = [OURS, *_baselines(records)]
    seconds = [record["implementations"].get(OURS, {}).get("second_start_s") for record in records]
    with_second = any(second is not None for second in seconds)
    heads = ["first call, s / peak, MiB", *_titles(results, names)]
    if with_second:
        heads.append("jaxrnn, second start, s")
    rows = []
    for record, second in zip(records, seconds, strict=True):
        row = [Case(**record["case"]).label]
        row += [_cost_cell(record["implementations"].get(name, {})) for name in names]
        if with_second:
            row.append(_number(second))
        rows.append(row)
    return table(heads, rows)


def _remarks(results: dict[str, Any], records: Sequence[Result]) -> str:
    """Other equations, and why an implementation was not measured: each once."""
    cases_of: dict[str, list[str]] = {}  # the cases in which it was not measured, by remark
    for record in records:
        case = Case(**record["case"])
        for name, entry in record["implementations"].items():
            (title,) = _titles(results, [name])
            if entry.get("differs"):
                remark = f"{title}, {case.cell}: another equation (marked *), {entry['differs']}."
                cases_of.setdefault(remark, [])
            if entry["status"] != "measured":
                remark = f"{title} {entry['status']}: {entry.get('reason', '')}"
                cases_of.setdefault(remark, []).append(case.label)
    lines = []
    for remark, cases in cases_of.items():
        lines.append(f"- {remark} ({'; '.join(cases)})" if cases else f"- {remark}")
    return "\n".join(lines)


def _jobs(records: Sequence[Result]) -> str:
    """The whole jobs, ours from a cold and from a warm start."""
    rows = []
    for record in records:
        for name, entry in record["implementations"].items():
            title = {"cold": "jaxrnn, empty cache", "warm": "jaxrnn, warm cache"}.get(
                name, f"PyTorch, {entry.get('threads')} threads"
            )
            if entry["status"] != "measured":
                rows.append([record["recipe"], title, entry["status"], "", "", ""])
                continue
            time = entry["time"]
            loss = spread([run["validation"] for run in entry["runs"]]).median
            rows.append(
                [
                    record["recipe"],
                    title,
                    f"{time['median']:.1f}",
                    f"{time['lower']:.1f} - {time['upper']:.1f}",
                    f"{loss:.4f}",
                    _number(entry.get("ratio", {}).get("median")),
                ]
            )
    heads = ["recipe", "", "seconds", "quartiles", "validation loss", "PyTorch / jaxrnn"]
    return table(heads, rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _titles(results: dict[str, Any], names: Sequence[str]) -> list[str]:
    return [results["titles"].get(name, name) for name in names]


def _baselines(records: Sequence[Result]) -> list[str]:
    """All implementations but ours, in the order in which they first occur."""
    named = {name: None for record in records for name in record["implementations"]}
    return [name for name in named if name != OURS]


def _ratio_column(records: Sequence[Result], name: str) -> list[float]:
    entries = (record["implementations"].get(name, {}) for record in records)
    return [entry["ratio"]["median"] for entry in entries if "ratio" in entry]


def _best_ratio(record: Result, group: Sequence[str]) -> float | None:
    """The ratio of the fastest baseline of a group; None if none was measured."""
    entries = record["implementations"]
    measured = [name for name in group if "ratio" in entries.get(name, {})]
    best = fastest({name: entries[name]["time"]["median"] for name in measured})
    return None if best is None else float(entries[best]["ratio"]["median"])


def _ratio_cell(entry: Result) -> str:
    if "ratio" in entry:
        return _number(entry["ratio"]["median"]) + ("*" if entry.get("differs") else "")
    return str(entry.get("status", ""))


def _cost_cell(entry: Result) -> str:
    if entry.get("status") != "measured":
        return ""
    return f"{entry['first_call_s']:.2f} / {entry['peak_mib']:.0f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
