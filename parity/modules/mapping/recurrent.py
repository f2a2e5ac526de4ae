"""How recurrent layers of Flax, Haiku, Equinox, Keras and of one's own hold PyTorch's weights.

Shapes: H hidden size, I input size, G gates.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxrnn.exchange.layouts import ConcatenateInputs, FoldGruBiases, OffsetGate
from jaxrnn.exchange.operations import (
    FoldBiases,
    Identity,
    Operation,
    PermuteGates,
    SplitGates,
    StackLayers,
    Transpose,
)
from jaxrnn.exchange.weights import Entry, entry
from parity.modules.mapping.candidates import Shape, chained

Shapes = Mapping[str, Shape]
"""The leaves below a node of JAX's tree by the rest of their paths."""

GATES = {1: ("",), 3: tuple("rzn"), 4: tuple("ifgo")}
"""PyTorch's gates in order, by G, as Flax calls them."""
ZRN = (1, 0, 2)
"""The order of the GRU's gates in Keras and Haiku: theirs is PyTorch's gate `ZRN[k]`."""
IGFO = (0, 2, 1, 3)
"""The order of the LSTM's gates in Haiku."""
ORDERS = {"gru": ZRN, "lstm": IGFO}

HIDDEN = re.compile(r"(^|[/_])(hh|h|hidden|recurrent(_kernel)?|wh|w_h|u|linear_1)($|[/_\d])|_hh")
"""Names of what multiplies the hidden state."""
INPUT = re.compile(r"(^|[/_])(ih|i|x|input|wi|wx|w_i|w_x|kernel|linear)($|[/_\d])|_ih")
"""Names of what multiplies the input."""

# Held against an order of gates that is not the framework's; and, where that is not known, against
# PyTorch's order and any other.
OTHER_ORDER = 1.0
TORCH_ORDER = 0.1
ANY_ORDER = 0.5
# Held against exchanged matrices of the input and the hidden state.
EXCHANGED = 0.5


@dataclass(frozen=True)
class Layer:
    """One layer and direction of PyTorch's.

    Attributes:
        weights: the keys of weight_ih and weight_hh.
        biases: those of bias_ih and bias_hh; none without.
        gates: G.
        hidden_size: H.
        input_size: I.
    """

    weights: tuple[str, str]
    biases: tuple[str, ...]
    gates: int
    hidden_size: int
    input_size: int

    @property
    def keys(self) -> tuple[str, ...]:
        """All its keys."""
        return (*self.weights, *self.biases)


class Layout(NamedTuple):
    """Entries for a whole layer, with paths below a node, and what is held against them."""

    entries: tuple[Entry, ...]
    cost: float
    known: bool


def layer_layouts(layer: Layer, leaves: Shapes) -> list[Layout]:
    """The ways in which leaves can be a layer's weights, likeliest first."""
    found: list[Layout] = []
    for family in (_one_array_a_gate, _two_matrices, _one_matrix):
        found += family(layer, leaves)
    return sorted(found, key=lambda layout: layout.cost)


def _one_array_a_gate(layer: Layer, leaves: Shapes) -> Iterator[Layout]:
    """Linen's cells and NNX's LSTMCell: "ii/kernel", "hf/bias" and so on."""
    if layer.gates not in GATES:
        return
    letters = GATES[layer.gates]
    shapes = {"i": (layer.input_size, layer.hidden_size), "h": (layer.hidden_size,) * 2}
    kernels: dict[str, list[str]] = {}
    biases: dict[str, list[str]] = {}
    for side, shape in shapes.items():
        for letter in letters:
            # "if" is a keyword of Python, and NNX calls the attribute "if_".
            names = [f"{side}{letter}", f"{side}{letter}_"]
            kernels.setdefault(side, [])
            kernels[side] += [f"{n}/kernel" for n in names if leaves.get(f"{n}/kernel") == shape]
            biases.setdefault(side, [])
            biases[side] += [f"{n}/bias" for n in names if f"{n}/bias" in leaves]
    if any(len(paths) != layer.gates for paths in kernels.values()):
        return
    split = () if layer.gates == 1 else (SplitGates(layer.gates),)
    kernel = chained(*split, Transpose())
    entries = [entry(layer.weights[k], kernels[side], kernel) for k, side in enumerate("ih")]
    counts = (len(biases["i"]), len(biases["h"]))
    if layer.biases:
        if counts == (layer.gates, layer.gates):
            for key, side in zip(layer.biases, "ih", strict=True):
                entries.append(entry(key, biases[side], chained(*split)))
        elif counts == (3, 1) and layer.gates == 3:
            folded = FoldGruBiases(split=True)
            entries.append(entry(layer.biases, [*biases["i"], *biases["h"]], folded))
        elif layer.gates in counts and sum(counts) == layer.gates:
            folded_bias = chained(FoldBiases(), *split)
            entries.append(entry(layer.biases, biases["i"] or biases["h"], folded_bias))
        else:
            return
    yield Layout(tuple(entries), 0.0, True)


