"""What is shown of a training: a progress bar, and a table with a line for each validation."""

import math
import re

from jaxrnn.terminal import Screen
from jaxrnn.training.history import Progress, Row
from jaxrnn.training.schedules import Schedule
from jaxrnn.training.timetable import Budget

SHORT = {"character": "char", "byte": "byte", "token": "tok"}
"""Abbreviations of units of a text in the table of epochs."""


class Display:
    """Shows a training on a screen.

    Attributes:
        screen: where to.
        epochs: number of epochs.
        budget: the number of updates, if that is limited.
        unit: what a loss is per, abbreviated: "char", "byte" or "tok".
    """

    def __init__(self, screen: Screen, schedule: Schedule, budget: Budget, unit: str) -> None:
        self.screen = screen
        self.epochs = schedule.epochs
        self.budget = budget
        self.unit = unit
        self._begun = False

    def begin(self) -> None:
        """Show the head of the table."""
        self._begun = True
        # Of an epoch that takes a day, the updates say more.
        first = " update" if self.budget.by_updates else "epoch"
        per = f"bits/{self.unit}"
        speed = f"{self.unit}s/s"
        self.screen.line(f"{first}   train  validation  {per:9}  perplexity  {speed:>7}")

    def show(self, progress: Progress) -> None:
        """Show a line where an epoch ends, or at a validation, and the progress bar."""
        if not self._begun:
            self.begin()
        position = progress.position
        row = progress.row
        if row is not None and progress.ends_section:
            self.screen.line(epoch_line(row, by_updates=self.budget.by_updates))
        if progress.validating is not None:
            self.screen.show("validating", progress.share, f"loss {number(position.train, '.3f')}")
            return
        # Since the last row, whose sums are begun anew.
        speed = None if row is None else row.characters_per_second
        if speed is None:
            speed = position.characters / max(position.seconds, 1e-9)
        thousands = number(speed / 1000, ",.0f")
        note = f"loss {number(position.train, '.3f')}  {thousands}k {self.unit}s/s"
        steps = self.budget.steps
        what = f"epoch {min(position.epoch + 1, self.epochs)}/{self.epochs}"
        if steps is not None:
            what = f"update {round(progress.share * steps):,}/{steps:,}"
        self.screen.show(what, progress.share, note)


def epoch_line(row: Row, *, by_updates: bool = False) -> str:
    """A line of the table, as wide as its head."""
    cells = (
        f"{row.step:7,}" if by_updates else number(row.epoch, "5g"),
        number(row.train, "6.3f"),
        number(row.validation, "10.4f"),
        number(row.bits_per_character, "9.4f"),
        number(row.perplexity, "10.3f"),
        number(row.characters_per_second, "7,.0f"),
    )
    return "  ".join(cells)


def number(value: float | None, form: str) -> str:
    """A number in a format; "-", as wide, for one that is missing, NaN or infinite."""
    if value is None or not math.isfinite(value):
        width = re.sub(r"\D.*", "", form)  # the digits that it begins with, if any
        return "-".rjust(int(width or 1))
    return format(value, form)
