"""Whole runs: `jaxrnn.fit` against a plain PyTorch loop, with schedule, validation and carry.

Where a trajectory fixes the learning rate and never validates, a run has all of it: blocks and
cosine restarts, a last batch that is smaller, and the carry that flows from training to
validation and back.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import jaxrnn
from jaxrnn.data.windows import BpttStream, WindowSet, overlapping_starts
from jaxrnn.nn.models import CharModel
from parity.core.bridge import numpy_arrays
from parity.core.compare import Comparison, Finding, meaning, structure
from parity.core.pairs import F, H, Pair, model_pair, named_carry_of_jax, named_carry_of_torch
from parity.core.runners import precision, torch_module, torch_names
from parity.measures.plans import TrainingPlan, Window, window_at
from parity.measures.training import ADAM, ReferenceTraining, sgdr_rates, windows_of
from parity.measures.trajectories import Text, first_weights, fresh_state, window_tensors

# One epoch at a fixed rate, then cycles of one and two.
RATE = 3e-3
SCHEDULE = f"1 x {RATE}, sgdr({RATE}, 2)"
EPOCHS = 4
# Parallel streams: how many there are, their windows, and the tokens of the two texts.
STREAM_BATCH = 8
BPTT = 7
TRAINING_TOKENS = 1500
VALIDATION_TOKENS = 700
# Overlapping windows: many more than tokens / T, and a last batch of fewer than 37.
WINDOW_TOKENS = 400
WINDOW_BATCH = 37
# The name of the losses on the validation's text, one for each epoch.
VALIDATION = "validation losses"


class Data(NamedTuple):
    """The same text, as jaxrnn reads it, for training and validation, and as a PyTorch run does."""

    source: Any
    validation: Any
    plan: TrainingPlan


def streams(text: Text) -> Data:
    """Parallel streams; the last window of each is shorter."""
    tokens = text.tokens[:TRAINING_TOKENS]
    rest = text.tokens[TRAINING_TOKENS:][:VALIDATION_TOKENS]
    plan = _plan(_stream_windows(tokens), _stream_starts(tokens), _stream_windows(rest))
    plan = replace(plan, validation_starts=_stream_starts(rest), validation_tokens=rest)
    source = BpttStream(tokens, STREAM_BATCH, BPTT)
    return Data(source, BpttStream(rest, STREAM_BATCH, BPTT), plan)


def _stream_windows(tokens: np.ndarray) -> list[Window]:
    return windows_of(tokens, STREAM_BATCH, [BPTT] * len(_stream_starts(tokens)))


def _stream_starts(tokens: np.ndarray) -> list[np.ndarray]:
    # Where each window of each stream starts: (B,) a window.
    rows = len(tokens) // STREAM_BATCH
    first = np.arange(STREAM_BATCH) * rows
    return [first + start for start in range(0, rows - 1, BPTT)]


def overlapping(text: Text) -> Data:
    """Windows at every character, in order, in batches of which the last is smaller."""
    tokens = text.tokens[:WINDOW_TOKENS]
    starts = overlapping_starts(len(tokens), BPTT)
    source = WindowSet(tokens, starts, BPTT, WINDOW_BATCH, shuffled=False)
    places = np.arange(len(tokens) - BPTT - 1)
    firsts = [places[k : k + WINDOW_BATCH] for k in range(0, len(places), WINDOW_BATCH)]
    windows = [window_at(np.asarray(tokens, np.int64), first, BPTT) for first in firsts]
    return Data(source, source, _plan(windows, firsts, windows))


def _plan(
    windows: list[Window], starts: list[np.ndarray], validation: list[Window]
) -> TrainingPlan:
    # At a fixed rate for an epoch, then with cosine restarts.
    # What SCHEDULE means to PyTorch.
    rates = [RATE] * len(windows) + sgdr_rates(RATE, 2, len(windows))
    batch_size = windows[0][0].shape[1]
    return TrainingPlan(
        windows, starts, rates, EPOCHS, validation=validation, batch_size=batch_size
    )


def run_pair(kind: type[CharModel], data: Data) -> Pair:
    """A small model for the text's vocabulary."""
    # The validation may have characters that the training has not.
    vocab_size = int(max(data.source.tokens.max(), data.validation.tokens.max())) + 1
    return model_pair(kind.__name__, kind(vocab_size, F, H))


def run_findings(kind: type[CharModel], data: Data) -> list[Finding]:
    """C1: a model trained by `fit` and by the loop."""
    pair = run_pair(kind, data)
    what = Comparison(f"fit {kind.__name__}", "trajectory", "float64")
    got = jax_run(pair, data)
    reference = torch_run(pair, data.plan)
    return structure(what, got, reference) + meaning(what, got, reference)


def jax_run(pair: Pair, data: Data, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Train with `jaxrnn.fit`; the weights, the validation losses and the carry at the end."""
    optimizer = ADAM.in_jax()
    assert isinstance(pair.model, CharModel)
    with precision(dtype):
        weights = first_weights(pair, seed=0)
        state, rows = jaxrnn.fit(
            pair.model,
            data.source,
            data.validation,
            schedule=SCHEDULE,
            optimizer=optimizer,
            state=fresh_state(pair, optimizer, weights, data.source.batch_size, dtype),
        )
        # Of the rows of history, only those at the end of an epoch have a validation.
        losses = np.array([row.validation for row in rows if row.validation is not None])
        carry = numpy_arrays(named_carry_of_jax(state.carry))
        return {VALIDATION: losses, **torch_names(pair, state.params), **carry}


def torch_run(pair: Pair, plan: TrainingPlan, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Train with a plain loop; the same."""
    steps = len(plan.windows)
    losses = []
    with precision(dtype):
        reference = torch_module(pair, first_weights(pair, seed=0), dtype)
        training = ReferenceTraining(reference, ADAM)  # type: ignore[arg-type]
        for epoch in range(plan.epochs):
            # Training: a carry of None starts from zeros.
            for step, window in enumerate(plan.windows, epoch * steps):
                if not plan.carried:
                    training.carry = None
                training.step(*window_tensors(window, dtype), plan.rates[step])
            # Validation: every token counts the same, though the last window may be shorter.
            if not plan.validation_carried:
                training.carry = None
            evaluated = [training.evaluate(*window_tensors(w, dtype)) for w in plan.validation]
            sizes = [tokens.size for tokens, _ in plan.validation]
            losses.append(np.average(np.asarray(evaluated, float), weights=sizes))
        carry = numpy_arrays(named_carry_of_torch(pair.carry, training.carry))
        return {VALIDATION: np.array(losses), **training.weights(), **carry}
