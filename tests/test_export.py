"""Export of an imported run, and its import again: the right checkpoint, name, ties and texts."""

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

from jaxrnn import cli
from jaxrnn.runs.run import Run
from jaxrnn.training.history import Position, Progress


def test_best_is_exported_where_there_is_one(capsys):
    run = taken(saved(state()))
    experiment = run.experiment()
    fresh = experiment.fresh_state()
    doubled = fresh._replace(params=jax.tree.map(lambda p: p * 2, fresh.params))
    run.save("last", Progress(fresh, Position(), 1), 1.0)
    run.save("best", Progress(doubled, Position(), 1), 1.0)
    exported = {}
    for flags in ((), ("--checkpoint", "last")):
        assert cli.main(["export", str(run.folder), "m.safetensors", *flags]) == 0
        exported[flags] = load_numpy("m.safetensors")["e.weight"]
    assert np.array_equal(exported[()], doubled.params["e"]["embedding"])
    assert np.array_equal(exported["--checkpoint", "last"], fresh.params["e"]["embedding"])


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
