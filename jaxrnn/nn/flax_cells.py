"""Flax's recurrent cells as free cells: any `RNNCellBase`, of Linen or of NNX.

Shapes: B batch, I input size, H hidden size.

    import flax.linen as nn

    FLAX_LSTM = from_linen(nn.OptimizedLSTMCell)
    RESIDUAL = from_linen(partial(nn.SimpleCell, residual=True), name="residual")

Such a cell stands wherever one of ours does: `RNN(FLAX_LSTM, 256)`, `--cell mine.py:FLAX_LSTM`. It
starts with the parameters that Flax gives it, and computes what `nn.RNN` or `nnx.RNN` computes with
them. They are named by their path, "hf_kernel" for {"hf": {"kernel": ...}}, and a layer of a stack
adds its number to that: "hf_kernel_l0". Carry and outputs have the precision of the weights, as
everywhere; a cell's own `dtype` is the precision in which it computes.
"""

import inspect
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxrnn.recurrent.cells import Carry, FreeCell, Hidden, HiddenAndCell
from jaxrnn.tree import named_leaves

# Number of sizes per cell whose parameters' names are cached: to derive them takes a trace.
SIZES_REMEMBERED = 64
# Names of a Flax carry's arrays, in its order, by how many they are.
USUAL_FIELDS: dict[int, tuple[str, ...]] = {1: ("h",), 2: ("c", "h")}
# Our carries of the same names.
USUAL_CARRIES: dict[tuple[str, ...], Any] = {("h",): Hidden, ("c", "h"): HiddenAndCell}


def from_linen(
    make: Callable[..., nn.RNNCellBase],
    *,
    name: str | None = None,
    fields: Sequence[str] | None = None,
) -> FreeCell:
    """A cell of `flax.linen` as a cell for `RNN` and `CharLM`.

    Args:
        make: `make(features, parent=None)`, the cell with H = `features`: a class of cells such as
            `flax.linen.GRUCell`, or `functools.partial` of one with other arguments.
        name: the name of the cell; that of Flax's class if None.
        fields: names of the arrays of the cell's carry, in its order, of which one is "h", the
            output; ("h",) or, as in Flax's LSTMs, ("c", "h") if None.

    Raises:
        ValueError: if `make` gives no such cell, the cell has features of several axes, variables
            that are no parameters, or a carry that `fields` does not describe.
    """
    _check_signature(make, 1, parent=None)

    def start(batch_size: int, hidden_size: int) -> Any:
        # Which key it is matters only to a cell whose carry starts at random.
        module = make(hidden_size, parent=None)
        return module.initialize_carry(jax.random.key(0), (batch_size, hidden_size))

    def variables(key: Array, input_size: int, hidden_size: int) -> Any:
        module = make(hidden_size, parent=None)
        made = module.init(key, start(1, hidden_size), jnp.zeros((1, input_size)))
        others = sorted(set(made) - {"params"})
        if others:
            raise ValueError(
                f"A cell may have parameters only; {type(module).__name__} has {', '.join(others)}."
            )
        return made["params"]

    def call(params: Any, carry: Any, x: Array) -> tuple[Any, Array]:
        hidden_size = jax.tree.leaves(carry)[0].shape[-1]
        module = make(hidden_size, parent=None)
        result: Any = module.apply({"params": params}, carry, x)
        return result

    return _free_cell(make(1, parent=None), nn.RNNCellBase, name, fields, start, variables, call)


def from_nnx(
    make: Callable[..., nnx.RNNCellBase],
    *,
    name: str | None = None,
    fields: Sequence[str] | None = None,
) -> FreeCell:
    """A cell of `flax.nnx` as a cell for `RNN` and `CharLM`.

    Args:
        make: `make(in_features, hidden_features, rngs=rngs)`: a class of cells such as
            `flax.nnx.GRUCell`, or `functools.partial` of one with other arguments.
        name: the name of the cell; that of Flax's class if None.
        fields: names of the arrays of the cell's carry, in its order, of which one is "h", the
            output; ("h",) or, as in Flax's LSTMs, ("c", "h") if None.

    Raises:
        ValueError: if `make` gives no such cell, the cell has features of several axes, state that
            is no parameter, or a carry that `fields` does not describe.
    """
    _check_signature(make, 1, 1, rngs=None)

    def shaped(input_size: int, hidden_size: int) -> Any:
        """The cell with shapes in the place of arrays."""
        return nnx.eval_shape(lambda: make(input_size, hidden_size, rngs=nnx.Rngs(0)))

    def start(batch_size: int, hidden_size: int) -> Any:
        module = shaped(hidden_size, hidden_size)
        return module.initialize_carry((batch_size, hidden_size), nnx.Rngs(0))

    def variables(key: Array, input_size: int, hidden_size: int) -> Any:
        module = make(input_size, hidden_size, rngs=nnx.Rngs(key))
        others = named_leaves(nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param))))
        if others:
            raise ValueError(
                f"A cell may have parameters only; {type(module).__name__} has {', '.join(others)}."
            )
        return nnx.to_pure_dict(nnx.state(module, nnx.Param))

    def call(params: Any, carry: Any, x: Array) -> tuple[Any, Array]:
        hidden_size = jax.tree.leaves(carry)[0].shape[-1]
        like = shaped(x.shape[-1], hidden_size)
        structure = jax.tree.structure(nnx.state(like))
        state = jax.tree.unflatten(structure, jax.tree.leaves(params))
        return nnx.merge(nnx.graphdef(like), state)(carry, x)

    return _free_cell(shaped(1, 1), nnx.RNNCellBase, name, fields, start, variables, call)


