"""The command line: flags to calls, results to the screen.

Each command is a module with a function `command`, which parses what follows the command's name.
Only the module of the command that is given is imported, so that help comes at once.
"""

import contextlib
import difflib
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from jaxrnn import __version__
from jaxrnn.terminal import command_name, keep_compiled_programs, parse, printable, run_command

COMMANDS = {
    "train": ("train", "Train a model, or go on with a run."),
    "sample": ("sample", "Generate text with a trained model."),
    "evaluate": ("evaluate", "Measure a trained model on a text."),
    "compare": ("compare", "Compare cells and models: equal data, several seeds."),
    "find-rate": ("find_rate", "Suggest a learning rate (learning-rate range test)."),
    "recipes": ("recipes", "List the recipes and the losses that the course published."),
    "self-check": ("self_check", "Check this installation: gradients and first epochs."),
    "export": ("exporting", "Write a trained model to one file, for PyTorch and to hand on."),
    "import": ("importing", "Make a run of weights from PyTorch."),
    "trust": ("trust", "Allow the code of a file that a run names."),
}
"""Module and summary of each command."""
HELP = ("-h", "--help")

Command = TypeVar("Command")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Help and version need none of the commands, whose modules import JAX.
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"jaxrnn {__version__}")
        return 0
    if given[:1] and given[0] in HELP:
        print(overview())
        return 0
    # Within it, each warning of the library is a line on standard error.
    library = logging.getLogger("jaxrnn")
    handler = _Notes(logging.WARNING)
    library.addHandler(handler)
    try:
        return run_command(lambda: _command(given)())
    finally:
        library.removeHandler(handler)


def parse_command(
    kind: type[Command], name: str, given: Sequence[str], default: Command | None = None
) -> Command:
    """The command of a command line.

    Args:
        kind: the dataclass of its options.
        name: the name of the command.
        given: the rest of the command line.
        default: the values of options that are not given; the dataclass's own if None.

    Raises:
        ValueError: if an option is wrong.
    """
    parsed: Command = parse(kind, given, program=f"{command_name()} {name}", default=default)
    return parsed


def overview() -> str:
    """The help text of the whole program."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    listed = "\n".join(lines)
    return (
        f"usage: {command_name()} COMMAND ...\n\n"
        "Recurrent character models in JAX: train them on text, generate text with them.\n"
        "Start with `train`; it needs no download.\n\n"
        f"{listed}\n\n"
        "COMMAND --help shows the options of a command; --version prints the version;\n"
        "--print-completion bash (or zsh, fish) prints a script that completes commands and "
        "options."
    )


def _command(given: list[str]) -> Callable[[], int]:
    """The command of a command line, ready to run.

    Raises:
        ValueError: if there is no such command, or its options are wrong.
    """
    if not given:
        raise ValueError(f"Name a command: {', '.join(COMMANDS)}; --help says what they do.")
    name, *rest = given
    if name == "--print-completion":
        return lambda: _print_completion(rest)
    # A command of an earlier version.
    if name == "reproduce":
        raise ValueError(
            "The course's losses are reproduced by a program of the repository now: type "
            "./scripts/reproduce there. To check an installation, type jaxrnn self-check."
        )
    if name not in COMMANDS:
        hint = f": take {', '.join(COMMANDS)}."
        for alike in difflib.get_close_matches(name, COMMANDS, n=1):
            hint = f"; did you mean {alike}?"
        raise ValueError(f"There is no command {name}{hint}")
    module, _ = COMMANDS[name]
    command: Callable[[], int] = importlib.import_module(f"jaxrnn.cli.{module}").command(rest)
    # After the import, which is what brings JAX; before anything is compiled.
    keep_compiled_programs()
    return command


def _print_completion(given: Sequence[str]) -> int:
    """Print the completion script of the shell that is named."""
    from jaxrnn.cli.completion import completion_script

    modules = {name: module for name, (module, _) in COMMANDS.items()}
    print(completion_script(" ".join(given), modules))
    return 0


class _Notes(logging.Handler):
    """Prints warnings as notes, control characters escaped: names of files may hold some."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a screen that is lost ends nothing
            print(f"note: {printable(record.getMessage())}", file=sys.stderr)
