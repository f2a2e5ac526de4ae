"""A cell's step and its pull-back as expressions, from their jaxprs.

A jaxpr is run on arrays of expressions instead of numbers: what only moves numbers (slices,
reshapes, concatenations) moves expressions, and every elementwise operation makes new ones. In the
end each number of the results is the expression of the arguments that it is made of. A step is
elementwise if that is the same expression at every row and unit, of the arguments there.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxrnn.recurrent.cells import Cell
from jaxrnn.recurrent.compiled.graph import OPERATIONS, Graph, NotElementwiseError, Place

Nodes = np.ndarray
"""An array of numbers of expressions."""

_CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"),
    *("custom_vjp_call_jaxpr", "checkpoint", "remat2"),
}
"""Primitives that only call another jaxpr."""
_JAXPRS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""The parameters in which they have it."""
_IDENTITIES = {"copy", "copy_p", "stop_gradient", "optimization_barrier"}
_OF_MASKS = {"and", "or", "xor", "not"}
"""Operations whose arguments are masks."""
_ROUNDING = {0: "round_half_away", 1: "round_half_even"}
"""`lax.RoundingMethod`."""


class StepGraph(NamedTuple):
    """A step and its pull-back for one unit of one row.

    Attributes:
        graph: has the leaves "carry", "x", "s" and "params", and "d", the gradient of the carry
            after the step, all at place (0, 0).
        after: the carry after the step, field by field.
        d_carry: the gradient of the carry before the step, field by field.
        dx: the gradients of the input half of the gates.
        ds: the gradients of the recurrent half.
        d_params: the gradients of the parameters per unit.
        recurrent: whether the recurrent half is a product with `h`; else it is the bias alone.
    """

    graph: Graph
    after: list[int]
    d_carry: list[int]
    dx: list[int]
    ds: list[int]
    d_params: list[int]
    recurrent: bool = True

    @property
    def gradients(self) -> list[int]:
        """All results of the pull-back."""
        return [*self.d_carry, *self.dx, *self.ds, *self.d_params]

    @property
    def of_each_row(self) -> list[int]:
        """All results that each row has for itself: all but the gradients of the parameters."""
        return [*self.after, *self.d_carry, *self.dx, *self.ds]


def trace(cell: Cell, dtype: DTypeLike) -> StepGraph:
    """The step of a cell and its pull-back in one precision.

    They are traced at one row and two units, which is enough to write them, and once more at three
    rows and three units: anything that depends on other rows or units, or on the sizes, shows.

    Args:
        cell: the cell.
        dtype: float32 or float64. The constants of a step are exact only in their own precision.

    Raises:
        NotElementwiseError: if it is no elementwise function of operations that have a C++ name.
    """
    graph = Graph()
    with jax.enable_x64(np.dtype(dtype) == np.float64):
        few = _traced(cell, graph, dtype, rows=1, units=2)
        more = _traced(cell, graph, dtype, rows=3, units=3)
    step = few[0, 0]
    for place, other in (*few.items(), *more.items()):
        if graph.moved(step.of_each_row, place) != other.of_each_row:
            raise NotElementwiseError(
                "a unit of it depends on other units or rows, or on how many there are"
            )
    if graph.moved(step.d_params, (0, 1)) != few[0, 1].d_params:
        raise NotElementwiseError("the gradient of a parameter depends on other units")
    return step


