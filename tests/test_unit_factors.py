"""Amounts that one array has more of than another, and their words."""

import numpy as np
import pytest

from parity.diagnosis import average_causes, update_amounts, update_rules
from parity.diagnosis.factors import (
    PARALLEL,
    SAME,
    common,
    factor_of,
    listed,
    middle,
    norm_of,
    times,
    written,
)

ARRAY = np.array([[1.0, -2.0], [3.0, 0.5]])
ACROSS = np.array([[2.0, 1.0], [0.0, 0.0]]) * np.linalg.norm(ARRAY) / np.sqrt(5)


@pytest.mark.parametrize("factor", [0.25, -3.0, 1.0, 0.0])
def test_a_factor_is_that_of_the_first_over_the_second(factor):
    assert factor_of(factor * ARRAY, ARRAY) == factor


def test_arrays_that_are_not_parallel_have_no_factor():
    np.testing.assert_allclose(np.sum(ARRAY * ACROSS), 0, atol=1e-12)
    assert factor_of(2 * ARRAY + 1.8 * PARALLEL * ACROSS, ARRAY) == 2
    assert np.isnan(factor_of(2 * ARRAY + 2.2 * PARALLEL * ACROSS, ARRAY))
    assert np.isnan(factor_of(np.full((2, 2), np.nan), ARRAY))


def test_nothing_is_once_nothing_and_no_times_something():
    zeros = np.zeros((2, 2))
    assert factor_of(zeros, zeros) == 1
    assert np.isnan(factor_of(ARRAY, zeros))


def test_what_is_common_is_the_same_but_for_round_off():
    assert common([2.0, 2.0 * (1 + 0.9 * SAME)]) == 2.0
    assert common([-2.0, -2.0 * (1 + 0.9 * SAME)]) == -2.0
    assert common(iter([2.0])) == 2.0
    for values in ([], [2.0, 2.0 * (1 + 1.1 * SAME)], [2.0, np.nan], [np.nan]):
        assert common(values) is None


@pytest.mark.parametrize("number", [0.1, 0.12, 0.123, 0.1234, 0.12345, 0.123456])
def test_a_number_is_written_with_the_digits_of_a_user(number):
    tolerance = 0.1 * SAME
    assert written(number * (1 + 0.9 * tolerance)) == number
    assert written(-number * (1 + 0.9 * tolerance)) == -number


def test_a_number_that_no_user_writes_stays_as_it_is():
    assert written(1 / 3) == 1 / 3
    assert written(0.123456 * (1 + 1.2 * 0.1 * SAME)) != 0.123456
    assert written(0.331, 1e-2) == 0.33
    assert written(0.0) == 0.0


def test_the_middle_is_the_median_of_all():
    assert middle([np.array([[1.0, 100.0]]), np.array([0.25])]) == 1
    assert middle([np.array([0.50004, 0.50004])]) == 0.5
    assert middle([np.array([0.5001, 0.5001])]) == 0.5001
    assert middle([np.zeros(0)]) == 0
    assert middle([np.array([1.0, 2.0, 4.0, 5.0])]) == 3


def test_the_norm_is_of_all_arrays_together():
    assert norm_of({"a": np.array([3.0]), "b": np.array([[4.0], [12.0]])}) == 13
    assert norm_of({}) == 0
    # In float64, whatever they are.
    assert norm_of({"a": np.full(2, 3e38, np.float32)}) == pytest.approx(3e38 * 2**0.5)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (0.25, "1/4 times"),
        (-0.5, "-1/2 times"),
        (-3.0, "-3 times"),
        (4.0, "4 times"),
        (1.0, "1 times"),
        (0.0, "0 times"),
        (0.3, "0.3 times"),
        (1 / 3, "1/3 times"),
        (1 / (3 * (1 + 0.9 * SAME)), "1/3 times"),
        (1 / (3 * (1 + 2 * SAME)), "0.333333 times"),
        (2.5, "2.5 times"),
        (1.0000001, "1 times"),
    ],
)
def test_a_factor_in_words(factor, words):
    assert times(factor) == words


def test_many_names_are_cut_after_four():
    assert listed(["a"]) == "a"
    assert listed(list("abcd")) == "a, b, c, d"
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"


def mantissa(number):
    return float(f"{number:.6e}".partition("e")[0])


@pytest.mark.parametrize(
    "numbers", [update_amounts.WEIGHT_DECAYS, update_amounts.NORMS, update_rules.EPSILONS]
)
def test_amounts_that_are_tried_are_such_as_users_set(numbers):
    """Halves, quarters and fifths of powers of ten, each once."""
    assert len(set(numbers)) == len(numbers)
    assert {mantissa(number) for number in numbers if number} <= {1, 2, 2.5, 5}


@pytest.mark.parametrize(
    "decays",
    [
        average_causes.DECAYS,
        update_rules.FIRST_DECAYS,
        update_rules.SECOND_DECAYS,
        update_rules.MOMENTA,
    ],
)
def test_decays_that_are_tried_leave_a_round_share(decays):
    assert list(decays) == sorted(set(decays))
    assert all(0 <= decay < 1 for decay in decays)
    assert {mantissa(1 - decay) for decay in decays} <= {1, 2, 5}
