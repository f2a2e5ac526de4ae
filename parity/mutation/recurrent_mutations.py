"""Mutations of cells, of the recurrence and of stacks.

Shapes: T time steps, B batch, H hidden size, G gates, D directions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

import jaxrnn.recurrent.layer
from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import Cell, Hidden, HiddenAndCell, gates_of
from jaxrnn.recurrent.compiled.calls import compiled
from jaxrnn.recurrent.recurrence import recurrence
from jaxrnn.recurrent.scan import scanned
from parity.mutation.tools import Mutation, both, replaced, wrapped

sigmoid = jax.nn.sigmoid
tanh = jnp.tanh


# Cells: the step is an attribute of the cell, so it is enough to put another one there.


def stepping(cell: Cell, step: Callable[..., Any]) -> Mutation:
    """A cell with another step."""
    return replaced(cell, "step", step)


def gates_with(cell: Cell, change: Callable[[Any], Any]) -> Mutation:
    """A cell whose gates are sent through `change` before its step."""
    step = cell.step

    def changed(carry: Any, x_gates: Any, h_gates: Any) -> Any:
        return step(carry, change(x_gates), change(h_gates))

    return replaced(cell, "step", changed)


def gru_step(
    *,
    r_gate: int = 0,
    z_gate: int = 1,
    z_weighs_new: bool = False,
    squash: Any = sigmoid,
    squash_z: Any = None,
) -> Callable[..., Hidden]:
    """The GRU with one thing changed: which gate is which, what z weighs, the sigmoid."""

    def step(carry: Hidden, x_gates: Any, h_gates: Any) -> Hidden:
        x = gates_of(x_gates, 3)  # (B, 3 * H) to 3 times (B, H)
        h = gates_of(h_gates, 3)
        r = squash(x[r_gate] + h[r_gate])
        z = (squash_z or squash)(x[z_gate] + h[z_gate])
        n = tanh(x[2] + r * h[2])
        if z_weighs_new:
            return Hidden(carry.h + z * (n - carry.h))
        return Hidden(n + z * (carry.h - n))

    return step


def lstm_step(
    order: str = "ifgo",
    *,
    forget: float = 0.0,
    output: Callable[[Any, Any], Any] = lambda c, before: tanh(c),
    swapped: bool = False,
) -> Callable[..., HiddenAndCell]:
    """The LSTM with one thing changed: gate order, forget bias, output, carry."""

    def step(carry: HiddenAndCell, x_gates: Any, h_gates: Any) -> HiddenAndCell:
        gates = dict(zip(order, gates_of(x_gates + h_gates, 4), strict=True))  # (B, H) each
        c = sigmoid(gates["f"] + forget) * carry.c + sigmoid(gates["i"]) * tanh(gates["g"])
        h = sigmoid(gates["o"]) * output(c, carry.c)
        return HiddenAndCell(c, h) if swapped else HiddenAndCell(h, c)

    return step


# The recurrence: the layers call it by the name that they import it under.


def own_gru(candidate: Callable[..., Any]) -> Mutation:
    """A GRU that needs the weight inside its step: candidate(h, x_n, r, weight_n, bias_n)."""

    def run(
        cell: Cell,
        reverse: bool,
        weight_hh: Any,
        bias_hh: Any,
        carry: Any,
        x_gates: Any,
        mask: Any,
        params: Any = None,
    ) -> Any:
        # A cell's step comes after the matmul with the weight; here the two are one.
        weights = gates_of(weight_hh.T, 3)  # (H, 3 * H) to 3 times (H, H)
        b = gates_of(bias_hh, 3)

        def body(carry: Hidden, x_gates: Any) -> tuple[Hidden, Any]:
            h = carry.h
            x = gates_of(x_gates, 3)  # (B, 3 * H) to 3 times (B, H)
            r = sigmoid(x[0] + h @ weights[0] + b[0])
            z = sigmoid(x[1] + h @ weights[1] + b[1])
            n = candidate(h, x[2], r, weights[2], b[2])
            after = Hidden(n + z * (h - n))
            return after, after.h

        return lax.scan(body, carry, x_gates, reverse=reverse)

    return replaced(jaxrnn.recurrent.layer, "recurrence", run)


def reset_before_the_matmul(h: Any, x: Any, r: Any, weight: Any, bias: Any) -> Any:
    """n = tanh(x + W (r * h) + b), as in the paper."""
    return tanh(x + (r * h) @ weight + bias)


def bias_outside_the_reset(h: Any, x: Any, r: Any, weight: Any, bias: Any) -> Any:
    """n = tanh(x + r * (W h) + b)."""
    return tanh(x + r * (h @ weight) + bias)


def recurrence_with(
    *,
    weight: Callable[[Any], Any] = lambda w: w,
    bias: Callable[[Any], Any] = lambda b: b,
    gates: Callable[[Any], Any] = lambda x: x,
    carry: Callable[[Any], Any] = lambda c: c,
    reverse: Callable[[bool], bool] = lambda r: r,
    mask: Callable[[Any], Any] = lambda m: m,
    outputs: Callable[[Any, bool], Any] = lambda ys, reverse: ys,
) -> Mutation:
    """The recurrence with one of its arguments, or its outputs, changed."""

    def run(
        cell: Cell,
        back: bool,
        w: Any,
        b: Any,
        before: Any,
        x: Any,
        counted: Any = None,
        params: Any = None,
    ) -> Any:
        arguments = (weight(w), bias(b), carry(before), gates(x), mask(counted), params)
        last, ys = recurrence(cell, reverse(back), *arguments)
        return last, outputs(ys, back)

    return replaced(jaxrnn.recurrent.layer, "recurrence", run)


class Gradients(NamedTuple):
    """What the backward pass of a recurrence gives."""

    weight: Any
    bias: Any
    carry: Any
    gates: Any


def backward_with(change: Callable[[Gradients], tuple[Any, ...]]) -> Mutation:
    """The backward passes with their gradients changed."""

    def around(backward: Any) -> Any:
        def run(*args: Any) -> Any:
            gradients = backward(*args)
            # Those of the mask, which has none, and of the cell's own parameters stay.
            return (*change(Gradients(*gradients[:4])), *gradients[4:])

        return run

    # Either way to run has a backward pass of its own.
    return both(wrapped(scanned, "bwd", around), wrapped(compiled, "bwd", around))


# Stacks: their methods.


def stack_with(change: Callable[..., Any]) -> Mutation:
    """`RNN` with its call replaced by `change(call, self, carry, xs, **options)`."""

    def around(call: Any) -> Any:
        def run(self: RNN, carry: Any, xs: Any, **options: Any) -> Any:
            return change(call, self, carry, xs, **options)

        return run

    return wrapped(RNN, "__call__", around)


def directions_exchanged(call: Any, self: RNN, carry: Any, xs: Any, **options: Any) -> Any:
    """The backward outputs stand first."""
    carry, ys = call(self, carry, xs, **options)
    return carry, jnp.roll(ys, self.hidden_size, axis=-1)  # (T, B, 2 * H), by half of it


def carries_exchanged(call: Any, self: RNN, carry: Any, xs: Any, **options: Any) -> Any:
    """The carry is read in the opposite order of layers and directions."""
    return call(self, carry[::-1], xs, **options)


def dropped_after_the_last(call: Any, self: RNN, carry: Any, xs: Any, **options: Any) -> Any:
    """The last layer's outputs are dropped too."""
    carry, ys = call(self, carry, xs, **options)
    return carry, jnp.where(options["dropout_masks"][-1], ys / (1 - self.dropout), 0)


def dropping(change: Callable[[Any, Any, float], Any]) -> Mutation:
    """Dropout as `change(xs, mask, rate)`."""

    def drop(self: RNN, xs: Any, mask: Any) -> Any:
        return change(xs, mask, self.dropout)

    return replaced(RNN, "_drop", drop)


def cut_between_layers(run: Any) -> Any:
    """No gradient flows from a layer to the one below."""

    def cut(self: RNN, name: str, carry: Any, xs: Any, mask: Any) -> Any:
        if not name.startswith("l0"):
            xs = lax.stop_gradient(xs)
        return run(self, name, carry, xs, mask)

    return cut


def layers_exchanged() -> Mutation:
    """The recurrent weights of layers 0 and 1 change places."""
    other = {"weight_hh_l0": "weight_hh_l1", "weight_hh_l1": "weight_hh_l0"}

    def around(param: Any) -> Any:
        def read(self: nn.Module, name: str, *rest: Any, **options: Any) -> Any:
            return param(self, other.get(name, name), *rest, **options)

        return read

    # Every parameter of a Linen module is read through `Module.param`.
    return wrapped(nn.Module, "param", around)
