"""A PyTorch checkpoint as JAX's parameters: what comes out, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity import FoldBiases, Transpose, WeightMap, WeightMapError, entry

I, H = 3, 5
LIKE = {"kernel": jnp.zeros((I, H)), "bias": jnp.zeros(H)}
MAP = WeightMap([entry("weight", "kernel", Transpose()), entry("bias", "bias")])


def test_every_leaf_is_filled_and_nothing_is_shared():
    module = nn.Linear(I, H)
    params = parity.convert(module.state_dict(), MAP, like=LIKE)
    expected = module.weight.detach().numpy().T.copy()
    with torch.no_grad():
        module.weight.zero_()
    assert isinstance(params["kernel"], jax.Array)
    np.testing.assert_array_equal(params["kernel"], expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_leaves_have_the_precision_of_the_tree(dtype):
    module = nn.Linear(I, H).double()
    like = jax.tree.map(lambda leaf: leaf.astype(dtype), LIKE)
    params = parity.convert(module.state_dict(), MAP, like=like)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {dtype}
    weight = module.weight.detach().numpy()
    np.testing.assert_array_equal(params["kernel"], weight.T.astype(jnp.dtype(dtype)))


def test_float64_stays_float64(float64):
    module = nn.Linear(I, H).double()
    like = jax.tree.map(lambda leaf: leaf.astype("float64"), LIKE)
    params = parity.convert(module.state_dict(), MAP, like=like)
    np.testing.assert_array_equal(params["bias"], module.bias.detach().numpy())


def state(**changes):
    given = {"weight": np.ones((H, I), np.float32), "bias": np.ones(H, np.float32)}
    return given | changes


@pytest.mark.parametrize(
    ("given", "dtype", "words"),
    [
        ({"weight": np.ones((H, I))}, "float32", "bias is missing"),
        (state(extra=np.ones(2)), "float32", "extra is unknown"),
        (state(weight=np.ones((I, H))), "float32", "kernel: expected shape"),
        (state(bias=np.full(H, np.nan)), "float32", "bias has 5 NaN or infinite values of 5"),
        (state(bias=np.full(H, 1e5)), "float16", "bias has 5 values beyond the range of float16"),
    ],
    ids=["a key too few", "a key too many", "another shape", "NaN", "too large"],
)
def test_what_does_not_fit_is_refused(given, dtype, words):
    like = jax.tree.map(lambda leaf: leaf.astype(dtype), LIKE)
    with pytest.raises(WeightMapError, match=words):
        parity.convert(given, MAP, like=like)


class Halved(parity.Operation):
    """A map of one's own whose way back is not the way there."""

    def from_torch(self, arrays):
        return [array / 2 for array in arrays]


def test_a_way_back_that_gives_other_numbers_is_refused():
    wrong = WeightMap([entry("weight", "kernel", Transpose()), entry("bias", "bias", Halved())])
    with pytest.raises(WeightMapError, match="bias does not come back as it was"):
        parity.convert(state(), wrong, like=LIKE)


def test_what_a_map_loses_is_no_mistake():
    lstm = nn.LSTM(I, H)
    weight_map = WeightMap(
        [
            entry("weight_ih_l0", "i", Transpose()),
            entry("weight_hh_l0", "h", Transpose()),
            entry(("bias_ih_l0", "bias_hh_l0"), "b", FoldBiases()),
        ]
    )
    like = {"i": jnp.zeros((I, 4 * H)), "h": jnp.zeros((H, 4 * H)), "b": jnp.zeros(4 * H)}
    params = parity.convert(lstm.state_dict(), weight_map, like=like)
    expected = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().numpy()
    np.testing.assert_array_equal(params["b"], expected)
    assert "folded" in weight_map.inexact["b"]
