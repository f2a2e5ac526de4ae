"""Weight maps: every operation can be undone bit by bit, and every problem is named at once."""

import numpy as np
import pytest

from jaxrnn.exchange.operations import (
    Chain,
    FoldBiases,
    Identity,
    PermuteGates,
    SplitGates,
    StackLayers,
    Transpose,
)
from jaxrnn.exchange.weights import WeightMap, WeightMapError, entry
from jaxrnn.nn.models import MODELS, CharLM
from parity.core.bridge import numpy_of
from parity.core.pairs import H, V, course_pairs, model_pair
from parity.core.references import reference_of

RNG = np.random.default_rng(0)

OPERATIONS = {
    "identity": (Identity(), 1, 1, (6, 4)),
    "transpose": (Transpose(), 1, 1, (6, 4)),
    "permute": (PermuteGates((2, 0, 1)), 1, 1, (6, 4)),
    "split": (SplitGates(3), 2, 6, (6, 4)),
    "stack": (StackLayers(), 3, 1, (6, 4)),
    "chain": (Chain((PermuteGates((1, 2, 0)), SplitGates(3), Transpose())), 1, 3, (6, 4)),
}


def arrays_of(names, shape=(6, 4)):
    return {name: RNG.normal(size=shape) for name in names}


def small_map():
    return WeightMap([entry("a.weight", "a/kernel", Transpose()), entry("a.bias", "a/bias")])


@pytest.mark.parametrize("case", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_round_trip_is_exact(case):
    operation, keys, paths, shape = case
    keys, paths = [f"k{i}" for i in range(keys)], [f"p{i}" for i in range(paths)]
    weight_map, weights = WeightMap([entry(keys, paths, operation)]), arrays_of(keys, shape)
    back = weight_map.to_torch(weight_map.from_torch(weights))
    assert list(back) == keys
    assert all(np.array_equal(back[key], weights[key]) for key in keys)
    assert weight_map.inexact == {}


def test_permuted_gates_are_named_by_the_order():
    moved = PermuteGates((2, 0, 1)).from_torch([np.array([10, 11, 12])])
    assert moved[0].tolist() == [12, 10, 11]


def test_nothing_is_aliased():
    weight_map, weights = small_map(), {"a.weight": np.ones((2, 3)), "a.bias": np.ones(2)}
    moved = weight_map.from_torch(weights)
    back = weight_map.to_torch(moved)
    for array in weights.values():
        array[:] = 7
    assert all((array == 1).all() for array in [*moved.values(), *back.values()])
    moved["a/bias"][:] = 5
    assert (back["a.bias"] == 1).all()


def test_folded_biases_say_what_they_make_meaningless():
    weight_map = WeightMap([entry(("b_ih", "b_hh"), "bias", FoldBiases())])
    assert "update" in weight_map.inexact["bias"]
    biases = arrays_of(("b_ih", "b_hh"), (4,))
    moved = weight_map.from_torch(biases)
    assert np.array_equal(moved["bias"], biases["b_ih"] + biases["b_hh"])
    back = weight_map.to_torch(moved)
    assert np.array_equal(back["b_ih"] + back["b_hh"], moved["bias"])
    gradients = weight_map.gradients_to_torch(moved)
    assert np.array_equal(gradients["b_ih"], gradients["b_hh"])


def test_all_problems_are_in_one_error():
    weights = {"a.weight": np.full((2, 3), np.nan), "b.bias": np.zeros(2)}
    with pytest.raises(WeightMapError) as caught:
        small_map().from_torch(weights, like={"a/kernel": (2, 3), "a/bias": (2,)})
    message = str(caught.value)
    assert "a.bias is missing" in message
    assert "b.bias is unknown" in message
    assert "a.weight has 6 NaN or infinite values of 6" in message
    assert "a/kernel: expected shape (2, 3), got (3, 2)" in message


def test_gates_that_do_not_divide_are_named():
    weight_map = WeightMap([entry("w", ("r", "z", "n"), SplitGates(3))])
    with pytest.raises(WeightMapError, match="w cannot become r, z, n"):
        weight_map.from_torch({"w": np.zeros((7, 2))})


def test_a_name_stands_in_one_entry_only():
    with pytest.raises(WeightMapError, match=r"names twice: w\."):
        WeightMap([entry("w", "a"), entry("w", "b")])


@pytest.mark.parametrize("pair", course_pairs(), ids=lambda pair: pair.name)
def test_the_map_of_a_model_covers_its_twin(pair):
    state = {key: numpy_of(tensor) for key, tensor in pair.module().state_dict().items()}
    back = pair.weight_map.to_torch(pair.weight_map.from_torch(state))
    assert set(back) == set(state)
    assert all(np.array_equal(back[key], state[key]) for key in state)


def test_every_model_has_a_twin():
    for model in MODELS.values():
        assert reference_of(model(V, H, H)).hidden_size == H


def test_a_model_without_reference_is_named():
    class Other(CharLM):
        pass

    with pytest.raises(ValueError, match="Other has no reference"):
        model_pair("other", Other(V, H, H)).module()
