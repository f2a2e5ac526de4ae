"""Trajectories: hundreds of updates on real text with the carry going on, in both frameworks.

Shapes: S steps of a run, T time steps of a window, B batch.

JAX runs what `jaxrnn train` runs: `train_steps`, whole chunks of updates in one program, windows
cut on the device and padded. PyTorch runs a plain loop over plain slices.

In float64 training at 1e-3 stays digit by digit the same (C1). In float32 round-off grows, in
PyTorch as well; how fast is measured by an envelope of PyTorch runs whose first weights differ by
one unit in the last place (C4).
"""

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxrnn.data.corpora import data_folder, load_corpus
from jaxrnn.data.tokenizers import encode_documents, make_tokenizer
from jaxrnn.data.windows import BpttStream
from jaxrnn.nn.models import StatefulModel
from jaxrnn.training.optimizers import Optimizer
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import train_steps
from parity.core.bridge import jax_dtype, numpy_arrays, numpy_of, tensor_of
from parity.core.compare import (
    UNIT_ROUNDOFF,
    Arrays,
    Comparison,
    Finding,
    Outcome,
    meaning,
    relative_l2,
    structure,
)
from parity.core.pairs import Pair, model_pair, named_carry_of_jax, named_carry_of_torch
from parity.core.runners import jax_params, precision, torch_module, torch_names
from parity.measures.plans import TrainingPlan, Window
from parity.measures.training import ADAM, ReferenceTraining, windows_of


class Scale(NamedTuple):
    """How large a trajectory's model and windows are, and whether their lengths are random."""

    batch_size: int
    bptt: int
    embedding_size: int
    hidden_size: int
    random_bptt: bool


SMALL = Scale(16, 8, 24, 64, random_bptt=True)
# The size at which the course trains its stateful models.
COURSE_SCALE = Scale(64, 8, 42, 256, random_bptt=False)
RATE = 1e-3
# Updates in one program, after which the weights are compared.
CHUNK = 25
# C4: how many PyTorch runs make the envelope, and how far outside it JAX may be at any step.
ENVELOPE_RUNS = 8
ENVELOPE_FACTOR = 3.0
# No envelope is narrower: either framework may round its own result twice (as in C2).
NARROWEST = 4 * UNIT_ROUNDOFF["float32"]
# Where the envelope is this wide, training can no longer be followed digit by digit.
DIVERGED = 1e-3


@dataclass(frozen=True)
class Text:
    """Real text to train on, as tokens.

    Attributes:
        name: the corpus.
        tokens: the stateful vocabulary's indices.
        vocab_size: V.
    """

    name: str
    tokens: np.ndarray
    vocab_size: int


def load_text(name: str | None = None) -> Text:
    """A corpus by name, in the stateful models' vocabulary: all of it, without a validation part.

    If no name is given: nietzsche where it lies in the data folder, else python-docs, which needs
    no download.
    """
    if name is None:
        name = "nietzsche" if (data_folder() / "nietzsche.txt").is_file() else "python-docs"
    # Training and validation part: the longer the text, the longer a trajectory can be.
    documents = list(chain(*load_corpus(name).split()))
    vocabulary = make_tokenizer("characters", documents, min_frequency=3, lowercase=True)
    return Text(name, encode_documents(vocabulary, documents), vocabulary.size)


class Trajectory(NamedTuple):
    """The measurements of a run.

    Attributes:
        losses: (S,) of every step.
        gradient_norms: (S,) of every step.
        weights: after every chunk, all weights by PyTorch's keys.
        carry: after the last step.
    """

    losses: np.ndarray
    gradient_norms: np.ndarray
    weights: list[dict[str, np.ndarray]]
    carry: dict[str, np.ndarray]

    def flat(self, chunk: int) -> np.ndarray:
        """All weights after a chunk in one vector, in float64."""
        weights = self.weights[chunk]
        return np.concatenate([weights[key].astype(np.float64).ravel() for key in sorted(weights)])


def trained_pair(
    kind: type[StatefulModel], text: Text, scale: Scale = SMALL, **options: Any
) -> Pair:
    """A stateful model for the vocabulary of a text."""
    model = kind(text.vocab_size, scale.embedding_size, scale.hidden_size, **options)
    return model_pair(kind.__name__, model)


