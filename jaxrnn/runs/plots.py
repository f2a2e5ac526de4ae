"""Pictures of training: loss curves and the learning-rate range test."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxrnn.output import write_output
from jaxrnn.training.history import Row

AVERAGE, VALIDATION = "training (average)", "validation"
"""Labels of the curves."""
LARGEST_DRAWN = 1e100
"""Values above it have no place in a picture: the arithmetic of the axes overflows near 1e308."""


def losses_picture(rows: Sequence[Row], *, title: str) -> bytes:
    """The loss curves of a run as PNG; losses that are not finite have no point.

    Args:
        rows: the history.
        title: above the picture.

    Returns:
        The bytes of the picture.
    """
    figure, axes = _figure(title)
    trained = [row for row in rows if is_drawn(row.epoch, row.train)]
    axes.plot([row.epoch for row in trained], [row.train for row in trained], label=AVERAGE)
    ends = [row for row in rows if is_drawn(row.epoch, row.validation)]
    axes.plot([row.epoch for row in ends], [row.validation for row in ends], "o-", label=VALIDATION)
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
    """Draw the loss against the learning rate, with a line at the suggested rate if any, as PNG."""
    figure, axes = _figure("learning-rate range test")
    axes.plot(rates, losses)
    if suggested is not None:
        label = f"steepest fall: {suggested:.1e}"
        axes.axvline(suggested, color="black", linestyle=":", label=label)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("nats per character (average)")
    if suggested is not None:
        axes.legend()
    write_output(path, _png(figure))


def _png(figure: Figure) -> bytes:
    """The bytes of a picture."""
    file = io.BytesIO()
    figure.savefig(file, dpi=120, format="png")
    return file.getvalue()


def _figure(title: str):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    return figure, axes
