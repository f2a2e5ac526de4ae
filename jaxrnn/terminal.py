"""Shared by the commands: parsing with one-line errors, graceful stops, a progress bar."""

import contextlib
import importlib.util
import io
import json
import logging
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Exit code for a mistake of the user's.
USER_ERROR = 2
# Exit code for work that could not be finished.
FAILED = 1
# Base of the exit codes after a signal, to which shells add the signal's number.
SIGNALLED = 128
# Flags whose value may be any text, even one that begins with "-".
TEXTS = ("--prompt",)
# Exit code after Ctrl-C.
INTERRUPTED = SIGNALLED + signal.SIGINT
# Minimum time of a compilation, in seconds, whose result is stored; to read one takes 10 ms.
LEAST_COMPILATION = 0.05

# Characters that a terminal obeys instead of showing them: control characters but line ends and
# tabs, marks of the direction of text, and halves of surrogate pairs.
CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff]|\r(?!\n)"
)


def printable(text: str) -> str:
    """A text in which what a terminal would obey is escaped, as in "\\x1b[2J".

    For everything that comes from a file: names, values, tokens, generated text.
    """
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def print_json(value: Any) -> None:
    """Print one JSON document, in a line of ASCII; numbers that JSON does not have are null."""
    print(json.dumps(_with_null(value), allow_nan=False))


