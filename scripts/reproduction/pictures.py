"""The figures: losses by epoch, runs that part, bptt, and the norm of the gradient."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from PIL import Image

from reproduction import studies
from reproduction.findings import Findings
from reproduction.results import Record
from reproduction.statistics import Outcome, outcomes

DPI = 100
WIDTH = 10.0
"""Inches: with DPI, the width of a page on GitHub."""
COLORS = 128
COLUMNS = 3
OURS, THEIRS = "tab:blue", "tab:orange"
THIN: Mapping[str, Any] = {"linewidth": 0.7, "alpha": 0.5}
THICK: Mapping[str, Any] = {"linewidth": 2.2}


def draw(findings: Findings, folder: Path) -> None:
    """Draw the figures for which there are results, as PNG, each under the page's name for it."""
    run = [outcome for outcome in outcomes(findings) if outcome.ours]
    bptt = studies.variants(findings, "bptt")
    identity = studies.initializations(findings)
    if run:
        _save(_losses(run), folder / "losses.png")
    if findings.horizons:
        _save(_horizons(findings), folder / "horizon.png")
    if bptt:
        _save(_bptt(bptt), folder / "bptt.png")
    if identity:
        _save(_norms(identity), folder / "gradient-norms.png")
    if cells := studies.cells(findings):
        _save(_cells(cells), folder / "cells.png")
    if any(one.flows(0) for one in identity):
        _save(_flow(identity), folder / "gradient-flow.png")


def _panels(count: int, columns: int, height: float) -> tuple[Figure, list[Any]]:
    """A figure with so many panels, `height` inches each."""
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, rows * height), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    for axes in grid[:count]:
        axes.grid(alpha=0.3)
    return figure, list(grid[:count])


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with a palette: a third of the size."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


def _curves(records: Sequence[Record]) -> np.ndarray:
    """Validation losses (seeds, epochs)."""
    return np.array([list(record.validation.values()) for record in records])


def _losses(run: Sequence[Outcome]) -> Figure:
    figure, panels = _panels(len(run), min(COLUMNS, len(run)), 2.6)
    handles: dict[str, Any] = {}
    for axes, outcome in zip(panels, run, strict=True):
        _draw_outcome(axes, outcome)
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    for axes in panels:
        axes.set_xlabel("epoch")
    for axes in panels[:: min(COLUMNS, len(run))]:
        axes.set_ylabel("validation loss, nats")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    return figure


