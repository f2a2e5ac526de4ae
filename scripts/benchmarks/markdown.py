"""The Markdown tables, made from the results file alone.

Times are medians over the rounds, with quartiles in the table of ours. A ratio is a rival's time
over ours, round by round, its median: above 1, ours is faster. The floor is explained in floors.py.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.arithmetic import fastest, geometric_mean, spread
from benchmarks.cases import Case
from benchmarks.contestants import OURS

Result = dict[str, Any]

HEADINGS = {
    "training": "Training: forward, loss, backward, clipping, Adam",
    "forward": "Forward pass and loss",
    "generation": "Generation",
    "scaling": "Scaling: training",
    "segments": "Long windows: training, with the activations of one segment kept at once",
}


def report(results: dict[str, Any]) -> str:
    """All the tables of a results file."""
    pieces = [_heading(results)]
    for part, title in HEADINGS.items():
        if records := results.get(part):
            pieces += [f"## {title}", _ours(records), _ratios(results, records)]
            pieces += [_costs(results, records), _remarks(results, records)]
    if results.get("job"):
        pieces += ["## Whole job, process start to final validation loss", _jobs(results["job"])]
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def summary(records: Sequence[Result], group: Sequence[str]) -> dict[str, float | None]:
    """Geometric means of the ratios: for each rival, and for the best of `group` in each case."""
    names = {name: None for record in records for name in record["contestants"] if name != OURS}
    means = {name: geometric_mean(_ratio_column(records, name)) for name in names}
    best = (_best_ratio(record, group) for record in records)
    return means | {BEST: geometric_mean(ratio for ratio in best if ratio is not None)}


BEST = "best of a group"


def _heading(results: dict[str, Any]) -> str:
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return (
        f"`{results['command']}`\n\n{results['date'][:10]}; {machine['cpu']}, {machine['cores']} "
        f"cores, {settings['threads']} threads each; {settings['rounds']} rounds of about "
        f"{settings['seconds']:g} s in turn; float32. {versions}."
    )


def _ours(records: Sequence[Result]) -> str:
    rows = []
    for record in records:
        ours = record["contestants"].get(OURS, {})
        if ours.get("status") == "measured":
            time, case = ours["time"], Case(**record["case"])
            each = time["median"] / case.characters * 1e6
            quartiles = f"{_ms(time['lower'])} - {_ms(time['upper'])}"
            floor = record["floor_s"]
            cells = [_ms(time["median"]), quartiles, f"{each:.3g}", _ms(floor)]
            rows.append([case.label, *cells, _number(time["median"] / floor)])
    heads = ["B, T, H, layers", "jaxrnn, ms", "quartiles", "us per character"]
    return table([*heads, "floor, ms", "times the floor"], rows)


def _ratios(results: dict[str, Any], records: Sequence[Result]) -> str:
    names = _rivals(records)
    titles = [results["titles"].get(name, name) for name in names]
    writing = records[0]["case"]["kind"] == "generation"  # where all rivals are PyTorch's
    group, title = (names, "best PyTorch") if writing else (results["jax_rivals"], "best JAX rival")
    means = summary(records, group)
    with_best = means[BEST] is not None
    rows = []
    for record in records:
        cells = [_ratio_cell(record["contestants"].get(name, {})) for name in names]
        best = _best_ratio(record, group)
        rows.append([Case(**record["case"]).label, *cells, *([_number(best)] * with_best)])
    last = [*(means[name] for name in names), *([means[BEST]] * with_best)]
    rows.append(["geometric mean", *(_number(mean) for mean in last)])
    heads = ["times as long as jaxrnn", *titles, *([title] * with_best)]
    return table(heads, rows) if names else ""


def _costs(results: dict[str, Any], records: Sequence[Result]) -> str:
    """First call (compilation and one repetition), and peak memory."""
    names = [OURS, *_rivals(records)]
    seconds = [record["contestants"].get(OURS, {}).get("second_start_s") for record in records]
    with_second = any(second is not None for second in seconds)
    rows = []
    for record, second in zip(records, seconds, strict=True):
        cells = [_cost_cell(record["contestants"].get(name, {})) for name in names]
        rows.append([Case(**record["case"]).label, *cells, *([_number(second)] * with_second)])
    titles = [results["titles"].get(name, name) for name in names]
    titles += ["jaxrnn, second start, s"] * with_second
    return table(["first call, s / peak, MiB", *titles], rows)


def _remarks(results: dict[str, Any], records: Sequence[Result]) -> str:
    """Other equations, and why somebody was not measured: each once."""
    remarks: dict[str, list[str]] = {}
    for record in records:
        case = Case(**record["case"])
        for name, entry in record["contestants"].items():
            title = results["titles"].get(name, name)
            if entry.get("differs"):
                text = f"{title}, {case.cell}: another equation (marked *), {entry['differs']}."
                remarks.setdefault(text, [])
            if entry["status"] != "measured":
                text = f"{title} {entry['status']}: {entry.get('reason', '')}"
                remarks.setdefault(text, []).append(case.label)
    lines = (f"- {text}" + (f" ({'; '.join(on)})" if on else "") for text, on in remarks.items())
    return "\n".join(lines)


def _jobs(records: Sequence[Result]) -> str:
    rows = []
    for record in records:
        for name, entry in record["contestants"].items():
            title = {"cold": "jaxrnn, empty cache", "warm": "jaxrnn, warm cache"}.get(
                name, f"PyTorch, {entry.get('threads')} threads"
            )
            if entry["status"] != "measured":
                rows.append([record["recipe"], title, entry["status"], "", "", ""])
                continue
            time = entry["time"]
            loss = spread([run["validation"] for run in entry["runs"]]).median
            cells = [f"{time['median']:.1f}", f"{time['lower']:.1f} - {time['upper']:.1f}"]
            ratio = _number(entry.get("ratio", {}).get("median"))
            rows.append([record["recipe"], title, *cells, f"{loss:.4f}", ratio])
    heads = ["recipe", "", "seconds", "quartiles", "validation loss", "PyTorch / jaxrnn"]
    return table(heads, rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rivals(records: Sequence[Result]) -> list[str]:
    named = {name: None for record in records for name in record["contestants"]}
    return [name for name in named if name != OURS]


def _ratio_column(records: Sequence[Result], name: str) -> list[float]:
    entries = (record["contestants"].get(name, {}) for record in records)
    return [entry["ratio"]["median"] for entry in entries if "ratio" in entry]


def _best_ratio(record: Result, group: Sequence[str]) -> float | None:
    entries = {n: e for n, e in record["contestants"].items() if n in group and "ratio" in e}
    best = fastest({name: entry["time"]["median"] for name, entry in entries.items()})
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
