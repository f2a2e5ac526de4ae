"""The command line, from a text file to a sample; mistakes give one line and exit code 2."""

import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxrnn import RECIPES, cli
from jaxrnn.cli import watch
from jaxrnn.cli.train import Train, base_name
from jaxrnn.nn.model import apply_model
from jaxrnn.runs import run as runs

ROOT = Path(__file__).parents[1]
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SMALL = ["--embedding", "4", "--hidden", "8", "--batch", "8", "--no-random-bptt", "--seed", "1"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder with a text; the compilation cache stays out of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT)
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def train(*flags):
    return cli.main(["train", "--corpus", "text.txt", *SMALL, *flags])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch that no test changes."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    before, cache = os.getcwd(), jax.config.jax_compilation_cache_dir
    os.chdir(folder)
    try:
        flags = ["--name", "fox", "--schedule", "1 x 1e-2", "--prompt", "the q"]
        assert train(*flags, "--carry", "evaluation") == 0
    finally:
        os.chdir(before)
        jax.config.update("jax_compilation_cache_dir", cache)
    return folder / "runs/fox"


@pytest.fixture
def fox(trained, workplace, capsys):
    """A trained run, runs/fox, in the workplace."""
    shutil.copytree(trained, "runs/fox")
    capsys.readouterr()
    return runs.Run("runs/fox")


@pytest.fixture
def nothing_is_trained(monkeypatch):
    """A run is made, with its settings, and not trained: for what is decided before."""
    monkeypatch.setattr("jaxrnn.cli.train.watch", lambda run, experiment, **options: 0)


