"""Summaries as text: epoch by epoch, published, ours, PyTorch's and the differences."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from jaxrnn.reproduction.comparison import Curve, Pair, Summary

NAMES = {"jax": "jaxrnn", "torch": "PyTorch"}
COLUMNS = 10
"""Epochs that are shown at most, where the course published nothing."""
LABEL, NUMBER = 24, 8


def lines(summary: Summary) -> list[str]:
    """A summary as a small table."""
    epochs = _shown(summary)
    unit = summary.unit
    changes = "".join(f", {name} {value}" for name, value in unit.changes.items())
    study = f"{unit.study}: " if unit.study else ""
    table = [f"{study}{unit.recipe}, {unit.dtype}{changes}"]
    table.append(_line("epoch", [f"{epoch:{NUMBER}d}" for epoch in epochs]))
    if summary.published:
        table.append(_numbers("published", summary.published, epochs, ".3f"))
    for curve in summary.curves:
        table += _curve(curve, summary.published, epochs)
    if summary.pairs:
        each = [pair.validation for pair in summary.pairs]
        apart = {epoch: fmean(losses[epoch] for losses in each) for epoch in epochs}
        table.append(_numbers("jaxrnn - PyTorch", apart, epochs, "+.4f"))
    return table + [_pair(pair) for pair in summary.pairs]


def _shown(summary: Summary) -> list[int]:
    epochs = list(summary.curves[0].mean)
    if len(epochs) <= COLUMNS:
        return epochs
    published = set(summary.published) or set(epochs[-COLUMNS:])
    return sorted(published & set(epochs) | {epochs[-1]})


def _curve(curve: Curve, published: Mapping[int, float], epochs: Sequence[int]) -> list[str]:
    count = len(curve.seeds)
    seeds = f"{count} seeds" if count > 1 else f"seed {curve.seeds[0]}"
    table = [_numbers(f"{NAMES[curve.framework]}, {seeds}", curve.mean, epochs, ".4f")]
    if curve.deviation:
        table.append(_numbers("  standard deviation", curve.deviation, epochs, ".4f"))
    if published:
        apart = {e: curve.mean[e] - published[e] for e in epochs if e in published}
        table.append(_numbers("  from published", apart, epochs, "+.4f"))
    return table


def _pair(pair: Pair) -> str:
    return (
        f"  same start, seed {pair.seed}: weights differ by {pair.weights:.1e} ({pair.tensor}), "
        f"validation by at most {pair.farthest:.1e}"
    )


def _numbers(label: str, values: Mapping[int, float], epochs: Sequence[int], form: str) -> str:
    return _line(label, [f"{values[e]:{form}}" if e in values else "" for e in epochs])


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:{LABEL}}" + "".join(f"{cell:>{NUMBER}}" for cell in cells).rstrip()
