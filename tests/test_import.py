"""Import of checkpoints as scripts save them: taken, taken with flags, or refused in one line.

The same checkpoints make the table in README.md. `JAXRNN_WRITE_TABLE=1` writes it anew.
"""

import os
import re
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import pytest
from torch_checkpoints import (
    COUNT,
    TOKENS,
    WIDTH,
    LanguageModel,
    nn,
    prefixed,
    refused,
    safetensors_torch,
    saved,
    shards,
    state,
    taken,
    tied_state,
    torch,
    workplace,  # noqa: F401 (used by all)
)

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- What import takes: written by tests/test_import.py -->"
END = "<!-- End of what import takes -->"
TABLE = re.compile(f"(?<={re.escape(BEGIN)}\n\n).*?(?=\n\n{re.escape(END)})", re.DOTALL)
WRITING = bool(os.environ.get("JAXRNN_WRITE_TABLE"))
"""Whether the table in README.md is written anew, in one process, instead of checked."""


class LM(LanguageModel):
    """The class of a script, which a checkpoint of a whole module names."""


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


@pytest.mark.sample(4)
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
