"""Export of an imported run, and its import again: the right checkpoint, name, ties and texts."""

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file as load_numpy
from torch_checkpoints import (
    COUNT,
    WIDTH,
    nn,
    safetensors_torch,
    saved,
    state,
    taken,
    tied_state,
    torch,
    workplace,  # noqa: F401 (used by all)
)

import jaxrnn.runs.saved
from jaxrnn import cli
from jaxrnn.runs.checkpoints import read
from jaxrnn.runs.run import Run
from jaxrnn.training.history import Position, Progress


@pytest.fixture
def runs():
    """Two runs of the same configuration, the second one newer, each with all its checkpoints."""
    runs = []
    factors = itertools.count(1)
    for name in ("first", "second"):
        run = taken(saved(state()), name=name)
        fresh = run.experiment().fresh_state()
        # "last" is written three times: the older two become last-1 and last-2.
        for checkpoint in ("last", "best", "last", "last"):
            factor = next(factors)
            params = jax.tree.map(lambda p, factor=factor: p * factor, fresh.params)
            run.save(checkpoint, Progress(fresh._replace(params=params), Position(), 1), 1.0)
        runs.append(run)
    return runs


def embedding_of(run, checkpoint):
    """The embedding in a checkpoint's file, whatever the library makes of it."""
    return load_numpy(run.path(checkpoint))["params/e/embedding"]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("flags", "missing", "expected"),
    [
        ((), (), "best"),
        (("--checkpoint", "best"), (), "best"),
        (("--checkpoint", "last"), (), "last"),
        ((), ("best",), "last"),
    ],
    ids=["no flag", "best", "last", "no best one"],
)
def test_the_checkpoint_that_is_named_is_exported_of_the_run_that_is(
    runs, flags, missing, expected
):
    names = ("best", "last", "last-1", "last-2")
    held = {(run.folder, name): embedding_of(run, name) for run in runs for name in names}
    # No two have the same weights, so that each export can only be from one of them.
    assert len({array.tobytes() for array in held.values()}) == len(held)
    for run in runs:
        for name in missing:
            run.path(name).unlink()
    for run in runs:
        assert cli.main(["export", str(run.folder), "m.safetensors", *flags]) == 0
        exported = load_numpy("m.safetensors")["e.weight"]
        assert np.array_equal(exported, held[run.folder, expected])


@pytest.mark.parametrize("checkpoint", ["best", "last"])
@pytest.mark.parametrize(
    "arguments",
    [("sample", "--length", "3"), ("evaluate",), ("export", "m.safetensors")],
    ids=lambda arguments: arguments[0],
)
def test_every_command_reads_the_checkpoint_that_is_named(runs, arguments, checkpoint, monkeypatch):
    paths = []

    def recorded(path, **options):
        paths.append(path)
        return read(path, **options)

    monkeypatch.setattr(jaxrnn.runs.saved, "read", recorded)
    command, *rest = arguments
    run = runs[0]
    assert cli.main([command, str(run.folder), *rest, "--checkpoint", checkpoint]) == 0
    assert paths == [run.path(checkpoint)]


def test_a_tied_model_goes_both_ways():
    run = taken(saved(tied_state()))
    assert cli.main(["export", str(run.folder), "m.safetensors"]) == 0

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e = nn.Embedding(COUNT, WIDTH)
            self.rnn = nn.LSTM(WIDTH, WIDTH, 2)
            self.l_out = nn.Linear(WIDTH, COUNT)
            self.l_out.weight = self.e.weight

    module = Tied()
    module.load_state_dict(safetensors_torch.load_file("m.safetensors"), strict=True)
    original = tied_state()
    assert torch.equal(module.l_out.weight, original["encoder.weight"])
    assert torch.equal(module.l_out.bias, original["decoder.bias"])
    texts = ["--corpus", "train.txt", "--validation", "valid.txt"]
    assert cli.main(["import", "m.safetensors", "--name", "back", *texts]) == 0
    assert Run("runs/back").config.tied


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model"])
def test_an_export_has_a_name_by_which_it_is_read(name, capsys):
    run = taken(saved(state(), "theirs.pt"))
    capsys.readouterr()
    assert cli.main(["export", str(run.folder), name]) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert not Path(name).exists()


def test_a_text_that_a_file_names_is_not_opened(capsys):
    run = taken(saved(state()))
    assert cli.main(["export", str(run.folder), "m.safetensors"]) == 0
    capsys.readouterr()
    Path("train.txt").unlink()
    assert cli.main(["import", "m.safetensors", "--name", "y"]) == 2
    message = capsys.readouterr().err
    assert "train.txt" in message
    assert "--corpus FILE" in message
