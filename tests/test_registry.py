"""Objects of one's own by name: FILE.py:NAME, entry points, and what a run's file may make run."""

import hashlib
import json
import re
import shutil

import jax
import numpy as np
import pytest

from jaxrnn import CELLS, MODELS, OPTIMIZERS, RECIPES, RNN, TOKENIZERS, Config, Recipe, cli
from jaxrnn.cli import train
from jaxrnn.files import read_or_raise
from jaxrnn.registry import (
    ForeignReference,
    NotDefinedError,
    _modules,
    absolute_reference,
    is_reference,
    load_object,
    trust,
)
from jaxrnn.runs.experiment import with_absolute_paths
from jaxrnn.runs.run import Run

CODE = """
import jax, optax
import numpy as np
from neighbor import LAYERS
from jaxrnn import GRU, RNN, Cell, Hidden, Optimizer, StatefulModel, gates_of

def step(carry, x_gates, h_gates):
    forget, candidate = gates_of(x_gates + h_gates, 2)
    forget = jax.nn.sigmoid(forget)
    return Hidden(forget * carry.h + (1 - forget) * jax.numpy.tanh(candidate))

FORGETFUL = Cell("forgetful", gates=("f", "n"), step=step)
LION = Optimizer(optax.scale_by_lion)
BRINGS_ITS_RATE = optax.adam(1e-3)

class Mine(StatefulModel):
    @property
    def stack(self):
        return RNN(GRU, self.hidden_size, LAYERS, parent=None)

class Words:
    def __init__(self, words):
        self.words = list(words)
    @classmethod
    def from_documents(cls, documents):
        return cls(["<unk>", *sorted(set(" ".join(documents).split()))])
    @property
    def size(self):
        return len(self.words)
    def encode(self, text):
        return np.array([self.words.index(w) if w in self.words else 0 for w in text.split()])
    def decode(self, tokens):
        return " ".join(self.words[token] for token in tokens)
    def to_dict(self):
        return {"words": self.words}
    @classmethod
    def from_dict(cls, values):
        return cls(values["words"])
"""
FLAGS = ["--corpus", "text.txt", "--embedding", "4", "--hidden", "8", "--batch", "4"]
FLAGS += ["--schedule", "1 x 1e-2", "--min-frequency", "1", "--no-random-bptt", "--bptt", "400"]
OWN = {
    "cell": ["--model", "CharLM", "--cell", "mine.py:FORGETFUL"],
    "model": ["--model", "mine.py:Mine"],
    "optimizer": ["--optimizer", "mine.py:LION"],
    "tokenizer": ["--tokenizer", "mine.py:Words"],
}
OWN["all others"] = [*OWN["cell"], *OWN["optimizer"], *OWN["tokenizer"]]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with code of the user's and a text, and a cache that trusts nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "neighbor.py").write_text("LAYERS = 2\n")
    (tmp_path / "text.txt").write_text("the cat sat on the mat, the dog on the log.\n" * 40)
    return tmp_path


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["model", "all others"])
def test_what_a_file_defines_trains_goes_on_and_samples_from_any_folder(
    kind, folder, monkeypatch, capsys
):
    assert cli.main(["train", *FLAGS, *OWN[kind], "--name", "own"]) == 0
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = "../runs/own"
    assert cli.main(["sample", run, "--prompt", "the cat sat on", "--length", "5"]) == 0
    assert cli.main(["evaluate", run]) == 0
    assert cli.main(["train", "--resume", run, "--schedule", "2 x 1e-2"]) == 0
    assert "finished" not in capsys.readouterr().err
    assert max(row.epoch for row in Run(run).history) == 2


