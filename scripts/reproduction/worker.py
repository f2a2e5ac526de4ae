"""A process that trains one unit: `python -m reproduction.worker FOLDER UNIT PROGRESS`.

UNIT is JSON; to PROGRESS it writes the share that is done and the loss. SIGTERM asks it to stop,
and so does the end of the process that started it. An error is the last line that it prints.
"""

import json
import os
import sys
import time
from pathlib import Path

from jaxrnn.terminal import keep_compiled_programs, run_command, stop_requests
from reproduction.training import Stopped, run
from reproduction.units import Unit

STOPPED = 3
"""The exit code after a stop that was asked for."""
SECONDS_BETWEEN_WRITES = 0.2


def main() -> int:
    """Train the unit of the command line."""
    folder, progress = Path(sys.argv[1]), Path(sys.argv[3])
    unit = Unit.from_dict(json.loads(sys.argv[2]))
    parent = os.getppid()
    written = 0.0
    keep_compiled_programs()
    with stop_requests() as stopping:

        def watch(share: float, loss: float) -> None:
            nonlocal written
            if stopping() or os.getppid() != parent:
                raise Stopped
            if time.monotonic() - written >= SECONDS_BETWEEN_WRITES:
                written = time.monotonic()
                progress.write_text(f"{share} {loss}\n")

        try:
            return run_command(lambda: run(unit, folder, watch))
        except Stopped:
            return STOPPED
        except FloatingPointError as error:  # it diverged
            print(f"error: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
