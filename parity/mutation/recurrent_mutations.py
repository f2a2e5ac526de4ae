"""Mutations of cells, of the recurrence and of stacks.

Shapes: T time steps, B batch, H hidden size, G gates, D directions.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

import jaxrnn.recurrent.layer
import jaxrnn.recurrent.linear
from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import (
    LSTM,
    AnyCell,
    Cell,
    Hidden,
    HiddenAndCell,
    SLSTMCarry,
    gates_of,
)
from jaxrnn.recurrent.compiled.calls import compiled
from jaxrnn.recurrent.handwritten import Arguments
from jaxrnn.recurrent.inputs import Inputs, Projection, input_gates, inputs_of
from jaxrnn.recurrent.linear import LinearCell
from jaxrnn.recurrent.recurrence import recurrence
from jaxrnn.recurrent.scan import scanned
from parity.mutation.tools import Mutation, both, replaced, wrapped

sigmoid = jax.nn.sigmoid
tanh = jnp.tanh


# Cells: the step is an attribute of the cell, so it is enough to put another one there.


def stepping(cell: AnyCell, step: Callable[..., Any]) -> Mutation:
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
    candidate: Any = tanh,
) -> Callable[..., Hidden]:
    """The GRU with one thing changed: which gate is which, what z weighs, sigmoid or tanh."""

    def step(carry: Hidden, x_gates: Any, h_gates: Any) -> Hidden:
        x = gates_of(x_gates, 3)  # (B, 3 * H) to 3 times (B, H)
        h = gates_of(h_gates, 3)
        r = squash(x[r_gate] + h[r_gate])
        z = (squash_z or squash)(x[z_gate] + h[z_gate])
        n = candidate(x[2] + r * h[2])
        if z_weighs_new:
            return Hidden(carry.h + z * (n - carry.h))
        return Hidden(n + z * (carry.h - n))

    return step


def rounded_tanh(x: Any) -> Any:
    """tanh that is 2 units in the last place too large in float32, and right in float64."""
    y = tanh(x)
    return y * (1 + 2 * jnp.finfo(jnp.float32).eps) if x.dtype == jnp.float32 else y


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


def peephole_lstm_step(
    *, old_for_o: bool = False, seen_by_f: bool = True
) -> Callable[..., HiddenAndCell]:
    """The peephole LSTM with one thing changed: which cell state o sees, whether f sees any."""

    def step(
        carry: HiddenAndCell, x_gates: Any, h_gates: Any, *, p_i: Any, p_f: Any, p_o: Any
    ) -> HiddenAndCell:
        i, f, g, o = gates_of(x_gates + h_gates, 4)  # (B, H) each
        if seen_by_f:
            f = f + p_f * carry.c
        c = sigmoid(f) * carry.c + sigmoid(i + p_i * carry.c) * tanh(g)
        seen = carry.c if old_for_o else c
        return HiddenAndCell(sigmoid(o + p_o * seen) * tanh(c), c)

    return step


def coupled_lstm_step(*, f_weighs_new: bool = False) -> Callable[..., HiddenAndCell]:
    """The coupled LSTM with what f weighs changed."""

    def step(carry: HiddenAndCell, x_gates: Any, h_gates: Any) -> HiddenAndCell:
        f, g, o = gates_of(x_gates + h_gates, 3)  # (B, H) each
        f = sigmoid(-f) if f_weighs_new else sigmoid(f)
        c = f * carry.c + (1 - f) * tanh(g)
        return HiddenAndCell(sigmoid(o) * tanh(c), c)

    return step


def mgu_step(*, f_weighs_new: bool = False, reset: bool = True) -> Callable[..., Hidden]:
    """The minimal gated unit with one thing changed: what f weighs, whether it resets."""

    def step(carry: Hidden, x_gates: Any, h_gates: Any) -> Hidden:
        x_f, x_n = gates_of(x_gates, 2)  # (B, H) each
        h_f, h_n = gates_of(h_gates, 2)
        f = sigmoid(x_f + h_f)
        n = tanh(x_n + f * h_n) if reset else tanh(x_n + h_n)
        if f_weighs_new:
            f = 1 - f
        return Hidden(n + f * (carry.h - n))

    return step


def slstm_step(
    *,
    log_forget: Callable[[Any], Any] = jax.nn.log_sigmoid,
    handed_on: bool = True,
    divided: bool = True,
) -> Callable[..., SLSTMCarry]:
    """The sLSTM with one thing changed: the forget gate, its stabilizer, its normalizer."""

    def step(carry: SLSTMCarry, x_gates: Any, h_gates: Any) -> SLSTMCarry:
        i, f, z, o = gates_of(x_gates + h_gates, 4)  # (B, H) each
        before = carry.m if handed_on else jnp.zeros_like(carry.m)
        past = jnp.where(carry.n == 0, i, log_forget(f) + before)
        m = jnp.maximum(past, i)
        f = jnp.exp(past - m)
        i = jnp.exp(i - m)
        c = f * carry.c + i * tanh(z)
        n = f * carry.n + i
        shown = c / n if divided else c
        return SLSTMCarry(sigmoid(o) * shown, c, n, m)

    return step


# Linear cells: their step follows from their coefficients.


def coefficients_with(cell: LinearCell, coefficients: Callable[..., tuple[Any, Any]]) -> Mutation:
    """A linear cell with other coefficients."""
    return replaced(cell, "coefficients", coefficients)


def positive(x: Any) -> Any:
    """What the candidate of a minGRU or minLSTM goes through."""
    return jnp.where(x >= 0, x + 0.5, sigmoid(x))


def pooling(*, f_weighs_new: bool = False, squash: Any = tanh) -> Callable[..., tuple[Any, Any]]:
    """The pooling of a QRNN with one thing changed: what f weighs, the candidate's tanh."""

    def coefficients(gates: Any) -> tuple[Any, Any]:
        z, f, *_ = jnp.split(gates, 3, axis=-1)  # (..., H) each
        f = sigmoid(-f) if f_weighs_new else sigmoid(f)
        return f, (1 - f) * squash(z)

    return coefficients


