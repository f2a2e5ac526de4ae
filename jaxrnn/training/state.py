"""What training changes, in one value."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import DTypeLike

from jaxrnn.array_checks import precision
from jaxrnn.checks import check_at_least_0
from jaxrnn.nn.model import CharModel, model_carry
from jaxrnn.programs import bounded_jit
from jaxrnn.recurrent.cells import Carry
from jaxrnn.training.optimizers import AnyOptimizer, check_optimizer

CarryPolicy = Literal["never", "epoch", "evaluation"]
"""When the carry is set to zeros during training: never, at the start of each epoch, or at each
evaluation, as fastai does."""


class TrainState(NamedTuple):
    """Everything that a training step takes and gives back.

    Attributes:
        params: the model's parameters.
        opt_state: the optimizer's state.
        carry: the carry after the last window; the next one starts from it.
        step: the number of updates made, an int32 scalar.
        key: the random key of the run; each step folds its number in, so it never changes.
    """

    params: Any
    opt_state: optax.OptState
    carry: Carry
    step: jax.Array
    key: jax.Array


def make_state(
    model: CharModel, optimizer: AnyOptimizer, batch_size: int, key: jax.Array
) -> TrainState:
    """A fresh state: drawn parameters, a carry of zeros for `batch` streams, step 0."""
    check_optimizer(optimizer)
    check_at_least_0(batch_size=batch_size)
    params_key, run_key = jax.random.split(key)
    params = _init(model, batch_size, params_key)
    opt_state = _init_optimizer(optimizer, params)
    step = jnp.zeros((), jnp.int32)
    return TrainState(params, opt_state, zero_carry(model, batch_size), step, run_key)


# Each of these is one bounded program: an operation outside of one is compiled for every shape
# that it meets, and kept.


@bounded_jit(static_argnames=("model", "batch_size"))
def _init(model: CharModel, batch_size: int, key: jax.Array) -> Any:
    tokens = jnp.zeros((3, batch_size), jnp.int32)  # three characters, as Char3Model reads them
    return model.init(key, model.initial_carry(batch_size), tokens)["params"]


@bounded_jit(static_argnames=("optimizer",))
def _init_optimizer(optimizer: AnyOptimizer, params: Any) -> optax.OptState:
    return optimizer.init(params)


def zero_carry(model: CharModel, batch_size: int, dtype: DTypeLike = jnp.float32) -> Carry:
    """The carry that a text starts from, for `batch` streams."""
    return _zero_carry(model, batch_size, jnp.dtype(dtype))


@bounded_jit(static_argnames=("model", "batch_size", "dtype"))
def _zero_carry(model: CharModel, batch_size: int, dtype: jnp.dtype) -> Carry:
    return model.initial_carry(batch_size, dtype)


def repackage(carry: Carry) -> Carry:
    """The same carry without its history: no gradient flows back through it.

    Truncated backpropagation through time is this, at the start of every window. Williams and
    Peng 1990; the course calls it `repackage_var`.
    """
    return jax.tree.map(lax.stop_gradient, carry)


@bounded_jit(static_argnames=("dtype",))
def cast_floats(state: TrainState, dtype: str) -> TrainState:
    """The same state with its floats in another precision (`dtype` is static)."""

    def cast(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, state)


@bounded_jit()
def copied(state: TrainState) -> TrainState:
    """A copy in buffers of its own, which a step that uses the state up leaves alone."""
    return jax.tree.map(jnp.copy, state)


def carry_for(model: CharModel, params: Any, carry: Carry, batch_size: int) -> Carry:
    """`carry` in the precision of the weights, or zeros if it belongs to another batch size.

    Sizes are known when a step is traced, so this costs nothing at run time.

    Raises:
        ValueError: if it is no carry of the model's, of any batch size.
    """
    leaves = jax.tree.leaves(carry)
    sizes = {leaf.shape[0] for leaf in leaves if jnp.ndim(leaf)}
    if len(sizes) == 1 and sizes != {batch_size}:
        model_carry(model, params, carry, *sizes)  # of that batch size, it must fit
        return zero_carry(model, batch_size, precision(params))
    return model_carry(model, params, carry, batch_size)


def all_finite(state: TrainState) -> bool:
    """Whether the weights, the optimizer's state and the carry are finite."""
    leaves = jax.tree.leaves((state.params, state.opt_state, state.carry))
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in floats)
