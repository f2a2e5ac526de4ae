"""The outputs of a function, leaf by leaf, under names that both frameworks share.

Arrays may stand in tuples, lists, dictionaries, NamedTuples and dataclasses (as the outputs of many
PyTorch libraries), which are matched by name wherever both sides name them alike, and by their
order otherwise. What is None is no output.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

Path = tuple[str | int, ...]


def leaves_with_paths(outputs: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The arrays of a container and where they stand in it.

    Args:
        outputs: what a function gave.
        path: where that stands itself.
    """
    for step, inner in _parts(outputs):
        if inner is None:
            continue
        if _parts(inner) or _is_container(inner):
            yield from leaves_with_paths(inner, (*path, step))
        else:
            yield (*path, step), inner


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | tuple | list)


def _parts(value: Any) -> list[tuple[str | int, Any]]:
    # The parts of a container by name or number; of anything else, none.
    if isinstance(value, Mapping):
        return [(str(key), inner) for key, inner in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, torch.Tensor | np.ndarray | jax.Array | int | float | bool):
        return []
    # Whatever else JAX takes for a tree.
    leaves = jax.tree_util.tree_leaves_with_path(value)
    if len(leaves) == 1 and leaves[0][0] == ():
        return []
    separator = "/"
    return [
        (jax.tree_util.keystr(path, simple=True, separator=separator), leaf)
        for path, leaf in leaves
    ]


def paths_of(outputs: Any) -> list[Path]:
    """Where the arrays of a container stand."""
    return [path for path, _ in leaves_with_paths((outputs,))]


def by_name(ours: Sequence[Path], theirs: Sequence[Path]) -> bool:
    """Whether outputs are matched by name: both sides have names, and the same ones."""
    named = any(isinstance(step, str) for path in ours for step in path)
    return named and set(ours) == set(theirs)


def named_outputs(outputs: Any, *, names: bool) -> dict[str, Any]:
    """The arrays as "output 0" and so on, or as "output logits" by their names.

    A complex array becomes one of real and imaginary parts, (..., 2).

    Args:
        outputs: what a function gave.
        names: whether the names count, rather than the order.
    """
    found: dict[str, Any] = {}
    for number, (path, leaf) in enumerate(leaves_with_paths((outputs,))):
        name = "/".join(map(str, path[1:])) if names else str(number)
        found[f"output {name or number}"] = _real(leaf)
    return found


def _real(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
    if jnp.iscomplexobj(leaf):
        return jnp.stack([jnp.real(leaf), jnp.imag(leaf)], -1)
    return leaf


def cotangent(name: str, shape: Sequence[int]) -> np.ndarray:
    """The weights of an output's entries in the sum whose gradients are compared.

    They are the same in both frameworks, between 1 / 4 and 1 in size, multiples of 1 / 64, which
    every precision holds exactly, and know nothing of the values.

    Args:
        name: of the output; each has weights of its own.
        shape: of the output.
    """
    rng = np.random.default_rng(list(name.encode()))
    sizes = rng.integers(16, 64, tuple(shape), endpoint=True) / 64
    return np.asarray(sizes * rng.choice([-1.0, 1.0], tuple(shape)))
