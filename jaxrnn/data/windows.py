"""Windows of a token array, which the training steps read.

Shapes: N tokens, T time steps, B batch.

Both kinds of data set, shuffled windows (`WindowSet`) and contiguous streams (`BpttStream`), give
the positions at which the windows of a batch start; `Windows` holds those of some steps in a row.
The characters are cut out of the one token array where the training runs. Window k of epoch e is a
pure function of (k, e), so that a resumed run continues where it stopped.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from jaxrnn.checks import (
    as_host_array,
    check_at_least_0,
    check_at_least_1,
    check_bool,
    check_starts,
    check_tokens,
    shown,
)

# Standard deviation of the random bptt, in characters (TorchText's).
STREAM_DEVIATION = 5
# Minimum random bptt.
SHORTEST = 5
# Probability that a random bptt is sampled around half of bptt.
HALVED = 0.05
# Maximum excess of a random bptt over bptt: nothing lies beyond six standard deviations.
FARTHEST = 6 * STREAM_DEVIATION
# Number of sizes to which random windows are padded: more waste less and take longer to compile.
PADDED_SIZES = 6

# Maximum number of tokens in a text: positions are int32 where training runs.
LARGEST_TEXT = 2**31 - 1
# Number of windows of a large text that are processed at once.
BLOCK = 1 << 16

# Choice of the windows to validate on; see `split_starts`.
Split = Literal["random", "contiguous", "last"]


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of S steps: step s reads `tokens[starts[s, b] + t]` for t < lengths[s].

    The target of every token is the token after it. Of the B windows of a step the first `rows`
    count; the others only fill the array. `jaxrnn.training.steps` registers it with JAX: the arrays
    are arguments of a program, `sizes` and `padded` are part of it.

    Attributes:
        tokens: (N,) the text, on the host or on the device.
        starts: (S, B) int32, positions at which the windows of each step start.
        lengths: (S,) int32, number of tokens that each row of a step reads.
        rows: (S,) int32, number of rows of a step that count.
        sizes: the lengths to which windows are padded; one branch is compiled for each.
        padded: whether a window can be shorter than its size.
    """

    tokens: Any
    starts: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    sizes: tuple[int, ...]
    padded: bool

    def with_tokens(self, tokens: Any) -> "Windows":
        """The same windows of `tokens`, the same text on the device of the steps."""
        return replace(self, tokens=tokens)


