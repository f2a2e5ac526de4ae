"""The history of a training as a list, as records for a table, and as a picture."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jaxrnn.training.history import Row

if TYPE_CHECKING:
    from jaxrnn.training.plots import Picture


class History(list[Row]):
    """The rows of a training, the oldest first.

    Attributes:
        origin: where the weights that it began with are from, in words; None if from the seed.
    """

    origin: str | None = None

    def records(self) -> list[dict[str, Any]]:
        """A dictionary for each row, as `pandas.DataFrame` takes them; see `Row` for the keys."""
        return [asdict(row) for row in self]

    def plot(self, *, title: str = "") -> "Picture":
        """The loss curves, as a Matplotlib figure that a notebook shows; `savefig` saves it.

        Args:
            title: the title above them.
        """
        from jaxrnn.training.plots import losses_figure  # Matplotlib takes long to import

        return losses_figure(self, title=title)

    def __repr__(self) -> str:
        """The number of rows and the losses: a notebook prints what a cell ends with."""
        described = [] if self.origin is None else [self.origin]
        if not self:
            described.append("no rows")
            return f"History({', '.join(described)})"
        last = self[-1]
        described += [
            f"{len(self)} rows",
            f"{last.epoch:g} epochs",
            f"{last.step:,} updates",
            f"training loss {last.train:.4f}",
        ]
        validated = [row for row in self if row.validation is not None]
        if validated:
            best = min(validated, key=lambda row: row.validation or 0.0)
            described.append(f"validation loss {validated[-1].validation:.4f}")
            described.append(f"best {best.validation:.4f} at update {best.step:,}")
        return f"History({', '.join(described)})"
