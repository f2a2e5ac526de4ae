"""How a module's state dict is sorted, sampled and compared, on modules made by hand."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from jaxrnn.exchange.weights import WeightMap, WeightMapError, entry
from parity.core.bridge import numpy_arrays, rounded
from parity.core.compare import UNIT_ROUNDOFF, Outcome
from parity.modules.weights import (
    FACTORS,
    MATRIX_BOUND,
    TABLE_BOUND,
    VECTOR_BOUND,
    check_fit,
    given_weights,
    mapped_weights,
    sampled_weights,
    state_of,
    weight_findings,
)


def names(*keys):
    """A map that only names keys."""
    return WeightMap([entry(key, key.replace(".", "/")) for key in keys])


class Net(nn.Module):
    """Two names of one tensor, a frozen weight, a buffer of either kind, a norm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("table", torch.arange(3.0))
        self.norm = nn.BatchNorm1d(3)


def test_a_state_dict_is_sorted_by_what_is_done_with_each_key():
    net = Net()
    mapped = ("first.weight", "first.bias", "frozen", "norm.weight", "norm.running_mean", "other")
    state = state_of(net, names(*mapped))
    assert state.compared == mapped[:-1]
    assert state.aliases == {"second.weight": "first.weight"}
    assert state.trained == {
        "first.weight": ("first.weight",),
        "first.bias": ("first.bias",),
        "norm.weight": ("norm.weight",),
    }
    assert state.frozen == ("frozen",)
    assert state.buffers == ("norm.running_mean",)
    # The bias of the norm is a parameter, and no map may leave it out.
    assert state.kept == ("table", "norm.running_var", "norm.num_batches_tracked")
    left_out, frozen = state.remarks
    assert left_out.startswith("table, norm.running_var, norm.num_batches_tracked stayed as in")
    assert frozen.startswith("frozen: frozen in PyTorch (requires_grad=False)")


def test_statistics_may_be_left_out_in_training_mode_alone():
    net = Net().eval()
    state = state_of(net, names("first.weight"))
    assert state.kept == ("table", "norm.num_batches_tracked")
    net.norm.train()
    assert "norm.running_mean" in state_of(net, names("first.weight")).kept


def test_a_tensor_that_the_map_names_twice_has_its_gradients_summed():
    both = names("first.weight", "second.weight")
    state = state_of(Net(), both)
    assert state.trained["first.weight"] == ("first.weight", "second.weight")
    assert state.compared == ("first.weight",)
    assert state.remarks[0].startswith("first.weight and second.weight are one tensor in PyTorch")
    one = WeightMap([entry(("first.weight", "second.weight"), "w")])
    assert not any("one tensor" in remark for remark in state_of(Net(), one).remarks)
    alone = state_of(Net(), names("second.weight"))
    assert alone.compared == ("second.weight",)
    assert alone.aliases == {"first.weight": "second.weight"}
    assert alone.trained == {"first.weight": ("second.weight",)}


def test_a_whole_state_dict_has_the_given_weights_under_every_name():
    state = state_of(Net(), names("first.weight", "first.bias"))
    whole = state.complete({"first.weight": np.full((3, 3), 7.0)})
    assert (whole["first.weight"] == 7).all()
    assert (whole["second.weight"] == 7).all()
    np.testing.assert_array_equal(whole["first.bias"], state.own["first.bias"])
    assert list(whole) == list(Net().state_dict())


def test_complex_weights_are_refused():
    module = nn.Module()
    module.w = nn.Parameter(torch.ones(1, dtype=torch.complex64))
    with pytest.raises(ValueError, match="weights must be real, got complex64 as w"):
        state_of(module, names("w"))


def test_a_map_fits_if_it_names_what_cannot_be_left_out():
    net = nn.Sequential(nn.Linear(3, 2))
    params = {"0": {"weight": np.zeros((2, 3)), "bias": np.zeros(2)}}
    whole = names("0.weight", "0.bias")
    check_fit(whole, state_of(net, whole), params)
    part = names("0.weight")
    with pytest.raises(WeightMapError, match=r"0\.bias"):
        check_fit(part, state_of(net, part), {"0": {"weight": np.zeros((2, 3))}})
    # Values are not looked at.
    net[0].weight.data[:] = np.nan
    check_fit(whole, state_of(net, whole), params)
    net = Net()
    tied = names("first.weight", "first.bias", "frozen", "norm.weight", "norm.bias")
    tree = {"first": {"weight": np.zeros((3, 3)), "bias": np.zeros(3)}, "frozen": np.zeros(2)}
    check_fit(
        tied,
        state_of(net, tied),
        {**tree, "norm": {"weight": tree["frozen"].repeat(2)[:3], "bias": np.zeros(3)}},
    )


