"""Save and load training states: safetensors, nothing that could be executed.

A checkpoint is one file: every array of the state under its path in the tree
("params/rnn/weight_hh_l0"), and JSON in the header, which begins with the sha256 of the whole
file, the checksum itself read as zeros. A bit that is flipped anywhere is noticed. Every later
format begins in the same way, so that an older program can tell a newer file from a damaged one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as deserialize
from safetensors.numpy import save as serialize

from jaxrnn.array_checks import check_shapes_and_dtypes
from jaxrnn.checks import check_path
from jaxrnn.exchange.weights import coverage
from jaxrnn.files import CHECKPOINT_BEGINNING, UnreadableError, damage, read_regular, write_whole
from jaxrnn.runs.checksums import NO_CHECKSUM, check_own_checksum, with_checksum
from jaxrnn.tree import named_leaves

FORMAT = 3
"""Format of new files. Format 2 had the whole history of a run in it, format 1 no checksum."""
READABLE = (2, 3)
"""Formats that can be read; files of others are refused."""
ROOM = 1 << 26
"""Maximum size of a file in bytes, beyond four times that of the state that is asked for."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is missing, or whose bytes have changed since it was saved."""


def save(
    path: Path | str,
    tree: Any,
    metadata: dict[str, Any] | None = None,
    *,
    older: Sequence[Path] = (),
) -> None:
    """Write a pytree of arrays, and metadata that JSON can express, to one file.

    Args:
        path: the file; one that exists is replaced at the end, in one move.
        tree: arrays, typed random keys among them.
        metadata: goes into the file's header.
        older: where earlier files move to; see `write_whole`.
    """
    check_path(path=path)
    write_whole(Path(path), pack(tree, metadata), older=older)


def pack(tree: Any, metadata: dict[str, Any] | None = None) -> bytes:
    """The bytes of a checkpoint; the same for the same tree and metadata."""
    check_shapes_and_dtypes(tree=tree)
    metadata = metadata or {}
    # Escaped in the header, it is longer; within this limit `load` always accepts the file.
    room = len(json.dumps(metadata))
    if room > ROOM // 4:
        raise ValueError(f"The metadata of a checkpoint has {room:,} bytes: too many to be read.")
    arrays = {name: _as_array(leaf) for name, leaf in named_leaves(tree).items()}
    described = {"sha256": NO_CHECKSUM.decode(), "format": FORMAT, "metadata": metadata}
    return with_header_checksum(serialize(arrays, {"jaxrnn": json.dumps(described)}))


def with_header_checksum(data: bytes) -> bytes:
    """A checkpoint's bytes with the checksum in place of the zeros in its header."""
    # safetensors: eight bytes with the length of the header, then the header.
    return with_checksum(data, data[:8] + CHECKPOINT_BEGINNING)


def load(path: Path | str, like: Any) -> tuple[Any, dict[str, Any]]:
    """Read a pytree that `save` wrote, and its metadata.

    Args:
        path: the file.
        like: a tree of the same structure whose leaves have shapes and dtypes, for example from
            `jax.eval_shape`. A carry may have another batch size in the file.

    Raises:
        CheckpointError: if there is no such file, if it is damaged, no checkpoint or of another
            format, or if arrays are missing, unknown or of another shape; all of them are named.
    """
    check_path(path=path)
    check_shapes_and_dtypes(like=like)
    path = Path(path)
    arrays, metadata = read(path, at_most=most_bytes(like))
    tree = fitted(path, arrays, like)
    return tree, metadata


def most_bytes(like: Any) -> int:
    """Maximum size in bytes of a checkpoint of a tree of these shapes; see `load`."""
    size = 0
    for leaf in jax.tree.leaves(like):
        size += int(np.prod(leaf.shape)) * leaf.dtype.itemsize
    return 4 * size + ROOM


def fitted(path: Path, arrays: dict[str, np.ndarray], like: Any) -> Any:
    """The pytree from the arrays of a checkpoint.

    Args:
        path: the file, for the message.
        arrays: the arrays by name, from `read`.
        like: see `load`.

    Raises:
        CheckpointError: if arrays are missing, unknown or of another shape; all of them are named.
    """
    # Names and shapes first: all problems in one message.
    expected = named_leaves(like)
    problems = _problems(expected, arrays)
    if problems:
        raise CheckpointError(f"{path} does not fit the model: " + "; ".join(problems) + ".")
    leaves = []
    for name, leaf in expected.items():
        # `jnp.asarray` would compile a program for each shape.
        array = jax.device_put(arrays[name])
        # A typed random key is saved as its words.
        if _is_key(leaf.dtype):
            array = jax.random.wrap_key_data(array)
        leaves.append(array)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def read(path: Path, *, at_most: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata of a checkpoint, whose checksum is verified.

    Args:
        path: the file.
        at_most: its maximum size in bytes; a larger one is refused before it is read.

    Raises:
        DamagedCheckpointError: if it is missing, too large, damaged or no checkpoint.
        CheckpointError: if it is of another format.
    """
    data = _bytes(path, at_most)
    # The checksum comes first: nothing is parsed before the bytes are known to be what was saved.
    if not data[8:].startswith(CHECKPOINT_BEGINNING):
        raise DamagedCheckpointError(f"{path} is damaged or no checkpoint: its beginning is not.")
    try:
        check_own_checksum(data, data[:8] + CHECKPOINT_BEGINNING)
    except ValueError as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}.") from None
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        described = json.loads(header["__metadata__"]["jaxrnn"])
        if described["format"] in READABLE:
            return deserialize(data), dict(described["metadata"])
    # The checksum is right, so somebody made the file like this.
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is no checkpoint: {damage(error)}.") from error
    raise CheckpointError(_other_format(path, described["format"]))


def _bytes(path: Path, at_most: int | None) -> bytes:
    try:
        return read_regular(path, at_most=at_most)
    except UnreadableError as error:
        raise DamagedCheckpointError(f"{error} It is no checkpoint of this model.") from error
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"There is no checkpoint {path}.") from error
    except OSError as error:
        raise DamagedCheckpointError(f"Cannot read {path}: {error.strerror}.") from error


def _other_format(path: Path, found: Any) -> str:
    if isinstance(found, int) and found > FORMAT:
        return (
            f"{path} was written by a newer jaxrnn: it has checkpoint format {found!s:.20}, and "
            f"this one reads format {FORMAT}. Install that newer jaxrnn."
        )
    return f"{path} has checkpoint format {found!r:.40}, and this jaxrnn reads format {FORMAT}."


def _is_key(dtype: Any) -> bool:
    """Whether an array holds typed random keys, which NumPy does not have."""
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _as_array(leaf: Any) -> np.ndarray:
    """A leaf as it is saved."""
    if _is_key(leaf.dtype):
        leaf = jax.random.key_data(leaf)
    # safetensors takes the bytes as they lie.
    return np.asarray(leaf, order="C")


def _problems(expected: dict[str, Any], got: dict[str, np.ndarray]) -> list[str]:
    """What is missing, unknown or of another shape, a phrase each."""
    problems = coverage(expected, got)
    for name, leaf in expected.items():
        if name not in got:
            continue
        if _is_key(leaf.dtype):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        found = got[name]
        shape = tuple(leaf.shape)
        # The first axis of a carry, (B, H), may be another batch size; see `load`.
        first_checked = 1 if name.startswith("carry/") else 0
        fits = found.shape[first_checked:] == shape[first_checked:]
        if not fits or found.dtype != leaf.dtype:
            problems.append(
                f"{name}: expected {leaf.dtype}{list(shape)}, got {found.dtype}{list(found.shape)}"
            )
    return problems
