"""What import finds out by itself: tanh or relu, a vocabulary that is wrong, what a file holds."""

import math
import re
from collections import Counter
from pathlib import Path

import pytest
from torch_checkpoints import (
    COUNT,
    TEXT,
    TOKENS,
    LanguageModel,
    command,
    nn,
    refused,
    safetensors_torch,
    saved,
    state,
    taken,
    torch,
    workplace,  # noqa: F401 (used by all)
)

from jaxrnn import cli


@pytest.mark.slow
def test_relu_is_told_from_tanh_by_what_predicts_better(capsys):
    torch.manual_seed(0)
    module = LanguageModel("RNN", width=16, nonlinearity="relu")
    tokens = torch.tensor([TOKENS.index(c) for c in TEXT[: 7 * 400]]).view(7, 400).T
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-2)
    for _ in range(30):
        logits = module.decoder(module.rnn(module.encoder(tokens[:-1]))[0])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    file = saved(module.state_dict())
    assert taken(file).config.cell == "relu"
    assert "relu is taken" in capsys.readouterr().err
    assert taken(file, "--cell", "tanh", name="asked").config.cell == "tanh"


@pytest.mark.sample(1)
@pytest.mark.parametrize(("kind", "named"), [("GRU", "coupled-lstm"), ("LSTM", "slstm")])
def test_a_cell_that_is_named_is_taken_where_it_has_as_many_gates(kind, named):
    file = saved(state(kind))
    assert taken(file).config.cell == kind.lower()
    config = taken(file, "--cell", named, name="asked").config
    assert (config.model, config.cell) == ("CharLM", named)


def test_a_cell_that_is_named_and_does_not_fit_is_refused(capsys):
    assert "rnn/weight_hh_l0: expected shape (32, 8), got (24, 8)" in refused(
        capsys, saved(state("GRU")), "--cell", "lstm"
    )


def test_a_vocabulary_that_is_only_as_large_is_noticed(capsys):
    """As many tokens as the corpus has, in another order: no better than chance, and asked for."""
    counts = Counter(TEXT.lower())
    frequent = [c for c in counts if counts[c] >= 3]
    count = len(frequent) + 2  # and <unk> and <pad>
    weights = {}
    for name, tensor in state().items():
        if tensor.shape[0] == COUNT:
            tensor = torch.zeros(count, *tensor.shape[1:])
        weights[name] = tensor.contiguous()
    # The two tokens that the text never has are taken to be frequent ones.
    weights["decoder.bias"] = torch.tensor([9.0] * 2 + [-9.0] * (count - 2))
    safetensors_torch.save_file(weights, "model.safetensors")
    capsys.readouterr()
    assert command("model.safetensors") == 2
    message = capsys.readouterr().err
    assert "no better than chance" in message
    assert f"ln {count} is {math.log(count):.2f}" in message
    assert "--vocabulary" in message
    assert not list(Path().glob("runs/*"))


def test_a_list_shows_what_is_in_a_file(capsys):
    weights = state() | {"bad\x1b[2Jname": torch.ones(2)}
    file = saved({"model": weights, "epoch": 3})
    assert cli.main(["import", file, "--list"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "bad\\x1b[2Jname" in shown
    assert "under model:" in shown
    assert re.search(r"encoder\.weight +float32\[", shown)
    assert "no tensors: epoch" in shown
    assert "gru cells, 1 layers of 8" in shown
