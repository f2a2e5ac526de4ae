"""Pictures of training: loss curves and the learning-rate range test."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxrnn.files import write_whole
from jaxrnn.output import write_output
from jaxrnn.training.history import Row


def draw_losses(
    rows: Sequence[Row], path: Path, *, title: str, published: Mapping[int, float] | None = None
) -> None:
    """Draw the loss curves of a run as PNG.

    Args:
        rows: the history.
        path: the file.
        title: above the picture.
        published: validation losses to compare with, by epochs done.
    """
    figure, axes = _figure(title)
    axes.plot([r.epoch for r in rows], [r.train for r in rows], label="training (average)")
    ends = [r for r in rows if r.validation is not None]
    axes.plot([r.epoch for r in ends], [r.validation for r in ends], "o-", label="validation")
    if published:
        axes.plot(list(published), list(published.values()), "kx", label="validation, as published")
    axes.set_xlabel("epochs")
    axes.set_ylabel("nats per character")
    axes.legend()
    write_whole(path, _png(figure))


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
