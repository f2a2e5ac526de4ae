"""Linen layers: the recurrent stack, and PyTorch's default initialization.

Shapes: T time steps, B batch, I input size, H hidden size, G gates of the cell, D directions.

The modules hold parameters and call pure functions. The weights decide the precision: cast the
parameters, and everything computed from them follows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.array_checks import (
    as_array,
    as_carry,
    as_floats,
    as_lengths,
    as_mask,
    check_batch_size,
    nearest_rows,
)
from jaxrnn.checks import check_at_least_0, check_at_least_1, check_bool, check_share, shown
from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import AnyCell, Carry, Initializer, Zoneout
from jaxrnn.recurrent.inputs import Inputs, as_inputs
from jaxrnn.recurrent.layer import Layer, kind_of, layer_of, uniform
from jaxrnn.recurrent.layout import Layout, layout_of
from jaxrnn.recurrent.projected import ProjectedLayer
from jaxrnn.recurrent.recurrence import length_mask, uses_autodiff
from jaxrnn.recurrent.sharding import is_explicit
from jaxrnn.recurrent.transposition import linear_call


def identity(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """The identity matrix, for `weight_hh` of a cell with one gate.

    Repeated products with it neither grow nor shrink the carry. Le, Jaitly and Hinton 2015,
    https://arxiv.org/abs/1504.00941.
    """
    if len(shape) != 2:
        raise ValueError(f"identity is for a matrix, got shape {tuple(shape)}.")
    rows, columns = shape
    if rows != columns:
        raise ValueError(
            f"identity initialization needs a square weight_hh, got {rows} x {columns}: "
            "it is meant for cells with one gate (tanh, relu)."
        )
    return jnp.eye(rows, dtype=dtype)


def dense(features: int, fan_in: int, *, name: str | None = None) -> nn.Dense:
    """A Flax `Dense` that starts as `torch.nn.Linear`: uniform in +-1 / sqrt(fan_in), bias too."""
    check_at_least_1(features=features, fan_in=fan_in)
    init = uniform(1 / math.sqrt(fan_in))
    return nn.Dense(features, kernel_init=init, bias_init=init, dot_general=_dot_general, name=name)


@jax.custom_jvp
def product(xs: Float[Array, "*N I"], kernel: Float[Array, "I O"]) -> Float[Array, "*N O"]:
    """`xs @ kernel`, whose gradient for the kernel is made in the faster of its two layouts.

    XLA would fold the transposition into the product d_kernel = xs.T @ d_ys, and then its slow
    general product runs instead of the packed one: measured 1.6 times slower for 512 and 4,096
    rows, I = 256, O = 85 on a CPU.
    """
    return xs @ kernel


@product.defjvp
def _product_differentiated(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    ys = product(*primals)
    return ys, linear_call(_product_tangent, _product_backward, primals, tangents, ys)


def _product_tangent(kept: tuple[Array, Array], tangents: tuple[Array, Array]) -> Array:
    xs, kernel = kept
    xs_dot, kernel_dot = tangents
    return xs_dot @ kernel + xs @ kernel_dot


def _product_backward(kept: tuple[Array, Array], d_ys: Array) -> tuple[Array, Array]:
    xs, kernel = kept
    # Over time and batch without merging them: a batch may lie on several devices.
    transposed = jnp.einsum("...o,...i->oi", d_ys, xs)
    return d_ys @ kernel.T, lax.optimization_barrier(transposed).T


def _dot_general(xs: Array, kernel: Array, *settings: Any, **options: Any) -> Array:
    """`product` in the form that Flax's `Dense` calls; it always contracts last with first."""
    plain = uses_autodiff() or is_explicit(xs) or is_explicit(kernel)
    return xs @ kernel if plain else product(xs, kernel)


def embed(
    vocab_size: int, features: int, *, init: Initializer | None = None, name: str | None = None
) -> nn.Embed:
    """A Flax `Embed` that starts as `torch.nn.Embedding`, standard normal, if `init` is None."""
    check_at_least_1(vocab_size=vocab_size, embedding_size=features)
    init = init or nn.initializers.normal(1.0)
    return nn.Embed(vocab_size, features, embedding_init=init, name=name)


