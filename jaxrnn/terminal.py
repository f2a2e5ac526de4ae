"""What the command lines share: parsing to one-line errors, stopping politely, showing progress."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import pooch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

USER_ERROR = 2
"""The exit code for a mistake of the user's."""
FAILED = 1
"""The exit code for work that could not be finished."""
SIGNALLED = 128
"""The exit code after a signal is this and the signal's number, as shells have it."""
INTERRUPTED = SIGNALLED + signal.SIGINT
"""The exit code after Ctrl-C."""


def parse(kind: Any, arguments: Sequence[str], *, program: str, description: str) -> Any:
    """Parse a command line with tyro; a mistake becomes one ValueError in one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind, args=list(arguments), prog=program, description=description, config=()
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(_first_paragraph(errors.getvalue())) from None


def run_command(command: Callable[[], int]) -> int:
    """Run a command; a mistake of the user's becomes one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show, it shows escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        return command()
    except BrokenPipeError:  # a reader such as `head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        message = " ".join(str(error).split())
        if isinstance(error, MemoryError) or message.startswith("RESOURCE_EXHAUSTED"):
            message = f"There is not enough memory: choose smaller numbers. {message}"
        print(f"error: {message}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def keep_compiled_programs() -> None:
    """Keep what is compiled in the user's cache folder, so that it is not compiled again."""
    jax.config.update("jax_compilation_cache_dir", str(pooch.os_cache("jaxrnn") / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def command_name() -> str:
    """How this program was called, for hints on what to type next."""
    called = Path(sys.argv[0])
    own_script = called.suffix == ".py" and not called.stem.startswith("__")
    return os.environ.get("JAXRNN_COMMAND") or (f"python {called}" if own_script else "jaxrnn")


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Within it, Ctrl-C and SIGTERM only ask to stop; a second one interrupts at once.

    Gives a function that tells by which signal a stop was asked for, 0 if by none.
    """
    asked = 0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = number

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield lambda: asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Screen:
    """A progress bar with lines above it; without a terminal, the lines alone."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._errors = Console(highlight=False, soft_wrap=True, stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, note="")

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.stop()

    def show(self, what: str, done: float, note: str = "") -> None:
        """Set the bar: `done` is the share of the whole, in [0, 1]."""
        self._bar.update(self._task, description=what, completed=done, note=note)

    def notice(self, text: str) -> None:
        """Print a line on standard error: something that the user should know."""
        self._errors.print(f"note: {text}", markup=False)

    def line(self, text: str = "") -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False)


def _first_paragraph(boxed: str) -> str:
    """The message in an error box of tyro's, in one line: what stands above its first rule."""
    words: list[str] = []
    for line in boxed.splitlines():
        if line.startswith(("╭", "╰")):
            continue
        text = line.strip("│ ")
        if text and set(text) == {"─"}:
            break
        words += text.split()
    return " ".join(words) or "the command line could not be read."
