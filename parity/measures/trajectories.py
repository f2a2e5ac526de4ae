"""Trajectories: hundreds of updates on real text with the carry going on, on either side.

The JAX side is what `jaxrnn train` runs: `train_steps`, whole chunks of updates in one program,
windows cut on the device and padded. The PyTorch side is a plain loop over plain slices.

In float64 training at 1e-3 stays digit by digit the same (G1). In float32 round-off grows, in
PyTorch as well; how fast, the envelope of PyTorch runs says whose first weights differ by one
unit in the last place (G4).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxrnn.data.corpora import data_folder, load_corpus
from jaxrnn.data.tokenizers import encode_documents, make_tokenizer
from jaxrnn.data.windows import BpttStream
from jaxrnn.nn.models import StatefulModel
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import train_steps
from parity.core.bridge import jax_dtype, numpy_of, tensor_of
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
from parity.core.runners import jax_params, precision, torch_device, torch_module, torch_names
from parity.measures.plans import TrainingPlan
from parity.measures.training import ADAM, ReferenceTraining, windows_of


class Scale(NamedTuple):
    """How large a trajectory's model and windows are, and whether their lengths are random."""

    batch_size: int
    bptt: int
    embedding_size: int
    hidden_size: int
    random_bptt: bool


SMALL = Scale(16, 8, 24, 64, random_bptt=True)
COURSE = Scale(64, 8, 42, 256, random_bptt=False)
"""The size at which the course trains its stateful models."""
RATE = 1e-3
CHUNK = 25
"""Updates in one program, after which the weights are looked at."""
ENVELOPE_RUNS = 8
ENVELOPE_FACTOR = 3.0
"""G4: how far outside the envelope JAX may be at any step."""
FLOOR = 4 * UNIT_ROUNDOFF["float32"]
"""No envelope is narrower: either side may round its own result twice (G2's floor)."""
HORIZON = 1e-3
"""Where the envelope is this wide, training can no longer be followed digit by digit."""


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
    """A corpus by name, in the stateful models' vocabulary: all of it, nothing kept for validation.

    If no name is given: nietzsche where it lies in the data folder, else python-docs, which needs
    no download.
    """
    if name is None:
        name = "nietzsche" if (data_folder() / "nietzsche.txt").is_file() else "python-docs"
    training, validation = load_corpus(name).split()
    documents = [*training, *validation]
    vocabulary = make_tokenizer("characters", documents, min_frequency=3, lowercase=True)
    return Text(name, encode_documents(vocabulary, documents), vocabulary.size)


