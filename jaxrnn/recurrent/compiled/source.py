"""The C++ source of a cell: its elementwise step and the gradients of it, as steps.h takes them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrnn.recurrent.cells import Cell
from jaxrnn.recurrent.compiled.graph import OPERATIONS, Graph, NotElementwiseError
from jaxrnn.recurrent.compiled.residuals import choose_residuals
from jaxrnn.recurrent.compiled.tracing import StepGraph, trace

MOST_GATES = 8
"""Gates that a compiled cell may have, as cell.h says."""

_TEMPLATE = """\
// The step of a cell and its gradients, generated from its jaxpr.

#include "steps.h"

namespace jaxrnn {{
namespace {{

{structs}
}}  // namespace
}}  // namespace jaxrnn

JAXRNN_EXPORT(jaxrnn::Step)
"""

_STRUCT = """\
{template}
struct Step{specialization} {{{alias}
  using V = Vec<T>;
  static constexpr int gates = {gates}, fields = {fields}, params = {params};
  static constexpr int residuals = {residuals}, shared = {shared};
  static constexpr bool recurrent = {recurrent}, needs_before = {needs_before};

  static JAXRNN_INLINE void forward(const V* x, const V* s, const V* params, V* carry,
                                    V* residuals) {{
{forward}
  }}

  static JAXRNN_INLINE void backward(const V* residuals, const V* x, const V* s, V before, V after,
                                     const V* params, V* d_carry, V* dx, V* ds, V* d_params) {{
{backward}
  }}
}};
"""


class Source(NamedTuple):
    """The C++ source of a cell.

    Attributes:
        text: the source, the same for cells that compute the same.
        residuals: by dtype, how many numbers a unit the forward step keeps for the backward one.
        shared: by dtype, of how many gates, from the first one on, the input half and the recurrent
            half have the same gradient.
        needs_before: by dtype, whether the backward step needs `h` before the step.
    """

    text: str
    residuals: Mapping[np.dtype, int]
    shared: Mapping[np.dtype, int]
    needs_before: Mapping[np.dtype, bool]


def write_source(cell: Cell) -> Source:
    """The C++ source of a cell, from its jaxpr.

    Raises:
        NotElementwiseError: if its step is no elementwise function of known operations, or the cell
            has too many gates.
    """
    if not 1 <= len(cell.gates) <= MOST_GATES:
        raise NotElementwiseError(
            f"it has {len(cell.gates)} gates, and 1 to {MOST_GATES} are compiled"
        )
    bodies = {}
    residuals = {}
    shared = {}
    needs_before = {}
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        step = trace(cell, dtype)
        kept = choose_residuals(step)
        residuals[dtype] = len(kept)
        shared[dtype] = _shared(step)
        needs_before[dtype] = _needs_before(step, kept)
        bodies[dtype] = _Body(step, kept)
    single, double = bodies.values()
    # Usually both precisions have the same expressions, and float32's constants are the rounded
    # ones of float64. A step that asks for its dtype may be another one in each.
    if _struct(single, rounded=True) == _struct(double, rounded=True):
        structs = _struct(double)
    else:
        structs = "template <typename T>\nstruct Step;\n\n"
        structs += _struct(single, "float") + "\n" + _struct(double, "double")
    return Source(_TEMPLATE.format(structs=structs), residuals, shared, needs_before)


def _shared(step: StepGraph) -> int:
    """Of how many gates, from the first one on, both halves have one gradient."""
    pairs = zip(step.dx, step.ds, strict=True)
    different = [gate for gate, (dx, ds) in enumerate(pairs) if dx != ds]
    return different[0] if different else len(step.ds)


def _needs_before(step: StepGraph, kept: Sequence[int]) -> bool:
    """Whether the backward step, or the gradient of the weight, needs `h` before the step."""
    before = step.graph.leaf("carry", 0, (0, 0))
    return step.recurrent or before in step.graph.reach(step.gradients, [*kept, step.after[0]])


class _Body(NamedTuple):
    """A step in one precision, and what it keeps."""

    step: StepGraph
    kept: Sequence[int]


def _struct(body: _Body, precision: str = "", *, rounded: bool = False) -> str:
    """The struct of a step.

    Args:
        body: the step.
        precision: "float" or "double", or "" for a template of both.
        rounded: whether its constants are rounded to float32, to compare two structs.
    """
    step, kept = body
    return _STRUCT.format(
        template="template <>" if precision else "template <typename T>",
        specialization=f"<{precision}>" if precision else "",
        alias=f"\n  using T = {precision};" if precision else "",
        gates=len(step.ds),
        fields=len(step.after),
        params=len(step.d_params),
        residuals=len(kept),
        shared=_shared(step),
        recurrent=str(step.recurrent).lower(),
        needs_before=str(_needs_before(step, kept)).lower(),
        forward=_forward(step, kept, rounded=rounded),
        backward=_backward(step, kept, rounded=rounded),
    )


def _forward(step: StepGraph, kept: Sequence[int], *, rounded: bool) -> str:
    """The statements of the step."""
    targets = [(f"residuals[{k}]", i) for k, i in enumerate(kept)]
    targets += [(f"carry[{k}]", i) for k, i in enumerate(step.after)]
    return _statements(step.graph, {}, targets, rounded=rounded)


def _backward(step: StepGraph, kept: Sequence[int], *, rounded: bool) -> str:
    """The statements of the pull-back."""
    names = {i: f"residuals[{k}]" for k, i in enumerate(kept)}
    if step.graph.value(step.after[0]) is None:  # a constant has its own text
        names[step.after[0]] = "after"
    names[step.graph.leaf("carry", 0, (0, 0))] = "before"
    targets = [(f"dx[{g}]", i) for g, i in enumerate(step.dx)]
    targets += [(f"ds[{g}]", i) for g, i in enumerate(step.ds)]
    targets += [(f"d_params[{p}]", i) for p, i in enumerate(step.d_params)]
    targets += [(f"d_carry[{k}]", i) for k, i in enumerate(step.d_carry)]
    return _statements(step.graph, names, targets, rounded=rounded)


_LEAVES = {"carry": "carry", "d": "d_carry", "x": "x", "s": "s", "params": "params"}
"""The arrays of a step by the names of the graph's leaves."""


