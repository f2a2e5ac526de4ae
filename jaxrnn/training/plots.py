"""Figures of training, which a notebook shows without pyplot."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxrnn.training.history import Row

AVERAGE = "training (average)"
VALIDATION = "validation"
LARGEST_DRAWN = 1e100
"""Limit of the values in a picture: the arithmetic of the axes overflows near 1e308."""


class Picture(Figure):
    """A figure that a notebook shows where a cell ends with it."""

    def _repr_png_(self) -> bytes:
        return self.png()

    def png(self) -> bytes:
        """The figure as PNG."""
        file = io.BytesIO()
        self.savefig(file, dpi=120, format="png")
        return file.getvalue()


def losses_figure(rows: Sequence[Row], *, title: str) -> Picture:
    """The loss curves of a training; losses that are not finite have no point.

    Args:
        rows: the history.
        title: the title above the picture.
    """
    # Of an epoch that takes a day, the updates say more.
    by_updates = bool(rows) and rows[-1].epoch < 1
    # Training has a row every few steps, and validation a point an epoch.
    figure, axes = new_figure(title)
    for column, style, label in (("train", "-", AVERAGE), ("validation", "o-", VALIDATION)):
        places = []
        losses = []
        # A run that diverges has losses that no axis can hold.
        for row in rows:
            place = row.step if by_updates else row.epoch
            loss = getattr(row, column)
            if is_drawn(place, loss):
                places.append(place)
                losses.append(loss)
        axes.plot(places, losses, style, label=label)
    axes.set_xlabel("updates" if by_updates else "epochs")
    axes.set_ylabel("nats per character")
    axes.legend()
    return figure


def is_drawn(*values: float | None) -> bool:
    """Whether values have a place in a picture: none is missing, NaN or beyond all axes."""
    return all(value is not None and abs(value) < LARGEST_DRAWN for value in values)


def new_figure(title: str) -> tuple[Picture, Axes]:
    """An empty figure with a title, and its axes."""
    # Without pyplot, which keeps every figure and may look for a screen.
    figure: Any = Picture(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # A run's name may hold dollar signs and underscores, which would be set as mathematics.
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    return figure, axes
