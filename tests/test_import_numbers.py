"""The numbers in a checkpoint: every kind of float is read, and what is no float is refused."""

import warnings

import numpy as np
import pytest
from torch_checkpoints import nn, refused, saved, state, taken, torch, workplace  # noqa: F401


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