class Trajectory(NamedTuple):
    """What a run went through.

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
        kept = self.weights[chunk]
        return np.concatenate([np.asarray(kept[key], np.float64).ravel() for key in sorted(kept)])


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


def jax_trajectory(
    pair: Pair, weights: Arrays, text: Text, steps: int, dtype: str, scale: Scale = SMALL
) -> Trajectory:
    """Train with `train_steps`."""
    stream, optimizer = _stream(text, scale), ADAM.in_jax()
    model = pair.model
    assert isinstance(model, StatefulModel)
    losses, norms, kept = [], [], []
    with precision(dtype):
        params, carry = jax_params(pair, weights, dtype), model.initial_carry(scale.batch_size)
        carry = jax.tree.map(lambda a: a.astype(jax_dtype(dtype)), carry)
        key, step = jax.random.key(0), jnp.zeros((), jnp.int32)
        state = TrainState(params, optimizer.init(params), carry, step, key)
        tokens, rates = jnp.asarray(text.tokens), jnp.full(CHUNK, RATE, jax_dtype(dtype))
        for first in range(0, steps, CHUNK):
            windows = stream.windows(0, first, CHUNK).with_tokens(tokens)
            state, metrics = train_steps(
                model, optimizer, state, windows, rates, jnp.asarray(CHUNK)
            )
            losses.append(numpy_of(metrics.loss))
            norms.append(numpy_of(metrics.gradient_norm))
            kept.append(torch_names(pair, state.params))
        last = {name: numpy_of(a) for name, a in named_carry_of_jax(state.carry).items()}
    return Trajectory(np.concatenate(losses), np.concatenate(norms), kept, last)


def torch_trajectory(pair: Pair, weights: Arrays, course: TrainingPlan, dtype: str) -> Trajectory:
    """Train with a plain loop."""
    seen, kept = [], []
    with precision(dtype):
        training = ReferenceTraining(torch_module(pair, weights, dtype), ADAM)  # type: ignore[arg-type]
        for step, (window, rate) in enumerate(zip(course.windows, course.rates, strict=True), 1):
            training.carry = training.carry if course.carried else None
            tokens, targets = (tensor_of(part, dtype, torch_device()) for part in window)
            seen.append(training.step(tokens, targets, rate))
            if step % CHUNK == 0:
                kept.append(training.weights())
        last = {n: numpy_of(t) for n, t in named_carry_of_torch(training.carry).items()}
    losses, norms = (np.stack(values) for values in zip(*seen, strict=True))
    return Trajectory(losses, norms, kept, last)


def plan_of(text: Text, steps: int, scale: Scale = SMALL) -> TrainingPlan:
    """The first windows of a text, as a PyTorch run reads them."""
    stream = _stream(text, scale)
    cuts = np.cumsum([0, *stream.windows(0, 0, steps).lengths])
    rows = len(text.tokens) // scale.batch_size
    starts = [cut + np.arange(scale.batch_size) * rows for cut in cuts[:-1]]
    windows = windows_of(text.tokens, scale.batch_size, np.diff(cuts))
    return TrainingPlan(
        windows, starts, [RATE] * steps, sizes=stream.sizes, batch_size=scale.batch_size
    )


def followed(pair: Pair, text: Text, steps: int, scale: Scale = SMALL) -> list[Finding]:
    """G1: `steps` updates in float64, `steps` a multiple of the chunk."""
    what = Comparison(pair.name, "trajectory", "float64")
    weights = first_weights(pair, seed=0)
    got = jax_trajectory(pair, weights, text, steps, "float64", scale)
    reference = torch_trajectory(pair, weights, plan_of(text, steps, scale), "float64")
    arrays = named_results(got), named_results(reference)
    return structure(what, *arrays) + meaning(what, *arrays)


def within_envelope(pair: Pair, text: Text, steps: int, scale: Scale = SMALL) -> list[Finding]:
    """G4: `steps` updates in float32, held against PyTorch runs one ulp apart."""
    what = Comparison(pair.name, "trajectory", "float32")
    weights, course = first_weights(pair, seed=0), plan_of(text, steps, scale)
    center = torch_trajectory(pair, weights, course, "float32")
    got = jax_trajectory(pair, weights, text, steps, "float32", scale)
    runs = [
        torch_trajectory(pair, perturbed(weights, seed), course, "float32")
        for seed in range(ENVELOPE_RUNS)
    ]
    distances = np.stack([_distances(run, center) for run in runs])  # (runs, 2, chunks)
    envelope = np.maximum.accumulate(distances.max(axis=0), axis=-1)
    envelope = np.maximum(envelope, FLOOR)
    ratios = (_distances(got, center) / envelope).max(axis=-1)
    wide = np.flatnonzero(envelope[0] > HORIZON)
    horizon = f"horizon {CHUNK * (wide[0] + 1)}" if len(wide) else f"horizon beyond {steps}"
    notes = [f"envelope {e[-1]:.1e} after {steps} steps, {horizon}" for e in envelope]
    return structure(what, named_results(got), named_results(center)) + [
        what.finding(
            "G4",
            name,
            Outcome.PASS if ratio <= ENVELOPE_FACTOR else Outcome.FAIL,
            value=float(ratio),
            limit=ENVELOPE_FACTOR,
            note=note,
        )
        for name, ratio, note in zip(("weights", "losses"), ratios, notes, strict=True)
    ]


def longest(text: Text, steps: int, scale: Scale = SMALL) -> int:
    """`steps`, or the most whole chunks that the text has windows for if those are fewer."""
    return min(steps, _stream(text, scale).steps(0) // CHUNK * CHUNK)


def _stream(text: Text, scale: Scale) -> BpttStream:
    return BpttStream(text.tokens, scale.batch_size, scale.bptt, random_bptt=scale.random_bptt)


def named_results(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """The weights at the end, and what was seen on the way, by name."""
    arrays = {f"{key} at the end": a for key, a in trajectory.weights[-1].items()}
    seen = {"losses": trajectory.losses, "gradient norms": trajectory.gradient_norms}
    return arrays | seen | trajectory.carry


def _distances(run: Trajectory, center: Trajectory) -> np.ndarray:
    """How far apart the weights and the losses of two runs are after every chunk: (2, chunks)."""
    chunks = range(len(center.weights))
    weights = [relative_l2(run.flat(k), center.flat(k)) for k in chunks]
    cuts = [slice(CHUNK * k, CHUNK * (k + 1)) for k in chunks]
    losses = [relative_l2(run.losses[cut], center.losses[cut]) for cut in cuts]
    return np.array([weights, losses])


def perturbed(weights: Arrays, seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    """The same weights, each one unit in the last place of a precision up or down."""
    rng = np.random.default_rng(seed)

    def perturb(array: np.ndarray) -> np.ndarray:
        """One array."""
        towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(dtype)
        return np.nextafter(array.astype(dtype), towards).astype(np.float64)

    return {key: perturb(array) for key, array in weights.items()}
