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


def cell_name(module: nn.Module) -> str | None:
    """The cell of a PyTorch layer, or None of another module."""
    if getattr(module, "nonlinearity", "tanh") == "relu":
        return "relu"
    return CELL_NAMES.get(type(module))


def layer_weights(weights: Arrays, suffix: str = "_l0", prefix: str = "") -> Weights:
    """One layer's weights from a state dict."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return Weights(*(np.asarray(weights[f"{prefix}{name}{suffix}"], float) for name in names))


def identified(
    module: nn.Module, weights: Arrays, inputs: Sequence[Any], got: np.ndarray
) -> str | None:
    """What the hidden states `got` come from, in words; empty for PyTorch's own equation.

    Args:
        module: a PyTorch layer or cell, one layer, one direction, called as torch's own.
        weights: its state dict.
        inputs: (xs, carry) with xs (T, B, I), or (B, I) for a cell; carry h, or (h, c).
        got: the hidden states that the other side computed, (T, B, H) or (B, H).

    Returns:
        None if the module is no such layer, or if no known equation gives these numbers.
    """
    cell = cell_name(module)
    single = isinstance(module, nn.RNNCellBase)
    if cell is None or len(inputs) != 2 or (not single and len(weights) != 4):
        return None
    xs = np.asarray(inputs[0], float)
    states = inputs[1] if isinstance(inputs[1], tuple | list) else (inputs[1],)
    carry = tuple(np.asarray(state, float) for state in states)
    if single:
        xs, got = xs[None], got[None]
    else:
        carry = tuple(state[0] for state in carry)
    return match(cell, layer_weights(weights, "" if single else "_l0"), xs, carry, got)


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
        try:
            start = zeros if FROM_ZEROS in words else carry
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
    return np.stack(ys)
