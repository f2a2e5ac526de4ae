"""Deliberate faults in cells, recurrence, layers, models and losses.

A fault is a context manager: within it the library has one mistake. They are made from the
outside, by replacing one function, so that the code under test is what ships.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

import jaxrnn.nn.layers
import jaxrnn.nn.models
from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import Cell, Hidden, HiddenAndCell, gates_of
from jaxrnn.recurrent.compiled.calls import compiled
from jaxrnn.recurrent.recurrence import backend, recurrence
from jaxrnn.recurrent.scan import scanned

Fault = contextlib.AbstractContextManager[None]
sigmoid, tanh = jax.nn.sigmoid, jnp.tanh


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within it, `owner.name` is `value`; frozen dataclasses give way too.

    Raises:
        LookupError: if there is no such name, so that the fault would change nothing.
    """
    before = _there(owner, name)
    put = object.__setattr__ if isinstance(owner, Cell) else setattr
    put(owner, name, value)
    try:
        yield
    finally:
        put(owner, name, before)


def wrapped(owner: Any, name: str, change: Callable[[Any], Any]) -> Fault:
    """`owner.name` replaced by what `change` makes of it."""
    return replaced(owner, name, change(_there(owner, name)))


def _there(owner: Any, name: str) -> Any:
    if name not in owner.__dict__:
        raise LookupError(f"{getattr(owner, '__name__', owner)} has no {name}")
    return owner.__dict__[name]


def only_in(part: str, fault: Callable[[], Fault]) -> Fault:
    """A fault that acts in one layer and direction alone, such as "l1_reverse"."""
    with fault():
        pass  # what does not fit the code is told now, and not as the error of a broken model

    def around(run: Any) -> Any:
        """Each layer and direction, with the fault where it belongs."""

        def limited(self: RNN, name: str, *rest: Any) -> Any:
            """As `_run`."""
            with fault() if name == part else contextlib.nullcontext():
                return run(self, name, *rest)

        return limited

    return wrapped(RNN, "_run", around)


