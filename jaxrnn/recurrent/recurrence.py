"""Run a cell over time.

Shapes: T time steps, B batch, H hidden size, G the number of gates of the cell.

The products with the input need no carry, so they are made for all steps at once, by the caller
or here (`projection`), or, in the compiled loop, for a few steps at a time; what is left is one
product with the recurrent weight and the cell's elementwise step, or, for a cell without recurrent
gates, the step alone.
There are three ways to run it fast: `jaxrnn.recurrent.scan`, a `lax.scan` for any cell; on CPUs,
for elementwise cells, `jaxrnn.recurrent.compiled`, the same loop compiled with the product and the
step in one, which is generated from the cell; and on accelerators, for linear cells,
`jaxrnn.recurrent.linear`, in parallel over time.
`backend` chooses one, or JAX's own derivatives; `which_backend` tells which one a cell gets.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.array_checks import (
    as_array,
    as_carry,
    as_floats,
    as_integers,
    as_mask,
    nearest_rows,
)
from jaxrnn.checks import check_at_least_0
from jaxrnn.recurrent.cells import Carry, Cell, Params
from jaxrnn.recurrent.compiled.calls import compiled, runs_compiled
from jaxrnn.recurrent.compiled.library import why_unavailable
from jaxrnn.recurrent.dry_run import check_step
from jaxrnn.recurrent.handwritten import Arguments
from jaxrnn.recurrent.inputs import Inputs, Projection, input_gates, inputs_of
from jaxrnn.recurrent.linear import LinearCell, parallel
from jaxrnn.recurrent.scan import plain, scanned
from jaxrnn.recurrent.sharding import by_rows

Backend = Literal["scan", "compiled", "parallel", "autodiff"]
"""The ways to run the recurrence."""

# Part of the key under which jit keeps a program: within `backend` none made outside it is run.
_chosen = jax.make_user_context(None)


def backend(name: Backend) -> AbstractContextManager[None]:
    """Within it, the recurrence and generation run in this way; the innermost one counts.

    It is read when a program is traced. Programs that `jax.jit` made before, or within another
    backend, are not used again. "compiled" and "parallel" are permissions: a cell that is not
    elementwise, or bfloat16, and a cell that is not linear run in another way all the same.

    Args:
        name: "scan" for `lax.scan` with a backward pass written by hand, "compiled" for the
            compiled library, "parallel" for `lax.associative_scan`, "autodiff" for a plain
            `lax.scan` with JAX's own derivatives, which is slower to train.

    Returns:
        A context manager, to be entered once.

    Raises:
        ValueError: if there is no such backend, or if "compiled" is not available here.
    """
    if name not in get_args(Backend):
        known = ", ".join(get_args(Backend))
        raise ValueError(f"backend must be one of {known}, got {name!r}.")
    if name == "compiled" and (reason := why_not_compiled()):
        raise ValueError(f"The compiled recurrence is not available: {reason}.")
    return _chosen(name)


def why_not_compiled() -> str | None:
    """Why no recurrence can run compiled in this process; None if it can."""
    device = jax.default_backend()
    return why_unavailable() if device == "cpu" else f"JAX runs on a {device}, it needs a CPU"


def which_backend(cell: Cell, dtype: Any) -> Backend:
    """How the recurrence of a cell would run here and now.

    Args:
        cell: the cell.
        dtype: the precision of its weights.

    Returns:
        What `backend` chose, if it can run the cell. Else "compiled" if the cell, the precision
        and the machine allow it; "parallel" for a linear cell on an accelerator; "scan".
    """
    chosen = _chosen.value
    is_linear = isinstance(cell, LinearCell)
    if chosen in ("scan", "autodiff"):
        return chosen
    if chosen == "parallel" and is_linear:
        return "parallel"
    if runs_compiled(cell, jnp.dtype(dtype)):
        return "compiled"
    return "parallel" if is_linear and jax.default_backend() != "cpu" else "scan"


def uses_autodiff() -> bool:
    """Whether all derivatives are to be JAX's own; see `backend`."""
    return _chosen.value == "autodiff"


