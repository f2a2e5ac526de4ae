"""Where a training ends, and where its phases, rows and validations fall: by epochs or by updates.

An epoch of a large text may take a day. A `Budget` counts in updates instead; without one, a
training lasts as many epochs as its schedule, and each ends with a validation.

All answers are functions of a position alone, so that a resumed training goes on as it would have.
"""

from bisect import bisect_right
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from jaxrnn.checks import check_at_least_1
from jaxrnn.training.evaluation import Source
from jaxrnn.training.history import Position
from jaxrnn.training.schedules import Phase, Schedule

# Number of history rows per epoch, or whatever else is trained between two validations.
ROWS_PER_EPOCH = 10


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train and to validate, in updates and tokens; None leaves it to the epochs.

    Attributes:
        steps: number of updates, at least 1. The epochs of the schedule are then its parts: of
            "3 x 1e-3, 1 x 1e-4" and 1,000 updates, 750 have the first rate.
        validate_every: number of updates between validations, at least 1; each epoch if None.
        validation_tokens: number of tokens after which a validation ends, at least 1, rounded up
            to whole batches; all if None.

    Raises:
        ValueError: if one is no integer of at least 1.
    """

    steps: int | None = None
    validate_every: int | None = None
    validation_tokens: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        check_at_least_1(**given)

    @property
    def by_updates(self) -> bool:
        """Whether training is measured in updates rather than epochs."""
        return self.steps is not None or self.validate_every is not None


class Place(NamedTuple):
    """A place in a phase of the schedule.

    Attributes:
        phase: the phase.
        begins: whether the phase begins here.
        steps_per_epoch: number of updates in an epoch of the phase.
        done: number of its updates made, where the budget is in updates.
        left: number of its updates to come, where the budget is in updates.
    """

    phase: Phase
    begins: bool
    steps_per_epoch: float
    done: int | None = None
    left: int | None = None


class Section(NamedTuple):
    """What is trained between two validations: an epoch, or a number of updates.

    Attributes:
        done: updates made of it.
        length: its number of updates.
        row_steps: number of updates between its rows of history.
    """

    done: int
    length: int
    row_steps: int


class Timetable:
    """The ends, phases, rows and validations of a training.

    Attributes:
        schedule: the learning rates.
        source: the windows, which know the number of updates in each epoch.
        budget: the number of updates, if that is limited.
    """

    def __init__(self, schedule: Schedule, source: Source, budget: Budget | None = None) -> None:
        self.schedule = schedule
        self.source = source
        self.budget = budget or Budget()
        self._before = [0]  # updates before each epoch
        # The last update of each phase, where the phases share a number of updates.
        self._ends: list[int] = []
        if self.budget.steps is not None:
            self._ends = phase_ends(schedule, self.budget.steps)

    @property
    def ends(self) -> tuple[int, ...]:
        """The number of updates up to the end of each phase; empty where epochs decide."""
        return tuple(self._ends)

    def updates(self, position: Position) -> int:
        """Number of updates made up to a position."""
        return self._updates_before(position.epoch) + position.window

    def is_over(self, position: Position) -> bool:
        """Whether nothing is left to train or to validate."""
        if self.budget.steps is None:
            return position.epoch >= self.schedule.epochs
        # The last row, and the validation with it, may be still to come.
        return self.updates(position) >= self.budget.steps and position.steps == 0

    def share(self, position: Position) -> float:
        """The fraction of the training that is done, in [0, 1]."""
        if self.budget.steps is not None:
            return min(1.0, self.updates(position) / self.budget.steps)
        in_epoch = position.window / max(self.source.steps(position.epoch), 1)
        return min(1.0, (position.epoch + in_epoch) / self.schedule.epochs)

    def place(self, position: Position) -> Place:
        """The place of the next update in its phase."""
        if self.budget.steps is None:
            phase, first = self.schedule.phase(position.epoch)
            begins = position.epoch == first and position.window == 0
            return Place(phase, begins, self.source.steps_per_epoch)
        made = self.updates(position)
        index = min(bisect_right(self._ends, made), len(self._ends) - 1)
        begin = self._ends[index - 1] if index else 0
        end = self._ends[index]
        phase = self.schedule.phases[index]
        done = made - begin
        return Place(phase, done == 0, (end - begin) / phase.epochs, done, end - made)

    def section(self, position: Position) -> Section:
        """The section under way, which may be complete: then its row is still to come."""
        every = self.budget.validate_every
        steps = self.budget.steps
        if every is None:
            length = self.source.steps(position.epoch)
            if steps is not None:
                length = min(length, steps - self._updates_before(position.epoch))
            return Section(position.window, length, _row_steps(length))
        made = self.updates(position)
        done = made % every
        # At the end of a section, until its row is complete.
        if done == 0 and position.steps:
            done = every
        begin = made - done
        length = every
        if steps is not None:
            length = min(every, steps - begin)
        elif position.epoch + 1 >= self.schedule.epochs:
            length = min(every, self._updates_before(self.schedule.epochs) - begin)
        return Section(done, length, _row_steps(every))

    def _updates_before(self, epoch: int) -> int:
        """Number of updates in all epochs before one."""
        while len(self._before) <= epoch:
            count = self.source.steps(len(self._before) - 1)
            self._before.append(self._before[-1] + count)
        return self._before[epoch]


def phase_ends(schedule: Schedule, steps: int) -> list[int]:
    """The number of updates up to the end of each phase, where all phases share `steps`."""
    ends = []
    epochs = 0
    for phase in schedule.phases:
        epochs += phase.epochs
        ends.append(steps * epochs // schedule.epochs)
    return ends


def rates_of(schedule: Schedule, steps: int) -> np.ndarray:
    """(S,) the learning rate of each of S = `steps` updates, which the phases share."""
    rates = []
    begin = 0
    for phase, end in zip(schedule.phases, phase_ends(schedule, steps), strict=True):
        count = end - begin
        rates.append(phase.rates(np.arange(count), count / phase.epochs))
        begin = end
    return np.concatenate(rates)


def _row_steps(length: int) -> int:
    """Number of updates between the rows of a section: a tenth, rounded up."""
    return -(-length // ROWS_PER_EPOCH)