def _with_null(value: Any) -> Any:
    """The same value with None for each number that is NaN or infinite."""
    if isinstance(value, dict):
        return {name: _with_null(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_with_null(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def parse(
    kind: Any,
    arguments: Sequence[str],
    *,
    program: str,
    description: str | None = None,
    default: Any = None,
) -> Any:
    """Parse a command line with tyro; a mistake becomes one ValueError in one line."""
    import tyro  # it takes as long to import as everything that help needs

    errors = io.StringIO()
    options = {} if default is None else {"default": default}  # for tyro, None is a default too
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                args=_with_values_joined(arguments),
                prog=program,
                description=description,
                config=(),
                **options,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(first_paragraph(errors.getvalue())) from None


def _with_values_joined(arguments: Sequence[str]) -> list[str]:
    """The same arguments, with a text that begins with "-" joined to its flag by "=".

    Otherwise `--prompt -Hello` would be taken for a flag without a value.
    """
    joined: list[str] = []
    for argument in arguments:
        begins = re.match(r"-(?!-?[a-z][a-z-]+(=|$))", argument)  # with "-", but is no flag
        if joined and joined[-1] in TEXTS and begins:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def reason(error: BaseException) -> str:
    """The reason of an error in words, which the text of an exception not always is."""
    text = str(error)
    if isinstance(error, KeyError):
        return f"There is no {text}."
    if isinstance(error, UnicodeError) and not isinstance(error, UnicodeDecodeError):
        return f"A text cannot be written as UTF-8: {text}."
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}."
    return text or f"The command failed ({type(error).__name__})."


def run_command(command: Callable[[], int]) -> int:
    """Run a command; a mistake of the user's becomes one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # Characters outside the terminal's encoding are escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command()
    except BrokenPipeError:
        # A reader such as `head` has ended. Python would fail again as it flushes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        # By name: JAX may not be imported. Any other is a bug, for which a traceback helps.
        if isinstance(error, RuntimeError) and type(error).__name__ != "JaxRuntimeError":
            raise
        message = printable(" ".join(reason(error).split()))
        if isinstance(error, MemoryError) or message.startswith("RESOURCE_EXHAUSTED"):
            message = f"There is not enough memory: choose smaller numbers. {message}"
        print(f"error: {message}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def keep_compiled_programs() -> None:
    """Store compiled programs in the user's cache folder, for later processes."""
    jax = sys.modules.get("jax")
    if jax is None:
        return  # nothing will be compiled
    import pooch

    jax.config.update("jax_compilation_cache_dir", str(pooch.os_cache("jaxrnn") / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_COMPILATION)


def command_name() -> str:
    """The command that started this program, for hints on what to type next."""
    called = Path(sys.argv[0])
    command = "jaxrnn"
    # A user's script, and not `python -m jaxrnn`, which calls __main__.py.
    if called.suffix == ".py" and not called.stem.startswith("__"):
        command = f"python {called}"
    return os.environ.get("JAXRNN_COMMAND") or command


@contextlib.contextmanager
def stop_requests(*, ctrl_c_alone: bool = False) -> Iterator[Callable[[], int]]:
    """Within it, Ctrl-C and SIGTERM only ask to stop; a second one interrupts at once.

    SIGHUP, which comes when the terminal is closed, stops nothing: the work goes on without output.
    In a thread, which Python sends no signals, nothing is changed.

    Args:
        ctrl_c_alone: whether SIGTERM and SIGHUP stay as they are, for a caller that is a guest in
            its process.

    Yields a function that returns the number of the signal that asked to stop, 0 if none did.
    """
    asked = 0
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = number

    def hang_up(number: int, frame: FrameType | None) -> None:
        silence()

    before = {signal.SIGINT: signal.signal(signal.SIGINT, ask)}
    if not ctrl_c_alone:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, ask)
        # Windows has none. Under nohup, SIGHUP is ignored, and stays so.
        closed = getattr(signal, "SIGHUP", None)
        if closed is not None and signal.getsignal(closed) != signal.SIG_IGN:
            before[closed] = signal.signal(closed, hang_up)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def silence() -> None:
    """Discard all further output: the screen is lost, or the disk is full."""
    sys.stdout = sys.stderr = _Nowhere()


class _Nowhere(io.TextIOBase):
    """A stream that discards its input."""

    def write(self, text: str) -> int:
        return len(text)


class Screen:
    """A progress bar with lines above it; without a terminal or notebook, the lines alone.

    Args:
        stderr: whether they go to standard error, as standard output is for a program.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self.console = Console(highlight=False, soft_wrap=True, stderr=stderr)
        # In a notebook, rich shows the bar in a widget, and warns where there are no widgets.
        notebook = self.console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        # A notebook sets FORCE_COLOR for the commands that it starts, which makes no terminal of
        # a pipe: each state of the bar would be another line there.
        terminal = self.console.is_terminal and self.console.file.isatty()
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
            # A widget takes whatever is printed while it is refreshed, by any thread.
            auto_refresh=not notebook,
            disable=not (terminal or notebook),
        )
        self._notebook = notebook
        self._task = self._bar.add_task("", total=1.0, note="")
        self._lost = False  # whether output has failed

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(self, *details: object) -> None:
        with contextlib.suppress(OSError):
            self._bar.stop()

    def show(self, what: str, done: float, note: str = "") -> None:
        """Set the bar: `done` is the finished fraction, in [0, 1]."""
        if self._lost:
            return
        try:
            self._bar.update(
                self._task, description=what, completed=done, note=note, refresh=self._notebook
            )
        except OSError as error:
            self._lose(error)

    def notice(self, text: str) -> None:
        """Print a line on standard error, for the user to know."""
        self._print(self._errors, f"note: {printable(text)}")

    def line(self, text: str = "") -> None:
        """Print a line above the bar."""
        self._print(self.console, printable(text))

    def _print(self, console: Console, text: str) -> None:
        """Print a line. Where that fails, the work goes on without output."""
        if self._lost:
            return
        try:
            console.print(text, markup=False)
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise error  # the reader has ended, and so does the command
        self._lost = True
        with contextlib.suppress(OSError):
            self._bar.stop()
        logging.getLogger(__name__).warning(
            "Nothing more can be shown (%s); the work goes on.", error.strerror
        )
        silence()


def first_paragraph(boxed: str) -> str:
    """The message in an error box of tyro's, in one line: the text above its first rule.

    Where the terminal has no characters for lines, a box consists of "-", and its title stands on a
    line of its own, above a rule.
    """
    words: list[str] = []
    titled = False
    for line in boxed.splitlines():
        if line.startswith(("╭", "╰")):
            titled = True  # in the frame itself
            continue
        text = line.strip("│ ")
        if len(text) > 3 and set(text) == {"-"} and not titled:
            words.clear()  # of the title
            titled = True
            continue
        rule = len(text) > 3 and set(text) in ({"─"}, {"-"})
        if rule or text.startswith("For full helptext"):
            break
        words += text.split()
    sentence = " ".join(words)
    # Without tyro's own names, for positional arguments and for all options of a recipe.
    sentence = re.sub(r"^.*?__tyro-dummy-inner__[\w.]*:\s*", "", sentence)
    sentence = re.sub(r"^Error parsing config:\s*", "", sentence)
    return sentence or "the command line could not be read."
