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
from jaxrnn.nn.models import COURSE_MODELS, CharLM
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
# `__call__` of models that embed tokens as `e` and run the layers of `stack` as `rnn`. That of
# another class may do something else with parameters of the same names.
KNOWN_CALLS = frozenset(kind.__call__ for kind in (*COURSE_MODELS, CharLM))
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
        The fraction in [0, 1], or None for a model without recurrent layers of gated cells, or
        whose cells have neither sigmoid nor tanh nor relu, or with a `__call__` of its own.
    """
    if _gated_stack(model) is None:
        return None
    near, counted = _saturated(model, params, carry, tokens, starts)
    return float(near) / float(counted) if counted else None


@bounded_jit()
def _norm(params: Any) -> Array:
    return optax.tree.norm(params)


def _gated_stack(model: CharModel) -> RNN | None:
    """The recurrent layers of a model, if it is known to run them and their cell has gates."""
    if type(model).__call__ not in KNOWN_CALLS:
        return None  # a model of one's own: what its parameters do is not known
    stack = model.stack
    if not isinstance(stack, RNN) or not isinstance(stack.cell, Cell):
        return None
    # A cell that counts reads one input a step.
    if window_of(stack.cell) != 1 or stack.bidirectional or stack.proj_size:
        return None
    return stack if _runs(model, stack) else None


@lru_cache(maxsize=MODELS_REMEMBERED)
def _runs(model: CharModel, stack: RNN) -> bool:
    """Whether the model's parameters are those of its stack, on top of its embedding."""
    carry = jax.eval_shape(partial(stack.initial_carry, 1))
    xs = jax.ShapeDtypeStruct((1, 1, model.embedding_size), jnp.float32)
    layers = jax.eval_shape(stack.init, jax.random.key(0), carry, xs)["params"]
    got = {}
    for name, shape in param_shapes(model).items():
        if name.startswith("rnn."):
            got[_numbered(name.removeprefix("rnn."))] = shape
    table = param_shapes(model).get("e.embedding")
    return table == (model.vocab_size, model.embedding_size) and got == {
        name: leaf.shape for name, leaf in layers.items()
    }


def _numbered(name: str) -> str:
    """A parameter's name in a stack, `weight_hh_l0`: a single cell's lacks the layer's number."""
    return name if "_l" in name else f"{name}_l0"


@bounded_jit(static_argnames=("model",))
def _saturated(
    model: CharModel, params: Any, carry: Carry, tokens: Array, starts: Array
) -> tuple[Array, Array]:
    """How many values are near an end, and of how many."""
    stack = _gated_stack(model)
    assert stack is not None
    layers = {}
    for name, value in params["rnn"].items():
        layers[_numbered(name)] = value
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
