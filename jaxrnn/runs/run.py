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

from collections.abc import Callable
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
from jaxrnn.runs.saved import KEPT, RunCheckpoints, Saved
from jaxrnn.runs.settings import PACKAGES, checked_name, damage_of, write_settings
from jaxrnn.training.history import Row
from jaxrnn.training.records import History

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
    def create(cls, folder: Path | str, experiment: Experiment, *, prompt: str = "") -> "Run":
        """Make the folder of a new run.

        Args:
            folder: its place; nothing may be there yet.
            experiment: what the run trains.
            prompt: what samples begin with.

        Raises:
            RunError: if something is there already, or the folder cannot be made.
        """
        run = cls(folder)
        write_settings(run.folder, experiment, prompt)
        return run

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
        # The loader of corpora does not know that the text has moved, and what to do.
        elif config.corpus not in CORPORA and not Path(config.corpus).exists():
            raise RunError(
                f"The text of this run, {config.corpus}, is not there any more. If it lies "
                "elsewhere now, name it with --corpus."
            )
        # The run's own vocabulary: a changed text would give another one before it is noticed.
        experiment = prepare(config, vocabulary=self.vocabulary)
        expected = self._description["corpus_sha256"]
        if experiment.corpus_sha256 != expected:
            raise RunError(
                f"The corpus {experiment.config.corpus} has changed since the run began: expected "
                f"sha256 {expected}, got {experiment.corpus_sha256}. If the text lies elsewhere "
                "now, name it with --corpus."
            )
        return experiment

    @property
    def history(self) -> History:
        """The rows of history; a last line that a crash cut off is left out."""
        lines = read_lines(self.folder)
        with damage_of(self.folder / HISTORY):
            return History(map(parse_row, lines))

    def add_row(self, row: Row) -> None:
        """Append to the history, and to the timing."""
        append_row(self.folder, row)

    def restore_history(self, log: RowLog, emit: Callable[[str], None]) -> list[str]:
        """Make the history that of a checkpoint; see `jaxrnn.runs.history.restore`."""
        return restore(self.folder, log, emit)
