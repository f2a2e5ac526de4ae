"""Registries: objects by name, open to the user's own.

A name stands for a built-in entry, for one that was put into the registry in this process
(`CELLS["mine"] = MINE`), for one that an installed package provides (an entry point of the group
`jaxrnn.cells`, `jaxrnn.models`, `jaxrnn.optimizers`, `jaxrnn.recipes` or `jaxrnn.tokenizers`), or,
as FILE.py:NAME, for a definition in a Python file.

To find FILE.py:NAME runs the file. Where a person types that name, they ask for it. Where a file
from elsewhere has it (the configuration of a run, an exported file), it is a `ForeignReference`: no
code is run that was not run here before, which the checksums tell that `trust` stores. The bytes
that are checked are the bytes that are run: a file is read once.
"""

import hashlib
import logging
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from jaxrnn.files import read_or_raise, write_whole

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Pattern of FILE.py:NAME.
REFERENCE = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_][A-Za-z_0-9]*)")
# Maximum size, in bytes, of a file of code.
LARGEST_CODE = 1 << 24
# Subfolder of the user's cache folder, with an empty file for each checksum of code that was run.
TRUSTED = "trusted"

# Modules of files that were run, by path and checksum.
_modules: dict[tuple[str, str], types.ModuleType] = {}


class NotDefinedError(ValueError):
    """A name that stands for nothing in this process."""


class ForeignReference(str):
    """FILE.py:NAME in a file from elsewhere: its code is run only if it was run here before."""


class Registry(dict[str, T], Generic[T]):
    """Objects of one kind by name: a dictionary whose `find` also knows the user's own.

    Args:
        kind: the kind in one word, for messages and for the group of entry points: "cell".
        check: function that refuses, by a ValueError, an object of another kind; it is called with
            the objects of entry points and files.
        entries: the built-in objects.
    """

    def __init__(self, kind: str, check: Callable[[Any], None], entries: Mapping[str, T]) -> None:
        super().__init__(entries)
        self.kind = kind
        self._check = check

    def find(self, name: str) -> T:
        """The object of a name.

        Args:
            name: name of an entry or of an entry point, or FILE.py:NAME.

        Raises:
            NotDefinedError: if it stands for nothing here, or for code that may not be run.
            ValueError: if the file cannot be run, or holds an object of another kind.
        """
        if name in self:
            return self[name]
        found = load_object(name) if is_reference(name) else self._provided(name)
        try:
            self._check(found)
        except ValueError as error:
            raise ValueError(f"{name} is no {self.kind}: {error}") from None
        checked: T = found
        return checked

    @property
    def provided(self) -> list[str]:
        """The names that installed packages provide beside the entries, sorted."""
        from importlib.metadata import entry_points

        names = {point.name for point in entry_points(group=f"jaxrnn.{self.kind}s")}
        return sorted(names - self.keys())

    def _provided(self, name: str) -> Any:
        """The object that an installed package provides under a name."""
        from importlib.metadata import entry_points

        for point in entry_points(group=f"jaxrnn.{self.kind}s", name=name):
            return point.load()
        raise NotDefinedError(
            f"{self.kind} must be one of {', '.join(self)}, or FILE.py:NAME for one of your own; "
            f"got {name!r:.60}. (One that a script puts into jaxrnn.{self.kind.upper()}S is there "
            "where that script has run.)"
        )


def is_reference(name: str) -> bool:
    """Whether a name is FILE.py:NAME."""
    return REFERENCE.fullmatch(name) is not None


def absolute_reference(name: str) -> str:
    """FILE.py:NAME with an absolute path, the same in every folder; other names unchanged."""
    if not is_reference(name):
        return name
    path, attribute = _parts(name)
    # A foreign reference stays one.
    return type(name)(f"{path.absolute()}:{attribute}")


def code_files(names: Mapping[str, str]) -> dict[str, str]:
    """The files of code among some names, and the sha256 of each.

    Args:
        names: FILE.py:NAME or other names, by their purpose.

    Raises:
        ValueError: if a file cannot be read.
    """
    files = {}
    for name in names.values():
        if is_reference(name):
            path, _ = _parts(name)
            files[str(path.absolute())] = hashlib.sha256(_code(path)).hexdigest()
    return files


