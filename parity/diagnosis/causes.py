"""Known deviations of recurrent stacks: each is tried, and the one with the same numbers named.

Shapes: T time steps, B batch, I input size, H hidden size, D directions.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import AnyCell, Cell
from parity.core.compare import MEANING_LIMIT, relative_l2
from parity.diagnosis.identify import layer_weights, match
from parity.diagnosis.stacks import (
    Fields,
    Part,
    PartResults,
    StackCase,
    dropped,
    joined,
    layer_words,
    parts_of,
    run_part,
)

# A smaller error than this is no other equation, but float32 somewhere.
ROUNDED = 1e-6

# What it would be, in words, and the numbers that this would give.
Candidates = Iterable[tuple[str, np.ndarray]]


class Diagnosis(NamedTuple):
    """What a difference was traced to.

    Attributes:
        place: where it starts, such as "layer 1 reverse, c at step 0, gate f".
        cause: the known deviation that gives the same numbers; empty if none does.
    """

    place: str
    cause: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.cause or 'no known cause fits'}"


def fitting(candidates: Candidates, got: np.ndarray, quantity: str = "forward") -> str:
    """The words of the first candidate that is `got` but for round-off; empty if none is."""
    for words, array in candidates:
        if array.shape == got.shape and relative_l2(got, array) <= MEANING_LIMIT[quantity]:
            return words
    return ""


def cause_in_cell(
    case: StackCase, name: str, steps: Part, got: PartResults, expected: PartResults
) -> str:
    """Why single steps differ.

    Args:
        case: the case.
        name: the layer and direction.
        steps: its steps, each by itself.
        got: what JAX computes from them.
        expected: what PyTorch does.
    """
    if got.ys.dtype != expected.ys.dtype:
        return f"the output is {got.ys.dtype}"
    # The most telling explanation first: another equation, then another weight.
    words = match(steps.cell, steps.weights, steps.xs, steps.carry, got.ys)
    words = words or fitting(_other_weights(case, name, steps), got.ys)
    if not words and relative_l2(got.ys, expected.ys) < ROUNDED:
        return "values are rounded to float32 on the way"
    return words


def _other_weights(case: StackCase, name: str, steps: Part) -> Iterator[tuple[str, np.ndarray]]:
    # The steps with a weight of another layer or direction.
    for other in parts_of(case.stack):
        if other == name:
            continue
        for kind, weight in layer_weights(case.weights, other).items():
            if weight.shape == steps.weights[kind].shape:
                weights = {**steps.weights, kind: weight}
                ys = run_part(steps._replace(weights=weights)).ys
                yield f"its {kind} is that of {layer_words(other)}", ys


def cause_in_loop(part: Part, got: PartResults) -> str:
    """Why the loop over time differs although every single step is right."""
    if got.ys.dtype != part.xs.dtype:
        return f"the output is {got.ys.dtype}"
    return fitting(_loops(part), got.ys)


def _loops(part: Part) -> Iterator[tuple[str, np.ndarray]]:
    # What the loop computes with the bugs that loops have.
    other_way = part._replace(reverse=not part.reverse)
    yield "time runs in the wrong direction", run_part(other_way).ys
    yield "the outputs are not turned back", run_part(part).ys[::-1]
    yield "the carry is not handed on from step to step", _restarted(part)
    if part.mask is not None:
        longer = part.mask | np.roll(part.mask, 1, axis=0)
        yield "the lengths are ignored", run_part(part._replace(mask=None)).ys
        yield "one step too many of each sequence counts", run_part(part._replace(mask=longer)).ys
    for t in range(len(part.xs)):
        mask = part.counted
        mask[t] = False  # a step that does not count leaves the carry as it is
        yield f"step {t} is left out", run_part(part._replace(mask=mask)).ys


def _restarted(part: Part) -> np.ndarray:
    # Every step from the first carry.
    steps, batch_size, width = part.xs.shape
    alone = part._replace(
        xs=part.xs.reshape(1, -1, width),  # (T, B, I) to (1, T * B, I)
        carry=part.carry._make(np.tile(field, (steps, 1)) for field in part.carry),  # (T * B, H)
        mask=None,
    )
    return run_part(alone).ys.reshape(steps, batch_size, -1)  # (T, B, H)


def cause_in_carry(case: StackCase, k: int, got: Fields) -> str:
    """Why layer and direction k got another carry."""
    numbers = _side_by_side(got)
    if not np.any(numbers):
        return "it is zero"
    opposite = _side_by_side(case.carry[::-1][k])
    candidates = [("the carries are read in the opposite order", opposite)]
    if len(got) > 1:
        candidates.append(("its fields are exchanged", _side_by_side(case.carry[k][::-1])))
    for j, other in enumerate(case.carry):
        candidates.append((f"it is the carry of layer and direction {j}", _side_by_side(other)))
    return fitting(candidates, numbers)


def _side_by_side(fields: Sequence[np.ndarray]) -> np.ndarray:
    # The fields of a carry in one array, whatever their widths: (B, H) each to (B, ...).
    return np.concatenate(fields, axis=-1)


def cause_between(
    case: StackCase, outputs: Sequence[np.ndarray], below: int | None, got: np.ndarray
) -> str:
    """Why the outputs of a layer arrive as something else.

    Args:
        case: the case.
        outputs: what the directions of the layer gave.
        below: the layer's number; None of the last one, whose outputs are the stack's.
        got: what arrived.
    """
    ys = joined(outputs)  # (T, B, D * H)
    rate = case.stack.dropout
    candidates = []
    if len(outputs) > 1:
        candidates.append(("the outputs of the directions are exchanged", joined(outputs[::-1])))
    if below is None:
        for k, mask in enumerate(case.masks):
            words = f"dropout acts after the last layer too, with the mask of layer {k}"
            candidates.append((words, dropped(ys, mask, rate)))
    elif case.masks:
        right = case.masks[below]
        candidates += [
            ("there is no dropout", ys),
            ("dropout does not rescale what it leaves", np.where(right, ys, 0)),
            ("dropout drops what should stay", dropped(ys, ~right, rate)),
        ]
        for k, mask in enumerate(case.masks):
            candidates.append((f"the mask is that of layer {k}", dropped(ys, mask, rate)))
    if ys.shape == got.shape:
        factor = factor_between(got, ys)
        candidates.append((f"they are {factor:.3g} times what they should be", factor * ys))
    return fitting(candidates, got)


def factor_between(got: np.ndarray, expected: np.ndarray) -> float:
    """The number that `expected` times it is nearest to `got`, in the Euclidean norm."""
    return float(np.vdot(expected, got) / np.vdot(expected, expected))


def cause_in_gradient(part: Part, name: str, got: np.ndarray, expected: np.ndarray) -> str:
    """Why a gradient differs, from the array alone.

    Args:
        part: the layer and direction.
        name: what it is the gradient of: a weight, "xs", or a field of the carry.
        got: JAX's.
        expected: PyTorch's.
    """
    if not np.any(got):
        return "it is zero: nothing flows back"
    candidates = []
    if expected.ndim == 2 and len(expected) % expected.shape[-1] == 0:
        squares = np.split(expected, len(expected) // expected.shape[-1])  # (H, H) a gate
        turned = np.concatenate([square.T for square in squares])
        candidates.append(("it is transposed", turned))
    candidates.append(("its sign is wrong", -expected))
    gates = gates_of(part, name, expected)
    candidates += _without_a_gate(gates, expected)
    if name == "xs":
        candidates += _without_a_step(expected)
    words = fitting(candidates, got, "gradients")
    return words or _scaled(part, gates, got, expected)


def gate_names(cell: AnyCell) -> Sequence[str]:
    """The gates whose rows lie one above the other; one for all rows of a free cell."""
    return cell.gates if isinstance(cell, Cell) else ("all",)


def gates_of(part: Part, name: str, array: np.ndarray) -> Sequence[str]:
    """The gates whose rows lie one above the other in an array of a layer; one for all if none do.

    Inputs, carries and vectors of (H,) have none, though their first axis may divide by as many.
    """
    gates = gate_names(CELLS[part.cell])
    hidden_size = part.carry[0].shape[-1]
    if name in part.weights and len(array) == len(gates) * hidden_size:
        return gates
    return ("all",)


def _without_a_gate(gates: Sequence[str], expected: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    # The gradient without the rows of one gate.
    if len(gates) == 1:
        return
    for k, gate in enumerate(gates):
        blocks = np.split(expected, len(gates))
        blocks[k] = np.zeros_like(blocks[k])
        yield f"nothing flows back through gate {gate}", np.concatenate(blocks)


def _without_a_step(expected: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    # The gradient of the inputs, (T, B, I), without one step.
    for t in range(len(expected)):
        without = expected.copy()
        without[t] = 0
        yield f"nothing flows back at step {t}", without


def _scaled(part: Part, gates: Sequence[str], got: np.ndarray, expected: np.ndarray) -> str:
    # A constant factor, in all gates or in some, and what it is if that is known.
    # Does one factor a gate explain the difference?
    factors = []
    scaled = []
    blocks = zip(np.split(got, len(gates)), np.split(expected, len(gates)), strict=True)
    for got_block, block in blocks:
        factors.append(factor_between(got_block, block))
        scaled.append(factors[-1] * block)
    if not relative_l2(got, np.concatenate(scaled)) <= MEANING_LIMIT["gradients"]:
        return ""

    # If so, of which gates, and is it one that averaging explains?
    steps, batch_size = part.xs.shape[:2]
    off = {g: f for g, f in zip(gates, factors, strict=True) if abs(f - 1) > 1e-9}
    first = next(iter(off.values()), 1.0)
    words = f"it is {first:.3g} times what it should be"
    if len(off) < len(gates):
        words += f" in gate {', '.join(off)}"
    if abs(first - 1 / batch_size) < 1e-9:
        words += " (averaged over the batch)"
    elif abs(first - 1 / steps) < 1e-9:
        words += " (averaged over time)"
    return words
