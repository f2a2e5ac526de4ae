"""The names in the lines of a call: arrays in every layout, weights, the library's public names.

from stress.calls.namespace import *
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import *  # noqa: F403
from jaxrnn import Cell, Hidden, TrainState, gates_of
from jaxrnn.nn.model import apply_model as apply_model
from jaxrnn.recurrent.inputs import Inputs as Inputs
from jaxrnn.recurrent.recurrence import backend as backend
from jaxrnn.recurrent.recurrence import recurrence as recurrence

PRECISE = ("float", "bfloat", "complex")
"""How the names of dtypes begin that hold fractions."""


def array(shape: tuple[int, ...], dtype: str, layout: str = "jax", *, seed: int = 0) -> Any:
    """Random numbers, truth values or integers, in memory as `layout` says."""
    rng = np.random.default_rng(seed)
    numbers: np.ndarray = rng.normal(size=shape) * 0.5
    if dtype == "bool":
        numbers = numbers > 0
    elif not dtype.startswith(PRECISE):
        numbers = np.abs(numbers * 4)
    return _laid_out(np.asarray(numbers).astype(jnp.dtype(dtype)), layout)


def integers(
    low: int,
    high: int,
    shape: tuple[int, ...],
    dtype: str = "int32",
    layout: str = "jax",
    *,
    seed: int = 0,
) -> Any:
    """Random integers in [low, high), in memory as `layout` says."""
    sampled = np.random.default_rng(seed).integers(low, high, shape)
    return _laid_out(np.asarray(sampled).astype(dtype), layout)


def _laid_out(dense: np.ndarray, layout: str) -> Any:
    """The same numbers in another layout."""
    if layout == "jax":
        return jnp.asarray(dense)
    if layout == "list":
        return dense.tolist()
    if layout == "fortran":
        return np.asfortranarray(dense)
    if layout == "read-only":
        dense.flags.writeable = False
        return dense
    if layout == "unaligned":
        memory = bytearray(dense.nbytes + 1)  # one byte behind where an array may begin
        moved = np.frombuffer(memory, dense.dtype, dense.size, offset=1).reshape(dense.shape)
        moved[...] = dense
        return moved
    if layout in ("strided", "reversed") and dense.ndim:
        if layout == "reversed":
            return np.ascontiguousarray(dense[::-1])[::-1]
        return np.repeat(dense, 2, axis=-1)[..., ::2]
    return dense


def key(seed: int) -> jax.Array:
    """A random key."""
    return jax.random.key(seed)


def plain(*fields: Any) -> tuple[Any, ...]:
    """A carry that is no NamedTuple."""
    return fields


def bare(carry: Any) -> Any:
    """The first carry of a stack, or what stands in its place."""
    return carry[0] if isinstance(carry, (tuple, list)) and carry else carry


def _own_step(carry: Any, x_gates: jax.Array, h_gates: jax.Array) -> Any:
    forget, candidate = gates_of(x_gates + h_gates, 2)
    forget = jax.nn.sigmoid(forget)
    return Hidden(forget * carry.h + (1 - forget) * jnp.tanh(candidate))


OWN = Cell("own", gates=("f", "n"), step=_own_step)


def rnn_weights(
    rnn: Any,
    inputs: int,
    dtype: str,
    *,
    seed: int = 0,
    wrong_shape: str | None = None,
    other: str | None = None,
    other_dtype: str = "float32",
) -> Any:
    """The variables of a stack: one of another shape, or of another precision, if named."""
    width = len(rnn.cell.gates) * rnn.hidden_size
    directions = 2 if rnn.bidirectional else 1
    params: dict[str, Any] = {}
    for layer in range(rnn.num_layers):
        size = inputs if layer == 0 else directions * rnn.hidden_size
        for suffix in ("", "_reverse")[:directions]:
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (width, size),
                "weight_hh": (width, rnn.hidden_size),
            }
            if rnn.bias:
                shapes |= {"bias_ih": (width,), "bias_hh": (width,)}
            for name, shape in shapes.items():
                full_name = f"{name}_l{layer}{suffix}"
                if full_name == wrong_shape:
                    shape = (shape[0] + 1, *shape[1:])
                own_dtype = other_dtype if full_name == other else dtype
                params[full_name] = array(shape, own_dtype, seed=seed + len(params))
    return {"params": params}


def model_weights(model: Any, dtype: str, *, seed: int = 0) -> Any:
    """The parameters of a model."""
    leaves, tree = jax.tree.flatten(_shapes(model))
    arrays = [array(leaf.shape, dtype, seed=seed + n) for n, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, arrays)


@lru_cache(maxsize=64)
def _shapes(model: Any) -> Any:
    """The shapes of a model's parameters."""
    tokens = np.zeros((3, 2), np.int32)  # (T, B)

    def init() -> Any:
        return model.init(key(0), model.initial_carry(2), tokens)["params"]

    return jax.eval_shape(init)


def train_state(model: Any, params: Any, optimizer: Any, carry: Any) -> TrainState:
    """A state with a copy of these parameters and of this carry."""
    params, carry = jax.tree.map(lambda x: x.copy() if hasattr(x, "copy") else x, (params, carry))
    return TrainState(params, optimizer.init(params), carry, jnp.zeros((), jnp.int32), key(0))


def step_results(results: Any) -> Any:
    """The compared results of a training step."""
    state, metrics = results
    return state.params, state.carry, state.step, metrics


def fit_results(results: Any) -> Any:
    """The compared results of a training."""
    state, rows = results
    return state.params, state.carry, [row.train for row in rows]


def gradient(run: Any, variables: Any, carry: Any, *, of_carry: bool) -> Any:
    """The gradient of a sum of functions of all outputs."""

    def loss(variables: Any, carry: Any) -> jax.Array:
        total = jnp.zeros(())
        for leaf in jax.tree.leaves(run(variables, carry)):
            total = total + jnp.sin(leaf.astype(jnp.result_type(float))).sum()
        return total

    return jax.grad(loss, (0, 1) if of_carry else 0)(variables, carry)
