"""One file to hand on: `load_run` and the commands take what `export` wrote, with its own code."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import untrained_run
from safetensors.numpy import load_file, save_file

import jaxrnn
from jaxrnn import cli, load_run
from jaxrnn.exchange.contents import TensorFileError
from jaxrnn.exchange.files import read_contents
from jaxrnn.files import CHECKPOINT_BEGINNING
from jaxrnn.registry import NotDefinedError, trust
from jaxrnn.runs.checksums import RunError
from jaxrnn.runs.exported import FORMAT, export_run
from jaxrnn.runs.run import Run

EXAMPLES = Path(__file__).parents[1] / "scripts" / "examples"
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 12
OTHER = "the lazy fox jumps over a brown dog. "


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder with a text; what is trusted and compiled stays out of the user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    Path("text.txt").write_text(TEXT)


def made(name="fox", **options):
    """A run, at random weights after no update, and the file that `export` writes of it."""
    run = untrained_run(f"runs/{name}", corpus="text.txt", prompt="the q", **options)
    export_run(run, f"{name}.safetensors")
    return run


def printed(capsys, *arguments):
    """What a command prints on standard output; its notes are somewhere else."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def error_of(capsys, *arguments):
    """The one line that a mistake prints."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return line


def same_params(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_a_file_is_the_run_in_hand(capsys):
    made()
    shutil.move("fox.safetensors", "model.safetensors")
    shutil.rmtree("runs")  # it stands alone
    Path("text.txt").unlink()
    handed = load_run("model.safetensors")
    assert repr(handed) == (
        f"LoadedRun(model.safetensors: CharSeqStatefulRnn on {Path('text.txt').absolute()}, best "
        "checkpoint at step 0)"
    )
    assert handed.prompt == "the q"
    assert handed.history == []
    with pytest.raises(RunError, match=r"^model\.safetensors has no history to plot"):
        handed.plot()
    text = handed.sample(length=20, seed=5)
    assert printed(capsys, "sample", "model.safetensors", "--length", "20", "--seed", "5") == (
        text + "\n"
    )
    Path("other.txt").write_text(OTHER)
    shown = printed(capsys, "evaluate", "model.safetensors", "--corpus", "other.txt", "--json")
    assert handed.evaluate(OTHER).record() == json.loads(shown)
    assert [character for character, _ in handed.score(OTHER)] == list(OTHER)


def test_a_file_has_the_numbers_of_the_run():
    run = load_run(made().folder)
    handed = load_run(Path("fox.safetensors"))
    assert (handed.config, handed.vocabulary) == (run.config, run.vocabulary)
    assert same_params(handed.params, run.params)
    assert handed.sample(length=20) == run.sample(length=20)
    assert handed.evaluate(OTHER) == run.evaluate(OTHER)
    # Exported again it is the same; only the order of the header's entries is left to chance.
    export_run(handed.run, "again.safetensors")
    assert read_contents("again.safetensors").about == read_contents("fox.safetensors").about
    assert same_params(load_run("again.safetensors").params, run.params)


def test_a_file_is_trained_on_with_a_fresh_optimizer():
    made()
    handed = load_run("fox.safetensors")
    assert int(handed.state.step) == 0
    assert not np.any(jax.tree.leaves(handed.state.opt_state)[1])
    experiment = handed.experiment(corpus="text.txt")
    assert experiment.vocabulary == handed.vocabulary
    before = jax.tree.map(np.asarray, handed.params)
    state, history = jaxrnn.fit(
        handed.model,
        experiment.source,
        experiment.validation,
        schedule="1 x 3e-2",
        optimizer=experiment.optimizer,
        state=handed.state,
        progress=False,
    )
    assert history[-1].validation < handed.evaluate(TEXT).nats - 0.1
    assert int(state.step) == experiment.source.steps(0)
    assert same_params(handed.params, before)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "options",
    [
        {"model": "CharLM", "cell": "lstm", "num_layers": 2, "tied": True, "embedding_size": 8},
        {"model": "CharLM", "cell": "layer-norm-lstm"},
        {"model": "CharSeqStatefulRnn2"},
        {"model": "Char3Model", "bptt": 3},
        {"tokenizer": "bytes"},
    ],
    ids=["tied", "free cell", "one cell", "windows", "bytes"],
)
def test_every_kind_of_model_and_tokenizer_goes_into_a_file(options):
    run = made(**options)
    handed = load_run("fox.safetensors")
    assert same_params(handed.params, run.load_params())
    assert (handed.config, handed.vocabulary) == (run.config, run.vocabulary)


def test_a_text_that_a_file_names_is_not_opened(capsys):
    made()
    assert "Name the text yourself: --corpus FILE" in error_of(
        capsys, "evaluate", "fox.safetensors"
    )
    with pytest.raises(RunError, match="not opened because a file says so"):
        load_run("fox.safetensors").evaluate()


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("minimal_gated_unit.py", {"model": "CharLM", "cell": "code.py:MINIMAL"}),
        pytest.param(
            "residual_layers.py",
            {"model": "code.py:Residual", "num_layers": 2},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["cell", "model"],
)
def test_code_of_ones_own_goes_with_the_file(file, options, tmp_path, monkeypatch, caplog, capsys):
    shutil.copy(EXAMPLES / file, "code.py")
    run = made(**options)
    assert "fox.safetensors runs the code of" in caplog.text
    expected = run.load_params()
    assert same_params(load_run("fox.safetensors").params, expected)

    # On another machine, where nothing is known.
    there = tmp_path / "there"
    there.mkdir()
    for name in ("fox.safetensors", "code.py"):
        shutil.move(name, there / name)
    monkeypatch.chdir(there)
    monkeypatch.setenv("XDG_CACHE_HOME", str(there / "cache"))
    line = error_of(capsys, "sample", "fox.safetensors")
    assert "it was never run here as it is now" in line
    assert "type: jaxrnn trust" in line
    trust("code.py")
    assert same_params(load_run("fox.safetensors").params, expected)

    # Changed: it is trusted anew, and said.
    with open("code.py", "a") as code:
        code.write("\n# another line\n")
    trust("code.py")
    caplog.clear()
    load_run("fox.safetensors")
    assert "code.py has changed since fox.safetensors was written" in caplog.text
    Path("code.py").unlink()
    line = error_of(capsys, "sample", "fox.safetensors")
    assert "which is not there: put code.py beside fox.safetensors" in line
    with pytest.raises(NotDefinedError, match=r"put code\.py beside"):
        load_run("fox.safetensors")


@pytest.mark.slow
def test_a_model_of_ones_own_is_imported_from_its_file():
    """By its own names, which are no model's of the project."""
    shutil.copy(EXAMPLES / "residual_layers.py", "code.py")
    run = made(model="code.py:Residual", num_layers=2)
    assert cli.main(["import", "fox.safetensors", "--name", "x", "--corpus", "text.txt"]) == 0
    assert same_params(Run("runs/x").load_params(), run.load_params())
    assert load_run("runs/x").sample(length=20) == load_run(run.folder).sample(length=20)


