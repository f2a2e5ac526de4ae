"""Linen layers: the recurrent stack, and PyTorch's default initialization.

Shapes: T time steps, B batch, I input size, H hidden size, G gates of the cell, D directions.

The modules hold parameters and call pure functions. The weights decide the precision: cast the
parameters, and everything computed from them follows.
"""

import math
from collections.abc import Callable, Sequence
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
    nearest_rows,
)
from jaxrnn.checks import check_at_least_0, check_at_least_1
from jaxrnn.recurrent.cells import AnyCell, Carry, Initializer
from jaxrnn.recurrent.inputs import Inputs, as_inputs
from jaxrnn.recurrent.layer import Layer, layer_of, uniform
from jaxrnn.recurrent.recurrence import length_mask, uses_autodiff
from jaxrnn.recurrent.reverse import reverse_mode_only


def identity(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """The identity matrix, for `weight_hh` of a cell with one gate.

    Repeated products with it neither grow nor shrink the carry. Le, Jaitly and Hinton 2015,
    https://arxiv.org/abs/1504.00941.
    """
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


@jax.custom_vjp
def product(xs: Float[Array, "*N I"], kernel: Float[Array, "I O"]) -> Float[Array, "*N O"]:
    """`xs @ kernel`, whose gradient for the kernel is made in the faster of its two layouts.

    XLA would fold the transposition into the product d_kernel = xs.T @ d_ys, and then its slow
    general product runs instead of the packed one: measured 1.6 times slower for 512 and 4,096
    rows, I = 256, O = 85 on a CPU.
    """
    return xs @ kernel


def _product_forward(xs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return xs @ kernel, (xs, kernel)


def _product_backward(kept: tuple[Array, Array], d_ys: Array) -> tuple[Array, Array]:
    xs, kernel = kept
    transposed = jnp.einsum(
        "no,ni->oi", d_ys.reshape(-1, kernel.shape[1]), xs.reshape(-1, len(kernel))
    )
    return d_ys @ kernel.T, lax.optimization_barrier(transposed).T


product.defvjp(_product_forward, _product_backward)


def _dot_general(xs: Array, kernel: Array, *settings: Any, **options: Any) -> Array:
    """`product` in the form that Flax's `Dense` calls; it always contracts last with first."""
    return xs @ kernel if uses_autodiff() else product(*reverse_mode_only(xs, kernel))


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
    if e.num_embeddings > min(tokens.size, 3 * e.features):
        return Inputs(e(tokens))
    e(jnp.zeros((1,), tokens.dtype))  # makes the parameters
    return Inputs(e.embedding, tokens)


def pure(layer: nn.Module, *example: Array) -> Callable[..., Any]:
    """The function that a layer computes, free of Flax, for use inside a raw `lax.scan`.

    Args:
        layer: a submodule that belongs to the calling module.
        example: inputs of the right shape, with which the layer makes its parameters.
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


class RNNCell(nn.Module):
    """One tanh step with both its products: h' = tanh(W_ih x + b_ih + W_hh h + b_hh)."""

    hidden_size: int

    @nn.compact
    def __call__(self, h: Float[Array, "B H"], x: Float[Array, "B I"]) -> Float[Array, "B H"]:
        check_at_least_1(hidden_size=self.hidden_size)
        init, width = uniform(1 / math.sqrt(self.hidden_size)), self.hidden_size
        x = as_array("x", x, ("B", "I"))
        weight_ih = weight(self, "weight_ih", init, (width, x.shape[-1]))
        weight_hh = weight(self, "weight_hh", init, (width, width))
        bias_ih = weight(self, "bias_ih", init, (width,))
        bias_hh = weight(self, "bias_hh", init, (width,))
        dtype = weight_hh.dtype
        x = as_floats("x", x, x.shape, dtype)
        h = as_floats("h", h, (len(x), width), dtype)
        x_half = x @ weight_ih.astype(dtype).T + bias_ih.astype(dtype)
        return jnp.tanh(x_half + h @ weight_hh.T + bias_hh.astype(dtype))


class RNN(nn.Module):
    """A stack of recurrent layers, with the parameters of `torch.nn.RNN`, `GRU` and `LSTM`.

    The parameters carry torch's names, shapes and gate order: `weight_ih_l0` (G * H, I),
    `weight_hh_l0` (G * H, H), `bias_ih_l0` and `bias_hh_l0` (G * H,), then `_l1`, ..., and
    `_l0_reverse` for the backward direction. The parameters per unit of a cell, such as the `p_i`
    of a peephole LSTM, are (H,) and named likewise, `p_i_l0`.

    Attributes:
        cell: what one step does: a `Cell`, a `FreeCell`, or another kind that `layer_of` knows.
            The parameters that are named above are those of a `Cell`.
        hidden_size: H, the width of the carry of each layer and direction.
        num_layers: how many layers, each fed with the outputs of the one below.
        bidirectional: whether a second recurrence runs from the last step to the first; the
            outputs of both stand side by side, forward first.
        dropout: the share of the outputs of every layer but the last that is set to zero, in
            [0, 1), a new mask each step; the rest is divided by 1 - dropout. It acts exactly
            when the call has a "dropout" key (`rngs={"dropout": key}`) or masks.
        recurrent_init: how `weight_hh` starts; torch's default, uniform in +-1 / sqrt(H), if None.
    """

    cell: AnyCell
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    recurrent_init: Initializer | None = None

    def initial_carry(
        self, batch_size: int, dtype: DTypeLike = jnp.float32, *, input_size: int | None = None
    ) -> tuple[Carry, ...]:
        """The carry from which a text starts: zeros, one a layer and direction.

        Args:
            batch_size: B.
            dtype: its precision.
            input_size: I; only a cell whose carry has inputs (a QRNN with a window of 2) needs it.
        """
        self._check_settings()
        check_at_least_0(batch_size=batch_size)
        layer = self._layer()
        directions = 2 if self.bidirectional else 1
        carries: list[Carry] = []
        for _ in range(self.num_layers):
            for _ in range(directions):
                carries.append(layer.initial_carry(batch_size, dtype, input_size=input_size))
            input_size = directions * self.hidden_size  # of the layer above
        return tuple(carries)

    @property
    def _runs(self) -> int:
        """How many recurrences there are: one a layer and direction."""
        return self.num_layers * (2 if self.bidirectional else 1)

    def _check_settings(self) -> None:
        check_at_least_1(hidden_size=self.hidden_size, num_layers=self.num_layers)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}.")

    @nn.compact
    def __call__(
        self,
        carry: Sequence[Carry],
        xs: Float[Array, "T B I"] | Inputs,
        *,
        lengths: Int[Array, " B"] | None = None,
        dropout_masks: Sequence[Bool[Array, "T B DH"]] | None = None,
        resets: Bool[Array, "T B"] | None = None,
    ) -> tuple[tuple[Carry, ...], Float[Array, "T B DH"]]:
        """Run the stack over time.

        Args:
            carry: one carry a layer and direction: layer 0 forward, layer 0 backward, layer 1 ...
            xs: the inputs, time first, as such or as rows of a table.
            lengths: how many steps of each sequence count, in [0, T]; all T if None. The others
                leave the carry as it is and give zeros. Each sequence runs as if it were alone.
            dropout_masks: for each layer but the last, which outputs are kept, instead of masks
                drawn from the "dropout" key.
            resets: where True, a step starts from the initial carry, as where a document begins;
                None continues everywhere.

        Returns:
            The carry after the last step, in the order of `carry`, and the last layer's outputs.
            All in the precision of the first `weight_hh`, whatever that of `carry` and `xs`.

        Raises:
            ValueError: if an array has another shape, or no numbers of the right kind.
        """
        self._check_settings()
        inputs = as_inputs(xs)
        steps, batch_size, _ = inputs.shape
        like = jax.eval_shape(lambda: self.initial_carry(batch_size, input_size=inputs.shape[-1]))
        # Each layer casts its own carry; here, only that there is one for each.
        carry = as_carry(carry, like, cast=False)
        mask = None
        if lengths is not None:
            mask = length_mask(as_lengths(lengths, batch_size, steps), steps)  # (T, B)
        if resets is not None:
            resets = as_mask("resets", resets, (steps, batch_size))
        if dropout_masks is not None and len(dropout_masks) != self.num_layers - 1:
            raise ValueError(
                f"dropout_masks must have one mask for each layer but the last, "
                f"{self.num_layers - 1}, got {len(dropout_masks)}."
            )
        directions = ("", "_reverse") if self.bidirectional else ("",)
        before = iter(carry)
        after: list[Carry] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in directions:
                name = f"l{layer}{direction}"
                last, output = self._run(name, next(before), inputs, mask, resets)
                after.append(last)
                outputs.append(output)
            ys = jnp.concatenate(outputs, axis=-1)  # (T, B, D * H)
            if layer < self.num_layers - 1:
                kept = None if dropout_masks is None else dropout_masks[layer]
                inputs = Inputs(self._drop(ys, kept))
        return tuple(after), ys

    def _layer(self) -> Layer:
        return layer_of(self.cell, self.hidden_size, self.recurrent_init)

    def _run(
        self, name: str, carry: Carry, xs: Inputs, mask: Array | None, resets: Array | None
    ) -> tuple[Carry, Array]:
        """One layer and direction: "l0", "l0_reverse", "l1", ..."""

        def param(kind: str, init: Initializer, shape: tuple[int, ...]) -> Array:
            return weight(self, f"{kind}_{name}", init, shape)

        reverse = name.endswith("_reverse")
        layer = self._layer()
        if resets is None:  # a layer of the user's may know none
            return layer(param, carry, xs, mask, reverse=reverse)
        return layer(param, carry, xs, mask, reverse=reverse, resets=resets)

    def _drop(self, xs: Array, mask: Array | None) -> Array:
        if mask is None:
            if self.dropout == 0 or not self.has_rng("dropout"):
                return xs
            mask = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, xs.shape)
        mask = as_mask("dropout_masks", mask, xs.shape)
        return jnp.where(mask, xs / (1 - self.dropout), 0)
