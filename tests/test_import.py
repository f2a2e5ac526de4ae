"""Import of checkpoints as scripts save them: taken, taken with flags, or refused in one line.

The same checkpoints make the table in README.md. `JAXRNN_WRITE_TABLE=1` writes it anew.
"""

import io
import json
import math
import os
import re
import warnings
from argparse import Namespace
from collections import Counter, OrderedDict
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file as load_numpy

from jaxrnn import cli
from jaxrnn.runs.run import Run

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
nn = torch.nn

README = Path(__file__).parents[1] / "README.md"
TEXT = "the quick brown fox jumps over the lazy dog; and Pack my box with five jugs.\n" * 40
TOKENS = sorted(set(TEXT))
COUNT = len(TOKENS)
WIDTH = 8
"""F and H of the models whose output may be tied."""
BEGIN = "<!-- What import takes: written by tests/test_import.py -->"
END = "<!-- End of what import takes -->"
TABLE = re.compile(f"(?<={re.escape(BEGIN)}\n\n).*?(?=\n\n{re.escape(END)})", re.DOTALL)
WRITING = bool(os.environ.get("JAXRNN_WRITE_TABLE"))
"""Whether the table in README.md is written anew, in one process, instead of checked."""


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


class LM(nn.Module):
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
    return LM(kind, **options).state_dict()


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


class Kind(NamedTuple):
    """A checkpoint of some kind.

    Attributes:
        origin: whose it is like.
        what: what is particular about it.
        save: writes it, and gives the file's name.
        flags: with which it is taken.
        model: what it is taken as: cell, layers and whether it is tied; None if it is refused.
    """

    origin: str
    what: str
    save: object
    flags: tuple[str, ...] = ()
    model: tuple[str, int, bool] | None = None


def saved(value, name="model.pt"):
    torch.save(value, name)
    return name


def tied_state():
    return state("LSTM", num_layers=2, tied=True)


def weight_dropped(*, evaluated):
    """Three layers of one LSTM each, whose recurrent weights a weight drop keeps."""
    weights = OrderedDict()
    found = state("LSTM", num_layers=3, tied=True)
    weights["encoder.weight"] = found["encoder.weight"]
    for layer in range(3):
        for leaf in ("weight_ih", "bias_ih", "bias_hh"):
            weights[f"rnns.{layer}.module.{leaf}_l0"] = found[f"rnn.{leaf}_l{layer}"]
        raw = found[f"rnn.weight_hh_l{layer}"]
        weights[f"rnns.{layer}.weight_hh_l0_raw"] = raw
        if evaluated:
            weights[f"rnns.{layer}.module.weight_hh_l0"] = raw * 0.5
    weights["decoder.weight"] = found["decoder.weight"]
    weights["decoder.bias"] = found["decoder.bias"]
    return weights


def fastai_state():
    weights = OrderedDict()
    for name, tensor in weight_dropped(evaluated=True).items():
        part = 1 if name.startswith("decoder") else 0
        weights[f"{part}.{name}"] = tensor
    weights["0.encoder_dp.emb.weight"] = weights["0.encoder.weight"].clone()
    return weights


def unequal_layers():
    weights = OrderedDict({"encoder.weight": torch.zeros(COUNT, WIDTH)})
    for layer, (into, width) in enumerate([(WIDTH, 12), (12, 12), (12, WIDTH)]):
        for name, tensor in nn.LSTM(into, width).state_dict().items():
            weights[f"rnns.{layer}.{name}"] = tensor
    weights["decoder.weight"] = weights["encoder.weight"]
    weights["decoder.bias"] = torch.zeros(COUNT)
    return weights


def averaged():
    torch.manual_seed(0)
    return torch.optim.swa_utils.AveragedModel(LM()).state_dict()


def lightning(**more):
    weights = prefixed("model.", state())
    return {"state_dict": weights, "epoch": 3, "global_step": 9, "loops": {}, **more}


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


