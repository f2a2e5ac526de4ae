"""Files that are there whole or not at all, and folders that one process at a time writes to."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

LOCK = ".lock"
"""The file whose lock says that a process is writing to a folder."""


class LockedError(ValueError):
    """Another process is writing to the folder."""


def write_whole(path: Path, data: bytes, *, older: Sequence[Path] = ()) -> None:
    """Replace a file in one move: a crash at any byte leaves the file that was there.

    The new file is written beside its place and forced to the disk; only then are names changed,
    and the folder is forced to the disk too.

    Args:
        path: the file.
        data: what it will hold.
        older: where the file that is there moves to, and where what is at that place moves to,
            and so on; what is at the last of them goes.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        for source, target in reversed(list(zip([path, *older], older, strict=False))):
            if source.exists():
                os.replace(source, target)
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Remove what a process that died in `write_whole` left behind."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it, no other process gets in; the kernel opens the lock when a process dies.

    Raises:
        LockedError: if another one is in already.
    """
    with open(folder / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise LockedError(
                f"Process {file.read(20).strip() or '?'} is writing to {folder}. Wait for it to "
                "end, or stop it."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
