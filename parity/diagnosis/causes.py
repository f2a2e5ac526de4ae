"""Known faults of recurrent stacks: each is tried, and the one that gives the same numbers named.

Shapes: T time steps, B batch, I input size, H hidden size.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from parity.core.compare import MEANING_LIMIT, relative_l2
from parity.diagnosis.identify import layer_weights, match
from parity.diagnosis.stacks import Case, Fields, Part, Ran, dropped, joined, part_names, run_part

ROUNDED = 1e-6
"""A smaller error than this is no other equation, but float32 somewhere."""

Candidates = Iterable[tuple[str, np.ndarray]]


def fitting(candidates: Candidates, got: np.ndarray, check: str = "forward") -> str:
    """The words of the first candidate that is `got` but for round-off; empty if none is."""
    for words, array in candidates:
        if array.shape == got.shape and relative_l2(got, array) <= MEANING_LIMIT[check]:
            return words
    return ""


def cause_in_cell(case: Case, name: str, alone: Part, got: Ran, expected: Ran) -> str:
    """Why single steps differ."""
    if got.ys.dtype != expected.ys.dtype:
        return f"the output is {got.ys.dtype}"
    words = match(alone.cell, alone.w, alone.xs, alone.carry, got.ys)
    if words:
        return words
    words = fitting(_other_weights(case, name, alone), got.ys)
    if words:
        return words
    small = relative_l2(got.ys, expected.ys) < ROUNDED
    return "values are rounded to float32 on the way" if small else ""


def _other_weights(case: Case, name: str, alone: Part) -> Iterator[tuple[str, np.ndarray]]:
    """The step with a weight of another layer or direction."""
    for other in part_names(case.stack):
        theirs = layer_weights(case.weights, f"_{other}")
        for kind, mine, weight in zip(alone.w._fields, alone.w, theirs, strict=True):
            if other != name and mine.shape == weight.shape:
                w = alone.w._replace(**{kind: weight})
                layer = other.replace("l", "layer ", 1).replace("_", " ")
                yield f"its weight_{kind} is that of {layer}", run_part(alone._replace(w=w)).ys


def cause_in_loop(part: Part, got: Ran) -> str:
    """Why the loop over time differs although every single step is right."""
    if got.ys.dtype != part.xs.dtype:
        return f"the output is {got.ys.dtype}"
    return fitting(_loops(part), got.ys)


def _loops(part: Part) -> Iterator[tuple[str, np.ndarray]]:
    ran = run_part(part)
    wrong_way = run_part(part._replace(reverse=not part.reverse))
    yield "time runs in the wrong direction", wrong_way.ys
    yield "the outputs are not turned back", ran.ys[::-1]
    yield "the carry is not handed on from step to step", _restarted(part)
    if part.mask is not None:
        longer = part.mask | np.roll(part.mask, 1, axis=0)
        yield "the lengths are ignored", run_part(part._replace(mask=None)).ys
        yield "one step too many of each sequence counts", run_part(part._replace(mask=longer)).ys
    for t in range(len(part.xs)):
        yield f"step {t} is left out", _without(part, t)


def _restarted(part: Part) -> np.ndarray:
    """Every step from the first carry."""
    steps, batch_size, width = part.xs.shape
    carry = tuple(np.tile(field, (steps, 1)) for field in part.carry)
    alone = part._replace(xs=part.xs.reshape(1, -1, width), carry=carry, mask=None)
    return run_part(alone).ys.reshape(steps, batch_size, -1)


def _without(part: Part, t: int) -> np.ndarray:
    """Step t leaves the carry as it is."""
    mask = np.ones(part.xs.shape[:2], bool) if part.mask is None else part.mask.copy()
    mask[t] = False
    return run_part(part._replace(mask=mask)).ys


def cause_in_carry(case: Case, k: int, got: Fields) -> str:
    """Why layer and direction k got another carry."""
    stacked = np.stack(got)
    candidates = [
        ("the carries are read in the opposite order", np.stack(case.carry[::-1][k])),
        ("its fields are exchanged", stacked[::-1] if len(got) > 1 else np.empty(0)),
    ]
    candidates += [
        (f"it is the carry of layer and direction {j}", np.stack(other))
        for j, other in enumerate(case.carry)
    ]
    if not np.any(stacked):
        return "it is zero"
    return fitting(candidates, stacked)


def cause_between(
    case: Case, outputs: Sequence[np.ndarray], below: int | None, got: np.ndarray
) -> str:
    """Why the outputs of a layer arrive as something else.

    Args:
        case: the case.
        outputs: what the directions of the layer gave.
        below: the layer's number; None of the last one, whose outputs are the stack's.
        got: what arrived.
    """
    ys, rate = joined(list(outputs)), case.stack.dropout
    candidates = [("the outputs of the directions are exchanged", joined(list(outputs[::-1])))]
    for k, mask in enumerate(case.masks):
        if below is None:
            words = f"dropout acts after the last layer too, with the mask of layer {k}"
            candidates.append((words, dropped(ys, mask, rate)))
            continue
        candidates += [
            ("there is no dropout", ys),
            ("dropout does not rescale what is kept", np.where(case.masks[below], ys, 0)),
            ("dropout drops what should stay", dropped(ys, ~case.masks[below], rate)),
            (f"the mask is that of layer {k}", dropped(ys, mask, rate)),
        ]
    factor = float(np.vdot(ys, got) / np.vdot(ys, ys)) if ys.shape == got.shape else 0.0
    candidates.append((f"they are {factor:.3g} times what they should be", factor * ys))
    return fitting(candidates, got)


def cause_in_gradient(part: Part, got: np.ndarray, expected: np.ndarray) -> str:
    """Why a gradient differs, from the array alone."""
    if not np.any(got):
        return "it is zero: nothing flows back"
    blocks = len(expected) // expected.shape[-1] if expected.ndim == 2 else 0
    candidates = []
    if blocks and len(expected) == blocks * expected.shape[-1]:
        turned = [block.T for block in np.split(expected, blocks)]
        candidates.append(("it is transposed", np.concatenate(turned)))
    candidates += [("its sign is wrong", -expected), *_restricted(part, expected)]
    words = fitting(candidates, got, "gradients")
    return words or _scaled(part, got, expected)


def _restricted(part: Part, expected: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The gradient without the rows of one gate."""
    count = {"gru": 3, "lstm": 4}.get(part.cell, 1)
    if count == 1 or len(expected) % count or expected.ndim > 2:
        return
    for k, gate in enumerate({3: "rzn", 4: "ifgo"}[count]):
        blocks = np.split(np.array(expected), count)
        blocks[k] = np.zeros_like(blocks[k])
        yield f"nothing flows back through gate {gate}", np.concatenate(blocks)


