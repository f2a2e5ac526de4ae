"""Compile the library and the cells on first use, load them, and hand their functions to XLA.

The core has the products, the loops over time and the calls of XLA; each cell is a small shared
object beside it. They are compiled by the machine's own C++ compiler for its own processor; the
results lie in the Python environment (or, where that cannot be written to, in the user's cache
folder) under names that stand for everything they depend on. Without a compiler, on a GPU, or with
JAXRNN_NATIVE=0, everything works as before, with `lax.scan`. Beside each file lies its sha256: a
file that a crash or a full disk has cut short would end the process, so it is compiled again.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib
import pooch

from jaxrnn.files import IS_WINDOWS, read_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SWITCH = "JAXRNN_NATIVE"
"""The environment variable that turns the library off ("0")."""
EXTRA_FLAGS = "JAXRNN_NATIVE_FLAGS"
"""The environment variable with more flags for the compiler, for example those of a sanitizer."""
FOLDER = "JAXRNN_NATIVE_FOLDER"
"""The environment variable that names the folder of the compiled library, if not the usual one."""
SOURCES = Path(__file__).parents[1] / "csrc"
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared", "-w")
CELL_FLAGS = ("-fvisibility=hidden",)
"""Flags for a cell alone: several are loaded at once, and export one name each."""
COMPILERS = ("g++", "clang++", "c++")
LARGEST_CHECKSUM = 1 << 10
"""Bytes that the file of a checksum may have."""
LIMIT = 300
"""Seconds after which the compiler is given up."""
FUNCTIONS = ("jaxrnn_pack", "jaxrnn_forward", "jaxrnn_backward", "jaxrnn_generate")


_log = logging.getLogger(__name__)
_loading = threading.RLock()
_cells: dict[str, ctypes.CDLL] = {}
"""The cells that are loaded, by their fingerprints: they stay as long as the process."""


class _Target(NamedTuple):
    """A file to compile.

    Attributes:
        path: where it belongs.
        source: the C++ source.
        flags: more flags for the compiler.
    """

    path: Path
    source: str
    flags: Sequence[str]


@cache
def why_unavailable() -> str | None:
    """Why the recurrence cannot run compiled, or None: it is compiled, loaded and known to XLA.

    The first call in a new environment compiles the core, which takes about ten seconds. Where that
    fails, the first call logs a warning; what runs instead gives the same numbers.
    """
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    try:
        library = _loaded()
    except (OSError, subprocess.SubprocessError) as error:
        reason = reason_of(error)
        _log.warning(
            "The recurrence runs as lax.scan, which is slower on a CPU: %s. (%s=0 says that this "
            "is meant.)",
            reason,
            SWITCH,
        )
        return reason
    for name in FUNCTIONS:
        function = jax.ffi.pycapsule(getattr(library, name))
        jax.ffi.register_ffi_target(name, function, platform="cpu")
    return None


def reason_of(error: Exception) -> str:
    """Why something could not be compiled, in one line."""
    return " ".join(str(error).split())[:300]


def vector_bytes() -> int:
    """How wide the library's vectors are; panels of a packed weight are a multiple of it."""
    return int(_loaded().jaxrnn_vector_bytes())


@cache
def _loaded() -> ctypes.CDLL:
    with _loading:
        return ctypes.cdll.LoadLibrary(str(compiled_library()))


def compiled_library() -> Path:
    """The compiled core; compiles it if it is not there.

    Raises:
        OSError: if there is no compiler, or no folder to write to.
        subprocess.SubprocessError: if the compiler fails.
    """
    return _compiled([_core()])[0]


def load_cell(source: str) -> str:
    """Load a cell into the core; compiles it if it is not there, which takes about half a second.

    Args:
        source: its C++ source.

    Returns:
        Its fingerprint, by which the core's functions know it.

    Raises:
        OSError: if there is no compiler, or no folder to write to.
        subprocess.SubprocessError: if the compiler fails.
    """
    fingerprint = _fingerprint(_compiler(), CELL_FLAGS, source)
    with _loading:
        if fingerprint not in _cells:
            (path,) = _compiled([_cell(source)])
            library = ctypes.cdll.LoadLibrary(str(path))
            table = ctypes.addressof(ctypes.c_char.in_dll(library, "jaxrnn_cell"))
            register = _loaded().jaxrnn_register_cell
            register.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
            register.restype = None
            register(fingerprint.encode(), table)
            _cells[fingerprint] = library
    return fingerprint