def embedded_tokens(e: nn.Embed, tokens: Int[Array, "T B"]) -> Inputs:
    """The embedded tokens, (T, B, F), as rows of the table where that is less work.

    Having the rows takes three products of F * T * B * GH (forward, and two gradients), looking
    them up F * V * GH and, for the table's gradient, V * T * B * GH: less for few characters. A
    token outside the table has the nearest row, either way.
    """
    tokens = nearest_rows(tokens, e.num_embeddings)
    e(jnp.zeros((1,), tokens.dtype))  # makes the parameters
    rows = Inputs(e.embedding, tokens)
    # A batch of no known size, as in an exported program, counts as a large one.
    places = tokens.size if isinstance(tokens.size, int) else math.inf
    if e.num_embeddings <= min(places, 3 * e.features):
        return rows
    return Inputs(rows.dense() if is_explicit(tokens) else e(tokens))


def pure(layer: nn.Module, *example: Any) -> Callable[..., Any]:
    """The function that a layer computes, free of Flax, for use inside a raw `lax.scan`.

    Args:
        layer: a submodule that belongs to the calling module.
        example: inputs of the right shapes, with which the layer makes its parameters.
    """
    layer(*example)
    module, variables = layer.unbind()
    return lambda *inputs: module.apply(variables, *inputs)


