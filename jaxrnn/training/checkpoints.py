"""Save and load training states: safetensors, nothing that could be executed.

A checkpoint is one file: every array of the state under its path in the tree
("params/rnn/weight_hh_l0"), and JSON in the file's metadata. It is written beside its place and
then moved there, so that a crash leaves the old one.
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

FORMAT = "jaxrnn 1"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit."""


def save(path: Path | str, tree: Any, metadata: dict[str, Any] | None = None) -> None:
    """Write a pytree of arrays, and metadata that JSON can express, to one file.

    Args:
        path: the file; one that exists is replaced at the end, in one move.
        tree: arrays, typed random keys among them.
        metadata: goes into the file's header.
    """
    path = Path(path)
    arrays = {name: _as_array(leaf) for name, leaf in _named_leaves(tree)}
    header = {"format": FORMAT, "metadata": json.dumps(metadata or {})}
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(serialize(arrays, header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path | str, like: Any) -> tuple[Any, dict[str, Any]]:
    """Read a pytree that `save` wrote, and its metadata.

    Args:
        path: the file.
        like: a tree of the same structure whose leaves have shapes and dtypes, for example from
            `jax.eval_shape`. A carry may have another batch size in the file.

    Raises:
        CheckpointError: if there is no such file, if it is damaged or no checkpoint, or if arrays
            are missing, unknown or of another shape; all of them are named.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is not a checkpoint of format {FORMAT!r}, "
                    f"but of {header.get('format')!r}."
                )
            arrays = {name: file.get_tensor(name) for name in list(file.keys())}
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint {path}.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint: {error}.") from error
    problems = _problems(dict(_named_leaves(like)), arrays)
    if problems:
        raise CheckpointError(f"{path} does not fit the model: " + "; ".join(problems) + ".")
    leaves, tree = jax.tree.flatten(like)
    names = [name for name, _ in _named_leaves(like)]
    read = [_from_array(arrays[name], leaf.dtype) for name, leaf in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(tree, read), json.loads(header["metadata"])


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]


def _is_key(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _as_array(leaf: Any) -> np.ndarray:
    data = jax.random.key_data(leaf) if _is_key(leaf.dtype) else leaf
    return np.asarray(data, order="C")


def _from_array(array: np.ndarray, dtype: Any) -> jax.Array:
    data = jnp.asarray(array)
    return jax.random.wrap_key_data(data) if _is_key(dtype) else data


def _problems(expected: dict[str, Any], got: dict[str, np.ndarray]) -> list[str]:
    problems = [f"{name} is missing" for name in expected if name not in got]
    problems += [f"{name} is unknown" for name in got if name not in expected]
    for name, leaf in expected.items():
        if name not in got or _is_key(leaf.dtype):
            continue
        shape = tuple(leaf.shape)
        free = name.startswith("carry/")
        fits = got[name].shape[1:] == shape[1:] if free else got[name].shape == shape
        if not fits or got[name].dtype != leaf.dtype:
            problems.append(
                f"{name}: expected {leaf.dtype}{list(shape)}, "
                f"got {got[name].dtype}{list(got[name].shape)}"
            )
    return problems
