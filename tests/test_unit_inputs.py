"""The variants of a user's inputs: what each changes, what it leaves alone, and its words."""

import jax.numpy as jnp
import numpy as np
import pytest
from torch import nn

from parity.modules.inputs import (
    AS_GIVEN,
    FLOATS,
    INTEGERS,
    LEVELS,
    PADDED,
    SPREAD,
    VARIANTS,
    Batch,
    beside,
    chosen_variants,
    given_batch,
    is_mask,
    one_sign,
    padding_indices,
    ranges_in_words,
    variants_of,
)

RNG = np.random.default_rng(0)
X = 3 * RNG.normal(size=(6, 50))  # both signs
TOKENS = np.array([[3, 4, 9], [4, 7, 5]])


def varied(array, name, padding=()):
    """The one array of a variant; None if it changes nothing."""
    found = variants_of(given_batch([array]), (name,), padding)
    return found[0].arrays["0"] if found else None


def test_a_batch_has_its_leaves_by_number_and_makes_the_arguments_again():
    batch = given_batch([X, {"a": TOKENS, "b": (X[0],)}])
    assert list(batch.arrays) == ["0", "1", "2"]
    assert (batch.label, batch.given) == (AS_GIVEN, True)
    first, second = batch.arguments(batch.arrays)
    np.testing.assert_array_equal(first, X)
    np.testing.assert_array_equal(second["a"], TOKENS)
    np.testing.assert_array_equal(second["b"][0], X[0])
    assert given_batch([X], "other").label == "other"


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(2, complex), "got complex128 as input 1; give a complex input as its real"),
        (np.array(["a"]), "got <U1 as input 1"),
        (np.zeros((0, 3)), r"input 1 must not be empty, got shape \(0, 3\)"),
    ],
)
def test_what_is_no_real_array_is_refused(array, words):
    with pytest.raises(ValueError, match=words):
        given_batch([X, array])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, np.float32, jnp.bfloat16])
def test_integers_booleans_and_all_floats_are_taken(dtype):
    assert given_batch([np.ones(2, dtype)]).arrays["0"].dtype == dtype


def test_the_variants_that_an_option_asks_for():
    assert chosen_variants(True) == VARIANTS
    assert chosen_variants(False) == ()
    assert chosen_variants("floats zero") == ("floats zero",)
    assert chosen_variants(["floats zero", PADDED]) == ("floats zero", PADDED)
    with pytest.raises(ValueError, match=r"True, False or some of floats drawn anew, .*'other'"):
        chosen_variants(["floats zero", "other"])
    assert (*FLOATS, *INTEGERS, PADDED) == VARIANTS


FACTORS = {"floats times 10": 10, "floats times 1,000": 1000, "floats times 0.001": 1e-3}


@pytest.mark.parametrize("name", FACTORS)
def test_floats_are_scaled(name):
    np.testing.assert_allclose(varied(X, name), FACTORS[name] * X)


def test_a_constant_is_made_to_vary_before_it_is_scaled():
    for constant, size in ((0.0, 1.0), (0.5, 1.0), (40.0, 40.0)):
        array = np.full((40, 40), -constant)
        ten = FLOATS["floats times 10"](array, np.random.default_rng(0))
        assert ten.std() == pytest.approx(10 * size, rel=0.1)
        assert ten.mean() == pytest.approx(-10 * constant, abs=size)


def test_floats_drawn_anew_have_the_mean_and_the_deviation():
    array = 3 + 0.5 * RNG.normal(size=(50, 50))
    array[0, 0] = -1.0
    anew = varied(array, "floats drawn anew")
    assert anew.mean() == pytest.approx(array.mean(), abs=0.05)
    assert anew.std() == pytest.approx(array.std(), rel=0.1)
    assert not np.isin(anew, array).any()


def test_floats_are_zero_or_all_negative():
    assert not varied(X, "floats zero").any()
    np.testing.assert_array_equal(varied(X, "floats all negative"), -np.abs(X))


