"""The scaling curves as pictures: one a letter and cell, and memory against T."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import SCALING_BASE, Case

LETTERS = {"T": "steps", "H": "hidden_size", "B": "batch_size"}
BASE = dict(zip(("batch_size", "steps", "hidden_size", "num_layers"), SCALING_BASE, strict=True))
AXES = {
    "T": "T, characters in a window",
    "H": "H, width of the carry",
    "B": "B, sequences side by side",
}

Point = tuple[int, float]


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the results have of the scaling part; returns the files.

    Raises:
        ValueError: if they have no scaling part.
    """
    records = results.get("scaling") or []
    if not records:
        raise ValueError("There are no scaling results to draw: measure them with --parts scaling.")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for cell in sorted({record["case"]["cell"] for record in records}):
        of_cell = [record for record in records if record["case"]["cell"] == cell]
        for letter in LETTERS:
            curves = _curves(of_cell, letter, _microseconds_per_character)
            path = folder / f"{cell}-time-against-{letter}.png"
            paths += _draw(results, curves, AXES[letter], "us per character", path)
        curves = _curves(of_cell, "T", _mebibytes)
        path = folder / f"{cell}-memory-against-T.png"
        paths += _draw(results, curves, AXES["T"], "MiB above the start", path)
    return paths


def _curves(records: Sequence[Any], letter: str, value: Any) -> dict[str, list[Point]]:
    """For each implementation, the points of the curve along which only `letter` varies."""
    curves: dict[str, list[Point]] = {}
    for record in records:
        case = record["case"]
        varied = LETTERS[letter]
        others = {name: base for name, base in BASE.items() if name != varied}
        if any(case[name] != base for name, base in others.items()):
            continue
        for name, entry in _measured(record):
            curves.setdefault(name, []).append((case[varied], value(Case(**case), entry)))
    return {name: sorted(points) for name, points in curves.items()}


def _measured(record: Any) -> Iterator[tuple[str, Any]]:
    yield from ((n, e) for n, e in record["implementations"].items() if e["status"] == "measured")


def _microseconds_per_character(case: Case, entry: Any) -> float:
    return float(entry["time"]["median"] / case.characters * 1e6)


def _mebibytes(case: Case, entry: Any) -> float:
    return float(entry["peak_mib"] - entry["start_mib"])


def _draw(
    results: dict[str, Any], curves: dict[str, list[Point]], x: str, y: str, path: Path
) -> list[Path]:
    if not curves:
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        title = results["titles"].get(name, name)
        axes.plot(*zip(*points, strict=True), marker="o", label=title)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(f"{path.stem.replace('-', ' ')} ({results['machine']['cpu']})", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return [path]
