"""A PyTorch checkpoint as JAX's tree of parameters, checked on the way."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn.exchange.weights import WeightMap, WeightMapError
from parity.core.bridge import is_float, named_leaves, numpy_of, rebuilt


def convert(state_dict: Mapping[str, Any], weight_map: WeightMap, *, like: Any) -> Any:
    """JAX's tree of parameters from a PyTorch checkpoint.

    Every key is used and every leaf filled, shapes and dtypes are those of `like`, no number is NaN
    or infinite, and nothing is shared with the checkpoint. Then the way back is gone: but for what
    the map itself calls inexact (`weight_map.inexact`) and for the rounding to a lower precision,
    it has to give the checkpoint again, bit by bit.

    Args:
        state_dict: tensors or arrays by key, as `module.state_dict()` gives them.
        weight_map: such as `suggest_map` gives.
        like: a tree of parameters, for its structure, shapes and dtypes.

    Returns:
        A tree as `like`, of JAX arrays.

    Raises:
        WeightMapError: if the checkpoint, the map and the tree do not fit, or if the way back gives
            other numbers; all is named.
    """
    leaves = named_leaves(like)
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in leaves.items()}
    theirs = {key: numpy_of(tensor) for key, tensor in state_dict.items()}
    moved = weight_map.from_torch(theirs, like=shapes)
    ours = {path: _as(moved[path], leaf.dtype) for path, leaf in leaves.items()}
    # What has overflown has no way back.
    problems = _overflown(ours) or _changed(theirs, ours, weight_map)
    if problems:
        raise WeightMapError("The weights are not carried over: " + "; ".join(problems) + ".")
    return rebuilt(like, {path: jnp.array(array) for path, array in ours.items()})


def _as(array: np.ndarray, dtype: Any) -> np.ndarray:
    # Overflow is reported by its own words. A Keras variable has the name of its type.
    with np.errstate(over="ignore"):
        return np.array(array, dtype=jnp.dtype(str(dtype)))


def _overflown(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Weights that the precision cannot hold, a phrase each; what went in is finite."""
    problems = []
    for path, array in arrays.items():
        count = np.count_nonzero(~np.isfinite(array.astype(np.float64)))
        if count:
            problems.append(f"{path} has {count} values beyond the range of {array.dtype}")
    return problems


def _changed(
    theirs: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray], weight_map: WeightMap
) -> list[str]:
    """Keys that the way back gives other numbers, a phrase each."""
    back = weight_map.to_torch(ours)
    problems = []
    for one in weight_map.entries:
        if one.operation.inexact:
            continue
        precisions = [ours[path].dtype for path in one.paths]
        for key in one.keys:
            # The way back is exact in the precision of the tree, which may be lower.
            before = theirs[key]
            for dtype in precisions:
                before = _rounded(before, dtype)
            if not np.array_equal(_wide(back[key]), _wide(before)):
                problems.append(f"{key} does not come back as it was")
    return problems


def _rounded(array: np.ndarray, dtype: Any) -> np.ndarray:
    return array.astype(dtype) if is_float(array) else array


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)