def length_mask(lengths: Int[Array, " B"], steps: int) -> Bool[Array, "T B"]:
    """Which of `steps` time steps lie within each sequence's length.

    Raises:
        ValueError: if the lengths are no integers (B,), or the steps no number of them.
    """
    lengths = as_integers("lengths", lengths, ("B",))
    if not is_symbolic_dim(steps):
        check_at_least_0(steps=steps)
    return jnp.arange(steps)[:, None] < lengths[None, :]


def recurrence(
    cell: Cell,
    reverse: bool,
    weight_hh: Float[Array, "GH H"] | None,
    bias_hh: Float[Array, " GH"],
    carry: Carry,
    x_gates: Inputs | Float[Array, "T B GH"],
    mask: Bool[Array, "T B"] | None = None,
    params: Params | None = None,
    resets: Bool[Array, "T B"] | None = None,
    projection: Projection | None = None,
) -> tuple[Carry, Float[Array, "T B H"]]:
    """Run `cell` over the T steps of `x_gates`, from the last one to the first if `reverse`.

    Args:
        cell: the cell.
        reverse: whether time runs backwards; `ys[t]` belongs to `x_gates[t]` either way.
        weight_hh: the recurrent weight; the other arrays are cast to its precision. None for a cell
            without recurrent gates: then the bias decides the precision.
        bias_hh: the recurrent bias; without recurrent gates, the only bias.
        carry: the carry before the first step that is run.
        x_gates: the input half of the gates, (T, B, G * H), as such or as rows of a table; with a
            `projection`, the inputs that it is made of, (T, B, I).
        mask: where False, the step leaves the carry as it is and its output is zero. None
            runs every step.
        params: the cell's parameters per unit by their names, (H,) each; None if it has none.
        resets: where True, the carry is zeroed before the step, if the step is run. None zeroes
            none.
        projection: the input weight and bias of a cell with recurrent gates, if `x_gates` are the
            inputs. The compiled backend makes their gates where it reads them.

    Returns:
        The carry after the last step that is run, and the output of every step.

    Raises:
        ValueError: if an array has another shape, or no floating numbers, or the parameters are not
            those of the cell.
    """
    weight_hh, bias_hh = _checked_weights(cell, weight_hh, bias_hh)
    dtype = bias_hh.dtype  # the precision of everything that follows
    width = len(bias_hh)
    hidden_size = width // len(cell.gates)
    # Which way is decided at trace time; jit's key has the choice of `backend` in it.
    way = which_backend(cell, dtype)
    x_gates = inputs_of(x_gates)
    if projection is not None:
        x_gates, projection = _checked_projection(x_gates, projection, width, dtype)
        together = way == "compiled" and cell.recurrent and x_gates.tokens is None
        if not together or x_gates.shape[-1] == 0:
            x_gates, projection = input_gates(x_gates, projection), None
    if projection is None:
        x_gates = _checked_gates(x_gates, width, dtype)
    steps, batch_size, _ = x_gates.shape
    # What the cell's carry must look like: every field (B, H).
    like = jax.ShapeDtypeStruct((batch_size, hidden_size), dtype)
    carry = as_carry(carry, cell.carry(*(like for _ in cell.carry._fields)))
    if mask is not None:
        mask = as_mask("mask", mask, (steps, batch_size))
    if resets is not None:
        resets = as_mask("resets", resets, (steps, batch_size))
    params = _checked_params(cell, params, hidden_size, dtype)
    check_step(cell, carry, (batch_size, width), dtype, params)
    run = _RUNS[way]
    inputs = Arguments(weight_hh, bias_hh, carry, x_gates, mask, params, resets, projection)
    return by_rows(partial(run, cell, reverse), inputs)


