"""Where in a recurrent stack does a difference start, and what is it?

Shapes: T time steps, B batch, I input size, H hidden size.

The search goes with the data: each layer and direction by itself, fed with PyTorch's numbers,
first step by step, then over time; then what lies between the layers; then the same backwards
over the gradients. The first that differs is the place. Known deviations are tried there, and the
one that gives the same numbers is the cause.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from parity.core.compare import MEANING_LIMIT, Arrays, relative_l2
from parity.core.pairs import directions
from parity.diagnosis.causes import (
    Diagnosis,
    cause_between,
    cause_in_carry,
    cause_in_cell,
    cause_in_gradient,
    cause_in_loop,
    gate_names,
    gates_of,
)
from parity.diagnosis.jax_stacks import JaxStack
from parity.diagnosis.stacks import (
    Part,
    PartResults,
    Parts,
    StackCase,
    joined,
    layer_words,
    parts_of,
    reference_parts,
    run_part,
    single_steps,
    stack_gradients,
)

# Errors by row and column, such as layer and time step.
Grid = dict[str, dict[str, float]]

# Added to a gate's bias it leaves nothing of the gate but 0 or 1, or -1 or 1.
SATURATED = 40.0


def differs(got: np.ndarray, expected: np.ndarray, quantity: str = "forward") -> bool:
    """Whether two arrays differ by more than round-off, or in precision."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return True
    return not relative_l2(got, expected) <= MEANING_LIMIT[quantity]


def differing(got: Arrays, expected: Arrays, quantity: str = "forward") -> list[str]:
    """The names of the arrays that differ by more than round-off, or in precision."""
    return [name for name in expected if differs(got[name], expected[name], quantity)]


def localize(case: StackCase) -> Diagnosis | None:
    """Place and cause of the first difference; None if there is none."""
    stack = JaxStack(case)
    parts = reference_parts(case)
    # Each search runs only if those before it find nothing.
    for search in (_forward, _between, _backward, _between_backwards):
        for found in search(case, stack, parts):
            return found
    return None


def _forward(case: StackCase, stack: JaxStack, parts: Parts) -> Iterator[Diagnosis]:
    # Differences within layers and directions, each with the reference's input.
    for name, (part, right) in parts.items():
        # Step by step, so that no difference can spread over time.
        steps, times = single_steps(part, right)
        got = stack.part(name, steps)
        expected = run_part(steps)
        wrong = list(_wrong_steps(got, expected, times))
        if wrong:
            t, field = min(wrong)
            gates = _gate_words(differing_gates(case, stack, name, steps))
            place = f"{layer_words(name)}, {field} at step {t}{gates}"
            yield Diagnosis(place, cause_in_cell(case, name, steps, got, expected))
            continue
        # All steps in a row: what differs only now is a matter of the loop.
        together = stack.part(name, part)
        late = [t for t in part.steps if differs(together.ys[t], right.ys[t])]
        if late or any(map(differs, together.last, right.last)):
            start = f"step {late[0]}" if late else "the last carry"
            place = f"{layer_words(name)}, loop over time, from {start}"
            yield Diagnosis(place, cause_in_loop(part, together))


def _wrong_steps(
    got: PartResults, expected: PartResults, times: np.ndarray
) -> Iterator[tuple[int, str]]:
    # The time steps and fields that differ when every step is run by itself.
    fields = (*got.last._fields, "output")
    results = (*got.last, got.ys[0])
    right = (*expected.last, expected.ys[0])
    for field, result, truth in zip(fields, results, right, strict=True):
        # Rows of one time step together, over the whole batch.
        for t in np.unique(times):
            rows = times == t
            if differs(result[rows], truth[rows]):
                yield int(t), field


def differing_gates(case: StackCase, stack: JaxStack, name: str, steps: Part) -> Sequence[str]:
    """The fewest gates that hide the difference when they are saturated; none if none do."""
    gates = gate_names(case.stack.cell)
    if len(gates) == 1:
        return ()
    rows = np.repeat(np.arange(len(gates)), case.stack.hidden_size)  # the gate of each row
    for count in range(1, len(gates) + 1):
        for chosen in combinations(range(len(gates)), count):
            added = SATURATED * np.isin(rows, chosen)
            # At both ends: at one of them a gate may be right by chance.
            if _agrees(stack, name, steps, added) and _agrees(stack, name, steps, -added):
                return tuple(gates[k] for k in chosen)
    return ()


def _agrees(stack: JaxStack, name: str, steps: Part, added: np.ndarray) -> bool:
    # Whether single steps agree when something is added to the input bias.
    weights = {**steps.weights, "bias_ih": steps.weights["bias_ih"] + added}
    part = steps._replace(weights=weights)
    got = stack.part(name, part)
    expected = run_part(part)
    return not any(map(differs, (*got.last, got.ys), (*expected.last, expected.ys)))


def _gate_words(gates: Sequence[str]) -> str:
    if not gates:
        return ""
    return f", gate{'s' if len(gates) > 1 else ''} {', '.join(gates)}"


