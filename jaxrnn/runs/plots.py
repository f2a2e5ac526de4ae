"""Pictures as files: loss curves and the learning-rate range test."""

from collections.abc import Sequence
from pathlib import Path

from jaxrnn.output import write_output
from jaxrnn.training.history import Row
from jaxrnn.training.plots import losses_figure, new_figure


def losses_picture(rows: Sequence[Row], *, title: str) -> bytes:
    """The loss curves of a run as PNG; see `losses_figure`."""
    return losses_figure(rows, title=title).png()


def draw_rates(
    rates: Sequence[float], losses: Sequence[float], path: Path, *, suggested: float | None
) -> None:
    """Plot the loss against the learning rate, with a line at the suggested rate if any, as PNG."""
    figure, axes = new_figure("learning-rate range test")
    axes.plot(rates, losses)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("nats per character (average)")
    if suggested is not None:
        label = f"steepest fall: {suggested:.1e}"
        axes.axvline(suggested, color="black", linestyle=":", label=label)
        axes.legend()
    write_output(path, figure.png())
