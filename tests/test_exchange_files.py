"""Checkpoints as people have them: read, with what was left out said, or refused in one line."""

import json

import numpy as np
import pytest

from jaxrnn.exchange.contents import Stored, TensorFileError
from jaxrnn.exchange.files import read_tensors
from jaxrnn.exchange.names import renamed, without

torch = pytest.importorskip("torch")

WEIGHTS = {"e.weight": torch.ones(3, 2), "l_out.bias": torch.zeros(3)}


def read(tmp_path, value, name="weights.pt", **options):
    torch.save(value, tmp_path / name)
    return read_tensors(tmp_path / name, **options)


def stored(names):
    """Tensors of one number each, by their names."""
    return {
        name: Stored(name, "float32", (1,), lambda n=n: np.full(1, n))
        for n, name in enumerate(names)
    }


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
    tensors = read(tmp_path, value, name, **options)
    assert set(tensors) == set(WEIGHTS)
    np.testing.assert_array_equal(tensors["e.weight"], np.ones((3, 2)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"w": torch.ones(2, device="meta")}, "no numbers"),
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
        ("a.pt", json.dumps({"weight_map": {}}).encode(), "it is JSON, and no index"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        ("a.pt", b"nonsense", "is damaged or no file of PyTorch's"),
    ],
    ids=["json", "hdf5", "nonsense"],
)
def test_other_kinds_of_files_are_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TensorFileError, match=message):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "old format"])
def test_a_file_of_torch_is_read_whatever_its_name(tmp_path, zipped):
    path = tmp_path / "really.safetensors"
    weight = torch.ones(3, 2)
    torch.save({"rnn.weight": weight}, path, _use_new_zipfile_serialization=zipped)
    assert read_tensors(path)["rnn.weight"].tolist() == weight.tolist()


def test_a_pickled_module_is_refused_with_the_lines_that_save_its_weights(tmp_path):
    with pytest.raises(
        TensorFileError, match=r"torch\.save\(found\.state_dict\(\), 'weights\.pt'\)"
    ):
        read(tmp_path, torch.nn.Linear(2, 2))


def test_pickled_numpy_arrays_are_refused_with_lines_that_make_tensors_of_them(tmp_path):
    with pytest.raises(TensorFileError, match=r"holds NumPy arrays .*torch\.as_tensor\(array\)"):
        read(tmp_path, {"w": np.ones(3, np.float32)})


def test_torchscript_is_named(tmp_path, recwarn):
    class Two(torch.nn.Module):
        def forward(self, x):
            return x * 2

    try:
        script = torch.jit.trace(Two(), torch.ones(2))
    except Exception as error:  # where TorchScript is gone
        pytest.skip(str(error))
    script.save(str(tmp_path / "a.pt"))
    with pytest.raises(TensorFileError, match="TorchScript, a program"):
        read_tensors(tmp_path / "a.pt")


def test_a_key_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        TensorFileError, match="no tensors under --key ema: tensors are under model"
    ):
        read(tmp_path, {"model": WEIGHTS}, key="ema")


def test_a_rename_never_takes_the_beginning_of_another_name():
    tensors = stored(["rnn.bias", "rnns.0.weight_hh_l0", "rnns.1.weight_hh_l0"])
    names = {"rnn": "other", "rnns.*.weight_hh_l0": "rnn.weight_hh_l*"}
    found = renamed(tensors, names)
    by_new = {new: stored.name for new, stored in found.items()}
    assert by_new == {
        "other.bias": "rnn.bias",
        "rnn.weight_hh_l0": "rnns.0.weight_hh_l0",
        "rnn.weight_hh_l1": "rnns.1.weight_hh_l0",
    }
    assert set(renamed(tensors, {"rnn": ""})) == {"bias", *list(tensors)[1:]}
    with pytest.raises(TensorFileError, match="There is no module rn to rename"):
        renamed(tensors, {"rn": "x"})
    with pytest.raises(TensorFileError, match=r"Two tensors would be called rnns\.0\.weight_hh_l0"):
        renamed(tensors, {"rnn.bias": "rnns.0.weight_hh_l0"})


def test_tensors_are_dropped_by_pattern():
    assert set(without(stored(["a.x", "a.y", "b"]), ["a.*"])) == {"b"}
    assert set(without(stored(["a.x", "ab", "b"]), ["a"])) == {"ab", "b"}
    with pytest.raises(TensorFileError, match=r"no tensor c\.\* to drop"):
        without(stored(["a.x"]), ["c.*"])