def history(name):
    lines = Path(f"runs/{name}/history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return rows


def error_of(capsys, *arguments):
    """The one line that a mistake prints; nothing is left behind."""
    before = set(os.listdir("."))
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert set(os.listdir(".")) == before
    return lines[0]


def test_train_sample_evaluate(capsys, tmp_path):
    assert train("--name", "fox", "--schedule", "3 x 1e-2", "--prompt", "the q") == 0
    printed = capsys.readouterr().out
    assert "CharSeqStatefulGRU with" in printed
    assert "jaxrnn sample runs/fox" in printed
    files = {p.name for p in (tmp_path / "runs/fox").iterdir()}
    assert files - {"last-2.safetensors"} == {  # how many are due depends on the clock
        "config.json",
        "vocabulary.json",
        "SHA256SUMS",
        ".lock",
        "history.jsonl",
        "timing.jsonl",
        "last.safetensors",
        "last-1.safetensors",
        "best.safetensors",
        "loss.png",
    }
    rows = history("fox")
    losses = [r["validation"] for r in rows if r["validation"] is not None]
    assert len(losses) == 3
    assert losses[-1] < losses[0]

    assert cli.main(["sample", "runs/fox", "--prompt", "the fox", "--length", "50"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("the fox")
    assert len(text) == len("the fox") + 50 + 1
    sample = ["sample", "runs/fox", "--greedy", "--count", "2", "--length", "5"]
    assert cli.main(sample) == 0
    one, two = capsys.readouterr().out.split("\n" + "-" * 40 + "\n")
    assert one + "\n" == two
    assert one.startswith("the q")
    capsys.readouterr()
    assert cli.main(["sample", "runs/fox", "--prompt", "t2he", "--unknown", "skip"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("the")
    assert captured.err == "note: 1 unknown characters of the prompt are left out.\n"

    assert cli.main(["evaluate", "runs/fox", "--corpus", "text.txt"]) == 0
    captured = capsys.readouterr()
    lines = dict(line.rsplit(maxsplit=1) for line in captured.out.splitlines())
    assert float(lines["nats per character"]) == pytest.approx(losses[-1], abs=0.3)
    assert int(lines["characters"].replace(",", "")) == len(TEXT) - 1
    assert captured.err == ""


def evaluated(capsys, *arguments):
    """What `evaluate --json` prints, and the notes."""
    assert cli.main(["evaluate", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err.splitlines()


def alone(run, text):
    """The loss of each character but the first of a text that a stateful model reads alone."""
    model, params = run.config.make_model(len(run.vocabulary)), run.load_params()
    tokens = run.vocabulary.encode(text)
    inputs = jnp.asarray(tokens[:-1, None], jnp.int32)
    _, log_probs = apply_model(model, params, model.initial_carry(1), inputs)
    return -np.take_along_axis(np.asarray(log_probs)[:, 0], tokens[1:, None].astype(int), 1)[:, 0]


def test_every_character_of_a_text_is_measured_once(capsys, tmp_path, fox):
    for count in (141, 250, 1_000):
        (tmp_path / "short.txt").write_text(TEXT[:count])
        found, notes = evaluated(capsys, "runs/fox", "--corpus", "short.txt")
        assert (found["characters"], found["only_read"], notes) == (count - 1, 1, [])
        expected = alone(fox, TEXT[:count])
        assert found["nats"] == pytest.approx(expected.mean(), abs=1e-5)
        assert found["way"] == "every character once, one stream a document"
    (tmp_path / "short.txt").write_text("the\n\x1bé")
    found, notes = evaluated(capsys, "runs/fox", "--corpus", "short.txt", "--per-character")
    assert notes == ["note: 2 characters are unknown to the model and count as <unk>."]
    texts, losses = zip(*found["per_character"], strict=True)
    assert texts == ("t", "h", "e", "\n", "<unk>", "<unk>")
    assert losses[0] is None
    assert np.mean(losses[1:]) == pytest.approx(found["nats"])
    skipped, notes = evaluated(capsys, "runs/fox", "--corpus", "short.txt", "--unknown", "skip")
    assert (skipped["characters"], notes) == (3, ["note: 2 unknown characters are left out."])
    assert cli.main(["evaluate", "runs/fox", "--corpus", "short.txt", "--per-character"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == [
        "'t'", "'h'", "'e'", r"'\n'", "'<unk>'", "'<unk>'"
    ]  # fmt: skip
    (tmp_path / "short.txt").write_text("t")
    error = error_of(capsys, "evaluate", "runs/fox", "--corpus", "short.txt")
    assert "No document has 2 characters" in error


def test_a_runs_own_validation_text_is_measured_as_in_training_too(capsys, fox):
    found, _ = evaluated(capsys, "runs/fox")
    assert found["way"] == "every character once, one stream a document"
    held_out = fox.experiment().held_out[0]
    assert found["characters"] == len(held_out) - 1
    trained = found["as_in_training"]
    assert trained["way"].startswith("as in training: 8 streams side by side, from zeros")
    assert trained["nats"] == pytest.approx(history("fox")[-1]["validation"], abs=1e-6)
    assert trained["characters"] == (len(held_out) + 1) // 8 * 8 - 8
    assert cli.main(["evaluate", "runs/fox"]) == 0
    assert "the other way" in capsys.readouterr().out


@pytest.mark.slow
def test_the_validation_of_a_recipes_text_is_that_of_training_first(capsys):
    flags = [
        "--recipe",
        "rnn",
        "--corpus",
        "human-numbers",
        "--schedule",
        "1 x 1e-2",
        "--name",
        "n",
    ]
    assert cli.main(["train", *flags, *SMALL[:4], "--batch", "4096"]) == 0
    assert "lower-cased" not in capsys.readouterr().err  # windowed models keep the case
    found, _ = evaluated(capsys, "runs/n")
    assert found["way"] == "as in training: by its windows"
    assert found["nats"] == pytest.approx(history("n")[-1]["validation"], abs=1e-6)
    (held_out,) = runs.Run("runs/n").experiment().held_out
    assert found["characters"] == len(held_out) - 9  # the course leaves out the last window
    whole = found["every_character_once"]
    assert (whole["characters"], whole["only_read"]) == (len(held_out) - 8, 8)


@pytest.mark.usefixtures("nothing_is_trained")
def test_a_text_of_ones_own_keeps_its_case_and_a_recipe_says_that_it_does_not(capsys, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT.replace("the", "The"))
    kept, dropped = ["--name", "kept"], ["--name", "dropped", "--recipe", "python-docs"]
    schedule = ["--schedule", "1 x 1e-2", "--bptt", "16"]
    assert train(*kept, *schedule) == 0
    assert "lower-cased" not in capsys.readouterr().err
    assert "T" in runs.Run("runs/kept").vocabulary.itos
    assert train(*dropped, *schedule) == 0
    line = "note: The text is lower-cased; --no-lowercase keeps its case.\n"
    assert capsys.readouterr().err.startswith(line)
    assert "T" not in runs.Run("runs/dropped").vocabulary.itos
    assert train("--name", "asked", "--lowercase", *schedule) == 0
    assert capsys.readouterr().err.startswith(line)


def test_a_run_finds_its_texts_from_another_folder(capsys, tmp_path, monkeypatch):
    (tmp_path / "other.txt").write_text(TEXT[:500])
    assert train("--name", "fox", "--schedule", "1 x 1e-2", "--validation", "other.txt") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    found, _ = evaluated(capsys, "../runs/fox")
    assert found["characters"] == 499
    config = runs.Run("../runs/fox").config
    assert (config.corpus, config.validation) == (
        str(tmp_path / "text.txt"),
        str(tmp_path / "other.txt"),
    )


def test_a_missing_best_checkpoint_is_said(capsys, fox):
    os.remove("runs/fox/best.safetensors")
    note = "note: runs/fox/best.safetensors is missing: taking runs/fox/last.safetensors.\n"
    for command in (
        ["evaluate", "runs/fox", "--corpus", "text.txt"],
        ["sample", "runs/fox", "--length", "3", "--stop-at-eos"],
        ["export", "runs/fox", "fox.safetensors"],
    ):
        assert cli.main(command) == 0
        err = capsys.readouterr().err
        assert note in err
        assert ("knows no end of a document" in err) == (command[0] == "sample")
        assert cli.main([*command, "--checkpoint", "last"]) == 0
        assert "missing" not in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_is_trained")
def test_names_of_files_reach_the_terminal_escaped(capsys, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text(TEXT)
    (tmp_path / "folder" / "\x1b[2Jé").mkdir()
    flags = ["train", "--corpus", "folder", *SMALL, "--schedule", "1 x 1e-2"]
    assert cli.main(flags) == 0
    assert capsys.readouterr().err.startswith(
        r"note: Left out of the corpus folder folder: subfolder: \x1b[2Jé." + "\n"
    )


def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(capsys, monkeypatch):
    flags = ["--schedule", "2 x 1e-2"]
    assert train("--name", "whole", *flags) == 0
    monkeypatch.setattr("jaxrnn.training.loop.SECONDS_IN_ONE_PROGRAM", 0.0)  # one step at a time
    shown = watch.Display.show
    steps = []
    signals = {3: signal.SIGINT, 12: signal.SIGTERM, 30: signal.SIGINT}

    def interrupt(*args):
        shown(*args)
        steps.append(1)
        if len(steps) in signals:
            signal.raise_signal(signals[len(steps)])

    monkeypatch.setattr(watch.Display, "show", interrupt)
    assert train("--name", "pieces", *flags) == 130
    assert "train --resume runs/pieces" in capsys.readouterr().out
    resumed = [cli.main(["train", "--resume", "runs/pieces"]) for _ in range(3)]
    assert resumed == [143, 130, 0]
    assert history("pieces") == history("whole")
    one, other = (load_file(f"runs/{name}/last.safetensors") for name in ("pieces", "whole"))
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_an_interrupted_process_saves_and_says_how_to_go_on():
    command = [
        sys.executable,
        "-m",
        "jaxrnn",
        "train",
        "--schedule",
        "500 x 1e-3",
        "--name",
        "long",
    ]
    flags = ["--corpus", "text.txt", *SMALL]
    process = subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not os.path.exists("runs/long/history.jsonl"):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "Stopped and saved. Go on with:" in out
    assert "train --resume runs/long" in out


@pytest.mark.usefixtures("nothing_is_trained")
def test_every_value_of_a_recipe_can_be_overridden():
    assert train("--recipe", "rnn", "--bptt", "5", "--schedule", "1 x 1e-3", "--batch=16") == 0
    config = runs.Run("runs/text").config
    assert (config.model, config.bptt, config.batch_size, config.hidden_size) == (
        "CharRnn",
        5,
        16,
        8,
    )
    assert train("--recipe", "rnn", "--bptt", "5", "--schedule", "1 x 1e-3") == 0
    assert os.path.exists("runs/text-2")  # without a name, that of the text, or the next free one


@pytest.mark.usefixtures("nothing_is_trained")
@pytest.mark.parametrize(
    ("flags", "prompt"),
    [
        ([], "the qui"),  # the recipe's has a letter that is not in this text
        (["--recipe", "rnn", "--bptt", "30"], TEXT[:30]),  # the recipe's is too short
        (["--prompt", "lazy"], "lazy"),
    ],
)
def test_samples_begin_with_a_prompt_that_the_model_can_read(tmp_path, flags, prompt):
    (tmp_path / "text.txt").write_text(TEXT.replace("j", "y"))
    assert train("--name", "fox", "--schedule", "1 x 1e-2", "--bptt", "7", *flags) == 0
    assert runs.Run("runs/fox").prompt == prompt.replace("j", "y")


@pytest.mark.parametrize("share", [1.0, 1e-9], ids=["due at once", "never due"])
def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(monkeypatch, capsys, share):
    # A checkpoint that was not due when the epoch ended is saved when the run diverges.
    monkeypatch.setattr("jaxrnn.runs.checkpointing.LARGEST_SHARE", share)
    assert train("--name", "wild", "--schedule", "1 x 1e-2, 1 x 1e38") == 1
    error = capsys.readouterr().err
    assert "with learning rate 1e+38" in error
    assert "at step" in error
    run = runs.Run("runs/wild")
    saved = run.load("last", jax.eval_shape(run.experiment().fresh_state))
    assert saved.position.epoch == 1


def test_find_rate_suggests_and_draws(capsys, tmp_path):
    flags = ["find-rate", "--corpus", "text.txt", *SMALL, "--steps", "60"]
    assert cli.main(flags) == 0
    assert "falls fastest at a learning rate of" in capsys.readouterr().out
    assert (tmp_path / "learning-rates.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*flags, "--highest", "1e-3"]) == 0
    printed = capsys.readouterr().out
    assert "raise --highest" in printed
    assert "falls fastest" not in printed


def test_recipes_are_listed(capsys):
    assert cli.main(["recipes"]) == 0
    assert "stateful-gru" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text.txt is empty"),
        (b"a", "No character occurs at least 3 times"),
        (b"aaabbbccc", "too short for 8 streams"),
        (b"caf\xe9", "not UTF-8: byte 0xe9 at position 3"),
    ],
)
def test_bad_texts(capsys, tmp_path, content, message):
    (tmp_path / "text.txt").write_bytes(content)
    assert message in error_of(capsys, "train", "--corpus", "text.txt", *SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--corpus", "missing.txt"], "There is no corpus missing.txt"),
        (["train", "--corpus", "folder"], "no file with text"),
        (["train", "--batch", "0"], "batch_size must be at least 1, got 0"),
        (["train", "--bptt", "0"], "bptt must be at least 1, got 0"),
        (["train", "--bptt", "x"], "--bptt"),
        (["train", "--recipe", "nothing"], "recipe must be one of python-docs"),
        (["train", "--color", "red"], "Unrecognized options: --color, red"),
        (["train", "--corpus", "text.txt", "--prompt", "été"], "'é' (U+00E9) at position 0"),
        (["train", "--corpus", "text.txt", *SMALL, "--name", "../x"], "A run's name has"),
        (["train", "--recipe", "rnn", "--corpus", "text.txt", "--prompt", "the"], "at least 8"),
        (["train", "--resume", "folder"], "folder is not a run"),
        (["train", "--resume", "folder", "--seed", "2"], "takes no other flag"),
        (["sample", "folder"], "folder is not a run"),
        (["sample"], "Missing from jaxrnn sample"),
        (["evaluate", "folder"], "folder is not a run"),
        (["find-rate", "--corpus", "text.txt", "--steps", "1"], "at least 3 steps"),
        (["tran"], "There is no command tran; did you mean train?"),
        ([], "Name a command: train, sample,"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(capsys, tmp_path, arguments, message):
    (tmp_path / "folder").mkdir()
    assert message in error_of(capsys, *arguments)


def test_mistakes_with_a_run(capsys, tmp_path):
    assert train("--name", "fox", "--schedule", "1 x 1e-2") == 0
    capsys.readouterr()
    flags = ["train", "--corpus", "text.txt", *SMALL, "--name", "fox"]
    assert "runs/fox exists. Go on with it (--resume runs/fox)" in error_of(capsys, *flags)
    sample = ["sample", "runs/fox"]
    assert "'%' (U+0025) at position 2" in error_of(capsys, *sample, "--prompt", "th% quick")
    assert "at least 1" in error_of(capsys, *sample, "--length", "0")
    assert "needs at least 1" in error_of(capsys, *sample, "--prompt", "")
    (tmp_path / "text.txt").write_text(TEXT + "More.")
    assert "has changed since the run began" in error_of(capsys, "train", "--resume", "runs/fox")
    listed = json.loads((tmp_path / "runs/fox/vocabulary.json").read_text())
    listed["itos"].append("é")
    (tmp_path / "runs/fox/vocabulary.json").write_text(json.dumps(listed))
    assert "vocabulary.json is damaged or was changed" in error_of(capsys, *sample)


def test_an_automatic_name_is_never_that_of_another_recipe():
    """stateful-rnn-2 is another recipe, and so a text of that name is not named like it."""

    def names(usual, **options):
        return list(itertools.islice(Train(**options)._names(usual), 3))

    given = {"recipe": "stateful-rnn", "config": RECIPES["stateful-rnn"].config}
    expected = ["stateful-rnn", "stateful-rnn-3", "stateful-rnn-4"]
    assert names("stateful-rnn", **given) == expected
    text = replace(RECIPES["python-docs"].config, corpus="loop.txt")
    expected = ["loop-2", "loop-3", "loop-4"]
    assert names(base_name("loop.txt"), recipe="python-docs", config=text) == expected
    assert base_name("ideas/mine.py:FAST") == "FAST"
    assert base_name("...", "x") == "x"


@pytest.mark.usefixtures("nothing_is_trained")
def test_a_run_that_is_named_as_another_recipe_is_noted(capsys):
    assert train("--name", "loop", "--recipe", "stateful-rnn", "--schedule", "1 x 1e-2") == 0
    said = capsys.readouterr().err
    assert "note: The run is named loop, which is a recipe too; it is trained as" in said


@pytest.mark.parametrize("option", ["--help", "--version", ""])
def test_help_waits_for_no_jax(option):
    code = (
        "import sys\n"
        "from jaxrnn.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'jax', 'flax', 'matplotlib', 'tyro', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} imported' if heavy else code)\n"
    )
    given = [option] if option else []
    done = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == (0 if option else 2), done.stderr
    assert "train" in done.stdout + done.stderr or option == "--version"


def test_the_overview_has_every_command_and_its_module():
    for module, summary in cli.COMMANDS.values():
        assert callable(importlib.import_module(f"jaxrnn.cli.{module}").command)
        assert summary in cli.overview()