def test_the_objects_are_those_of_the_file(folder):
    assert CELLS.find("mine.py:FORGETFUL").gates == ("f", "n")
    model = MODELS.find("mine.py:Mine")(9, 4, 8)
    assert isinstance(model.stack, RNN)
    assert model.stack.num_layers == 2
    config = Config(model="CharLM", cell="mine.py:FORGETFUL", optimizer="mine.py:LION", clip=0.5)
    assert config.make_model(5).cell is CELLS.find("mine.py:FORGETFUL")
    assert config.make_optimizer().clip == 0.5
    words = TOKENIZERS.find("mine.py:Words").from_documents(["b a"])
    assert words.decode(words.encode("a b")) == "a b"
    assert jax.tree.leaves(OPTIMIZERS.find("mine.py:LION").init({"w": np.zeros(2)}))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cell", "mine.py:LION"], "mine.py:LION is no cell: it is of type Optimizer"),
        (["--cell", "mine.py:NOPE"], "mine.py defines no NOPE"),
        (["--cell", "gone.py:X"], "Cannot read gone.py"),
        (["--cell", "broken.py:X"], "broken.py cannot be run: ZeroDivisionError: division by"),
        (["--model", "mine.py:step"], "mine.py:step is no model: it does not derive from"),
        (["--optimizer", "mine.py:BRINGS_ITS_RATE"], "brings its own learning rate"),
        (["--optimizer", "mine.py:LION", "--weight-decay", "1"], "leave weight_decay"),
        (["--tokenizer", "mine.py:FORGETFUL"], "it has no size, encode, decode, to_dict, from_"),
        (["--tokenizer", "mine.py:Mine"], "it has no encode, decode, to_dict, from_dict"),
        (["--cell", "lstmm"], "cell must be one of tanh, relu, gru, lstm"),
        (["--tokenizer", "integers"], "need a corpus of integers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_name_is_one_line(arguments, expected, folder, capsys):
    (folder / "broken.py").write_text("1 / 0\n")
    model = [] if "--model" in arguments else ["--model", "CharLM"]
    assert cli.main(["train", *FLAGS, *model, *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert re.fullmatch(r"error: [^\n]+\n", error)
    assert not (folder / "runs").exists()


def test_a_run_from_elsewhere_makes_nothing_run_that_was_not_run_here(folder, monkeypatch, capsys):
    (folder / "mine.py").write_text(CODE + "import pathlib; pathlib.Path('ran').touch()\n")
    assert cli.main(["train", *FLAGS, *OWN["cell"], "--name", "own"]) == 0
    (folder / "ran").unlink()
    sample = ["sample", "runs/own", "--length", "5"]
    # Another user's cache knows nothing of the file. What ran in this process is forgotten, too.
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "other"))
    monkeypatch.setattr("jaxrnn.registry._modules", {})
    assert cli.main(sample) == 2
    assert "type: jaxrnn trust" in capsys.readouterr().err
    assert not (folder / "ran").exists()
    assert cli.main(["trust", "mine.py"]) == 0
    assert cli.main(sample) == 0
    assert (folder / "ran").exists()
    # Another content is another file.
    (folder / "mine.py").write_text(CODE + "import pathlib; pathlib.Path('changed').touch()\n")
    assert cli.main(sample) == 2
    assert not (folder / "changed").exists()
    assert cli.main(["trust", "mine.py"]) == 0
    capsys.readouterr()
    assert cli.main(sample) == 0
    assert capsys.readouterr().err.count("has changed since the run began") == 1


@pytest.mark.slow
def test_an_exported_file_makes_nothing_run_either(folder, monkeypatch, capsys):
    assert cli.main(["train", *FLAGS, *OWN["cell"], "--name", "own"]) == 0
    assert cli.main(["export", "runs/own", "own.safetensors"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "other"))
    monkeypatch.setattr("jaxrnn.registry._modules", {})
    capsys.readouterr()
    assert cli.main(["import", "own.safetensors", "--name", "again"]) == 2
    assert "type: jaxrnn trust" in capsys.readouterr().err


@pytest.fixture
def exchange_after_reading(folder, monkeypatch):
    """Function after whose call mine.py is exchanged for other code right after it is read."""

    def read_and_exchange(kind, path, **options):
        code = read_or_raise(kind, path, **options)
        (folder / "mine.py").write_text(CODE + "import pathlib; pathlib.Path('ran').touch()\n")
        return code

    def begin():
        monkeypatch.setattr("jaxrnn.registry._modules", {})
        monkeypatch.setattr("jaxrnn.registry.read_or_raise", read_and_exchange)

    return begin


def test_the_code_that_is_checked_is_the_code_that_runs(folder, exchange_after_reading):
    values = Config(model="CharLM", cell="mine.py:FORGETFUL").to_dict()
    exchange_after_reading()
    config = Config.from_dict(values)
    # The next reader finds the other code, and refuses it as well.
    with pytest.raises(NotDefinedError, match="never run here as it is now"):
        with_absolute_paths(config)
    with pytest.raises(NotDefinedError, match="never run here as it is now"):
        config.make_model(5)
    assert not (folder / "ran").exists()


def test_the_code_that_ran_is_the_code_that_is_trusted(folder, exchange_after_reading):
    exchange_after_reading()
    load_object("mine.py:LION")
    with pytest.raises(NotDefinedError, match="never run here as it is now"):
        load_object(ForeignReference("mine.py:LION"))
    assert not (folder / "ran").exists()


def test_a_file_that_is_gone_is_named(folder, capsys):
    assert cli.main(["train", *FLAGS, *OWN["cell"], "--name", "own"]) == 0
    (folder / "mine.py").unlink()
    capsys.readouterr()
    assert cli.main(["sample", "runs/own"]) == 2
    assert "is not there: Cannot read" in capsys.readouterr().err


def test_an_entry_point_provides_a_cell(tmp_path, monkeypatch):
    package = tmp_path / "cells_of_others-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cells-of-others\nVersion: 1.0\n"
    )
    (package / "entry_points.txt").write_text("[jaxrnn.cells]\nother = others:OTHER\n")
    (tmp_path / "others.py").write_text("from jaxrnn import TANH as OTHER\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert CELLS.find("other") is CELLS["tanh"]
    with pytest.raises(NotDefinedError, match="got 'nobodys'"):
        CELLS.find("nobodys")


def test_references():
    assert is_reference("a/b.py:NAME")
    assert not any(map(is_reference, ("lstm", "a.py", "a.py:", "a.txt:X", "a.py:X.y", ":X")))
    assert absolute_reference("lstm") == "lstm"
    assert absolute_reference("/a/b.py:X") == "/a/b.py:X"
    assert type(absolute_reference(ForeignReference("b.py:X"))) is ForeignReference


def test_each_content_of_a_file_runs_once(folder):
    path = folder / "counted.py"
    counts = (
        "import pathlib; pathlib.Path(f'ran-{__name__}').touch(exist_ok=False); VALUE = object()"
    )
    path.write_text(counts)
    first = load_object("counted.py:VALUE")
    assert load_object("counted.py:VALUE") is first
    path.write_text(f"{counts}  # changed")
    assert load_object("counted.py:VALUE") is not first
    assert len(list(folder.glob("ran-*"))) == 2


def test_a_cache_that_cannot_be_written_is_no_error(folder):
    (folder / "cache").write_text("a file where the folder would be")
    trust("mine.py")
    with pytest.raises(NotDefinedError, match="never run here"):
        load_object(ForeignReference("mine.py:LION"))


def test_earlier_configurations_are_read(folder):
    now = Config(hidden_size=7, embedding_size=5, batch_size=3).to_dict()
    earlier = {"hidden_size": "hidden", "embedding_size": "embedding", "num_layers": "layers"}
    earlier["batch_size"] = "batch"
    old = {earlier.get(name, name): value for name, value in now.items() if name != "tokenizer"}
    assert Config.from_dict(json.loads(json.dumps(old))) == Config.from_dict(now)


@pytest.mark.slow
def test_a_copied_run_folder_works_where_the_code_is(folder, capsys):
    assert cli.main(["train", *FLAGS, *OWN["tokenizer"], "--name", "own"]) == 0
    shutil.copytree("runs/own", "copied")
    assert cli.main(["sample", "copied", "--prompt", "the cat", "--length", "3"]) == 0
    assert capsys.readouterr().out.split("\n")[-2].startswith("the cat ")


RECIPE = """
from jaxrnn import TANH, Config, Recipe
from dataclasses import replace

MINE = replace(TANH, name="mine")
SMALL = Config(
    model="CharLM", cell=f"{__file__}:MINE", corpus="text.txt", embedding_size=4, hidden_size=8,
    batch_size=4, bptt=400, random_bptt=False, schedule="1 x 1e-2", min_frequency=1,
)
SHORT = Recipe(summary="A cell of this file.", config=SMALL, prompt="the cat")
"""


@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_recipe_of_ones_own_begins_with_the_cell_of_its_file(
    folder, capsys, monkeypatch, trained
):
    if not trained:
        monkeypatch.setattr("jaxrnn.cli.train.watch", lambda *arguments, **options: 0)
    (folder / "recipes").mkdir()
    path = folder / "recipes/ours.py"
    path.write_text(RECIPE)
    assert cli.main(["train", "--recipe", "recipes/ours.py:SHORT", "--steps", "2"]) == 0
    run = Run("runs/SHORT")
    assert (run.prompt, run.config.cell, run.config.steps) == ("the cat", f"{path}:MINE", 2)
    # The cell's file is recorded, so that a change is noticed and nothing foreign is run.
    recorded = json.loads((run.folder / "config.json").read_text())["code"]
    assert recorded == {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}
    monkeypatch.chdir(folder / "recipes")
    capsys.readouterr()
    assert cli.main(["train", "--resume", "../runs/SHORT", "--steps", "3"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "other"))
    monkeypatch.setattr("jaxrnn.registry._modules", {})
    assert cli.main(["sample", "../runs/SHORT"]) == 2
    assert "type: jaxrnn trust" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rate_is_found_for_a_recipe_of_ones_own(folder, capsys):
    (folder / "ours.py").write_text(RECIPE)
    flags = ["--recipe", "ours.py:SHORT", "--steps", "20", "--highest", "1"]
    assert cli.main(["find-rate", *flags]) == 0
    assert (folder / "learning-rates.png").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "recipe must be one of python-docs, "),
        ("ours.py:NOPE", "ours.py defines no NOPE"),
        ("ours.py:SMALL", "it is a Config: a recipe has one and a line about it"),
        ("ours.py:MINE", "ours.py:MINE is no recipe: it is of type Cell, not a jaxrnn.Recipe"),
        ("gone.py:X", "Cannot read gone.py"),
        ("early.py:SHORT", "early.py cannot be run: ValueError: .*early.py defines no MINE"),
    ],
)
def test_a_wrong_recipe_is_one_line(name, message, folder, capsys):
    (folder / "ours.py").write_text(RECIPE)
    (folder / "early.py").write_text(RECIPE.replace('MINE = replace(TANH, name="mine")', ""))
    assert cli.main(["train", "--recipe", name]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", error)
    assert not (folder / "runs").exists()
    # A file that failed is no module that others find.
    assert not any("early" in path for path, _ in _modules)


def test_recipes_that_are_put_in_or_that_packages_provide_are_listed(
    folder, capsys, monkeypatch, tmp_path
):
    package = tmp_path / "recipes_of_others-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: recipes-of-others\nVersion: 1.0\n"
    )
    (package / "entry_points.txt").write_text(
        "[jaxrnn.recipes]\ntheirs = theirs:THEIRS\nbroken = theirs:GONE\n"
    )
    (tmp_path / "theirs.py").write_text(
        "from jaxrnn import Config, Recipe\n"
        "THEIRS = Recipe(summary='From a package.', config=Config(hidden_size=9))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    ours = Recipe(summary="Put in by a script.", config=Config(hidden_size=5))
    monkeypatch.setitem(RECIPES, "ours", ours)
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr()
    assert re.search(r"^ours +Put in by a script\.$", listed.out, re.MULTILINE)
    assert re.search(r"^theirs +From a package\.$", listed.out, re.MULTILINE)
    assert re.search(r"^stateful-gru +The same .* loss: 1\.370\.$", listed.out, re.MULTILINE)
    assert "The recipe broken cannot be loaded: module 'theirs' has no" in listed.err
    assert train.command(["--recipe", "theirs"]).config == RECIPES.find("theirs").config
    assert train.command(["--recipe", "ours"]).config == ours.config
