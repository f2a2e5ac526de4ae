"""The README's Python is as clean as the project's, and runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def programs():
    """The Python of the README; a block without imports goes on from the one before."""
    found = []
    for block in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        if re.search(r"^(import|from) ", block, re.MULTILINE):
            found.append(block)
        else:
            found[-1] += block
    return found


@pytest.mark.parametrize("text", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_file_that_is_named_is_there(text):
    """Links, and paths of the project in backticks."""
    words = (ROOT / text).read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", words)
    quoted = re.findall(r"`((?:jaxrnn|parity|scripts|tests)/[\w./-]*)`", words)
    missing = [path for path in {*linked, *quoted} if not (ROOT / path).exists()]
    assert not missing


def with_words(words):
    (program,) = [program for program in programs() if words in program]
    return program


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check", "--diff"]], ids=" ".join)
def test_the_blocks_are_clean(arguments):
    assert len(programs()) >= 3
    for program in programs():
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", "readme.py", "-"],
            cwd=ROOT,
            input=program,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_comparison_of_a_module_of_ones_own_runs():
    pytest.importorskip("torch")
    exec(with_words("assert_parity("), {})


def test_the_cell_of_ones_own_runs_a_command(monkeypatch, capsys):
    from jaxrnn import CELLS

    monkeypatch.setattr(sys, "argv", ["forgetful.py", "recipes"])
    with pytest.raises(SystemExit) as stop:
        exec(with_words("forgetful.py"), {})
    CELLS.pop("forgetful")
    assert stop.value.code == 0
    assert "stateful-gru" in capsys.readouterr().out


@pytest.mark.slow
def test_the_training_runs(capsys):
    exec(with_words("jaxrnn.fit("), {})
    assert "nats per character" in capsys.readouterr().out
