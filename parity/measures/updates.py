"""Updates: some steps of training on either side, with moments, gradient norms and carry.

What is compared of the weights in float64 is how far they moved, relative to the step. In lower
precisions the rounding of the weights drowns that, so there it is the weights themselves. Adam
and RMSprop divide the gradient by its own size, so where it is nearly zero its round-off decides
which way a weight moves: those entries are then left out of the weights, not of the moments.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import Batch, train_step
from parity.core.bridge import jax_of, named_leaves, numpy_of, tensor_of
from parity.core.compare import Arrays
from parity.core.pairs import (
    B,
    Pair,
    carry_of_jax,
    carry_of_torch,
    named_carry_of_jax,
    named_carry_of_torch,
)
from parity.core.runners import Side, jax_params, precision, torch_device, torch_module, torch_names
from parity.measures.training import ReferenceTraining, Rule

STEPS = 3
"""Updates in float64: momentum does not show in the first, and a wrong power of a decay only from
the second on. In lower precisions one has to do: a weight that round-off moved the wrong way
changes the next gradient."""
CHANGING = (B, B - 1, B - 1, B)
"""Batch sizes of updates between which the carry starts from zeros."""
RATE = 1e-2
"""Large enough that the rounding of the weights does not drown the update in float32."""
READ = ("tokens", "targets")
MOVE = "move of "
"""What the names of moves begin with."""
SECOND_MOMENTS = ("exp_avg_sq", "square_avg")
UNDECIDED = 1e-3
"""A gradient below this share of the largest of its array may be mostly round-off."""


def jax_updates(pair: Pair, rule: Rule, rows: Sequence[int], dtype: str) -> Side:
    """`train_step`, once for each batch size in `rows`, at most that of the inputs.

    Every step reads the same tokens one row further on.
    """
    optimizer = rule.in_jax()

    def run(weights: Arrays, inputs: Arrays) -> dict[str, dict[str, np.ndarray]]:
        """Moves, moments, gradient norms and carry."""
        with precision(dtype):
            before = jax_params(pair, weights, dtype)
            cast = {name: jax_of(array, dtype) for name, array in inputs.items()}
            state = jax_state(pair, before, optimizer.init(before), cast)
            norms = []
            for step, count in enumerate(rows):
                read = (jnp.roll(cast[n], step, axis=0) for n in READ)
                batch = Batch(*(array[:, :count] for array in read))
                state, metrics = train_step(pair.model, optimizer, state, batch, RATE)
                norms.append(numpy_of(metrics.gradient_norm))
            first, last = torch_names(pair, before), torch_names(pair, state.params)
            results = _weights(first, last) | jax_moments(pair, rule, state)
            carry = {name: numpy_of(a) for name, a in named_carry_of_jax(state.carry).items()}
            return {"update": results | carry | {"gradient norms": np.stack(norms)}}

    return run


def torch_updates(pair: Pair, rule: Rule, rows: Sequence[int], dtype: str) -> Side:
    """The same with torch's optimizer."""

    def run(weights: Arrays, inputs: Arrays) -> dict[str, dict[str, np.ndarray]]:
        """Moves, moments, gradient norms and carry."""
        with precision(dtype):
            reference = torch_module(pair, weights, dtype)
            cast = {n: tensor_of(a, dtype, torch_device()) for n, a in inputs.items()}
            training = ReferenceTraining(reference, rule, carry_of_torch(cast))  # type: ignore[arg-type]
            before, norms = training.weights(), []
            for step, count in enumerate(rows):
                tokens, targets = (cast[n].roll(step, 0)[:, :count] for n in READ)
                norms.append(training.step(tokens, targets, RATE)[1])
            results = _weights(before, training.weights())
            carry = {n: numpy_of(t) for n, t in named_carry_of_torch(training.carry).items()}
            results |= training.moments() | carry
            return {"update": results | {"gradient norms": np.stack(norms)}}

    return run


def jax_state(pair: Pair, params: Any, opt_state: Any, inputs: Any) -> TrainState:
    """A training state with the inputs' carry."""
    stack = getattr(pair.model, "stack", None)
    carry = carry_of_jax(stack.cell, inputs) if stack else ()
    return TrainState(params, opt_state, carry, jnp.zeros((), jnp.int32), jax.random.key(0))


def jax_moments(pair: Pair, rule: Rule, state: TrainState) -> dict[str, np.ndarray]:
    """Every moment in the optimizer's state, under torch's names."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in named_leaves(state.opt_state).items():
        parts = path.split("/")
        for optax_name, torch_name in rule.moments.items():
            if optax_name in parts:
                rest = "/".join(parts[parts.index(optax_name) + 1 :])
                found.setdefault(torch_name, {})[rest] = numpy_of(leaf)
    named: dict[str, np.ndarray] = {}
    for torch_name, leaves in found.items():
        moved = pair.weight_map.gradients_to_torch(leaves)
        named |= {f"{torch_name} of {key}": array for key, array in moved.items()}
    return named


def _weights(before: Arrays, after: Arrays) -> dict[str, np.ndarray]:
    moves = {f"{MOVE}{key}": array - before[key] for key, array in after.items()}
    return moves | {f"weights of {key}": array for key, array in after.items()}


def undecided(reference: Arrays) -> dict[str, np.ndarray]:
    """For each weight, where the gradient is too small to tell which way the weight should go.

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
