"""The command that reproduces the course's losses."""

from collections.abc import Sequence

from jaxrnn.reproduction.commands import Reproduce
from jaxrnn.terminal import command_name, parse


def command(given: Sequence[str]) -> Reproduce:
    """The command of a command line, after its name."""
    parsed: Reproduce = parse(Reproduce, given, program=f"{command_name()} reproduce")
    return parsed
