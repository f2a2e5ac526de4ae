"""The history of a run, where it stands, and the averages in between."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.data.windows import Windows
from jaxrnn.nn.losses import bits_per_character, perplexity
from jaxrnn.training.state import TrainState

# Decay of the exponential average of the training loss, as in the course's fastai.
AVERAGE_DECAY = 0.98
# Largest plausible count of updates, windows or characters in a file.
LARGEST_COUNT = 2**62


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the history.

    Attributes:
        epoch: epochs done, with the fraction of the current one.
        step: updates made.
        train: exponential average of the loss, nats per character.
        gradient_norm: mean norm of the gradient, unclipped, since the row before.
        rate: the learning rate of the last step; None where the optimizer brings its own.
        update_ratio: norm of the last update over the norm of the parameters; near 1e-3 is usual.
        saturated: the fraction of sigmoids and tanhs in the cells that are near an end of their
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
            # A Python integer may be larger than any float.
            if isinstance(value, int) and abs(value) > LARGEST_COUNT:
                raise ValueError(f"{field.name} of a row makes no sense: {value!r:.40}.")

    def with_validation(self, nats: float) -> "Row":
        """The same row with a validation loss, in all three units."""
        return replace(
            self,
            validation=nats,
            bits_per_character=bits_per_character(nats),
            perplexity=perplexity(nats),
        )

    @property
    def line(self) -> str:
        """The row as a line of history.jsonl."""
        return json.dumps(self.repeatable()) + "\n"

    def repeatable(self) -> dict[str, Any]:
        """The fields, without the speed: those that are the same whenever a run is repeated."""
        values = asdict(self)
        del values["characters_per_second"]
        return values


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands, and the sums that its next row of history needs.

    Attributes:
        epoch: the epoch under way, from 0.
        window: number of its windows already read.
        average: the exponential average of the loss, not yet corrected for its start at 0.
        averaged: number of steps in that average; it starts anew with each phase of the
            schedule.
        norms: the sum of the gradient norms since the last row.
        steps: the steps since the last row.
        characters: the characters trained on since the last row.
        seconds: training time since the last row.
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
            value = getattr(self, field.name)
            if value is None and field.name == "rate":
                continue
            kinds: Any = int | float
            highest = math.inf  # an update may be infinite
            if field.type is int:
                kinds = int
                highest = LARGEST_COUNT
            # For isinstance, True is an integer.
            right = isinstance(value, kinds) and not isinstance(value, bool)
            if not right or not 0 <= value <= highest:
                raise ValueError(f"{field.name} makes no sense: {value!r:.40}")

    @property
    def train(self) -> float:
        """The training loss, in nats per character: the average corrected for its start."""
        if not self.averaged:
            return np.nan
        return self.average / (1 - AVERAGE_DECAY**self.averaged)

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
            windows: the windows that the steps read; the first S count.
            rates: the learning rates, of which the first S count; None where the optimizer brings
                its own.
        """
        average = self.average
        total = self.norms
        for loss, norm in zip(losses.tolist(), norms.tolist(), strict=True):
            average = AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * loss
            total += norm
        steps = len(losses)
        read = int((windows.lengths * windows.rows)[:steps].sum())  # (S,) -> ()
        rate = None
        if rates is not None:
            rate = float(rates[steps - 1])
        return replace(
            self,
            window=self.window + steps,
            average=average,
            averaged=self.averaged + steps,
            norms=total,
            steps=self.steps + steps,
            characters=self.characters + read,
            rate=rate,
            update_norm=float(updates[-1]),
        )

    def after_row(self) -> "Position":
        """The position with the sums for the next row begun anew."""
        return replace(self, norms=0.0, steps=0, characters=0, seconds=0.0)

    def row(self, step: int, of: int, **diagnostics: float | None) -> Row:
        """The row of history at this position.

        Args:
            step: number of updates made.
            of: number of windows in the epoch.
            diagnostics: `update_ratio` and `saturated`.
        """
        return Row(
            epoch=round(self.epoch + self.window / of, 3),
            step=step,
            train=self.train,
            gradient_norm=self.norms / max(self.steps, 1),
            rate=self.rate,
            characters_per_second=self.characters / max(self.seconds, 1e-9),
            **diagnostics,  # type: ignore[arg-type]
        )


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        state: the training state, which no later step changes.
        position: where the run stands; `training(..., state, position)` goes on from there.
        of: number of windows in the epoch under way.
        row: the row of history that has just become complete, if any.
        validating: the fraction of the validation that is done, while it is under way.
        share: the fraction of the whole training that is done, in [0, 1].
        ends_section: whether the row ends an epoch, or what else is trained between validations.
    """

    state: TrainState
    position: Position
    of: int
    row: Row | None = None
    validating: float | None = None
    share: float = 0.0
    ends_section: bool = False