def _statements(
    graph: Graph, given: Mapping[int, str], targets: Sequence[tuple[str, int]], *, rounded: bool
) -> str:
    """Statements that make the targets of what is given and of the arguments.

    Args:
        graph: the expressions.
        given: the names of expressions that are there.
        targets: what is assigned, each with its expression.
        rounded: whether constants are rounded to float32.
    """
    names = dict(given)
    lines: list[str] = []
    for i in graph.reach([i for _, i in targets], given):
        if i in names:
            continue
        constant = graph.value(i)
        if constant is not None:
            names[i] = _number(constant, rounded=rounded)
            continue
        kind, *rest = graph.nodes[i]
        if kind == "leaf":
            expression = f"{_LEAVES[rest[0]]}[{rest[1]}]"
        else:
            arguments = _as_vectors(graph, i, [names[argument] for argument in rest])
            expression = OPERATIONS[kind].code.format(*arguments)
        names[i] = f"v{i}"
        lines.append(f"const auto {names[i]} = {expression};")
    # All is read before anything is assigned: the carry is an argument and a result.
    for target, i in targets:
        value = names[i]
        lines.append(f"{target} = {_splat(value) if graph.value(i) is not None else value};")
    return "\n".join(f"    {line}" for line in lines)


def _number(value: float, *, rounded: bool) -> str:
    """A constant in C++; the shortest text of a double is exact."""
    if rounded:
        value = float(np.float32(value))
    if np.isnan(value):
        return 'T(__builtin_nan(""))'
    if np.isinf(value):
        return "T(__builtin_inf())" if value > 0 else "T(-__builtin_inf())"
    return f"T({value!r})"


def _as_vectors(graph: Graph, i: int, names: list[str]) -> list[str]:
    """The arguments of an operation; a constant becomes a vector where a scalar will not do."""
    constant = [graph.value(argument) is not None for argument in graph.arguments(i)]
    if OPERATIONS[graph.nodes[i][0]].infix and not all(constant):
        return names
    pairs = zip(names, constant, strict=True)
    return [_splat(name) if is_constant else name for name, is_constant in pairs]


def _splat(number: str) -> str:
    return f"splat<T>({number})"
