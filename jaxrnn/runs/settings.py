"""The settings of a run on disk: what it began with, and what was changed since.

`config.json` and `vocabulary.json` never change once the run exists; `SHA256SUMS` has their
checksums. Later changes are in a file of their own; see `changes`.
"""

import contextlib
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxrnn.data.tokenizers import Tokenizer, restore_tokenizer
from jaxrnn.files import UnreadableError, damage, parse_json, read_regular
from jaxrnn.registry import NotDefinedError, code_files
from jaxrnn.runs.changes import CHANGES, LARGEST_CHANGES, Change, configs_of, unpack_changes
from jaxrnn.runs.checkpoints import CheckpointError
from jaxrnn.runs.checksums import RunError, make_run_folder, read_listed
from jaxrnn.runs.config import Config
from jaxrnn.runs.environment import computation, named_versions, versions
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.origin import Origin

logger = logging.getLogger(__name__)

DESCRIPTION = "config.json"
VOCABULARY = "vocabulary.json"
FIT_SETTINGS = "training.json"
"""Name of the settings in the folder of a training by `fit`, which is no run."""
IDENTITY_BYTES = 8
"""Random bytes of a run's identity."""
LONGEST_IDENTITY = 64
"""Maximum number of characters of an identity that is read from a file."""
PACKAGES = ("jaxrnn", "jax", "jaxlib", "flax", "optax", "numpy")
"""Packages whose versions a run records."""
KINDS: dict[str, type | tuple[type, ...]] = {
    "config": dict,
    "corpus_sha256": str,
    "prompt": str,
    "identity": (str, type(None)),
    "versions": dict,
    "computation": dict,
    "code": dict,
    "origin": dict,
}
"""Types of the entries of config.json."""
REQUIRED = ("config", "corpus_sha256")
"""Entries of config.json that runs of all versions have."""


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


@contextlib.contextmanager
def damage_of(path: Path) -> Iterator[None]:
    """Turn what parsing a file's content raises into a `RunError` that names the file."""
    try:
        yield
    # These name the file and the remedy already.
    except (RunError, CheckpointError, NotDefinedError):
        raise
    # A file that was edited or damaged can hold anything, so parsing it can raise any of these.
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise RunError(f"{path} is damaged: {damage(error)}.") from error