def _traced(
    cell: Cell, graph: Graph, dtype: DTypeLike, *, rows: int, units: int
) -> dict[Place, StepGraph]:
    """The step and its pull-back at every place; gradients of parameters are sums over rows."""

    def step_and_pull_back(carry: Any, x: Array, s: Array, params: Any, d: Any) -> Any:
        after, pull_back = jax.vjp(_step_of(cell), carry, x, s, params)
        return after, pull_back(d)

    example = _example(cell, rows, units, dtype)
    carry = example[0]
    arguments = _leaves(cell, graph, rows, units)
    d = [_field(graph, "d", i, rows, units) for i in range(len(carry))]
    after, (d_carry, dx, ds, d_params) = _run(
        graph, step_and_pull_back, (*example, carry), [*arguments, *d]
    )
    structure: Any = jax.tree.structure(carry)
    if structure != jax.tree.structure(after):
        raise NotElementwiseError("its result is no carry like the one that it takes")

    def at(row: int, unit: int) -> StepGraph:
        columns = range(unit, units * len(cell.gates), units)
        return StepGraph(
            graph,
            after=[int(field[row, unit]) for field in after],
            d_carry=[int(field[row, unit]) for field in d_carry],
            dx=[int(dx[row, column]) for column in columns],
            ds=[int(ds[row, column]) for column in columns],
            d_params=[int(vector[unit]) for vector in d_params],
            recurrent=cell.recurrent,
        )

    return {(row, unit): at(row, unit) for row in range(rows) for unit in range(units)}


def _step_of(cell: Cell) -> Callable[..., Any]:
    """The step, with the parameters as a tuple."""

    def step(carry: Any, x: Array, s: Array, params: tuple[Array, ...]) -> Any:
        return cell.step(carry, x, s, **dict(zip(cell.params, params, strict=True)))

    return step


def _example(cell: Cell, rows: int, units: int, dtype: DTypeLike) -> tuple[Any, ...]:
    """Arguments of a step in their shapes: carry, both halves of the gates, parameters."""
    field = jax.ShapeDtypeStruct((rows, units), dtype)
    gates = jax.ShapeDtypeStruct((rows, len(cell.gates) * units), dtype)
    vector = jax.ShapeDtypeStruct((units,), dtype)
    carry = cell.carry(*(field for _ in cell.carry._fields))
    return carry, gates, gates, (vector,) * len(cell.params)


def _leaves(cell: Cell, graph: Graph, rows: int, units: int) -> list[Nodes]:
    """The leaves of the graph in the shapes of the arguments."""

    def gates(name: str) -> Nodes:  # (rows, G * units)
        fields = [_field(graph, name, g, rows, units) for g in range(len(cell.gates))]
        return np.concatenate(fields, axis=1)

    carry = [_field(graph, "carry", i, rows, units) for i in range(len(cell.carry._fields))]
    params = [_field(graph, "params", i, 1, units)[0] for i in range(len(cell.params))]
    return [*carry, gates("x"), gates("s"), *params]


def _field(graph: Graph, name: str, index: int, rows: int, units: int) -> Nodes:
    """A leaf for each row and unit, (rows, units)."""
    return np.array(
        [[graph.leaf(name, index, (row, unit)) for unit in range(units)] for row in range(rows)]
    )


def _run(graph: Graph, function: Callable[..., Any], example: Any, leaves: list[Nodes]) -> Any:
    """What a function makes of the leaves, in the structure of its result."""
    try:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*example)
    except Exception as error:  # whatever a user's function raises on sizes that it does not take
        rows = example[1].shape[0]
        raise NotElementwiseError(f"it cannot be traced at {rows} rows: {error}") from error
    if closed.effects:
        raise NotElementwiseError("it has side effects")
    for like in jax.tree.leaves(shape):
        if like.dtype != example[1].dtype:
            raise NotElementwiseError(f"it gives {like.dtype}")
    constants = [_constant(graph, value) for value in closed.consts]
    try:
        results = _run_jaxpr(graph, closed.jaxpr, constants, leaves)
    except (LookupError, TypeError, AttributeError) as error:
        # A primitive of a newer JAX may have other parameters: the scan runs it all the same.
        raise NotElementwiseError(f"its jaxpr is not understood: {error!r}") from error
    return jax.tree.unflatten(jax.tree.structure(shape), results)


