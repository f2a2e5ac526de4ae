"""Checkpoints as people have them: read, with what was left out said, or refused in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jaxrnn import RECIPES
from jaxrnn.exchange import commands
from jaxrnn.exchange.files import TensorFileError, read_tensors
from jaxrnn.exchange.runs import _dropped, _fitting, _renamed

torch = pytest.importorskip("torch")

WEIGHTS = {"e.weight": torch.ones(3, 2), "l_out.bias": torch.zeros(3)}


def read(tmp_path, value, name="weights.pt", **options):
    torch.save(value, tmp_path / name)
    said = []
    return read_tensors(tmp_path / name, say=said.append, **options), said


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (WEIGHTS, {}),
        ({"_orig_mod.module." + k: v for k, v in WEIGHTS.items()}, {}),
        ({"module._orig_mod.model." + k: v for k, v in WEIGHTS.items()}, {}),
        ({"model": WEIGHTS, "optimizer": {"lr": 1}}, {}),
        ({"net": WEIGHTS, "epoch": 3}, {}),
        ({"state_dict": {}, "model": WEIGHTS}, {}),
        ({"checkpoint": {"model": WEIGHTS}}, {"key": "checkpoint.model"}),
        ({"ema": WEIGHTS, "model": {"e.weight": torch.zeros(1)}}, {"key": "ema"}),
        ({k: v.requires_grad_() for k, v in WEIGHTS.items()}, {}),
        ({"e.weight": torch.ones(3, 2).to_sparse(), "l_out.bias": WEIGHTS["l_out.bias"]}, {}),
        ({"e.weight": torch.ones(1, 1).expand(3, 2), "l_out.bias": WEIGHTS["l_out.bias"]}, {}),
        (
            {"e.weight": torch.ones(3, 2).to(torch.float8_e4m3fn), "l_out.bias": torch.zeros(3)},
            {},
        ),
    ],
    ids=[
        "plain", "compiled and parallel", "three wrappers", "beside an optimizer", "net",
        "an empty state_dict", "key", "another key", "gradients", "sparse", "expanded", "8 bits",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["weights.pt", "weights.bin"])
def test_weights_are_found_in_what_scripts_save(tmp_path, value, options, name):
    tensors, _ = read(tmp_path, value, name, **options)
    assert set(tensors) == set(WEIGHTS)
    np.testing.assert_array_equal(tensors["e.weight"], np.ones((3, 2)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"w": torch.ones(2, device="meta")}, "no values"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "complex numbers"),
        ({"a": 1}, "no state_dict: it holds a"),
        ([1, 2], "holds no tensors"),
    ],
    ids=["meta", "complex", "numbers", "list"],
)
def test_what_cannot_be_weights_is_one_line(tmp_path, value, message):
    with pytest.raises(TensorFileError, match=message) as caught:
        read(tmp_path, value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.pt", json.dumps({"weight_map": {}}).encode(), "but JSON"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "but HDF5"),
        ("a.pt", b"nonsense", "is damaged or no file of PyTorch's"),
    ],
    ids=["json", "hdf5", "nonsense"],
)
def test_other_kinds_of_files_are_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TensorFileError, match=message):
        read_tensors(tmp_path / name)


def test_a_pickled_module_is_refused_with_the_lines_that_save_its_weights(tmp_path):
    with pytest.raises(TensorFileError, match=r"torch\.save\(module\.state_dict\(\)"):
        read(tmp_path, torch.nn.Linear(2, 2))


def test_torchscript_is_named(tmp_path, recwarn):
    class Two(torch.nn.Module):
        def forward(self, x):
            return x * 2

    try:
        script = torch.jit.trace(Two(), torch.ones(2))
    except Exception as error:  # where TorchScript is gone
        pytest.skip(str(error))
    script.save(str(tmp_path / "a.pt"))
    with pytest.raises(TensorFileError, match="TorchScript, which is code"):
        read_tensors(tmp_path / "a.pt")


def test_a_key_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TensorFileError, match=r"no 'ema' in .*: it has model"):
        read(tmp_path, {"model": WEIGHTS}, key="ema")


def test_a_rename_never_takes_the_beginning_of_another_name():
    tensors = {"rnn.w": 1, "rnns.0.weight_hh_l0": 2, "rnns.1.weight_hh_l0": 3}
    names = {"rnn": "other", "rnns.*.weight_hh_l0": "rnn.weight_hh_l*"}
    assert _renamed(tensors, names) == {"other.w": 1, "rnn.weight_hh_l0": 2, "rnn.weight_hh_l1": 3}
    with pytest.raises(TensorFileError, match="There is no module rn to rename"):
        _renamed(tensors, {"rn": "x"})


def test_what_is_no_weight_of_its_own_is_left_out_and_said():
    table = np.arange(6.0).reshape(3, 2)
    tensors = {
        "e.weight": table,
        "l_out.weight": table.copy(),
        "l_out.bias": np.zeros(3),
        "n_averaged": np.array(7),
        "rnn.weight_hh_l0": np.zeros((2, 2)),
        "rnn.weight_hh_l0_raw": np.ones((2, 2)),
    }
    said = []
    kept = _fitting(tensors, {"e.weight", "bias_out", "rnn.weight_hh_l0"}, said.append)
    assert set(kept) == {"e.weight", "bias_out", "rnn.weight_hh_l0"}
    np.testing.assert_array_equal(kept["rnn.weight_hh_l0"], np.ones((2, 2)))
    assert len(said) == 3
    with pytest.raises(TensorFileError, match="has integers"):
        _fitting({"w": np.ones(3, np.int64)}, {"w"}, said.append)


def test_tensors_are_dropped_by_pattern():
    assert set(_dropped({"a.x": 1, "a.y": 2, "b": 3}, ["a.*"])) == {"b"}
    with pytest.raises(TensorFileError, match=r"no tensor c\.\* to drop"):
        _dropped({"a.x": 1}, ["c.*"])


def test_a_dict_that_holds_itself_is_one_line(tmp_path):
    found = {"a": 1}
    found["model"] = found
    with pytest.raises(TensorFileError, match="no state_dict"):
        read(tmp_path, found)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_files_are_one_line(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(WEIGHTS, path)
    else:
        from safetensors.torch import save_file

        save_file(WEIGHTS, path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 5)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.3 else data)
        try:
            read_tensors(path)
        except TensorFileError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert not any("\n" in message for message in messages)


def test_a_corpus_that_a_file_names_is_not_opened_on_its_word(monkeypatch):
    config = replace(RECIPES["python-docs"].config, corpus="/somewhere/secret.txt")
    monkeypatch.setattr(commands, "described", lambda path: (config, None, ""))
    with pytest.raises(ValueError, match="name the text with --corpus"):
        commands.config_in(["import", "theirs.safetensors"])
    given = ["import", "theirs.safetensors", "--corpus", "mine.txt"]
    assert commands.config_in(given) == config
