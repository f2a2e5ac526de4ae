"""Files and folders at paths that a user names: checked before the work, written at its end.

Allowed are a new name, and a regular file that is no part of a run. A device node, a pipe, a link,
a folder and a run's own files are refused: to replace them by a rename would destroy something that
the user did not mean.
"""

import errno
import os
import stat
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from jaxrnn.files import write_whole

# Patterns of the names of a run's own files.
RUN_FILES = (
    "config.json",
    "vocabulary.json",
    "SHA256SUMS",
    "changes.json",
    "history.jsonl",
    "timing.jsonl",
    "last*.safetensors",
    "best*.safetensors",
    "loss.png",
    ".*",
)


class OutputError(ValueError):
    """A path that nothing may be written to; the message says why."""


def check_output(path: Path | str, *, parents: bool = False, suffix: str | None = None) -> Path:
    """Refuse a path that a result may not be written to. Call it before the work begins.

    Args:
        path: the file that the user names.
        parents: whether `write_output` creates the folder if it does not exist.
        suffix: required ending of the name, such as ".png", where it decides the kind of file.

    Returns:
        The path.

    Raises:
        OutputError: if its name ends otherwise, if there is something else than a regular file, if
            the file is part of a run, or if its folder is missing or cannot be written to.
    """
    path = Path(path)
    try:
        _check_folder_of(path, parents=parents)
        if suffix is not None and path.suffix.lower() != suffix:
            raise OutputError(
                f"{path} would hold {suffix.lstrip('.').upper()}: give it a name that ends in "
                f"{suffix}."
            )
        _check_file(path)
        # The place of the new bytes before the rename; see `write_whole`.
        _check_file(path.with_name(f".{path.name}.partial"))
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}.") from error
    except OutputError:
        raise
    except ValueError as error:  # a name with a zero byte
        raise OutputError(f"Cannot write {str(path)!r}: {error}.") from error
    return path


def write_output(path: Path | str, data: bytes | str, *, parents: bool = False) -> Path:
    """Write a result to a path that the user names, in one move.

    Args:
        path: the file; it is checked again by `check_output`.
        data: its content; text is encoded as UTF-8.
        parents: whether the folder is created if it does not exist.

    Returns:
        The path.

    Raises:
        OutputError: if the path is refused, or cannot be written.
    """
    path = check_output(path, parents=parents)
    content = data.encode() if isinstance(data, str) else data
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}.") from error
    return path


def check_output_folder(folder: Path | str, files: Iterable[str] = ()) -> Path:
    """Refuse a folder that results may not be written to. Call it before the work begins.

    Args:
        folder: the folder that the user names; it need not exist.
        files: names of the results in it, or patterns such as "*.png" of existing files.

    Returns:
        The folder.

    Raises:
        OutputError: if it is no folder, if it is a run, or if one of the files is refused.
    """
    folder = Path(folder)
    try:
        if not folder.exists() and not folder.is_symlink():
            _check_folder_of(folder, parents=True)
            return folder
        if not folder.is_dir():
            raise OutputError(f"{folder} is no folder: name another one.")
        if is_run(folder):
            raise OutputError(f"{folder} is a run: name another folder for the results.")
        for pattern in files:
            found = sorted(folder.glob(pattern))
            for path in found or [folder / pattern]:
                # A subfolder that does not exist holds nothing that could be replaced.
                if path.parent.is_dir():
                    check_output(path)
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}.") from error
    except OutputError:
        raise
    except ValueError as error:
        raise OutputError(f"Cannot write to {str(folder)!r}: {error}.") from error
    return folder


def is_run(folder: Path) -> bool:
    """Whether a folder is a run: its configuration, and something else that only a run has."""
    # A configuration alone may be any program's.
    others = ("vocabulary.json", "SHA256SUMS", "history.jsonl", "last.safetensors")
    has_others = any((folder / name).exists() for name in others)
    return (folder / "config.json").exists() and has_others


def kind_of(mode: int) -> str | None:
    """The kind of what is at a path, by its `st_mode`; None for a regular file."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    if stat.S_ISREG(mode):
        return None
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def _check_file(path: Path) -> None:
    """Refuse a path at which nothing may be replaced or created."""
    # A name that a run uses, beside a configuration.
    folder = path.parent
    partial = path.name.endswith(".partial")
    reserved = any(fnmatchcase(path.name, pattern) for pattern in RUN_FILES)
    if reserved and not partial and (folder / "config.json").exists():
        raise OutputError(f"{path} belongs to a run: name another file.")
    # What is there, links not followed.
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    kind = kind_of(mode)
    if kind is not None:
        raise OutputError(f"{path} is {kind}: name a new file, or a regular one.")
    if not partial and is_run(folder):
        raise OutputError(f"{path} lies in a run and is there already: name another file.")


def _check_folder_of(path: Path, *, parents: bool) -> None:
    """Refuse a path whose folder is not there, is none, or cannot be written to."""
    if not path.name:
        raise OutputError(f"{path} is a folder: name a file.")
    folder = path.parent
    if parents:
        # The nearest folder that exists; the others will be created in it.
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
    if not folder.exists():
        raise OutputError(f"Cannot write {path}: there is no folder {folder}.")
    if not folder.is_dir():
        raise OutputError(f"Cannot write {path}: {folder} is no folder.")
    if not os.access(folder, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
