"""Pictures of training: loss curves and the learning-rate range test."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxrnn.output import write_output
from jaxrnn.training.history import Row

AVERAGE = "training (average)"
VALIDATION = "validation"
LARGEST_DRAWN = 1e100
"""Limit of the values in a picture: the arithmetic of the axes overflows near 1e308."""


def losses_picture(rows: Sequence[Row], *, title: str) -> bytes:
    """The loss curves of a run as PNG; losses that are not finite have no point.

    Args:
        rows: the history.
        title: the title above the picture.

    Returns:
        The bytes of the picture.
    """
    # Training has a row every few steps, and validation a point an epoch.
    figure, axes = _figure(title)
    for column, style, label in (("train", "-", AVERAGE), ("validation", "o-", VALIDATION)):
        epochs = []
        losses = []
        # A run that diverges has losses that no axis can hold.
        for row in rows:
            loss = getattr(row, column)
            if is_drawn(row.epoch, loss):
                epochs.append(row.epoch)
                losses.append(loss)
        axes.plot(epochs, losses, style, label=label)
    axes.set_xlabel("epochs")
    axes.set_ylabel("nats per character")
    axes.legend()
    return _png(figure)


def is_drawn(*values: float | None) -> bool:
    """Whether values have a place in a picture: none is missing, NaN or beyond all axes."""
    return all(value is not None and abs(value) < LARGEST_DRAWN for value in values)


def draw_rates(
    rates: Sequence[float], losses: Sequence[float], path: Path, *, suggested: float | None
) -> None:
    """Plot the loss against the learning rate, with a line at the suggested rate if any, as PNG."""
    figure, axes = _figure("learning-rate range test")
    axes.plot(rates, losses)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("nats per character (average)")
    if suggested is not None:
        label = f"steepest fall: {suggested:.1e}"
        axes.axvline(suggested, color="black", linestyle=":", label=label)
        axes.legend()
    write_output(path, _png(figure))


def _png(figure: Figure) -> bytes:
    """The figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, dpi=120, format="png")
    return file.getvalue()


def _figure(title: str):  # type: ignore[no-untyped-def]
    # Without pyplot, which keeps every figure and may look for a screen.
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # A run's name may hold dollar signs and underscores, which would be set as mathematics.
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    return figure, axes