def first_weights(pair: Pair, seed: int) -> dict[str, np.ndarray]:
    """Weights as PyTorch initializes them."""
    torch.manual_seed(seed)
    return {key: numpy_of(t).astype(float) for key, t in pair.module().state_dict().items()}


def fresh_state(
    pair: Pair, optimizer: Optimizer, weights: Arrays, batch_size: int, dtype: str
) -> TrainState:
    """JAX's state before the first update: these weights, and a carry of zeros."""
    assert pair.model is not None
    params = jax_params(pair, weights, dtype)
    carry = jax.tree.map(lambda a: a.astype(jax_dtype(dtype)), pair.model.initial_carry(batch_size))
    step = jnp.zeros((), jnp.int32)
    return TrainState(params, optimizer.init(params), carry, step, jax.random.key(0))


def jax_trajectory(
    pair: Pair, weights: Arrays, text: Text, steps: int, dtype: str, scale: Scale = SMALL
) -> Trajectory:
    """Train with `train_steps`."""
    model = pair.model
    assert isinstance(model, StatefulModel)
    stream = _stream(text, scale)
    optimizer = ADAM.in_jax()
    losses = []
    norms = []
    weights_after = []
    with precision(dtype):
        state = fresh_state(pair, optimizer, weights, scale.batch_size, dtype)
        # The whole text lies on the device, where `train_steps` cuts its windows.
        tokens = jnp.asarray(text.tokens)
        rates = jnp.full(CHUNK, RATE, jax_dtype(dtype))
        count = jnp.asarray(CHUNK)
        for first in range(0, steps, CHUNK):
            windows = stream.windows(0, first, CHUNK).with_tokens(tokens)
            state, metrics = train_steps(model, optimizer, state, windows, rates, count)
            losses.append(numpy_of(metrics.loss))  # (CHUNK,)
            norms.append(numpy_of(metrics.gradient_norm))
            weights_after.append(torch_names(pair, state.params))
        last = numpy_arrays(named_carry_of_jax(state.carry))
    return Trajectory(np.concatenate(losses), np.concatenate(norms), weights_after, last)