def min_gru_without_g(gates: Any) -> tuple[Any, Any]:
    """A minGRU whose candidate may be negative."""
    z, n = gates_of(gates, 2)
    z = sigmoid(z)
    return 1 - z, z * n


def min_lstm_unnormalized(gates: Any) -> tuple[Any, Any]:
    """A minLSTM whose gates do not add up to 1."""
    f, i, n = gates_of(gates, 3)
    return sigmoid(f), sigmoid(i) * positive(n)


def rg_lru_unscaled(gates: Any, *, lam: Any) -> tuple[Any, Any]:
    """An RG-LRU whose input is not scaled."""
    r, i, x = gates_of(gates, 3)
    a = jnp.exp(-8 * jax.nn.softplus(lam) * sigmoid(r))
    return a, sigmoid(i) * x


def lru_unscaled(gates: Any, *, nu: Any) -> tuple[Any, Any]:
    """An LRU whose input is not scaled."""
    a = jnp.exp(-jnp.exp(nu))
    return jnp.broadcast_to(a, gates.shape), gates


def sru_step(
    carry: HiddenAndCell, x_gates: Any, h_gates: Any, *, v_f: Any, v_r: Any
) -> HiddenAndCell:
    """An SRU whose reset gate sees the new state."""
    z, f, r, x = gates_of(x_gates + h_gates, 4)  # (B, H) each
    f = sigmoid(f + v_f * carry.c)
    c = f * carry.c + (1 - f) * z
    r = sigmoid(r + v_r * c)
    return HiddenAndCell(r * c + (1 - r) * x, c)


def states_with(change: Callable[[Any, bool], Any]) -> Mutation:
    """The states that are found in parallel over time as `change(states, reverse)`."""

    def around(run: Any) -> Any:
        def changed(a: Any, b: Any, first: Any, *, reverse: bool) -> Any:
            return change(run(a, b, first, reverse=reverse), reverse)

        return changed

    return wrapped(jaxrnn.recurrent.linear, "linear_scan", around)


def parallel_backward_with(change: Callable[[Any, Any, Any], tuple[Any, Any, Any]]) -> Mutation:
    """The backward pass in parallel over time as `change(d_a, d_b, d_carry)`."""

    def around(backward: Any) -> Any:
        return lambda *args: change(*backward(*args))

    return wrapped(jaxrnn.recurrent.linear, "_backward", around)


def without_the_input_before() -> Mutation:
    """The first step of a window does not see the last input of the window before."""

    def around(previous: Any) -> Any:
        def run(inputs: Any, last: Any, *rest: Any, **options: Any) -> Any:
            return previous(inputs, jnp.zeros_like(last), *rest, **options)

        return run

    return wrapped(jaxrnn.recurrent.layer, "previous", around)


# Free cells: their step has both products in it.


def as_gated(cell: Cell) -> Callable[..., tuple[Any, Any]]:
    """A free cell's step that resets after the product, as this cell of the same weights does."""

    def step(params: dict[str, Any], carry: Any, x: Any) -> tuple[Any, Any]:
        x_gates = x @ params["weight_ih"].T + params["bias_ih"]  # (B, G * H)
        h_gates = carry.h @ params["weight_hh"].T + params["bias_hh"]
        after = cell.step(carry, x_gates, h_gates)
        return after, after.h

    return step


def without_multiplication(
    params: dict[str, Any], carry: HiddenAndCell, x: Any
) -> tuple[HiddenAndCell, Any]:
    """A multiplicative LSTM whose gates read the output as it is."""
    x_gates = x @ params["weight_ih"].T + params["bias"]  # (B, 4 * H)
    after = LSTM.step(carry, x_gates, carry.h @ params["weight_hm"].T)
    return after, after.h


# The recurrence: the layers call it by the name that they import it under.


def _input_gates(xs: Any, weight_hh: Any, projection: Projection | None) -> Inputs:
    """The input half of the gates, which the recurrence is given or makes of the inputs."""
    if projection is None:
        return inputs_of(xs)
    return input_gates(inputs_of(xs).astype(weight_hh.dtype), projection)


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
        resets: Any = None,
        projection: Any = None,
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

        gates = _input_gates(x_gates, weight_hh, projection).dense()
        return lax.scan(body, carry, gates, reverse=reverse)

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
        resets: Any = None,
        projection: Any = None,
    ) -> Any:
        changed = _input_gates(x, w, projection).map(gates)
        arguments = (weight(w), bias(b), carry(before), changed, mask(counted), params, resets)
        last, ys = recurrence(cell, reverse(back), *arguments)
        return last, outputs(ys, back)

    return replaced(jaxrnn.recurrent.layer, "recurrence", run)


def backward_with(change: Callable[[Arguments], Arguments]) -> Mutation:
    """The backward passes with their gradients changed."""

    def around(backward: Any) -> Any:
        return lambda *args: change(backward(*args))

    # Either way to run has a backward pass of its own.
    return both(wrapped(scanned, "backward", around), wrapped(compiled, "backward", around))


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

    def cut(self: RNN, name: str, carry: Any, xs: Any, *rest: Any) -> Any:
        if not name.startswith("l0"):
            xs = lax.stop_gradient(xs)
        return run(self, name, carry, xs, *rest)

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
