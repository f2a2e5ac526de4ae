"""The command that allows the code of a file that a run or an exported file names."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tyro.conf import Positional

from jaxrnn.cli import parse_command
from jaxrnn.registry import trust


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Allow the code of a file, as it is now, to be run for a run that names it.

    What you name yourself, as in --cell FILE.py:NAME, needs no such permission.
    """

    file: Positional[Path]
    """The file of code; read it before you trust it."""

    def __call__(self) -> int:
        trust(self.file)
        print(f"{self.file} may be run as it is now.")
        return 0


command = partial(parse_command, Trust, "trust")