def found_code(reference: str, recorded: Mapping[str, str], *, beside: Path) -> str:
    """FILE.py:NAME where the file of code lies now: where it lay, or beside another file.

    Args:
        reference: FILE.py:NAME as a file from elsewhere has it.
        recorded: the sha256 of each file of code, by its path, when that file was written.
        beside: the file from elsewhere.

    Returns:
        The reference to the file with the checksum; if none has it, to one that is there, and a
        warning of the logger "jaxrnn" says so.

    Raises:
        NotDefinedError: if there is none.
    """
    path, name = _parts(reference)
    # The path may be one of another system.
    neighbor = beside.absolute().parent / re.split(r"[/\\]", str(path))[-1]
    places = [place for place in (path, neighbor) if place.is_file()]
    expected = recorded.get(str(path))
    for place in places:
        if hashlib.sha256(_code(place)).hexdigest() == expected:
            return f"{place}:{name}"
    if not places:
        raise NotDefinedError(
            f"{beside} needs the code of {path}, which is not there: put {neighbor.name} beside "
            f"{beside}."
        )
    if expected is not None:
        logger.warning(
            "%s has changed since %s was written: results may differ.", places[0], beside
        )
    return f"{places[0]}:{name}"


def load_object(reference: str) -> Any:
    """Run FILE.py, once for each content, and take NAME from it. From then on it is trusted.

    Args:
        reference: FILE.py:NAME; of a `ForeignReference`, only code that is trusted is run.

    Raises:
        NotDefinedError: if the file of a `ForeignReference` is not there or not trusted.
        ValueError: if the file cannot be read or fails, or has no such name.
    """
    path, name = _parts(reference)
    if isinstance(reference, ForeignReference):
        code = _trusted_code(path, reference)
    else:
        code = _code(path)

    # What follows needs these bytes only: the file may be another one by now.
    checksum = hashlib.sha256(code).hexdigest()
    # A file that has changed is another module.
    key = (os.path.abspath(path), checksum)
    if key not in _modules:
        _run(path, code, key)
        _store_trust(code)
    module = _modules[key]
    if not hasattr(module, name):
        raise ValueError(f"{path} defines no {name}.")
    return getattr(module, name)


def trust(path: Path | str) -> None:
    """Store in the user's cache folder that the code of a file, as it is now, may be run.

    Raises:
        ValueError: if the file cannot be read.
    """
    _store_trust(_code(Path(path)))


def _store_trust(code: bytes) -> None:
    marker = _marker(code)
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        write_whole(marker, b"")
    except OSError:
        return  # a cache that cannot be written: the user is asked again


def _trusted_code(path: Path, reference: str) -> bytes:
    """The code of a file that a file from elsewhere names, if it ran here as it is now.

    Raises:
        NotDefinedError: if it never did, or is not there.
    """
    try:
        code = _code(path)
    except ValueError as error:
        raise NotDefinedError(f"The code of {reference} is not there: {error}") from None
    if not _marker(code).is_file():
        raise NotDefinedError(
            f"{path} would be run for {reference}, and it was never run here as it is now. Read "
            f"it; if it does what you want, type: jaxrnn trust {path}"
        )
    return code


def _parts(reference: str) -> tuple[Path, str]:
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"Code is named as FILE.py:NAME, got {reference!r:.60}.")
    return Path(match["path"]), match["name"]


def _code(path: Path) -> bytes:
    return read_or_raise(ValueError, path, at_most=LARGEST_CODE)


def _marker(code: bytes) -> Path:
    """The file whose existence says that this code was run here."""
    import pooch

    return Path(pooch.os_cache("jaxrnn")) / TRUSTED / hashlib.sha256(code).hexdigest()


def _run(path: Path, code: bytes, key: tuple[str, str]) -> None:
    """Run the bytes of a file that were read (it may change meanwhile), as the module of `key`."""
    file, checksum = key
    module = types.ModuleType(f"{path.stem}_{checksum[:8]}")
    module.__file__ = file
    # Dataclasses and pickling find a class's module by its name.
    sys.modules[module.__name__] = module
    # A file may name what it has defined so far: a recipe, its own cell.
    _modules[key] = module
    folder = str(path.absolute().parent)
    # As for a script: the file may import its neighbors.
    sys.path.insert(0, folder)
    try:
        exec(compile(code, file, "exec"), module.__dict__)
    except BaseException as error:  # anything can go wrong in the user's code
        del sys.modules[module.__name__], _modules[key]
        if not isinstance(error, Exception):
            raise  # Ctrl-C, for one
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
