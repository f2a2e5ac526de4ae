"""The folder of a training by `fit`: its checkpoints and history, from which it goes on.

training.json        what must be the same to go on: schedule, budgets, texts, windows
history.jsonl        as in a run's folder; see `jaxrnn.runs.run`
timing.jsonl         the same
last.safetensors     the state to go on from; last-1 and last-2 are those before it
best.safetensors     the state with the lowest validation loss, if there is a validation
.lock                locked while a process trains
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.files import locked, parse_json, read_regular, remove_partial, write_whole
from jaxrnn.runs.changes import Change
from jaxrnn.runs.checkpointing import Checkpointing, cannot_write
from jaxrnn.runs.history import parse_row
from jaxrnn.runs.run import Run, RunError
from jaxrnn.runs.settings import DESCRIPTION, FIT_SETTINGS, damage_of, named_differences
from jaxrnn.training.evaluation import Source
from jaxrnn.training.history import Position
from jaxrnn.training.optimizers import AnyOptimizer, Optimizer
from jaxrnn.training.records import History
from jaxrnn.training.schedules import Schedule
from jaxrnn.training.state import TrainState
from jaxrnn.training.timetable import Budget


class FitFolder(Run):
    """A folder with checkpoints and a history, whose configuration is a program.

    Attributes:
        folder: where it is.
    """

    @property
    def how_to_go_on(self) -> str:
        """What to do to train on, for a message."""
        return "call fit again"

    @property
    def identity(self) -> str:
        """The checksum of the settings: checkpoints of another training are refused."""
        data = read_regular(self.folder / FIT_SETTINGS)
        return f"fit-{hashlib.sha256(data).hexdigest()[:16]}"

    @property
    def changes(self) -> tuple[Change, ...]:
        """None: the settings are what the program says."""
        return ()

    def begin(self, settings: dict[str, Any]) -> bool:
        """Make the folder, or see that it is that of the same training.

        Returns:
            Whether it was there.

        Raises:
            RunError: if it is that of another training, or of a run.
        """
        if (self.folder / DESCRIPTION).exists():
            raise RunError(
                f"{self.folder} is a run of the command line's, whose training goes on with "
                "--resume: name another folder for checkpoints."
            )
        path = self.folder / FIT_SETTINGS
        if path.exists():
            with damage_of(path):
                before = parse_json(read_regular(path), path)
                other = named_differences(before, settings)
            if other:
                raise RunError(
                    f"{self.folder} has the checkpoints of another training, with other {other}: "
                    "name another folder, or remove it."
                )
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(settings, indent=2) + "\n").encode())
        return False


class Begun(NamedTuple):
    """Where a training begins or goes on.

    Attributes:
        state: the state.
        position: where it stands.
        history: the rows up to there.
        checkpointing: adds rows and saves checkpoints, if there is a folder for them.
    """

    state: TrainState
    position: Position
    history: History
    checkpointing: Checkpointing | None


@contextlib.contextmanager
def checkpoints_in(
    folder: Path | str,
    settings: dict[str, Any],
    state: TrainState,
    emit: Callable[[str], None],
) -> Iterator[Begun]:
    """A folder for the checkpoints of a training, locked meanwhile.

    Args:
        folder: the folder; made if it is not there.
        settings: what must be the same to go on.
        state: the state to begin with, where there is no checkpoint.
        emit: receives a sentence for everything that had to be repaired.

    Raises:
        RunError: if the folder is that of another training, or cannot be read or written.
        LockedError: if another process trains there.
    """
    place = FitFolder(folder)
    try:
        place.begin(settings)
        with locked(place.folder, emit) as check:
            # Only within the lock: they may be another process's, which is still writing them.
            remove_partial(place.folder)
            saved = place.latest(state, emit)
            if saved is None:
                yield Begun(state, Position(), History(), Checkpointing(place, check=check))
                return
            # Where the best one is lost, the next validation is the best so far.
            if saved.best < float("inf") and not place.best_is_whole(emit):
                saved = saved._replace(best=float("inf"))
            lines = place.restore_history(saved.log, emit)
            history = History(map(parse_row, lines))
            checkpointing = Checkpointing(place, saved, lines=lines, check=check)
            yield Begun(saved.state, saved.position, history, checkpointing)
    except OSError as error:
        raise cannot_write(place, error) from error


def settings_of(
    model: Any,
    source: Source,
    validation: Source | None,
    schedule: Schedule,
    optimizer: AnyOptimizer,
    budget: Budget,
    **others: Any,
) -> dict[str, Any]:
    """What must be the same for a training to go on, as JSON can express it.

    Sizes of the model and the structure of the optimizer's state are seen in the checkpoint itself.
    """
    named = "optax"
    if isinstance(optimizer, Optimizer):
        options = ", ".join(f"{name}={value}" for name, value in optimizer.options)
        named = f"{optimizer.direction.__name__}({options}), clip={optimizer.clip}"
    return {
        "model": type(model).__name__,
        "text": _described(source),
        "validation": None if validation is None else _described(validation),
        "schedule": [repr(phase) for phase in schedule.phases],
        "optimizer": named,
        **asdict(budget),
        **others,
    }


def _described(source: Source) -> dict[str, Any]:
    """The text and the windows of a source: checksums of its arrays, and its numbers."""
    found: dict[str, Any] = {
        "kind": type(source).__name__,
        "sha256": _checksum(source.tokens),
        "batch_size": source.batch_size,
        "sizes": list(source.sizes),
    }
    own: Any = source
    for field in fields(own) if is_dataclass(own) else ():
        value = getattr(source, field.name)
        if isinstance(value, bool | int | float | str):
            found[field.name] = value
        elif field.init and hasattr(value, "dtype") and field.name != "tokens":
            found[field.name] = _checksum(value)
    return found


def _checksum(array: Any) -> str:
    """The checksum of an array's numbers."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
