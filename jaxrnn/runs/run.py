"""A run on disk: `runs/NAME/` with configuration, vocabulary, history, checkpoints, loss curve.

config.json          the configuration, the corpus's checksum, the run's identity, the versions
vocabulary.json      the tokens
SHA256SUMS           the checksums of the two, for `sha256sum --check`
history.jsonl        one row of history a line; a resumed run repeats it to the byte
timing.jsonl         the speed of each row, of those that were trained twice too
last.safetensors     the state to go on from, and the end of the history so far
last-1.safetensors   the one before it, then last-2: what is fallen back to
best.safetensors     the state with the lowest validation loss
changes.json         later changes of the schedule or the clip, if any; see `changes`
loss.png             the loss curves
.lock                locked while a process trains
"""

import json
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxrnn.data.corpora import CORPORA
from jaxrnn.data.tokenizers import Tokenizer, restore_tokenizer
from jaxrnn.files import (
    UnreadableError,
    damage,
    open_own,
    parse_json,
    read_regular,
    sync_file,
    write_whole,
)
from jaxrnn.registry import NotDefinedError, code_files
from jaxrnn.runs.changes import (
    CHANGES,
    LARGEST_CHANGES,
    Change,
    changes_in,
    configs_of,
    unpack_changes,
)
from jaxrnn.runs.checkpoints import (
    CheckpointError,
    DamagedCheckpointError,
    fitted,
    most_bytes,
    read,
    save,
)
from jaxrnn.runs.checksums import RunError as RunError
from jaxrnn.runs.checksums import RunExistsError as RunExistsError
from jaxrnn.runs.checksums import make_sealed, read_sealed
from jaxrnn.runs.config import Config
from jaxrnn.runs.environment import computation, named_versions, versions
from jaxrnn.runs.experiment import Experiment, fresh_state, prepare
from jaxrnn.runs.history import RowLog
from jaxrnn.training.history import Position, Progress, Row
from jaxrnn.training.state import TrainState

logger = logging.getLogger(__name__)

RUNS = Path("runs")
"""Where the command line keeps runs."""
KEPT = ("last", "last-1", "last-2")
"""The checkpoints to go on from, the newest first."""
IDENTITY_BYTES = 8
"""Of a run's identity, drawn at random."""
LARGEST_HISTORY = 1 << 32
"""Bytes that a history may have: the longest schedule gives ten million rows of 400 or fewer."""
LONGEST_IDENTITY = 64
"""Characters of an identity that is read from a file."""
PACKAGES = ("jaxrnn", "jax", "jaxlib", "flax", "optax", "numpy")
"""Those whose versions a run records."""


