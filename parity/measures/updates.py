"""Updates: some steps of training in both frameworks, with moments, gradient norms and carry.

What is compared of the weights in float64 is how far they moved, relative to the step. In lower
precisions the rounding of the weights drowns that, so there it is the weights themselves. Adam
and RMSprop divide the gradient by its own size, so where it is nearly zero its round-off decides
which way a weight moves: those entries are then left out of the weights, not of the moments.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from torch import Tensor

from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import Batch, train_step
from parity.core.bridge import jax_arrays, named_leaves, numpy_arrays, numpy_of, tensors
from parity.core.compare import Arrays
from parity.core.pairs import (
    B,
    Pair,
    carry_of_jax,
    carry_of_torch,
    named_carry_of_jax,
    named_carry_of_torch,
)
from parity.core.runners import Results, Runner, jax_params, precision, torch_module, torch_names
from parity.measures.training import ReferenceTraining, Rule

# Updates in float64: momentum does not show in the first, and a wrong power of a decay only from
# the second on. In lower precisions one has to do: a weight that round-off moved the wrong way
# changes the next gradient.
STEPS = 3
# Batch sizes of updates between which the carry starts from zeros.
CHANGING = (B, B - 1, B - 1, B)
# Large enough that the rounding of the weights does not drown the update in float32.
RATE = 1e-2
# The first words of the names of moves, and of second moments in torch.
MOVE = "move of "
SECOND_MOMENTS = ("exp_avg_sq", "square_avg")
# The name of the norms of the gradients, unclipped, one for each update.
NORMS = "gradient norms"
# A gradient below this share of the largest of its array may be mostly round-off.
UNDECIDED = 1e-3


def jax_updates(pair: Pair, rule: Rule, rows: Sequence[int], dtype: str) -> Runner:
    """`train_step`, once for each batch size in `rows`, at most that of the inputs."""
    optimizer = rule.in_jax()

    def run(weights: Arrays, inputs: Arrays) -> Results:
        with precision(dtype):
            before = jax_params(pair, weights, dtype)
            cast = jax_arrays(inputs, dtype)
            state = jax_state(pair, before, optimizer.init(before), cast)
            norms = []
            for step, count in enumerate(rows):
                batch = jax_window(cast, step, count)
                state, metrics = train_step(pair.model, optimizer, state, batch, RATE)
                norms.append(numpy_of(metrics.gradient_norm))
            results = _weights(torch_names(pair, before), torch_names(pair, state.params))
            results |= jax_moments(pair, rule, state)
            results |= numpy_arrays(named_carry_of_jax(state.carry))
            return {"update": results | {NORMS: np.stack(norms)}}

    return run


def torch_updates(pair: Pair, rule: Rule, rows: Sequence[int], dtype: str) -> Runner:
    """The same with torch's optimizer."""

    def run(weights: Arrays, inputs: Arrays) -> Results:
        with precision(dtype):
            reference = torch_module(pair, weights, dtype)
            cast = tensors(inputs, dtype)
            training = ReferenceTraining(reference, rule, carry_of_torch(pair.carry, cast))  # type: ignore[arg-type]
            before = training.weights()
            norms = []
            for step, count in enumerate(rows):
                norms.append(training.step(*torch_window(cast, step, count), RATE)[1])
            results = _weights(before, training.weights())
            results |= training.moments()
            results |= numpy_arrays(named_carry_of_torch(pair.carry, training.carry))
            return {"update": results | {NORMS: np.stack(norms)}}

    return run


# Each step reads the same tokens one row further on, so that no two have the same gradient.


def jax_window(inputs: Mapping[str, jax.Array], step: int, count: int | None = None) -> Batch:
    """What a step of JAX's reads of the first `count` streams: (T, count) each."""
    tokens = jnp.roll(inputs["tokens"], step, axis=0)
    targets = jnp.roll(inputs["targets"], step, axis=0)
    return Batch(tokens[:, :count], targets[:, :count])


def torch_window(
    inputs: Mapping[str, Tensor], step: int, count: int | None = None
) -> tuple[Tensor, Tensor]:
    """The same for PyTorch."""
    tokens = inputs["tokens"].roll(step, 0)
    targets = inputs["targets"].roll(step, 0)
    return tokens[:, :count], targets[:, :count]


def jax_state(pair: Pair, params: Any, opt_state: Any, inputs: Any) -> TrainState:
    """A training state with the inputs' carry."""
    carry = carry_of_jax(pair.carry, inputs)
    return TrainState(params, opt_state, carry, jnp.zeros((), jnp.int32), jax.random.key(0))


def jax_moments(pair: Pair, rule: Rule, state: TrainState) -> dict[str, np.ndarray]:
    """Every moment in the optimizer's state, under torch's names."""
    # A moment is a tree like that of the parameters, somewhere in the optimizer's state:
    # ".../mu/rnn/weight_hh_l0" is the first moment of "rnn/weight_hh_l0".
    moments: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in named_leaves(state.opt_state).items():
        parts = path.split("/")
        for optax_name, torch_name in rule.moments.items():
            if optax_name in parts:
                rest = "/".join(parts[parts.index(optax_name) + 1 :])
                moments.setdefault(torch_name, {})[rest] = numpy_of(leaf)
    named: dict[str, np.ndarray] = {}
    for torch_name, leaves in moments.items():
        for key, array in pair.weight_map.gradients_to_torch(leaves).items():
            named[f"{torch_name} of {key}"] = array
    return named


def _weights(before: Arrays, after: Arrays) -> dict[str, np.ndarray]:
    moves = {f"{MOVE}{key}": array - before[key] for key, array in after.items()}
    return moves | {f"weights of {key}": array for key, array in after.items()}


def undecided(reference: Arrays) -> dict[str, np.ndarray]:
    """For each weight, where the gradient is too small to decide which way the weight should go.

    Args:
        reference: the results of PyTorch in float64; moments, or rather the square roots of
            second ones, stand for the gradients.
    """
    masks = {}
    for name, moment in reference.items():
        kind, _, key = name.partition(" of ")
        if kind in SECOND_MOMENTS:
            size = np.sqrt(moment)
            masks[f"weights of {key}"] = size < UNDECIDED * size.max(initial=0.0)
    return masks
