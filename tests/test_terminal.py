"""What is shown: texts from files cannot steer the terminal, and a lost screen ends nothing."""

import errno
import io
import os
import signal
import sys

import pytest

from jaxrnn.cli import main
from jaxrnn.files import damage
from jaxrnn.terminal import Screen, first_paragraph, printable, reason, run_command, stop_requests


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("one\rtwo\r\nthree\tfour\n", "one\\rtwo\r\nthree\tfour\n"),
        ("\x9b31m\x7f\0\b", r"\x9b31m\x7f\x00\x08"),
        ("abc\u202edef\u2066", r"abc\u202edef\u2066"),
        ("\udcff", r"\udcff"),
        ("é שלום 👩‍👩‍👧🏽", "é שלום 👩‍👩‍👧🏽"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


class Full(io.StringIO):
    """A stream on a disk that is full."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_screen_that_is_full_or_lost_ends_nothing(number, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys, "stdout", Full(number))
    with Screen() as screen:
        screen.show("training", 0.5, "loss 1.0")
        screen.line("a line")
        screen.line("another one")
        screen.notice("a note")
        print("what is printed afterwards goes nowhere")
    assert not isinstance(sys.stdout, Full)  # or this line had ended the test
    assert sys.stdout.write("text") == 4


def test_a_pipe_has_no_bar_though_colors_are_asked_for(monkeypatch):
    """A notebook asks for colors in the commands that it starts."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    shown = sys.stdout
    with Screen() as screen:
        screen.show("training", 0.5, "loss 1.0")
        screen.line("a line")
    assert shown.getvalue() == "a line\n"


def test_a_terminal_that_is_closed_stops_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shown = sys.stdout
    before = signal.getsignal(signal.SIGHUP)
    with stop_requests() as stopping:
        print("seen")
        os.kill(os.getpid(), signal.SIGHUP)
        print("not seen")
        assert stopping() == 0
    assert shown.getvalue() == "seen\n"
    assert signal.getsignal(signal.SIGHUP) == before


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("itos"), "There is no 'itos'."),
        (ValueError("plain words."), "plain words."),
        (ValueError(), "The command failed (ValueError)."),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), "a.txt: No such file."),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device."),
    ],
)
def test_an_exception_becomes_words(error, words):
    assert reason(error) == words


def test_names_from_files_are_escaped_in_an_error(capsys):
    def fail():
        raise ValueError("the file \x1b[2Jname")

    assert run_command(fail) == 2
    assert capsys.readouterr().err == "error: the file \\x1b[2Jname\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "runs/none", "--prompt", "-Hello"],
        ["sample", "runs/none", "--prompt", "--"],
        ["sample", "runs/none", "--prompt=-x"],
        ["sample", "runs/none", "--prompt", ""],
        ["sample"],
        ["sample", "runs/none", "--length", "ten"],
        ["sample", "runs/none", "--nonsense"],
        ["train", "--hidden", "-1"],
        ["train", "--schedule", "-"],
        ["train", "--resume"],
        ["evaluate", "runs/none", "--corpus"],
        ["export", "runs/none"],
        ["export"],
        ["import"],
        ["import", "nothing.pt"],
        ["nonsense"],
        ["--nonsense"],
        ["self-check", "nonsense"],
    ],
    ids=str,
)
def test_odd_command_lines_are_one_line_in_words(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "dummy" not in line
    assert "Missing value" not in line or arguments[-1].startswith("--")
    if "-Hello" in arguments:
        assert "runs/none is not a run" in line


@pytest.mark.slow
def test_a_cell_that_is_not_defined_here_is_named(tmp_path, monkeypatch, capsys):
    import jaxrnn

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quick brown fox. " * 40)
    cell = jaxrnn.Cell("mine", ("h",), lambda carry, x, h: jaxrnn.Hidden(x + h))
    monkeypatch.setitem(jaxrnn.CELLS, "mine", cell)
    flags = ["--model", "CharLM", "--cell", "mine", "--hidden", "4", "--embedding", "4"]
    flags += ["--min-frequency", "1", "--schedule", "1 x 1e-3", "--batch", "2"]
    assert main(["train", "--corpus", "text.txt", "--name", "x", *flags]) == 0
    monkeypatch.delitem(jaxrnn.CELLS, "mine")
    capsys.readouterr()
    assert main(["sample", "runs/x"]) == 2
    error = capsys.readouterr().err
    assert "got 'mine'. (One that a script puts into jaxrnn.CELLS" in error
    assert "damaged" not in error


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (
            " Unrecognized options \n ------------ \n  Unrecognized options: --lenght, 3\n"
            "  ------------\n  Perhaps you meant:\n      --length INT\n",
            "Unrecognized options: --lenght, 3",
        ),
        (
            "╭─ Unrecognized options ─╮\n│ Unrecognized options: --lenght, 3 │\n"
            "│ ────────────── │\n│ Perhaps you meant: │\n│ --length INT │\n╰────────╯\n",
            "Unrecognized options: --lenght, 3",
        ),
        (
            " Value error \n ------------ \n  Error parsing config: batch_size must be at\n"
            "  least 1, got 0.\n  ------------\n  Argument helptext:\n",
            "batch_size must be at least 1, got 0.",
        ),
        ("", "the command line could not be read."),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence_in_every_alphabet(box, message):
    assert first_paragraph(box) == message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("itos"), "it has no 'itos'"),
        (KeyError(), "an entry is missing"),
        (ValueError("expected 1,\n got 2."), "expected 1, got 2"),
        (RecursionError(), "RecursionError"),
        (ValueError("x" * 999), "x" * 300),
    ],
)
def test_damage_is_told_in_words(error, words):
    assert damage(error) == words