def shared_safetensors():
    module = LM("LSTM", tied=True)
    safetensors_torch.save_model(module, "model.safetensors")
    return "model.safetensors"


def upper_case():
    safetensors_torch.save_file(dict(state()), "MODEL.SAFETENSORS")
    return "MODEL.SAFETENSORS"


def hugging_face():
    weights = state()
    del weights["decoder.bias"]
    names = {"encoder": "model.embed_tokens", "rnn": "model.rnn", "decoder": "lm_head"}
    renamed = {}
    for name, tensor in weights.items():
        module, _, leaf = name.partition(".")
        renamed[f"{names[module]}.{leaf}"] = tensor
    return saved(renamed, "pytorch_model.bin")


def one_hot():
    torch.manual_seed(0)
    recurrent = nn.RNN(COUNT, WIDTH)
    weights = {f"rnn.{name}": tensor for name, tensor in recurrent.state_dict().items()}
    whole = state("RNN")
    return weights | {f"fc.{leaf}": whole[f"decoder.{leaf}"] for leaf in ("weight", "bias")}


def torch_script():
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    with pytest.warns(DeprecationWarning, match="torch.jit"):
        script = torch.jit.trace(Twice(), torch.ones(2))
    script.save("script.pt")
    return "script.pt"


WLM, AWD, LIGHTNING, HF, PLAIN = (
    "word_language_model",
    "AWD-LSTM, fast.ai",
    "Lightning",
    "Hugging Face",
    "a plain script",
)
KINDS = [
    Kind(WLM, "state_dict, GRU", lambda: saved(state()), (), ("gru", 1, False)),
    Kind(WLM, "state_dict, tied LSTM", lambda: saved(tied_state()), (), ("lstm", 2, True)),
    Kind(WLM, "the whole module", lambda: saved(LM())),
    Kind(WLM, "RNN_RELU", lambda: saved(state("RNN")), ("--cell", "relu"), ("relu", 1, False)),
    Kind(
        AWD,
        "weight drop, tied, one LSTM a layer",
        lambda: saved(weight_dropped(evaluated=False)),
        (),
        ("lstm", 3, True),
    ),
    Kind(
        AWD,
        "the same, saved after evaluation",
        lambda: saved(weight_dropped(evaluated=True)),
        (),
        ("lstm", 3, True),
    ),
    Kind(AWD, "fast.ai's names", lambda: saved(fastai_state(), "m.pth"), (), ("lstm", 3, True)),
    Kind(AWD, "layers of different width", lambda: saved(unequal_layers())),
    Kind(LIGHTNING, "checkpoint", lambda: saved(lightning(), "m.ckpt"), (), ("gru", 1, False)),
    Kind(
        LIGHTNING,
        "checkpoint with hyper_parameters of a class",
        lambda: saved(lightning(hyper_parameters=Namespace(lr=1)), "m.ckpt"),
    ),
    Kind(
        LIGHTNING,
        "checkpoint with weights of a loss",
        lambda: saved(
            {"state_dict": prefixed("model.", state()) | {"criterion.weight": torch.ones(3)}}
        ),
        ("--drop", "criterion"),
        ("gru", 1, False),
    ),
    Kind(HF, "pytorch_model.bin, no bias", hugging_face, ("--zero-missing",), ("gru", 1, False)),
    Kind(HF, "safetensors, shared tensors left out", shared_safetensors, (), ("lstm", 1, True)),
    Kind(HF, "shards with an index", shards, (), ("gru", 1, False)),
    Kind(
        PLAIN,
        "named_parameters()",
        lambda: saved(dict(LM().named_parameters())),
        (),
        ("gru", 1, False),
    ),
    Kind(
        PLAIN,
        "compiled and parallel",
        lambda: saved({"net": prefixed("_orig_mod.module.", state())}),
        (),
        ("gru", 1, False),
    ),
    Kind(PLAIN, "AveragedModel", lambda: saved(averaged()), (), ("gru", 1, False)),
    Kind(
        PLAIN,
        "an empty state_dict beside a model",
        lambda: saved({"state_dict": {}, "model": state()}),
        (),
        ("gru", 1, False),
    ),
    Kind(
        PLAIN,
        "two models",
        lambda: saved({"teacher": state(), "student": prefixed("", state("LSTM"))}),
        ("--key", "student"),
        ("lstm", 1, False),
    ),
    Kind(PLAIN, "one-hot inputs", lambda: saved(one_hot()), ("--cell", "tanh"), ("tanh", 1, False)),
    Kind(PLAIN, ".SAFETENSORS", upper_case, (), ("gru", 1, False)),
    Kind(PLAIN, "both directions", lambda: saved(state(bidirectional=False) | backwards())),
    Kind(PLAIN, "TorchScript", torch_script),
]