def _scaled(part: Part, got: np.ndarray, expected: np.ndarray) -> str:
    """A constant factor, in all gates or in some, and what it is if that is known."""
    count = {"gru": 3, "lstm": 4}.get(part.cell, 1)
    gates = {3: "rzn", 4: "ifgo"}.get(count, "h")
    if len(expected) % count:
        return ""
    pairs = zip(np.split(got, count), np.split(expected, count), strict=True)
    factors = [float(np.vdot(b, a) / np.vdot(b, b)) for a, b in pairs]
    scaled = np.concatenate(
        [f * b for f, b in zip(factors, np.split(expected, count), strict=True)]
    )
    if not relative_l2(got, scaled) <= MEANING_LIMIT["gradients"]:
        return ""
    steps, batch_size = part.xs.shape[:2]
    known = {1 / batch_size: " (averaged over the batch)", 1 / steps: " (averaged over time)"}
    off = {g: f for g, f in zip(gates, factors, strict=True) if abs(f - 1) > 1e-9}
    first = next(iter(off.values()), 1.0)
    reason = next((why for value, why in known.items() if abs(first - value) < 1e-9), "")
    where = "" if len(off) == count else f" in gate {', '.join(off)}"
    return f"it is {first:.3g} times what it should be{where}{reason}"
