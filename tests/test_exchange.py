"""Export and import: PyTorch takes our weights and we take PyTorch's, and every fault is named."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import relative
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file

from jaxrnn import cli, evaluate
from jaxrnn.exchange.files import read_tensors, write_tensors
from jaxrnn.nn.model import apply_model
from jaxrnn.nn.models import COURSE_MODELS
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.run import Run
from jaxrnn.training.history import Position, Progress
from parity.core.references import reference_of

TEXT = "the quick brown fox jumps over the lazy dog; and Pack my box with five jugs.\n" * 40
SAME_LOSS = 1e-6
"""A float32 loss of a few nats, summed in another order: its round-off is 2e-7."""
SAME_LOG_PROBS = 1e-6
"""Float32, a few products of 16 terms one after the other: their round-off is 1e-7."""
SIZES = ["--embedding", "4", "--hidden", "16", "--batch", "8", "--no-random-bptt"]
NAMES = ["--rename", "encoder=e", "recurrent=rnn", "decoder=l_out"]
PLAIN_TORCH = Path(__file__).parents[1] / "scripts" / "benchmarks" / "plain_torch.py"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder with a text to train on and one to validate on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "train.txt").write_text(TEXT)
    (tmp_path / "valid.txt").write_text(TEXT[30:1700])
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def command(*arguments):
    texts = ["--corpus", "train.txt", "--validation", "valid.txt"]
    return cli.main([*arguments, *texts, *SIZES])


def import_plain(file, *flags):
    """Import a file of the plain script's."""
    own = ["--vocabulary", "tokens.json", "--schedule", "2 x 1e-2", *NAMES]
    return command("import", file, *own, *flags)


def error_of(capsys, *arguments):
    """The one line that a mistake prints; nothing is left behind."""
    before = files()
    assert cli.main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert files() == before
    return lines[0]


def files():
    """What lies in the working folder, but for compiled programs."""
    return sorted(path for path in Path().rglob("*") if path.parts[0] != "cache")


def exported(model, **options):
    """The run of an untrained model, exported to model.safetensors."""
    config = Config(
        model=model,
        corpus="train.txt",
        validation="valid.txt",
        embedding_size=4,
        hidden_size=16,
        batch_size=8,
        random_bptt=False,
        **options,
    )
    experiment = prepare(config)
    run = Run.create(Path("runs") / model, experiment, prompt="fox ")
    run.save("last", Progress(experiment.fresh_state(), Position(), 1), float("inf"))
    assert cli.main(["export", f"runs/{model}", "model.safetensors"]) == 0
    return run


@pytest.mark.sample(2)
@pytest.mark.parametrize("model", [m.__name__ for m in COURSE_MODELS])
def test_exported_weights_load_strictly_into_torch(model):
    options = {"Char3Model": {"bptt": 3}, "CharSeqStatefulLSTM": {"num_layers": 2}}
    run = exported(model, **options.get(model, {}))
    ours = run.config.make_model(len(run.vocabulary))
    twin = reference_of(ours).eval()
    twin.load_state_dict(load_file("model.safetensors"), strict=True)
    tokens = np.random.default_rng(0).integers(0, ours.vocab_size, (3, 5)).astype(np.int32)
    _, log_probs = apply_model(ours, run.load_params(), ours.initial_carry(5), tokens)
    with torch.no_grad():
        _, expected = twin(twin.initial_carry(5), torch.tensor(tokens, dtype=torch.long))
    assert relative(log_probs, expected.numpy()) < SAME_LOG_PROBS


def test_export_and_import_give_the_same_run(capsys):
    run = exported("CharSeqStatefulGRU")
    capsys.readouterr()
    assert "names the corpus" in error_of(capsys, "import", "model.safetensors")
    texts = ["--corpus", "train.txt", "--validation", "valid.txt"]
    assert cli.main(["import", "model.safetensors", "--name", "again", *texts]) == 0
    again = Run("runs/again")
    assert (again.config, again.vocabulary) == (run.config, run.vocabulary)
    assert again.prompt == "fox "
    same = jax.tree.map(jnp.array_equal, again.load_params(), run.load_params())
    assert all(jax.tree.leaves(same))


@pytest.mark.slow
def test_checkpoint_of_a_plain_script_goes_on():
    """From either of the two files that the script writes of its weights."""
    options = ["--validation", "valid.txt", "--keep-case", "--schedule", "1 x 1e-2", "--save", "."]
    sizes = ["--embedding", "4", "--hidden", "16", "--batch", "8"]
    command = [sys.executable, "-P", str(PLAIN_TORCH), "train.txt", *options, *sizes]
    printed = subprocess.check_output(command, text=True).split()[-1]
    assert import_plain("model.pt", "--name", "plain") == 0
    assert import_plain("model.safetensors", "--name", "same") == 0
    run = Run("runs/plain")
    same = jax.tree.map(np.array_equal, run.load_params(), Run("runs/same").load_params())
    assert jax.tree.all(same)
    model = run.config.make_model(len(run.vocabulary))
    source = run.experiment().validation
    _, nats = evaluate(model, run.load_params(), source)
    assert nats == pytest.approx(float(printed), abs=SAME_LOSS)
    assert cli.main(["sample", "runs/plain", "--length", "20", "--prompt", "the "]) == 0
    assert cli.main(["train", "--resume", "runs/plain"]) == 0
    _, trained = evaluate(model, run.load_params(), source)
    assert trained < nats - 0.01


