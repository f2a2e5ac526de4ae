"""Train a run and keep its folder up to date, so that a crash at any moment loses nothing but time.

Everything is a pure function of the last checkpoint: a run that is killed resumes from it and
makes the same bits again. So a checkpoint may be late, but never half saved; the best one is
saved before the last one that refers to it, and the history is restored from the last one.
"""

import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence

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
from jaxrnn.training.state import TrainState
from jaxrnn.training.timetable import Timetable

SECONDS_BETWEEN_CHECKPOINTS = 30.0
"""Minimum time between checkpoints within an epoch: the most that a crash costs."""
PICTURE = "loss.png"
"""Name of the file of the loss curves."""
LARGEST_SHARE = 0.02
"""Maximum share of the time that saving checkpoints takes, on average."""


class Checkpointing:
    """Adds a run's rows and saves its checkpoints.

    Attributes:
        run: the run's folder.
        best: the lowest validation loss so far.
        seconds: the time that saving checkpoints has taken.
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
        self.best = float("inf")
        self.seconds = 0.0
        self._rows = RowWriter(lines)
        self._changes = changes
        self._check = check
        self._clock = clock
        self._saved_at = clock()
        self._cost = 0.0  # seconds that the last checkpoint took
        # The best progress, until it is saved just before the next last checkpoint.
        self._pending: tuple[Progress, RowLog] | None = None
        self._on_disk: Position | None = None
        if saved is not None:
            self.best = saved.best
            # A checkpoint from before a change is saved anew, as the first one after it.
            if len(saved.changes) == len(changes):
                self._on_disk = saved.position

    def update(self, progress: Progress) -> None:
        """Add the row that is complete, if any, and save the checkpoints that are due."""
        row = progress.row
        validated = row is not None and row.validation is not None
        # A row is on the disk before a checkpoint counts it.
        if row is not None:
            self._check()
            self._rows.add(row)
            self.run.add_row(row)
            if row.validation is not None and row.validation < self.best:
                self.best = row.validation
                self._pending = (progress, self._rows.log)
        if self._is_due(epoch_ends=validated):
            self.save(progress)

    def save(self, progress: Progress, log: RowLog | None = None) -> None:
        """Save the last checkpoint, and before it the best one, if they are not there already.

        Args:
            progress: what to save.
            log: the rows up to there; all of them if None.

        Raises:
            RunError: if they cannot be written; the ones before them are whole.
        """
        if progress.position == self._on_disk:
            return
        started = self._clock()
        self.save_best()
        try:
            self.run.save("last", progress, self.best, log or self._rows.log, self._changes)
        except OSError as error:
            raise cannot_write(self.run, error) from error
        self._on_disk = progress.position
        self._saved_at = self._clock()
        self._cost = self._saved_at - started
        self.seconds += self._cost

    def save_if_sensible(self, experiment: Experiment, good: Progress | None) -> None:
        """Save the last progress whose weights are worth resuming from, where training diverges.

        It is the last one with a finite loss or, where its weights are bad already, the best one,
        if it is not saved yet.

        Args:
            experiment: what is trained.
            good: the last progress at which all was finite, or None.

        Raises:
            RunError: if it cannot be written; the checkpoints before are whole.
        """
        # The loss that training saw is that of a single step; this one is of the validation text.
        unsaved = [] if good is None else [(good, self._rows.log)]
        if self._pending is not None:
            unsaved.append(self._pending)
        self.save_best()
        for progress, log in unsaved:
            nats = measured_loss(experiment, progress.state)
            if is_sensible(nats, experiment.model.vocab_size):
                self.save(progress, log)
                return

    def save_best(self) -> None:
        """Save the best checkpoint alone, if it is not there already.

        Raises:
            RunError: if it cannot be written.
        """
        self._check()
        if self._pending is None:
            return
        progress, log = self._pending
        try:
            self.run.save("best", progress, self.best, log, self._changes)
        except OSError as error:
            raise cannot_write(self.run, error) from error
        self._pending = None

    def _is_due(self, *, epoch_ends: bool) -> bool:
        """Whether it is time: the end of an epoch, or a while, and never above the share."""
        passed = self._clock() - self._saved_at
        # As long as this between two checkpoints, saving them takes LARGEST_SHARE of the time.
        wait = self._cost * (1 / LARGEST_SHARE - 1)
        if not epoch_ends:
            wait = max(wait, SECONDS_BETWEEN_CHECKPOINTS)
        return passed >= wait


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
        state: the state to start from; a fresh one if None.
        position: where it stands; the beginning if None.
        debug_nans: see `training`.
    """
    if state is None:
        state = experiment.fresh_state()
    return training(
        experiment.model,
        experiment.source,
        experiment.validation,
        experiment.schedule,
        experiment.optimizer,
        state,
        position,
        carry_policy=experiment.config.carry,
        debug_nans=debug_nans,
        budget=experiment.config.budget,
    )