def write_settings(
    folder: Path,
    experiment: Experiment,
    prompt: str,
    origin: Origin | None = None,
    fill: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Make the folder of a new run, with the settings that it begins with.

    Args:
        folder: the new folder.
        experiment: what the run trains.
        prompt: what samples begin with.
        origin: where its first weights are from, if not from the seed.
        fill: see `make_run_folder`.

    Raises:
        RunError: if something is there already, or the folder cannot be made.
    """
    description: dict[str, Any] = {
        "config": experiment.config.to_dict(),
        "corpus_sha256": experiment.corpus_sha256,
        "prompt": prompt,
        "identity": secrets.token_hex(IDENTITY_BYTES),
        "versions": versions(PACKAGES),
        "computation": computation(),
        "code": code_files(experiment.config.names()),
    }
    # A run of the seed's weights is described as it was before there were any others.
    if origin is not None:
        description["origin"] = origin.to_dict()
    files = {
        DESCRIPTION: json.dumps(description, indent=2) + "\n",
        VOCABULARY: json.dumps(experiment.vocabulary.to_dict(), indent=0) + "\n",
    }
    make_run_folder(folder, files, fill)


class RunSettings:
    """The settings in a run's folder. They are read from the disk whenever they are asked for.

    Attributes:
        folder: the run's folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        # The user's files of code that are compared with the record, so that each warns once.
        self._compared: set[str] = set()

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def config(self) -> Config:
        """The configuration, with the changes that were made since the run began."""
        return self.configs[-1]

    @property
    def configs(self) -> list[Config]:
        """The configuration at the beginning, and that after each change."""
        # Damage is reported of the file that has it: the beginning, then the changes.
        with damage_of(self.folder / DESCRIPTION):
            initial = Config.from_dict(self._description["config"])
        self._compare_code(initial)
        changes = self.changes
        with damage_of(self.folder / CHANGES):
            return configs_of(initial, changes)

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
        with damage_of(path):
            return unpack_changes(data, self.identity)

    @property
    def prompt(self) -> str:
        """The text that samples begin with when no other is asked for."""
        return str(self._description.get("prompt", ""))

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer: text to tokens and back."""
        name = self.config.tokenizer
        values = self._json(VOCABULARY)
        with damage_of(self.folder / VOCABULARY):
            return restore_tokenizer(name, values)

    @property
    def identity(self) -> str | None:
        """The random name that tells the run from others; None in runs of earlier versions."""
        # Checkpoints and changes carry it, so that those of another run are refused.
        identity = self._description.get("identity")
        return None if identity is None else str(identity)

    @property
    def origin(self) -> Origin | None:
        """Where the weights that the run began with are from; None where they are the seed's."""
        values = self._description.get("origin")
        return None if values is None else Origin.from_dict(values)

    @property
    def computation(self) -> dict[str, Any]:
        """What the bytes of its results depend on, as `runs.environment.computation` gave it."""
        # Runs of earlier versions recorded neither.
        description = self._description
        packages = named_versions(description.get("versions") or {})
        return {**packages, **(description.get("computation") or {})}

    def _compare_code(self, config: Config) -> None:
        """Warn, once per file, if the user's code is not what it was when the run began."""
        recorded = self._description.get("code", {})
        for path, checksum in code_files(config.names()).items():
            if recorded.get(path) != checksum and path not in self._compared:
                logger.warning("%s has changed since the run began: results may differ.", path)
            self._compared.add(path)

    @property
    def _description(self) -> dict[str, Any]:
        description = self._json(DESCRIPTION)
        with damage_of(self.folder / DESCRIPTION):
            check_description(description)
        return dict(description)

    def _json(self, name: str) -> Any:
        if not (self.folder / DESCRIPTION).is_file():
            message = no_run(self.folder)
            if self.folder.is_file():
                message = (
                    f"{self.folder} is a file, and not the folder of a run: `import` makes a run "
                    "of a file of weights."
                )
            raise RunError(message)
        with damage_of(self.folder / name):
            return parse_json(read_listed(self.folder, name), name)


def check_description(description: Any) -> None:
    """Refuse what config.json holds if an entry is missing or of another type.

    Raises:
        ValueError: for the first such entry.
    """
    if not isinstance(description, dict):
        raise ValueError(f"it must be an object, got {description!r:.40}")
    for name, kind in KINDS.items():
        if name not in description and name in REQUIRED:
            raise ValueError(f"it has no {name}")
        if name in description and not isinstance(description[name], kind):
            raise ValueError(f"its {name} makes no sense: {description[name]!r:.40}")
    # It is repeated in messages and in every checkpoint.
    if len(description.get("identity") or "") > LONGEST_IDENTITY:
        raise ValueError(f"its identity is too long: {description['identity']!r:.40}")
    if "origin" in description:
        Origin.from_dict(description["origin"])


def named_differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which settings are other ones, and the values of the first; empty if none is."""
    other = []
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            other.append(name)
    if not other:
        return ""
    name = other[0]
    return f"{', '.join(other)} ({name} was {before.get(name)!r:.60}, is {now.get(name)!r:.60})"


def no_run(folder: Path) -> str:
    """What a folder without a run's settings is, and what reads it, for a message."""
    if not (folder / FIT_SETTINGS).is_file():
        return f"{folder} is not a run: it has no config.json."
    # Without a validation there is no best checkpoint.
    name = "best.safetensors"
    if not (folder / name).is_file():
        name = "last.safetensors"
    return (
        f"{folder} is no run but the checkpoints of jaxrnn.fit, which know neither model nor "
        "vocabulary: with the state of your own program as its like, "
        f"jaxrnn.load({str(folder / name)!r}, like=state) reads them."
    )
