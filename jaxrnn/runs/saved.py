"""The checkpoints of a run: written as it trains, and chosen among when it is resumed."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxrnn.files import sync_file
from jaxrnn.runs.changes import CHANGES, Change, changes_in
from jaxrnn.runs.checkpoints import (
    CheckpointError,
    DamagedCheckpointError,
    fitted,
    most_bytes,
    read,
    save,
)
from jaxrnn.runs.checksums import RunError
from jaxrnn.runs.experiment import fresh_state
from jaxrnn.runs.history import HISTORY, RowLog
from jaxrnn.runs.settings import RunSettings, damage_of
from jaxrnn.training.history import Position, Progress
from jaxrnn.training.state import TrainState

logger = logging.getLogger(__name__)

KEPT = ("last", "last-1", "last-2")
"""Names of the checkpoints to resume from, the newest first."""


class Saved(NamedTuple):
    """What a checkpoint of a run holds.

    Attributes:
        state: the training state.
        position: where the run stood.
        best: the lowest validation loss so far.
        log: the rows of history so far.
        changes: the changes of the run's settings that were made before it.
    """

    state: TrainState
    position: Position
    best: float
    log: RowLog
    changes: tuple[Change, ...] = ()


class RunCheckpoints(RunSettings):
    """The checkpoints in a run's folder, beside its settings."""

    def path(self, name: str) -> Path:
        """The file of checkpoint `name`."""
        return self.folder / f"{name}.safetensors"

    def save(
        self,
        name: str,
        progress: Progress,
        best: float,
        log: RowLog | None = None,
        changes: Sequence[Change] = (),
    ) -> None:
        """Write checkpoint `name` ("last" or "best"); the last ones before it are kept.

        The rows that it counts are on the disk before it is.

        Args:
            name: "last" or "best".
            progress: how far training has come.
            best: the lowest validation loss so far.
            log: the rows of history so far.
            changes: the changes of the run's settings that were made before.
        """
        # A checkpoint on the disk whose rows are lost with the page cache could not be repaired.
        if log is not None and log.rows:
            sync_file(self.folder / HISTORY)
        metadata: dict[str, Any] = {
            "run": self.identity,
            "position": asdict(progress.position),
            "best": best,
            "history": asdict(log or RowLog()),
        }
        # Without changes there is no such entry, so that the bytes are those of earlier versions.
        if changes:
            metadata["changes"] = [asdict(change) for change in changes]
        older = list(map(self.path, KEPT[1:])) if name == KEPT[0] else []
        save(self.path(name), progress.state, metadata, older=older)

    def load(self, name: str, like: TrainState) -> Saved:
        """Read checkpoint `name`.

        Raises:
            CheckpointError: if it is missing, damaged or of another format, or does not fit.
            RunError: if it is another run's, or made with changes that are not recorded.
        """
        path = self.path(name)
        arrays, metadata = read(path, at_most=most_bytes(like))
        foreign = self._foreign(name, metadata)
        if foreign is not None:
            raise RunError(foreign)

        # Its changes are the first ones of those that the run has now.
        with damage_of(path):
            changes = changes_in(metadata.get("changes", []))
        recorded = self.changes
        if recorded[: len(changes)] != changes:
            raise RunError(
                f"{path} was made with changes of the settings that {self.folder / CHANGES} does "
                "not have: put back that file."
            )

        # Clipping has a place in the structure of the optimizer's state, and no arrays: a
        # checkpoint from before a change of the clip is read in the old structure.
        expected = like
        if changes != recorded:
            optimizer = self.configs[len(changes)].make_optimizer()
            old_opt_state = jax.eval_shape(optimizer.init, like.params)
            expected = like._replace(opt_state=_as_structure(like.opt_state, old_opt_state))
        state = fitted(path, arrays, expected)
        state = state._replace(opt_state=_as_structure(state.opt_state, like.opt_state))

        with damage_of(path):
            position = Position(**metadata["position"])
            position.check()
            best = _checked_loss(metadata["best"])
            log = RowLog.from_json(metadata["history"])
        return Saved(state, position, best, log, changes)

    def leads_on(self, name: str, saved: Saved) -> bool:
        """Whether training goes on from a checkpoint: not if it is from before the last change.

        The one after whose update the change was made is the exception; it may be the best one.

        Args:
            name: the checkpoint.
            saved: what it holds.
        """
        step = int(saved.state.step)
        missing = self.changes[len(saved.changes) :]
        # Earlier versions kept no history in the best checkpoint.
        if name == "best" and step and not saved.log.rows:
            return False
        return all(change.step == step for change in missing)

    def latest(self, like: TrainState, emit: Callable[[str], None]) -> Saved | None:
        """The newest whole checkpoint to resume from, or None where nothing was trained.

        Args:
            like: the shapes of the state.
            emit: receives a sentence when a newer one is passed over.

        Raises:
            RunError: if all are damaged or missing, but something was trained.
        """
        damaged = []
        recorded = self.changes
        # A change may have been made at the update of the best checkpoint.
        for name in (*KEPT, "best") if recorded else KEPT:
            try:
                saved = self.load(name, like)
            except DamagedCheckpointError as error:
                damaged.append(str(error))
                continue
            # A best one with all changes is behind a last one, which is what counts.
            superseded = name == "best" and saved.changes == recorded
            if superseded or not self.leads_on(name, saved):
                continue
            if damaged:
                emit(
                    f"{' '.join(damaged)} Going on from {self.path(name)}, at step "
                    f"{int(saved.state.step)}: nothing but time is lost."
                )
            return saved
        # A run without a trace of training starts from the beginning; else that would be a loss.
        traces = [*map(self.path, (*KEPT, "best")), self.folder / HISTORY]
        if not any(map(Path.exists, traces)):
            return None
        raise RunError(f"{self.folder} has no whole checkpoint to go on from. {' '.join(damaged)}")

    def best(self) -> tuple[int, float]:
        """Updates made, and the validation loss, of the best checkpoint.

        Raises:
            CheckpointError: if it is missing or damaged.
            RunError: if it is another run's, or what it says makes no sense.
        """
        path = self.path("best")
        arrays, metadata = read(path)
        foreign = self._foreign("best", metadata)
        if foreign is not None:
            raise RunError(foreign)
        with damage_of(path):
            return int(arrays["step"]), float(metadata["best"])

    def best_is_whole(self, emit: Callable[[str], None]) -> bool:
        """Whether the best checkpoint can be read; emits a sentence if not."""
        # Nobody asks for its state here, only whether its checksum is right and it is ours.
        try:
            _, metadata = read(self.path("best"))
            problem = self._foreign("best", metadata)
        except CheckpointError as error:
            problem = str(error)
        if problem is not None:
            emit(f"{problem} The next validation writes a new one, whatever its loss.")
        return problem is None

    def load_params(self, name: str = "best") -> Any:
        """The parameters of a checkpoint; see `load_state`."""
        return self.load_state(name).params

    def found(self, name: str) -> str:
        """Checkpoint `name`, or "last" where there is no best one yet."""
        return name if self.path(name).is_file() else "last"

    def load_state(self, name: str = "best") -> TrainState:
        """The state of checkpoint `name`, or of "last" where there is no best one yet.

        A warning of the logger "jaxrnn" reports that, unless the weights were never trained here.

        Raises:
            CheckpointError: if there is none, or it does not fit.
            RunError: if it is damaged, or another run's.
        """
        config = self.config
        model = config.make_model(self.vocabulary.size)
        # Shapes alone: nothing is initialized or compiled.
        like = jax.eval_shape(lambda: fresh_state(config, model))
        found = self.found(name)
        try:
            state = self.load(found, like).state
        except DamagedCheckpointError as error:
            other = "last" if name == "best" else "best"
            raise RunError(f"{error} Try the other one: --checkpoint {other}.") from error
        if found != name and int(state.step) > 0:
            logger.warning("%s is missing: taking %s.", self.path(name), self.path(found))
        return state

    def _foreign(self, name: str, metadata: dict[str, Any]) -> str | None:
        """The problem with a checkpoint that is another run's; None if it is not, or unknown."""
        # Runs and checkpoints of earlier versions have no identity.
        other = metadata.get("run")
        if self.identity is None or other == self.identity:
            return None
        return (
            f"{self.path(name)} is the checkpoint of another run ({str(other)[:40]!r}, this is "
            f"{self.identity!r}): put back the run's own, or read it from its own folder."
        )


def _as_structure(tree: Any, like: Any) -> Any:
    """The leaves of a tree in the structure of another one."""
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(tree))


def _checked_loss(best: Any) -> float:
    """A validation loss from a file; infinite where there was none."""
    # NaN differs from itself.
    if not isinstance(best, float | int) or isinstance(best, bool) or best != best:
        raise ValueError(f"best is no number: {best!r:.40}")
    return float(best)
