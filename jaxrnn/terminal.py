"""What the command lines share: parsing to one-line errors, stopping politely, showing progress."""

import contextlib
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# The exit code for a mistake of the user's.
USER_ERROR = 2
# The exit code for work that could not be finished.
FAILED = 1
# The exit code after a signal is this and the signal's number, as shells have it.
SIGNALLED = 128
# Flags whose value may be any text.
TEXTS = ("--prompt",)
# The exit code after Ctrl-C.
INTERRUPTED = SIGNALLED + signal.SIGINT

# What a terminal obeys instead of showing it: control characters but line ends and tabs, those
# that turn the direction of writing, and halves of surrogate pairs.
CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff]|\r(?!\n)"
)


def printable(text: str) -> str:
    """A text that shows what it holds: what a terminal would obey is escaped, as in "\\x1b[2J".

    For everything that comes from a file: names, values, tokens, what a model writes.
    """
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


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
    arguments = _with_values_joined(arguments)
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                args=list(arguments),
                prog=program,
                description=description,
                config=(),
                **({} if default is None else {"default": default}),
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
        if joined and joined[-1] in TEXTS and re.match(r"-(?!-?[a-z][a-z-]+(=|$))", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def reason(error: BaseException) -> str:
    """What went wrong, in words; the text of an exception is not always one."""
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
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show, it shows escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        return command()
    except BrokenPipeError:  # a reader such as `head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error).__name__ != "JaxRuntimeError":
            raise  # of ours, or of a library's: a traceback is what helps
        message = printable(" ".join(reason(error).split()))
        if isinstance(error, MemoryError) or message.startswith("RESOURCE_EXHAUSTED"):
            message = f"There is not enough memory: choose smaller numbers. {message}"
        print(f"error: {message}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def keep_compiled_programs() -> None:
    """Keep what is compiled in the user's cache folder, so that it is not compiled again."""
    jax = sys.modules.get("jax")
    if jax is None:  # nothing will be compiled
        return
    import pooch

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

    SIGHUP, which comes when the terminal is closed, stops nothing: the work goes on in silence.

    Gives a function that tells by which signal a stop was asked for, 0 if by none.
    """
    asked = 0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = number

    def hang_up(number: int, frame: FrameType | None) -> None:
        silence()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as nohup has it
    handlers = (ask, ask, signal.SIG_IGN if ignored else hang_up)
    before = [signal.signal(n, handler) for n, handler in zip(numbers, handlers, strict=True)]
    try:
        yield lambda: asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def silence() -> None:
    """Let what is printed from here on go nowhere: the screen is lost, or the disk is full."""
    sys.stdout = sys.stderr = _Nowhere()


class _Nowhere(io.TextIOBase):
    """A stream that forgets what is written to it."""

    def write(self, text: str) -> int:
        return len(text)


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
        self._lost = False

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(self, *details: object) -> None:
        with contextlib.suppress(OSError):
            self._bar.stop()

    def show(self, what: str, done: float, note: str = "") -> None:
        """Set the bar: `done` is the share of the whole, in [0, 1]."""
        if self._lost:
            return
        try:
            self._bar.update(self._task, description=what, completed=done, note=note)
        except OSError as error:
            self._lose(error)

    def notice(self, text: str) -> None:
        """Print a line on standard error: something that the user should know."""
        self._print(self._errors, f"note: {printable(text)}")

    def line(self, text: str = "") -> None:
        """Print a line above the bar."""
        self._print(self.console, printable(text))

    def _print(self, console: Console, text: str) -> None:
        """Print a line. A screen that is lost or full is gone on without: training matters more."""
        if self._lost:
            return
        try:
            console.print(text, markup=False)
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise error
        self._lost = True
        with contextlib.suppress(OSError):
            self._bar.stop()
        logging.getLogger(__name__).warning(
            "Nothing more can be shown (%s); the work goes on.", error.strerror
        )
        silence()


def first_paragraph(boxed: str) -> str:
    """The message in an error box of tyro's, in one line: what stands above its first rule.

    Where the terminal has no characters for lines, a box is drawn with "-", and its title stands on
    a line of its own, above a rule.
    """
    words: list[str] = []
    titled = False
    for line in boxed.splitlines():
        if line.startswith(("╭", "╰")):
            titled = True
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
    # tyro's own names for what stands behind the flags, and for all options of a recipe.
    sentence = re.sub(r"^.*?__tyro-dummy-inner__[\w.]*:\s*", "", sentence)
    sentence = re.sub(r"^Error parsing config:\s*", "", sentence)
    return sentence or "the command line could not be read."
