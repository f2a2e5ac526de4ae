"""Where in a recurrent stack does a difference start, and what is it?

Shapes: T time steps, B batch, I input size, H hidden size.

The search goes with the data: each layer and direction by itself, fed with PyTorch's numbers,
first step by step, then over time; then what lies between the layers; then the same backwards
over the gradients. The first that differs is the place. Known faults are tried there, and the one
that gives the same numbers is the cause.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from parity.core.compare import MEANING_LIMIT, Diagnosis, relative_l2
from parity.diagnosis.causes import (
    cause_between,
    cause_in_carry,
    cause_in_cell,
    cause_in_gradient,
    cause_in_loop,
)
from parity.diagnosis.jax_stacks import JaxStack
from parity.diagnosis.stacks import (
    NAMES,
    Case,
    Part,
    Ran,
    joined,
    part_names,
    reference,
    run_part,
    single_steps,
    stack_gradients,
)

Grid = dict[str, dict[str, float]]
"""Errors by row and column, such as layer and time step."""

SATURATED = 40.0
"""Added to a gate's bias it leaves nothing of the gate but 0 or 1, or -1 or 1."""


def layer_words(name: str) -> str:
    """ "l1_reverse" as "layer 1 reverse"."""
    return name.replace("l", "layer ", 1).replace("_", " ")


def differs(got: np.ndarray, expected: np.ndarray, check: str = "forward") -> bool:
    """Whether two arrays differ by more than round-off, or in precision."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return True
    return not relative_l2(got, expected) <= MEANING_LIMIT[check]


def localize(case: Case) -> Diagnosis | None:
    """Place and cause of the first difference; None if there is none."""
    stack, right = JaxStack(case), reference(case)
    searches: tuple[Callable[[], Iterator[Diagnosis]], ...] = (
        lambda: _forward(case, stack, right),
        lambda: _between(case, stack, right),
        lambda: _backward(case, stack, right),
        lambda: _between_backwards(case, stack),
    )
    return next((found for search in searches for found in search()), None)


Right = Mapping[str, tuple[Part, Ran]]


def _forward(case: Case, stack: JaxStack, right: Right) -> Iterator[Diagnosis]:
    """Differences within layers and directions, each with the reference's input."""
    for name, (part, ran) in right.items():
        alone, times = single_steps(part, ran)
        got, expected = stack.part(name, alone), run_part(alone)
        wrong = list(_wrong_steps(case, got, expected, times))
        if wrong:
            t, field = min(wrong)
            gates = faulty_gates(case, stack, name, alone)
            place = f"{layer_words(name)}, {field} at step {t}{_gate_words(gates)}"
            yield Diagnosis(place, cause_in_cell(case, name, alone, got, expected))
            continue
        together = stack.part(name, part)
        steps = range(len(part.xs))[:: -1 if part.reverse else 1]
        late = [t for t in steps if differs(together.ys[t], ran.ys[t])]
        if late or any(map(differs, together.last, ran.last)):
            where = f"step {late[0]}" if late else "the last carry"
            place = f"{layer_words(name)}, loop over time, from {where}"
            yield Diagnosis(place, cause_in_loop(part, together))


def _wrong_steps(
    case: Case, got: Ran, expected: Ran, times: np.ndarray
) -> Iterator[tuple[int, str]]:
    """The time steps and fields that differ when every step is run by itself."""
    fields = [*case.stack.cell.carry._fields, "output"]
    pairs = zip((*got.last, got.ys[0]), (*expected.last, expected.ys[0]), strict=True)
    for field, (a, b) in zip(fields, pairs, strict=True):
        for t in np.unique(times):
            if differs(a[times == t], b[times == t]):
                yield int(t), field


