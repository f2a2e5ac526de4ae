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


def test_the_file_of_ones_own_trains_as_it_is_named(tmp_path, monkeypatch, capsys):
    from jaxrnn import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(with_words("# mine.py"))
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    small = ["--corpus", "text.txt", "--hidden", "8", "--embedding", "4", "--batch", "4"]
    small += ["--schedule", "1 x 1e-3", "--no-random-bptt", "--bptt", "400"]
    words = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"jaxrnn train (.*mine\.py.*)", words)
    assert len(commands) == 2
    for command in commands:
        assert cli.main(["train", *command.split(), *small]) == 0
    assert "bits/byte" in capsys.readouterr().out


@pytest.mark.slow
def test_the_training_runs(capsys):
    exec(with_words("jaxrnn.fit("), {})
    assert "nats per character" in capsys.readouterr().out
