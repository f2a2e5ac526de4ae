"""The recurrence as calls into the compiled library, differentiable any number of times.

Shapes: T time steps, B batch, H hidden size, G gates of the cell, V rows of the look-up table.

An array that is not there is passed as one without elements.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrnn.recurrent.cells import GRU, LSTM, RELU, TANH, Carry, Cell
from jaxrnn.recurrent.compiled.library import vector_bytes, why_unavailable
from jaxrnn.recurrent.embedded import EmbeddedTokens
from jaxrnn.recurrent.scan import scanned

NUMBERS = {TANH: 0, RELU: 1, GRU: 2, LSTM: 3}
"""The cells that are compiled, by the number that recurrence.cc knows them by."""
STEPS = {cell.name: cell.step for cell in NUMBERS}
"""What was compiled: a cell whose step has been replaced since is another cell."""
KEPT = {TANH: 0, RELU: 0, GRU: 4, LSTM: 5}
"""How many (B, H) a step keeps for the backward pass; as cells.h says."""


class Inputs(NamedTuple):
    """What the recurrence runs on; see `jaxrnn.recurrent.recurrence.recurrence`."""

    weight_hh: Float[Array, "GH H"]
    bias_hh: Float[Array, " GH"]
    carry: Carry
    x_gates: Float[Array, "T B GH"] | EmbeddedTokens
    mask: Bool[Array, "T B"] | None


class Kept(NamedTuple):
    """What the forward run leaves for the backward one.

    Attributes:
        ys: the outputs, (T, B, H).
        before: `h` before each step, (T, B, H).
        gates: what the cell keeps of each step, (T, B, KEPT * H).
    """

    ys: Array
    before: Array
    gates: Array


def runs_compiled(cell: Cell, weight_hh: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether `compiled` can run the cell in the weight's precision on this machine."""
    known = cell in NUMBERS and cell.step is STEPS[cell.name]
    precise = weight_hh.dtype in (jnp.float32, jnp.float64)
    return known and precise and jax.default_backend() == "cpu" and why_unavailable() is None


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def compiled(
    cell: Cell,
    reverse: bool,
    weight_hh: Array,
    bias_hh: Array,
    carry: Carry,
    x_gates: Array | EmbeddedTokens,
    mask: Array | None = None,
) -> tuple[Carry, Array]:
    """`jaxrnn.recurrent.recurrence.recurrence` for the cells of `NUMBERS`, on a CPU."""
    inputs = Inputs(weight_hh, bias_hh, carry, x_gates, mask)
    last, kept = _run(cell, reverse, inputs, keep=False)
    return last, kept.ys


def _forward(cell: Cell, reverse: bool, *arguments: Any) -> tuple[tuple[Carry, Array], Any]:
    inputs = Inputs(*jax.tree.map(lambda argument: argument.value, arguments))
    carried = any(leaf.perturbed for leaf in jax.tree.leaves(arguments[2], is_leaf=_is_argument))
    last, kept = _keeping(cell, reverse, inputs)
    return (last, kept.ys), (inputs, kept, () if carried else None)


def _backward(cell: Cell, reverse: bool, residuals: Any, gradients: tuple[Carry, Array]) -> Any:
    inputs, kept, carried = residuals
    gradients = jax.tree.map(_instantiated, gradients, is_leaf=_is_zero)
    return tuple(_gradients(cell, reverse, carried is not None, inputs, kept, gradients))


compiled.defvjp(_forward, _backward, symbolic_zeros=True)