def test_ties_lie_on_few_levels_and_the_first_row_comes_twice():
    tied = varied(X, "floats with ties")
    step = 2.0 ** round(np.log2(X.std())) / LEVELS
    levels = tied / step
    np.testing.assert_array_equal(levels, np.round(levels))
    np.testing.assert_array_equal(tied[1], tied[0])
    assert (tied[2] != tied[0]).any()
    np.testing.assert_allclose(tied[2:], X[2:], atol=step / 2)
    # A row of two is no copy of the other, and a number alone is rounded too.
    two = varied(X[:2], "floats with ties")
    assert (two[1] != two[0]).any()
    three = varied(X[:3], "floats with ties")
    np.testing.assert_array_equal(three[1], three[0])


def test_a_number_alone_has_a_deviation_of_1():
    number = np.array([0.3])
    assert varied(number, "floats with ties") % (1 / LEVELS) == 0
    spread = np.abs(varied(number, "floats spread from 1e-3 to 1e4"))
    assert 1e-3 <= spread <= 1e4


def test_spread_floats_have_all_magnitudes_and_both_signs():
    spread = varied(X, "floats spread from 1e-3 to 1e4")
    magnitudes = np.log10(np.abs(spread) / X.std())
    assert SPREAD[0] <= magnitudes.min() < SPREAD[0] + 0.3
    assert SPREAD[1] - 0.3 < magnitudes.max() <= SPREAD[1]
    assert 0.4 < (spread > 0).mean() < 0.6


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_of_one_sign_keep_it(sign):
    array = sign * (np.abs(X) + 0.1)
    unchanged = []
    for name in FLOATS:
        found = varied(array, name)
        if found is None:
            unchanged.append(name)
            continue
        assert (np.sign(found) == sign).all(), name
    # All of them negative, on the positive side, are what was given.
    assert unchanged == ["floats zero", "floats all negative"]


def test_integers_stay_in_the_range_that_is_shown():
    smallest = varied(TOKENS, "integers all the smallest")
    largest = varied(TOKENS, "integers all the largest")
    same = varied(TOKENS, "integers all the same")
    assert (smallest == 3).all()
    assert (largest == 9).all()
    assert (same == 5).all()  # of 3 4 4 5 7 9
    many = varied(np.repeat(TOKENS, 100, axis=0), "integers drawn anew")
    assert set(np.unique(many)) == set(range(3, 10))
    assert many.dtype == TOKENS.dtype
    assert varied(TOKENS.astype(np.int8), "integers all the largest").dtype == np.int8


def test_padding_replaces_about_half_of_the_integers():
    tokens = RNG.integers(1, 9, (40, 40))
    found = varied(tokens, PADDED, (20, 5, 3))
    put_in = found != tokens
    assert 0.35 < put_in.mean() < 0.5
    assert (found[put_in] == 5).all()  # the first that lies in the range
    assert varied(tokens, PADDED, (0, 9)) is None
    assert varied(tokens, PADDED) is None
    for edge in (1, 8):
        assert (varied(tokens, PADDED, (edge,)) != tokens).any()


@pytest.mark.parametrize(
    ("array", "mask"),
    [
        (np.array([True, False]), True),
        (np.array([0, 1]), False),
        (np.array([0.0, 1.0]), True),
        (np.array([1.0, 1.0]), True),
        (np.array([0.0, 0.0]), False),
        (np.array([0.0, 0.5]), False),
        (np.array([0.0, -np.inf]), True),
        (np.array([0.5, np.nan]), True),
    ],
)
def test_what_looks_like_a_mask(array, mask):
    assert is_mask(array) == mask
    changed = [name for name in VARIANTS if varied(array, name, (0,)) is not None]
    assert bool(changed) != mask


def test_each_kind_of_array_has_its_own_variants():
    batch = given_batch([X, TOKENS])
    found = variants_of(batch, VARIANTS, (4,))
    assert [variant.label for variant in found] == list(VARIANTS)
    for variant in found:
        assert not variant.given
        assert variant.structure == batch.structure
        floats, integers = variant.arrays["0"], variant.arrays["1"]
        assert np.array_equal(floats, X) == (variant.label not in FLOATS)
        assert np.array_equal(integers, TOKENS) == (variant.label in FLOATS)
    assert variants_of(batch, (), (4,)) == []


