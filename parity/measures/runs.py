"""Whole runs: `jaxrnn.fit` against a plain PyTorch loop, with schedule, validation and carry.

Where a trajectory fixes the learning rate and never validates, a run has all of it: blocks and
cosine restarts, a last batch that is smaller, and the carry that flows from training to
validation and back.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn.data.windows import BpttStream, WindowSet, overlapping_starts
from jaxrnn.nn.models import CharModel
from jaxrnn.training.state import TrainState
from parity.core.bridge import jax_dtype, numpy_of, tensor_of
from parity.core.compare import Comparison, Finding, meaning, structure
from parity.core.pairs import F, H, Pair, model_pair, named_carry_of_jax, named_carry_of_torch
from parity.core.runners import jax_params, precision, torch_device, torch_module, torch_names
from parity.measures.plans import TrainingPlan, Window, window_at
from parity.measures.training import ADAM, ReferenceTraining, sgdr_rates, windows_of
from parity.measures.trajectories import Text, first_weights

RATE = 3e-3
SCHEDULE = f"1 x {RATE}, sgdr({RATE}, 2)"
EPOCHS = 4
"""One at a fixed rate, then cycles of one and two."""
STREAM_BATCH, BPTT = 8, 7
TRAINING_TOKENS, VALIDATION_TOKENS = 1500, 700
WINDOW_TOKENS, WINDOW_BATCH = 400, 37
"""Windows are many more than tokens / T; the last batch has fewer than 37."""


class Data(NamedTuple):
    """The same text, as jaxrnn reads it, for training and validation, and as a PyTorch run does."""

    source: Any
    validation: Any
    course: TrainingPlan


def streams(text: Text) -> Data:
    """Parallel streams; the last window of each is shorter."""
    tokens, rest = text.tokens[:TRAINING_TOKENS], text.tokens[TRAINING_TOKENS:][:VALIDATION_TOKENS]
    source, validation = (BpttStream(part, STREAM_BATCH, BPTT) for part in (tokens, rest))
    slices = [windows_of(part, STREAM_BATCH, [BPTT] * _count(part)) for part in (tokens, rest)]
    starts, others = ([_starts(part, k) for k in range(_count(part))] for part in (tokens, rest))
    course = _course(slices[0], starts, slices[1])
    return Data(
        source, validation, replace(course, validation_starts=others, validation_tokens=rest)
    )


def _starts(tokens: np.ndarray, k: int) -> np.ndarray:
    """Where window k of each stream starts."""
    return k * BPTT + np.arange(STREAM_BATCH) * (len(tokens) // STREAM_BATCH)


def _count(tokens: np.ndarray) -> int:
    rows = len(tokens) // STREAM_BATCH
    return -(-(rows - 1) // BPTT)


def overlapping(text: Text) -> Data:
    """Windows at every character, in order, in batches of which the last is smaller."""
    tokens = text.tokens[:WINDOW_TOKENS]
    starts = overlapping_starts(len(tokens), BPTT)
    source = WindowSet(tokens, starts, BPTT, WINDOW_BATCH, shuffled=False)
    count = len(tokens) - BPTT - 1
    firsts = [np.arange(count)[k : k + WINDOW_BATCH] for k in range(0, count, WINDOW_BATCH)]
    windows = [window_at(np.asarray(tokens, np.int64), first, BPTT) for first in firsts]
    return Data(source, source, _course(windows, firsts, windows))


def _course(
    windows: list[Window], starts: list[np.ndarray], validation: list[Window]
) -> TrainingPlan:
    """At a fixed rate for an epoch, then with cosine restarts."""
    rates = [RATE] * len(windows) + sgdr_rates(RATE, 2, len(windows))
    batch_size = windows[0][0].shape[1]
    return TrainingPlan(
        windows, starts, rates, EPOCHS, validation=validation, batch_size=batch_size
    )


def run_pair(kind: type[CharModel], data: Data) -> Pair:
    """A small model for the text's vocabulary."""
    vocab_size = int(max(data.source.tokens.max(), data.validation.tokens.max())) + 1
    return model_pair(kind.__name__, kind(vocab_size, F, H))


def run_findings(kind: type[CharModel], data: Data) -> list[Finding]:
    """G1: a model trained by `fit` and by the loop."""
    pair = run_pair(kind, data)
    what = Comparison(f"fit {kind.__name__}", "trajectory", "float64")
    got, reference = jax_run(pair, data), torch_run(pair, data.course)
    return structure(what, got, reference) + meaning(what, got, reference)


def jax_run(pair: Pair, data: Data, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Train with `jaxrnn.fit`; the weights, the validation losses and the carry at the end."""
    optimizer = ADAM.in_jax()
    assert isinstance(pair.model, CharModel)
    with precision(dtype):
        params = jax_params(pair, first_weights(pair, seed=0), dtype)
        carry = pair.model.initial_carry(data.source.batch_size)
        carry = jax.tree.map(lambda a: a.astype(jax_dtype(dtype)), carry)
        start = (params, optimizer.init(params), carry, jnp.zeros((), jnp.int32))
        state, rows = jaxrnn.fit(
            pair.model,
            data.source,
            data.validation,
            schedule=SCHEDULE,
            optimizer=optimizer,
            state=TrainState(*start, jax.random.key(0)),
        )
        losses = np.array([row.validation for row in rows if row.validation is not None])
        carry = {n: numpy_of(a) for n, a in named_carry_of_jax(state.carry).items()}
        return {"validation losses": losses, **torch_names(pair, state.params), **carry}


def torch_run(pair: Pair, course: TrainingPlan, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Train with a plain loop; the same."""
    steps, losses = len(course.windows), []
    with precision(dtype):
        reference = torch_module(pair, first_weights(pair, seed=0), dtype)
        training = ReferenceTraining(reference, ADAM)  # type: ignore[arg-type]
        for epoch in range(course.epochs):
            for step, window in enumerate(course.windows, epoch * steps):
                training.carry = training.carry if course.carried else None
                tokens, targets = _tensors(window, dtype)
                training.step(tokens, targets, course.rates[step])
            training.carry = training.carry if course.validation_carried else None
            evaluated = [training.evaluate(*_tensors(w, dtype)) for w in course.validation]
            sizes = [tokens.size for tokens, _ in course.validation]
            losses.append(np.average(np.asarray(evaluated, float), weights=sizes))
        carry = {n: numpy_of(t) for n, t in named_carry_of_torch(training.carry).items()}
        return {"validation losses": np.array(losses), **training.weights(), **carry}


def _tensors(window: Window, dtype: str) -> Any:
    return tuple(tensor_of(part, dtype, torch_device()) for part in window)