def backwards():
    return {"rnn.weight_ih_l0_reverse": torch.zeros(3 * WIDTH, WIDTH)}


def with_flags(flags):
    """What a table says of the flags."""
    return "as it is" if not flags else "with `" + " ".join(flags) + "`"


@pytest.fixture(scope="module")
def rows():
    """The rows of the table, filled by the tests of each kind."""
    return {}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.origin}: {kind.what}")
def test_a_kind_of_checkpoint(kind, rows, capsys):
    """Each is taken as it should be, and only with its flags, or refused in one line."""
    file = kind.save()
    if kind.model is None:
        reason = refused(capsys, file).replace("|", "\\|")
        first_sentence = reason.split(". ")[0].removesuffix(".")
        check_row(kind, f"refused: {first_sentence}.", rows)
        return
    if kind.flags and "--cell" not in kind.flags:
        assert refused(capsys, file)
    run = taken(file, *kind.flags)
    config = run.config
    cells = {"CharSeqStatefulGRU": "gru", "CharSeqStatefulLSTM": "lstm"}
    found = (cells.get(config.model, config.cell), config.num_layers, config.tied)
    assert found == kind.model
    vocabulary = run.vocabulary
    assert vocabulary.itos == tuple(TOKENS)
    check_row(kind, f"taken {with_flags(kind.flags)}", rows)


def check_row(kind, outcome, rows):
    """The row of a kind stands in README.md, or will be written there."""
    rows[kind] = f"| {kind.origin} | {kind.what} | {outcome} |"
    if not WRITING:
        assert rows[kind] in table_in(README.read_text())


def table_in(text):
    """The lines of the table in README.md."""
    return TABLE.search(text)[0].splitlines()


def test_the_readme_has_a_row_of_each_kind(rows):
    if WRITING:
        lines = ["| like | checkpoint | `import` |", "| --- | --- | --- |"]
        lines += [rows[kind] for kind in KINDS]
        README.write_text(TABLE.sub(lambda _: "\n".join(lines), README.read_text()))
    kinds = [tuple(line.split(" | ")[:2]) for line in table_in(README.read_text())[2:]]
    assert kinds == [(f"| {kind.origin}", kind.what) for kind in KINDS]


@pytest.mark.parametrize("name", ["sparse", "csr", "expanded", "8 bits", "half", "gradient"])
def test_every_kind_of_float_is_read(name):
    weights = state()
    change = {
        "sparse": lambda t: t.to_sparse(),
        "csr": lambda t: t.to_sparse_csr(),
        "expanded": lambda t: t[:1].expand_as(t),
        "8 bits": lambda t: t.to(torch.float8_e5m2),
        "half": lambda t: t.half(),
        "gradient": nn.Parameter,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls some layouts a beta
        weights["encoder.weight"] = change[name](weights["encoder.weight"])
    expected = weights["encoder.weight"].detach().to(torch.float32).to_dense().numpy()
    run = taken(saved(weights))
    assert np.array_equal(run.load_params()["e"]["embedding"], expected)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: t.to(torch.complex64), "complex numbers"),
        (lambda t: t.to(torch.int32), "integers"),
        (lambda t: t.to("meta"), "no numbers"),
    ],
    ids=["complex", "integers", "meta"],
)
def test_what_has_no_floats_is_refused_where_it_is_needed(change, word, capsys):
    weights = state()
    weights["encoder.weight"] = change(weights["encoder.weight"])
    message = refused(capsys, saved(weights))
    assert "encoder.weight" in message
    assert word in message