def train_run(
    run: Run,
    experiment: Experiment,
    *,
    resume: bool = False,
    debug_nans: bool = False,
    picture: bool = False,
    emit: Callable[[str], None] = warnings.warn,
) -> Generator[Progress, None, None]:
    """Train, and keep the run's folder up to date; yields what `training` yields.

    A caller that stops early calls `close()` on this generator: that saves the last checkpoint.

    Args:
        run: the run.
        experiment: what to train.
        resume: whether to resume from the run's last checkpoint.
        debug_nans: see `training`.
        picture: whether to plot the loss curves, `loss.png`, at the end or where it is stopped.
        emit: receives a sentence for everything that had to be repaired.

    Raises:
        RunError: if another process trains this run, or the folder cannot be read or written.
        NonFiniteLossError: see `training`; the last good progress is saved if its loss is
            sensible, see `jaxrnn.runs.judging`.
    """
    try:
        with locked(run.folder, emit) as check:
            # Only within the lock: they may be another process's, which is still writing them.
            remove_partial(run.folder)
            progress, checkpointing = _start(run, experiment, resume, emit, check)
            steps = train_experiment(
                experiment, progress.state, progress.position, debug_nans=debug_nans
            )

            def finish() -> None:
                """Save the last checkpoint, and the picture if it is asked for."""
                checkpointing.save(progress)
                if picture:
                    figure = losses_picture(run.history, title=run.folder.name)
                    check()
                    write_whole(run.folder / PICTURE, figure)

            try:
                for progress in steps:
                    checkpointing.update(progress)
                    yield progress
            except NonFiniteLossError as error:
                checkpointing.save_if_sensible(experiment, error.good)
                raise
            except GeneratorExit:  # the caller stops early
                finish()
                raise
            finish()
    except OSError as error:
        raise cannot_write(run, error) from error


def _start(
    run: Run,
    experiment: Experiment,
    resume: bool,
    emit: Callable[[str], None],
    check: Callable[[], None],
) -> tuple[Progress, Checkpointing]:
    """Where to start from, and the folder made to fit: the history is the checkpoint's."""
    saved = None
    if resume:
        saved = run.latest(jax.eval_shape(experiment.fresh_state), emit)
    changes = run.changes

    # From the beginning: the first checkpoint is there before the first step.
    if saved is None:
        if run.origin is not None:
            raise RunError(
                f"{run.folder} has lost the weights that it began with, those of "
                f"{run.origin.folder}: begin again with --from."
            )
        if any(change.step for change in changes):
            raise RunError(f"{run.folder} was trained, and has no checkpoint to go on from.")
        progress = Progress(experiment.fresh_state(), Position(), experiment.source.steps(0))
        checkpointing = Checkpointing(run, changes=changes, check=check)
        checkpointing.save(progress)
        return progress, checkpointing

    # From a checkpoint. Where the best one is lost, the next validation is the best so far.
    if saved.best < float("inf") and not run.best_is_whole(emit):
        saved = saved._replace(best=float("inf"))
    lines = run.restore_history(saved.log, emit)
    checkpointing = Checkpointing(run, saved, lines=lines, changes=changes, check=check)

    # Changes that were made after its update move its place in the schedule.
    before = run.configs[len(saved.changes)]
    old = Timetable(parse_schedule(before.schedule), experiment.source, before.budget)
    new = Timetable(experiment.schedule, experiment.source, experiment.config.budget)
    position = moved(saved.position, old, new)
    progress = Progress(saved.state, position, experiment.source.steps(position.epoch))
    if len(saved.changes) < len(changes):
        checkpointing.save(progress)
    return progress, checkpointing


def cannot_write(run: Run, error: OSError) -> RunError:
    """The error where the folder of a run cannot be written."""
    return RunError(
        f"Cannot write to {run.folder}: {error.strerror or error}. The checkpoint before is whole: "
        f"make room or put the folder right, then {run.how_to_go_on}."
    )