def _run_jaxpr(
    graph: Graph, jaxpr: Any, constants: Sequence[Nodes], arguments: Sequence[Nodes]
) -> list[Nodes]:
    """Run a jaxpr on arrays of expressions."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(atom: Any) -> Nodes:
        return _constant(graph, atom.val) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        results = _run_equation(graph, equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _constant(graph: Graph, value: Any) -> Nodes:
    """A captured number. Arrays are refused: which number belongs to which unit is not known."""
    if isinstance(value, jax.core.Tracer):
        raise NotElementwiseError("it captures a value that is being traced")
    array = np.asarray(value)
    if array.ndim:
        raise NotElementwiseError(f"it captures an array of shape {array.shape}")
    if array.dtype == np.bool_:
        # Masks are made of comparisons; so is a constant one.
        return np.array(graph.node("ne", graph.constant(float(array)), graph.constant(0.0)))
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise NotElementwiseError(f"it captures {array.dtype}")
    return np.array(graph.constant(float(array)))


def _run_equation(graph: Graph, equation: Any, inputs: list[Nodes]) -> list[Nodes]:
    name = equation.primitive.name
    params = equation.params
    if name in _CALLS:
        inner = next(params[key] for key in _JAXPRS if key in params)
        if _function_name(inner) == "exp_neg_sq":
            return [_exp_neg_square(graph, *inputs)]
        constants = [_constant(graph, value) for value in getattr(inner, "consts", ())]
        return _run_jaxpr(graph, getattr(inner, "jaxpr", inner), constants, inputs)
    if name in _IDENTITIES:
        return inputs
    if name in _MOVES:
        moved = _MOVES[name](params, *inputs)
        return moved if isinstance(moved, list) else [moved]
    if name in _MADE_OF_OTHERS:
        return [_MADE_OF_OTHERS[name](graph, equation, *inputs)]
    if name == "add_any":  # the sum of two gradients
        name = "add"
    if name not in OPERATIONS:
        raise NotElementwiseError(f"{name} has no C++ counterpart")
    kinds = {np.dtype(atom.aval.dtype).kind for atom in (*equation.invars, *equation.outvars)}
    if kinds & set("iu"):
        raise NotElementwiseError(f"{name} computes with whole numbers")
    if _is_bool(equation.invars[0]) and name in ("eq", "ne"):
        different = _each(graph, "xor", *inputs)
        return [different if name == "ne" else _each(graph, "not", different)]
    if _is_bool(equation.invars[0]) and name not in _OF_MASKS:
        raise NotElementwiseError(f"{name} computes with truth values")
    return [_each(graph, name, *inputs)]


def _each(graph: Graph, operation: str, *arrays: Nodes) -> Nodes:
    """An operation on each element of some arrays, which may be scalars."""
    node = lambda *arguments: graph.node(operation, *map(int, arguments))  # noqa: E731
    return np.asarray(np.vectorize(node, otypes=[int])(*arrays))


def _are_constants(graph: Graph, nodes: Nodes) -> bool:
    return all(graph.value(int(i)) is not None for i in nodes.flat)


def _is_bool(atom: Any) -> bool:
    return bool(atom.aval.dtype == np.bool_)


def _power(graph: Graph, equation: Any, x: Nodes) -> Nodes:
    """A whole power, as products."""
    exponent = equation.params.get("y", 2)  # `square` has no such parameter
    one = np.full(x.shape, graph.constant(1.0))
    if exponent == 0:
        return one
    power = x
    for bit in bin(abs(exponent))[3:]:  # from the second binary digit on
        power = _each(graph, "mul", power, power)
        power = _each(graph, "mul", power, x) if bit == "1" else power
    return power if exponent > 0 else _each(graph, "div", one, power)


def _one_minus_square(graph: Graph, equation: Any, x: Nodes) -> Nodes:
    """1 - x * x, which JAX 0.12 has in the derivative of tanh."""
    one = np.full(x.shape, graph.constant(1.0))
    return _each(graph, "sub", one, _each(graph, "mul", x, x))


def _function_name(inner: Any) -> str:
    """The name of the function that a jaxpr was made of; "" where JAX does not say."""
    debug_info = getattr(getattr(inner, "jaxpr", inner), "debug_info", None)
    return str(getattr(debug_info, "func_name", ""))


def _exp_neg_square(graph: Graph, x: Nodes) -> Nodes:
    """exp(-x * x), which JAX 0.12 has in the derivative of erf, made there of the bits of x."""
    return _each(graph, "exp", _each(graph, "neg", _each(graph, "mul", x, x)))


def _clamp(graph: Graph, equation: Any, low: Nodes, x: Nodes, high: Nodes) -> Nodes:
    return _each(graph, "min", _each(graph, "max", x, low), high)


def _converted(graph: Graph, equation: Any, x: Nodes) -> Nodes:
    """Another dtype: of a constant, of a mask, or none at all."""
    (variable,) = equation.invars
    old = np.dtype(variable.aval.dtype)
    new = np.dtype(equation.params["new_dtype"])
    if old == new:
        return x
    if _are_constants(graph, x) and new.kind == "f":
        values = [graph.value(int(i)) for i in x.flat]
        rounded = np.asarray(values, old).astype(new)
        return np.array([graph.constant(value) for value in rounded], int).reshape(x.shape)
    if old == np.bool_ and new.kind == "f":
        zero = np.full(x.shape, graph.constant(0.0))
        one = np.full(x.shape, graph.constant(1.0))
        return _each(graph, "select_n", x, zero, one)
    if old.kind == "f" and new == np.bool_:
        return _each(graph, "ne", x, np.full(x.shape, graph.constant(0.0)))
    raise NotElementwiseError(f"it converts {old} to {new}")


def _selected(graph: Graph, equation: Any, which: Nodes, *cases: Nodes) -> Nodes:
    if not _is_bool(equation.invars[0]) or len(cases) != 2:
        raise NotElementwiseError("it selects by whole numbers")
    operation = "select_mask" if _is_bool(equation.invars[1]) else "select_n"
    return _each(graph, operation, which, *cases)


def _rounded(graph: Graph, equation: Any, x: Nodes) -> Nodes:
    return _each(graph, _ROUNDING[int(equation.params["rounding_method"])], x)


def _summed(graph: Graph, equation: Any, x: Nodes) -> Nodes:
    """A sum over axes; of a parameter's gradient, over the only row."""
    for axis in sorted(equation.params["axes"], reverse=True):
        slices = np.moveaxis(x, axis, 0)
        if not len(slices):
            raise NotElementwiseError("it sums no numbers")
        x = reduce(lambda total, term: _each(graph, "add", total, term), slices)
    return x