# Of many ways to choose the leaves the likeliest are looked at, and all orders of the gates for the
# very likeliest only.
MOST_CHOICES = 40
MOST_REORDERED = 4


def _two_matrices(layer: Layer, leaves: Shapes) -> Iterator[Layout]:
    """A matrix for the input, one for the hidden state, in any order of the gates."""
    rows = layer.gates * layer.hidden_size
    by_input = _matrices(leaves, rows, layer.input_size)
    by_hidden = _matrices(leaves, rows, layer.hidden_size)
    biases = sorted(_bias_choices(layer, leaves), key=lambda choice: choice.cost)
    choices = []
    for (first, turned), (second, turned_too) in itertools.product(by_input, by_hidden):
        if first == second or turned[0] != turned_too[0]:
            continue
        cost = turned[1] + turned_too[1]
        if not INPUT.search(first) or HIDDEN.search(first):
            cost += EXCHANGED
        if not HIDDEN.search(second):
            cost += EXCHANGED
        for bias in biases[:MOST_CHOICES]:
            choices.append((cost + bias.cost, first, second, turned[0], bias))
    choices.sort(key=lambda choice: choice[0])
    for k, (cost, first, second, operation, bias) in enumerate(choices[:MOST_CHOICES]):
        for order in _orders(layer, first, second):
            if k >= MOST_REORDERED and order.cost >= ANY_ORDER:
                continue
            permuted = (PermuteGates(order.order),) if order.order else ()
            bias_entries = bias.entries(layer, permuted)
            if bias_entries is None:
                continue
            kernel = chained(*permuted, operation)
            kernels = [entry(layer.weights[0], first, kernel)]
            kernels.append(entry(layer.weights[1], second, kernel))
            yield Layout((*kernels, *bias_entries), cost + order.cost, order.known)


def _matrices(leaves: Shapes, rows: int, columns: int) -> list[tuple[str, tuple[Operation, float]]]:
    # Leaves that are a matrix (rows, columns), or its transpose.
    found: list[tuple[str, tuple[Operation, float]]] = []
    for path, shape in leaves.items():
        as_in_torch = path.rpartition("/")[2].startswith("weight")
        if shape == (rows, columns):
            found.append((path, (Identity(), 0.0 if as_in_torch else 0.1)))
        if shape == (columns, rows):
            found.append((path, (Transpose(), 0.1 if as_in_torch else 0.0)))
    return found


class Order(NamedTuple):
    """An order of the gates, () for PyTorch's, and what is held against it."""

    order: tuple[int, ...]
    cost: float
    known: bool


def _orders(layer: Layer, first: str, second: str) -> Iterator[Order]:
    """Orders of the gates, the usual one of the framework that has such names first."""
    if layer.gates == 1:
        yield Order((), 0.0, True)
        return
    usual: tuple[int, ...] | None = None
    names = (first.rpartition("/")[2], second.rpartition("/")[2])
    if names[0].startswith("weight_ih") or first.endswith("dense_i/kernel"):
        usual = ()
    elif names == ("kernel", "recurrent_kernel"):
        usual = ZRN if layer.gates == 3 else ()
    elif names == ("w_i", "w_h") and layer.gates == 3:
        usual = ZRN
    for permutation in itertools.permutations(range(layer.gates)):
        order = () if permutation == tuple(range(layer.gates)) else permutation
        if usual is not None:
            yield Order(order, 0.0 if order == usual else OTHER_ORDER, order == usual)
        else:
            yield Order(order, ANY_ORDER if order else TORCH_ORDER, False)


