"""A run on disk: `runs/NAME/` with configuration, vocabulary, history, checkpoints, loss curve.

config.json          the configuration, the corpus's checksum, the versions
vocabulary.json      the tokens
history.jsonl        one row of history a line
last.safetensors     the state to go on from
best.safetensors     the state with the lowest validation loss
loss.png             the loss curves
"""

import json
import os
import platform
import re
import time
from collections.abc import Generator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxrnn.data.vocabulary import Vocabulary
from jaxrnn.generation import write_texts
from jaxrnn.training.checkpoints import load, save
from jaxrnn.training.config import Config
from jaxrnn.training.experiment import Experiment, fresh_state, prepare
from jaxrnn.training.history import Position, Row
from jaxrnn.training.loop import Progress, training
from jaxrnn.training.state import TrainState

RUNS = Path("runs")
"""Where the command line keeps runs."""
SECONDS_BETWEEN_CHECKPOINTS = 60.0
PACKAGES = ("jaxrnn", "jax", "jaxlib", "flax", "optax", "numpy")
"""Those whose versions a run records."""


class RunError(ValueError):
    """A run folder that cannot be made, read or gone on with; the message says what to do."""


def checked_name(name: str) -> str:
    """`name`, if it can name a run: so it stays within its folder, on every system.

    Raises:
        RunError: if it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        raise RunError(
            "A run's name has 1 to 100 letters (a to z), digits, '.', '_' and '-', and does not "
            f"begin with '.', got {name!r}."
        )
    return name


class Run:
    """A run's folder.

    Attributes:
        folder: where it is.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @classmethod
    def create(cls, folder: Path | str, experiment: Experiment, *, prompt: str = "") -> "Run":
        """Make the folder of a new run.

        Raises:
            RunError: if something is there already, or the folder cannot be made.
        """
        run = cls(folder)
        try:
            run.folder.mkdir(parents=True)
        except FileExistsError:
            raise RunError(
                f"{run.folder} exists. Go on with it (--resume {run.folder}), or choose another "
                "--name."
            ) from None
        except OSError as error:
            raise RunError(f"Cannot make {run.folder}: {error.strerror}.") from error
        described = {
            "config": experiment.config.to_dict(),
            "corpus_sha256": experiment.corpus_sha256,
            "prompt": prompt,
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in PACKAGES},
        }
        vocabulary = experiment.vocabulary
        listed = {"lowercase": vocabulary.lowercase, "itos": vocabulary.itos}
        run._write("config.json", json.dumps(described, indent=2) + "\n")
        run._write("vocabulary.json", json.dumps(listed, indent=0) + "\n")
        return run

    @property
    def config(self) -> Config:
        """The configuration."""
        return self._checked(lambda: Config.from_dict(self._described["config"]), "config.json")

    @property
    def prompt(self) -> str:
        """What samples begin with when nothing else is asked for."""
        return str(self._described.get("prompt", ""))

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary."""
        listed = self._json("vocabulary.json")
        return self._checked(
            lambda: Vocabulary(tuple(listed["itos"]), bool(listed["lowercase"])), "vocabulary.json"
        )

    @property
    def history(self) -> list[Row]:
        """The rows of history."""
        path = self.folder / "history.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text().splitlines()
        return self._checked(lambda: [Row(**json.loads(line)) for line in lines], path.name)

    def experiment(self) -> Experiment:
        """Everything that is needed to go on with the run.

        Raises:
            RunError: if the corpus is another one than the run was started on.
        """
        experiment = prepare(self.config, vocabulary=self.vocabulary)
        expected = self._described["corpus_sha256"]
        if experiment.corpus_sha256 != expected:
            raise RunError(
                f"The corpus {experiment.config.corpus} has changed since the run began: expected "
                f"sha256 {expected}, got {experiment.corpus_sha256}."
            )
        return experiment

    def save(self, name: str, progress: Progress, best: float) -> None:
        """Write checkpoint `name` ("last" or "best")."""
        metadata = {"position": asdict(progress.position), "best": best}
        save(self.folder / f"{name}.safetensors", progress.state, metadata)

    def load(self, name: str, like: TrainState) -> tuple[TrainState, Position, float]:
        """Read checkpoint `name`: the state, the position and the lowest validation loss so far."""
        state, metadata = load(self.folder / f"{name}.safetensors", like)
        return state, Position(**metadata["position"]), float(metadata["best"])

    def load_params(self, name: str = "best") -> Any:
        """The parameters of checkpoint `name`, or of "last" where there is no best one yet."""
        config = self.config
        model = config.make_model(len(self.vocabulary))
        like = jax.eval_shape(lambda: fresh_state(config, model))
        there = (self.folder / f"{name}.safetensors").is_file()
        return self.load(name if there else "last", like)[0].params

    def write(
        self, prompt: str | None, *, length: int, checkpoint: str = "best", **options: Any
    ) -> list[str]:
        """Texts of the trained model; see `write_texts` for the options.

        Args:
            prompt: what to go on from; the run's own prompt if None.
            length: characters to write.
            checkpoint: whose parameters write, "best" or "last".
            options: count, sampler, unknown, seed.
        """
        config, vocabulary = self.config, self.vocabulary
        return write_texts(
            config.make_model(len(vocabulary)),
            self.load_params(checkpoint),
            vocabulary,
            self.prompt if prompt is None else prompt,
            window=config.bptt,
            length=length,
            **options,
        )

    def add_row(self, row: Row) -> None:
        """Append to the history."""
        with open(self.folder / "history.jsonl", "a") as file:
            file.write(json.dumps(asdict(row)) + "\n")

    def cut_history(self, step: int, position: Position) -> None:
        """Drop the rows that were written after a checkpoint that is gone on from."""
        last = step if position.steps == 0 else step - 1
        rows = [row for row in self.history if row.step <= last]
        self._write("history.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows))

    @property
    def _described(self) -> dict[str, Any]:
        return self._json("config.json")

    def _json(self, name: str) -> Any:
        path = self.folder / name
        if not path.is_file():
            raise RunError(f"{self.folder} is not a run: it has no {name}.")
        return self._checked(lambda: json.loads(path.read_text()), name)

    def _checked(self, read: Any, name: str) -> Any:
        try:
            return read()
        except RunError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.folder / name} is damaged: {error}") from error

    def _write(self, name: str, text: str) -> None:
        partial = self.folder / f".{name}.partial"
        partial.write_text(text)
        os.replace(partial, self.folder / name)


def carry_out(
    run: Run, experiment: Experiment, *, resume: bool = False
) -> Generator[Progress, None, None]:
    """Train, and keep the run's folder up to date; yields what `training` yields.

    A caller that stops early calls `close()` on this generator: that writes the last checkpoint.

    Args:
        run: the run.
        experiment: what to train.
        resume: whether to go on from the run's last checkpoint.
    """
    best = float("inf")
    if resume:
        like = jax.eval_shape(experiment.fresh_state)
        state, position, best = run.load("last", like)
        run.cut_history(int(state.step), position)
    else:
        state, position = experiment.fresh_state(), Position()
    progress = Progress(state, position, experiment.source.steps(position.epoch))
    run.save("last", progress, best)
    saved = time.monotonic()
    try:
        for progress in training(
            experiment.model,
            experiment.source,
            experiment.validation,
            experiment.schedule,
            experiment.optimizer,
            state,
            position,
            carry_policy=experiment.config.carry,
        ):
            row = progress.row
            if row is not None:
                run.add_row(row)
            if row is not None and row.validation is not None and row.validation < best:
                best = row.validation
                run.save("best", progress, best)
            due = time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS
            if due or (row is not None and row.validation is not None):
                run.save("last", progress, best)
                saved = time.monotonic()
            yield progress
    except GeneratorExit:
        run.save("last", progress, best)
        raise
