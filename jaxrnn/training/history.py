"""The history of a run, where it stands, and the averages in between."""

from dataclasses import dataclass, replace

import numpy as np

from jaxrnn.data.windows import Windows
from jaxrnn.nn.losses import bits_per_character, perplexity

AVERAGE_DECAY = 0.98
"""Of the exponential average that is shown as the training loss, as in the course's fastai."""


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the history.

    Attributes:
        epoch: epochs done, the current one counted by its share.
        step: updates made.
        train: exponential average of the loss, nats per character.
        gradient_norm: mean norm of the gradient, unclipped, since the row before.
        rate: the learning rate of the last step.
        characters_per_second: trained on since the row before.
        validation: nats per character, at the end of an epoch.
        bits_per_character: of `validation`.
        perplexity: of `validation`.
    """

    epoch: float
    step: int
    train: float
    gradient_norm: float
    rate: float
    characters_per_second: float
    validation: float | None = None
    bits_per_character: float | None = None
    perplexity: float | None = None

    def with_validation(self, nats: float) -> "Row":
        """The same row with a validation loss, in all three units."""
        bits, among = bits_per_character(nats), perplexity(nats)
        return replace(self, validation=nats, bits_per_character=bits, perplexity=among)


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
        rate: the learning rate of the last step.
    """

    epoch: int = 0
    window: int = 0
    average: float = 0.0
    averaged: int = 0
    norms: float = 0.0
    steps: int = 0
    characters: int = 0
    seconds: float = 0.0
    rate: float = 0.0

    @property
    def train(self) -> float:
        """The training loss, in nats per character: the average corrected for its start."""
        return self.average / (1 - AVERAGE_DECAY**self.averaged) if self.averaged else np.nan

    def after(
        self,
        losses: np.ndarray,
        norms: np.ndarray,
        windows: Windows,
        rate: float,
        seconds: float,
    ) -> "Position":
        """The position after some more steps of the same epoch.

        Args:
            losses: (S,) the loss of each step.
            norms: (S,) the norm of each gradient.
            windows: what the steps read; the first S count.
            rate: the learning rate of the last step.
            seconds: how long the steps took.
        """
        average, steps = self.average, len(losses)
        for loss in losses.tolist():
            average = AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * loss
        return Position(
            epoch=self.epoch,
            window=self.window + steps,
            average=average,
            averaged=self.averaged + steps,
            norms=self.norms + float(norms.sum()),
            steps=self.steps + steps,
            characters=self.characters + int((windows.lengths * windows.rows)[:steps].sum()),
            seconds=self.seconds + seconds,
            rate=rate,
        )

    def after_row(self) -> "Position":
        """The position with the sums for the next row begun anew."""
        return replace(self, norms=0.0, steps=0, characters=0, seconds=0.0)

    def row(self, step: int, of: int) -> Row:
        """The row of history at this position: `step` updates made, `of` windows an epoch."""
        return Row(
            epoch=round(self.epoch + self.window / of, 3),
            step=step,
            train=self.train,
            gradient_norm=self.norms / max(self.steps, 1),
            rate=self.rate,
            characters_per_second=self.characters / max(self.seconds, 1e-9),
        )


def check_finite(losses: np.ndarray, norms: np.ndarray, rates: np.ndarray, step: int) -> None:
    """Raise `NonFiniteLossError` if a loss or a norm of the steps after `step` is not finite."""
    bad = ~(np.isfinite(losses) & np.isfinite(norms))
    if bad.any():
        first = int(np.argmax(bad))
        what = "gradient" if np.isfinite(losses[first]) else "loss"
        raise NonFiniteLossError(
            f"The {what} is {norms[first] if what == 'gradient' else losses[first]} at step "
            f"{step + first + 1} with learning rate {rates[first]:g}. Try a smaller rate or clip."
        )
