"""A worker process: runs one unit and tells, a JSON object a line, how far it has come.

Usage: python -m jaxrnn.reproduction.worker FOLDER UNIT, the unit as JSON. Lines are
{"share": .., "loss": ..}, and at last {"done": true}, {"stopped": true} or {"error": ".."}.
SIGTERM asks it to stop; so does a reader who has gone away.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from jax.errors import JaxRuntimeError

from jaxrnn.reproduction.running import run
from jaxrnn.reproduction.training import Stopped
from jaxrnn.reproduction.units import Unit
from jaxrnn.terminal import keep_compiled_programs, stop_requests

SECONDS_BETWEEN_LINES = 0.2
"""At least."""


def main() -> None:
    """Run the unit of the command line."""
    folder, unit = Path(sys.argv[1]), Unit.from_dict(json.loads(sys.argv[2]))
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no line of ours
    keep_compiled_programs()
    try:
        told = _run(unit, folder, lines)
    except Stopped:
        told = {"stopped": True}
    except (ValueError, OSError, MemoryError, FloatingPointError, JaxRuntimeError) as error:
        told = {"error": f"{' '.join(str(error).split()) or type(error).__name__}"}
    _tell(lines, told)


def _run(unit: Unit, folder: Path, lines: TextIO) -> dict[str, Any]:
    with stop_requests() as stopping:
        run(unit, folder, _watch(lines, stopping))
    return {"done": True}


def _watch(lines: TextIO, stopping: Callable[[], int]) -> Callable[[float, float], None]:
    told = 0.0

    def watch(share: float, loss: float) -> None:
        nonlocal told
        if stopping():
            raise Stopped
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            _tell(lines, {"share": share, "loss": loss})

    return watch


def _tell(lines: TextIO, told: dict[str, Any]) -> None:
    try:
        lines.write(json.dumps(told) + "\n")
        lines.flush()
    except BrokenPipeError:
        raise Stopped from None


if __name__ == "__main__":
    main()
