"""--json: one document on standard output and nothing else there, with numbers or null."""

import json
import math
import sys
from pathlib import Path

import pytest
from helpers import untrained_run

from jaxrnn import RECIPES, cli
from jaxrnn.runs.config import Config
from jaxrnn.terminal import Screen, print_json

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 12


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder with a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    Path("text.txt").write_text(TEXT)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def document(capsys, *arguments):
    """What a command prints as JSON, and its notes."""
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.isascii()
    assert captured.out.count("\n") == 1
    return json.loads(captured.out, parse_constant=refuse), captured.err


def test_sample_prints_its_texts(capsys, monkeypatch):
    untrained_run("runs/x", corpus="text.txt", prompt="the q")
    texts = ["the quick", 'the q\x1b[2J"\n']
    monkeypatch.setattr("jaxrnn.cli.sample.sample_run", lambda run, prompt, **options: texts)
    found, notes = document(capsys, "sample", "runs/x", "--length", "9", "--count", "2")
    assert found == {
        "run": "runs/x",
        "checkpoint": "best",
        "prompt": "the q",
        "seed": 0,
        "texts": texts,
    }
    assert notes == ""
    # The help names every key.
    with pytest.raises(SystemExit):
        cli.main(["sample", "--help"])
    helped = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"keys {', '.join(list(found)[:-1])} and texts" in helped


def test_notes_are_on_standard_error(capsys):
    untrained_run("runs/x", corpus="text.txt")
    found, notes = document(
        capsys, "sample", "runs/x", "--prompt", "t2he", "--unknown", "skip", "--length", "9"
    )
    assert found["prompt"] == "t2he"
    assert found["texts"][0].startswith("the")
    assert notes == "note: 1 unknown characters of the prompt are left out.\n"


def test_recipes_are_their_configurations(capsys):
    found, notes = document(capsys, "recipes")
    assert notes == ""
    assert list(found) == list(RECIPES)
    for name, recipe in RECIPES.items():
        assert Config.from_dict(found[name].pop("config")) == recipe.config
        assert found[name].pop("summary") == recipe.summary
        assert found[name].pop("prompt") == recipe.prompt
        for kind in ("train", "validation"):
            losses = found[name].pop(kind)
            assert {int(epoch): loss for epoch, loss in losses.items()} == getattr(recipe, kind)
        assert found[name] == {}


def test_a_number_that_json_does_not_have_is_null(capsys):
    print_json({"a": [math.inf, (-math.inf, 1.5)], "b": {"c": math.nan}, "d": "ä\x9b"})
    printed = capsys.readouterr().out
    assert printed == '{"a": [null, [null, 1.5]], "b": {"c": null}, "d": "\\u00e4\\u009b"}\n'


def test_a_mistake_prints_nothing_on_standard_output(capsys):
    for command in ("sample", "evaluate"):
        assert cli.main([command, "runs/absent", "--json"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: runs/absent is not a run")


def test_the_bar_leaves_standard_output_alone(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich: as in a terminal
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    for stderr in (False, True):
        monkeypatch.setattr(sys.stderr if stderr else sys.stdout, "isatty", lambda: True)
        with Screen(stderr=stderr) as screen:
            assert screen.console.is_terminal
            screen.show("evaluating", 0.5)
        captured = capsys.readouterr()
        shown = captured.err if stderr else captured.out
        assert "evaluating" in shown
        assert (captured.out if stderr else captured.err) == ""