def rows_of(gate: int, count: int, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Changes the rows of one of `count` gates of a weight, a bias or a gradient."""

    def changed(array: Any) -> Any:
        """The same array but for that gate."""
        blocks = jnp.split(array, count)
        blocks[gate] = change(blocks[gate])
        return jnp.concatenate(blocks)

    return changed


def zeros(tree: Any) -> Any:
    """Zeros of the same shapes."""
    return jax.tree.map(jnp.zeros_like, tree)


def gru_step(
    *,
    r_gate: int = 0,
    z_gate: int = 1,
    keep: bool = True,
    squash: Any = sigmoid,
    squash_z: Any = None,
) -> Callable[..., Hidden]:
    """The GRU with one thing changed: which gate is which, what z keeps, how gates are squashed."""

    def step(carry: Hidden, x_gates: Any, h_gates: Any) -> Hidden:
        """As `GRU.step`."""
        x, h = gates_of(x_gates, 3), gates_of(h_gates, 3)
        r = squash(x[r_gate] + h[r_gate])
        z = (squash_z or squash)(x[z_gate] + h[z_gate])
        n = tanh(x[2] + r * h[2])
        return Hidden(n + z * (carry.h - n) if keep else carry.h + z * (n - carry.h))

    return step


def lstm_step(
    order: str = "ifgo",
    *,
    forget: float = 0.0,
    output: Callable[[Any, Any], Any] = lambda c, before: tanh(c),
    swapped: bool = False,
) -> Callable[..., HiddenAndCell]:
    """The LSTM with one thing changed: gate order, forget bias, what the output sees, the carry."""

    def step(carry: HiddenAndCell, x_gates: Any, h_gates: Any) -> HiddenAndCell:
        """As `LSTM.step`."""
        gates = dict(zip(order, gates_of(x_gates + h_gates, 4), strict=True))
        c = sigmoid(gates["f"] + forget) * carry.c + sigmoid(gates["i"]) * tanh(gates["g"])
        h = sigmoid(gates["o"]) * output(c, carry.c)
        return HiddenAndCell(c, h) if swapped else HiddenAndCell(h, c)

    return step


def own_gru(step: Callable[..., Any]) -> Fault:
    """The recurrence of a GRU that needs the weight inside its step: (carry, x, weight, bias)."""

    def run(
        cell: Cell,
        reverse: bool,
        weight_hh: Any,
        bias_hh: Any,
        carry: Any,
        x_gates: Any,
        alive: Any,
        params: Any = None,
    ) -> Any:
        """As `recurrence`, without lengths."""

        def body(carry: Hidden, x: Any) -> tuple[Hidden, Any]:
            """One step."""
            after = Hidden(step(carry.h, gates_of(x, 3), gates_of(weight_hh.T, 3), bias_hh))
            return after, after.h

        return lax.scan(body, carry, x_gates, reverse=reverse)

    return replaced(jaxrnn.nn.layers, "recurrence", run)


def reset_before_the_product(h: Any, x: Any, weights: Any, bias: Any) -> Any:
    """n = tanh(x + W (r * h) + b), as in the paper."""
    b = gates_of(bias, 3)
    r, z = (sigmoid(x[k] + h @ weights[k] + b[k]) for k in (0, 1))
    n = tanh(x[2] + (r * h) @ weights[2] + b[2])
    return n + z * (h - n)


def bias_outside_the_reset(h: Any, x: Any, weights: Any, bias: Any) -> Any:
    """n = tanh(x + r * (W h) + b)."""
    b = gates_of(bias, 3)
    r, z = (sigmoid(x[k] + h @ weights[k] + b[k]) for k in (0, 1))
    n = tanh(x[2] + r * (h @ weights[2]) + b[2])
    return n + z * (h - n)


def recurrence_with(
    *,
    weight: Callable[[Any], Any] = lambda w: w,
    bias: Callable[[Any], Any] = lambda b: b,
    gates: Callable[[Any], Any] = lambda x: x,
    carry: Callable[[Any], Any] = lambda c: c,
    reverse: Callable[[bool], bool] = lambda r: r,
    alive: Callable[[Any], Any] = lambda a: a,
    result: Callable[[Any, bool], Any] = lambda result, reverse: result,
) -> Fault:
    """The recurrence with one of its arguments, or its result, changed."""

    def run(
        cell: Cell, back: bool, w: Any, b: Any, before: Any, x: Any, mask: Any = None, *params: Any
    ) -> Any:
        """As `recurrence`."""
        after = recurrence(
            cell, reverse(back), weight(w), bias(b), carry(before), gates(x), alive(mask), *params
        )
        return result(after, back)

    return replaced(jaxrnn.nn.layers, "recurrence", run)


def stack_with(change: Callable[..., Any]) -> Fault:
    """`RNN` with its call replaced by `change(call, self, carry, xs, **options)`."""

    def around(call: Any) -> Any:
        """The changed call."""

        def run(self: RNN, carry: Any, xs: Any, **options: Any) -> Any:
            """As `RNN.__call__`."""
            return change(call, self, carry, xs, **options)

        return run

    return wrapped(RNN, "__call__", around)


def directions_exchanged(call: Any, self: RNN, carry: Any, xs: Any, **options: Any) -> Any:
    """The backward outputs stand first."""
    carry, ys = call(self, carry, xs, **options)
    forward, backward = jnp.split(ys, 2, axis=-1)
    return carry, jnp.concatenate([backward, forward], axis=-1)


def carries_exchanged(call: Any, self: RNN, carry: Any, xs: Any, **options: Any) -> Any:
    """The carry is read in the opposite order of layers and directions."""
    return call(self, carry[::-1], xs, **options)


def dropped_after_the_last(call: Any, self: RNN, carry: Any, xs: Any, **options: Any) -> Any:
    """The last layer's outputs are dropped too."""
    carry, ys = call(self, carry, xs, **options)
    return carry, jnp.where(options["dropout_masks"][-1], ys / (1 - self.dropout), 0)


def cut_between_layers(run: Any) -> Any:
    """No gradient flows from a layer to the one below."""

    def cut(self: RNN, name: str, carry: Any, xs: Any, alive: Any) -> Any:
        """As `_run`."""
        return run(self, name, carry, xs if name.startswith("l0") else lax.stop_gradient(xs), alive)

    return cut


def layers_exchanged() -> Fault:
    """The recurrent weights of layers 0 and 1 change places."""
    other = {"weight_hh_l0": "weight_hh_l1", "weight_hh_l1": "weight_hh_l0"}

    def around(param: Any) -> Any:
        """Reads the other layer."""

        def read(self: nn.Module, name: str, *rest: Any, **options: Any) -> Any:
            """As `param`."""
            return param(self, other.get(name, name), *rest, **options)

        return read

    return wrapped(nn.Module, "param", around)


def dropping(change: Callable[[Any, Any, float], Any]) -> Fault:
    """Dropout as `change(xs, mask, rate)`."""

    def drop(self: RNN, xs: Any, mask: Any) -> Any:
        """As `_drop`."""
        return change(xs, mask, self.dropout)

    return replaced(RNN, "_drop", drop)


def backward_with(change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Fault:
    """The backward passes with their gradients changed: weight, bias, carry, gates."""

    def around(backward: Any) -> Any:
        """The changed backward pass."""

        def run(*args: Any) -> Any:
            """As the backward pass."""
            gradients = backward(*args)
            return (*change(gradients[:4]), *gradients[4:])

        return run

    return both(wrapped(scanned, "bwd", around), wrapped(compiled, "bwd", around))


@contextlib.contextmanager
def both(one: Fault, other: Fault) -> Iterator[None]:
    """Two faults at once."""
    with one, other:
        yield


def only_scanned() -> Fault:
    """No fault: the recurrence runs in `lax.scan`, also where it is compiled."""
    return backend("scan")


def cell_with(cell: Cell, change: Callable[[Any], Any]) -> Fault:
    """A cell whose step's arguments are sent through `change` first."""
    step = cell.step

    def changed(carry: Any, x_gates: Any, h_gates: Any) -> Any:
        """As the step of the cell."""
        return step(carry, change(x_gates), change(h_gates))

    return replaced(cell, "step", changed)


def stepping(cell: Cell, step: Callable[..., Any]) -> Fault:
    """A cell with another step."""
    return replaced(cell, "step", step)
