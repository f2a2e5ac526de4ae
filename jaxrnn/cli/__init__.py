"""The command line: flags to calls, results to the screen.

Each command is a module with a function `command`, which parses the rest of the command line. Only
the module of the command that is given is imported, so that help comes at once.
"""

import contextlib
import difflib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence

from jaxrnn import __version__
from jaxrnn.terminal import command_name, keep_compiled_programs, printable, run_command

COMMANDS = {
    "train": ("train", "Train a model, or go on with a run."),
    "sample": ("sample", "Generate text with a trained model."),
    "evaluate": ("evaluate", "Measure a trained model on a text."),
    "find-rate": ("find_rate", "Suggest a learning rate (learning-rate range test)."),
    "recipes": ("recipes", "List the recipes and the losses that the course published."),
    "self-check": ("self_check", "Check this installation: gradients and first epochs."),
    "export": ("exporting", "Write a trained model's weights for PyTorch."),
    "import": ("importing", "Make a run of weights from PyTorch."),
    "trust": ("trust", "Allow the code of a file that a run names."),
}
"""The commands: the module of each, and its summary."""
HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"jaxrnn {__version__}")
        return 0
    if given[:1] and given[0] in HELP:
        print(overview())
        return 0
    with _shown_notes():
        return run_command(lambda: _command(given)())


def overview() -> str:
    """The help text of the whole program."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {command_name()} COMMAND ...",
            "",
            "Recurrent character models in JAX: train them on text, generate text with them.",
            "Start with `train`; it needs no download.",
            "",
            *lines,
            "",
            "COMMAND --help shows the options of a command; --version prints the version.",
        ]
    )


def _command(given: list[str]) -> Callable[[], int]:
    """The command of a command line, ready to run.

    Raises:
        ValueError: if there is no such command, or its options are wrong.
    """
    if not given:
        raise ValueError(f"Name a command: {', '.join(COMMANDS)}; --help says what they do.")
    name, *rest = given
    if name == "reproduce":
        raise ValueError(
            "The course's losses are reproduced by a program of the repository now: type "
            "./scripts/reproduce there. To check an installation, type jaxrnn self-check."
        )
    if name not in COMMANDS:
        alike = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {alike[0]}?" if alike else f": take {', '.join(COMMANDS)}."
        raise ValueError(f"There is no command {name}{hint}")
    module, _ = COMMANDS[name]
    command: Callable[[], int] = importlib.import_module(f"jaxrnn.cli.{module}").command(rest)
    keep_compiled_programs()
    return command


@contextlib.contextmanager
def _shown_notes() -> Iterator[None]:
    """Within it, each warning of the library is a line on standard error."""
    library = logging.getLogger("jaxrnn")
    handler = _Notes(logging.WARNING)
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)


class _Notes(logging.Handler):
    """Prints warnings as notes, control characters escaped: names of files may hold some."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a screen that is lost ends nothing
            print(f"note: {printable(record.getMessage())}", file=sys.stderr)
