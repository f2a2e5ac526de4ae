"""The recurrence as calls into the compiled library, differentiable any number of times.

Shapes: T time steps, B batch, H hidden size, G gates of the cell, F fields of its carry, P its
parameters per unit, R its residuals, V rows of the look-up table, I input size.

An array that is not there is passed as one without elements. Of the carry, `h` is an array of its
own, and the other fields are one array, (F - 1, B, H).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrnn.recurrent.cells import Carry, Cell, Params
from jaxrnn.recurrent.compiled.generated import Generated, generated
from jaxrnn.recurrent.compiled.library import vector_bytes, why_unavailable
from jaxrnn.recurrent.compiled.lowering import chosen_at_lowering
from jaxrnn.recurrent.handwritten import Arguments, HandWritten, Wanted, with_gates
from jaxrnn.recurrent.inputs import Inputs, Projection
from jaxrnn.recurrent.scan import plain, scanned


class Residuals(NamedTuple):
    """What the forward run keeps for the backward one.

    Attributes:
        ys: the outputs, (T, B, H).
        before: `h` before each step, (T, B, H); no elements where the step does not need it, or it
            follows from the outputs.
        gates: what the cell keeps of each step, R vectors of units after each other.
    """

    ys: Array
    before: Array
    gates: Array


def runs_compiled(cell: Cell, dtype: DTypeLike) -> bool:
    """Whether `compiled` can run a cell in a precision on this machine.

    The first call for a cell generates its functions.
    """
    precise = dtype in (jnp.float32, jnp.float64)
    if not precise or jax.default_backend() != "cpu" or why_unavailable() is not None:
        return False
    return generated(cell) is not None


def _generated(cell: Cell) -> Generated:
    """The functions of a cell that `runs_compiled`."""
    found = generated(cell)
    assert found is not None, f"the cell {cell.name!r} does not run compiled"
    return found


class _Gradients(NamedTuple):
    """The results of the backward call, or their shapes; no elements where there is no gradient."""

    x_gates: Any
    table: Any
    weight_hh: Any
    bias_hh: Any
    weight_ih: Any
    bias_ih: Any
    xs: Any
    params: Any
    h: Any
    others: Any


def _gradients(
    cell: Cell,
    reverse: bool,
    wanted: Wanted,
    inputs: Arguments,
    residuals: Residuals,
    gradients: tuple[Carry, Array],
) -> Arguments:
    """The gradients of the inputs, given those of the results; zero where they are not wanted.

    Where the carry's history is cut off, one product fewer is needed, and likewise where the
    layer's inputs are data.
    """
    d_last, d_ys = gradients
    dtype = d_ys.dtype
    functions = _generated(cell)
    x_gates = inputs.x_gates
    nothing = _nothing(d_ys, dtype)
    projection = inputs.projection
    call = jax.ffi.ffi_call(
        "jaxrnn_backward",
        _gradient_shapes(cell, wanted, inputs, residuals.ys),
        vmap_method="sequential",
    )
    found = call(
        nothing if inputs.weight_hh is None else inputs.weight_hh,
        nothing if projection is None else projection.weight_ih,
        nothing if projection is None else x_gates.values,
        inputs.carry.h if functions.needs_before(dtype) else nothing,
        residuals.before,
        residuals.gates,
        residuals.ys,
        # Without a product, the gates are cheaper to read again than to keep.
        nothing if cell.recurrent else inputs.bias_hh,
        nothing if cell.recurrent else x_gates.values,
        *_places(inputs),
        stacked_params(cell, inputs.params, like=d_ys),
        d_ys,
        *split_carry(d_last),
        cell=functions.fingerprint,
        reverse=reverse,
    )
    d = _Gradients(*found)
    d_carry = join_carry(cell, d.h, d.others) if wanted.carry else _zeros(d_last)
    d_values = d.x_gates if x_gates.tokens is None else d.table
    d_projection = None
    if projection is not None:
        d_values = d.xs if wanted.x_gates else jnp.zeros_like(x_gates.values)
        d_projection = Projection(d.weight_ih, d.bias_ih)
    by_name = inputs.params
    if cell.params:
        by_name = dict(zip(cell.params, d.params, strict=True))
    # Tokens, mask and resets have no gradient.
    d_weight_hh = d.weight_hh if cell.recurrent else None
    xs = Inputs(d_values)
    return Arguments(d_weight_hh, d.bias_hh, d_carry, xs, None, by_name, None, d_projection)


def _gradient_shapes(cell: Cell, wanted: Wanted, inputs: Arguments, ys: Array) -> _Gradients:
    """The shapes of the results of the backward call."""
    T, B, H = ys.shape
    G, F, P = len(cell.gates), len(cell.carry._fields), len(cell.params)
    x_gates = inputs.x_gates
    I = x_gates.shape[-1]
    looks_up = x_gates.tokens is not None
    projects = inputs.projection is not None

    def array(*shape: int, there: bool = True) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape if there else (0,), ys.dtype)

    return _Gradients(
        x_gates=array(T, B, G * H, there=not looks_up and not projects),
        table=array(len(x_gates.values), G * H, there=looks_up),
        weight_hh=array(G * H, H, there=cell.recurrent),
        bias_hh=array(G * H),
        weight_ih=array(G * H, I, there=projects),
        bias_ih=array(G * H, there=projects),
        xs=array(T, B, I, there=projects and wanted.x_gates),
        params=array(P, H, there=P > 0),
        h=array(B, H, there=wanted.carry),
        others=array(F - 1, B, H, there=wanted.carry and F > 1),
    )


def _run(cell: Cell, reverse: bool, keep: bool, inputs: Arguments) -> tuple[Carry, Residuals]:
    """The weight is packed by a call of its own, which XLA lifts out of a loop over windows."""
    weight_hh, bias_hh, carry, x_gates, _, params, _, projection = inputs
    T = x_gates.shape[0]
    # Where each step is run and none starts anew, `h` before a step is what the one before gave.
    follows = inputs.mask is None and inputs.resets is None
    B, H = carry.h.shape
    dtype = carry.h.dtype
    functions = _generated(cell)
    lanes = vector_bytes() // dtype.itemsize
    width = -(-H // lanes) * lanes  # filled up to whole vectors
    others = len(cell.carry._fields) - 1
    packed_ih = bias_ih = _nothing(bias_hh, dtype)
    if projection is not None:
        packed_ih = pack(projection.weight_ih, len(cell.gates))
        bias_ih = projection.bias_ih

    def array(*shape: int, there: bool = True) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape if there else (0,), dtype)

    ys, h, others_after, before, kept = jax.ffi.ffi_call(
        "jaxrnn_forward",
        (
            array(T, B, H),
            array(B, H),
            array(others, B, H, there=others > 0),
            array(T, B, H, there=keep and functions.needs_before(dtype) and not follows),
            array(T, B, functions.residuals(dtype) * width, there=keep),
        ),
        vmap_method="sequential",
    )(
        _nothing(bias_hh, dtype) if weight_hh is None else pack(weight_hh, len(cell.gates)),
        bias_hh,
        packed_ih,
        bias_ih,
        *split_carry(carry),
        x_gates.values,
        *_places(inputs),
        stacked_params(cell, params, like=bias_hh),
        cell=functions.fingerprint,
        reverse=reverse,
    )
    return join_carry(cell, h, others_after), Residuals(ys, before, kept)


def pack(weight: Float[Array, "GN K"], gates: int) -> Float[Array, " packed"]:
    """A weight in the order in which the library reads it, with the rows of so many gates."""
    rows, K = weight.shape
    panel = vector_bytes() // weight.dtype.itemsize * (2 if gates == 1 else 1)
    size = gates * -(-(rows // gates) // panel) * panel * K  # filled up to whole panels
    like = jax.ShapeDtypeStruct((size,), weight.dtype)
    call = jax.ffi.ffi_call("jaxrnn_pack", like, vmap_method="sequential")
    return call(weight, gates=np.int64(gates))


def split_carry(carry: Carry) -> tuple[Array, Array]:
    """`h`, and the other fields as one array, (F - 1, *h.shape); no elements if there are none."""
    h, *others = carry
    return h, jnp.stack(others) if others else _nothing(h, h.dtype)


def join_carry(cell: Cell, h: Array, others: Array) -> Carry:
    """The carry of `h` and the other fields."""
    return cell.carry(h, *others) if len(cell.carry._fields) > 1 else cell.carry(h)


def stacked_params(
    cell: Cell, params: Params | None, *, like: Array
) -> Float[Array, "P H"] | Float[Array, " 0"]:
    """The parameters per unit of a cell, in the order of its names.

    Args:
        cell: the cell.
        params: its parameters.
        like: an array of the same precision.
    """
    if not params:
        return _nothing(like, like.dtype)
    return jnp.stack([params[name] for name in cell.params])


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _places(inputs: Arguments) -> tuple[Array, Array, Array]:
    """For each time step and row: which row of the table it reads, whether it is run, and whether
    its carry is zeroed before."""
    tokens = inputs.x_gates.tokens
    mask = inputs.mask
    resets = inputs.resets
    if tokens is None:
        tokens = _nothing(inputs.bias_hh, jnp.int32)
    if mask is None:
        mask = _nothing(inputs.bias_hh, jnp.bool_)
    if resets is None:
        resets = _nothing(inputs.bias_hh, jnp.bool_)
    return tokens.astype(jnp.int32), mask, resets


def _nothing(array: Array, dtype: Any) -> Array:
    """No elements, cut off an argument. A constant would do, but JAX 0.10 takes the wrong
    residuals of a function with constants through second derivatives within `jax.checkpoint`."""
    return array.reshape(-1)[:0].astype(dtype)


# The same calls, chosen where a program is lowered.


def _compiled(cell: Cell, reverse: bool, inputs: Arguments) -> tuple[Carry, Array]:
    last, residuals = chosen_at_lowering(_run, _run_scanned, (cell, reverse, False), inputs)
    return last, residuals.ys


def _forward(cell: Cell, reverse: bool, inputs: Arguments) -> tuple[tuple[Carry, Array], Residuals]:
    last, residuals = chosen_at_lowering(_run, _run_scanned, (cell, reverse, True), inputs)
    return (last, residuals.ys), residuals


def _backward(cell: Cell, reverse: bool, wanted: Wanted, *rest: Any) -> Arguments:
    static = (cell, reverse, wanted)
    d: Arguments = chosen_at_lowering(_gradients, _gradients_scanned, static, *rest)
    return d


def _run_scanned(
    cell: Cell, reverse: bool, keep: bool, inputs: Arguments
) -> tuple[Carry, Residuals]:
    """The results of `_run`; its residuals are zeros, which `_gradients_scanned` does not read."""
    like = jax.eval_shape(partial(_run, cell, reverse, keep), inputs)[1]
    last, ys = scanned(cell, reverse, with_gates(inputs))
    return last, _zeros(like)._replace(ys=ys)


def _gradients_scanned(
    cell: Cell,
    reverse: bool,
    wanted: Wanted,
    inputs: Arguments,
    residuals: Residuals,
    gradients: tuple[Carry, Array],
) -> Arguments:
    """The gradients of `_gradients`; the forward pass is made again."""
    weight_hh, bias_hh, carry, x_gates, mask, params, resets, projection = inputs

    def run(*differentiable: Any) -> Any:
        weight_hh, bias_hh, carry, values, params, projection = differentiable
        xs = x_gates._replace(values=values)
        changed = Arguments(weight_hh, bias_hh, carry, xs, mask, params, resets, projection)
        return scanned(cell, reverse, with_gates(changed))

    pull = jax.vjp(run, weight_hh, bias_hh, carry, x_gates.values, params, projection)[1]
    d_weight, d_bias, d_carry, d_values, d_params, d_projection = pull(gradients)
    xs = Inputs(d_values)
    return Arguments(d_weight, d_bias, d_carry, xs, None, d_params, None, d_projection)


compiled = HandWritten(_compiled, _forward, _backward, plain)
"""`jaxrnn.recurrent.recurrence.recurrence` for the cells that `runs_compiled`, on a CPU."""
