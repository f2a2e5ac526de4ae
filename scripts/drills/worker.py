"""A process that trains as `jaxrnn train` does, tells what it is doing, and can be made to die.

    python -m drills.worker PHASES DIE PROCESSORS ARGUMENTS...

PHASES is a file that always names the phase under way. DIE is "PLACE:N", to be killed at the N-th
time that PLACE is reached, or "-". PROCESSORS are the numbers of those that the process may run on,
with commas, or "-" for all. Checkpoints are written as often as can be, and the number of
steps that are made at once is drawn at random: neither may change a bit of the result.
"""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxrnn import cli, files
from jaxrnn.data import windows
from jaxrnn.runs import checkpointing, saved
from jaxrnn.runs import run as runs
from jaxrnn.training import loop

PLACES: dict[str, tuple[Any, str]] = {
    "before-fsync": (os, "fsync"),
    "before-rename": (os, "replace"),
    "after-write": (files, "sync_folder"),
    "after-row": (runs.Run, "add_row"),
    "before-checkpoint": (saved, "save"),
    "validating": (loop, "evaluation"),
}
"""Where a process can be made to die: in front of a call, or behind it for "after-row"."""


def main() -> int:
    """Train as told; returns the exit code of the command."""
    phases, die, processors, *arguments = sys.argv[1:]
    if processors != "-":
        # Before XLA starts its threads, whose number is that of the processors.
        os.sched_setaffinity(0, {int(number) for number in processors.split(",")})
    checkpointing.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    checkpointing.LARGEST_SHARE = 0.9
    windows.PADDED_SIZES = 2  # fewer programs to compile
    loop.SECONDS_IN_ONE_PROGRAM = random.uniform(0.0, 0.1)
    _tell_phases(Path(phases))
    if die != "-":
        place, number = die.split(":")
        _die_at(place, int(number))
    return cli.main(arguments)


def _tell_phases(file: Path) -> None:
    """Keep the name of the phase under way in a file, by wrapping what marks its begin and end."""
    file.write_text("starting")
    _around(checkpointing, "training", lambda: file.write_text("training"), lambda: None)
    _around(saved, "save", lambda: file.write_text("writing"), lambda: file.write_text("training"))
    _around(loop, "evaluation", lambda: file.write_text("validating"), lambda: None)
    _around(loop.Trainer, "make", lambda: file.write_text("training"), lambda: None)


def _die_at(place: str, number: int) -> None:
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    behind = place == "after-row"
    owner, name = PLACES[place]
    _around(owner, name, *((lambda: None, count) if behind else (count, lambda: None)))


def _around(owner: Any, name: str, before: Callable[[], Any], after: Callable[[], Any]) -> None:
    """Replace a function by one that calls `before`, the function, and `after`."""
    function = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        before()
        try:
            return function(*arguments, **options)
        finally:
            after()

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    sys.exit(main())