_MADE_OF_OTHERS: dict[str, Callable[..., Nodes]] = {
    "integer_pow": _power,
    "square": _power,
    "one_minus_square": _one_minus_square,
    "clamp": _clamp,
    "convert_element_type": _converted,
    "select_n": _selected,
    "round": _rounded,
    "reduce_sum": _summed,
}
"""Primitives that are made of several operations, or of another one than their name says."""


def _slice(params: Any, x: Nodes) -> Nodes:
    steps = params["strides"] or (1,) * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return x[tuple(slice(*bound) for bound in bounds)]


def _split(params: Any, x: Nodes) -> list[Nodes]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], axis=params["axis"])


def _pad(params: Any, x: Nodes, filling: Nodes) -> Nodes:
    config = params["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in config):
        raise NotElementwiseError("it pads by less than nothing")
    sizes = [
        low + high + size + max(size - 1, 0) * between
        for size, (low, high, between) in zip(x.shape, config, strict=True)
    ]
    padded = np.full(sizes, filling)
    inside = [
        slice(low, size - high, between + 1)
        for size, (low, high, between) in zip(sizes, config, strict=True)
    ]
    padded[tuple(inside)] = x
    return padded


def _broadcast(params: Any, x: Nodes) -> Nodes:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


_MOVES: dict[str, Callable[..., Any]] = {
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda params, *xs: np.concatenate(xs, axis=params["dimension"]),
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: np.squeeze(x, axis=tuple(params["dimensions"])),
    "expand_dims": lambda params, x: np.expand_dims(x, tuple(params["dimensions"])),
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
    "rev": lambda params, x: np.flip(x, tuple(params["dimensions"])),
}
"""Primitives that only move numbers, as NumPy has them."""
