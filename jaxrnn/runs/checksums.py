"""Checksums of a run: its folder appears whole, and its settings cannot change unnoticed.

SHA256SUMS lists the checksums of the files that a run begins with, as `sha256sum --check` reads
them. A file that is not the one listed is refused: a flipped bit would train another model.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from jaxrnn.files import (
    LARGEST_TEXT,
    read_or_raise,
    remove_partial_folders,
    sync_folder,
    write_whole,
)

SUMS = "SHA256SUMS"
NO_CHECKSUM = b"0" * 64
"""Placeholder of a file's own sha256 while that is computed."""


class RunError(ValueError):
    """A run folder that cannot be made, read or resumed; the message says what to do."""


class RunExistsError(RunError):
    """There is something at the place of a new run already."""

    @classmethod
    def at(cls, folder: Path) -> "RunExistsError":
        """The error for something at `folder`."""
        return cls(f"{folder} exists. Go on with it (--resume {folder}), or choose another --name.")


def with_checksum(data: bytes, beginning: bytes) -> bytes:
    """A file's bytes, which begin with `beginning`, with their own sha256 behind it."""
    assert data.startswith(beginning)
    end = len(beginning) + len(NO_CHECKSUM)
    return beginning + _own_checksum(data, beginning).encode() + data[end:]


def check_own_checksum(data: bytes, beginning: bytes) -> None:
    """Refuse bytes that are not what `with_checksum` gave.

    Raises:
        ValueError: with both checksums.
    """
    end = len(beginning) + len(NO_CHECKSUM)
    expected = data[len(beginning) : end].decode("ascii", "replace")
    found = _own_checksum(data, beginning)
    if not data.startswith(beginning) or expected != found:
        raise ValueError(f"expected sha256 {expected!a}, got {found}")


def _own_checksum(data: bytes, beginning: bytes) -> str:
    """The sha256 of a file that has zeros in place of its own checksum."""
    # A view, because a checkpoint may have gigabytes, which a slice would copy.
    view = memoryview(data)
    digest = hashlib.sha256(view[: len(beginning)])
    digest.update(NO_CHECKSUM)
    digest.update(view[len(beginning) + len(NO_CHECKSUM) :])
    return digest.hexdigest()


def make_run_folder(
    folder: Path,
    files: dict[str, str],
    fill: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Make a run's folder with these files and their checksums, in one move.

    Args:
        folder: the new folder.
        files: text by name.
        fill: writes what else the folder begins with, before it appears under its name.

    Raises:
        RunExistsError: if something is there already.
        RunError: if the folder cannot be made.
    """
    if os.path.lexists(folder):
        raise RunExistsError.at(folder)
    sums = ""
    for name, text in files.items():
        # Two spaces, as sha256sum has them.
        sums += f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n"
    # The process is in the name, so that what a dead one left is known as such.
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    # Files are written in a hidden folder, which gets its name last: a crash leaves no half run.
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_partial_folders(folder.parent)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, text in (files | {SUMS: sums}).items():
            write_whole(partial / name, text.encode())
        fill(partial)
        os.rename(partial, folder)
        # Without this, a crash of the machine may lose the new name.
        sync_folder(folder.parent)
    except OSError as error:
        # Another process was faster: a rename does not replace a folder with files in it.
        if folder.exists():
            raise RunExistsError.at(folder) from None
        raise RunError(f"Cannot make {folder}: {error.strerror}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_listed(folder: Path, name: str) -> bytes:
    """The bytes of a file of a run, if its checksum is the one in SHA256SUMS.

    Raises:
        RunError: if it is not, or cannot be read.
    """
    # A damaged list of checksums lists nothing, and every file is refused.
    data = _read(folder / name)
    listed = {}
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
    return read_or_raise(RunError, path, at_most=LARGEST_TEXT, remedy="Put back the old file.")