_RUNS: dict[Backend, Callable[..., Any]] = {
    "autodiff": plain,
    "scan": scanned,
    "compiled": compiled,
    "parallel": parallel,
}


def _checked_weights(cell: Cell, weight_hh: Any, bias_hh: Any) -> tuple[Array | None, Array]:
    """The recurrent weight, if the cell has recurrent gates, and the bias, in one precision.

    Raises:
        ValueError: if one of them has another shape, or no floating numbers, or there is a weight
            that the cell has no place for.
    """
    gates = len(cell.gates)
    if not cell.recurrent:
        if weight_hh is not None:
            raise ValueError(f"The cell {cell.name!r} has no recurrent gates: weight_hh is None.")
        bias_hh = as_array("bias_hh", bias_hh, ("G * H",))
        width = len(bias_hh)
        if width < gates or width % gates:
            raise ValueError(
                f"bias_hh must have the same number of units, at least 1, for each of {gates} "
                f"gates, got shape {bias_hh.shape}."
            )
        return None, as_floats("bias_hh", bias_hh, (width,), bias_hh.dtype)
    weight_hh = jnp.asarray(weight_hh)
    hidden_size = weight_hh.shape[-1] if weight_hh.ndim else 0
    if hidden_size < 1:
        raise ValueError(f"weight_hh must have at least 1 unit, got shape {weight_hh.shape}.")
    dtype = weight_hh.dtype
    weight_hh = as_floats("weight_hh", weight_hh, (gates * hidden_size, hidden_size), dtype)
    return weight_hh, as_floats("bias_hh", bias_hh, (gates * hidden_size,), dtype)


def _checked_gates(x_gates: Inputs, width: int, dtype: Any) -> Inputs:
    """The input half of the gates in the recurrence's precision, G * H = `width` wide.

    Raises:
        ValueError: if they have other shapes, or no numbers of the right kind.
    """
    if x_gates.tokens is None:
        return Inputs(as_floats("x_gates", x_gates.values, ("T", "B", width), dtype))
    axes = ("T", "B", "K") if jnp.ndim(x_gates.tokens) == 3 else ("T", "B")
    tokens = as_integers("tokens", x_gates.tokens, axes)
    table = as_floats("the table of input gates", x_gates.values, ("V", width), dtype)
    if not len(table):
        raise ValueError("The table of input gates must have at least 1 row, got 0.")
    return Inputs(table, nearest_rows(tokens, len(table)))


def _checked_projection(
    xs: Inputs, projection: Projection, width: int, dtype: Any
) -> tuple[Inputs, Projection]:
    """A layer's inputs, (T, B, I) or rows of a table, and what makes gates of them, G * H wide.

    Raises:
        ValueError: if they have other shapes, or no numbers of the right kind.
    """
    if xs.tokens is None:
        values = as_floats("xs", xs.values, ("T", "B", "I"), dtype)
    else:
        values = as_floats("the table of inputs", xs.values, ("V", "I"), dtype)
    weight_ih, bias_ih = projection
    weight_ih = as_floats("weight_ih", weight_ih, (width, values.shape[-1]), dtype)
    bias_ih = as_floats("bias_ih", bias_ih, (width,), dtype)
    return xs._replace(values=values), Projection(weight_ih, bias_ih)


def _checked_params(
    cell: Cell, params: Params | None, hidden_size: int, dtype: Any
) -> dict[str, Float[Array, " H"]]:
    """The parameters per unit of a cell, in the order of its names and in its precision.

    Raises:
        ValueError: if they are not those of the cell, or one has another shape.
    """
    params = params or {}
    if set(params) != set(cell.params):
        known = ", ".join(cell.params) or "none"
        got = ", ".join(params) or "none"
        raise ValueError(f"The parameters of the cell {cell.name!r} are {known}, got {got}.")
    return {name: as_floats(name, params[name], (hidden_size,), dtype) for name in cell.params}