def window_tensors(window: Window, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets where PyTorch computes, (T, B) each."""
    return tensor_of(window[0], dtype), tensor_of(window[1], dtype)


# PyTorch's runs that are kept for the other paths: of a long check, and of one with an envelope.
KEPT_RUNS = 2 + ENVELOPE_RUNS
_runs: dict[tuple[Any, ...], Trajectory] = {}


def torch_trajectory(pair: Pair, weights: Arrays, plan: TrainingPlan, dtype: str) -> Trajectory:
    """Train with a plain loop.

    The last few runs are kept: the same model, weights and windows have the same run.
    """
    digest = hashlib.sha256()
    for array in (*weights.values(), *chain(*plan.windows), *map(np.asarray, plan.rates)):
        digest.update(np.ascontiguousarray(array))
    key = (pair.model, tuple(weights), len(plan.windows), plan.carried, dtype, digest.digest())
    if key not in _runs:
        while len(_runs) >= KEPT_RUNS:
            del _runs[next(iter(_runs))]
        _runs[key] = _torch_trajectory(pair, weights, plan, dtype)
    return _runs[key]


def _torch_trajectory(pair: Pair, weights: Arrays, plan: TrainingPlan, dtype: str) -> Trajectory:
    losses = []
    norms = []
    weights_after = []
    with precision(dtype):
        training = ReferenceTraining(torch_module(pair, weights, dtype), ADAM)  # type: ignore[arg-type]
        for step, (window, rate) in enumerate(zip(plan.windows, plan.rates, strict=True), 1):
            if not plan.carried:
                training.carry = None  # starts from zeros
            loss, norm = training.step(*window_tensors(window, dtype), rate)
            losses.append(loss)
            norms.append(norm)
            if step % CHUNK == 0:
                weights_after.append(training.weights())
        last = numpy_arrays(named_carry_of_torch(pair.carry, training.carry))
    return Trajectory(np.stack(losses), np.stack(norms), weights_after, last)


def plan_of(text: Text, steps: int, scale: Scale = SMALL) -> TrainingPlan:
    """The first windows of a text, as a PyTorch run reads them."""
    stream = _stream(text, scale)
    lengths = np.asarray(stream.windows(0, 0, steps).lengths)
    # Each of the B streams is one part of the text, all of them read in step.
    firsts = np.arange(scale.batch_size) * (len(text.tokens) // scale.batch_size)  # (B,)
    starts = [
        firsts + end - length for end, length in zip(np.cumsum(lengths), lengths, strict=True)
    ]
    windows = windows_of(text.tokens, scale.batch_size, lengths)
    return TrainingPlan(
        windows, starts, [RATE] * steps, sizes=stream.sizes, batch_size=scale.batch_size
    )


def followed(pair: Pair, text: Text, steps: int, scale: Scale = SMALL) -> list[Finding]:
    """C1: `steps` updates in float64, `steps` a multiple of the chunk."""
    what = Comparison(pair.name, "trajectory", "float64")
    weights = first_weights(pair, seed=0)
    got = named_results(jax_trajectory(pair, weights, text, steps, "float64", scale))
    plan = plan_of(text, steps, scale)
    reference = named_results(torch_trajectory(pair, weights, plan, "float64"))
    return structure(what, got, reference) + meaning(what, got, reference)


def within_envelope(pair: Pair, text: Text, steps: int, scale: Scale = SMALL) -> list[Finding]:
    """C4: `steps` updates in float32, held against PyTorch runs from perturbed weights."""
    what = Comparison(pair.name, "trajectory", "float32")
    weights = first_weights(pair, seed=0)
    plan = plan_of(text, steps, scale)
    center = torch_trajectory(pair, weights, plan, "float32")
    got = jax_trajectory(pair, weights, text, steps, "float32", scale)

    # The envelope is the largest distance of any run up to here: it never shrinks.
    distances = []
    for seed in range(ENVELOPE_RUNS):
        run = torch_trajectory(pair, perturbed(weights, seed), plan, "float32")
        distances.append(_distances(run, center))
    envelope = np.maximum.accumulate(np.max(distances, axis=0), axis=-1)  # (2, chunks)
    envelope = np.maximum(envelope, NARROWEST)
    ratios = (_distances(got, center) / envelope).max(axis=-1)  # (2,)

    # After how many steps the weights of PyTorch runs have parted.
    wide = np.flatnonzero(envelope[0] > DIVERGED)
    horizon = f"horizon {CHUNK * (wide[0] + 1)}" if len(wide) else f"horizon beyond {steps}"
    findings = structure(what, named_results(got), named_results(center))
    for k, name in enumerate(("weights", "losses")):
        findings.append(
            what.finding(
                "C4",
                name,
                Outcome.PASS if ratios[k] <= ENVELOPE_FACTOR else Outcome.FAIL,
                value=float(ratios[k]),
                limit=ENVELOPE_FACTOR,
                note=f"envelope {envelope[k, -1]:.1e} after {steps} steps, {horizon}",
            )
        )
    return findings


def longest(text: Text, steps: int, scale: Scale = SMALL) -> int:
    """`steps`, or the most whole chunks that the text has windows for if those are fewer."""
    return min(steps, _stream(text, scale).steps(0) // CHUNK * CHUNK)


def _stream(text: Text, scale: Scale) -> BpttStream:
    return BpttStream(text.tokens, scale.batch_size, scale.bptt, random_bptt=scale.random_bptt)


def named_results(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """The weights at the end, and what was measured on the way, by name."""
    arrays = {f"{key} at the end": array for key, array in trajectory.weights[-1].items()}
    arrays["losses"] = trajectory.losses
    arrays["gradient norms"] = trajectory.gradient_norms
    return arrays | trajectory.carry


def _distances(run: Trajectory, center: Trajectory) -> np.ndarray:
    # The distances of the weights and of the losses of two runs after every chunk: (2, chunks).
    weights = []
    losses = []
    for k in range(len(center.weights)):
        chunk = slice(CHUNK * k, CHUNK * (k + 1))
        weights.append(relative_l2(run.flat(k), center.flat(k)))
        losses.append(relative_l2(run.losses[chunk], center.losses[chunk]))
    return np.array([weights, losses])


def perturbed(weights: Arrays, seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    """The same weights, each one unit in the last place of a precision up or down."""
    rng = np.random.default_rng(seed)
    after = {}
    for key, array in weights.items():
        # Up or down at random.
        towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(dtype)
        after[key] = np.nextafter(array.astype(dtype), towards).astype(np.float64)
    return after
