"""A process that trains as `jaxrnn train` does, reports its phase, and can be made to die.

    python -m stress.train_worker DIE PROCESSORS ARGUMENTS...

DIE is "PLACE:N", to be killed at the N-th time that PLACE is reached, or "-". PROCESSORS are the
numbers of those that the process may run on, with commas, or "-" for all. Its messages (see
`jaxrnn.runs.worker_process`) are the names of the phases under way. Checkpoints are written as
often as can be, and the number of steps that are made in one program is random: neither may change
a bit of the result.
"""

import os
import random
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxrnn import cli, files
from jaxrnn.data import windows
from jaxrnn.runs import checkpointing, saved
from jaxrnn.runs import run as runs
from jaxrnn.runs.worker_process import Channel
from jaxrnn.training import loop

PLACES: dict[str, tuple[Any, str]] = {
    "before-fsync": (os, "fsync"),
    "before-rename": (os, "replace"),
    "after-write": (files, "sync_folder"),
    "after-row": (runs.Run, "add_row"),
    "before-checkpoint": (saved, "save"),
    "validating": (loop, "evaluation"),
}
"""Where a process can be made to die: before a call, or after it for "after-row"."""


def main() -> int:
    """Train; returns the exit code of the command."""
    channel = Channel(printed="nowhere")
    die, processors, *arguments = sys.argv[1:]
    if processors != "-":
        # Before XLA starts its threads, whose number is that of the processors.
        os.sched_setaffinity(0, {int(number) for number in processors.split(",")})
    checkpointing.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    checkpointing.LARGEST_SHARE = 0.9
    windows.PADDED_SIZES = 2  # fewer programs to compile
    loop.SECONDS_IN_ONE_PROGRAM = random.uniform(0.0, 0.1)
    _emit_phases(channel)
    if die != "-":
        place, number = die.split(":")
        _die_at(place, int(number))
    return cli.main(arguments)


def _emit_phases(channel: Channel) -> None:
    """Emit the name of each phase, by wrapping what marks its begin and its end."""
    training = partial(channel.emit, "training")
    writing = partial(channel.emit, "writing")
    validating = partial(channel.emit, "validating")
    _wrap(checkpointing, "training", before=training)
    _wrap(saved, "save", before=writing, after=training)
    _wrap(loop, "evaluation", before=validating)
    _wrap(loop.Trainer, "make", before=training)


def _die_at(place: str, number: int) -> None:
    """Let the process be killed at the `number`-th time that a place is reached."""
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    owner, name = PLACES[place]
    if place == "after-row":
        _wrap(owner, name, after=count)
    else:
        _wrap(owner, name, before=count)


def _nothing() -> None:
    pass


def _wrap(
    owner: Any,
    name: str,
    *,
    before: Callable[[], Any] = _nothing,
    after: Callable[[], Any] = _nothing,
) -> None:
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
