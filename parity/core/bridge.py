"""Arrays across frameworks: always copies, never views, and never another precision by accident.

A tree of either framework becomes named NumPy arrays and back. bfloat16, which NumPy lacks, is
`ml_dtypes.bfloat16`, which comes with JAX.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

from jaxrnn.tree import named_leaves as named_leaves
from parity.core.compare import STORED_AS, Arrays

# PyTorch's type of each precision.
TORCH_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
}


def check_dtypes(dtypes: Sequence[str], known: Sequence[str]) -> None:
    """Refuse precisions that are none of the known ones, and none at all.

    Raises:
        ValueError: with the known ones.
    """
    if isinstance(dtypes, str) or not dtypes or not set(dtypes) <= set(known):
        raise ValueError(f"dtypes must be a list of some of {', '.join(known)}; got {dtypes!r}.")


def jax_dtype(dtype: str) -> Any:
    """JAX's type of a precision."""
    return jnp.dtype(STORED_AS.get(dtype, dtype))


def torch_device() -> torch.device:
    """Where PyTorch computes: on the GPU if there is one that it can use."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def numpy_of(array: Any) -> np.ndarray:
    """A copy of a PyTorch or JAX array as a NumPy array of the same precision."""
    if not isinstance(array, torch.Tensor):
        return np.array(array)
    tensor = array.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        # NumPy cannot take bfloat16 from torch; the bits pass through as integers.
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()


def tensor_of(array: np.ndarray, dtype: str) -> torch.Tensor:
    """A copy of an array where PyTorch computes; floats in `dtype`, other numbers as they are."""
    array = np.asarray(array)
    if not is_float(array):
        return torch.tensor(array, device=torch_device())
    wide = array.astype(np.float64)
    return torch.tensor(wide, dtype=TORCH_DTYPES[dtype], device=torch_device())


def jax_of(array: np.ndarray, dtype: str) -> jax.Array:
    """A copy of an array for JAX; floats in the precision `dtype`, integers as int32."""
    array = np.asarray(array)
    # A mask stays a mask.
    if array.dtype == bool:
        return jnp.array(array)
    if not is_float(array):
        return jnp.array(array, jnp.int32)
    return jnp.array(array, jax_dtype(dtype))


def numpy_arrays(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`numpy_of` each."""
    return {name: numpy_of(array) for name, array in arrays.items()}


def tensors(arrays: Arrays, dtype: str) -> dict[str, torch.Tensor]:
    """`tensor_of` each."""
    return {name: tensor_of(array, dtype) for name, array in arrays.items()}


def jax_arrays(arrays: Arrays, dtype: str) -> dict[str, jax.Array]:
    """`jax_of` each."""
    return {name: jax_of(array, dtype) for name, array in arrays.items()}


def is_float(array: np.ndarray) -> bool:
    """Whether an array holds floats, bfloat16 among them."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def rebuilt(like: Any, leaves: Mapping[str, Any]) -> Any:
    """A pytree of the structure of `like` from leaves by path."""
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(structure, [leaves[name] for name in named_leaves(like)])


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest values that precision `dtype` can hold, in float64."""
    return np.asarray(array).astype(jax_dtype(dtype)).astype(np.float64)
