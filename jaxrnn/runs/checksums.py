"""A run's folder: it appears whole, and its settings cannot change unnoticed.

SHA256SUMS lists the checksums of the files that a run begins with, as `sha256sum --check` reads
them. A file that is not the one listed is refused: a flipped bit would train another model.
"""

import hashlib
import os
import shutil
from pathlib import Path

from jaxrnn.files import (
    LARGEST_TEXT,
    UnreadableError,
    read_regular,
    remove_partial_folders,
    sync_folder,
    write_whole,
)

SUMS = "SHA256SUMS"


class RunError(ValueError):
    """A run folder that cannot be made, read or gone on with; the message says what to do."""


class RunExistsError(RunError):
    """There is something at the place of a new run already."""

    @classmethod
    def at(cls, folder: Path) -> "RunExistsError":
        """The error for something at `folder`."""
        return cls(f"{folder} exists. Go on with it (--resume {folder}), or choose another --name.")


def make_sealed(folder: Path, files: dict[str, str]) -> None:
    """Make a run's folder with these files and their checksums, in one move.

    Raises:
        RunExistsError: if something is there already.
        RunError: if the folder cannot be made.
    """
    if os.path.lexists(folder):
        raise RunExistsError.at(folder)
    sums = [f"{hashlib.sha256(t.encode()).hexdigest()}  {name}\n" for name, t in files.items()]
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_partial_folders(folder.parent)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, text in (files | {SUMS: "".join(sums)}).items():
            write_whole(partial / name, text.encode())
        os.rename(partial, folder)
        sync_folder(folder.parent)
    except OSError as error:
        if folder.exists():
            raise RunExistsError.at(folder) from None
        raise RunError(f"Cannot make {folder}: {error.strerror}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_sealed(folder: Path, name: str) -> bytes:
    """What a file of a run holds, if it is the one that was written.

    Raises:
        RunError: if it is not, or cannot be read.
    """
    data, listed = _read(folder / name), {}
    for line in _read(folder / SUMS).decode(errors="replace").splitlines():
        checksum, _, file = line.partition("  ")
        listed[file] = checksum
    found = hashlib.sha256(data).hexdigest()
    if listed.get(name) != found:
        raise RunError(
            f"{folder / name} is damaged or was changed since the run began: expected sha256 "
            f"{listed.get(name)!a}, got {found}. Put back the old file."
        )
    return data


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, at_most=LARGEST_TEXT)
    except UnreadableError as error:
        raise RunError(f"Cannot read {path}: {error} Put back the old file.") from error
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror}. Put back the old file.") from error