class Saved(NamedTuple):
    """What a checkpoint of a run holds.

    Attributes:
        state: the training state.
        position: where the run stood.
        best: the lowest validation loss so far.
        log: the rows of history so far.
        changes: those of the run's settings that were made before it.
    """

    state: TrainState
    position: Position
    best: float
    log: RowLog
    changes: tuple[Change, ...] = ()


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
        self._compared: set[str] = set()  # files of code, compared with the record

    @classmethod
    def create(cls, folder: Path | str, experiment: Experiment, *, prompt: str = "") -> "Run":
        """Make the folder of a new run.

        Raises:
            RunError: if something is there already, or the folder cannot be made.
        """
        run = cls(folder)
        described = {
            "config": experiment.config.to_dict(),
            "corpus_sha256": experiment.corpus_sha256,
            "prompt": prompt,
            "identity": secrets.token_hex(IDENTITY_BYTES),
            "versions": versions(PACKAGES),
            "computation": computation(),
            "code": code_files(experiment.config.names()),
        }
        files = {
            "config.json": json.dumps(described, indent=2) + "\n",
            "vocabulary.json": json.dumps(experiment.vocabulary.to_dict(), indent=0) + "\n",
        }
        make_sealed(run.folder, files)
        return run

    @property
    def config(self) -> Config:
        """The configuration, with the changes that were made since the run began."""
        return self.configs[-1]

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes of the configuration since the run began, in order.

        Raises:
            RunError: if their file is damaged or cannot be read.
        """
        path = self.folder / CHANGES
        try:
            data = read_regular(path, at_most=LARGEST_CHANGES)
        except FileNotFoundError:
            return ()
        except (UnreadableError, OSError) as error:
            raise RunError(f"Cannot read {path}: {error}. Put back the old file.") from error
        return self._checked(lambda: unpack_changes(data, self.identity), CHANGES)

    @property
    def configs(self) -> list[Config]:
        """The configuration at the beginning, and that after each change."""
        begun = self._checked(lambda: Config.from_dict(self._described["config"]), "config.json")
        self._compare_code(begun)
        changes = self.changes
        return self._checked(lambda: configs_of(begun, changes), CHANGES)

    def _compare_code(self, config: Config) -> None:
        """Say once if code of the user's is not what it was when the run began."""
        recorded = self._described.get("code", {})
        for path, checksum in code_files(config.names()).items():
            if recorded.get(path) != checksum and path not in self._compared:
                logger.warning("%s has changed since the run began: results may differ.", path)
            self._compared.add(path)

    @property
    def prompt(self) -> str:
        """What samples begin with when nothing else is asked for."""
        return str(self._described.get("prompt", ""))

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer: text to tokens and back."""
        name = self.config.tokenizer
        values = self._json("vocabulary.json")
        return self._checked(lambda: restore_tokenizer(name, values), "vocabulary.json")

    @property
    def history(self) -> list[Row]:
        """The rows of history; a last line that a crash cut off is left out."""
        lines = self._history_lines()
        return self._checked(lambda: [Row(**json.loads(line)) for line in lines], "history.jsonl")

    @property
    def identity(self) -> str | None:
        """What tells the run from another one of its name; None in runs of earlier versions."""
        identity = self._described.get("identity")
        return None if identity is None else str(identity)

    @property
    def computation(self) -> dict[str, Any]:
        """What the bytes of its results depend on, as `runs.environment.computation` gave it."""
        described = self._described
        packages = named_versions(described.get("versions") or {})
        return {**packages, **(described.get("computation") or {})}

    def _foreign(self, name: str, metadata: dict[str, Any]) -> str | None:
        """What to say of a checkpoint that is another run's; None if it is not, or nobody knows."""
        other = metadata.get("run")
        if self.identity is None or other == self.identity:
            return None
        return (
            f"{self.path(name)} is the checkpoint of another run ({str(other)[:40]!r}, this is "
            f"{self.identity!r}): put back the run's own, or read it from its own folder."
        )

    def experiment(self, *, corpus: str | None = None) -> Experiment:
        """Everything that is needed to go on with the run.

        Args:
            corpus: where the text lies now, if it is no longer where it was.

        Raises:
            RunError: if the corpus is another one than the run was started on.
        """
        config = self.config if corpus is None else replace(self.config, corpus=corpus)
        if corpus is None and config.corpus not in CORPORA and not Path(config.corpus).exists():
            raise RunError(
                f"The text of this run, {config.corpus}, is not there any more. If it lies "
                "elsewhere now, name it with --corpus."
            )
        experiment = prepare(config, vocabulary=self.vocabulary)
        expected = self._described["corpus_sha256"]
        if experiment.corpus_sha256 != expected:
            raise RunError(
                f"The corpus {experiment.config.corpus} has changed since the run began: expected "
                f"sha256 {expected}, got {experiment.corpus_sha256}. If the text lies elsewhere "
                "now, name it with --corpus."
            )
        return experiment

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
            changes: those of the run's settings that were made before.
        """
        if log is not None and log.rows:
            sync_file(self.folder / "history.jsonl")
        metadata: dict[str, Any] = {
            "run": self.identity,
            "position": asdict(progress.position),
            "best": best,
            "history": asdict(log or RowLog()),
        }
        if changes:
            metadata["changes"] = [asdict(change) for change in changes]
        older = [self.path(kept) for kept in KEPT[1:]] if name == KEPT[0] else []
        save(self.path(name), progress.state, metadata, older=older)

    def path(self, name: str) -> Path:
        """The file of checkpoint `name`."""
        return self.folder / f"{name}.safetensors"

    def load(self, name: str, like: TrainState) -> Saved:
        """Read checkpoint `name`.

        Raises:
            CheckpointError: if it is missing, damaged or of another format, or does not fit.
            RunError: if it is another run's, or made with changes that are not recorded.
        """
        path = self.path(name)
        arrays, metadata = read(path, at_most=most_bytes(like))
        if (other := self._foreign(name, metadata)) is not None:
            raise RunError(other)
        changes = self._checked(lambda: changes_in(metadata.get("changes", [])), path.name)
        recorded = self.changes
        if recorded[: len(changes)] != changes:
            raise RunError(
                f"{path} was made with changes of the settings that {self.folder / CHANGES} does "
                "not have: put back that file."
            )
        there = like
        if changes != recorded:
            # Clipping has a place in the structure of the optimizer's state, and no arrays.
            optimizer = self.configs[len(changes)].make_optimizer()
            structure = jax.tree.structure(jax.eval_shape(optimizer.init, like.params))
            opt_state = jax.tree.unflatten(structure, jax.tree.leaves(like.opt_state))
            there = like._replace(opt_state=opt_state)
        state = fitted(path, arrays, there)
        structure = jax.tree.structure(like.opt_state)
        opt_state = jax.tree.unflatten(structure, jax.tree.leaves(state.opt_state))
        state = state._replace(opt_state=opt_state)
        return self._checked(lambda: _saved(state, metadata, changes), path.name)

    def leads_on(self, name: str, saved: Saved) -> bool:
        """Whether training goes on from a checkpoint: not if it is from before the last change.

        But for the one after whose update the change was made, which may be the best one.

        Args:
            name: the checkpoint.
            saved: what it holds.
        """
        step = int(saved.state.step)
        missing = self.changes[len(saved.changes) :]
        if name == "best" and step and not saved.log.rows:
            return False  # earlier versions kept no history in it
        return all(change.step == step for change in missing)

    def latest(self, like: TrainState, say: Callable[[str], None]) -> Saved | None:
        """The newest checkpoint to go on from that is whole, or None where nothing was trained.

        Args:
            like: the shapes of the state.
            say: is told, in a sentence, when a newer one is passed over.

        Raises:
            RunError: if all are damaged or missing, but something was trained.
        """
        damaged = []
        recorded = self.changes
        for name in (*KEPT, "best") if recorded else KEPT:
            try:
                saved = self.load(name, like)
            except DamagedCheckpointError as error:
                damaged.append(str(error))
                continue
            whole_but_best = name == "best" and saved.changes == recorded
            if whole_but_best or not self.leads_on(name, saved):
                continue
            if damaged:
                say(
                    f"{' '.join(damaged)} Going on from {self.path(name)}, at step "
                    f"{int(saved.state.step)}: nothing but time is lost."
                )
            return saved
        begun = [self.path(name) for name in (*KEPT, "best")] + [self.folder / "history.jsonl"]
        if not any(path.exists() for path in begun):
            return None
        raise RunError(f"{self.folder} has no whole checkpoint to go on from. {' '.join(damaged)}")

    def best(self) -> tuple[int, float]:
        """Updates made, and the validation loss, of the best checkpoint.

        Raises:
            CheckpointError: if it is missing or damaged.
            RunError: if it is another run's, or what it says makes no sense.
        """
        arrays, metadata = read(self.path("best"))
        if (other := self._foreign("best", metadata)) is not None:
            raise RunError(other)
        found = self._checked(
            lambda: (int(arrays["step"]), float(metadata["best"])), self.path("best").name
        )
        return found

    def best_is_whole(self, say: Callable[[str], None]) -> bool:
        """Whether the best checkpoint can be read; says so if not."""
        try:
            _, metadata = read(self.path("best"))
            other = self._foreign("best", metadata)
            if other is not None:
                say(f"{other} The next validation writes a new one, whatever its loss.")
            return other is None
        except CheckpointError as error:
            say(f"{error} The next validation writes a new one, whatever its loss.")
            return False

    def load_params(self, name: str = "best") -> Any:
        """The parameters of checkpoint `name`, or of "last" where there is no best one yet.

        A warning of the logger "jaxrnn" says so then, unless the weights were never trained here.
        """
        config = self.config
        model = config.make_model(self.vocabulary.size)
        like = jax.eval_shape(lambda: fresh_state(config, model))
        there = self.path(name).is_file()
        try:
            state = self.load(name if there else "last", like).state
            if not there and name != "last" and int(state.step) > 0:
                logger.warning("%s is missing: taking %s.", self.path(name), self.path("last"))
            return state.params
        except DamagedCheckpointError as error:
            other = "last" if name == "best" else "best"
            raise RunError(f"{error} Try the other one: --checkpoint {other}.") from error

    def add_row(self, row: Row) -> None:
        """Append to the history, and to the timing."""
        timing = {"step": row.step, "characters_per_second": row.characters_per_second}
        for name, line in (("history", row.line), ("timing", json.dumps(timing) + "\n")):
            with open_own(self.folder / f"{name}.jsonl", "a") as file:
                file.write(line)

    def restore_history(self, log: RowLog, say: Callable[[str], None]) -> list[str]:
        """Make the history that of a checkpoint, whatever became of it since.

        Rows behind the checkpoint are cut off: they are trained again. If the file is damaged, the
        rows that the checkpoint holds are put back; what else of it cannot be read is lost.

        Args:
            log: what the checkpoint says of the history.
            say: is told, in a sentence, if rows are lost.

        Returns:
            The lines of the history.

        Raises:
            RunError: if there is a file that cannot be read: it is left as it is.
        """
        there = self._history_lines()
        lines = there[: log.rows]
        if RowLog.of(lines) != log:
            lines = [*lines[: log.rows - len(log.tail)], *log.tail]
        if RowLog.of(lines) != log:
            lines = [line for line in lines if _is_row(line)]
            say(
                f"{self.folder / 'history.jsonl'} is damaged: of the {log.rows:,} rows before the "
                f"checkpoint, {len(lines):,} are left. Training itself goes on as before."
            )
        write_whole(self.folder / "history.jsonl", "".join(lines).encode())
        return lines

    def _history_lines(self) -> list[str]:
        """The whole lines of history.jsonl, each with its end; none if there is no file.

        Raises:
            RunError: if the file cannot be read.
        """
        path = self.folder / "history.jsonl"
        try:
            text = read_regular(path, at_most=LARGEST_HISTORY).decode(errors="replace")
        except FileNotFoundError:
            return []
        except (UnreadableError, OSError) as error:
            raise RunError(f"Cannot read {path}: {error}") from error
        return [f"{line}\n" for line in text.split("\n")[:-1]]

    @property
    def _described(self) -> dict[str, Any]:
        described = self._json("config.json")
        return self._checked(lambda: _checked_description(described), "config.json")

    def _json(self, name: str) -> Any:
        if not (self.folder / "config.json").is_file():
            raise RunError(f"{self.folder} is not a run: it has no config.json.")
        return self._checked(lambda: parse_json(read_sealed(self.folder, name), name), name)

    def _checked(self, read: Callable[[], Any], name: str) -> Any:
        try:
            return read()
        except (RunError, CheckpointError, NotDefinedError):
            raise
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise RunError(f"{self.folder / name} is damaged: {damage(error)}.") from error


def _checked_description(described: Any) -> dict[str, Any]:
    """What config.json holds, if each part is of its type.

    Raises:
        ValueError: for the first part that is missing or of another type.
    """
    kinds: dict[str, type | tuple[type, ...]] = {
        "config": dict,
        "corpus_sha256": str,
        "prompt": str,
        "identity": (str, type(None)),
        "versions": dict,
        "computation": dict,
        "code": dict,
    }
    required = ("config", "corpus_sha256")  # the others are not in all earlier versions
    if not isinstance(described, dict):
        raise ValueError(f"it must be an object, got {described!r:.40}")
    for name, kind in kinds.items():
        if name not in described and name in required:
            raise ValueError(f"it has no {name}")
        if name in described and not isinstance(described[name], kind):
            raise ValueError(f"its {name} makes no sense: {described[name]!r:.40}")
    if len(described.get("identity") or "") > LONGEST_IDENTITY:
        raise ValueError(f"its identity is too long: {described['identity']!r:.40}")
    return dict(described)


def _saved(state: TrainState, metadata: dict[str, Any], changes: tuple[Change, ...]) -> Saved:
    position = Position(**metadata["position"])
    position.check()
    best = metadata["best"]
    if not isinstance(best, float | int) or isinstance(best, bool) or best != best:
        raise ValueError(f"best is no number: {best!r:.40}")
    return Saved(state, position, float(best), RowLog.from_json(metadata["history"]), changes)


def _is_row(line: str) -> bool:
    try:
        Row(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return False
    return True
