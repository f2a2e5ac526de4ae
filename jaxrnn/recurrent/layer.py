"""What runs under a stack: one layer in one direction, a sequence in and a sequence out.

Shapes: T time steps, B batch, I input size, H hidden size, G the number of gates of the cell.

A stack (`jaxrnn.nn.layers.RNN`) knows no cell. It asks `layer_of` for the layer of its cell, gives
it its parameters, carry and inputs, and puts the layers on top of each other. There are three
kinds:

- `GatedLayer` runs a `Cell`, an elementwise step between two products, on the fastest backend;
- `LinearLayer` runs a `LinearCell`, which has no product with h and may see the input before;
- `FreeLayer` runs a `FreeCell`, any step at all, as a plain `lax.scan` with JAX's derivatives.

Another kind is a class with the two methods of `Layer` and an entry in `LAYERS`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxrnn.array_checks import as_carry, as_floats, nearest_rows
from jaxrnn.checks import is_number, shown
from jaxrnn.recurrent.cells import Carry, Cell, FreeCell, Initializer, exportable
from jaxrnn.recurrent.dry_run import check_free_step
from jaxrnn.recurrent.inputs import Inputs, Projection, input_gates, rows_of
from jaxrnn.recurrent.linear import LinearCell, carry_of, previous, state_of
from jaxrnn.recurrent.recurrence import recurrence
from jaxrnn.recurrent.sharding import is_explicit
from jaxrnn.recurrent.zoneout import kept_code

Param = Callable[[str, Initializer, tuple[int, ...]], Array]
"""`param(name, init, shape) -> array`: a parameter of the layer, made where it is not there yet."""


@runtime_checkable
class Layer(Protocol):
    """One layer of a stack in one direction."""

    def initial_carry(
        self, batch_size: int, dtype: DTypeLike = jnp.float32, *, input_size: int | None = None
    ) -> Carry:
        """The carry from which a text starts; a NamedTuple whose first field is `h`, (B, H).

        Args:
            batch_size: B.
            dtype: its precision.
            input_size: I, for layers whose carry has inputs.
        """
        ...

    def __call__(
        self,
        param: Param,
        carry: Carry,
        xs: Inputs,
        mask: Bool[Array, "T B"] | None,
        *,
        reverse: bool,
        resets: Bool[Array, "T B"] | None = None,
    ) -> tuple[Carry, Float[Array, "T B H"]]:
        """Run over time.

        Args:
            param: gives the layer's parameters by name; the stack adds the layer's number.
            carry: the carry before the first step that is run.
            xs: the inputs, (T, B, I), as such or as rows of a table.
            mask: where False, a step leaves the carry as it is and its output is zero.
            reverse: whether time runs from the last step to the first.
            resets: where True, the step starts from the initial carry, if it is run.

        A layer of a cell with zoneout also takes `kept`, (F, T, B, H): which units of each field of
        the carry keep their value at a step.

        Returns:
            The carry after the last step that is run, and the output of every step.
        """
        ...


def uniform(bound: float) -> Initializer:
    """Sample from the uniform distribution on [-bound, bound).

    Raises:
        ValueError: if the bound is no number.
    """
    if not is_number(bound):
        raise ValueError(f"bound must be a number, got {shown(bound)}.")

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@dataclass(frozen=True)
class GatedLayer:
    """A layer of a `Cell`, with the parameters of `torch.nn.RNN`, `GRU` and `LSTM`.

    `weight_ih` (G * H, I), `weight_hh` (G * H, H), `bias_ih` and `bias_hh` (G * H,), and the cell's
    own parameters (H,). A cell without recurrent gates has no `weight_hh` and no `bias_hh`.

    Attributes:
        cell: what one step does.
        hidden_size: H.
        recurrent_init: how `weight_hh` starts; as the others, uniform in +-1 / sqrt(H), if None.
        bias: whether there are biases, `bias_ih` and, with recurrent gates, `bias_hh`.

    Raises:
        ValueError: if there is a `recurrent_init` for a cell without recurrent gates.
    """

    cell: Cell
    hidden_size: int
    recurrent_init: Initializer | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        if self.recurrent_init is not None and not self.cell.recurrent:
            raise ValueError(
                f"recurrent_init is for cells with recurrent gates; {self.cell.name} has none."
            )

    def initial_carry(
        self, batch_size: int, dtype: DTypeLike = jnp.float32, *, input_size: int | None = None
    ) -> Carry:
        """Zeros, (B, H) a field."""
        return self.cell.zeros(batch_size, self.hidden_size, dtype)

    def __call__(
        self,
        param: Param,
        carry: Carry,
        xs: Inputs,
        mask: Bool[Array, "T B"] | None,
        *,
        reverse: bool,
        resets: Bool[Array, "T B"] | None = None,
        kept: Bool[Array, "F T B H"] | None = None,
    ) -> tuple[Carry, Float[Array, "T B H"]]:
        """Both products and the loop; all in the precision of `weight_hh`, or of `weight_ih`.

        Of a cell with zoneout, `kept` says which fields of its carry keep their value at a step.
        """
        # The parameters, by torch's names. Flax samples them in the order in which they are made:
        # in another one, every seed would start elsewhere.
        H = self.hidden_size
        GH = len(self.cell.gates) * H
        recurrent = self.cell.recurrent
        init = uniform(1 / math.sqrt(H))
        weight_ih = param("weight_ih", init, (GH, xs.shape[-1]))
        weight_hh = None
        if recurrent:
            weight_hh = param("weight_hh", self.recurrent_init or init, (GH, H))
        bias_ih = jnp.zeros((GH,), weight_ih.dtype)
        bias_hh = bias_ih
        if self.bias:
            bias_ih = param("bias_ih", init, (GH,))
        if self.bias and recurrent:
            bias_hh = param("bias_hh", init, (GH,))
        own = {
            name: param(name, self.cell.param_init.get(name, init), (H,))
            for name in self.cell.params
        }
        projection: Projection | None = Projection(weight_ih, bias_ih)
        if weight_hh is None:
            # The bias is added where the gates are read: a pass over them less.
            xs = xs.astype(weight_ih.dtype).map(lambda values: values @ weight_ih.T)
            bias_hh = bias_ih.astype(weight_ih.dtype)
            projection = None
        cell = self.cell
        if kept is not None:
            assert cell.zoneout is not None
            cell = cell.zoneout.training
            if projection is not None:
                xs = input_gates(xs.astype(weight_ih.dtype), projection)
                projection = None
            # One gate more, without weights.
            x_gates = xs.dense()  # (T, B, G * H)
            xs = Inputs(jnp.concatenate([x_gates, kept_code(kept, x_gates.dtype)], axis=-1))
            bias_hh = jnp.concatenate([bias_hh, jnp.zeros((H,), bias_hh.dtype)])
            if weight_hh is not None:
                nothing = jnp.zeros((H, H), weight_hh.dtype)
                weight_hh = jnp.concatenate([weight_hh, nothing])  # ((G + 1) * H, H)
        return recurrence(
            cell, reverse, weight_hh, bias_hh, carry, xs, mask, own, resets, projection
        )


@exportable
class WithInput(NamedTuple):
    """The carry of a linear cell that also sees the input before: output, state and that input."""

    h: Float[Array, "B H"]
    c: Float[Array, "B H"]
    x: Float[Array, "B I"]


@dataclass(frozen=True)
class LinearLayer(GatedLayer):
    """A layer of a `LinearCell`: as `GatedLayer`, with `weight_ih` (G * H, window * I)."""

    cell: LinearCell

    def initial_carry(
        self, batch_size: int, dtype: DTypeLike = jnp.float32, *, input_size: int | None = None
    ) -> Carry:
        """Zeros; in a window of 2, a `WithInput`.

        Raises:
            ValueError: if the window is 2 and the size of the inputs is not given.
        """
        zeros = self.cell.zeros(batch_size, self.hidden_size, dtype)
        if self.cell.window == 1:
            return zeros
        if input_size is None:
            raise ValueError(
                f"The carry of the cell {self.cell.name!r} has an input: initial_carry needs "
                "input_size."
            )
        x = jnp.zeros((batch_size, input_size), dtype)
        return WithInput(zeros.h, state_of(zeros), x)

    def __call__(
        self,
        param: Param,
        carry: Carry,
        xs: Inputs,
        mask: Bool[Array, "T B"] | None,
        *,
        reverse: bool,
        resets: Bool[Array, "T B"] | None = None,
        kept: Bool[Array, "F T B H"] | None = None,
    ) -> tuple[Carry, Float[Array, "T B H"]]:
        """The product with the inputs of the window, and the recurrence."""
        run = partial(super().__call__, param, reverse=reverse, resets=resets, kept=kept)
        if self.cell.window == 1:
            return run(carry, xs, mask)
        _, batch_size, input_size = xs.shape
        like = jax.eval_shape(lambda: self.initial_carry(batch_size, input_size=input_size))
        carry = as_carry(carry, like, cast=False)
        # The table has rows of the batch, whose number and place must be known.
        if xs.tokens is not None:
            if isinstance(batch_size, int) and not is_explicit(xs.tokens):
                return self._rows(run, carry, xs, mask, reverse=reverse, resets=resets)
            xs = Inputs(xs.dense())
        last = carry.x.astype(xs.values.dtype)
        before, after = previous(xs.values, last, mask, resets, reverse=reverse)
        windows = Inputs(jnp.concatenate([xs.values, before], axis=-1))  # (T, B, 2 * I)
        inner = carry_of(self.cell, carry.h, carry.c)
        inner, ys = run(inner, windows, mask)
        return WithInput(inner.h, state_of(inner), after.astype(ys.dtype)), ys

    def _rows(
        self,
        run: Callable[..., Any],
        carry: WithInput,
        xs: Inputs,
        mask: Bool[Array, "T B"] | None,
        *,
        reverse: bool,
        resets: Bool[Array, "T B"] | None,
    ) -> tuple[Carry, Float[Array, "T B H"]]:
        """The same for rows of a table: the windows are sums of two rows of another one.

        Its rows are, padded with zeros to 2 * I: those of the table as the newest input, the same
        as the input before, the B inputs of the carry, and zeros for a step that starts anew.
        """
        table, tokens = xs
        V = len(table)
        B = xs.shape[1]
        assert tokens is not None
        tokens = nearest_rows(tokens, V)
        last = carry.x.astype(table.dtype)
        older = jnp.concatenate([table, last, jnp.zeros_like(last[:1])])  # (V + B + 1, I)
        rows = jnp.concatenate(
            [
                jnp.concatenate([table, jnp.zeros_like(table)], axis=-1),
                jnp.concatenate([jnp.zeros_like(older), older], axis=-1),
            ]
        )  # (2 * V + B + 1, 2 * I)
        first = 2 * V + jnp.arange(B, dtype=tokens.dtype)
        before, after = previous(
            V + tokens, first, mask, resets, reverse=reverse, none=2 * V + B
        )  # (T, B), (B,)
        windows = Inputs(rows, jnp.stack([tokens, before], axis=-1))
        inner = carry_of(self.cell, carry.h, carry.c)
        inner, ys = run(inner, windows, mask)
        return WithInput(inner.h, state_of(inner), rows_of(older, after - V).astype(ys.dtype)), ys


@dataclass(frozen=True)
class FreeLayer:
    """A layer of a `FreeCell`: a plain scan, with JAX's own derivatives of any order and mode.

    Attributes:
        cell: what one step does.
        hidden_size: H.
        recurrent_init: not for these cells, which say themselves how their parameters start.

    Raises:
        ValueError: if there is a `recurrent_init`.
    """

    cell: FreeCell
    hidden_size: int
    recurrent_init: Initializer | None = None

    def __post_init__(self) -> None:
        if self.recurrent_init is not None:
            raise ValueError(
                f"recurrent_init is for gated cells; {self.cell.name} makes its own parameters."
            )

    def initial_carry(
        self, batch_size: int, dtype: DTypeLike = jnp.float32, *, input_size: int | None = None
    ) -> Carry:
        """What the cell says."""
        return self.cell.initial_carry(batch_size, self.hidden_size, dtype)

    def __call__(
        self,
        param: Param,
        carry: Carry,
        xs: Inputs,
        mask: Bool[Array, "T B"] | None,
        *,
        reverse: bool,
        resets: Bool[Array, "T B"] | None = None,
    ) -> tuple[Carry, Float[Array, "T B H"]]:
        """The loop over the cell's step; all in the precision of the first parameter."""
        # Parameters by the names that the cell gives them, in one precision.
        params = self._params(param, xs.shape[-1])
        dtype = next(iter(params.values())).dtype
        params = {name: array.astype(dtype) for name, array in params.items()}
        inputs = xs.astype(dtype).dense()  # (T, B, I)
        B = inputs.shape[1]
        like = jax.eval_shape(lambda: self.initial_carry(B, dtype))
        if hasattr(like, "_fields"):
            exportable(type(like))
        carry = as_carry(carry, like)
        x = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
        check_free_step(self.cell, params, like, x, self.hidden_size)

        def step(carry: Carry, here: Any) -> tuple[Carry, Array]:
            x, running, reset = here  # (B, I), (B,), (B,)
            if reset is not None:
                fresh = self.initial_carry(B, dtype)
                zeroed = reset if running is None else reset & running
                carry = where_rows(zeroed, fresh, carry)
            after, y = self.cell.step(params, carry, x)
            if running is None:
                return after, y
            # A step that does not count leaves the carry as it is.
            after = where_rows(running, after, carry)
            return after, jnp.where(running[:, None], y, 0)

        return lax.scan(step, carry, (inputs, mask, resets), reverse=reverse)

    def _params(self, param: Param, input_size: int) -> dict[str, Array]:
        """The cell's parameters, each with the shape that its `init` gives."""
        make = lambda key: self.cell.init(key, input_size, self.hidden_size)  # noqa: E731
        shapes = jax.eval_shape(make, jax.random.key(0))
        if not isinstance(shapes, dict) or not shapes:
            raise ValueError(
                f"init of {self.cell.name} must give a dictionary of at least one array by name."
            )

        def init_of(name: str) -> Initializer:
            def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
                return as_floats(name, make(key)[name], tuple(shape), dtype)

            return init

        return {name: param(name, init_of(name), leaf.shape) for name, leaf in shapes.items()}


