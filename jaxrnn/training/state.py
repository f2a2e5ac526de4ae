"""The state of training, in one value."""

import math
import os
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import DTypeLike

from jaxrnn.array_checks import as_integers, check_arrays, check_batch_size, check_key, precision
from jaxrnn.nn.model import CharModel, check_char_model, check_params, model_carry
from jaxrnn.programs import bounded_jit
from jaxrnn.recurrent.cells import Carry
from jaxrnn.training.optimizers import AnyOptimizer, check_optimizer

# When the carry is set to zeros during training: never, at the start of each epoch, or at each
# evaluation, as fastai does.
CarryPolicy = Literal["never", "epoch", "evaluation"]

# Number of states in memory during a step: its input, and a copy or its result.
STATES = 2
# Number of float arrays (T, B, V) in memory during a step: logits, log probabilities, gradients.
VALUES_PER_LOGIT = 4
# Bytes of a float32.
FLOAT = 4


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

    def __repr__(self) -> str:
        """The sizes, and not the numbers: a notebook prints what a cell ends with."""
        leaves = jax.tree.leaves(self.params)
        count = sum(math.prod(np.shape(leaf)) for leaf in leaves)
        kinds = sorted({str(jnp.result_type(leaf)) for leaf in leaves})
        rows = {np.shape(leaf)[0] for leaf in jax.tree.leaves(self.carry) if np.ndim(leaf)}
        described = [f"{count:,} parameters in {' and '.join(kinds)}"]
        if len(rows) == 1:
            described.append(f"a carry of {rows.pop()} streams")
        # Inside of a jitted function, or of a state that was donated, there is no number.
        known = isinstance(self.step, jax.Array) and not isinstance(self.step, jax.core.Tracer)
        if known and not self.step.is_deleted():
            described.append(f"step {int(self.step):,}")
        return f"TrainState({', '.join(described)})"


def check_state(state: Any, optimizer: AnyOptimizer, model: CharModel | None = None) -> None:
    """Refuse what is no training state, or one of another model or optimizer.

    Args:
        state: the state.
        optimizer: the optimizer that its moments must be of.
        model: the model that its parameters must be of, if that is asked.

    Raises:
        ValueError: if it is none, if its parameters are not the model's, or if its optimizer's
            state has another structure.
    """
    if not isinstance(state, TrainState):
        raise ValueError(
            f"state must be a TrainState, got a {type(state).__name__}: for parameters, take "
            "make_state(model, optimizer, batch_size, key)._replace(params=params)."
        )
    check_key(**{"the state's key": state.key})
    as_integers("the state's step", state.step, ())
    # Parameters that are none of the model's make another structure of moments, too.
    if model is not None:
        check_params(model, state.params)
    expected: Any = jax.tree.structure(jax.eval_shape(optimizer.init, state.params))
    if jax.tree.structure(state.opt_state) != expected:
        raise ValueError(
            "The state is that of another optimizer: go on with its parameters alone, "
            "make_state(model, optimizer, batch_size, key)._replace(params=state.params)."
        )


def make_state(
    model: CharModel,
    optimizer: AnyOptimizer,
    batch_size: int,
    key: jax.Array,
    *,
    params: Any = None,
) -> TrainState:
    """A fresh state: initialized parameters, a carry of zeros for `batch_size` streams, step 0.

    Args:
        model: the model.
        optimizer: the optimizer.
        batch_size: B, at least 1.
        key: the random key of the parameters and of the run.
        params: parameters to start from instead.

    Raises:
        ValueError: if an argument is wrong.
    """
    check_char_model(model)
    check_optimizer(optimizer)
    check_batch_size(batch_size)
    check_key(key=key)
    params_key, run_key = jax.random.split(key)
    if params is None:
        params = _init(model, batch_size, params_key)
    else:
        check_params(model, params)
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
    check_arrays(carry=carry)
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
    sizes: set[int] = set()
    for leaf in jax.tree.leaves(carry):
        sizes.update(jnp.shape(leaf)[:1])  # (B, H): the batch size
    if len(sizes) == 1 and sizes != {batch_size}:
        # Zeros hide no mistake: the carry must fit the model at the batch size that it has.
        model_carry(model, params, carry, *sizes)
        return zero_carry(model, batch_size, precision(params))
    return model_carry(model, params, carry, batch_size)


def all_finite(state: TrainState) -> bool:
    """Whether the weights, the optimizer's state and the carry are finite."""
    leaves = jax.tree.leaves((state.params, state.opt_state, state.carry))
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    # On the host, where a new shape compiles nothing.
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in floats)


def check_memory(state: TrainState, *, steps: int, batch_size: int, vocab_size: int) -> None:
    """Refuse a run that cannot fit into memory, by a low estimate of what it needs.

    Called before the run: during it, the system would kill the process without a message.

    Args:
        state: the shapes of the state.
        steps: T, the longest window.
        batch_size: B.
        vocab_size: V.

    Raises:
        ValueError: if the estimate is above the machine's memory. Only where JAX computes in it:
            a GPU reports by itself that it is full.
    """
    if jax.default_backend() != "cpu":
        return
    # In Python's integers: no size is too large for them.
    values = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))
    logits = steps * batch_size * vocab_size  # (T, B, V)
    needed = FLOAT * (STATES * values + VALUES_PER_LOGIT * logits)
    there = memory_of_machine()
    if there is not None and needed > there:
        raise ValueError(
            f"The run needs at least {needed / 1e9:,.0f} GB of memory, and this machine has "
            f"{there / 1e9:,.0f} GB: choose a smaller hidden_size, embedding_size, batch_size or "
            "bptt."
        )


def memory_of_machine() -> int | None:
    """The machine's memory in bytes; None where the system does not tell, as on Windows."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