def test_an_import_that_cannot_be_written_leaves_no_run(capsys, monkeypatch):
    exported("CharSeqStatefulGRU")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "save", full)
    given = ["import", "model.safetensors", "--name", "x", "--vocabulary", "tokens.json"]
    vocabulary = Run("runs/CharSeqStatefulGRU").vocabulary
    Path("tokens.json").write_text(json.dumps(vocabulary.itos))
    texts = ["--corpus", "train.txt", "--validation", "valid.txt"]
    assert "No space left" in error_of(capsys, *given, *texts)


def test_half_precision_and_prefixes_are_read():
    weights = {"_orig_mod.a": torch.arange(3.0), "_orig_mod.b": torch.ones(2, dtype=torch.double)}
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    for name, kept in (("x.safetensors", halves), ("y.safetensors", weights)):
        save_file(kept, name)
        assert {n: a.tolist() for n, a in read_tensors(name).items()} == {
            "a": [0.0, 1.0, 2.0],
            "b": [1.0, 1.0],
        }
    torch.save({"state_dict": halves}, "z.pt")
    assert read_tensors("z.pt")["a"].tolist() == [0.0, 1.0, 2.0]


def test_float64_is_read_to_the_last_bit():
    assert not jax.config.jax_enable_x64
    weights = {"w": np.nextafter(np.ones(3), 2)}
    write_tensors("double.safetensors", weights, {})
    (read,) = read_tensors("double.safetensors").values()
    assert read.dtype == np.float64
    assert np.array_equal(read, weights["w"])


def test_all_problems_are_named_at_once(capsys):
    exported("CharSeqStatefulGRU")
    weights = load_numpy("model.safetensors")
    del weights["rnn.bias_hh_l0"]
    weights["rnn.weight_hh_l0"] = weights["rnn.weight_hh_l0"][:, :3].copy()
    weights["e.weight"][0, 0] = np.nan
    weights["extra"] = np.zeros(2, np.float32)
    torch.save({name: torch.tensor(array) for name, array in weights.items()}, "bad.pt")
    capsys.readouterr()
    texts = ["--corpus", "train.txt", "--validation", "valid.txt", *SIZES]
    error = error_of(capsys, "import", "bad.pt", *texts)
    for problem in (
        "rnn.bias_hh_l0 is missing",
        "extra is unknown",
        "rnn/weight_hh_l0: expected shape (48, 16), got (48, 3)",
        "e.weight has 1 NaN or infinite values of",
    ):
        assert problem in error


class Code:
    """What a hostile file holds: unpickled, it makes a file."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_pickled_code_is_refused_and_not_executed(capsys):
    torch.save({"a": Code()}, "code.pt")
    Path("code.pkl").write_bytes(pickle.dumps({"a": Code()}, protocol=2))
    Path("code.safetensors").write_bytes(pickle.dumps(Code()))
    assert "holds code or objects beside tensors" in error_of(capsys, "import", "code.pt")
    assert "code.pkl" in error_of(capsys, "import", "code.pkl")
    assert "damaged or no safetensors" in error_of(capsys, "import", "code.safetensors")
    assert not Path("executed").exists()


def test_files_that_cannot_be_read(capsys):
    Path("empty.pt").touch()
    torch.save({"epoch": 3}, "epoch.pt")
    torch.save([torch.ones(2)], "list.pt")
    save_file({"e.weight": torch.ones(2)}, "w.safetensors")
    Path("vocabulary.json").write_text(json.dumps({"itos": ["a", "a"], "lowercase": True}))
    for arguments, message in (
        (["absent.pt"], "There is no file absent.pt"),
        (["empty.pt"], "empty.pt is damaged or no file of PyTorch's"),
        (["epoch.pt"], "it holds epoch, and no tensors under state_dict"),
        (["list.pt"], "it holds no tensors"),
        (["w.safetensors", "--name", "../x"], "A run's name has 1 to 100 letters"),
        (["w.safetensors", "--rename", "encoder"], "--rename takes THEIRS=OURS, got encoder"),
        (["w.safetensors", "--rename", "d=e"], "There is no module d to rename"),
        (["w.safetensors", "--vocabulary", "absent.json"], "Cannot read absent.json"),
        (["w.safetensors", "--vocabulary", "vocabulary.json"], "lists 'a' twice"),
    ):
        assert message in error_of(capsys, "import", *arguments)
    assert "not a run" in error_of(capsys, "export", "runs/absent", "x.safetensors")


def test_a_description_that_makes_no_sense_is_refused(capsys):
    save_file({"a": torch.ones(2)}, "odd.safetensors", {"jaxrnn": '{"config": {}}'})
    assert "description in odd.safetensors is damaged" in error_of(
        capsys, "import", "odd.safetensors"
    )
    save_file({"a": torch.ones(2)}, "odd.safetensors", {"jaxrnn": "{"})
    assert "odd.safetensors is damaged" in error_of(capsys, "import", "odd.safetensors")
