"""The recurrence as a `lax.scan`, for any cell and on any device.

Shapes: T time steps, B batch, H hidden size, G the number of gates of the cell.

The backward pass is written by hand (`_backward`), because autodiff of `lax.scan` adds up the
gradient of the recurrent weight step by step. Here the forward scan keeps each step's pull-back
(`jax.vjp` of the elementwise step: a function, and as such a pytree), the backward scan applies
them to get the gradients of the gates at every step, and one product over all T * B rows makes
the gradient of the weight:

    d weight_hh = sum_t  d h_gates[t].T @ h[t - 1]

It is the same for every cell: nothing in it knows which cell it runs. Where the cell only uses
the sum of its two halves of the gates, their gradients are one array, and it is kept once. A cell
without a product with h has no `weight_hh`: the bias alone is the recurrent half of its gates.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxrnn.recurrent.cells import Carry, Cell, Params
from jaxrnn.recurrent.handwritten import Arguments, HandWritten, Wanted, with_gates
from jaxrnn.recurrent.inputs import Inputs

UNROLLED = 1
"""Time steps laid out one after the other in a loop body: a loop this long has no overhead."""


def plain(cell: Cell, reverse: bool, inputs: Arguments) -> tuple[Carry, Array]:
    """`jaxrnn.recurrent.recurrence` with JAX's own derivatives, of any order and mode."""
    weight_hh, bias_hh, carry, x_gates, mask, params, resets, _ = with_gates(inputs)
    table, xs = _split(x_gates)

    def body(carry: Carry, x: Any) -> tuple[Carry, Array]:
        x_t, mask, reset = x  # (B, G * H) or (B,) tokens; (B,); (B,)
        carry = _reset(carry, mask, reset)
        h_gates = _recurrent(weight_hh, bias_hh, carry)  # (B, G * H)
        carry = _step(cell, mask, carry, _read(table, x_t), h_gates, params)
        return carry, _output(carry, mask)

    return _scan(body, carry, (xs, mask, resets), reverse)


def _forward(cell: Cell, reverse: bool, inputs: Arguments) -> tuple[tuple[Carry, Array], Any]:
    weight_hh, bias_hh, carry, x_gates, mask, params, resets, _ = inputs
    table, xs = _split(x_gates)

    def body(carry: Carry, x: Any) -> tuple[Carry, Any]:
        x_t, mask, reset = x
        carry = _reset(carry, mask, reset)
        # The product stays outside the pull-back: its gradients are made for all steps at once.
        h_gates = _recurrent(weight_hh, bias_hh, carry)  # (B, G * H)
        step = partial(_step, cell, mask)
        after, pull = jax.vjp(step, carry, _read(table, x_t), h_gates, params)
        # A pull-back is a pytree of what the step keeps.
        leaves, tree = jax.tree.flatten(pull)
        structure[:] = [tree]
        return after, (_output(after, mask), carry.h, leaves)

    structure: list[Any] = []
    # (T, B, H) each, and the leaves of the pull-backs, stacked over time.
    last, (ys, hs_before, pulls) = _scan(body, carry, (xs, mask, resets), reverse)
    return (last, ys), (hs_before, pulls, Partial(structure[0].unflatten))