def _check_signature(make: Any, *arguments: Any, **options: Any) -> None:
    """Refuse what cannot be called as Flax's classes of cells are."""
    try:
        inspect.signature(make).bind(*arguments, **options)
    except TypeError as error:
        raise ValueError(
            "The cell must be given as a class of Flax's, such as GRUCell, or functools.partial of "
            f"one; {make!r:.60} is not called like these: {error}."
        ) from None


def _free_cell(
    example: Any,
    kind: type[Any],
    name: str | None,
    fields: Sequence[str] | None,
    start: Callable[[int, int], Any],
    variables: Callable[[Array, int, int], Any],
    call: Callable[[Any, Any, Array], tuple[Any, Array]],
) -> FreeCell:
    """A free cell from what differs between Linen and NNX.

    Args:
        example: a cell of any size.
        kind: the class that it must derive from.
        name: the name of the cell, or None.
        fields: names of the arrays of the carry, or None.
        start: `start(batch_size, hidden_size)`, Flax's carry from which a text starts.
        variables: `variables(key, input_size, hidden_size)`, Flax's parameters as a nested
            dictionary.
        call: `call(params, carry, x)`, one step in Flax's terms.
    """
    if not isinstance(example, kind):
        raise ValueError(
            f"The cell must derive from {kind.__module__.split('.')[1]}'s RNNCellBase; it is of "
            f"type {type(example).__name__}."
        )
    if example.num_feature_axes != 1:
        raise ValueError(
            f"{type(example).__name__} has {example.num_feature_axes} axes of features; a cell "
            "here has one."
        )
    form = _CarryForm.of(jax.eval_shape(lambda: start(1, 1)), fields, type(example).__name__)

    @lru_cache(maxsize=SIZES_REMEMBERED)
    def structure(input_size: int, hidden_size: int) -> tuple[tuple[str, ...], Any]:
        """The names of the parameters, and the tree that they are the leaves of."""
        tree = jax.eval_shape(
            lambda key: variables(key, input_size, hidden_size), jax.random.key(0)
        )
        return tuple(_named(tree)), jax.tree.structure(tree)

    def init(key: Array, input_size: int, hidden_size: int) -> dict[str, Array]:
        return _named(variables(key, input_size, hidden_size))

    def step(params: dict[str, Array], carry: Carry, x: Array) -> tuple[Carry, Array]:
        names, tree = structure(x.shape[-1], carry.h.shape[-1])
        nested = jax.tree.unflatten(tree, [params[one] for one in names])
        after, y = call(nested, form.theirs(carry), x)
        # A cell's own `dtype` is that of its computation; the weights decide that of the results.
        after, y = jax.tree.map(lambda leaf: leaf.astype(x.dtype), (after, y))
        return form.ours(after), y

    def carry_init(batch_size: int, hidden_size: int, dtype: DTypeLike) -> Carry:
        carry = form.ours(start(batch_size, hidden_size))
        return jax.tree.map(lambda leaf: leaf.astype(dtype), carry)

    return FreeCell(name or type(example).__name__, init, step, form.carry, carry_init)


def _named(tree: Any) -> dict[str, Any]:
    """The arrays of a nested dictionary by their paths, in the order of its leaves."""
    leaves = named_leaves(tree)
    # "/" and "." separate modules in the names of checkpoints and of exported weights.
    named = {path.replace("/", "_"): leaf for path, leaf in leaves.items()}
    if len(named) < len(leaves):
        raise ValueError(
            f"Two parameters of the cell have one name: {', '.join(leaves)}, with _ for /."
        )
    return named


@dataclass(frozen=True)
class _CarryForm:
    """Where the arrays of Flax's carry stand in ours.

    Attributes:
        carry: our carry, a NamedTuple whose first field is `h`.
        fields: the names of its fields in Flax's order.
        tree: the structure of Flax's carry.
    """

    carry: Any
    fields: tuple[str, ...]
    tree: Any

    @classmethod
    def of(cls, theirs: Any, fields: Sequence[str] | None, cell: str) -> "_CarryForm":
        """The form of a carry of Flax's, of arrays or of their shapes."""
        count = len(jax.tree.leaves(theirs))
        names = USUAL_FIELDS.get(count, ()) if fields is None else tuple(fields)
        if len(names) != count or len(set(names)) != count or "h" not in names:
            raise ValueError(
                f"The carry of {cell} has {count} arrays: name each, in its order, and the output "
                f"h, as in fields=('c', 'h'); got {names}."
            )
        return cls(_carry_type(names), names, jax.tree.structure(theirs))

    def ours(self, theirs: Any) -> Carry:
        """Flax's carry as ours."""
        if jax.tree.structure(theirs) != self.tree:
            raise ValueError(
                f"The cell's step must give the carry that it takes, {self.tree}; it gives "
                f"{jax.tree.structure(theirs)}."
            )
        return self.carry(**dict(zip(self.fields, jax.tree.leaves(theirs), strict=True)))

    def theirs(self, ours: Carry) -> Any:
        """Our carry as Flax's."""
        return jax.tree.unflatten(self.tree, [getattr(ours, name) for name in self.fields])


def _carry_type(names: tuple[str, ...]) -> Any:
    """The NamedTuple of a carry with these fields, `h` first."""
    if names in USUAL_CARRIES:
        return USUAL_CARRIES[names]
    others = [name for name in names if name != "h"]
    return namedtuple("FlaxCarry", ["h", *others])