def weight(
    module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """A parameter of a module, made with `init` where the module is being initialized.

    Raises:
        ValueError: if there is no such parameter, or one of another shape.
    """
    if module.has_variable("params", name):
        got = jnp.shape(module.get_variable("params", name))
        if got != shape:
            raise ValueError(
                f"{name} must have shape {shape} for these inputs and this module, got {got}."
            )
    elif not module.is_mutable_collection("params"):
        raise ValueError(f"The parameter {name} is missing; it must have shape {shape}.")
    array: Array = jnp.asarray(module.param(name, init, shape))
    return as_floats(name, array, shape, array.dtype)


def cell_of(cell: Any) -> AnyCell:
    """A cell, or the one of a name: "gru", or FILE.py:NAME.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(cell, str):
        return CELLS.find(cell)
    kind_of(cell)
    return cell


class RNNCell(nn.Module):
    """One step of a cell, with the parameters of `torch.nn.RNNCell`, `GRUCell` and `LSTMCell`.

    The parameters are those of a layer of `RNN` without its number: `weight_ih`, `weight_hh`, ...

    Attributes:
        cell: what the step does, as for `RNN`.
        hidden_size: H, the width of the carry.
        bias: whether a gated cell has `bias_ih` and `bias_hh`.
    """

    cell: AnyCell
    hidden_size: int
    bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        self.cell = cell_of(self.cell)
        check_at_least_1(hidden_size=self.hidden_size)
        check_bool(bias=self.bias)
        super().__post_init__()

    def initial_carry(
        self,
        batch_size: int | None,
        dtype: DTypeLike = jnp.float32,
        *,
        input_size: int | None = None,
    ) -> Carry:
        """The carry from which a text starts; arguments as `RNN.initial_carry`."""
        layer = self._layer()
        if batch_size is None:
            batch_of_one = layer.initial_carry(1, dtype, input_size=input_size)
            return jax.tree.map(lambda array: array[0], batch_of_one)
        check_batch_size(batch_size)
        return layer.initial_carry(batch_size, dtype, input_size=input_size)

    def _layer(self) -> Layer:
        check_at_least_1(hidden_size=self.hidden_size)
        check_bool(bias=self.bias)
        return layer_of(self.cell, self.hidden_size, bias=self.bias)

    @nn.compact
    def __call__(
        self, carry: Carry | None, x: Float[Array, "*B I"]
    ) -> tuple[Carry, Float[Array, "*B H"]]:
        """Run one step.

        Args:
            carry: the carry before it; `initial_carry` if None.
            x: the input, (B, I), or (I,) without a batch axis; the carry has as many axes.

        Returns:
            The carry after the step, and the output. Both in the precision of `weight_hh`.

        Raises:
            ValueError: if an array has another shape, or no numbers of the right kind.
        """
        layer = self._layer()
        layout = layout_of(x, time=False)
        x = as_array("x", x, ("B", "I") if layout.batched else ("I",))
        x = as_floats("x", x, x.shape, x.dtype)
        start = partial(self.initial_carry, input_size=x.shape[-1])
        carry = _start(start, carry, layout, len(x), x.dtype)
        xs = Inputs(layout.with_batch(x)[None])  # (1, B, I): a sequence of one step
        after, ys = layer(partial(weight, self), carry, xs, None, reverse=False)
        return layout.without_batch(after), layout.without_batch(ys[0])


def _time_major(xs: Inputs, layout: Layout) -> Inputs:
    """Inputs of any layout as (T, B, I); of a table, its tokens are turned."""
    if xs.tokens is None:
        return Inputs(layout.to_time_major(xs.values))
    return xs._replace(tokens=layout.to_time_major(xs.tokens))


def _start(
    initial_carry: Callable[..., Any],
    carry: Any,
    layout: Layout,
    batch_size: int,
    dtype: DTypeLike,
) -> Any:
    """The carry of a call, checked, with a batch axis: the initial one if it is None.

    Each layer casts its own carry to the precision of its weights.
    """
    rows = batch_size if layout.batched else None
    if carry is None:
        carry = initial_carry(rows, dtype)
    else:
        like = jax.eval_shape(lambda: initial_carry(rows))
        carry = as_carry(carry, like, cast=False)
    return layout.with_batch(carry)


def _count(masks: Any) -> int | str:
    """The number of masks, or what is given in their place."""
    return len(masks) if hasattr(masks, "__len__") else shown(masks)


class RNN(nn.Module):
    """A stack of recurrent layers, with the parameters of `torch.nn.RNN`, `GRU` and `LSTM`.

    The parameters carry torch's names, shapes and gate order: `weight_ih_l0` (G * H, I),
    `weight_hh_l0` (G * H, H), `bias_ih_l0` and `bias_hh_l0` (G * H,), then `_l1`, ..., and
    `_l0_reverse` for the backward direction. The parameters per unit of a cell, such as the `p_i`
    of a peephole LSTM, are (H,) and named likewise, `p_i_l0`. Time comes first and the carry is a
    tuple of named tuples, one a layer and direction, where torch has one array of all of them.

    Attributes:
        cell: what one step does: a `Cell`, a `FreeCell`, or another kind that `layer_of` knows; or
            the name of one, such as "gru" or FILE.py:NAME.
            The parameters that are named above are those of a `Cell`.
        hidden_size: H, the width of the carry of each layer and direction.
        num_layers: how many layers, each fed with the outputs of the one below.
        bidirectional: whether a second recurrence runs from the last step to the first; the
            outputs of both stand side by side, forward first.
        dropout: the share of the outputs of every layer but the last that is set to zero, in
            [0, 1), a new mask each step; the rest is divided by 1 - dropout. It acts exactly
            when the call has a "dropout" key (`rngs={"dropout": key}`) or masks.
        recurrent_init: how `weight_hh` starts; torch's default, uniform in +-1 / sqrt(H), if None.
        bias: whether gated cells have `bias_ih` and `bias_hh`.
        batch_first: whether sequences are (B, T, ...), in and out, instead of (T, B, ...). Carries
            are (B, H) either way.
        proj_size: P, the width to which a cell with a cell state projects `h`, by `weight_hr_l0`
            (P, H); outputs, `h` and the columns of `weight_hh` are P wide then. 0 for none.
    """

    cell: AnyCell
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    recurrent_init: Initializer | None = None
    bias: bool = field(default=True, kw_only=True)
    batch_first: bool = field(default=False, kw_only=True)
    proj_size: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        self.cell = cell_of(self.cell)
        check_at_least_1(hidden_size=self.hidden_size, num_layers=self.num_layers)
        check_share(dropout=self.dropout)
        check_bool(bidirectional=self.bidirectional, bias=self.bias, batch_first=self.batch_first)
        check_at_least_0(proj_size=self.proj_size)
        if self.recurrent_init is not None and not callable(self.recurrent_init):
            raise ValueError(
                "recurrent_init must be a function of (key, shape, dtype), such as "
                f"jaxrnn.identity; got {shown(self.recurrent_init)}."
            )
        self._layer()  # its own checks
        super().__post_init__()

    def initial_carry(
        self,
        batch_size: int | None,
        dtype: DTypeLike = jnp.float32,
        *,
        input_size: int | None = None,
    ) -> tuple[Carry, ...]:
        """The carry from which a text starts, one a layer and direction: zeros for most cells.

        Args:
            batch_size: B; None for one sequence without a batch axis.
            dtype: its precision.
            input_size: I; only a cell whose carry has inputs (a QRNN with a window of 2) needs it.
        """
        layer = self._layer()
        if batch_size is None:
            batch_of_one = self.initial_carry(1, dtype, input_size=input_size)
            return jax.tree.map(lambda array: array[0], batch_of_one)
        check_batch_size(batch_size)
        directions = 2 if self.bidirectional else 1
        carries: list[Carry] = []
        for _ in range(self.num_layers):
            for _ in range(directions):
                carries.append(layer.initial_carry(batch_size, dtype, input_size=input_size))
            input_size = directions * (self.proj_size or self.hidden_size)  # of the layer above
        return tuple(carries)

    @nn.compact
    def __call__(
        self,
        carry: Sequence[Carry] | None,
        xs: Float[Array, "*TB I"] | Inputs,
        *,
        lengths: Int[Array, " B"] | None = None,
        dropout_masks: Sequence[Bool[Array, "*TB DH"]] | None = None,
        zoneout_masks: Sequence[Bool[Array, "F *TB H"]] | None = None,
        resets: Bool[Array, "*TB"] | None = None,
    ) -> tuple[tuple[Carry, ...], Float[Array, "*TB DH"]]:
        """Run the stack over time.

        Args:
            carry: one carry a layer and direction: layer 0 forward, layer 0 backward, layer 1 ...;
                that of `initial_carry` if None.
            xs: the inputs, as such or as rows of a table: (T, B, I), with `batch_first` (B, T, I),
                or one sequence without a batch axis, (T, I), whose carry is (H,) a field.
            lengths: how many steps of each sequence count, in [0, T]; all T if None. The others
                leave the carry as it is and give zeros. Each sequence runs as if it were alone.
            dropout_masks: for each layer but the last, which outputs are kept, instead of masks
                drawn from the "dropout" key.
            zoneout_masks: for each layer and direction of a cell with zoneout, which units of each
                field of the carry keep their value, instead of masks drawn from the same key. The
                carry of a QRNN has two fields here, h and c, and the masks of h are not used.
            resets: where True, a step starts from the initial carry, as where a document begins;
                with the leading axes of `xs`. None continues everywhere.

        Returns:
            The carry after the last step, in the order of `carry`, and the last layer's outputs,
            with the axes of `carry` and `xs`.
            All in the precision of the first `weight_hh`, whatever that of `carry` and `xs`.

        Raises:
            ValueError: if an array has another shape, or no numbers of the right kind.
        """
        # Everything below runs on (T, B, ...).
        layout = layout_of(xs, batch_first=self.batch_first)
        inputs = _time_major(as_inputs(xs, layout.axes), layout)
        steps, batch_size, _ = inputs.shape
        start = partial(self.initial_carry, input_size=inputs.shape[-1])
        carry = _start(start, carry, layout, batch_size, inputs.values.dtype)
        mask = None
        if lengths is not None:
            if not layout.batched:
                raise ValueError("lengths are for a batch: cut one sequence to its length instead.")
            mask = length_mask(as_lengths(lengths, batch_size, steps), steps)  # (T, B)
        if resets is not None:
            resets = as_mask("resets", resets, layout.shape((steps, batch_size)))
            resets = layout.to_time_major(resets)
        if dropout_masks is not None and _count(dropout_masks) != self.num_layers - 1:
            raise ValueError(
                f"dropout_masks must have one mask for each layer but the last, "
                f"{self.num_layers - 1}, got {_count(dropout_masks)}."
            )
        directions = ("", "_reverse") if self.bidirectional else ("",)
        if zoneout_masks is not None:
            zoneout_masks = self._checked_zoneout(zoneout_masks, layout, steps, batch_size)
        before = iter(carry)
        after: list[Carry] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in directions:
                name = f"l{layer}{direction}"
                # A layer of the user's may know none of these.
                options: dict[str, Array] = {}
                if resets is not None:
                    options["resets"] = resets
                if zoneout_masks is not None:
                    options["kept"] = zoneout_masks[len(after)]
                elif self._zoneout is not None and self.has_rng("dropout"):
                    options["kept"] = self._sampled_zoneout(steps, batch_size)
                last, output = self._run(name, next(before), inputs, mask, options)
                after.append(last)
                outputs.append(output)
            ys = jnp.concatenate(outputs, axis=-1)  # (T, B, D * H), D * P if projected
            if layer < self.num_layers - 1:
                kept = None
                if dropout_masks is not None:
                    kept = as_mask("dropout_masks", dropout_masks[layer], layout.shape(ys.shape))
                    kept = layout.to_time_major(kept)
                inputs = Inputs(self._drop(ys, kept))
        return layout.without_batch(tuple(after)), layout.from_time_major(ys)

    def _layer(self) -> Layer:
        if self.proj_size:
            return ProjectedLayer(
                self.cell, self.hidden_size, self.proj_size, self.recurrent_init, self.bias
            )
        return layer_of(self.cell, self.hidden_size, self.recurrent_init, bias=self.bias)

    @property
    def _zoneout(self) -> Zoneout | None:
        return getattr(self.cell, "zoneout", None)

    def _sampled_zoneout(self, steps: int, batch_size: int) -> Bool[Array, "F T B H"]:
        """For one layer and direction, which units of each field of the carry keep their value."""
        assert self._zoneout is not None
        shape = (steps, batch_size, self.hidden_size)
        masks = []
        # One after the other: two million numbers at once took a CPU four times as long as twice
        # one million.
        for rate in self._zoneout.rates:
            if rate == 0:
                masks.append(jnp.zeros(shape, bool))
            else:
                masks.append(jax.random.bernoulli(self.make_rng("dropout"), rate, shape))
        return jnp.stack(masks)

    def _checked_zoneout(
        self, masks: Sequence[Any], layout: Layout, steps: int, batch_size: int
    ) -> list[Bool[Array, "F T B H"]]:
        """The masks of a call, time first.

        Raises:
            ValueError: if the cell has no zoneout, or they have other shapes.
        """
        if self._zoneout is None:
            raise ValueError(
                "zoneout_masks are for cells with zoneout, such as zoneout(LSTM, c=0.5)."
            )
        count = self.num_layers * (2 if self.bidirectional else 1)
        if _count(masks) != count:
            raise ValueError(
                f"zoneout_masks must have one mask for each layer and direction, {count}, got "
                f"{_count(masks)}."
            )
        fields = len(self._zoneout.rates)
        shape = (fields, *layout.shape((steps, batch_size, self.hidden_size)))
        checked = []
        for mask in masks:
            array = as_mask("zoneout_masks", mask, shape)
            # Each field is laid out as the outputs are.
            checked.append(jnp.stack([layout.to_time_major(field) for field in array]))
        return checked

    def _run(
        self,
        name: str,
        carry: Carry,
        xs: Inputs,
        mask: Array | None,
        options: Mapping[str, Array],
    ) -> tuple[Carry, Array]:
        """One layer and direction: "l0", "l0_reverse", "l1", ..."""

        def param(kind: str, init: Initializer, shape: tuple[int, ...]) -> Array:
            return weight(self, f"{kind}_{name}", init, shape)

        reverse = name.endswith("_reverse")
        return self._layer()(param, carry, xs, mask, reverse=reverse, **options)

    def _drop(self, xs: Array, mask: Array | None) -> Array:
        if mask is None:
            if self.dropout == 0 or not self.has_rng("dropout"):
                return xs
            mask = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, xs.shape)
        return jnp.where(mask, xs / (1 - self.dropout), 0)