def _backward(
    cell: Cell,
    reverse: bool,
    wanted: Wanted,
    inputs: Arguments,
    residuals: Any,
    gradients: tuple[Carry, Array],
) -> Arguments:
    weight_hh, _, _, x_gates, mask, params, resets, _ = inputs
    hs_before, pulls, pull_back_of = residuals
    d_last, d_ys = gradients

    def body(d_state: tuple[Carry, Any], x: Any) -> tuple[tuple[Carry, Any], Any]:
        d_carry, d_params = d_state
        leaves, d_y, mask, reset = x
        # The output of a step that is not run is zero, whatever the carry.
        d_h = d_carry.h + (d_y if mask is None else jnp.where(mask[:, None], d_y, 0))
        d_before, d_x_gates, d_h_gates, d_here = pull_back_of(leaves)(d_carry._replace(h=d_h))
        if weight_hh is not None:
            # `h` before the step also went through the product: (B, G * H) -> (B, H).
            d_before = d_before._replace(h=d_before.h + d_h_gates @ weight_hh)
        # The carry before a step that starts anew has no part in it.
        d_before = _reset(d_before, mask, reset)
        d_params = jax.tree.map(jnp.add, d_params, d_here)
        # One tracer for both: the cell uses only their sum, and one array of gradients will do.
        d_gates = (None if d_x_gates is d_h_gates else d_x_gates, d_h_gates)
        return (d_before, d_params), d_gates

    d_state = (d_last, jax.tree.map(jnp.zeros_like, params))
    (d_carry, d_params), (d_x_gates, d_h_gates) = _scan(
        body, d_state, (pulls, d_ys, mask, resets), not reverse
    )
    d_values = d_h_gates if d_x_gates is None else d_x_gates
    d_weight_hh = None
    if weight_hh is not None:
        # One product over all T * B rows instead of T products that are added up.
        d_weight_hh = jnp.einsum("tbg,tbh->gh", d_h_gates, hs_before)
    if x_gates.tokens is not None:
        d_values = _gather_transposed(len(x_gates.values), x_gates.tokens, d_values)
    d_bias = d_h_gates.sum((0, 1))
    # Tokens, mask and resets have no gradient.
    return Arguments(d_weight_hh, d_bias, d_carry, Inputs(d_values), None, d_params, None)


scanned = HandWritten(plain, _forward, _backward, plain)
"""`jaxrnn.recurrent.recurrence.recurrence` without a projection, for any cell and on any device."""


def _split(x_gates: Inputs) -> tuple[Array | None, Array]:
    """The table, if any, and what the loop over time goes through."""
    if x_gates.tokens is None:
        return None, x_gates.values
    return x_gates.values, x_gates.tokens


def _read(table: Array | None, x_t: Array) -> Float[Array, "B GH"]:
    # Tokens are checked where they come in, so that no step has to look.
    if table is None:
        return x_t
    rows = table.at[x_t].get(mode="promise_in_bounds")  # (B, G * H), or (B, K, G * H)
    return rows if x_t.ndim == 1 else rows.sum(axis=1)


def _gather_transposed(rows: int, tokens: Array, gradients: Array) -> Float[Array, "V GH"]:
    """For each row of the table, the sum of the gradients where it was looked up: a product."""
    if tokens.ndim == 2:
        tokens = tokens[..., None]
    # How many times each place reads each row, (V, T, B).
    where = (jnp.arange(rows)[:, None, None, None] == tokens).sum(axis=-1)
    # A scatter would add rows one by one; for a small table the product is faster. It adds over
    # time and batch without merging them: a batch may lie on several devices.
    return jnp.einsum("vtb,tbg->vg", where.astype(gradients.dtype), gradients)


def _reset(carry: Carry, mask: Array | None, reset: Array | None) -> Carry:
    """Zeros in the rows that start anew before a step; where it is not run, nothing changes."""
    if reset is None:
        return carry
    zeroed = reset if mask is None else reset & mask  # (B,)
    return jax.tree.map(lambda field: jnp.where(zeroed[:, None], 0, field), carry)


def _recurrent(weight_hh: Array | None, bias_hh: Array, carry: Carry) -> Float[Array, "B GH"]:
    if weight_hh is None:
        return jnp.broadcast_to(bias_hh, (carry.h.shape[0], len(bias_hh)))
    return carry.h @ weight_hh.T + bias_hh


def _step(
    cell: Cell,
    mask: Array | None,
    carry: Carry,
    x_gates: Array,
    h_gates: Array,
    params: Params | None,
) -> Carry:
    after = cell.step(carry, x_gates, h_gates, **(params or {}))
    if mask is None:
        return after
    return jax.tree.map(lambda new, old: jnp.where(mask[:, None], new, old), after, carry)


def _output(carry: Carry, mask: Array | None) -> Float[Array, "B H"]:
    return carry.h if mask is None else jnp.where(mask[:, None], carry.h, 0)


def _scan(body: Any, carry: Carry, xs: Any, reverse: bool) -> Any:
    return lax.scan(body, carry, xs, reverse=reverse, unroll=UNROLLED)