def test_relu_is_told_from_tanh_by_what_predicts_better(capsys):
    torch.manual_seed(0)
    module = LM("RNN", width=16, nonlinearity="relu")
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


def test_best_is_exported_where_there_is_one(capsys):
    run = taken(saved(state()))
    experiment = run.experiment()
    from jaxrnn.training.history import Position, Progress

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


@pytest.mark.parametrize("kind", ["pipe", "deep", "huge"])
def test_a_vocabulary_is_read_from_a_regular_file_only(kind, capsys):
    file = saved(state())
    Path("tokens.json").unlink()
    if kind == "pipe":
        os.mkfifo("tokens.json")
    elif kind == "deep":
        Path("tokens.json").write_text("[" * 100_000)
    else:
        with open("tokens.json", "wb") as raw:
            raw.truncate(2**40)
    assert "tokens.json" in refused(capsys, file)


def mutated(data, rng):
    """Bytes with a few changes: flipped, cut, doubled or replaced."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(0, max(1, min(len(data), 700))))
        how = int(rng.integers(0, 4))
        if how == 0 and data:
            data[place % len(data)] ^= 1 << int(rng.integers(0, 8))
        elif how == 1:
            del data[int(rng.integers(0, len(data) + 1)) :]
        elif how == 2:
            data[place:place] = data[place : place + 20]
        else:
            data[place : place + 8] = rng.bytes(8)
    return bytes(data)


def in_one_line(error):
    assert "\n" not in str(error)


def fuzz(count, capsys):
    """Read so many changed files of each kind: each is read, or refused in one line."""
    from jaxrnn.exchange.contents import TensorFileError
    from jaxrnn.exchange.files import read_contents
    from jaxrnn.exchange.identification import identify
    from jaxrnn.exchange.weights import WeightMapError
    from jaxrnn.runs.transfer import described, read_vocabulary

    run = taken(saved(state()))
    assert cli.main(["export", str(run.folder), "ours.safetensors"]) == 0
    buffer = io.BytesIO()
    torch.save(state(), buffer, _use_new_zipfile_serialization=False)
    Path("old.pt").write_bytes(buffer.getvalue())
    shards()
    originals = ["ours.safetensors", "model.pt", "old.pt", "model.safetensors.index.json"]
    rng = np.random.default_rng(0)
    outcomes = Counter()
    for number in range(count):
        original = Path(originals[number % len(originals)])
        data = mutated(original.read_bytes(), rng)
        file = Path(f"changed{number % 2}{original.suffix}")
        file.write_bytes(data)
        try:
            contents = read_contents(file)
            described(contents, file)
            identify(contents)
            outcomes["read"] += 1
        except (TensorFileError, WeightMapError) as error:
            in_one_line(error)
            outcomes["refused"] += 1
        Path("changed.json").write_bytes(mutated(Path("tokens.json").read_bytes(), rng))
        try:
            read_vocabulary("changed.json")
        except TensorFileError as error:
            in_one_line(error)
    return outcomes


def test_changed_files_are_read_or_refused(capsys):
    outcomes = fuzz(200, capsys)
    assert outcomes["refused"] > 50


@pytest.mark.slow
def test_many_changed_files_are_read_or_refused(capsys):
    outcomes = fuzz(8000, capsys)
    assert outcomes["refused"] > 2000