class Sampled(nn.Module):
    """Weights of every kind that is sampled in a way of its own."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Linear(16, 400)
        self.conv = nn.Conv1d(4, 100, 4)
        self.table = nn.Embedding(100, 5, padding_idx=7)
        self.bag = nn.EmbeddingBag(100, 5)
        self.positive = nn.Parameter(torch.full((500,), 3.0))
        self.negative = nn.Parameter(torch.full((500,), -2.0))
        self.register_buffer("mask", torch.tensor([0.0, 1.0]))
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("running_mean", torch.zeros(300))
        with torch.no_grad():
            self.table.weight[7] = 9.0


SAMPLED = Sampled()
KEYS = tuple(SAMPLED.state_dict())
OWN = numpy_arrays(SAMPLED.state_dict())


def sampled(dtype="float64", seed=0):
    state = state_of(SAMPLED, names(*KEYS))
    return sampled_weights(SAMPLED, state, np.random.default_rng(seed), dtype)


@pytest.mark.parametrize(
    ("key", "bound"),
    [
        ("matrix.weight", MATRIX_BOUND / 4),
        ("matrix.bias", VECTOR_BOUND),
        ("conv.weight", MATRIX_BOUND / 4),
        ("table.weight", TABLE_BOUND),
        ("bag.weight", TABLE_BOUND),
        ("running_mean", VECTOR_BOUND),
    ],
)
def test_weights_are_sampled_around_zero_within_their_bound(key, bound):
    found = sampled()[key]
    if key == "table.weight":
        assert (found[7] == 9).all()  # the row of the padding
        found = np.delete(found, 7, axis=0)
    assert 0.95 * bound < found.max() <= bound
    assert -bound <= found.min() < -0.95 * bound
    assert found.shape == OWN[key].shape or key == "table.weight"
    assert np.isin(found, OWN[key]).mean() < 0.01


@pytest.mark.parametrize(("key", "own"), [("positive", 3.0), ("negative", -2.0)])
def test_weights_of_one_sign_keep_it(key, own):
    factors = sampled()[key] / own
    assert FACTORS[0] <= factors.min() < FACTORS[0] + 0.02
    assert FACTORS[1] - 0.02 < factors.max() <= FACTORS[1]


def test_masks_and_counts_are_the_modules_own():
    found = sampled()
    np.testing.assert_array_equal(found["mask"], [0, 1])
    assert found["count"] == 5
    assert list(found) == list(KEYS)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_weights_are_what_a_precision_can_hold(dtype):
    stored = "float32" if dtype == "float64" else dtype
    state = state_of(SAMPLED, names(*KEYS))
    for weights in (sampled(dtype), given_weights(state, dtype)):
        matrix = weights["matrix.weight"]
        np.testing.assert_array_equal(matrix, rounded(matrix, stored))
    given = given_weights(state, dtype)
    np.testing.assert_array_equal(given["matrix.bias"], rounded(OWN["matrix.bias"], stored))
    assert given["count"] == 5
    assert given["count"].dtype == OWN["count"].dtype


def test_another_seed_gives_other_weights():
    one, same, other = sampled(), sampled(), sampled(seed=1)
    np.testing.assert_array_equal(one["bag.weight"], same["bag.weight"])
    assert (one["bag.weight"] != other["bag.weight"]).all()


def test_weights_by_the_paths_of_jax_have_their_aliases():
    both = names("first.weight", "second.weight")
    weights = {"first.weight": np.full((3, 3), 2.0)}
    found = mapped_weights(both, state_of(Net(), both), weights)
    assert set(found) == {"first/weight", "second/weight"}
    assert (found["second/weight"] == 2).all()


MATRIX = np.ones((2, 2))


@pytest.mark.parametrize("off", [0.9, 1.1])
@pytest.mark.parametrize(
    ("in_torch", "in_jax", "stored"),
    [
        (torch.float64, np.float64, "float64"),
        (torch.float32, np.float32, "float32"),
        (torch.float64, np.float32, "float32"),
        (torch.float32, np.float64, "float32"),
        (torch.float16, np.float64, "float16"),
        (torch.bfloat16, np.float64, "bfloat16"),
        (torch.float32, ml_dtypes.bfloat16, "bfloat16"),
    ],
)
def test_given_parameters_may_differ_by_two_roundings_of_the_coarser_precision(
    in_torch, in_jax, stored, off
):
    limit = 2 * UNIT_ROUNDOFF.get(stored, 2.0**-11)
    module = nn.Linear(2, 2, bias=False).to(in_torch)
    module.weight.data[:] = 1.0
    one = names("weight")
    # What the precision of JAX can hold of it, if that is the finer one.
    got = (MATRIX * (1 + limit * off)).astype(in_jax)
    (finding,) = weight_findings("pair", one, state_of(module, one), {"weight": got})
    assert (finding.limit, finding.dtype, finding.array) == (limit, stored, "weight (weight)")
    assert (finding.criterion, finding.quantity) == ("C1", "weights")
    apart = np.abs(got.astype(float) - 1).max()
    assert finding.value == pytest.approx(apart)
    assert finding.outcome is (Outcome.PASS if apart <= limit else Outcome.FAIL)
    words = "" if apart <= limit else "JAX's parameter is not PyTorch's weight"
    assert finding.note == words


def test_given_parameters_that_are_not_finite_fail_by_their_structure():
    module = nn.Linear(2, 2)
    both = names("weight", "bias")
    params = {
        "weight": np.array([[np.nan, 1], [1, 1]], np.float32),
        "bias": module.bias.detach().numpy(),
    }
    found = weight_findings("pair", both, state_of(module, both), params)
    by_array = {f.array: f for f in found}
    bad = by_array["weight (weight)"]
    assert (bad.criterion, bad.outcome, bad.value) == ("C0", Outcome.FAIL, 1.0)
    assert bad.note == "NaN or infinite in JAX"
    assert by_array["bias (bias)"].outcome is Outcome.PASS
