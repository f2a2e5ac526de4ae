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

from jaxrnn.reproduction.page import losses, questions, starts
from jaxrnn.reproduction.page.records import Findings, Record
from jaxrnn.reproduction.page.statistics import Outcome, outcomes

DPI = 100
WIDTH = 10.0
"""Inches: with DPI, the width of a page on GitHub."""
COLOURS = 128
COLUMNS = 3
OURS, THEIRS = "tab:blue", "tab:orange"
THIN: Mapping[str, Any] = {"linewidth": 0.7, "alpha": 0.5}
THICK: Mapping[str, Any] = {"linewidth": 2.2}


def draw(findings: Findings, folder: Path) -> None:
    """Draw the figures for which there are results, as PNG, each under the page's name for it."""
    run = [outcome for outcome in outcomes(findings) if outcome.ours]
    if run:
        _draw_losses(run, folder / losses.PICTURE)
    if findings.horizons:
        _draw_horizons(findings, folder / starts.PICTURE)
    if found := questions.bptt_variants(findings):
        _draw_bptt(found, folder / questions.BPTT_PICTURE)
    if questions.identity_variants(findings):
        _draw_norms(findings, folder / questions.NORMS_PICTURE)
        _draw_flow(findings, folder / questions.FLOW_PICTURE)


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
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def _curves(records: Sequence[Record]) -> np.ndarray:
    """Validation losses (seeds, epochs)."""
    return np.array([list(record.validation.values()) for record in records])


def _draw_losses(run: Sequence[Outcome], path: Path) -> None:
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
    _save(figure, path)


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


def _draw_horizons(findings: Findings, path: Path) -> None:
    figure, (axes,) = _panels(1, 1, 4.6)
    for number, horizon in enumerate(findings.horizons):
        colour, name = f"C{number}", f"{horizon.recipe}, {horizon.dtype}"
        for distances, style, who in (
            (horizon.jax_torch, "-", "JAX and PyTorch"),
            (horizon.torch_ulp, "--", "PyTorch, 1 ulp apart"),
        ):
            found = [(s, d) for s, d in zip(horizon.steps, distances, strict=True) if d > 0]
            if found:
                axes.plot(*zip(*found, strict=True), style, color=colour, label=f"{name}: {who}")
    for limit in sorted({horizon.limit for horizon in findings.horizons}):
        axes.axhline(limit, color="black", linestyle=":", label=f"limit, {limit:g}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training steps")
    axes.set_ylabel("distance of all weights, relL2")
    axes.legend(fontsize=9)
    _save(figure, path)


def _draw_bptt(found: Mapping[int, Sequence[Record]], path: Path) -> None:
    figure, (by_characters, by_bptt) = _panels(2, 2, 3.8)
    last = {bptt: _curves(records)[:, -1] for bptt, records in found.items()}
    millions = questions.characters_per_epoch(found) / 1e6
    for bptt, records in found.items():
        curves = _curves(records)
        read = millions * np.arange(1, curves.shape[1] + 1)
        by_characters.plot(read, curves.mean(axis=0), "o-", markersize=4, label=f"bptt {bptt}")
    by_characters.set_xlabel("million characters read")
    by_characters.set_title("means of the seeds", fontsize=10)
    by_characters.legend(fontsize=9)
    by_bptt.plot(last.keys(), [losses.mean() for losses in last.values()], "o-", color=OURS)
    for bptt, losses_at_end in last.items():
        by_bptt.plot([bptt] * len(losses_at_end), losses_at_end, "_", color="black", markersize=9)
    by_bptt.plot([], [], "_", color="black", label="seeds")
    by_bptt.set_xscale("log", base=2)
    by_bptt.set_xticks(list(last), labels=list(map(str, last)))
    by_bptt.set_xlabel("bptt, characters in a window")
    by_bptt.set_title("at the end", fontsize=10)
    by_bptt.legend(fontsize=9)
    for axes in (by_characters, by_bptt):
        axes.set_ylabel("validation loss, nats")
    _save(figure, path)


def _draw_norms(findings: Findings, path: Path) -> None:
    variants = questions.identity_variants(findings)
    schedules = list(dict.fromkeys(changes["schedule"] for changes, _ in variants))
    figure, panels = _panels(len(schedules), len(schedules), 3.8)
    for changes, records in variants:
        axes = panels[schedules.index(changes["schedule"])]
        colour = OURS if changes["identity"] else THEIRS
        steps = [step for step, _ in records[0].norms]
        norms = np.array([[norm for _, norm in record.norms] for record in records])
        mean = np.exp(np.log(norms).mean(axis=0))
        name = f"{questions.initialization(changes)} initialisation"
        axes.plot(steps, norms.T, color=colour, **THIN)
        axes.plot(steps, mean, color=colour, label=name, **THICK)
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
    _save(figure, path)


def _draw_flow(findings: Findings, path: Path) -> None:
    """The gradient on its way back, at the start and at the end of each variant's training."""
    found = [
        (c, [r for r in records if r.flow]) for c, records in questions.identity_variants(findings)
    ]
    found = [(changes, records) for changes, records in found if records]
    if not found:
        return
    titles = {0: "at the start of training", 1: "at the end of training"}
    figure, panels = _panels(2, 2, 3.8)
    for (place, title), axes in zip(titles.items(), panels, strict=True):
        for number, (changes, records) in enumerate(found):
            norms = np.array([record.flow[place] for record in records])
            name = f"{questions.initialization(changes)}, {changes['schedule']}"
            back = np.arange(1, norms.shape[1] + 1)
            axes.plot(back, norms.T, color=f"C{number}", **THIN)
            mean = np.exp(np.log(norms).mean(axis=0))
            axes.plot(back, mean, color=f"C{number}", label=name, **THICK)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("steps back from the loss")
        axes.set_ylabel("norm of the gradient of the state")
        axes.legend(fontsize=9)
    _save(figure, path)
