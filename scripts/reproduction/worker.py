"""A process that trains one unit: `python -m reproduction.worker FOLDER UNIT`.

UNIT is JSON. Its messages (see `worker_process`) are its progress, the share that is done and the
loss: `{"share": 0.5, "loss": 1.8}`. SIGTERM asks it to stop, and so does the end of the process
that started it. An error is the last line that it prints.
"""

import json
import os
import sys
import time
from pathlib import Path

from worker_process import Channel

from jaxrnn.terminal import keep_compiled_programs, run_command, stop_requests
from reproduction.training import Stopped, run
from reproduction.units import Unit

STOPPED = 3
"""The exit code after a stop that was asked for."""
SECONDS_BETWEEN_MESSAGES = 0.2


def main() -> int:
    """Train the unit of the command line."""
    channel = Channel()
    folder = Path(sys.argv[1])
    unit = Unit.from_dict(json.loads(sys.argv[2]))
    parent = os.getppid()
    emitted = 0.0
    keep_compiled_programs()
    with stop_requests() as stopping:

        def watch(share: float, loss: float) -> None:
            nonlocal emitted
            if stopping() or os.getppid() != parent:
                raise Stopped
            if time.monotonic() - emitted < SECONDS_BETWEEN_MESSAGES:
                return
            emitted = time.monotonic()
            try:
                # Training does not wait for a command that is suspended.
                channel.emit_if_read({"share": share, "loss": loss})
            except BrokenPipeError:  # the command has just ended
                raise Stopped from None

        try:
            return run_command(lambda: run(unit, folder, watch))
        except Stopped:
            return STOPPED
        except FloatingPointError as error:  # it diverged
            print(f"error: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
