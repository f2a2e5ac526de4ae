"""The origin of NaN or infinity in a step whose loss or gradient is no longer finite.

Training notices only that a loss or a norm is not finite, some steps later. The step is then made
again from a copy of the state, and the values that it computes are looked through in their order.
"""

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrnn.nn.model import CharModel
from jaxrnn.training.losses import Loss
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import Batch, batch_loss
from jaxrnn.tree import named_leaves

PACKAGE = Path(__file__).parents[1]


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient is no longer a number.

    Attributes:
        good: the last progress at which all was finite, as `training` yields it, or None.
    """

    good: Any = None


def first_bad(model: CharModel, state: TrainState, batch: Batch, loss: Loss | None = None) -> str:
    """The first tensor of a step that is not finite, in the order of computation, and its value.

    Args:
        model: the model.
        state: the state before the step.
        batch: the characters that the step reads.
        loss: the loss of the step, as in `batch_loss`.
    """
    for name, leaf in _values(model, state, batch, loss):
        values = np.asarray(leaf, float)
        bad = values[~np.isfinite(values)]
        if bad.size:
            return f"{name} is {bad.flat[0]}"
    return "The update is not finite"


def first_bad_operation(
    model: CharModel, state: TrainState, batch: Batch, loss: Loss | None = None
) -> str:
    """The first operation of a step that gives NaN or infinity, and the line that asks for it.

    The step is made operation by operation, which takes long. Arguments as `first_bad`.
    """
    key = jax.random.fold_in(state.key, state.step)
    try:
        with jax.debug_nans(True), jax.debug_infs(True), jax.disable_jit():
            jax.grad(batch_loss, argnums=1, has_aux=True)(
                model, state.params, state.carry, batch, key, loss=loss
            )
    except FloatingPointError as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = frames[-1]
        # The innermost line of this package says more than one inside of JAX.
        for frame in frames:
            if PACKAGE in Path(frame.filename).parents:
                where = frame
        file = Path(where.filename).name
        return f"{str(error).splitlines()[0]} ({file}, line {where.lineno}: {where.line})"
    return "no single operation gives NaN or infinity when the step is made slowly"


def _values(
    model: CharModel, state: TrainState, batch: Batch, loss: Loss | None
) -> Iterator[tuple[str, Any]]:
    """The tensors of a step by name, in the order of computation."""
    # What the step starts from.
    yield from _named("params", state.params)
    yield from _named("carry", state.carry)
    key = jax.random.fold_in(state.key, state.step)  # the step's own dropout masks

    @jax.jit
    def gradient(params: Any) -> Any:
        return jax.value_and_grad(batch_loss, argnums=1, has_aux=True)(
            model, params, state.carry, batch, key, loss=loss
        )

    (mean, carry), gradients = gradient(state.params)
    # Forward, then backward.
    yield from _named("carry", carry, " after the window")
    yield "The loss", mean
    yield from _named("The gradient of params", gradients)


def _named(name: str, tree: Any, suffix: str = "") -> Iterator[tuple[str, Any]]:
    for path, leaf in named_leaves(tree).items():
        yield f"{name}/{path}{suffix}", leaf
