"""Which equation does a recurrent layer compute, if not PyTorch's?

Shapes: T time steps, B batch, I input size, H hidden size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import Cell
from parity.core.compare import MEANING_LIMIT, Arrays, relative_l2
from parity.diagnosis.equations import EQUATIONS, FROM_ZEROS, Weights, variants

Step = Callable[..., tuple[np.ndarray, ...]]

CELL_NAMES: dict[type[nn.Module], str] = {
    nn.RNN: "tanh",
    nn.GRU: "gru",
    nn.LSTM: "lstm",
    nn.RNNCell: "tanh",
    nn.GRUCell: "gru",
    nn.LSTMCell: "lstm",
}


def layer_weights(weights: Arrays, part: str) -> Weights:
    """The weights of one layer and direction from a state dict; of "l0", weight_ih_l0 and so on."""
    suffix = f"_{part}"
    found = {}
    for name, array in weights.items():
        if name.endswith(suffix):
            found[name.removesuffix(suffix)] = np.asarray(array, float)
    return found


def identified(
    module: nn.Module, weights: Arrays, inputs: Sequence[Any], got: np.ndarray
) -> str | None:
    """What the hidden states `got` come from, in words; empty for PyTorch's own equation.

    Args:
        module: a PyTorch layer or cell, one layer, one direction, called as torch's own.
        weights: its state dict.
        inputs: (xs, carry) with xs (T, B, I), or (B, I) for a cell; carry h, or (h, c).
        got: the hidden states that JAX computed, (T, B, H) or (B, H).

    Returns:
        None if the module is no such layer, or if no known equation gives these numbers.
    """
    cell = CELL_NAMES.get(type(module))
    # An `nn.RNN` has a choice of two, which its type does not show.
    if getattr(module, "nonlinearity", "tanh") == "relu":
        cell = "relu"
    if cell is None or len(inputs) != 2:
        return None
    # The search is in float64, whatever the precision of the inputs.
    xs = np.asarray(inputs[0], float)
    states = inputs[1] if isinstance(inputs[1], tuple | list) else (inputs[1],)
    carry = tuple(np.asarray(state, float) for state in states)
    if isinstance(module, nn.RNNCellBase):
        # A cell takes one step: (B, I) to (1, B, I), (B, H) to (1, B, H).
        return match(cell, weights, xs[None], carry, got[None])
    if len(weights) != 4:  # several layers, two directions, or no biases
        return None
    carry = tuple(state[0] for state in carry)  # (1, B, H) to (B, H)
    return match(cell, layer_weights(weights, "l0"), xs, carry, got)


def match(
    cell: str,
    weights: Weights,
    xs: np.ndarray,
    carry: tuple[np.ndarray, ...],
    got: np.ndarray,
) -> str | None:
    """The known equation whose hidden states, (T, B, H), are `got`, in words.

    Where several that are equally simple give these numbers, all are named: a first step from a
    carry of zeros, for one, does not show where a GRU applies its reset gate.

    Returns:
        What deviates from the cell's own equation, empty if nothing does; None if no known equation
        gives these numbers.
    """
    found: list[str] = []
    fewest = 0
    for variant in variants(cell):
        # More deviations explain nothing better.
        if found and variant.deviations > fewest:
            break
        # This deviation is of the loop and not of the step, which does not know it.
        start = carry
        if FROM_ZEROS in variant.words:
            start = tuple(np.zeros_like(state) for state in carry)
        if _gives(got, variant.step, weights, xs, start):
            found.append(variant.words)
            fewest = variant.deviations
    # Another cell is one deviation, however much of it differs.
    if not found or fewest > 0:
        found += _other_cells(cell, weights, xs, carry, got)
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    return f"either {' or '.join(found)}, which these inputs do not tell apart"


def _gives(
    got: np.ndarray, step: Step, weights: Weights, xs: np.ndarray, carry: tuple[np.ndarray, ...]
) -> bool:
    # Whether a step, run over time, gives these hidden states.
    try:
        ys = run_over_time(step, weights, xs, carry)
    except ValueError:  # shapes that this equation cannot have
        return False
    return ys.shape == got.shape and relative_l2(got, ys) <= MEANING_LIMIT["forward"]


def _other_cells(
    name: str, weights: Weights, xs: np.ndarray, carry: tuple[np.ndarray, ...], got: np.ndarray
) -> list[str]:
    # The cells with the same weights and more fields in the carry that give these hidden states.
    cell = CELLS[name]
    found: list[str] = []
    if not isinstance(cell, Cell):
        return found
    for other in EQUATIONS:
        theirs = CELLS.get(other)
        if not isinstance(theirs, Cell):
            continue
        more = theirs.carry._fields[len(carry) :]
        same_gates = len(theirs.gates) == len(cell.gates) and theirs.recurrent == cell.recurrent
        if not same_gates or theirs.params != cell.params or not more:
            continue
        # The module hands over no such fields, so they can only start from zeros.
        zeros = tuple(np.zeros_like(carry[0]) for _ in more)
        exact = next(variants(other))
        if _gives(got, exact.step, weights, xs, carry + zeros):
            found.append(
                f"it is that of the cell {other}, whose {', '.join(more)} start from zeros"
            )
    return found


def run_over_time(
    step: Step, weights: Weights, xs: np.ndarray, carry: tuple[np.ndarray, ...]
) -> np.ndarray:
    """The hidden state after every step."""
    ys = []
    for x in xs:
        carry = step(weights, x, carry)
        ys.append(carry[0])
    return np.stack(ys)  # (T, B, H)
