"""The command that allows the code of a file that a run or an exported file names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from jaxrnn.registry import trust
from jaxrnn.terminal import command_name, parse


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Allow the code of a file, as it is now, to be run for a run that names it.

    What you name yourself, as in --cell FILE.py:NAME, needs no such permission.
    """

    file: Positional[Path]
    """The file of code; read it first."""

    def __call__(self) -> int:
        trust(self.file)
        print(f"{self.file} may be run as it is now.")
        return 0


def command(given: Sequence[str]) -> Trust:
    """The command of a command line, after its name."""
    parsed: Trust = parse(Trust, given, program=f"{command_name()} trust")
    return parsed
