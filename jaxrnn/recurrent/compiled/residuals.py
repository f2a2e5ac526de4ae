"""What the forward step keeps for the backward one: as few numbers as possible.

The backward step needs some values of the forward step. Each of them is kept in memory, or made
again from others that are kept or made again. Keeping one costs a number a unit, row and time
step, in memory and in its bandwidth; making one again costs operations, which are nearly free, and
tanh and exp, which are not quite. The cheapest choice is a minimum cut of the graph of expressions,
as in the rematerialization of PyTorch's compiler (https://dev-discuss.pytorch.org/t/467).
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable

from jaxrnn.recurrent.compiled.graph import Graph
from jaxrnn.recurrent.compiled.tracing import StepGraph

KEEPING = 1000
"""Cost of a number kept; the costs of operations are in thousandths of it."""
_UNBOUNDED = 1 << 40
"""Capacity of what is never cut."""


class _Network:
    """A network of flows, whose minimum cut is the cheapest choice."""

    def __init__(self) -> None:
        self.capacity: dict[Hashable, dict[Hashable, int]] = defaultdict(lambda: defaultdict(int))

    def connect(self, start: Hashable, end: Hashable, capacity: int) -> None:
        """A connection that may carry so much more."""
        self.capacity[start][end] += capacity
        self.capacity[end][start] += 0

    def cut(self, source: Hashable, sink: Hashable) -> set[Hashable]:
        """What stays on the source's side of a minimum cut (Edmonds and Karp 1972)."""
        while True:
            before = self._paths(source)
            if sink not in before:
                return set(before)
            path = [sink]
            while path[-1] != source:
                path.append(before[path[-1]])
            steps = list(zip(path[1:], path[:-1], strict=True))
            flow = min(self.capacity[start][end] for start, end in steps)
            for start, end in steps:
                self.capacity[start][end] -= flow
                self.capacity[end][start] += flow

    def _paths(self, source: Hashable) -> dict[Hashable, Hashable]:
        """All that flow can still reach, each with what comes before it on a shortest path."""
        before: dict[Hashable, Hashable] = {source: source}
        waiting = deque([source])
        while waiting:
            start = waiting.popleft()
            for end, capacity in self.capacity[start].items():
                if capacity > 0 and end not in before:
                    before[end] = start
                    waiting.append(end)
        return before


def is_given(step: StepGraph, i: int) -> bool:
    """Whether the backward step has a value anyway.

    It has `h` before and after the step, parameters and constants. Where there is no recurrent
    product, it also reads the gates again: they are there, and residuals would have to be written.
    """
    kind, *rest = step.graph.nodes[i]
    if i == step.after[0] or kind == "constant":
        return True
    if kind != "leaf":
        return False
    name, index, _ = rest
    is_gate = name in ("x", "s")
    return name == "params" or (name == "carry" and index == 0) or (is_gate and not step.recurrent)


def depends_on_gradient(graph: Graph, roots: Iterable[int]) -> set[int]:
    """The expressions that are made of the gradient of the carry after the step."""
    found: set[int] = set()
    for i in graph.reach(roots):
        kind, *rest = graph.nodes[i]
        is_gradient = kind == "leaf" and rest[0] == "d"
        if is_gradient or any(argument in found for argument in graph.arguments(i)):
            found.add(i)
    return found


def choose_residuals(step: StepGraph) -> list[int]:
    """The values that the forward step keeps, beside `h` before and after it.

    Two choices for each value: ("have", i), the backward step has it, and ("make", i), it makes it
    again, for which it has to have the arguments. A value that it has and does not make is kept.
    """
    graph = step.graph
    given = [i for i in graph.reach(step.gradients) if is_given(step, i)]
    backward = depends_on_gradient(graph, step.gradients)
    live = graph.reach(step.gradients, given)
    values = [i for i in live if i not in backward and not is_given(step, i)]
    wanted = {argument for i in backward for argument in graph.arguments(i)}
    wanted |= set(step.gradients)

    # Whatever is chosen stays on the source's side. To choose "have" costs KEEPING; to choose
    # "make" as well gives that back, less the cost of the operation.
    network = _Network()
    for i in values:
        network.connect(("have", i), "sink", KEEPING)
        if i in wanted:
            network.connect("source", ("have", i), _UNBOUNDED)
        operation = graph.operation(i)
        if operation is None:
            continue  # an argument of the step cannot be made
        network.connect("source", ("make", i), KEEPING - operation.cost)
        network.connect(("make", i), ("have", i), _UNBOUNDED)
        for argument in graph.arguments(i):
            if argument in values:
                network.connect(("make", i), ("have", argument), _UNBOUNDED)
        if operation.is_mask:  # is no number: never kept
            network.connect(("have", i), ("make", i), _UNBOUNDED)
    chosen = network.cut("source", "sink")
    return [i for i in values if ("have", i) in chosen and ("make", i) not in chosen]
