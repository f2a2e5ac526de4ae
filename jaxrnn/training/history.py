"""The history of a run, where it stands, and the averages in between."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from jaxrnn.data.windows import Windows
from jaxrnn.nn.losses import bits_per_character, perplexity

AVERAGE_DECAY = 0.98
"""Of the exponential average that is shown as the training loss, as in the course's fastai."""

LARGEST_COUNT = 2**62
"""Updates, windows and the like that a file is believed to count."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the history.

    Attributes:
        epoch: epochs done, the current one counted by its share.
        step: updates made.
        train: exponential average of the loss, nats per character.
        gradient_norm: mean norm of the gradient, unclipped, since the row before.
        rate: the learning rate of the last step; None where the optimizer brings its own.
        update_ratio: norm of the last update over the norm of the parameters; near 1e-3 is usual.
        saturated: the share of sigmoids and tanhs in the cells that are near an end of their
            range, in [0, 1]; None where the model has no recurrent layer.
        characters_per_second: trained on since the row before; measured, so it is no part of what
            a resumed run repeats, and None in rows that are read from a file.
        validation: nats per character, at the end of an epoch.
        bits_per_character: of `validation`.
        perplexity: of `validation`.
    """

    epoch: float
    step: int
    train: float
    gradient_norm: float
    rate: float | None
    update_ratio: float
    saturated: float | None = None
    characters_per_second: float | None = None
    validation: float | None = None
    bits_per_character: float | None = None
    perplexity: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise ValueError(f"{field.name} of a row must be a number, got {value!r:.40}.")
            if isinstance(value, int) and abs(value) > LARGEST_COUNT:  # no float holds it
                raise ValueError(f"{field.name} of a row makes no sense: {value!r:.40}.")

    def with_validation(self, nats: float) -> "Row":
        """The same row with a validation loss, in all three units."""
        bits, among = bits_per_character(nats), perplexity(nats)
        return replace(self, validation=nats, bits_per_character=bits, perplexity=among)

    @property
    def line(self) -> str:
        """The row as a line of history.jsonl."""
        return json.dumps(self.repeatable()) + "\n"

    def repeatable(self) -> dict[str, Any]:
        """The fields, without the speed: those that are the same whenever a run is repeated."""
        return {
            name: value for name, value in asdict(self).items() if name != "characters_per_second"
        }


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands, and the sums that its next row of history needs.

    Attributes:
        epoch: the epoch under way, from 0.
        window: the windows of it that have been read.
        average: the exponential average of the loss, not yet corrected for its start at 0.
        averaged: over how many steps; it starts anew with each phase of the schedule.
        norms: the sum of the gradient norms since the last row.
        steps: the steps since the last row.
        characters: the characters trained on since the last row.
        seconds: the time that took.
        rate: the learning rate of the last step; None where the optimizer brings its own.
        update_norm: the norm of the last update.
    """

    epoch: int = 0
    window: int = 0
    average: float = 0.0
    averaged: int = 0
    norms: float = 0.0
    steps: int = 0
    characters: int = 0
    seconds: float = 0.0
    rate: float | None = 0.0
    update_norm: float = 0.0

    def check(self) -> None:
        """Refuse values of another type, or that no run gets to, which a file can hold.

        Raises:
            ValueError: for the first of them.
        """
        for field in fields(self):
            value, whole = getattr(self, field.name), field.type is int
            right = isinstance(value, int) if whole else isinstance(value, int | float)
            optional = value is None and field.name == "rate"
            most = LARGEST_COUNT if whole else math.inf  # an update may be infinite
            if not optional and (not right or isinstance(value, bool) or not 0 <= value <= most):
                raise ValueError(f"{field.name} makes no sense: {value!r:.40}")

    @property
    def train(self) -> float:
        """The training loss, in nats per character: the average corrected for its start."""
        return self.average / (1 - AVERAGE_DECAY**self.averaged) if self.averaged else np.nan

    def after(
        self,
        losses: np.ndarray,
        norms: np.ndarray,
        updates: np.ndarray,
        windows: Windows,
        rates: np.ndarray | None,
    ) -> "Position":
        """The position after some more steps of the same epoch.

        Sums go step by step: how many steps are taken at once depends on the clock, and must
        change no bit of them.

        Args:
            losses: (S,) the loss of each step.
            norms: (S,) the norm of each gradient.
            updates: (S,) the norm of each update.
            windows: what the steps read; the first S count.
            rates: the learning rates, of which the first S count; None where the optimizer brings
                its own.
        """
        average, total = self.average, self.norms
        for loss, norm in zip(losses.tolist(), norms.tolist(), strict=True):
            average = AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * loss
            total += norm
        steps = len(losses)
        read = int((windows.lengths * windows.rows)[:steps].sum())
        return replace(
            self,
            window=self.window + steps,
            average=average,
            averaged=self.averaged + steps,
            norms=total,
            steps=self.steps + steps,
            characters=self.characters + read,
            rate=None if rates is None else float(rates[steps - 1]),
            update_norm=float(updates[-1]),
        )

    def after_row(self) -> "Position":
        """The position with the sums for the next row begun anew."""
        return replace(self, norms=0.0, steps=0, characters=0, seconds=0.0)

    def row(self, step: int, of: int, **health: float | None) -> Row:
        """The row of history at this position.

        Args:
            step: updates made.
            of: windows of the epoch.
            health: `update_ratio` and `saturated`.
        """
        return Row(
            epoch=round(self.epoch + self.window / of, 3),
            step=step,
            train=self.train,
            gradient_norm=self.norms / max(self.steps, 1),
            rate=self.rate,
            characters_per_second=self.characters / max(self.seconds, 1e-9),
            **health,  # type: ignore[arg-type]
        )
