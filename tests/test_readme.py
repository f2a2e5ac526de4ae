"""The Python of the texts is as clean as the project's, and runs; so do the README's commands."""

import doctest
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import untrained_run

from jaxrnn import cli, load_corpus
from jaxrnn.data.corpora import CORPORA, Corpus
from jaxrnn.runs.exported import export_run

ROOT = Path(__file__).parents[1]
TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
SNIPPETS = [*TEXTS, *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("scripts/*/README.md"))]
BLOCK = re.compile(r"^```(python|pycon|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = "./scripts/jaxrnn "
MINUTES = ("--steps 20000", "find-rate", "self-check")
"""Parts of commands of the README that take minutes even on a short text."""
SHORT = 12_000
"""Number of characters of the texts that stand for the corpora: enough for 64 streams."""


def blocks(text="README.md"):
    """The kind and the content of each block of code in a text, in its order."""
    return BLOCK.findall((ROOT / text).read_text(encoding="utf-8"))


def python_of(kind, block):
    """The Python of a block; that of a session is what is typed."""
    if kind == "pycon":
        return "".join(example.source for example in doctest.DocTestParser().get_examples(block))
    return block


def programs(text="README.md"):
    """The Python of a text; a block without imports goes on from the one before."""
    found = []
    for kind, block in blocks(text):
        if kind == "console":
            continue
        if re.search(r"^(import|from) ", block, re.MULTILINE):
            found.append(block)
        else:
            found[-1] += python_of(kind, block)
    return found


def commands_of(block):
    """The arguments of each command of jaxrnn in a block, without the remark behind it."""
    lines = [line[2:] for line in block.splitlines() if line.startswith(f"$ {COMMAND}")]
    return [shlex.split(line.removeprefix(COMMAND), comments=True) for line in lines]


@pytest.mark.parametrize("text", TEXTS)
def test_every_file_that_is_named_is_there(text):
    """Links, and paths of the project in backticks."""
    words = (ROOT / text).read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", words)
    quoted = re.findall(r"`((?:jaxrnn|parity|scripts|tests)/[\w./-]*)`", words)
    missing = [path for path in {*linked, *quoted} if not (ROOT / path).exists()]
    assert not missing


def test_nobody_is_sent_to_a_package_index():
    """Nothing of this project is there: the name could be anybody's."""
    for text in SNIPPETS:
        words = (ROOT / text).read_text(encoding="utf-8")
        assert not re.search(r"(pip3?|uv|pipx|conda)\s+(install|add)\s[^`\n]*\bjaxrnn\b", words), (
            text
        )


def with_words(words):
    (program,) = [program for program in programs() if words in program]
    return program


@pytest.mark.parametrize(
    "arguments",
    # A session ends lines with a value, to show it.
    [["check", "--extend-ignore=B018"], ["format", "--check", "--diff"]],
    ids=" ".join,
)
def test_the_blocks_are_clean(arguments, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ours = f"src = [{json.dumps(str(ROOT))}]"  # imports of ours are sorted as such
    count = 0
    for text in SNIPPETS:
        for program in programs(text):
            (tmp_path / f"snippet_{count:03}.py").write_text(program)
            count += 1
    assert count >= 3
    ran = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--no-cache", "--config", ours, "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with everything that the README's commands name; its corpora are short."""
    short = load_corpus("python-docs").documents[0][:SHORT]
    for name in ("python-docs", "nietzsche"):
        monkeypatch.setitem(CORPORA, name, lambda name=name: Corpus(name, (short,)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    Path("elsewhere").mkdir()
    for name in ("README.md", "FILE.txt", "LARGE.txt", "text.txt", "elsewhere/text.txt"):
        Path(name).write_text(short)
    np.save("tokens.npy", np.random.default_rng(0).integers(0, 30, SHORT))
    Path("tokens.json").write_text(json.dumps(sorted(set(short))))
    Path("mine.py").write_text(with_words("# mine.py"))
    return short


def theirs(tokens):
    """A checkpoint of PyTorch's, theirs.pt, with as many tokens."""
    torch = pytest.importorskip("torch")
    module = torch.nn.ModuleDict(
        {
            "encoder": torch.nn.Embedding(tokens, 8),
            "rnn": torch.nn.GRU(8, 16),
            "decoder": torch.nn.Linear(16, tokens),
        }
    )
    torch.save(module.state_dict(), "theirs.pt")


def test_every_command_is_understood(workplace):
    """Its options are those of the command, and their values make sense."""
    theirs(len(set(workplace)))
    export_run(untrained_run("runs/y", corpus="FILE.txt"), "model.safetensors")
    untrained_run("runs/x", corpus="FILE.txt")  # whose values --from takes
    count = 0
    for text in SNIPPETS:
        for kind, block in blocks(text):
            for name, *rest in commands_of(block) if kind == "console" else ():
                if name.startswith("--"):
                    assert cli.main([name, *rest]) == 0
                    continue
                module, _ = cli.COMMANDS[name]
                assert importlib.import_module(f"jaxrnn.cli.{module}").command(rest)
                count += 1
    assert count >= 24


@pytest.mark.slow
def test_all_of_the_readme_runs_in_its_order(workplace, capsys):
    """Commands, Python and sessions, as they stand; what they need is made by those before."""
    theirs(len(set(workplace)))
    # The run that is resumed, first as it was begun, then with another schedule.
    untrained_run("runs/x", corpus="text.txt", batch_size=16, schedule="1 x 1e-3")
    scope = {}
    for kind, block in blocks():
        if kind == "console":
            for arguments in commands_of(block):
                line = " ".join(arguments)
                if not any(part in line for part in MINUTES):
                    assert cli.main(arguments) == 0, (line, capsys.readouterr().err)
        elif "parity" not in block:
            if re.search(r"^(import|from) ", block, re.MULTILINE):
                scope = {"__name__": "readme"}
            exec(compile(python_of(kind, block), "README.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert "nats per character" in printed
    assert "bits/byte" in printed


def test_the_comparison_of_a_module_of_ones_own_runs():
    pytest.importorskip("torch")
    exec(with_words("assert_parity("), {})


@pytest.mark.slow
def test_the_file_of_ones_own_trains_as_it_is_named(tmp_path, monkeypatch, capsys):
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
