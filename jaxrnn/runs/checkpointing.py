"""Train a run and keep its folder up to date, so that a crash at any moment loses nothing but time.

Everything is a pure function of the last checkpoint: a run that is killed goes on from it and
makes the same bits again. So a checkpoint may be late, but never half written; the best one is
written before the last one that speaks of it, and the history is put back from the last one.
"""

import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import pairwise

import jax

from jaxrnn.files import locked, remove_partial, write_whole
from jaxrnn.runs.changes import Change, moved
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.history import RowLog, RowWriter
from jaxrnn.runs.judging import is_sensible, measured_loss
from jaxrnn.runs.plots import losses_picture
from jaxrnn.runs.run import Run, RunError, Saved
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.history import Position, Progress
from jaxrnn.training.loop import training
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.state import TrainState, copied

SECONDS_BETWEEN_CHECKPOINTS = 30.0
"""At least, within an epoch: the most that a crash costs, and what spares the disk."""
PICTURE = "loss.png"
"""The file of the loss curves."""
LARGEST_SHARE = 0.02
"""Writing checkpoints takes at most this share of the time, on average."""


class Checkpointing:
    """Writes a run's rows and checkpoints.

    Attributes:
        run: the run's folder.
        best: the lowest validation loss so far.
        seconds: how long writing checkpoints has taken.
    """

    def __init__(
        self,
        run: Run,
        saved: Saved | None = None,
        *,
        lines: Sequence[str] = (),
        changes: Sequence[Change] = (),
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self.best = saved.best if saved else float("inf")
        self._rows = RowWriter(lines)
        self._changes = changes
        self._check = check
        # One from before a change is written anew, as the first one after it.
        as_it_is = saved is not None and len(saved.changes) == len(changes)
        self._on_disk = saved.position if saved is not None and as_it_is else None
        self.seconds = self._cost = 0.0
        self._clock, self._written = clock, clock()
        self._waiting: tuple[Progress, RowLog] | None = None

    def see(self, progress: Progress) -> None:
        """Add the row that is complete, if any, and write the checkpoints that are due."""
        row = progress.row
        if row is not None:
            self._check()
            self._rows.add(row)
            self.run.add_row(row)
            if row.validation is not None and row.validation < self.best:
                self.best = row.validation
                waiting = progress._replace(state=copied(progress.state))
                self._waiting = (waiting, self._rows.log)
        if self._due(epoch_ends=row is not None and row.validation is not None):
            self.write(progress)

    def write(self, progress: Progress) -> None:
        """Write the last checkpoint, and before it the best one, if they are not there already.

        Raises:
            RunError: if they cannot be written; the ones before them are whole.
        """
        if progress.position == self._on_disk:
            return
        self._check()
        started = self._clock()
        try:
            self._write_best()
            self.run.save("last", progress, self.best, self._rows.log, self._changes)
        except OSError as error:
            raise _cannot_write(self.run, error) from error
        self._on_disk = progress.position
        self._written = self._clock()
        self._cost = self._written - started
        self.seconds += self._cost

    def write_best(self) -> None:
        """Write the best checkpoint alone, if it is not there already.

        Raises:
            RunError: if it cannot be written.
        """
        self._check()
        try:
            self._write_best()
        except OSError as error:
            raise _cannot_write(self.run, error) from error

    def _write_best(self) -> None:
        if self._waiting is not None:
            progress, log = self._waiting
            self.run.save("best", progress, self.best, log, self._changes)
            self._waiting = None

    def _due(self, *, epoch_ends: bool) -> bool:
        """Whether time has come: the end of an epoch, or a while, and never above the share."""
        passed = self._clock() - self._written
        wanted = 0.0 if epoch_ends else SECONDS_BETWEEN_CHECKPOINTS
        return passed >= max(wanted, self._cost * (1 / LARGEST_SHARE - 1))


def train_experiment(
    experiment: Experiment,
    state: TrainState | None = None,
    position: Position | None = None,
    *,
    debug_nans: bool = False,
) -> Iterator[Progress]:
    """Train what an experiment describes, in memory alone; see `training`.

    Args:
        experiment: what to train.
        state: the state to go on from; a fresh one if None. It is used up.
        position: where it stands; the beginning if None.
        debug_nans: see `training`.
    """
    return training(
        experiment.model,
        experiment.source,
        experiment.validation,
        experiment.schedule,
        experiment.optimizer,
        experiment.fresh_state() if state is None else state,
        position,
        carry_policy=experiment.config.carry,
        debug_nans=debug_nans,
    )


def train_run(
    run: Run,
    experiment: Experiment,
    *,
    resume: bool = False,
    debug_nans: bool = False,
    picture: bool = False,
    say: Callable[[str], None] = warnings.warn,
) -> Generator[Progress, None, None]:
    """Train, and keep the run's folder up to date; yields what `training` yields.

    A caller that stops early calls `close()` on this generator: that writes the last checkpoint.

    Args:
        run: the run.
        experiment: what to train.
        resume: whether to go on from the run's last checkpoint.
        debug_nans: see `training`.
        picture: whether to draw the loss curves, `loss.png`, at the end or where it is stopped.
        say: is told in a sentence what had to be repaired.

    Raises:
        RunError: if another process trains this run, or the folder cannot be read or written.
        NonFiniteLossError: see `training`; the last good progress is written if its loss is
            sensible, see `jaxrnn.runs.judging`.
    """
    try:
        with locked(run.folder, say) as check:
            yield from _train_run(run, experiment, resume, debug_nans, picture, say, check)
    except OSError as error:
        raise _cannot_write(run, error) from error


def _train_run(
    run: Run,
    experiment: Experiment,
    resume: bool,
    debug_nans: bool,
    picture: bool,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> Generator[Progress, None, None]:
    remove_partial(run.folder)
    progress, checkpointing = _begin(run, experiment, resume, say, check)
    steps = train_experiment(experiment, progress.state, progress.position, debug_nans=debug_nans)
    try:
        for progress in steps:
            checkpointing.see(progress)
            yield progress
    except NonFiniteLossError as error:
        checkpointing.write_best()
        if error.good is not None:
            nats = measured_loss(experiment, error.good.state)
            if is_sensible(nats, experiment.model.vocab_size):
                checkpointing.write(error.good)
        raise
    except GeneratorExit:
        _end(run, progress, checkpointing, check, picture)
        raise
    _end(run, progress, checkpointing, check, picture)


def _end(
    run: Run,
    progress: Progress,
    checkpointing: Checkpointing,
    check: Callable[[], None],
    picture: bool,
) -> None:
    """Write the last checkpoint, and the picture if it is asked for."""
    checkpointing.write(progress)
    if picture:
        figure = losses_picture(run.history, title=run.folder.name)
        check()
        write_whole(run.folder / PICTURE, figure)


def _begin(
    run: Run,
    experiment: Experiment,
    resume: bool,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> tuple[Progress, Checkpointing]:
    """Where to start from, and the folder made to fit: the history is the checkpoint's."""
    saved = None
    if resume:
        saved = run.latest(jax.eval_shape(experiment.fresh_state), say)
    changes = run.changes
    if saved is None:
        if any(change.step for change in changes):
            raise RunError(f"{run.folder} was trained, and has no checkpoint to go on from.")
        progress = Progress(experiment.fresh_state(), Position(), experiment.source.steps(0))
        checkpointing = Checkpointing(run, changes=changes, check=check)
        checkpointing.write(progress)
        return progress, checkpointing
    if saved.best < float("inf") and not run.best_is_whole(say):
        saved = saved._replace(best=float("inf"))
    lines = run.restore_history(saved.log, say)
    checkpointing = Checkpointing(run, saved, lines=lines, changes=changes, check=check)
    position = _with_changes(run, experiment, saved)
    progress = Progress(saved.state, position, experiment.source.steps(position.epoch))
    if len(saved.changes) < len(changes):
        checkpointing.write(progress)
    return progress, checkpointing


def _with_changes(run: Run, experiment: Experiment, saved: Saved) -> Position:
    """The position of a checkpoint after the changes that were made after its update."""
    schedules = [parse_schedule(config.schedule) for config in run.configs[len(saved.changes) :]]
    position = saved.position
    for old, new in pairwise(schedules):
        position = moved(position, old, new, experiment.source)
    return position


def _cannot_write(run: Run, error: OSError) -> RunError:
    return RunError(
        f"Cannot write to {run.folder}: {error.strerror or error}. The checkpoint before is whole: "
        f"make room or put the folder right, then go on with --resume {run.folder}."
    )
