"""Where in a file the weights are, what they are called, and what is said where they do not fit."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxrnn.exchange.contents import Contents, Stored, TensorFileError
from jaxrnn.exchange.identification import EMBEDDING, OUTPUT, _add_implied
from jaxrnn.exchange.names import short_names
from jaxrnn.runs.transfer import _hints


def layer(number):
    """A recurrent weight with a number of its own."""
    array = np.full((3, 1), number, np.float32)
    return {"weight_hh_l0": Stored("weight_hh_l0", "float32", (3, 1), lambda: array)}


def test_weights_under_keys_side_by_side_are_asked_for_by_name():
    contents = Contents("a file", {("one",): layer(1.0), ("other",): layer(2.0)})
    with pytest.raises(TensorFileError, match=r"several keys: one, other\. Say which to take"):
        list(contents.candidates(None))
    same = Contents("a file", {("one",): layer(1.0), ("other",): layer(1.0)})
    key, tensors = next(same.candidates(None))
    assert key == "one"
    assert list(tensors) == ["weight_hh_l0"]


def test_what_a_tensor_and_a_module_begin_with_stays():
    names = ["kernel", "kernel.inner.weight"]
    assert short_names(names) == {name: name for name in names}


@pytest.mark.parametrize(
    ("file", "keys", "words"),
    [
        ("model-00001-of-00002.safetensors", ["rnn.weight"], "one of 2 shards: import"),
        ("model-00001-of-00001.safetensors", ["rnn.weight"], ""),
        ("model.safetensors", ["rnn.weight"], ""),
        ("model-00001-of-00002.safetensors", ["e.weight"], ""),
    ],
)
def test_a_shard_is_said_to_be_one_where_weights_are_missing(file, keys, words):
    found = SimpleNamespace(vocabulary=None)
    experiment = SimpleNamespace(vocabulary=SimpleNamespace(size=85), config=None)
    tensors = {"e.weight": np.zeros(1)}
    hints = " ".join(_hints(found, experiment, tensors, keys, path=file, assumed=False))
    assert words in hints
    assert ("shards" in hints) == bool(words)


def test_one_hot_inputs_are_an_embedding_in_the_precision_of_the_weights():
    notes = []
    arrays = {OUTPUT: np.zeros((5, 8), np.float32)}
    sizes = {"embedding_size": 5, "hidden_size": 8}
    _add_implied(arrays, sizes, notes, alone=True)
    np.testing.assert_array_equal(arrays[EMBEDDING], np.eye(5))
    assert arrays[EMBEDDING].dtype == np.float32
    assert sizes == {"embedding_size": 5, "hidden_size": 8, "tied": False}
    assert notes == ["There is no embedding: the inputs are taken as one-hot vectors of 5."]