def compile_all(cells: Sequence[str]) -> None:
    """Compile the core and some cells, given by their sources, at the same time.

    Raises:
        OSError: if there is no compiler, or no folder to write to.
        subprocess.SubprocessError: if the compiler fails.
    """
    _compiled([_core(), *(_cell(source) for source in cells)])


def _core() -> _Target:
    name = f"recurrence-{_fingerprint(_compiler())}.so"
    flags = ("-I", jax.ffi.include_dir())
    return _Target(_folder() / name, '#include "recurrence.cc"\n', flags)


def _cell(source: str) -> _Target:
    name = f"cell-{_fingerprint(_compiler(), CELL_FLAGS, source)}.so"
    return _Target(_folder() / name, source, CELL_FLAGS)


def _compiled(targets: Sequence[_Target]) -> list[Path]:
    """The paths of some files; those that are not there are compiled, all at once.

    Of several processes one compiles, and the others wait and find what it has made.
    """
    paths = [target.path for target in targets]
    if all(_is_whole(path) for path in paths):
        return paths
    with _locked(paths[0].parent):
        missing = [target for target in targets if not _is_whole(target.path)]
        if missing:
            names = ", ".join(target.path.stem for target in missing)
            _log.info("Compiling %s for this processor, once.", names)
            with tempfile.TemporaryDirectory(dir=paths[0].parent) as scratch:
                _compile(missing, Path(scratch))
    return paths


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within it, no other process compiles to a folder; its end releases the lock, however it came.

    File systems without locks let several compile, which costs time and nothing else.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _compile(targets: Sequence[_Target], scratch: Path) -> None:
    """Compile some files at the same time, and put them in their places."""
    started = []
    with contextlib.ExitStack() as stack:
        for target in targets:
            source = scratch / f"{target.path.stem}.cc"
            source.write_text(target.source)
            made = scratch / target.path.name
            command = [_compiler(), *_flags(), *target.flags, "-I", str(SOURCES), str(source)]
            process = subprocess.Popen(
                [*command, "-o", str(made)], stderr=subprocess.PIPE, text=True
            )
            stack.enter_context(process)  # waits for it
            stack.callback(process.kill)  # before that; nothing happens to one that has ended
            started.append((process, target, made))
        for process, target, made in started:
            _, errors = process.communicate(timeout=LIMIT)
            if process.returncode != 0:
                raise subprocess.SubprocessError(f"{_compiler()} failed: {errors}")
            _put(made, target.path)


def _put(made: Path, path: Path) -> None:
    """Move a library to its place, on the disk and at once: another process may be at it too."""
    checksum = made.with_suffix(".sha256")
    checksum.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
    for file in (made, checksum):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
    made.replace(path)
    checksum.replace(path.with_suffix(".sha256"))


def _is_whole(path: Path) -> bool:
    """Whether a library is there, with the sha256 that it had when it was compiled.

    Two processes may have compiled it at once, to different bytes: then it is compiled once more.
    """
    try:
        expected = read_regular(path.with_suffix(".sha256"), at_most=LARGEST_CHECKSUM).decode()
        return hashlib.sha256(read_regular(path)).hexdigest() == expected
    except (OSError, ValueError):
        return False


def _flags() -> list[str]:
    """What the compiler is told; a later flag overrides an earlier one."""
    return [*FLAGS, *shlex.split(os.environ.get(EXTRA_FLAGS, ""))]


def _compiler() -> str:
    """The path of the machine's C++ compiler.

    Raises:
        OSError: if there is none.
    """
    # Its compilers make libraries that were never tried here.
    if IS_WINDOWS:
        raise OSError("it is not compiled on Windows")
    for name in COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise OSError(f"no C++ compiler: looked for {', '.join(COMPILERS)}")


def _folder() -> Path:
    folders = [Path(sys.prefix) / "lib" / "jaxrnn", Path(pooch.os_cache("jaxrnn"))]
    if chosen := os.environ.get(FOLDER):
        folders = [Path(chosen)]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise OSError("no folder to write to")


def _fingerprint(compiler: str, flags: Sequence[str] = (), source: str = "") -> str:
    """Of a source, the files that it may include, the compiler, XLA and the processor."""
    parts = [source, compiler, *_flags(), *flags, jaxlib.__version__, platform.machine()]
    parts += [_processor(), *(path.read_text() for path in sorted(SOURCES.glob("*.[hc]*")))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """Model and abilities of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(dict.fromkeys(x for x in lines if x.startswith(("model name", "flags"))))
