"""Files that are there whole or not at all, and folders that one process at a time writes to."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

# The file whose lock says that a process is writing to a folder.
LOCK = ".lock"
# Bytes that a file of settings, a vocabulary or a history may have.
LARGEST_TEXT = 1 << 28
# What file systems without locks answer.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
# How the header of our own checkpoints begins, in the bytes from the ninth on; the checksum
# follows. By it they are told from other safetensors files.
CHECKPOINT_BEGINNING = b'{"__metadata__":{"jaxrnn":"{\\"sha256\\": \\"'


class UnreadableError(ValueError):
    """A file that is no regular file, too large, or cannot be read; the message says which."""


class LockedError(ValueError):
    """Another process is writing to the folder."""


def read_regular(path: Path | str, *, at_most: int | None = None) -> bytes:
    """The bytes of a regular file. A pipe or a device, which may never end, is not opened for long.

    Args:
        path: the file.
        at_most: how many bytes it may have; a larger one is refused before it is read.

    Raises:
        FileNotFoundError: if there is none.
        UnreadableError: if it is something else than a regular file, or larger.
        OSError: if it cannot be read.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UnreadableError(f"{path} is no regular file.")
    with open(descriptor, "rb") as file:
        if at_most is not None and status.st_size > at_most:
            raise UnreadableError(
                f"{path} has {status.st_size:,} bytes, more than the {at_most:,} that it may have."
            )
        data = file.read() if at_most is None else file.read(at_most + 1)
    if at_most is not None and len(data) > at_most:
        raise UnreadableError(f"{path} has more than the {at_most:,} bytes that it may have.")
    return data


def damage(error: Exception) -> str:
    """What is wrong with a file, in words, by what its reader met; at most 300 characters."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r:.300}" if error.args else "an entry is missing"
    words = " ".join(str(error).split()).rstrip(".")
    return words[:300] or type(error).__name__


def parse_json(data: bytes | str, what: object) -> Any:
    """What JSON says.

    Args:
        data: the JSON.
        what: where it is from, for the message.

    Raises:
        UnreadableError: if it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise UnreadableError(f"{what} is JSON that is nested too deeply.") from error
    except ValueError as error:
        raise UnreadableError(f"{what} is no JSON: {error}.") from error


def open_own(path: Path, mode: str) -> IO[Any]:
    """Open a file of a folder of one's own for writing; it is made if it is not there.

    What somebody else put in its place is not written to: a link, which leads elsewhere, a pipe,
    a device.

    Args:
        path: the file.
        mode: as `open` takes it: "wb", "a" or "a+".

    Raises:
        OSError: if there is something else than a regular file, or it cannot be opened.
    """

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, f"{path.name} is no regular file")
        return descriptor

    try:
        return open(path, mode, opener=opener)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, f"{path.name} is a link") from error


def write_whole(path: Path, data: bytes, *, older: Sequence[Path] = ()) -> None:
    """Replace a file in one move: a crash at any byte leaves the file that was there.

    The new file is written beside its place and forced to the disk; only then are names changed,
    and the folder is forced to the disk too. At every instant there is a file at `path`.

    Args:
        path: the file.
        data: what it will hold.
        older: where the file that is there moves to, and where what is at that place moves to,
            and so on; what is at the last of them goes.
    """
    partial = path.with_name(f".{path.name}.partial")
    linked = path.with_name(f".{path.name}.older.partial")
    try:
        with open_own(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        for source, target in reversed(list(pairwise(older))):
            if source.exists():
                os.replace(source, target)
        if older and path.exists():
            os.replace(_second_name(path, linked), older[0])
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
        linked.unlink(missing_ok=True)


def _second_name(path: Path, name: Path) -> Path:
    """A file under another name, too; itself where the file system has no links."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EROFS, errno.EIO):
            raise
        return path
    return name


def sync_file(path: Path) -> None:
    """Force a file to the disk, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        _force(path)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    _force(folder)


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Remove the files that a process which died in `write_whole` left in a locked folder."""
    for partial in folder.glob(".*.partial"):
        if partial.is_symlink() or not partial.is_dir():
            partial.unlink(missing_ok=True)


def remove_partial_folders(folder: Path) -> None:
    """Remove the folders `.NAME.PID.partial` whose process is no more; files are left alone."""
    for partial in folder.glob(".*.partial"):
        named = re.fullmatch(r"\..+\.(\d+)\.partial", partial.name)
        if named and partial.is_dir() and not _is_running(int(named[1])):
            shutil.rmtree(partial, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


@contextlib.contextmanager
def locked(
    folder: Path, say: Callable[[str], None] = lambda text: None
) -> Iterator[Callable[[], None]]:
    """Within it, no other process gets in; the kernel opens the lock when a process dies.

    Gives a function to call before each write: the folder may have been removed meanwhile, and
    another one made under its name, which is somebody else's.

    Args:
        folder: the folder.
        say: is told, in a sentence, where the file system has no locks.

    Raises:
        LockedError: if another one is in already; by the function, if the folder is another one.
    """
    with open_own(folder / LOCK, "a+") as file:

        def check() -> None:
            """Refuse to write where the folder is another one by now."""
            held = os.fstat(file.fileno())
            try:
                there = os.stat(folder / LOCK)
            except OSError:
                there = None
            if there is None or (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
                raise LockedError(
                    f"{folder} was removed or replaced while this process wrote to it: nothing "
                    "more is written there."
                )

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                say(
                    f"The file system of {folder} has no locks: see to it yourself that no other "
                    "process trains this run."
                )
                yield check
                return
            if not isinstance(error, BlockingIOError):
                raise
            file.seek(0)
            raise LockedError(
                f"Process {file.read(20).strip() or '?'} is writing to {folder}. Wait for it to "
                "end, or stop it."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        check()  # it may have been replaced between opening and locking
        yield check
