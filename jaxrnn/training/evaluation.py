"""Evaluation as training validates: the mean loss of a model on windows of a text.

`jaxrnn.training.documents` measures whole documents, every character once.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.array_checks import precision
from jaxrnn.checks import check_tokens
from jaxrnn.data.windows import Windows
from jaxrnn.nn.model import CharModel, check_params
from jaxrnn.recurrent.cells import Carry
from jaxrnn.training.state import carry_for, zero_carry
from jaxrnn.training.steps import eval_steps

# S, maximum number of steps in a compiled program, of training and of evaluation.
STEPS_IN_ONE_PROGRAM = 64


@runtime_checkable
class Source(Protocol):
    """A source of windows: a `BpttStream` or a `WindowSet`."""

    @property
    def tokens(self) -> np.ndarray: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def steps(self, epoch: int) -> int: ...
    def windows(self, epoch: int, first: int, count: int) -> Windows: ...


class Evaluated(NamedTuple):
    """How far an evaluation has come.

    Attributes:
        share: the fraction of the windows read, in (0, 1].
        carry: the carry after the last window read.
        nats: the mean loss so far, in nats per character.
        predicted: number of characters predicted so far, a closing `<eos>` among them.
    """

    share: float
    carry: Carry
    nats: float
    predicted: int = 0


def check_source(name: str, source: Any) -> None:
    """Refuse what is no source of windows, with the line that makes one of it.

    Args:
        name: what it is, for the message.
        source: the source.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(source, Source) and not isinstance(source, type):
        return
    tokens = "tokens"
    kind = f"a {type(source).__name__}"
    if isinstance(source, str):
        kind = "a text"
        tokens = "vocabulary.encode(text)"
    elif hasattr(source, "shape"):
        kind = f"an array of shape {source.shape}"
    raise ValueError(
        f"{name} must be windows of tokens, got {kind}: take "
        f"jaxrnn.BpttStream({tokens}, batch_size=64, bptt=16), or a jaxrnn.WindowSet for a model "
        "of windows."
    )


def on_device(source: Source, model: CharModel) -> jax.Array:
    """The tokens of `source` on the device.

    Raises:
        ValueError: if it is no source, or a token is outside the model's vocabulary.
    """
    check_source("source", source)
    check_tokens(source.tokens, model.vocab_size)
    return jnp.asarray(source.tokens)


def evaluation(
    model: CharModel,
    params: Any,
    source: Source,
    carry: Carry | None = None,
    epoch: int = 0,
    *,
    tokens: jax.Array | None = None,
    at_most: int | None = None,
) -> Iterator[Evaluated]:
    """Evaluate, and yield how far it has come.

    The mean is weighted by the windows' lengths, as in the course.

    Args:
        model: the model.
        params: its parameters.
        source: the windows to evaluate on.
        carry: the carry to start from; zeros if None or of another batch size.
        epoch: the epoch whose windows are read.
        tokens: `source.tokens` on the device, if they are there already.
        at_most: number of characters after which it ends, at least 1, rounded up to whole
            batches; all if None.
    """
    check_source("source", source)
    check_params(model, params)
    if carry is None:
        carry = zero_carry(model, source.batch_size, precision(params))
    carry = carry_for(model, params, carry, source.batch_size)
    if tokens is None:
        tokens = on_device(source, model)
    last_only = model.reads in ("trigrams", "overlapping")  # one prediction a window
    count = source.steps(epoch)
    total = 0.0
    weight = 0.0
    predicted = 0
    for first in range(0, count, STEPS_IN_ONE_PROGRAM):
        windows = source.windows(epoch, first, STEPS_IN_ONE_PROGRAM).with_tokens(tokens)
        steps = min(STEPS_IN_ONE_PROGRAM, count - first)
        if at_most is not None:
            read = weight + np.cumsum(windows.rows * windows.lengths)  # (S,)
            steps = min(steps, int(np.searchsorted(read, at_most)) + 1)
        carry, losses = eval_steps(model, params, carry, windows, steps)
        rows = windows.rows[:steps]
        characters = rows * windows.lengths[:steps]
        # Sums in float64: the mean of a long text would lose digits in float32.
        weights = characters.astype(float)  # (S,)
        total += float(np.asarray(losses, float)[:steps] @ weights)
        weight += float(weights.sum())
        counted = rows if last_only else characters
        predicted += int(counted.sum())
        share = (first + steps) / count
        if at_most is not None:
            share = min(1.0, max(share, weight / at_most))
        yield Evaluated(share, carry, total / weight, predicted)
        if at_most is not None and weight >= at_most:
            break


def evaluate(
    model: CharModel, params: Any, source: Source, carry: Carry | None = None
) -> tuple[Carry, float]:
    """The carry after `source`, and the mean loss on it in nats per character."""
    *_, last = evaluation(model, params, source, carry)
    return last.carry, last.nats
