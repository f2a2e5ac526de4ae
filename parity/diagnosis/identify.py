"""Which equation does a recurrent layer compute, if not PyTorch's?

Shapes: T time steps, B batch, I input size, H hidden size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from parity.core.compare import MEANING_LIMIT, Arrays, relative_l2
from parity.diagnosis.equations import FROM_ZEROS, Weights, variants

Step = Callable[..., tuple[np.ndarray, ...]]

CELL_NAMES: dict[type[nn.Module], str] = {
    nn.RNN: "tanh",
    nn.GRU: "gru",
    nn.LSTM: "lstm",
    nn.RNNCell: "tanh",
    nn.GRUCell: "gru",
    nn.LSTMCell: "lstm",
}


def layer_weights(weights: Arrays, suffix: str = "_l0") -> Weights:
    """One layer's weights from a state dict."""
    return Weights(*(np.asarray(weights[f"{name}{suffix}"], float) for name in Weights._fields))


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
        return match(cell, layer_weights(weights, ""), xs[None], carry, got[None])
    if len(weights) != 4:  # several layers, two directions, or no biases
        return None
    carry = tuple(state[0] for state in carry)  # (1, B, H) to (B, H)
    return match(cell, layer_weights(weights), xs, carry, got)


def match(
    cell: str,
    weights: Weights,
    xs: np.ndarray,
    carry: tuple[np.ndarray, ...],
    got: np.ndarray,
) -> str | None:
    """The first known equation whose hidden states, (T, B, H), are `got`, in words."""
    zeros = tuple(np.zeros_like(state) for state in carry)
    for words, step in variants(cell):
        # This deviation is of the loop and not of the step, which does not know it.
        start = zeros if FROM_ZEROS in words else carry
        try:
            ys = run_over_time(step, weights, xs, start)
        except ValueError:  # shapes that this equation cannot have
            continue
        if ys.shape == got.shape and relative_l2(got, ys) <= MEANING_LIMIT["forward"]:
            return words
    return None


def run_over_time(
    step: Step, weights: Weights, xs: np.ndarray, carry: tuple[np.ndarray, ...]
) -> np.ndarray:
    """The hidden state after every step."""
    ys = []
    for x in xs:
        carry = step(weights, x, carry)
        ys.append(carry[0])
    return np.stack(ys)  # (T, B, H)