def where_rows(rows: Bool[Array, " B"], one: Carry, other: Carry) -> Carry:
    """Of two carries, the first one in some rows, and the second one in the others."""
    return jax.tree.map(lambda a, b: jnp.where(rows[:, None], a, b), one, other)


LAYERS: dict[type, Callable[[Any, int, Initializer | None], Layer]] = {
    Cell: GatedLayer,
    LinearCell: LinearLayer,
    FreeCell: FreeLayer,
}
"""For each kind of cell, what makes a layer of it: `(cell, hidden_size, recurrent_init)`."""


def layer_of(
    cell: Any, hidden_size: int, recurrent_init: Initializer | None = None, *, bias: bool = True
) -> Layer:
    """The layer that runs a cell.

    Args:
        cell: of a kind in `LAYERS`.
        hidden_size: H.
        recurrent_init: how the recurrent weight starts; the kind's default if None.
        bias: whether a gated cell has biases; other kinds have what they say themselves.

    Raises:
        ValueError: if the cell is of no such kind, or is to have no biases and is not gated.
    """
    kind = kind_of(cell)
    layer = LAYERS[kind](cell, hidden_size, recurrent_init)
    if bias:
        return layer
    if not isinstance(layer, GatedLayer):
        name = getattr(cell, "name", kind.__name__)
        raise ValueError(f"bias=False is for gated cells; {name} makes its own parameters.")
    return replace(layer, bias=False)


def kind_of(cell: Any) -> type:
    """The kind of a cell, for which `LAYERS` has a layer.

    Raises:
        ValueError: if it has none.
    """
    for kind in type(cell).__mro__:
        if kind in LAYERS:
            return kind
    known = ", ".join(kind.__name__ for kind in LAYERS)
    hint = ""
    if isinstance(cell, type):
        hint = " Of a class of Flax's, jaxrnn.from_linen and from_nnx make a cell."
    raise ValueError(
        f"cell must be one of the kinds {known}, or the name of one; got {shown(cell)}.{hint}"
    )