def test_what_an_earlier_variant_has_is_no_other():
    constant = np.array([7, 7])
    assert [b.label for b in variants_of(given_batch([constant]), VARIANTS, (7,))] == []
    two = np.array([1, 2, 2, 2, 1, 2])
    labels = [b.label for b in variants_of(given_batch([two]), VARIANTS, ())]
    assert "integers all the largest" in labels
    assert "integers all the same" not in labels  # the middle one is the largest


def test_variants_are_the_same_every_time():
    first, again = (variants_of(given_batch([X]), VARIANTS, ()) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.arrays["0"], other.arrays["0"])
    alone = variants_of(given_batch([X]), ("floats spread from 1e-3 to 1e4",), ())
    np.testing.assert_array_equal(alone[0].arrays["0"], first[-1].arrays["0"])


def test_the_padding_indices_of_embeddings_each_once():
    module = nn.Sequential(
        nn.Embedding(5, 2, padding_idx=3),
        nn.Embedding(5, 2),
        nn.EmbeddingBag(5, 2, padding_idx=1),
        nn.Embedding(5, 2, padding_idx=3),
    )
    module.padding_idx = 4  # of no embedding
    assert padding_indices(module) == (3, 1)


@pytest.mark.parametrize(
    ("numbers", "sign"),
    [([1.0, 2.0], 1), ([-1.0, -2.0], -1), ([0.0, 1.0], 0), ([-1.0, 0.0], 0), ([3.0], 0), ([], 0)],
)
def test_the_sign_of_several_numbers(numbers, sign):
    assert one_sign(np.array(numbers)) == sign


def test_beside_inputs_every_float_moves_by_a_thousandth():
    array = 100 * RNG.normal(size=(50, 50))
    array[0, 0] = np.inf
    batch = given_batch([array, TOKENS, np.zeros((50, 50)), np.array([np.nan])])
    near = beside(batch, np.random.default_rng(1))
    assert near.label == f"beside the {AS_GIVEN}"
    assert not near.given
    move = near.arrays["0"][1:] - array[1:]
    assert move.std() == pytest.approx(0.1, rel=0.1)
    assert np.isinf(near.arrays["0"][0, 0])
    np.testing.assert_array_equal(near.arrays["1"], TOKENS)
    assert near.arrays["2"].std() == pytest.approx(1e-3, rel=0.1)
    assert np.isnan(near.arrays["3"]).all()


def batch(label, *arrays, given=True):
    made = given_batch(arrays)
    return Batch(label, made.arrays, made.structure, given)


def test_the_ranges_in_words():
    given = batch(
        "a",
        np.array([-1.0, 2.0]),
        np.array([1.0, 3.0]),
        np.array([-2.0, -1.0]),
        np.ones(2),
        TOKENS - 4,
    )
    other = batch(
        "zeros",
        np.array([-1.0, 20.0]),
        np.array([1.0, 9.0]),
        np.array([-8.0, -1.0]),
        np.ones(2),
        TOKENS - 4,
        given=False,
    )
    assert ranges_in_words([given, other], (0, 9, 7)) == [
        "The inputs were tried as given, zeros.",
        "Their ranges: input 0 from -1 to 20 (given: -1 to 2); input 1 from 1 to 9 (given: 1 to 3, "
        "and kept positive); input 2 from -8 to -1 (given: -2 to -1, and kept negative); input 3 "
        "as given only, as a mask; input 4 from -1 to 5.",
        "The padding index 9 lies outside the range of input 4, and was not tried.",
    ]
    assert (
        ranges_in_words([given, given], ())[0]
        == "The inputs were tried in 2 batches as given only."
    )
    assert ranges_in_words([given], (-1, 5))[0] == "The inputs were tried as given only."
    assert len(ranges_in_words([given], (-1, 5))) == 2
