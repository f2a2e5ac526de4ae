"""Changes of a run's schedule, clip or steps after it began: at which update, from what to what.

They are kept in the run's `changes.json`, which holds a sha256 over all of its bytes, the checksum
itself read as zeros, as a checkpoint does. The settings that the run began with stay as they are.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jaxrnn.files import parse_json
from jaxrnn.runs.checksums import NO_CHECKSUM, check_own_checksum, with_checksum
from jaxrnn.runs.config import Config
from jaxrnn.training.history import AVERAGE_DECAY, Position
from jaxrnn.training.timetable import Timetable

CHANGES = "changes.json"
"""Name of the file of a run's changes."""
CHANGEABLE = ("schedule", "clip", "steps")
"""Options that may be changed when a run is resumed."""
LARGEST_CHANGES = 1 << 20
"""Maximum size of a file of changes in bytes."""
BEGINNING = b'{\n  "sha256": "'
"""First bytes of the file; the checksum follows."""
MOST_UPDATES = 2**31
"""Limit of the number of updates, which is an int32 in the training state."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One option that has another value from an update on.

    Attributes:
        step: updates made before the change.
        option: one of `CHANGEABLE`.
        old: the value before.
        new: the value from then on.
    """

    step: int
    option: str
    old: Any
    new: Any

    def __post_init__(self) -> None:
        # The values come from a file: bool is an int in Python, but no count.
        if isinstance(self.step, bool) or not isinstance(self.step, int):
            raise ValueError(f"step of a change must be a whole number, got {self.step!r:.40}.")
        if not 0 <= self.step < MOST_UPDATES:
            raise ValueError(f"step of a change makes no sense: {self.step!r:.40}.")
        if self.option not in CHANGEABLE:
            named = " or ".join(CHANGEABLE)
            raise ValueError(f"option of a change must be {named}, got {self.option!r:.40}.")

    @property
    def sentence(self) -> str:
        """The change in words."""
        return f"{self.option} changed after update {self.step}: {self.old!r} -> {self.new!r}"


def pack_changes(changes: Sequence[Change], identity: str | None) -> bytes:
    """The bytes of a file of changes.

    Args:
        changes: the changes, in order.
        identity: the run's identity.
    """
    described = {
        "sha256": NO_CHECKSUM.decode(),  # first, so that it has a known place
        "run": identity,
        "changes": [asdict(change) for change in changes],
    }
    return with_changes_checksum(json.dumps(described, indent=2).encode() + b"\n")


def with_changes_checksum(data: bytes) -> bytes:
    """The bytes of a file of changes, with its own checksum in place of the zeros."""
    return with_checksum(data, BEGINNING)


def unpack_changes(data: bytes, identity: str | None) -> tuple[Change, ...]:
    """The changes in a file of them.

    Args:
        data: the bytes of the file.
        identity: the identity of the run that it belongs to.

    Raises:
        ValueError: if the checksum is another one, or the content makes no sense.
    """
    # A file that belongs to another run has a right checksum, too, hence the identity.
    check_own_checksum(data, BEGINNING)
    described = parse_json(data, "it")
    if described["run"] != identity:
        raise ValueError(f"it is of the run {str(described['run'])[:40]!r}, this is {identity!r}")
    return changes_in(described["changes"])


def changes_in(listed: Any) -> tuple[Change, ...]:
    """Changes from a list in a file.

    Raises:
        ValueError: if it is no list of changes, in the order of their updates.
        TypeError: if a change has other fields.
    """
    if not isinstance(listed, list):
        raise ValueError(f"changes must be a list, got {listed!r:.40}")
    # Other fields than those of a change are a TypeError of its constructor.
    changes = tuple(Change(**values) for values in listed)
    steps = [change.step for change in changes]
    if steps != sorted(steps):
        raise ValueError("changes must be in the order of their updates")
    return changes


def configs_of(config: Config, changes: Sequence[Change]) -> list[Config]:
    """The configuration that a run began with, and that after each change.

    Raises:
        ValueError: if a change is from another value than there was, or to one that does not fit.
    """
    configs = [config]
    # Each change says what it replaces, so that a missing one is noticed.
    for change in changes:
        value = getattr(configs[-1], change.option)
        if value != change.old:
            raise ValueError(
                f"{change.option} was {value!r:.60} before update {change.step}, and not "
                f"{change.old!r:.60}"
            )
        configs.append(replace(configs[-1], **{change.option: change.new}))
    return configs


def moved(position: Position, old: Timetable, new: Timetable) -> Position:
    """A position in one timetable as one in another; both count from the run's beginning.

    The learning rate depends on the place within a phase, which may begin elsewhere now. The
    updates made and the average of the loss stay what they are.

    Args:
        position: where the run stands.
        old: the schedule and the budget up to here.
        new: those from here on, for the same text.
    """
    # Nothing to move, or nothing left to train.
    same = (old.schedule, old.budget) == (new.schedule, new.budget)
    if same or new.is_over(position):
        return position
    # Steps made in the new phase, had the run had it from its beginning.
    place = new.place(position).done
    if place is None:
        _, first = new.schedule.phase(position.epoch)
        whole_epochs = range(first, position.epoch)
        place = sum(map(new.source.steps, whole_epochs)) + position.window
    # The average starts at 0 in each phase, and is corrected for that by its number of steps:
    # this is the uncorrected one that shows the same training loss after `place` steps.
    average = 0.0
    if position.averaged:
        average = position.train * (1 - AVERAGE_DECAY**place)
    return replace(position, average=average, averaged=place)