def _between(case: StackCase, stack: JaxStack, parts: Parts) -> Iterator[Diagnosis]:
    # Differences in what the stack hands to its layers, and in what it gives back.
    free = stack.free(case)
    ways = directions(case.stack)
    outputs = [results.ys for _, results in parts.values()]
    for k, (name, (right, _)) in enumerate(parts.items()):
        got = free.parts[name][0]
        if any(map(differs, got.carry, right.carry)):
            place = f"the carry handed to {layer_words(name)}"
            yield Diagnosis(place, cause_in_carry(case, k, got.carry))
        if not differs(got.xs, right.xs):
            continue
        layer = k // ways
        if layer == 0:
            yield Diagnosis("the input")
        else:
            below = outputs[(layer - 1) * ways : layer * ways]
            place = f"between layer {layer - 1} and layer {layer}"
            yield Diagnosis(place, cause_between(case, below, layer - 1, got.xs))
    # The outputs of the last layer are the stack's.
    last = outputs[-ways:]
    if differs(free.ys, joined(last)):
        yield Diagnosis("after the last layer", cause_between(case, last, None, free.ys))


def _backward(case: StackCase, stack: JaxStack, parts: Parts) -> Iterator[Diagnosis]:
    # Differences of gradients within layers and directions, from the last one on.
    for name, (part, right) in reversed(list(parts.items())):
        got = stack.part(name, part).gradients
        wrong = differing(got, right.gradients, "gradients")
        if not wrong:
            continue
        place = f"the backward pass of {layer_words(name)}, gradient of {', '.join(wrong)}"
        if set(wrong) & set(part.weights):
            place += _gate_words(_wrong_gates(case, part, got, right.gradients))
        place += _first_wrong_step(part, got["xs"], right.gradients["xs"])

        # The recurrent weights are the most telling: their gradient comes from the loop alone.
        causes = {n: cause_in_gradient(part, n, got[n], right.gradients[n]) for n in wrong}
        order = [n for n in ("weight_hh", "bias_hh") if n in wrong][:1] + wrong
        yield Diagnosis(place, next((causes[n] for n in order if causes[n]), ""))


def _wrong_gates(case: StackCase, part: Part, got: Arrays, expected: Arrays) -> Sequence[str]:
    # The gates in whose rows the gradient of some weight differs; none of a cell with one.
    gates = gate_names(case.stack.cell)
    if len(gates) == 1:
        return ()
    rows = _gate_grid(part, got, expected).values()
    limit = MEANING_LIMIT["gradients"]
    return [gate for gate in gates if any(row.get(gate, 0.0) > limit for row in rows)]


def _first_wrong_step(part: Part, got: np.ndarray, expected: np.ndarray) -> str:
    # The step from which the gradient of the inputs differs, on the way back.
    for t in reversed(part.steps):
        if differs(got[t], expected[t], "gradients"):
            return f", from step {t} backwards"
    return ""


def _gate_grid(part: Part, got: Arrays, expected: Arrays) -> Grid:
    # Errors of the gradients of one layer by weight and gate; a vector of (H,) is of no gate.
    grid: Grid = {}
    for name in part.weights:
        gates = gates_of(part, name, expected[name])
        blocks = np.split(got[name], len(gates))  # (G * H, ...) to G times (H, ...)
        right = np.split(expected[name], len(gates))
        grid[name] = dict(zip(gates, map(relative_l2, blocks, right), strict=True))
    return grid


def _between_backwards(case: StackCase, stack: JaxStack, parts: Parts) -> Iterator[Diagnosis]:
    # Differences of the whole stack's gradients, where every layer by itself is right.
    # torch's own stack is the reference: it has no lengths, and dropout masks of its own.
    case = replace(case, lengths=None, masks=())
    got = stack.free(case).gradients
    expected = stack_gradients(case)
    for name in reversed(parts_of(case.stack)):
        # The recurrent weight is the most telling; a cell without one has its input weight.
        key = f"weight_hh_{name}"
        if key not in expected:
            key = next(key for key in expected if key.endswith(f"_{name}"))
        if differs(got[key], expected[key], "gradients"):
            # "l1_reverse" is a part of layer 1.
            layer = int(name.split("_")[0][1:])
            place = f"the backward pass between layer {layer + 1} and layer {layer}"
            part = reference_parts(case)[name][0]
            kind = key.removesuffix(f"_{name}")
            yield Diagnosis(place, cause_in_gradient(part, kind, got[key], expected[key]))


def grids(case: StackCase) -> dict[str, Grid]:
    """Heat maps of a stack: layer x time, free and step by step, and layer x gate backwards."""
    stack = JaxStack(case)
    free = stack.free(case)
    running: Grid = {}
    clamped: Grid = {}
    backward: Grid = {}
    for name, (part, right) in reference_parts(case).items():
        row = layer_words(name)
        # Free: differences spread. Clamped: they show only where they start.
        running[row] = _by_number(map(relative_l2, free.parts[name][1].ys, right.ys))

        steps, times = single_steps(part, right)
        got = stack.part(name, steps)
        expected = run_part(steps)
        for field, result, truth in zip(part.carry._fields, got.last, expected.last, strict=True):
            errors = (relative_l2(result[times == t], truth[times == t]) for t in np.unique(times))
            clamped[f"{row}, {field}"] = _by_number(errors)

        gradients = stack.part(name, part).gradients
        for kind, by_gate in _gate_grid(part, gradients, right.gradients).items():
            backward[f"{row}, {kind}"] = by_gate
    return {
        "layer x time step, running freely": running,
        "layer x time step, each step with PyTorch's input": clamped,
        "layer x gate, gradients with PyTorch's input": backward,
    }


def _by_number(errors: Iterator[float]) -> dict[str, float]:
    return {str(t): error for t, error in enumerate(errors)}
