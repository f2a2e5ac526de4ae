"""Files that are there whole or not at all, and folders that one process at a time writes to."""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Whether the system is Windows, where files differ more than in what Python's `os` lacks.
IS_WINDOWS = os.name == "nt"
# Name of the file that a process locks while it writes to a folder.
LOCK = ".lock"
# Maximum size, in bytes, of a file of settings, a vocabulary or a history.
LARGEST_TEXT = 1 << 28
# Warning where nothing locks a folder.
NO_LOCK = "{}: see to it yourself that no other process trains this run."
# Errors of file systems without locks.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
# Flags of `os.open` that not every system has. A pipe is opened without waiting for a writer;
# O_BINARY leaves line ends as they are, which Windows would change.
NOT_WAITING = getattr(os, "O_NONBLOCK", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
READING = os.O_RDONLY | NOT_WAITING | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# First bytes of the header of our own checkpoints, from the ninth byte of the file on, before the
# checksum. They distinguish our checkpoints from other safetensors files.
CHECKPOINT_BEGINNING = b'{"__metadata__":{"jaxrnn":"{\\"sha256\\": \\"'


class UnreadableError(ValueError):
    """A file that is no regular file, too large, or cannot be read; the message says which."""


class LockedError(ValueError):
    """Another process is writing to the folder."""


def read_regular(path: Path | str, *, at_most: int | None = None) -> bytes:
    """The bytes of a regular file. A pipe or a device, which may never end, is not read.

    Args:
        path: the file.
        at_most: maximum size in bytes; a larger file is refused before it is read.

    Raises:
        FileNotFoundError: if there is none.
        UnreadableError: if it is something else than a regular file, or larger.
        OSError: if it cannot be read.
    """
    descriptor = os.open(path, READING)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UnreadableError(f"{path} is no regular file.")
    with open(descriptor, "rb") as file:
        if at_most is not None and status.st_size > at_most:
            raise UnreadableError(
                f"{path} has {status.st_size:,} bytes, more than the {at_most:,} that it may have."
            )
        # A byte more, in case the file has grown since.
        data = file.read(-1 if at_most is None else at_most + 1)
    if at_most is not None and len(data) > at_most:
        raise UnreadableError(f"{path} has more than the {at_most:,} bytes that it may have.")
    return data


def read_or_raise(
    kind: type[ValueError], path: Path | str, *, at_most: int, remedy: str = ""
) -> bytes:
    """The bytes of a regular file, as `read_regular`, whose errors become one of another kind.

    Args:
        kind: the class of the error.
        path: the file.
        at_most: maximum size in bytes.
        remedy: sentence that ends the message.

    Raises:
        ValueError: of that kind, if the file cannot be read.
    """
    try:
        return read_regular(path, at_most=at_most)
    except UnreadableError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.strerror}."
    raise kind(f"Cannot read {path}: {reason} {remedy}".rstrip())


def damage(error: BaseException) -> str:
    """A description of the damage of a file, from its reader's error; at most 300 characters."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r:.300}" if error.args else "an entry is missing"
    words = " ".join(str(error).split()).rstrip(".")
    return words[:300] or type(error).__name__


def parse_json(data: bytes | str, what: object) -> Any:
    """The value of a JSON text.

    Args:
        data: the JSON.
        what: its origin, for the message.

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
    """Open a file of a folder of one's own for writing; it is created if it does not exist.

    Nothing else in its place is written to: a link, which leads elsewhere, a pipe, a device.

    Args:
        path: the file.
        mode: as `open` takes it: "wb", "a" or "a+".

    Raises:
        OSError: if there is something else than a regular file, or it cannot be opened.
    """

    def opener(name: str, flags: int) -> int:
        # Checked behind opening: between a check and opening, the file could be replaced.
        descriptor = os.open(name, flags | NO_LINK | NOT_WAITING, 0o666)
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
        data: its new content.
        older: places of the older versions, newest first: each file moves one place on, and the
            one at the last place is removed.
    """
    partial = path.with_name(f".{path.name}.partial")
    linked = path.with_name(f".{path.name}.older.partial")
    try:
        # The content, beside its place.
        with open_own(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # The older versions, the oldest first: none is overwritten before it has moved.
        for source, target in reversed(list(pairwise(older))):
            if source.exists():
                os.replace(source, target)
        if older and path.exists():
            # By a second name: if moved, there would be no file at `path` for an instant.
            os.replace(_second_name(path, linked), older[0])
        # The names.
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
        linked.unlink(missing_ok=True)


def _second_name(path: Path, name: Path) -> Path:
    """A second name of a file, or the file itself where the file system has no links."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError as error:
        # A disk that is full or fails is no file system without links.
        if error.errno in (errno.ENOSPC, errno.EROFS, errno.EIO):
            raise
        return path
    return name


def sync_file(path: Path) -> None:
    """Force a file to the disk, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        _force(path)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the system can open a folder for that."""
    if not IS_WINDOWS:
        _force(folder)


def _force(path: Path) -> None:
    # Windows forces only a file that is open for writing.
    descriptor = os.open(path, os.O_RDWR if IS_WINDOWS else os.O_RDONLY)
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
    if IS_WINDOWS:
        return True  # not known: there, signal 0 is no question but Ctrl-C
    try:
        os.kill(process, 0)  # signal 0 is not sent, only checked
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's, or not known: its folder is left alone
    return True


@contextlib.contextmanager
def locked(
    folder: Path, emit: Callable[[str], None] = lambda text: None
) -> Iterator[Callable[[], None]]:
    """A lock of a folder, which the kernel opens when a process dies.

    Yields a function to call before each write: the folder may have been removed meanwhile, and
    another one created under its name, which is somebody else's.

    Args:
        folder: the folder.
        emit: function for a warning, in a sentence, where the system or the file system has no
            locks.

    Raises:
        LockedError: if another one is in already; by the function, if the folder is another one.
    """
    with open_own(folder / LOCK, "a+") as file:

        def check() -> None:
            """Refuse to write where the folder is another one by now."""
            # The name may lead to another file than the one that is open and locked.
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

        if fcntl is None:
            emit(NO_LOCK.format(f"This system has no locks for {folder}"))
            yield check
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                emit(NO_LOCK.format(f"The file system of {folder} has no locks"))
                yield check
                return
            if not isinstance(error, BlockingIOError):
                raise
            file.seek(0)  # to the number of the process that holds the lock
            raise LockedError(
                f"Process {file.read(20).strip() or '?'} is writing to {folder}. Wait for it to "
                "end, or stop it."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        check()  # it may have been replaced between opening and locking
        yield check
