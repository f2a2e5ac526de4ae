"""The state of training, in one value."""

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

# When the carry is set to zeros during training: never, at the start of each epoch, or at each
# evaluation, as fastai does.
CarryPolicy = Literal["never", "epoch", "evaluation"]


class TrainState(NamedTuple):
    """Everything that a training step takes and returns.

    Attributes:
        params: the model's parameters.
        opt_state: the optimizer's state.
        carry: the carry after the last window; the next one starts from it.
        step: number of updates made, an int32 scalar.
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
    """A fresh state: initialized parameters, a carry of zeros for `batch_size` streams, step 0."""
    check_optimizer(optimizer)
    check_at_least_0(batch_size=batch_size)
    params_key, run_key = jax.random.split(key)
    params = _init(model, batch_size, params_key)
    return TrainState(
        params=params,
        opt_state=_init_optimizer(optimizer, params),
        carry=zero_carry(model, batch_size),
        step=jnp.zeros((), jnp.int32),
        key=run_key,
    )


# Each of these is one bounded program: JAX compiles an operation outside of one for every shape
# and never forgets it.


@bounded_jit(static_argnames=("model", "batch_size"))
def _init(model: CharModel, batch_size: int, key: jax.Array) -> Any:
    tokens = jnp.zeros((3, batch_size), jnp.int32)  # three characters, as Char3Model reads them
    return model.init(key, model.initial_carry(batch_size), tokens)["params"]


@bounded_jit(static_argnames=("optimizer",))
def _init_optimizer(optimizer: AnyOptimizer, params: Any) -> optax.OptState:
    return optimizer.init(params)


def zero_carry(model: CharModel, batch_size: int, dtype: DTypeLike = jnp.float32) -> Carry:
    """The carry at the beginning of a text, for `batch_size` streams."""
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
        # The step counter and the key are no floats.
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, state)


@bounded_jit()
def copied(state: TrainState) -> TrainState:
    """A copy in buffers of its own, which survives a step that the state is donated to."""
    return jax.tree.map(jnp.copy, state)


def carry_for(model: CharModel, params: Any, carry: Carry, batch_size: int) -> Carry:
    """`carry` in the precision of the weights, or zeros if it belongs to another batch size.

    Sizes are known when a step is traced, so this costs nothing at run time.

    Raises:
        ValueError: if it is no carry of the model's, of any batch size.
    """
    sizes = set()
    for leaf in jax.tree.leaves(carry):
        sizes.update(jnp.shape(leaf)[:1])  # (B, H): the batch size
    if len(sizes) == 1 and sizes != {batch_size}:
        # Zeros hide no mistake: the carry must fit the model at the batch size that it has.
        model_carry(model, params, carry, *sizes)
        return zero_carry(model, batch_size, precision(params))
    return model_carry(model, params, carry, batch_size)


def all_finite(state: TrainState) -> bool:
    """Whether the weights, the optimizer's state and the carry are finite."""
    for leaf in jax.tree.leaves((state.params, state.opt_state, state.carry)):
        # On the host, where a new shape compiles nothing.
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all():
            return False
    return True
