"""What mutations are made of: context managers that replace one name of the library.

They are made from the outside, so that the code under test is what ships.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import Cell, FreeCell

# All that ever stood in for something. A cell is changed in place, so a program compiled for it is
# known by the hash of its functions, that is, by their addresses: none of these may be used again.
_kept: list[Any] = []

# Within it the library has one mistake.
Mutation = contextlib.AbstractContextManager[None]


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within it, `owner.name` is `value`; frozen dataclasses give way too.

    Raises:
        LookupError: if there is no such name, so that the mutation would change nothing.
    """
    before = _attribute(owner, name)
    _kept.append(value)
    # A frozen dataclass refuses `setattr`.
    put = object.__setattr__ if isinstance(owner, Cell | FreeCell) else setattr
    put(owner, name, value)
    try:
        yield
    finally:
        put(owner, name, before)


def wrapped(owner: Any, name: str, change: Callable[[Any], Any]) -> Mutation:
    """`owner.name` replaced by what `change` makes of it."""
    return replaced(owner, name, change(_attribute(owner, name)))


def _attribute(owner: Any, name: str) -> Any:
    # Of the owner itself: an inherited name, replaced here, would stay behind.
    if name not in owner.__dict__:
        raise LookupError(f"{getattr(owner, '__name__', owner)} has no {name}")
    return owner.__dict__[name]


@contextlib.contextmanager
def both(one: Mutation, other: Mutation) -> Iterator[None]:
    """Two mutations at once."""
    with one, other:
        yield


@contextlib.contextmanager
def recompiled(mutation: Mutation) -> Iterator[None]:
    """A mutation of code that was compiled earlier: programs are forgotten before and after it."""
    jax.clear_caches()
    with mutation:
        yield
    jax.clear_caches()


def only_in(part: str, mutation: Callable[[], Mutation]) -> Mutation:
    """A mutation that acts in one layer and direction alone, such as "l1_reverse"."""
    # What does not fit the code is an error here, and not the error of a broken model.
    with mutation():
        pass

    def around(run: Any) -> Any:
        def limited(self: RNN, name: str, *rest: Any) -> Any:
            with mutation() if name == part else contextlib.nullcontext():
                return run(self, name, *rest)

        return limited

    return wrapped(RNN, "_run", around)


def rows_of(gate: int, count: int, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Changes the rows of one of `count` gates of a weight, a bias or a gradient."""

    def changed(array: Any) -> Any:
        # (G * H, ...) to G times (H, ...).
        blocks = jnp.split(array, count)
        blocks[gate] = change(blocks[gate])
        return jnp.concatenate(blocks)

    return changed


def zeros(tree: Any) -> Any:
    """Zeros of the same shapes."""
    return jax.tree.map(jnp.zeros_like, tree)
