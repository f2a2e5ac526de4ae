"""Linear functions whose transpose is written by hand, in every mode and order of differentiation.

JAX offers `jax.custom_vjp`, which refuses forward mode, and `jax.custom_derivatives.linear_call`,
which knows neither `vmap` nor derivatives with respect to what the function is not linear in. This
is the latter with both: reverse mode calls the transpose, forward mode the function itself, and
derivatives of either are those of the code in them.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

_Tree = TypeVar("_Tree")

_linear = Primitive("linear_with_transpose")
_linear.multiple_results = True


def linear_call(
    function: Callable[[Any, Any], Any],
    transpose: Callable[[Any, Any], Any],
    kept: Any,
    tangents: Any,
    like: Any,
) -> Any:
    """`function(kept, tangents)`, whose transpose is `transpose(kept, cotangents)`.

    Args:
        function: linear in the tangents; run in forward mode alone.
        transpose: its transpose: cotangents of the results to cotangents of `tangents`.
        kept: arrays that both are free to use, in any structure.
        tangents: floating arrays, in any structure.
        like: what the function gives, as arrays or `jax.ShapeDtypeStruct`.
    """
    kept, tangents = alike((kept, tangents))
    kept_tree: Any
    tangent_tree: Any
    like_tree: Any
    kept_leaves, kept_tree = jax.tree.flatten(kept)
    tangent_leaves, tangent_tree = jax.tree.flatten(tangents)
    like_leaves, like_tree = jax.tree.flatten(like)

    def flat_function(*leaves: Any) -> list[Any]:
        there = kept_tree.unflatten(leaves[: len(kept_leaves)])
        result = function(there, tangent_tree.unflatten(leaves[len(kept_leaves) :]))
        return like_tree.flatten_up_to(result)

    def flat_transpose(*leaves: Any) -> list[Any]:
        there = kept_tree.unflatten(leaves[: len(kept_leaves)])
        result = transpose(there, like_tree.unflatten(leaves[len(kept_leaves) :]))
        return tangent_tree.flatten_up_to(result)

    # A primitive takes arrays alone: the structures are in the two functions.
    results = _linear.bind(
        *kept_leaves,
        *tangent_leaves,
        function=flat_function,
        transpose=flat_transpose,
        kept=len(kept_leaves),
        shapes=tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in like_leaves),
    )
    return like_tree.unflatten(results)


def _results(*operands: Any, shapes: Any, **_: Any) -> list[ShapedArray]:
    return [result_of(operands, shape, dtype) for shape, dtype in shapes]


def result_of(operands: Sequence[Any], shape: tuple[int, ...], dtype: Any) -> ShapedArray:
    """The type of a result of operands of these types.

    Within `jax.shard_map` it differs over every axis of the mesh over which one of them does.
    """
    axes = varying_axes(operands)
    for operand in operands:
        if axes and operand.manual_axis_type.varying == axes:
            replicated = NamedSharding(operand.sharding.mesh, PartitionSpec(*[None] * len(shape)))
            kind = operand.manual_axis_type
            return ShapedArray(shape, dtype, sharding=replicated, manual_axis_type=kind)
    return ShapedArray(shape, dtype)


def varying_axes(types: Sequence[Any]) -> frozenset[Any]:
    """The axes of a mesh over which arrays of these types differ, within `jax.shard_map`."""
    return frozenset().union(*(one.manual_axis_type.varying for one in types))


def alike(tree: _Tree) -> _Tree:
    """The same arrays, each one different over every axis of the mesh over which one of them is.

    Within `jax.shard_map` JAX wants it said, and adds the gradients of the copies of a weight up.
    """
    types = [jax.typeof(leaf) for leaf in jax.tree.leaves(tree)]
    axes = varying_axes(types)

    def cast(leaf: Any) -> Any:
        missing = axes - varying_axes([jax.typeof(leaf)])
        return lax.pcast(leaf, tuple(sorted(missing)), to="varying") if missing else leaf

    return jax.tree.map(cast, tree) if axes else tree


def _call(*operands: Any, function: Any, **_: Any) -> Any:
    return function(*operands)


def _derivative(primals: Any, tangents: Any, **parameters: Any) -> Any:
    """The results, and their tangents; linear in the tangents alone, the same function of them."""
    kept = parameters["kept"]
    results = _linear.bind(*primals, **parameters)
    # The usual case: what is kept does not depend on what is differentiated.
    if all(isinstance(tangent, ad.Zero) for tangent in tangents[:kept]):
        given = [ad.instantiate_zeros(tangent) for tangent in tangents[kept:]]
        return results, _linear.bind(*primals[:kept], *given, **parameters)
    # Derivatives with respect to what is kept: those of the function's code.
    return results, tangents_of(parameters["function"], primals, tangents)


def tangents_of(
    function: Callable[..., Sequence[Any]], primals: Sequence[Any], tangents: Sequence[Any]
) -> Sequence[Any]:
    """The tangents of a function's results, by JAX's own derivatives of its code.

    Args:
        function: from arrays to a list of arrays.
        primals: its arguments.
        tangents: theirs, of which some may be `ad.Zero`.
    """
    places = [place for place, dot in enumerate(tangents) if not isinstance(dot, ad.Zero)]

    def of_some(*some: Any) -> Any:
        operands = list(primals)
        for place, operand in zip(places, some, strict=True):
            operands[place] = operand
        return function(*operands)

    some = [primals[place] for place in places]
    dots: Sequence[Any] = jax.jvp(of_some, some, [tangents[place] for place in places])[1]
    return dots


def _transposed(cotangents: Any, *operands: Any, **parameters: Any) -> Any:
    """The cotangents of the operands: None of what is kept, and those of the tangents."""
    kept = parameters["kept"]
    # A result that nobody uses has a symbolic zero.
    given = [
        jnp.zeros(shape, dtype) if isinstance(cotangent, ad.Zero) else cotangent
        for cotangent, (shape, dtype) in zip(cotangents, parameters["shapes"], strict=True)
    ]
    linear = [operand.aval for operand in operands[kept:]]
    # The transpose of the transpose is the function.
    swapped = parameters | {
        "function": parameters["transpose"],
        "transpose": parameters["function"],
        "shapes": tuple((aval.shape, aval.dtype) for aval in linear),
    }
    given = alike(([*operands[:kept]], given))[1]
    return [None] * kept + _linear.bind(*operands[:kept], *given, **swapped)


def _batched(operands: Any, axes: Any, **parameters: Any) -> Any:
    """The results of a batch of operands, with the batch as their first axis."""
    kept = parameters["kept"]
    size = next(
        operand.shape[axis]
        for operand, axis in zip(operands, axes, strict=True)
        if axis is not None
    )
    # All that is linear has the axis: its transpose need not add up.
    moved = [
        jnp.broadcast_to(operand, (size, *operand.shape))
        if axis is None
        else jnp.moveaxis(operand, axis, 0)
        for operand, axis in zip(operands[kept:], axes[kept:], strict=True)
    ]
    kept_axes = axes[:kept]  # a weight that the whole batch shares has None

    def mapped(function: Any) -> Any:
        def run(*leaves: Any) -> Any:
            in_axes = (*kept_axes, *(0 for _ in leaves[kept:]))
            return jax.vmap(function, in_axes, axis_size=size)(*leaves)

        return run

    changed = parameters | {
        "function": mapped(parameters["function"]),
        "transpose": mapped(parameters["transpose"]),
        "shapes": tuple(((size, *shape), dtype) for shape, dtype in parameters["shapes"]),
    }
    results = _linear.bind(*operands[:kept], *moved, **changed)
    return results, [0] * len(results)


_linear.def_impl(_call)
_linear.def_abstract_eval(_results)
mlir.register_lowering(_linear, mlir.lower_fun(_call, multiple_results=True))
ad.primitive_jvps[_linear] = _derivative
ad.primitive_transposes[_linear] = _transposed
batching.primitive_batchers[_linear] = _batched
