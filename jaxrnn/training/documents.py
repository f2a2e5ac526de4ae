"""The loss on whole documents: every character predicted once.

Shapes: N characters of all documents, T time steps, B streams or windows side by side.

`jaxrnn.training.evaluation` measures as training validates: streams side by side, which waste the
beginning of each. Here a stateful model reads each document from its first character to its last,
in one stream; a windowed model reads its windows, of each document apart. What is read without
being predicted: the first character of a document, which has nothing before it, or, where a model
predicts behind a whole window only, the characters of the first window.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.array_checks import precision
from jaxrnn.checks import check_tokens
from jaxrnn.nn.model import CharModel, apply_model
from jaxrnn.programs import bounded_jit, power_of_two
from jaxrnn.recurrent.cells import Carry

# Minimum number of characters that a stream predicts, where a document is cut into several.
OWN = 8_192
# Number of characters that a stream reads before its own, without counting them: its carry is then
# what it would be behind the whole document. (From zeros, and without them, a cut costs 2 to 5
# nats in all; over `OWN` characters that alone would be less than 0.001 a character.)
WARM = 1_024
# Maximum number of streams side by side.
MOST_STREAMS = 64
# Maximum number of characters of each stream in one call; fewer for shorter texts.
STEPS = 256
# Maximum number of windows in one call.
WINDOWS = 512


class Reading(NamedTuple):
    """How far the documents are read.

    Attributes:
        share: fraction of the work done, in (0, 1].
        losses: (N,) loss of each character of the documents, in nats; NaN where it is not
            predicted, or not yet.
        streams: number of streams that the documents are cut into.
        cut: whether a document is cut into several.
    """

    share: float
    losses: np.ndarray
    streams: int
    cut: bool

    @property
    def predicted(self) -> int:
        """Number of characters predicted so far."""
        return int(self.losses.size - np.isnan(self.losses).sum())

    @property
    def nats(self) -> float:
        """The mean loss of the characters predicted so far, in nats per character."""
        if not self.predicted:
            return float("nan")
        return float(np.nanmean(self.losses))


class Stream(NamedTuple):
    """A part of the text that is read from a carry of zeros: positions in all documents' tokens.

    Attributes:
        begin: the first character that is read.
        own: the first character whose prediction, of the character behind it, counts.
        end: behind the last such character; it is the last to be predicted.
    """

    begin: int
    own: int
    end: int


def reading(
    model: CharModel, params: Any, documents: Sequence[np.ndarray], *, window: int
) -> Iterator[Reading]:
    """Predict every character of some documents once, and yield how far it has come.

    Args:
        model: the model.
        params: its parameters.
        documents: the tokens of each, (characters,), without `<eos>`.
        window: how many characters a windowed model reads.

    Raises:
        ValueError: if a token is outside the vocabulary, no document is long enough for one
            prediction, or a loss is NaN.
    """
    for document in documents:
        check_tokens(document, model.vocab_size, axes=1)
    # All documents in one array, and where each begins and ends in it.
    tokens = np.concatenate([np.zeros(0, np.int32), *documents]).astype(np.int32)  # (N,)
    lengths = np.array([len(document) for document in documents], int)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    streamed = model.reads == "streams"
    read = _read_streams if streamed else partial(_read_windows, window=window)
    progress = None
    for progress in read(model, params, tokens, begins.tolist(), ends.tolist()):
        yield progress
    if progress is None:
        least = 2 if streamed or model.reads == "non-overlapping" else window + 1
        raise ValueError(
            f"No document has {least} characters: {type(model).__name__} has nothing to predict."
        )


def streams_of(begin: int, end: int) -> list[Stream]:
    """The streams of a document at `begin` to `end`: one, or for a long one several."""
    predicted = end - begin - 1
    if predicted < 1:
        return []
    count = min(max(predicted // OWN, 1), MOST_STREAMS)
    if count == 2:
        count = 1  # with what is read twice, two would hardly be faster
    cuts = begin + np.linspace(0, predicted, count + 1).astype(int)  # (count + 1,)
    return [Stream(max(begin, own - WARM), own, stop) for own, stop in pairwise(cuts.tolist())]


def _read_streams(
    model: CharModel, params: Any, tokens: np.ndarray, begins: list[int], ends: list[int]
) -> Iterator[Reading]:
    """As `reading`, of a stateful model."""
    streams: list[Stream] = []
    cut = False
    for begin, end in zip(begins, ends, strict=True):
        found = streams_of(begin, end)
        streams += found
        cut |= len(found) > 1
    if not streams:
        return

    # Powers of two: few programs for texts of all lengths.
    longest = max(stream.end - stream.begin for stream in streams)
    steps = min(STEPS, power_of_two(longest))
    batch_size = min(MOST_STREAMS, power_of_two(len(streams)))
    lanes = _lanes(streams, batch_size, steps)
    calls = max(len(lane) for lane in lanes)

    losses = np.full(len(tokens), np.nan)  # (N,)
    carry = model.initial_carry(batch_size, precision(params))
    for call in range(calls):
        # What each row reads now; some have nothing left.
        reads = [(row, *lane[call]) for row, lane in enumerate(lanes) if call < len(lane)]

        # Each row's next characters, and the character behind each.
        inputs = np.zeros((steps, batch_size), np.int32)
        targets = np.zeros((steps, batch_size), np.int32)
        fresh = np.zeros(batch_size, bool)
        for row, stream, at in reads:
            stop = min(at + steps, stream.end)
            inputs[: stop - at, row] = tokens[at:stop]
            targets[: stop - at, row] = tokens[at + 1 : stop + 1]
            fresh[row] = at == stream.begin
        carry, stream_losses = _stream_losses(model, params, carry, inputs, targets, fresh)

        # Back to the places in the text, without those that another stream predicts.
        found_losses = np.asarray(stream_losses, float)  # (T, B)
        for row, stream, at in reads:
            first = max(at, stream.own)
            stop = min(at + steps, stream.end)
            if first < stop:
                own = found_losses[first - at : stop - at, row]
                losses[first + 1 : stop + 1] = _checked(own)
        yield Reading((call + 1) / calls, losses, len(streams), cut)


def _lanes(
    streams: Sequence[Stream], batch_size: int, steps: int
) -> list[list[tuple[Stream, int]]]:
    """For each of the B rows, the stream of each call and the position that it reads from."""
    lanes: list[list[tuple[Stream, int]]] = [[] for _ in range(batch_size)]
    # The longest stream first, each to the row with the least to read: rows of about one length.
    for stream in sorted(streams, key=lambda stream: stream.begin - stream.end):
        shortest = min(lanes, key=len)
        for at in range(stream.begin, stream.end, steps):
            shortest.append((stream, at))
    return lanes


@bounded_jit(static_argnames=("model",))
def _stream_losses(
    model: CharModel,
    params: Any,
    carry: Carry,
    inputs: Int[Array, "T B"],
    targets: Int[Array, "T B"],
    fresh: Bool[Array, " B"],
) -> tuple[Carry, Float[Array, "T B"]]:
    """The carry after the inputs, and the loss of each target; `fresh` rows start from zeros."""

    def begun(start: Array, now: Array) -> Array:
        rows = fresh.reshape(-1, *[1] * (now.ndim - 1))  # (B,) -> (B, 1)
        return jnp.where(rows, start, now)

    start = model.initial_carry(len(fresh), precision(params))
    carry = jax.tree.map(begun, start, carry)
    carry, log_probs = apply_model(model, params, carry, inputs)
    return carry, _losses(log_probs, targets)


def _read_windows(
    model: CharModel,
    params: Any,
    tokens: np.ndarray,
    begins: list[int],
    ends: list[int],
    *,
    window: int,
) -> Iterator[Reading]:
    """As `reading`, of a windowed model."""
    # Windows side by side where every step predicts, else one for each predicted character.
    every_step = model.reads == "non-overlapping"
    stride = window if every_step else 1
    starts = [np.zeros(0, int)]  # of each window
    stops = [np.zeros(0, int)]  # where its document ends
    for begin, end in zip(begins, ends, strict=True):
        last = end - 1 if every_step else end - window
        found = np.arange(begin, max(last, begin), stride)
        starts.append(found)
        stops.append(np.full(len(found), end))
    start = np.concatenate(starts)  # (windows,)
    stop = np.concatenate(stops)

    losses = np.full(len(tokens), np.nan)  # (N,)
    batch_size = min(WINDOWS, power_of_two(max(len(start), 1)))
    for first in range(0, len(start), batch_size):
        # The last batch is filled up with its last window, whose losses are then set again.
        rows = np.minimum(np.arange(first, first + batch_size), len(start) - 1)  # (B,)
        places = start[rows] + np.arange(window + 1)[:, None]  # (T + 1, B)
        read = tokens[np.minimum(places, len(tokens) - 1)]
        found = np.asarray(_window_losses(model, params, read[:-1], read[1:]), float)
        predicted = places[1:] if every_step else places[-1:]  # (T, B) or (1, B)
        # The last window of a document may reach beyond it.
        counted = predicted < stop[rows]
        losses[predicted[counted]] = _checked(found.reshape(predicted.shape)[counted])
        share = min(1.0, (first + batch_size) / len(start))
        yield Reading(share, losses, len(ends), False)


@bounded_jit(static_argnames=("model",))
def _window_losses(
    model: CharModel, params: Any, inputs: Int[Array, "T B"], targets: Int[Array, "T B"]
) -> Float[Array, "..."]:
    """The loss of each target that the model predicts: (T, B), or (B,) of the last alone."""
    _, log_probs = apply_model(model, params, (), inputs)
    if log_probs.ndim == 2:
        targets = targets[-1]  # (T, B) -> (B,)
    return _losses(log_probs, targets)


def _losses(log_probs: Float[Array, "... V"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """The negative log likelihood of each target."""
    return -jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]


def _checked(losses: np.ndarray) -> np.ndarray:
    """The losses, none of which is NaN."""
    if np.isnan(losses).any():
        raise ValueError(
            "The loss is NaN: the model's weights hold NaN or infinity, or are far too large. "
            "Take another checkpoint."
        )
    return losses