def test_a_changed_bit_is_refused():
    """In the weights or in the description: by a checksum, or because it makes no sense."""
    made()
    data = bytearray(Path("fox.safetensors").read_bytes())
    length = 8 + int.from_bytes(data[:8], "little")
    header = bytes(data[:length])
    # A weight's last bit, and letters in the description whose change leaves it readable.
    places = [len(data) - 4, length + 1, header.index(b"2 x 1e-4"), header.index(b"the q")]
    for place in places:
        damaged = data.copy()
        damaged[place] ^= 1
        Path("damaged.safetensors").write_bytes(damaged)
        with pytest.raises(TensorFileError, match=r"damaged\.safetensors"):
            load_run("damaged.safetensors")


def test_other_files_are_refused_in_a_line(capsys, monkeypatch):
    run = made()
    save_file(load_file("fox.safetensors"), "foreign.safetensors")
    save_file({"a": np.ones(3, np.float32)}, "older.safetensors", {"jaxrnn": "{}"})
    about = json.loads(read_contents("fox.safetensors").about)
    newer = {"jaxrnn": json.dumps(about | {"format": FORMAT + 1})}
    save_file(load_file("fox.safetensors"), "newer.safetensors", newer)
    Path("cut.safetensors").write_bytes(Path("fox.safetensors").read_bytes()[:-8])
    Path("empty.safetensors").touch()
    Path("weights.pt").write_bytes(b"PK\x03\x04")
    shutil.copy(run.path("last"), "checkpoint.safetensors")
    assert Path("checkpoint.safetensors").read_bytes()[8:].startswith(CHECKPOINT_BEGINNING)
    for name, words in [
        ("foreign.safetensors", "weights alone, and no configuration"),
        ("older.safetensors", "'config' is missing"),
        ("newer.safetensors", f"has format {FORMAT + 1}, and this jaxrnn reads formats 1 to"),
        ("cut.safetensors", "is damaged or no safetensors file"),
        ("empty.safetensors", "it is empty"),
        ("absent.safetensors", "There is no file absent.safetensors"),
        ("checkpoint.safetensors", "is a checkpoint of a run"),
        ("weights.pt", "neither a run's folder nor a file that `export` wrote"),
        ("text.txt", "neither a run's folder nor a file that `export` wrote"),
        ("absent", "absent is not a run: it has no config.json"),
    ]:
        for command in (["sample"], ["evaluate"], ["export"]):
            more = ["again.safetensors"] if command == ["export"] else []
            line = error_of(capsys, *command, name, *more)
            assert words in line
            assert name in line
    assert "`import` makes a run" in error_of(capsys, "train", "--resume", "fox.safetensors")
    line = error_of(capsys, "sample", "fox.safetensors", "--checkpoint", "last")
    assert "one set of weights" in line


def test_a_file_of_an_earlier_version_is_read():
    """Without format, checksum and code."""
    run = made()
    about = json.loads(read_contents("fox.safetensors").about)
    earlier = {name: about[name] for name in ("config", "prompt", "vocabulary")}
    save_file(load_file("fox.safetensors"), "old.safetensors", {"jaxrnn": json.dumps(earlier)})
    assert same_params(load_run("old.safetensors").params, run.load_params())
