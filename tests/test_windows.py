"""Windows: every character once, in order, and reachable directly."""

import tracemalloc

import numpy as np
import pytest

from jaxrnn import BpttStream, WindowSet
from jaxrnn.data.windows import (
    FARTHEST,
    SHORTEST,
    Progression,
    non_overlapping_starts,
    overlapping_starts,
    split_starts,
    trigram_starts,
)

TOKENS = np.arange(1000)


@pytest.mark.parametrize("random_bptt", [False, True])
@pytest.mark.parametrize(("batch_size", "bptt"), [(1, 7), (3, 8), (10, 99), (10, 200), (500, 1)])
def test_windows_tile_each_stream_and_targets_are_one_later(batch_size, bptt, random_bptt):
    stream = BpttStream(TOKENS, batch_size, bptt, random_bptt)
    for epoch in range(3):
        windows = [stream.window(epoch, k) for k in range(stream.steps(epoch))]
        inputs = np.concatenate([x for x, _ in windows])
        targets = np.concatenate([y for _, y in windows])
        np.testing.assert_array_equal(inputs, stream.matrix[: len(inputs)])
        np.testing.assert_array_equal(targets, stream.matrix[1 : len(inputs) + 1])
        assert all(len(x) >= 1 for x, _ in windows)
        assert len(windows) <= stream.steps_per_epoch
        if not random_bptt:
            assert len(inputs) == stream.rows - 1


def test_columns_are_contiguous_parts():
    matrix = BpttStream(TOKENS, 3, 8).matrix
    assert matrix.shape == (333, 3)
    assert matrix[0].tolist() == [0, 333, 666]
    assert matrix[:, 1].tolist() == list(range(333, 666))


@pytest.mark.parametrize("random_bptt", [False, True])
def test_many_windows_at_once_are_the_single_ones(random_bptt):
    stream = BpttStream(TOKENS, 4, 8, random_bptt, seed=3)
    steps = stream.steps(2)
    windows = stream.windows(2, 1, steps + 5)
    for k in range(1, steps):
        start, length = windows.starts[k - 1], windows.lengths[k - 1]
        inputs, _ = stream.window(2, k)
        np.testing.assert_array_equal(TOKENS[start + np.arange(length)[:, None]], inputs)
    assert not windows.lengths[steps - 1 :].any()  # past the end, nothing
    with pytest.raises(IndexError, match=f"0 to {steps - 1}, got {steps}"):
        stream.window(2, steps)


def test_random_lengths_are_torchtexts():
    stream = BpttStream(np.zeros(2_000_000, np.uint8), 4, 20, True)
    lengths = np.concatenate([stream.windows(e, 0, stream.steps(e) - 1).lengths for e in range(4)])
    assert len(lengths) > 90_000
    assert lengths.min() == SHORTEST
    assert lengths.max() <= 20 + FARTHEST
    # int() cuts half a character off the mean; 5 % are drawn around 10
    full = lengths[lengths > 24]
    assert abs(lengths.mean() - (0.95 * 20 + 0.05 * 10 - 0.5)) < 0.15
    assert abs((lengths < 10).mean() - (0.95 * 0.0228 + 0.05 * 0.5)) < 0.005
    assert abs(len(full) / len(lengths) - 0.95 * 0.1587) < 0.01


def test_random_windows_depend_on_seed_and_epoch_alone():
    def lengths(seed, epoch):
        return BpttStream(TOKENS, 2, 8, True, seed=seed).windows(epoch, 0, 30).lengths.tolist()

    assert lengths(0, 1) == lengths(0, 1)
    assert lengths(0, 1) != lengths(0, 2)
    assert lengths(0, 1) != lengths(1, 1)


@pytest.mark.parametrize("bptt", [1, 4, 8, 35, 70])
def test_padded_sizes_are_few_hold_every_length_and_waste_little(bptt):
    stream = BpttStream(np.zeros(500_000, np.uint8), 8, bptt, True)
    lengths = stream.windows(0, 0, stream.steps(0)).lengths
    sizes = np.array(stream.sizes)
    assert len(sizes) <= 6
    assert sizes[-1] >= bptt + FARTHEST
    padded = sizes[np.searchsorted(sizes, lengths)]
    assert padded.sum() < 1.2 * lengths.sum()


