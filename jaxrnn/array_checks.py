"""What the arrays of a call must be: checked in one place, before anything runs.

Shapes: T time steps, B batch, H hidden size, G the number of gates of the cell.

Shapes and dtypes are known when a function is traced, so a check costs nothing at run time. Another
structure or shape is a ValueError that says what was expected and what came; another floating dtype
is cast: the weights decide the precision. Every way to run the recurrence gets the same arrays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int

from jaxrnn.checks import check_at_least_0

# Plain numbers, which JAX takes for arrays.
NUMBERS = (int, float, complex)


def check_batch_size(batch_size: Any) -> None:
    """Refuse what is no number of rows; a size that `jax.export` leaves open is one.

    Raises:
        ValueError: if it is no integer, or negative.
    """
    if not is_symbolic_dim(batch_size):
        check_at_least_0(batch_size=batch_size)


def as_floats(name: str, array: Any, axes: Sequence[str | int], dtype: DTypeLike) -> Array:
    """An array of floating numbers in another precision.

    Args:
        name: what it is, for the message.
        array: the array.
        axes: its axes: a number where the size is known, a letter where it is free.
        dtype: the precision.

    Raises:
        ValueError: if it has other axes or sizes, or no floating numbers.
    """
    array = as_array(name, array, axes)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must have floating numbers, got {array.dtype}.")
    return array.astype(dtype)


def as_array(name: str, array: Any, axes: Sequence[str | int]) -> Array:
    """An array with the axes that are expected; arguments as `as_floats`.

    Raises:
        ValueError: if it is no array, or has other axes or sizes.
    """
    expected = f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"
    array = converted(name, array, expected)
    sizes = [size for size in axes if isinstance(size, int)]
    known = [got for got, size in zip(array.shape, axes, strict=False) if isinstance(size, int)]
    if array.ndim != len(axes) or known != sizes:
        raise ValueError(f"{name} must have shape {expected}, got {array.shape}.")
    return array


def converted(name: str, array: Any, expected: str) -> Array:
    """An array of whatever axes, which `expected` names for the message.

    Raises:
        ValueError: if it is no array.
    """
    try:
        return jnp.asarray(array)
    except (TypeError, ValueError) as error:
        kind = type(array).__name__
        raise ValueError(f"{name} must be an array {expected}, got a {kind}.") from error


def as_integers(name: str, array: Any, axes: Sequence[str | int]) -> Array:
    """An array of integers; arguments and errors as `as_floats`."""
    array = as_array(name, array, axes)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"{name} must have integers, got {array.dtype}.")
    return array


def as_real(name: str, value: Any) -> Array:
    """One real number; arguments and errors as `as_floats`."""
    number = as_array(name, value, ())
    kinds = (jnp.floating, jnp.integer)
    if not any(jnp.issubdtype(number.dtype, kind) for kind in kinds):
        raise ValueError(f"{name} must be a real number, got {number.dtype}.")
    return number


def nearest_rows(tokens: Array, rows: int) -> Int[Array, "..."]:
    """The rows of a table that tokens read: of one outside [0, rows), the nearest row.

    On the device, where nothing can be refused, a token outside is no error. JAX's own indexing
    would count a negative one from the end, and wrap one that int32 does not hold, or give NaN.
    """
    largest = min(rows - 1, int(jnp.iinfo(tokens.dtype).max))
    return jnp.clip(tokens, 0, largest).astype(jnp.int32)


def as_lengths(lengths: Any, batch_size: int, steps: int) -> Int[Array, " B"]:
    """How many of T = `steps` time steps each of B = `batch` sequences has.

    Raises:
        ValueError: if it is no (B,) array of integers, or a value on the host lies outside [0, T].
            On the device, a value outside counts as the nearest one inside.
    """
    array = as_integers("lengths", lengths, (batch_size,))
    if not isinstance(lengths, jax.Array):
        values = np.asarray(lengths)
        outside = values[(values < 0) | (values > steps)]
        if outside.size:
            raise ValueError(f"lengths must lie in [0, {steps}], got {outside[0]}.")
    return array


def as_mask(name: str, mask: Any, axes: Sequence[str | int]) -> Bool[Array, "..."]:
    """An array of truth values; arguments and errors as `as_floats`."""
    array = as_array(name, mask, axes)
    if array.dtype != jnp.bool_:
        raise ValueError(f"{name} must have truth values, got {array.dtype}.")
    return array


def as_carry(carry: Any, like: Any, *, cast: bool = True) -> Any:
    """A carry in the structure, shapes and precision of `like`.

    Args:
        carry: the carry; a list of layers will do for a tuple.
        like: a carry whose leaves have shapes and dtypes, for example of `jax.ShapeDtypeStruct`.
        cast: whether to cast it to the precision of `like`.

    Raises:
        ValueError: if it has another structure or other shapes, or no floating numbers.
    """
    if isinstance(carry, list) and isinstance(like, tuple):
        carry = tuple(carry)
    leaves, structure = jax.tree.flatten(carry)
    wanted = jax.tree.leaves(like)
    wanted_structure: Any = jax.tree.structure(like)
    same = wanted_structure == structure and all(
        np.shape(leaf) == other.shape and _is_floating(leaf) == _is_floating(other)
        for leaf, other in zip(leaves, wanted, strict=True)
    )
    if not same:
        raise ValueError(f"carry must be {described(like)}, got {described(carry)}.")
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    if cast:
        arrays = [array.astype(other.dtype) for array, other in zip(arrays, wanted, strict=True)]
    return jax.tree.unflatten(structure, arrays)


def check_key(**keys: Any) -> None:
    """Refuse what is no single random key, as `jax.random.key` or `PRNGKey` makes it."""
    for name, key in keys.items():
        dtype = getattr(key, "dtype", None)
        typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
        if typed and key.shape == ():
            continue
        # A key of `PRNGKey` is two numbers, or four.
        if dtype == jnp.uint32 and key.shape in ((2,), (4,)):
            continue
        got = described(key)
        raise ValueError(f"{name} must be one random key, as jax.random.key(0) gives; got {got}.")


def check_arrays(**trees: Any) -> None:
    """Refuse a leaf that is no array and no number, such as a text; its place is named.

    `jax.jit` refuses it too, but in words about tracing.
    """
    _check_leaves(trees, lambda leaf: hasattr(leaf, "shape") or isinstance(leaf, NUMBERS))


def check_shapes_and_dtypes(**trees: Any) -> None:
    """Refuse a leaf without shape and dtype, as a plain number is one; its place is named."""
    _check_leaves(trees, lambda leaf: hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


def _check_leaves(trees: dict[str, Any], is_right: Callable[[Any], bool]) -> None:
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not is_right(leaf):
                place = f"{name}{jax.tree_util.keystr(path)}"
                raise ValueError(f"{place} must be an array, got {type(leaf).__name__}.")


def described(tree: Any) -> str:
    """The structure of a tree, with shapes and dtypes for its arrays."""
    return repr(jax.tree.map(_Described, tree))


class _Described:
    """Stands for an array in a message."""

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf

    def __repr__(self) -> str:
        dtype, shape = getattr(self.leaf, "dtype", None), getattr(self.leaf, "shape", None)
        if dtype is None or shape is None:
            return type(self.leaf).__name__
        return f"{dtype}[{','.join(map(str, shape))}]"


def _is_floating(leaf: Any) -> bool:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return bool(jnp.issubdtype(dtype, jnp.floating))


def precision(params: Any) -> Any:
    """The dtype of what a model computes: that of its recurrent weight, or of its first weight."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    recurrent = [leaf for name, leaf in named if "weight_hh" in name]
    inputs = [leaf for name, leaf in named if "weight_ih" in name]  # cells without recurrent gates
    weights = recurrent or inputs or [leaf for _, leaf in leaves]
    if not weights or not hasattr(weights[0], "dtype"):
        raise ValueError("The model has no parameters.")
    return weights[0].dtype
