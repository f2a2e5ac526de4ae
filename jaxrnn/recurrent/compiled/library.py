"""Compile the library on first use, load it, and hand its functions to XLA.

The source is compiled by the machine's own C++ compiler for its own processor; the result lies in
the Python environment (or, where that cannot be written to, in the user's cache folder) under a
name that stands for everything it depends on. Without a compiler, on a GPU, or with
JAXRNN_NATIVE=0, everything works as before, with `lax.scan`. Beside the library lies its sha256: a
file that a crash or a full disk has cut short would end the process, so it is compiled again.
"""

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
from functools import cache
from pathlib import Path

import jax
import jaxlib
import pooch

from jaxrnn.files import read_regular

SWITCH = "JAXRNN_NATIVE"
"""The environment variable that turns the library off ("0")."""
EXTRA_FLAGS = "JAXRNN_NATIVE_FLAGS"
"""The environment variable with more flags for the compiler, for example those of a sanitizer."""
FOLDER = "JAXRNN_NATIVE_FOLDER"
"""The environment variable that names the folder of the compiled library, if not the usual one."""
SOURCES = Path(__file__).parents[1] / "csrc"
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-shared", "-w")
COMPILERS = ("g++", "clang++", "c++")
LARGEST_CHECKSUM = 1 << 10
"""Bytes that the file of a checksum may have."""
LIMIT = 300
"""Seconds after which the compiler is given up."""
FUNCTIONS = ("jaxrnn_pack", "jaxrnn_forward", "jaxrnn_backward", "jaxrnn_write")


_log = logging.getLogger(__name__)


@cache
def why_unavailable() -> str | None:
    """Why the recurrence cannot run compiled, or None: it is compiled, loaded and known to XLA.

    The first call in a new environment compiles it, which takes about ten seconds. Where that
    fails, the first call logs a warning; what runs instead gives the same numbers.
    """
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    try:
        library = _loaded()
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())[:300]
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


def vector_bytes() -> int:
    """How wide the library's vectors are; panels of a packed weight are a multiple of it."""
    return int(_loaded().jaxrnn_vector_bytes())


@cache
def _loaded() -> ctypes.CDLL:
    return ctypes.cdll.LoadLibrary(str(compiled_library()))


def compiled_library() -> Path:
    """The compiled library; compiles it if it is not there.

    Raises:
        OSError: if there is no compiler, or no folder to write to.
        subprocess.SubprocessError: if the compiler fails.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise OSError(f"no C++ compiler: looked for {', '.join(COMPILERS)}")
    path = _folder() / f"recurrence-{_fingerprint(compiler)}.so"
    if _is_whole(path):
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        command = [compiler, *_flags(), "-I", jax.ffi.include_dir(), str(SOURCES / "recurrence.cc")]
        run = subprocess.run(
            [*command, "-o", str(made)], capture_output=True, text=True, timeout=LIMIT, check=False
        )
        if run.returncode != 0:
            raise subprocess.SubprocessError(f"{compiler} failed: {run.stderr}")
        _put(made, path)
    return path


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


def _fingerprint(compiler: str) -> str:
    """Of the sources, the compiler, the interface of XLA and the processor."""
    parts = [compiler, *_flags(), jaxlib.__version__, platform.machine(), _processor()]
    parts += [path.read_text() for path in sorted(SOURCES.glob("*.[hc]*"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """Model and abilities of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(dict.fromkeys(x for x in lines if x.startswith(("model name", "flags"))))