class Progression(NDArrayOperatorsMixin):
    """Evenly spaced starts of windows: an array whose elements are computed on demand.

    Slices are progressions; every other result is an array, of int32 where that holds every start.

    Attributes:
        places: the first start, the end and the step.
    """

    def __init__(self, places: range) -> None:
        self.places = places

    @property
    def dtype(self) -> np.dtype:
        """The type of the starts."""
        return np.dtype(np.int32 if self.places.stop <= LARGEST_TEXT else np.int64)

    @property
    def shape(self) -> tuple[int]:
        """As an array has it."""
        return (len(self.places),)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Progression(self.places[index])
        if isinstance(index, int | np.integer):
            return self.places[index]
        # As NumPy indexes by a mask or by positions, negative ones counted from the end.
        index = np.asarray(index)
        if index.dtype == bool:
            chosen = _true_places(index, self.dtype)
        else:
            chosen = index.astype(self.dtype)
            if chosen.size and not -len(self) <= chosen.min() <= chosen.max() < len(self):
                raise IndexError(f"There are {len(self)} starts.")
            chosen[chosen < 0] += len(self)
        # From indices to starts, in place: each copy of a large text's starts is large.
        chosen *= self.places.step
        chosen += self.places.start
        return chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        places = self.places
        return np.arange(places.start, places.stop, places.step, dtype=dtype or self.dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        # Python numbers stay as they are: NumPy promotes an array with them otherwise.
        arrays = [np.asarray(i) if isinstance(i, Progression) else i for i in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __repr__(self) -> str:
        return f"Progression({self.places})"

    def min(self) -> int:
        """The first start."""
        return self.places[0]

    def max(self) -> int:
        """The last start."""
        return self.places[-1]

    def tolist(self) -> list[int]:
        """The starts, as an array gives them."""
        return list(self.places)

    def below(self, limit: int) -> "Progression":
        """The starts below `limit`."""
        # Rounded up: the number of steps from the first start to `limit`.
        count = max(0, -((self.places.start - limit) // self.places.step))
        return self[:count]


def _true_places(mask: np.ndarray, dtype: Any) -> np.ndarray:
    """The indices at which `mask` is true, like `np.flatnonzero`, but not in int64: 8 times it."""
    places = np.empty(int(np.count_nonzero(mask)), dtype)
    filled = 0
    for first in range(0, len(mask), BLOCK):
        found = np.flatnonzero(mask[first : first + BLOCK])
        places[filled : filled + len(found)] = found + first
        filled += len(found)
    return places


def _numbers(count: int) -> np.ndarray:
    """0 to count - 1, in int32 where that holds them: shuffled, the numbers are the same."""
    return np.arange(count, dtype=np.int32 if count <= LARGEST_TEXT else np.int64)


@dataclass(frozen=True, eq=False)
class WindowSet:
    """Windows of one length, in a new random order each epoch.

    Attributes:
        tokens: (N,) the text.
        starts: (windows,) position at which each window starts; a `Progression` takes no memory.
        length: T.
        batch_size: B; the last batch of an epoch may have fewer rows.
        shuffled: whether the order is random; it is that of `starts` if not.
        seed: seed of the order.
    """

    tokens: np.ndarray
    starts: np.ndarray | Progression
    length: int
    batch_size: int
    shuffled: bool = True
    seed: int = 0
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_at_least_1(batch_size=self.batch_size, length=self.length)
        check_at_least_0(seed=self.seed)
        check_bool(shuffled=self.shuffled)
        object.__setattr__(self, "tokens", _as_tokens(self.tokens))
        object.__setattr__(self, "starts", _as_starts(self.starts))
        if len(self.starts) == 0:
            raise ValueError(f"The text has {len(self.tokens)} characters: too short for a window.")
        check_starts(self.starts, self.length, len(self.tokens))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths to which windows are padded: here all windows have one."""
        return (self.length,)

    @property
    def padded(self) -> bool:
        """Whether a window may be shorter than the size that it is padded to: never here."""
        return False

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.starts) // self.batch_size)

    def steps(self, epoch: int) -> int:
        """Number of batches in epoch `epoch`."""
        return self.steps_per_epoch

    def windows(self, epoch: int, first: int, count: int) -> Windows:
        """Batches `first` to `first + count - 1` of epoch `epoch`."""
        # Past the end of the epoch, the last window fills the batches, and no row of it counts.
        batches = np.arange(first, first + count)  # (S,)
        rows = np.clip(len(self.starts) - self.batch_size * batches, 0, self.batch_size)
        chosen = np.arange(first * self.batch_size, (first + count) * self.batch_size)  # (S B,)
        chosen = np.minimum(chosen, len(self.starts) - 1)
        if self.shuffled:
            chosen = self._order(epoch)[chosen]
        starts = self.starts[chosen]
        return Windows(
            tokens=self.tokens,
            starts=starts.reshape(count, self.batch_size).astype(np.int32),
            lengths=np.full(count, self.length, np.int32),
            rows=rows.astype(np.int32),
            sizes=self.sizes,
            padded=self.padded,
        )

    def _order(self, epoch: int) -> np.ndarray:
        """(windows,) the order of an epoch; the last one is cached."""
        order = self._orders.get(epoch)
        if order is None:
            self._orders.clear()
            order = _numbers(len(self.starts))
            np.random.default_rng([self.seed, epoch]).shuffle(order)
            self._orders[epoch] = order
        return order

    @property
    def inputs(self) -> np.ndarray:
        """The input characters of every window, one window a row: (windows, T)."""
        return self.tokens[np.asarray(self.starts)[:, None] + np.arange(self.length)]

    @property
    def targets(self) -> np.ndarray:
        """The character after each input character: (windows, T)."""
        return self.tokens[np.asarray(self.starts)[:, None] + np.arange(1, self.length + 1)]


def trigram_starts(n: int) -> Progression:
    """Starts of the course's windows of three characters in n: every third, less two."""
    check_at_least_0(n=n)
    return Progression(range(0, n - 1 - 3, 3)[:-2])


def overlapping_starts(n: int, length: int = 8) -> Progression:
    """Starts of overlapping windows: at every character, so that 7 of 8 are shared."""
    check_at_least_0(n=n)
    check_at_least_1(length=length)
    return Progression(range(0, n - length - 1))


def non_overlapping_starts(n: int, length: int = 8) -> Progression:
    """Starts of windows side by side."""
    check_at_least_0(n=n)
    check_at_least_1(length=length)
    return Progression(range(0, n - length - 1, length))


def split_starts(
    starts: np.ndarray | Progression,
    length: int,
    split: Split,
    *,
    sampled_from: int | None = None,
) -> tuple[np.ndarray | Progression, np.ndarray | Progression]:
    """Training and validation windows.

    Args:
        starts: (windows,) starts of all windows.
        length: their length.
        split: "random" validates on the course's 20 %, sampled with seed 42; windows that overlap
            then share characters across the split. "contiguous" validates on the last 20 % and
            leaves out the training windows that would reach into them. "last" validates on the
            last window alone, as the course does for `Char3Model`.
        sampled_from: number of windows, from the first on, for "random" to sample among; None for
            all. (The course subtracts the window length once too often from the non-overlapping
            ones.)

    Raises:
        ValueError: if there is no such split, or a number or the starts are of another kind.
    """
    starts = _as_starts(starts)
    check_at_least_1(length=length)
    if split not in get_args(Split):
        named = ", ".join(get_args(Split))
        raise ValueError(f"split must be one of {named}, got {shown(split)}.")
    if split == "last":
        return starts[:-1], starts[-1:]
    if split == "random":
        count = len(starts) if sampled_from is None else _at_most(sampled_from, len(starts))
        numbers = _numbers(count)
        # The legacy generator, as in the course: the same windows as there.
        np.random.RandomState(42).shuffle(numbers)
        chosen = numbers[: int(0.2 * count)].copy()
        del numbers  # of a large text, each array is large
        mask = np.ones(len(starts), bool)
        mask[chosen] = False
        training = starts[mask]
        del mask
        return training, starts[chosen]

    # "contiguous": no training window may share a character with the first window to validate on.
    training_count = len(starts) - int(0.2 * len(starts))
    validation = starts[training_count:]
    if len(validation) == 0:
        return starts, validation
    limit = int(validation[0]) - length
    if isinstance(starts, Progression):
        return starts.below(limit), validation
    return starts[starts < limit], validation


def _at_most(sampled_from: Any, count: int) -> int:
    """A number of windows to sample among; none where a short text leaves less than none.

    Raises:
        ValueError: if it is no integer, or more than there are.
    """
    if not isinstance(sampled_from, int | np.integer) or sampled_from > count:
        raise ValueError(
            f"sampled_from must be an integer of at most the {count} windows, got "
            f"{shown(sampled_from)}."
        )
    return max(int(sampled_from), 0)


@dataclass(frozen=True, eq=False)
class BpttStream:
    """A text as B parallel streams, read in consecutive windows of about `bptt` characters.

    Column b is the b-th of B equal contiguous parts, so that row b of every window goes on where
    row b of the window before ended, and the carry can too.

    With `random_bptt` the windows are TorchText's: a length is normal with deviation 5 around
    bptt, or (5 %) around bptt / 2, at least 5; an epoch ends after rows // bptt - 1 windows or
    with the text. Without, every window has `bptt` characters but the last, which has what is left.

    Attributes:
        tokens: (N,) the text.
        batch_size: B.
        bptt: the (mean) length of a window.
        random_bptt: whether lengths are random.
        seed: seed of the lengths.
    """

    tokens: np.ndarray
    batch_size: int
    bptt: int
    random_bptt: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least_1(batch_size=self.batch_size, bptt=self.bptt)
        check_at_least_0(seed=self.seed)
        check_bool(random_bptt=self.random_bptt)
        object.__setattr__(self, "tokens", _as_tokens(self.tokens))
        if self.rows < 2:
            raise ValueError(
                f"The text has {len(self.tokens)} tokens: too short for {self.batch_size} streams "
                f"of at least 2. Give it more text or a batch of at most {len(self.tokens) // 2}."
            )

    @property
    def rows(self) -> int:
        """Number of tokens in each of the B streams."""
        return len(self.tokens) // self.batch_size

    @property
    def matrix(self) -> np.ndarray:
        """The streams side by side: (rows, B)."""
        return self.tokens[: self.rows * self.batch_size].reshape(self.batch_size, self.rows).T

    @property
    def steps_per_epoch(self) -> int:
        """Maximum number of windows in an epoch."""
        if self.random_bptt:
            return max(1, self.rows // self.bptt - 1)
        return -(-(self.rows - 1) // self.bptt)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The lengths to which windows are padded: few, so that few programs are compiled."""
        if not self.random_bptt:
            # All windows but the last, and the last, which has what is left.
            left = (self.rows - 1) % self.bptt
            return tuple(sorted({min(self.bptt, self.rows - 1), left} - {0}))
        return _padded_sizes(self.bptt)

    @property
    def padded(self) -> bool:
        """Whether a window may be shorter than the size that it is padded to."""
        return self.random_bptt

    def steps(self, epoch: int) -> int:
        """Number of windows in epoch `epoch`."""
        if not self.random_bptt:
            return self.steps_per_epoch
        return len(self._cuts(epoch)) - 1

    def windows(self, epoch: int, first: int, count: int) -> Windows:
        """Windows `first` to `first + count - 1` of epoch `epoch`; past its end, empty ones."""
        cuts = self._cuts_at(epoch, np.arange(first, first + count + 1))  # (S + 1,)
        columns = np.arange(self.batch_size) * self.rows  # (B,)
        return Windows(
            tokens=self.tokens,
            starts=(cuts[:-1, None] + columns).astype(np.int32),  # (S, B)
            lengths=np.diff(cuts).astype(np.int32),
            rows=np.full(count, self.batch_size, np.int32),
            sizes=self.sizes,
            padded=self.padded,
        )

    def window(self, epoch: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (T, B) of window k of epoch `epoch`."""
        if not 0 <= k < self.steps(epoch):
            raise IndexError(f"Epoch {epoch} has windows 0 to {self.steps(epoch) - 1}, got {k}.")
        start, stop = self._cuts_at(epoch, np.arange(k, k + 2))
        return self.matrix[start:stop], self.matrix[start + 1 : stop + 1]

    def _cuts_at(self, epoch: int, k: np.ndarray) -> np.ndarray:
        """Rows of `matrix` at which windows k of an epoch begin; past its end, the end."""
        if not self.random_bptt:
            return np.minimum(k * self.bptt, self.rows - 1)
        cuts = self._cuts(epoch)
        return cuts[np.minimum(k, len(cuts) - 1)]

    def _cuts(self, epoch: int) -> np.ndarray:
        """The rows at which the random windows of an epoch begin, and the end of the last."""
        return _random_cuts(self.rows, self.bptt, self.steps_per_epoch, self.seed, epoch)


def _as_starts(starts: Any) -> np.ndarray | Progression:
    """Starts of windows: a list as an array.

    Raises:
        ValueError: if they are no integers on one axis.
    """
    if isinstance(starts, Progression):
        return starts
    array = as_host_array("starts", starts)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            "starts must be integers (windows,), as jaxrnn.overlapping_starts gives; got "
            f"{array.dtype} of shape {array.shape}."
        )
    return array


def _as_tokens(tokens: Any) -> Any:
    """The tokens of a text: a list as an array.

    Raises:
        ValueError: if they are no integers of at least 0 on one axis, or their positions do not fit
            into int32.
    """
    if isinstance(tokens, str):
        raise ValueError("tokens must be integers, got a text: take vocabulary.encode(text).")
    if not hasattr(tokens, "shape"):
        tokens = as_host_array("tokens", tokens)
    check_tokens(tokens, axes=1)
    if len(tokens) > LARGEST_TEXT:
        raise ValueError(
            f"A text holds at most 2**31 - 1 tokens, got {len(tokens)}: train on a part of it."
        )
    return tokens


@lru_cache(maxsize=4)
def _random_cuts(rows: int, bptt: int, most: int, seed: int, epoch: int) -> np.ndarray:
    # Up to `most` windows, or as many as the text has.
    lengths = _random_lengths(np.random.default_rng([seed, epoch]), bptt, most)
    ends = np.cumsum(lengths)
    count = min(most, int(np.searchsorted(ends, rows - 1)) + 1)
    return np.minimum(np.concatenate([[0], ends[:count]]), rows - 1)


def _random_lengths(rng: np.random.Generator, bptt: int, count: int) -> np.ndarray:
    # TorchText's rule, around bptt or half of it; only the upper bound is ours.
    base = np.where(rng.random(count) < HALVED, bptt / 2, bptt)
    lengths = rng.normal(base, STREAM_DEVIATION).astype(np.int64)
    return np.clip(lengths, SHORTEST, max(bptt + FARTHEST, SHORTEST))


@lru_cache
def _padded_sizes(bptt: int) -> tuple[int, ...]:
    """The `PADDED_SIZES` sizes, the largest possible length among them, that pad the least.

    Dynamic programming over sampled lengths: `best[k, j]` is the least total of k sizes that hold
    the first j distinct lengths, the largest of them exactly.
    """
    sampled = _random_lengths(np.random.default_rng(0), bptt, 10_000)
    lengths, counts = np.unique(sampled, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])  # number of windows among the first j lengths
    best = np.full((PADDED_SIZES, len(lengths) + 1), np.inf)
    best[0, 0] = 0
    chosen = np.zeros_like(best, dtype=int)
    for k in range(1, PADDED_SIZES):
        for j in range(1, len(lengths) + 1):
            # The k-th size pads the windows behind the first i lengths, for each i < j.
            totals = best[k - 1, :j] + lengths[j - 1] * (before[j] - before[:j])  # (j,)
            chosen[k, j] = totals.argmin()
            best[k, j] = totals.min()
    # Back from all the lengths to none, by the sizes that were chosen.
    sizes = {max(bptt + FARTHEST, SHORTEST)}
    j = len(lengths)
    for k in range(int(best[:, j].argmin()), 0, -1):
        sizes.add(int(lengths[j - 1]))
        j = chosen[k, j]
    return tuple(sorted(sizes))
