"""Whole runs: `jaxrnn.fit` against a plain PyTorch loop, with schedule, validation and carry.

Where a trajectory fixes the learning rate and never validates, a run has all of it: blocks and
cosine restarts, a last batch that is smaller, and the carry that flows from training to
validation and back.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn.data.windows import BpttStream, WindowSet, overlapping_starts
from jaxrnn.nn.models import CharModel
from jaxrnn.training.state import TrainState
from parity.bridge import jax_dtype, numpy_of, tensor_of
from parity.compare import Comparison, Finding, meaning, structure
from parity.sides import jax_params, precision, torch_device, torch_module, torch_names
from parity.subjects import F, H, Subject, model_subject, named_carry_of_jax, named_carry_of_torch
from parity.training import ADAM, TwinTraining, sgdr_rates, windows_of
from parity.trajectories import Text, first_weights

RATE = 3e-3
SCHEDULE = f"1 x {RATE}, sgdr({RATE}, 2)"
EPOCHS = 4
"""One at a fixed rate, then cycles of one and two."""
STREAM_BATCH, BPTT = 8, 7
TRAINING_TOKENS, VALIDATION_TOKENS = 1500, 700
WINDOW_TOKENS, WINDOW_BATCH = 400, 37
"""Windows are many more than tokens / T; the last batch has fewer than 37."""

Windows = list[tuple[np.ndarray, np.ndarray]]


class Data(NamedTuple):
    """The same text, as jaxrnn reads it and as slices, for training and validation."""

    source: Any
    validation: Any
    windows: Windows
    validation_windows: Windows


def streams(text: Text) -> Data:
    """Parallel streams; the last window of each is shorter."""
    tokens, rest = text.tokens[:TRAINING_TOKENS], text.tokens[TRAINING_TOKENS:][:VALIDATION_TOKENS]
    source, validation = (BpttStream(part, STREAM_BATCH, BPTT) for part in (tokens, rest))
    slices = [windows_of(part, STREAM_BATCH, [BPTT] * _count(part)) for part in (tokens, rest)]
    return Data(source, validation, *slices)


def _count(tokens: np.ndarray) -> int:
    rows = len(tokens) // STREAM_BATCH
    return -(-(rows - 1) // BPTT)


def overlapping(text: Text) -> Data:
    """Windows at every character, in order, in batches of which the last is smaller."""
    tokens = text.tokens[:WINDOW_TOKENS]
    starts = overlapping_starts(len(tokens), BPTT)
    source = WindowSet(tokens, starts, BPTT, WINDOW_BATCH, shuffled=False)
    slices = list(_batches(np.asarray(tokens, np.int64)))
    return Data(source, source, slices, slices)


def _batches(tokens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    windows = [tokens[j : j + BPTT + 1] for j in range(len(tokens) - BPTT - 1)]
    for first in range(0, len(windows), WINDOW_BATCH):
        together = np.stack(windows[first : first + WINDOW_BATCH], axis=1)  # (T + 1, B)
        yield together[:-1], together[1:]


def run_findings(kind: type[CharModel], data: Data) -> list[Finding]:
    """G1: a model trained by `fit` and by the loop."""
    vocabulary = int(max(data.source.tokens.max(), data.validation.tokens.max())) + 1
    subject = model_subject(kind.__name__, kind(vocabulary, F, H))
    what = Comparison(f"fit {kind.__name__}", "trajectory", "float64")
    got, reference = jax_run(subject, data), torch_run(subject, data)
    return structure(what, got, reference) + meaning(what, got, reference)


def jax_run(subject: Subject, data: Data, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Train with `jaxrnn.fit`; the weights, the validation losses and the carry at the end."""
    optimizer = ADAM.in_jax()
    assert isinstance(subject.model, CharModel)
    with precision(dtype):
        params = jax_params(subject, first_weights(subject, seed=0), dtype)
        carry = subject.model.initial_carry(data.source.batch)
        carry = jax.tree.map(lambda a: a.astype(jax_dtype(dtype)), carry)
        start = (params, optimizer.init(params), carry, jnp.zeros((), jnp.int32))
        state, rows = jaxrnn.fit(
            subject.model,
            data.source,
            data.validation,
            schedule=SCHEDULE,
            optimizer=optimizer,
            state=TrainState(*start, jax.random.key(0)),
        )
        losses = np.array([row.validation for row in rows if row.validation is not None])
        carry = {n: numpy_of(a) for n, a in named_carry_of_jax(state.carry).items()}
        return {"validation losses": losses, **torch_names(subject, state.params), **carry}


def torch_run(subject: Subject, data: Data, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Train with a plain loop; the same."""
    steps = len(data.windows)
    rates = [RATE] * steps + sgdr_rates(RATE, 2, steps)
    losses = []
    with precision(dtype):
        twin = torch_module(subject, first_weights(subject, seed=0), dtype)
        training = TwinTraining(twin, ADAM)  # type: ignore[arg-type]
        for epoch in range(EPOCHS):
            for step, window in enumerate(data.windows, epoch * steps):
                tokens, targets = _tensors(window, dtype)
                training.step(tokens, targets, rates[step])
            evaluated = [training.evaluate(*_tensors(w, dtype)) for w in data.validation_windows]
            sizes = [tokens.size for tokens, _ in data.validation_windows]
            losses.append(np.average(np.asarray(evaluated, float), weights=sizes))
        carry = {n: numpy_of(t) for n, t in named_carry_of_torch(training.carry).items()}
        return {"validation losses": np.array(losses), **training.weights(), **carry}


def _tensors(window: tuple[np.ndarray, np.ndarray], dtype: str) -> Any:
    return tuple(tensor_of(part, dtype, torch_device()) for part in window)