def faulty_gates(case: Case, stack: JaxStack, name: str, alone: Part) -> tuple[str, ...]:
    """The fewest gates that hide the difference when they are saturated; none if none do."""
    gates, hidden_size = case.stack.cell.gates, case.stack.hidden_size
    for count in range(1, len(gates) + 1 if len(gates) > 1 else 1):
        for chosen in combinations(range(len(gates)), count):
            rows = np.isin(np.arange(len(gates) * hidden_size) // hidden_size, chosen)
            if all(_agrees(stack, name, alone, sign * SATURATED * rows) for sign in (-1, 1)):
                return tuple(gates[k] for k in chosen)
    return ()


def _agrees(stack: JaxStack, name: str, alone: Part, added: np.ndarray) -> bool:
    """Whether single steps agree when something is added to the input bias."""
    part = alone._replace(w=alone.w._replace(b_ih=alone.w.b_ih + added))
    got, expected = stack.part(name, part), run_part(part)
    return not any(map(differs, (*got.last, got.ys), (*expected.last, expected.ys)))


def _gate_words(gates: tuple[str, ...]) -> str:
    return f", gate{'s' if len(gates) > 1 else ''} {', '.join(gates)}" if gates else ""


def _between(case: Case, stack: JaxStack, right: Right) -> Iterator[Diagnosis]:
    """Differences in what the stack hands to its layers, and in what it gives back."""
    free, ys, _ = stack.free(case)
    names = part_names(case.stack)
    directions = 2 if case.stack.bidirectional else 1
    for k, name in enumerate(names):
        part, layer = right[name][0], k // directions
        if any(map(differs, free[name][0].carry, part.carry)):
            place = f"the carry handed to {layer_words(name)}"
            yield Diagnosis(place, cause_in_carry(case, k, free[name][0].carry))
        if differs(free[name][0].xs, part.xs):
            below = [right[n][1].ys for n in names[max(0, (layer - 1) * directions) :][:directions]]
            place = f"between layer {layer - 1} and layer {layer}" if layer else "the input"
            yield Diagnosis(place, cause_between(case, below, layer - 1, free[name][0].xs))
    last = [right[n][1].ys for n in names[-directions:]]
    if differs(ys, joined(last)):
        yield Diagnosis("after the last layer", cause_between(case, last, None, ys))


def _backward(case: Case, stack: JaxStack, right: Right) -> Iterator[Diagnosis]:
    """Differences of gradients within layers and directions, from the last one on."""
    for name, (part, ran) in reversed(list(right.items())):
        got = stack.part(name, part).gradients
        wrong = [n for n in ran.gradients if differs(got[n], ran.gradients[n], "gradients")]
        if not wrong:
            continue
        rows = _gate_grid(case, got, ran.gradients)
        limit = MEANING_LIMIT["gradients"]
        gates = [g for g in case.stack.cell.gates if any(r[g] > limit for r in rows.values())]
        shown = gates if set(wrong) & set(NAMES) and len(case.stack.cell.gates) > 1 else []
        place = f"the backward pass of {layer_words(name)}, gradient of {', '.join(wrong)}"
        place += _gate_words(tuple(shown)) + _late(part, got, ran)
        first = next((n for n in ("weight_hh", "bias_hh") if n in wrong), wrong[0])
        causes = {n: cause_in_gradient(part, got[n], ran.gradients[n]) for n in wrong}
        yield Diagnosis(place, causes[first] or next(filter(None, causes.values()), ""))


def _late(part: Part, got: Mapping[str, np.ndarray], ran: Ran) -> str:
    """The step from which the gradient of the inputs differs, on the way back."""
    steps = range(len(part.xs))[:: 1 if part.reverse else -1]
    bad = [t for t in steps if differs(got["xs"][t], ran.gradients["xs"][t], "gradients")]
    return f", from step {bad[0]} backwards" if bad else ""


def _gate_grid(
    case: Case, got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> Grid:
    """Errors of the gradients of one layer by weight and gate."""
    gates = case.stack.cell.gates
    return {
        name: {
            gate: relative_l2(a, b)
            for gate, a, b in zip(
                gates,
                np.split(got[name], len(gates)),
                np.split(expected[name], len(gates)),
                strict=True,
            )
        }
        for name in NAMES
    }


def _between_backwards(case: Case, stack: JaxStack) -> Iterator[Diagnosis]:
    """Differences of the whole stack's gradients, where every layer by itself is right."""
    case = replace(case, lengths=None, masks=())
    got, expected = stack.free(case)[2], stack_gradients(case)
    for name in reversed(part_names(case.stack)):
        key = f"weight_hh_{name}"
        if differs(got[key], expected[key], "gradients"):
            layer = int(name.split("_")[0][1:])
            part = reference(case)[name][0]
            place = f"the backward pass between layer {layer + 1} and layer {layer}"
            yield Diagnosis(place, cause_in_gradient(part, got[key], expected[key]))


def grids(case: Case) -> dict[str, Grid]:
    """Heat maps of a stack: layer x time, free and step by step, and layer x gate backwards."""
    stack, right = JaxStack(case), reference(case)
    free, _, _ = stack.free(case)
    running: Grid = {}
    clamped: Grid = {}
    backward: Grid = {}
    for name, (part, ran) in right.items():
        row = layer_words(name)
        pairs = zip(free[name][1].ys, ran.ys, strict=True)
        running[row] = {str(t): relative_l2(a, b) for t, (a, b) in enumerate(pairs)}
        alone, times = single_steps(part, ran)
        got, expected = stack.part(name, alone), run_part(alone)
        for field, a, b in zip(case.stack.cell.carry._fields, got.last, expected.last, strict=True):
            clamped[f"{row}, {field}"] = {
                str(t): relative_l2(a[times == t], b[times == t]) for t in np.unique(times)
            }
        gradients = stack.part(name, part).gradients
        errors = _gate_grid(case, gradients, ran.gradients)
        backward |= {f"{row}, {kind}": by_gate for kind, by_gate in errors.items()}
    return {
        "layer x time step, running freely": running,
        "layer x time step, each step with PyTorch's input": clamped,
        "layer x gate, gradients with PyTorch's input": backward,
    }
