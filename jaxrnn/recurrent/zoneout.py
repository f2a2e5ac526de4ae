"""Zoneout: while a model trains, units keep their state from step to step at random.

Shapes: T time steps, B batch, H hidden size, G the number of gates of the cell, F fields of its
carry.

    c' = c  with probability z,  else the c' of the cell;      likewise h'

Where nothing is random, in evaluation and generation, the state is the expectation, z * c +
(1 - z) * c'. Krueger et al. 2017, https://arxiv.org/abs/1606.01305; for a QRNN, Bradbury et al.
2017, section 2.1, https://arxiv.org/abs/1611.01576.

Both are cells, so they run on every backend. That of training has one gate more, without weights:
which fields of the carry keep their value at a step, as the sum of 2^i over those fields i.
"""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxrnn.checks import check_share
from jaxrnn.recurrent.cells import LSTM, Carry, Cell, Zoneout
from jaxrnn.recurrent.linear import LinearCell
from jaxrnn.recurrent.linear_cells import QRNN

_Kind = TypeVar("_Kind", bound=Cell)

CELLS_REMEMBERED = 256
"""Number of cells with zoneout that are the same object when they are made again."""


def zoneout(cell: _Kind, *, name: str | None = None, **rates: float) -> _Kind:
    """The cell with zoneout.

        zoneout(LSTM, c=0.5, h=0.05)

    Args:
        cell: a `Cell` or a `LinearCell`.
        name: the new cell's name; "zoneout-" and that of the cell if None.
        rates: for fields of the carry, the probability to keep a unit's value, in [0, 1). The paper
            takes 0.5 for c and 0.05 for h of an LSTM on characters. A linear cell keeps its state
            alone: the last field.

    Raises:
        ValueError: if it is no such cell or has zoneout already, a field is unknown, or a rate is
            outside [0, 1).
    """
    if not isinstance(cell, Cell):
        kind = getattr(cell, "name", repr(cell)[:60])
        raise ValueError(f"zoneout is for a jaxrnn.Cell or LinearCell; {kind} is none.")
    if cell.zoneout is not None:
        raise ValueError(f"The cell {cell.name!r} has zoneout already.")
    fields = cell.carry._fields
    allowed = fields[-1:] if isinstance(cell, LinearCell) else fields
    if not rates or not set(rates) <= set(allowed):
        raise ValueError(
            f"zoneout of the cell {cell.name!r} takes a rate for at least one of "
            f"{', '.join(allowed)}; got {', '.join(rates) or 'none'}."
        )
    for field, rate in rates.items():
        check_share(**{f"The rate of {field}": rate})
    every_rate = tuple(float(rates.get(field, 0.0)) for field in fields)
    made: Any = _zoneout(cell, name or f"zoneout-{cell.name}", every_rate)
    zoned: _Kind = made
    return zoned


@lru_cache(maxsize=CELLS_REMEMBERED)
def _zoneout(cell: Cell, name: str, rates: tuple[float, ...]) -> Cell:
    """The cell of evaluation, with that of training; `rates` are those of all fields."""
    training_gates = (*cell.gates, "kept")
    changes: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    if isinstance(cell, LinearCell):
        changes["coefficients"] = partial(_kept_coefficients, cell)
        if cell.carry._fields != ("h",):  # otherwise the output is the state
            changes["output"] = partial(_kept_output, cell)
        expected["coefficients"] = partial(_expected_coefficients, cell, rates[-1])
    else:
        changes["step"] = partial(_kept_step, cell)
        expected["step"] = partial(_expected_step, cell, rates)
        if cell.recurrent_gates == cell.gates:
            changes["recurrent_gates"] = training_gates
    training = replace(cell, name=f"{name} in training", gates=training_gates, **changes)
    return replace(cell, name=name, zoneout=Zoneout(training, rates), **expected)


def kept_code(kept: Bool[Array, "F T B H"], dtype: DTypeLike) -> Float[Array, "T B H"]:
    """The gate of training: the sum of 2^i over the fields i that keep their value."""
    code = jnp.zeros(kept.shape[1:], dtype)
    for i, field in enumerate(kept):
        code += jnp.where(field, jnp.asarray(2**i, dtype), 0)
    return code


def _kept_fields(code: Float[Array, "*B H"], count: int) -> list[Bool[Array, "*B H"]]:
    """Which of `count` fields keep their value."""
    masks = []
    for i in reversed(range(count)):
        mask = code >= 2**i
        code = jnp.where(mask, code - 2**i, code)
        masks.append(mask)
    return masks[::-1]


def _without_code(cell: Cell, gates: Float[Array, "*B GH"]) -> tuple[Array, Array]:
    """The gates of the cell itself, and the last one, of training."""
    hidden_size = gates.shape[-1] // (len(cell.gates) + 1)
    return gates[..., :-hidden_size], gates[..., -hidden_size:]


def _kept_step(cell: Cell, carry: Carry, x_gates: Array, h_gates: Array, **params: Array) -> Carry:
    x_gates, code = _without_code(cell, x_gates)
    h_gates, _ = _without_code(cell, h_gates)
    after = cell.step(carry, x_gates, h_gates, **params)
    masks = _kept_fields(code, len(carry))
    fields = zip(masks, carry, after, strict=True)
    return cell.carry(*(jnp.where(mask, old, new) for mask, old, new in fields))


def _expected_step(
    cell: Cell,
    rates: tuple[float, ...],
    carry: Carry,
    x_gates: Array,
    h_gates: Array,
    **params: Array,
) -> Carry:
    after = cell.step(carry, x_gates, h_gates, **params)
    fields = zip(rates, carry, after, strict=True)
    return cell.carry(*(rate * old + (1 - rate) * new for rate, old, new in fields))


def _kept_coefficients(cell: LinearCell, gates: Array, **params: Array) -> tuple[Array, Array]:
    gates, code = _without_code(cell, gates)
    a, b = cell.coefficients(gates, **params)
    # The state is the last field.
    kept = _kept_fields(code, len(cell.carry._fields))[-1]
    return jnp.where(kept, 1, a), jnp.where(kept, 0, b)


def _kept_output(cell: LinearCell, c: Array, gates: Array, **params: Array) -> Array:
    return cell.output(c, _without_code(cell, gates)[0], **params)


def _expected_coefficients(
    cell: LinearCell, rate: float, gates: Array, **params: Array
) -> tuple[Array, Array]:
    a, b = cell.coefficients(gates, **params)
    return rate + (1 - rate) * a, (1 - rate) * b


ZONEOUT_LSTM = zoneout(LSTM, c=0.5, h=0.05)
"""`LSTM` with zoneout at the rates that the paper takes for characters."""

ZONEOUT_QRNN = zoneout(QRNN, c=0.1)
"""`QRNN` with zoneout at the rate of its paper's language model."""

ZONEOUT_CELLS: tuple[Cell, ...] = (ZONEOUT_LSTM, ZONEOUT_QRNN)
"""The cells of this file."""
