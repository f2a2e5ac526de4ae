"""Is training healthy? Cheap numbers for the history, measured where a row ends.

Shapes: T time steps, B batch, H hidden size, N tokens of the corpus.

Which gates there are is read off the cell itself: its step is traced, and every sigmoid and tanh
in it is looked at. So a cell of one's own is measured like the built-in ones.
"""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array, Int

from jaxrnn.nn.layers import RNN
from jaxrnn.nn.model import CharModel
from jaxrnn.programs import bounded_jit
from jaxrnn.recurrent.cells import Carry, Cell
from jaxrnn.recurrent.recurrence import backend

END_OF_RANGE = 0.05
"""A sigmoid or tanh is saturated in the outermost 5 % of its range, at either end."""
LOOKED_AT = 8
"""Characters that the gates are watched over."""

_NEAR_AN_END: dict[str, Callable[[Array], Array]] = {
    "logistic": lambda y: jnp.abs(y - 0.5) > 0.5 - END_OF_RANGE,
    "tanh": lambda y: jnp.abs(y) > 1 - 2 * END_OF_RANGE,
    "max": lambda y: y <= 0,  # relu
}
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def update_ratio(params: Any, update_norm: float) -> float:
    """The norm of an update over the norm of the parameters."""
    return update_norm / max(float(_norm(params)), float(np.finfo(np.float32).tiny))


def saturated_share(
    model: CharModel, params: Any, carry: Carry, tokens: Int[Array, " N"], starts: np.ndarray
) -> float | None:
    """The share of sigmoids and tanhs in the cells that are near an end, over a few characters.

    For relu, the share of zeros.

    Args:
        model: the model.
        params: its parameters.
        carry: the carry to start from.
        tokens: the corpus, on the device.
        starts: (B,) where in it the characters to read start.

    Returns:
        The share in [0, 1], or None for a model without recurrent layers of gated cells.
    """
    if _gated_stack(model) is None:
        return None
    return float(_saturated_share(model, params, carry, tokens, starts))


@bounded_jit()
def _norm(params: Any) -> Array:
    return optax.tree.norm(params)


def _gated_stack(model: CharModel) -> RNN | None:
    """The recurrent layers of a model, if they are known and their cell has gates."""
    try:
        stack = model.stack
    except TypeError:  # a model of one's own need not say
        return None
    known = isinstance(stack, RNN) and isinstance(stack.cell, Cell)
    return stack if known else None


@bounded_jit(static_argnames=("model",))
def _saturated_share(
    model: CharModel, params: Any, carry: Carry, tokens: Array, starts: Array
) -> Array:
    stack = _gated_stack(model)
    assert stack is not None
    layers = {_layer_name(name): value for name, value in params["rnn"].items()}
    table = params["e"]["embedding"]
    positions = starts[None, :] + jnp.arange(LOOKED_AT)[:, None]
    xs = table[tokens.at[positions].get(mode="clip").astype(jnp.int32)]  # (T, B, F)
    rnn = stack.clone(cell=watched(stack.cell), parent=None)
    zeros = rnn.initial_carry(len(starts), xs.dtype)
    begin = (
        [z._replace(**c._asdict()) for z, c in zip(zeros, carry, strict=True)] if carry else zeros
    )
    with backend("scan"):  # the watched cell runs a few steps: not worth compiling
        after, _ = rnn.apply({"params": layers}, begin, xs)
    near = sum(layer.near.sum() for layer in after)
    return near / sum(layer.counted.sum() for layer in after)


def _layer_name(name: str) -> str:
    """torch's name of a parameter; those of a single cell lack the layer."""
    return name if "_l" in name else f"{name}_l0"


def watched(cell: Cell) -> Cell:
    """The same cell, whose carry also counts, unit by unit: values seen, and those near an end."""
    fields = cell.carry._fields
    watching = namedtuple("Watching", [*fields, "near", "counted"])  # type: ignore[misc]

    def step(carry: Any, x_gates: Array, h_gates: Array, **params: Array) -> Any:
        before = cell.carry(*carry[: len(fields)])
        own_step = partial(cell.step, **params)
        after, seen = _values_near_an_end(own_step, before, x_gates, h_gates)
        rows, width = carry.h.shape
        near = [s.reshape(rows, -1, width).sum(1).astype(carry.h.dtype) for s in seen]
        count = sum(s.size for s in seen) / carry.h.size
        return watching(*after, sum(near, carry.near), carry.counted + count)  # type: ignore[call-arg]

    return replace(cell, step=step, carry=watching)


def _values_near_an_end(function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[Array]]:
    """What a function returns, and for each sigmoid, tanh or relu in it, where it is saturated."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    seen: list[Array] = []
    results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), seen)
    return jax.tree.unflatten(jax.tree.structure(shape), results), seen


def _evaluate(
    jaxpr: Jaxpr, constants: list[Any], arguments: list[Any], seen: list[Array]
) -> list[Any]:
    """Run a traced function, equation by equation, and note the saturated values on the way."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else values[atom]  # noqa: E731
    for equation in jaxpr.eqns:
        inputs, kind = [read(atom) for atom in equation.invars], equation.primitive
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if inner is not None and kind.name in _CALLS:
            results = _evaluate(inner.jaxpr, inner.consts, inputs, seen)
        else:
            made = kind.bind(*inputs, **equation.params)
            results = made if kind.multiple_results else [made]
        if kind.name in _NEAR_AN_END:
            seen.append(_NEAR_AN_END[kind.name](results[0]))
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