class BiasChoice(NamedTuple):
    """Leaves that can be a layer's biases.

    Attributes:
        kind: "none", "rows of one", "both", "sum", or "sum and candidate" of a GRU.
        paths: the leaves.
        cost: what is held against it.
    """

    kind: str
    paths: tuple[str, ...]
    cost: float

    def entries(self, layer: Layer, permuted: Sequence[Operation]) -> list[Entry] | None:
        """The entries, with the gates permuted; None if that cannot be."""
        if self.kind == "rows of one":
            return [entry(layer.biases, self.paths, chained(*permuted, StackLayers()))]
        if self.kind == "both":
            both = zip(layer.biases, self.paths, strict=True)
            return [entry(key, path, chained(*permuted)) for key, path in both]
        if self.kind == "sum":
            return [entry(layer.biases, self.paths, chained(FoldBiases(), *permuted))]
        if self.kind == "sum and candidate":
            # The bias of the candidate stands alone, wherever the gates are.
            return None if permuted else [entry(layer.biases, self.paths, FoldGruBiases())]
        return []


def _bias_choices(layer: Layer, leaves: Shapes) -> Iterator[BiasChoice]:
    """The biases of a layer among the leaves, in each way that they can be there."""
    if not layer.biases:
        yield BiasChoice("none", (), 0.0)
        return
    rows = layer.gates * layer.hidden_size
    of_all = [path for path, shape in leaves.items() if shape == (rows,)]
    of_one = [p for p, s in leaves.items() if s == (layer.hidden_size,) and layer.gates == 3]
    for path, shape in leaves.items():
        if shape == (2, rows):
            yield BiasChoice("rows of one", (path,), 0.0)
    for first, second in itertools.permutations(of_all, 2):
        # The bias of each matrix stands beside it, or is called like it.
        right = HIDDEN.search(second) and not HIDDEN.search(first)
        yield BiasChoice("both", (first, second), 0.0 if right else EXCHANGED)
    for path in of_all:
        # Of two vectors neither is the sum.
        alone = len(of_all) == 1 and not of_one
        yield BiasChoice("sum", (path,), 0.0 if alone else EXCHANGED)
        for candidate in of_one:
            yield BiasChoice("sum and candidate", (path, candidate), 0.0)


def _one_matrix(layer: Layer, leaves: Shapes) -> Iterator[Layout]:
    """One matrix that multiplies the input beside the hidden state, as in Haiku's LSTM."""
    rows = layer.gates * layer.hidden_size
    columns = layer.input_size + layer.hidden_size
    biases = [path for path, shape in leaves.items() if shape == (rows,)]
    for path, (turned, cost) in _matrices(leaves, rows, columns):
        haiku = path.endswith("linear/w") and layer.gates == 4
        # The operation turns the matrix itself.
        beside = ConcatenateInputs(layer.gates)
        last = () if turned == Transpose() else (Transpose(),)
        for order, offset, order_cost in _one_matrix_orders(layer.gates, haiku):
            permuted = (PermuteGates(order),) if order else ()
            entries = [entry(layer.weights, path, chained(*permuted, beside, *last))]
            if layer.biases and biases:
                folded = chained(FoldBiases(), *permuted, *offset)
                entries.append(entry(layer.biases, biases[0], folded))
            elif layer.biases:
                continue
            yield Layout(tuple(entries), cost + order_cost, haiku and bool(offset))


def _one_matrix_orders(
    gates: int, haiku: bool
) -> Iterator[tuple[tuple[int, ...], tuple[Operation, ...], float]]:
    # Order of the gates, a constant that is added to one of them, and what is held against both.
    if gates == 4:
        yield IGFO, (OffsetGate(2, 4),), 0.0 if haiku else OTHER_ORDER
    for permutation in itertools.permutations(range(gates)):
        order = () if permutation == tuple(range(gates)) else permutation
        unknown = ANY_ORDER if order else TORCH_ORDER
        yield order, (), OTHER_ORDER if haiku else unknown