def test_a_short_text_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"3 tokens: too short for 2 .* batch of at most 1"):
        BpttStream(np.arange(3), 2, 8)
    with pytest.raises(ValueError, match="bptt must be at least 1, got 0"):
        BpttStream(TOKENS, 2, 0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        BpttStream(TOKENS, 0, 2)
    with pytest.raises(ValueError, match="too short for a window"):
        WindowSet(TOKENS[:5], overlapping_starts(5), 8, 2)


def test_each_epoch_reads_every_window_once_in_another_order():
    starts = overlapping_starts(len(TOKENS))
    windows = WindowSet(TOKENS, starts, 8, 64)
    orders = []
    for epoch in range(2):
        read = windows.windows(epoch, 0, windows.steps(epoch))
        counted = np.arange(64) < read.rows[:, None]
        orders.append(read.starts[counted].tolist())
        assert sorted(orders[-1]) == starts.tolist()
        assert read.rows.tolist() == [64] * 15 + [31]
    assert orders[0] != orders[1]
    again = windows.windows(1, 3, 2).starts
    np.testing.assert_array_equal(again.ravel(), orders[1][3 * 64 : 5 * 64])


def test_contiguous_split_shares_no_character_and_random_split_does():
    starts = overlapping_starts(len(TOKENS))
    for split, shares in (("contiguous", False), ("random", True)):
        training, validation = split_starts(starts, 8, split)
        read = {s + t for s in training.tolist() for t in range(9)}
        held_out = {s + t for s in validation.tolist() for t in range(9)}
        assert bool(read & held_out) == shares
        assert len(validation) == int(0.2 * len(starts))


def test_starts_of_the_three_windowed_sets():
    assert trigram_starts(20).tolist() == [0, 3, 6, 9]
    assert overlapping_starts(12).tolist() == [0, 1, 2]
    assert non_overlapping_starts(30).tolist() == [0, 8, 16]
    training, validation = split_starts(trigram_starts(20), 3, "last")
    assert (training.tolist(), validation.tolist()) == ([0, 3, 6], [9])


def test_even_starts_are_the_array_that_they_stand_for():
    starts, array = Progression(range(5, 50, 4)), np.arange(5, 50, 4)
    np.testing.assert_array_equal(starts, array)
    np.testing.assert_array_equal(starts + 1, array + 1)
    np.testing.assert_array_equal(starts < 20, array < 20)
    mask = array % 3 == 0
    for index in (mask, np.array([3, -1, 0]), np.array([[1], [2]]), np.zeros(0, int)):
        np.testing.assert_array_equal(starts[index], array[index])
    for index in (slice(2, 7), slice(None, -2), slice(9, 3)):
        assert isinstance(starts[index], Progression)
        np.testing.assert_array_equal(starts[index], array[index])
    for limit in (0, 5, 6, 9, 13, 50, 99):
        np.testing.assert_array_equal(starts.below(limit), array[array < limit])
    assert (starts[3], starts[-1], starts.min(), starts.max()) == (17, 49, 5, 49)
    assert (list(starts), starts.tolist(), starts.shape) == (array.tolist(), array.tolist(), (12,))
    for bad in (12, np.array([12]), np.array([-13])):
        with pytest.raises(IndexError):
            starts[bad]


def test_even_starts_beyond_int32_do_not_wrap():
    starts = Progression(range(0, 2**31 + 10, 5))
    assert starts[np.array([-1])].tolist() == [2**31 + 7]
    assert starts[-2:].tolist() == np.asarray(starts[-2:]).tolist() == [2**31 + 2, 2**31 + 7]


@pytest.mark.parametrize("length", [3, 8])
@pytest.mark.parametrize("split", ["random", "contiguous", "last"])
def test_a_split_of_even_starts_is_that_of_the_array(split, length):
    for n in (10, 100, 3001):
        starts = overlapping_starts(n, length)
        halves = (
            split_starts(starts, length, split),
            split_starts(np.asarray(starts), length, split),
        )
        for got, expected in zip(*halves, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_order_of_an_epoch_is_numpys_permutation(seed):
    """Losses that were published depend on it."""
    windows = WindowSet(TOKENS, overlapping_starts(len(TOKENS)), 8, 1, seed=seed)
    for epoch in (0, 3, 0):
        expected = np.random.default_rng([seed, epoch]).permutation(len(windows.starts))
        read = windows.windows(epoch, 0, len(expected)).starts[:, 0]
        np.testing.assert_array_equal(read, expected)
    chosen = np.random.RandomState(42).permutation(500)[:100]
    np.testing.assert_array_equal(split_starts(overlapping_starts(509), 8, "random")[1], chosen)


@pytest.mark.parametrize(("split", "most"), [("random", 7.5), ("contiguous", 3.5)])
def test_overlapping_windows_take_few_bytes_a_character(split, most):
    """Two int32 numbers for each window that is drawn at random, one for its order alone."""
    tokens = np.zeros(2_000_000, np.uint8)
    tracemalloc.start()
    try:
        training, validation = split_starts(overlapping_starts(len(tokens)), 8, split)
        sets = [WindowSet(tokens, starts, 8, 64) for starts in (training, validation[:100])]
        for epoch in range(3):
            for windows in sets:
                windows.windows(epoch, 0, 64)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most * len(tokens)


def test_a_text_whose_positions_leave_int32_is_refused():
    tokens = np.broadcast_to(np.uint8(1), 2**31)  # takes one byte
    with pytest.raises(ValueError, match=r"at most 2\*\*31 - 1 tokens, got 2147483648"):
        BpttStream(tokens, 2, 8)
    with pytest.raises(ValueError, match=r"at most 2\*\*31 - 1 tokens, got 2147483648"):
        WindowSet(tokens, overlapping_starts(len(tokens)), 8, 2)