def _is_argument(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _is_zero(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.SymbolicZero)


def _instantiated(leaf: Any) -> Array:
    return jnp.zeros(leaf.shape, leaf.dtype) if _is_zero(leaf) else leaf


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _gradients(
    cell: Cell,
    reverse: bool,
    carried: bool,
    inputs: Inputs,
    kept: Kept,
    gradients: tuple[Carry, Array],
) -> Inputs:
    """The gradients of the inputs, given those of the results; zero for the carry if not wanted.

    Where the carry's history is cut off, one product fewer is needed.
    """
    d_last, d_ys = gradients
    T, B, H = kept.ys.shape
    table = inputs.x_gates if isinstance(inputs.x_gates, EmbeddedTokens) else None
    separate = cell is GRU  # elsewhere both halves of the gates have the same gradient
    like = partial(jax.ShapeDtypeStruct, dtype=d_ys.dtype)
    width = len(cell.gates) * H
    own = width if table is None else H  # for a table, only the gate n, which is another there
    d_h_gates, d_x_gates, d_table, d_weight, d_bias, dh, dc = jax.ffi.ffi_call(
        "jaxrnn_backward",
        (
            like((T, B, width)),
            like((T, B, own) if separate else (0,)),
            like((0,) if table is None else (len(table.table), width)),
            like((width, H)),
            like((width,)),
            like((B, H) if carried else (0,)),
            like((B, H) if carried and cell is LSTM else (0,)),
        ),
        vmap_method="sequential",
    )(
        inputs.weight_hh,
        kept.before,
        kept.gates,
        kept.ys,
        *_places(inputs),
        d_ys,
        *_two(d_last),
        cell=np.int64(NUMBERS[cell]),
        reverse=reverse,
    )
    d_carry = cell.carry(*(dh, dc)[: len(d_last)]) if carried else _zeros(d_last)
    none: Any = None  # tokens and mask have no gradient
    if table is not None:
        d_x: Any = EmbeddedTokens(d_table, none)
    else:
        d_x = d_x_gates if separate else d_h_gates
    return Inputs(d_weight, d_bias, d_carry, d_x, none)


# Gradients of gradients, which are rare, are those of `scanned`: neither call has any of its own.


def _gradients_forward(
    cell: Cell, reverse: bool, carried: bool, *arguments: Any
) -> tuple[Inputs, Any]:
    inputs, _, gradients = arguments
    return _gradients(cell, reverse, carried, *arguments), (inputs, gradients)


def _gradients_backward(
    cell: Cell, reverse: bool, carried: bool, residuals: Any, second: Inputs
) -> Any:
    def of_scanned(inputs: Inputs, gradients: Any) -> Any:
        d = _without_integers(jax.vjp(partial(scanned, cell, reverse), *inputs)[1](gradients))
        return d if carried else d._replace(carry=_zeros(d.carry))

    d_inputs, d_gradients = jax.vjp(of_scanned, *residuals)[1](second)
    return _without_integers(d_inputs), None, d_gradients


_gradients.defvjp(_gradients_forward, _gradients_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _keeping(cell: Cell, reverse: bool, inputs: Inputs) -> tuple[Carry, Kept]:
    return _run(cell, reverse, inputs, keep=True)


def _keeping_forward(cell: Cell, reverse: bool, inputs: Inputs) -> tuple[Any, Inputs]:
    return _keeping(cell, reverse, inputs), inputs


def _keeping_backward(cell: Cell, reverse: bool, inputs: Inputs, gradients: Any) -> tuple[Inputs]:
    d_last, d_kept = gradients
    pull = jax.vjp(partial(scanned, cell, reverse), *inputs)[1]
    return (_without_integers(pull((d_last, d_kept.ys))),)


_keeping.defvjp(_keeping_forward, _keeping_backward)


def _run(cell: Cell, reverse: bool, inputs: Inputs, *, keep: bool) -> tuple[Carry, Kept]:
    """The weight is packed by a call of its own, which XLA lifts out of a loop over windows."""
    weight_hh, bias_hh, carry, x_gates, _ = inputs
    table = x_gates.table if isinstance(x_gates, EmbeddedTokens) else x_gates
    T = len(x_gates.tokens if isinstance(x_gates, EmbeddedTokens) else x_gates)
    B, H = carry.h.shape
    like = partial(jax.ShapeDtypeStruct, dtype=weight_hh.dtype)
    packed = pack(cell, weight_hh)
    ys, h, c, before, kept = jax.ffi.ffi_call(
        "jaxrnn_forward",
        (
            like((T, B, H)),
            like((B, H)),
            like((B, H) if cell is LSTM else (0,)),
            like((T, B, H) if keep else (0,)),
            like((T, B, KEPT[cell] * H) if keep else (0,)),
        ),
        vmap_method="sequential",
    )(
        packed,
        bias_hh,
        *_two(carry),
        table,
        *_places(inputs),
        cell=np.int64(NUMBERS[cell]),
        reverse=reverse,
    )
    return cell.carry(*(h, c)[: len(carry)]), Kept(ys, before, kept)


def pack(cell: Cell, weight: Float[Array, "GN K"]) -> Float[Array, " packed"]:
    """A weight in the order in which the library reads it; its gates are those of the cell."""
    gates, (rows, K) = len(cell.gates), weight.shape
    panel = vector_bytes() // weight.dtype.itemsize * (2 if gates == 1 else 1)
    size = gates * -(-(rows // gates) // panel) * panel * K  # filled up to whole panels
    like = jax.ShapeDtypeStruct((size,), weight.dtype)
    call = jax.ffi.ffi_call("jaxrnn_pack", like, vmap_method="sequential")
    return call(weight, cell=np.int64(NUMBERS[cell]))


def _without_integers(gradients: Any) -> Inputs:
    """Gradients of the inputs, in the structure in which `_gradients` gives them."""
    d = Inputs(*gradients)
    none: Any = None  # tokens and mask have no gradient
    d_x = (
        EmbeddedTokens(d.x_gates.table, none)
        if isinstance(d.x_gates, EmbeddedTokens)
        else d.x_gates
    )
    return d._replace(x_gates=d_x, mask=none)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _two(carry: Carry) -> tuple[Array, Array]:
    """h and c, the latter without elements where the cell has none."""
    h, *rest = carry
    return h, rest[0] if rest else _nothing(h, h.dtype)


def _places(inputs: Inputs) -> tuple[Array, Array]:
    """For each time step and row, which row of the table it reads, and whether it is run."""
    x_gates, mask = inputs.x_gates, inputs.mask
    return (
        x_gates.tokens.astype(jnp.int32)
        if isinstance(x_gates, EmbeddedTokens)
        else _nothing(inputs.bias_hh, jnp.int32),
        _nothing(inputs.bias_hh, jnp.bool_) if mask is None else mask,
    )


def _nothing(array: Array, dtype: Any) -> Array:
    """No elements, cut off an argument. A constant would do, but JAX 0.10 takes the wrong
    residuals of a function with constants through second derivatives within `jax.checkpoint`."""
    return array.reshape(-1)[:0].astype(dtype)
