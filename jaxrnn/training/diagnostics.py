"""Diagnostics of training: cheap numbers for the history, measured where a row ends.

Shapes: T time steps, B batch, H hidden size, N tokens of the corpus.

The gates are found in the cell itself: its step is traced, and every sigmoid and tanh in the jaxpr
is measured. So a user's cell is measured like the built-in ones.
"""

from collections import namedtuple
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array, Int

from jaxrnn.nn.layers import RNN
from jaxrnn.nn.model import MODELS_REMEMBERED, CharModel, param_shapes
from jaxrnn.programs import bounded_jit
from jaxrnn.recurrent.cells import Carry, Cell
from jaxrnn.recurrent.linear import window_of
from jaxrnn.recurrent.recurrence import backend

# Saturated part of the range of a sigmoid or tanh, at either end.
END_OF_RANGE = 0.05
# T, number of characters over which saturation is measured.
LOOKED_AT = 8

# Saturation of a primitive's results, by the name of the primitive.
_NEAR_AN_END: dict[str, Callable[[Array], Array]] = {
    "logistic": lambda y: jnp.abs(y - 0.5) > 0.5 - END_OF_RANGE,
    "tanh": lambda y: jnp.abs(y) > 1 - 2 * END_OF_RANGE,
    # relu; the saturated end is zero, the other end is infinite.
    "max": lambda y: y <= 0,
}
# Primitives that call another jaxpr, which is searched as well.
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def update_ratio(params: Any, update_norm: float) -> float:
    """The norm of an update over the norm of the parameters."""
    return update_norm / max(float(_norm(params)), float(np.finfo(np.float32).tiny))


def saturated_share(
    model: CharModel, params: Any, carry: Carry, tokens: Int[Array, " N"], starts: np.ndarray
) -> float | None:
    """The fraction of sigmoids and tanhs in the cells that are near an end, over a few characters.

    For relu, the fraction of zeros.

    Args:
        model: the model.
        params: its parameters.
        carry: the carry to start from.
        tokens: the corpus, on the device.
        starts: (B,) positions of the first characters to read.

    Returns:
        The fraction in [0, 1], or None for a model without recurrent layers of gated cells that
        read an embedding, or whose cells have neither sigmoid nor tanh nor relu.
    """
    if _gated_stack(model) is None or not _has_usual_parts(model):
        return None
    near, counted = _saturated(model, params, carry, tokens, starts)
    return float(near) / float(counted) if counted else None


@bounded_jit()
def _norm(params: Any) -> Array:
    return optax.tree.norm(params)


def _gated_stack(model: CharModel) -> RNN | None:
    """The recurrent layers of a model, if they are known and their cell has gates."""
    try:
        stack = model.stack
    except TypeError:  # a model of one's own need not say
        return None
    if not isinstance(stack, RNN) or not isinstance(stack.cell, Cell):
        return None
    # A cell that counts reads one input a step.
    return stack if window_of(stack.cell) == 1 else None


@lru_cache(maxsize=MODELS_REMEMBERED)
def _has_usual_parts(model: CharModel) -> bool:
    """Whether layers `rnn` read embedding `e` alone; a model of one's own may compute otherwise."""
    stack = _gated_stack(model)
    shapes = param_shapes(model)
    table = shapes.get("e.embedding")
    if stack is None or table is None or len(table) != 2:
        return False
    width = table[1]

    def init() -> tuple[Any, Carry]:
        carry = stack.initial_carry(1, input_size=width)
        variables = stack.init(jax.random.key(0), carry, jnp.zeros((1, 1, width)))  # (T, B, F)
        return variables["params"], carry

    params, carry = jax.eval_shape(init)
    expected = {name: leaf.shape for name, leaf in params.items()}
    found = {}
    for name, shape in shapes.items():
        if name.startswith("rnn."):
            layer = name.removeprefix("rnn.")
            # A single cell's parameters lack the number of the layer.
            found[layer if "_l" in layer else f"{layer}_l0"] = shape
    # A model of windows has no carry from one to the next.
    own = jax.eval_shape(partial(model.initial_carry, 1))
    same: Any = jax.tree.structure(own)
    return found == expected and (own == () or same == jax.tree.structure(carry))


@bounded_jit(static_argnames=("model",))
def _saturated(
    model: CharModel, params: Any, carry: Carry, tokens: Array, starts: Array
) -> tuple[Array, Array]:
    """How many values are near an end, and of how many."""
    stack = _gated_stack(model)
    assert stack is not None
    layers = {}
    for name, value in params["rnn"].items():
        # A single cell's parameters lack the number of the layer: weight_hh, not weight_hh_l0.
        layers[name if "_l" in name else f"{name}_l0"] = value
    table = params["e"]["embedding"]
    positions = starts[None, :] + jnp.arange(LOOKED_AT)[:, None]  # (T, B)
    read = tokens.at[positions].get(mode="clip").astype(jnp.int32)
    xs = table[read]  # (T, B, F)

    # Run the layers with cells that count.
    rnn = stack.clone(cell=watched(stack.cell), parent=None)
    begin = list(rnn.initial_carry(len(starts), xs.dtype))
    for layer, given in enumerate(carry):
        begin[layer] = begin[layer]._replace(**given._asdict())
    with backend("scan"):  # a few steps of a cell made for them: not worth compiling
        after, _ = rnn.apply({"params": layers}, tuple(begin), xs)

    near = jnp.stack([layer.near.sum() for layer in after])  # (B, H) each -> (L,)
    counted = jnp.stack([layer.counted.sum() for layer in after])
    return near.sum(), counted.sum()


def watched(cell: Cell) -> Cell:
    """The same cell, whose carry also counts, per unit: values measured, and those near an end."""
    fields = cell.carry._fields
    watching = namedtuple("Watching", [*fields, "near", "counted"])  # type: ignore[misc]

    def step(carry: Any, x_gates: Array, h_gates: Array, **params: Array) -> Any:
        # Run the step's jaxpr instead of the step.
        arguments = (cell.carry(*carry[: len(fields)]), x_gates, h_gates)
        closed, shape = jax.make_jaxpr(partial(cell.step, **params), return_shape=True)(*arguments)
        seen: list[Array] = []
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), seen)
        after = jax.tree.unflatten(jax.tree.structure(shape), results)

        # Count.
        near = carry.near
        count = 0.0
        for saturated in seen:
            # Several gates may lie side by side: (B, G H) -> (B, G, H) -> (B, H).
            by_unit = saturated.reshape(len(near), -1, near.shape[1])
            near = near + by_unit.sum(1).astype(near.dtype)
            count += saturated.size / near.size
        return watching(*after, near, carry.counted + count)  # type: ignore[call-arg]

    return Cell(
        cell.name,
        cell.gates,
        step,
        watching,
        params=cell.params,
        recurrent_gates=cell.recurrent_gates,
    )


def _evaluate(
    jaxpr: Jaxpr, constants: list[Any], arguments: list[Any], seen: list[Array]
) -> list[Any]:
    """Run a jaxpr, equation by equation, and append the saturated places of each gate to `seen`."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        kind = equation.primitive
        # Into the functions that it calls: `nn.relu` and others are jitted.
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if inner is not None and kind.name in _CALLS:
            results = _evaluate(inner.jaxpr, inner.consts, inputs, seen)
        else:
            results = kind.bind(*inputs, **equation.params)
            if not kind.multiple_results:
                results = [results]
        if kind.name in _NEAR_AN_END:
            seen.append(_NEAR_AN_END[kind.name](results[0]))
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
