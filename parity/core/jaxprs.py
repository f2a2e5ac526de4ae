"""Reading JAX's programs: their operations, and the user's lines that these come from."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Folders of files whose lines are not the user's.
LIBRARIES = (
    "site-packages",
    "dist-packages",
    sysconfig.get_path("stdlib"),
    str(Path(__file__).parents[1]),  # this package, where it is installed in its own folder
)


def equations(jaxpr: Any) -> Iterator[Any]:
    """All operations of a program, each followed by those of the functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def is_users(file: str) -> bool:
    """Whether a file is the user's own: in no library, and no frozen module."""
    return not file.startswith("<frozen") and not any(folder in file for folder in LIBRARIES)


def users_line(equation: Any) -> str:
    """The innermost line of the user's for an operation, such as "model.py:34 in __call__"; empty
    if none is known."""
    frames = getattr(equation.source_info.traceback, "frames", None) or ()
    for frame in frames:
        if is_users(frame.file_name):
            name = frame.file_name.rpartition("/")[2]
            return f"{name}:{frame.line_num} in {frame.function_name}"
    return ""
