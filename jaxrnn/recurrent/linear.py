"""Linear cells: the next state is linear in the one before, so time can be run in parallel.

Shapes: T time steps, B batch, H hidden size, G the number of gates of the cell.

    c' = a * c + b,    h' = output(c', gates)

with coefficients a and b that are functions of the gates of the step alone. There is no product
with h, and three ways to evaluate the same equation: the compiled loop, `lax.scan`, and
`lax.associative_scan`, which needs some log2 T passes over all steps instead of T steps. On
accelerators the last one is the default.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.recurrent.cells import AnyCell, Carry, Cell, Step
from jaxrnn.recurrent.dry_run import check_call, dry_run_linear, is_own
from jaxrnn.recurrent.handwritten import Arguments
from jaxrnn.recurrent.transposition import linear_call

Coefficients = Callable[..., tuple[Array, Array]]
"""`coefficients(gates, **params) -> (a, b)`, elementwise: gates (..., G * H), a and b (..., H)."""

Output = Callable[..., Array]
"""`output(c, gates, **params) -> h`, elementwise: c and h (..., H), gates (..., G * H)."""


def _state(c: Array, gates: Array, **params: Array) -> Array:
    """The output of a cell whose output is its state."""
    return c


@dataclass(frozen=True)
class LinearCell(Cell):
    """A cell without a product with h, whose state after a step is linear in the one before.

    Its step follows from the coefficients, so it is also a `Cell`. `gates` in both functions are
    x @ weight_ih.T + bias_ih.

    Args:
        coefficients: `coefficients(gates, **params) -> (a, b)`, of c' = a * c + b.
        output: `output(c, gates, **params) -> h`, of the state after the step; the state itself if
            left out.
        window: how many inputs the gates of a step are made of, the newest first: `weight_ih` is
            (G * H, window * I). With 2, the previous input is part of the layer's carry.

    The carry is a NamedTuple with `h` first and the state `c`, or, where the output is the state,
    `h` alone.

    Raises:
        ValueError: if `window` is neither 1 nor 2, or the carry has other fields.
    """

    step: Step = field(init=False, compare=False)
    coefficients: Coefficients = field(kw_only=True)
    output: Output = field(default=_state, kw_only=True)
    window: int = field(default=1, kw_only=True)
    recurrent_gates: tuple[str, ...] | None = field(default=(), init=False)

    def __post_init__(self) -> None:
        # The base class runs it.
        object.__setattr__(self, "step", partial(_linear_step, self))
        super().__post_init__()
        if self.window not in (1, 2):
            raise ValueError(f"window must be 1 or 2, got {self.window}.")
        fields = self.carry._fields
        if fields not in (("h",), ("h", "c")):
            raise ValueError(
                f"The carry of a linear cell has the fields h, or h and c; got {fields}."
            )
        if fields == ("h",) and self.output is not _state:
            raise ValueError("A linear cell with an output of its own needs a carry with h and c.")

    def _check_step(self) -> None:
        """Refuse coefficients and an output that do not make the carry of a step."""
        if is_own(self.coefficients) and is_own(self.output):
            return
        params = dict.fromkeys(self.params)
        check_call(self.name, "coefficients", self.coefficients, "gates", **params)
        check_call(self.name, "output", self.output, "c", "gates", **params)
        dry_run_linear(self)


def window_of(cell: AnyCell) -> int:
    """How many inputs the gates of a step are made of: 1 for all but some linear cells."""
    return cell.window if isinstance(cell, LinearCell) else 1


def _linear_step(
    cell: LinearCell, carry: Carry, x_gates: Array, h_gates: Array, **params: Array
) -> Carry:
    """The step of a linear cell, from its coefficients; `h_gates` are its bias."""
    gates = x_gates + h_gates
    a, b = cell.coefficients(gates, **params)
    c = a * state_of(carry) + b
    return carry_of(cell, cell.output(c, gates, **params), c)


def state_of(carry: Carry) -> Float[Array, "B H"]:
    """The state of a linear cell: the last field of its carry."""
    state: Array = carry[-1]
    return state


def carry_of(cell: LinearCell, h: Array, c: Array) -> Carry:
    """The carry of an output and a state."""
    return cell.carry(h, c) if len(cell.carry._fields) > 1 else cell.carry(c)


def linear_scan(
    a: Float[Array, "T B H"], b: Float[Array, "T B H"], first: Float[Array, "B H"], *, reverse: bool
) -> Float[Array, "T B H"]:
    """c_t = a_t * c_{t-1} + b_t for all t, by `lax.associative_scan`.

    Two steps after each other are one step with the coefficients (a2 * a1, a2 * b1 + b2); that
    operation is associative (Blelloch 1990, "Prefix sums and their applications"; Martin and Cundy
    2018, https://arxiv.org/abs/1709.04057).

    Args:
        a: what the state is multiplied by at each step.
        b: what is added.
        first: the state before the first step that is run.
        reverse: whether time runs from the last step to the first.

    Returns:
        The state after every step.
    """
    return _linear_scan(reverse, a, b, first)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _linear_scan(reverse: bool, a: Array, b: Array, first: Array) -> Array:
    if not len(a):
        return b
    start = -1 if reverse else 0
    b = b.at[start].add(a[start] * first)
    _, states = lax.associative_scan(_joined, (a, b), reverse=reverse)
    return states


def _joined(one: tuple[Array, Array], next_one: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two steps as one: first `one`, then `next_one`."""
    a_1, b_1 = one
    a_2, b_2 = next_one
    return a_2 * a_1, a_2 * b_1 + b_2


@_linear_scan.defjvp
def _differentiated(reverse: bool, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The tangent is the same recurrence: dc_t = a_t dc_{t-1} + (da_t c_{t-1} + db_t)."""
    a, _, first = primals
    states = _linear_scan(reverse, *primals)
    kept = (a, states, first)
    return states, linear_call(
        partial(_tangent, reverse), partial(_backward, reverse), kept, tangents, states
    )


def _tangent(reverse: bool, kept: tuple[Array, ...], tangents: tuple[Array, ...]) -> Array:
    a, states, first = kept
    a_dot, b_dot, first_dot = tangents
    if not len(a):
        return b_dot
    before = _moved(states, first, later=reverse)  # the state before each step
    return _linear_scan(reverse, a, a_dot * before + b_dot, first_dot)


def _backward(
    reverse: bool, kept: tuple[Array, ...], d_states: Array
) -> tuple[Array, Array, Array]:
    """The gradient of b is the same recurrence, against time: d_b_t = d_c_t + a_{t+1} d_b_{t+1}."""
    a, states, first = kept
    if not len(a):
        return jnp.zeros_like(a), d_states, jnp.zeros_like(first)
    following = _moved(a, jnp.zeros_like(first), later=not reverse)  # a of the step after
    d_b = _linear_scan(not reverse, following, d_states, jnp.zeros_like(first))
    before = _moved(states, first, later=reverse)  # the state before each step
    start = -1 if reverse else 0
    return d_b * before, d_b, a[start] * d_b[start]


def _moved(array: Array, filling: Array, *, later: bool) -> Array:
    """What stands one time step later, or one earlier; at the end, the filling."""
    if later:
        return jnp.concatenate([array[1:], filling[None]])
    return jnp.concatenate([filling[None], array[:-1]])


def parallel(
    cell: LinearCell,
    reverse: bool,
    inputs: Arguments,
) -> tuple[Carry, Float[Array, "T B H"]]:
    """`jaxrnn.recurrent.recurrence.recurrence` for linear cells, in parallel over time."""
    _, bias, carry, x_gates, mask, params, resets, _ = inputs
    gates = x_gates.dense() + bias  # (T, B, G * H)
    params = params or {}
    a, b = cell.coefficients(gates, **params)  # (T, B, H) each
    if resets is not None:
        a = jnp.where(resets[..., None], 0, a)
    if mask is not None:
        # A step that is not run leaves the state as it is.
        a = jnp.where(mask[..., None], a, 1)
        b = jnp.where(mask[..., None], b, 0)
    states = linear_scan(a, b, state_of(carry), reverse=reverse)  # (T, B, H)
    ys = cell.output(states, gates, **params)  # (T, B, H)
    if not len(ys):
        return carry, ys
    end = 0 if reverse else -1
    if mask is None:
        return carry_of(cell, ys[end], states[end]), ys
    h = _last_run(ys, carry.h, mask, reverse=reverse)
    return carry_of(cell, h, states[end]), jnp.where(mask[..., None], ys, 0)


def _last_run(ys: Array, h: Array, mask: Array, *, reverse: bool) -> Float[Array, "B H"]:
    """The output of the last step that is run in each row; `h` where none is."""
    T = len(ys)
    places = jnp.arange(T)[:, None]  # (T, 1)
    # The first step that is run is the last one where time runs backwards, (B,).
    last = jnp.where(mask, places, T).min(0) if reverse else jnp.where(mask, places, -1).max(0)
    any_run = mask.any(0)
    inside = jnp.clip(last, 0, T - 1)
    found = jnp.take_along_axis(ys, inside[None, :, None], axis=0)[0]  # (B, H)
    return jnp.where(any_run[:, None], found, h)


def previous(
    xs: Float[Array, "T B I"] | Int[Array, "T B"],
    first: Float[Array, "B I"] | Int[Array, " B"],
    mask: Bool[Array, "T B"] | None,
    resets: Bool[Array, "T B"] | None,
    *,
    reverse: bool,
    none: int = 0,
) -> tuple[Array, Array]:
    """The input before each step, in the order in which time runs, and the last input.

    Args:
        xs: the inputs, or the rows of a table that they are.
        first: the input before the first step that is run.
        mask: where False, a step is not run: its input is no step's previous one.
        resets: where True, a step has no input before it.
        reverse: whether time runs from the last step to the first.
        none: what stands for no input.
    """
    if not len(xs):
        return xs, first

    def where(condition: Array, one: Any, other: Array) -> Array:
        return jnp.where(condition.reshape(*condition.shape, *[1] * (xs.ndim - 2)), one, other)

    end = 0 if reverse else -1
    if mask is None:
        before = _moved(xs, first, later=reverse)
        last = xs[end]
    else:

        def step(x: Array, here: tuple[Array, Array]) -> tuple[Array, Array]:
            x_t, running = here  # (B, I) or (B,); (B,)
            return where(running, x_t, x), x

        last, before = lax.scan(step, first, (xs, mask), reverse=reverse)
    if resets is not None:
        before = where(resets, none, before)
    return before, last
