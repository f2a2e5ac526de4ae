"""A run on disk: `runs/NAME/` with configuration, vocabulary, history, checkpoints, loss curve.

config.json          the configuration, the corpus's checksum, the run's identity, the versions
vocabulary.json      the tokens
SHA256SUMS           the checksums of the two, for `sha256sum --check`
history.jsonl        one row of history a line; a resumed run repeats it to the byte
timing.jsonl         the speed of each row, of those that were trained twice too
last.safetensors     the state to resume from, and the end of the history so far
last-1.safetensors   the one before it, then last-2, in case the newer ones are damaged
best.safetensors     the state with the lowest validation loss
changes.json         later changes of the schedule or the clip, if any; see `changes`
loss.png             the loss curves
.lock                locked while a process trains
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from jaxrnn.data.corpora import CORPORA
from jaxrnn.runs.checksums import RunError, RunExistsError
from jaxrnn.runs.experiment import Experiment, prepare
from jaxrnn.runs.history import (
    HISTORY,
    LARGEST_HISTORY,
    RowLog,
    append_row,
    parse_row,
    read_lines,
    restore,
)
from jaxrnn.runs.origin import Origin
from jaxrnn.runs.saved import KEPT, RunCheckpoints, Saved
from jaxrnn.runs.settings import PACKAGES, checked_name, damage_of, write_settings
from jaxrnn.training.history import Position, Progress, Row
from jaxrnn.training.records import History
from jaxrnn.training.state import TrainState

__all__ = [
    "KEPT",
    "LARGEST_HISTORY",
    "PACKAGES",
    "RUNS",
    "Run",
    "RunError",
    "RunExistsError",
    "Saved",
    "checked_name",
]

RUNS = Path("runs")
"""Folder of the command line's runs."""


class Run(RunCheckpoints):
    """A run's folder: its settings, its checkpoints and its history.

    Attributes:
        folder: where it is.
    """

    @property
    def how_to_go_on(self) -> str:
        """What to do to train on, for a message."""
        return f"go on with --resume {self.folder}"

    @classmethod
    def create(
        cls,
        folder: Path | str,
        experiment: Experiment,
        *,
        prompt: str = "",
        state: TrainState | None = None,
        origin: Origin | None = None,
    ) -> "Run":
        """Make the folder of a new run.

        Args:
            folder: its place; nothing may be there yet.
            experiment: what the run trains.
            prompt: what samples begin with.
            state: the state to begin with, which becomes the first checkpoint; that of the seed if
                None.
            origin: where that state is from, if from another run.

        Raises:
            RunError: if something is there already, or the folder cannot be made.
        """
        run = cls(folder)

        def fill(partial: Path) -> None:
            """Write the first checkpoint: without it, training would begin with other weights."""
            if state is not None:
                progress = Progress(state, Position(), experiment.source.steps(0))
                cls(partial).save("last", progress, float("inf"))

        write_settings(run.folder, experiment, prompt, origin, fill)
        return run

    @classmethod
    def create_first(
        cls,
        folders: Iterable[Path],
        experiment: Experiment,
        *,
        prompt: str = "",
        state: TrainState | None = None,
        origin: Origin | None = None,
    ) -> "Run":
        """Make the folder of a new run at the first of some places where nothing is.

        Another process may take one at any moment.

        Args:
            folders: the places.
            experiment: see `create`.
            prompt: see `create`.
            state: see `create`.
            origin: see `create`.

        Raises:
            RunError: if there is something at all of them, or the folder cannot be made.
        """
        for folder in folders:
            with contextlib.suppress(RunExistsError):
                return cls.create(folder, experiment, prompt=prompt, state=state, origin=origin)
        raise RunError("All names for a run are taken: choose one (--name).")

    def experiment(self, *, corpus: str | None = None) -> Experiment:
        """Everything that resuming the run takes.

        Args:
            corpus: where the text lies now, if it is no longer where it was.

        Raises:
            RunError: if the corpus is another one than the run was started on.
        """
        config = self.config
        if corpus is not None:
            config = replace(config, corpus=corpus)
        else:
            self.check_text_is_there()
        # The run's own vocabulary: a changed text would give another one before it is noticed.
        experiment = prepare(config, vocabulary=self.vocabulary)
        self.check_same_text(experiment)
        return experiment

    def check_text_is_there(self) -> None:
        """Refuse a run whose text is not there any more.

        Raises:
            RunError: if it is not.
        """
        # The loader of corpora does not know that the text has moved, and what to do.
        corpus = self.config.corpus
        if corpus not in CORPORA and not Path(corpus).exists():
            raise RunError(
                f"The text of this run, {corpus}, is not there any more. If it lies elsewhere now, "
                "name it with --corpus."
            )

    def check_same_text(self, experiment: Experiment) -> None:
        """Refuse an experiment on another text than the run was started on.

        Raises:
            RunError: if it is another one.
        """
        expected = self._description["corpus_sha256"]
        if experiment.corpus_sha256 != expected:
            raise RunError(
                f"The corpus {experiment.config.corpus} has changed since the run began: expected "
                f"sha256 {expected}, got {experiment.corpus_sha256}. If the text lies elsewhere "
                "now, name it with --corpus."
            )

    @property
    def history(self) -> History:
        """The rows of history; a last line that a crash cut off is left out."""
        lines = read_lines(self.folder)
        with damage_of(self.folder / HISTORY):
            rows = History(map(parse_row, lines))
        if self.origin is not None:
            rows.origin = self.origin.short
        return rows

    def add_row(self, row: Row) -> None:
        """Append to the history, and to the timing."""
        append_row(self.folder, row)

    def restore_history(self, log: RowLog, emit: Callable[[str], None]) -> list[str]:
        """Make the history that of a checkpoint; see `jaxrnn.runs.history.restore`."""
        return restore(self.folder, log, emit)