def _draw_outcome(axes: Any, outcome: Outcome) -> None:
    """One recipe: the seeds and their mean, PyTorch's mean over it, and the published losses."""
    ours = _curves(outcome.ours)
    epochs = range(1, ours.shape[1] + 1)
    axes.plot(epochs, ours.T, color=OURS, label=["a seed"] * len(ours), **THIN)
    axes.plot(epochs, ours.mean(axis=0), color=OURS, label="jaxrnn, mean of the seeds", **THICK)
    if outcome.theirs:
        theirs = _curves(outcome.theirs).mean(axis=0)
        label = "PyTorch, mean of the seeds"
        axes.plot(epochs, theirs, color=THEIRS, linestyle="--", linewidth=1.5, label=label)
    published = outcome.published
    axes.plot(published.keys(), published.values(), "kx", label="published, one run", zorder=3)
    axes.set_title(outcome.recipe, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _horizons(findings: Findings) -> Figure:
    figure, (axes,) = _panels(1, 1, 4.6)
    for number, horizon in enumerate(findings.horizons):
        color, name = f"C{number}", f"{horizon.recipe}, {horizon.dtype}"
        for distances, style, who in (
            (horizon.jax_torch, "-", "JAX and PyTorch"),
            (horizon.torch_ulp, "--", "PyTorch, 1 ulp apart"),
        ):
            found = [(s, d) for s, d in zip(horizon.steps, distances, strict=True) if d > 0]
            if found:
                axes.plot(*zip(*found, strict=True), style, color=color, label=f"{name}: {who}")
    for limit in sorted({horizon.limit for horizon in findings.horizons}):
        axes.axhline(limit, color="black", linestyle=":", label=f"limit, {limit:g}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training steps")
    axes.set_ylabel("distance of all weights, relL2")
    axes.legend(fontsize=9)
    return figure


def _bptt(found: Mapping[str, Sequence[Record]]) -> Figure:
    figure, (by_characters, by_bptt) = _panels(2, 2, 3.8)
    last = {int(length): _curves(records)[:, -1] for length, records in found.items()}
    millions = studies.characters_per_epoch(found) / 1e6
    for bptt, records in found.items():
        curves = _curves(records)
        read = millions * np.arange(1, curves.shape[1] + 1)
        by_characters.plot(read, curves.mean(axis=0), "o-", markersize=4, label=f"bptt {bptt}")
    by_characters.set_xlabel("million characters read")
    by_characters.set_title("means of the seeds", fontsize=10)
    by_characters.legend(fontsize=9)
    by_bptt.plot(last.keys(), [each.mean() for each in last.values()], "o-", color=OURS)
    for length, losses in last.items():
        by_bptt.plot([length] * len(losses), losses, "_", color="black", markersize=9)
    by_bptt.plot([], [], "_", color="black", label="seeds")
    by_bptt.set_xscale("log", base=2)
    by_bptt.set_xticks(list(last), labels=list(map(str, last)))
    by_bptt.set_xlabel("bptt, characters in a window")
    by_bptt.set_title("at the end", fontsize=10)
    by_bptt.legend(fontsize=9)
    for axes in (by_characters, by_bptt):
        axes.set_ylabel("validation loss, nats")
    return figure


def _cells(found: Sequence[studies.OfCell]) -> Figure:
    """Losses against training time: an epoch of a run takes as long as any other."""
    figure, (axes,) = _panels(1, 1, 4.6)
    for number, cell in enumerate(found):
        curves = _curves(cell.records)
        minutes = cell.seconds / 60 / curves.shape[1] * np.arange(1, curves.shape[1] + 1)
        label = f"{cell.name}, {cell.parameters:,} parameters"
        axes.plot(minutes, curves.T, color=f"C{number}", **THIN)
        axes.plot(minutes, curves.mean(axis=0), "o-", color=f"C{number}", markersize=4, label=label)
    axes.set_xlabel("minutes of training and validation")
    axes.set_ylabel("validation loss, nats")
    axes.legend(fontsize=9)
    return figure


def _norms(found: Sequence[studies.Initialization]) -> Figure:
    schedules = list(dict.fromkeys(one.schedule for one in found))
    figure, panels = _panels(len(schedules), len(schedules), 3.8)
    for one in found:
        axes = panels[schedules.index(one.schedule)]
        color = OURS if one.start == "identity" else THEIRS
        steps = [step for step, _ in one.records[0].norms]
        norms = np.array([[norm for _, norm in record.norms] for record in one.records])
        _draw_seeds(axes, steps, norms, color, f"{one.start} initialisation")
    for axes, schedule in zip(panels, schedules, strict=True):
        axes.set_title(f"schedule {schedule}", fontsize=10)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("training steps")
        axes.set_ylabel("norm of the gradient")
        axes.legend(fontsize=9)
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure


def _flow(found: Sequence[studies.Initialization]) -> Figure:
    """The gradient on its way back, at the start and at the end of each training."""
    figure, panels = _panels(2, 2, 3.8)
    shown = [one for one in found if one.flows(0)]
    for place, axes in enumerate(panels):
        for number, one in enumerate(shown):
            norms = np.array(one.flows(place))
            back = np.arange(1, norms.shape[1] + 1)
            _draw_seeds(axes, back, norms, f"C{number}", f"{one.start}, {one.schedule}")
        axes.set_yscale("log")
        axes.set_title(f"at the {('start', 'end')[place]} of training", fontsize=10)
        axes.set_xlabel("steps back from the loss")
        axes.set_ylabel("norm of the gradient of the state")
        axes.legend(fontsize=9)
    return figure


def _draw_seeds(axes: Any, steps: Any, norms: np.ndarray, color: str, name: str) -> None:
    """The norms of each seed (seeds, steps), and their geometric mean."""
    axes.plot(steps, norms.T, color=color, **THIN)
    axes.plot(steps, np.exp(np.log(norms).mean(axis=0)), color=color, label=name, **THICK)
