"""Checkpoints as scripts save them, and the command that imports them.

Tests of the import take from here the models, the builders and the folder with texts that they
work in: `from torch_checkpoints import workplace` makes it the folder of a file's tests.
"""

import json
from collections import Counter, OrderedDict
from pathlib import Path

import jax
import pytest

from jaxrnn import cli
from jaxrnn.runs.run import Run

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
nn = torch.nn

TEXT = "the quick brown fox jumps over the lazy dog; and Pack my box with five jugs.\n" * 40
TOKENS = sorted(set(TEXT))
COUNT = len(TOKENS)
WIDTH = 8
"""F and H of the models whose output may be tied."""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder with a text and its tokens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("train.txt").write_text(TEXT)
    Path("valid.txt").write_text(TEXT[30:1700])
    Path("tokens.json").write_text(json.dumps(TOKENS))
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


class LanguageModel(nn.Module):
    """The shape of word_language_model: encoder, rnn, decoder.

    It knows how often each character occurs: that is better than chance, without training.
    """

    def __init__(self, kind="GRU", *, width=WIDTH, num_layers=1, tied=False, **options):
        super().__init__()
        self.encoder = nn.Embedding(COUNT, WIDTH)
        self.rnn = getattr(nn, kind)(WIDTH, width, num_layers, **options)
        self.decoder = nn.Linear(width, COUNT)
        counts = Counter(TEXT)
        frequencies = torch.tensor([counts[token] / len(TEXT) for token in TOKENS])
        with torch.no_grad():
            self.encoder.weight.mul_(0.1)
            self.decoder.weight.mul_(0.1)
            self.decoder.bias.copy_(frequencies.log())
        if tied:
            self.decoder.weight = self.encoder.weight


def state(kind="GRU", **options):
    torch.manual_seed(0)
    return LanguageModel(kind, **options).state_dict()


def prefixed(prefix, weights):
    return OrderedDict((prefix + name, tensor) for name, tensor in weights.items())


def command(file, *flags):
    """Import a file, as the texts of this folder have its tokens."""
    texts = ["--corpus", "train.txt", "--validation", "valid.txt", "--batch", "8"]
    return cli.main(["import", str(file), "--no-random-bptt", *texts, *flags])


def taken(file, *flags, name="x"):
    """The run of an import, and its configuration."""
    assert command(file, "--vocabulary", "tokens.json", "--name", name, *flags) == 0
    return Run(Path("runs") / name)


def refused(capsys, file, *flags):
    """The one line of a refusal; no run is left behind."""
    capsys.readouterr()
    assert command(file, "--vocabulary", "tokens.json", *flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert not list(Path().glob("runs/*"))
    return lines[0].removeprefix("error: ")


def saved(value, name="model.pt"):
    torch.save(value, name)
    return name


def tied_state():
    return state("LSTM", num_layers=2, tied=True)


def shards():
    weights = prefixed("model.", state())
    files = {}
    for number, names in enumerate((list(weights)[:3], list(weights)[3:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        part = {name: weights[name].contiguous() for name in names}
        safetensors_torch.save_file(part, file)
        files |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    Path("model.safetensors.index.json").write_text(json.dumps(index))
    return "model.safetensors.index.json"
