"""Recurrent equations with known deviations from PyTorch's, in plain NumPy.

Shapes: B batch, I input size, H hidden size, G gates.

When a layer differs from PyTorch's, one of these may be what it really computes: each deviation is
something that some library, paper or bug does. `variants` lists the equation with every
deviation and every pair of them; the one that reproduces the numbers names the cause.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


class Weights(NamedTuple):
    """One layer and direction, by torch's names: (G * H, I), (G * H, H), (G * H,), (G * H,)."""

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array
    bias_hh: Array


FROM_ZEROS = "the carry starts from zeros"
Options = Mapping[str, Any]
Step = Callable[[Weights, Array, tuple[Array, ...], Options], tuple[Array, ...]]


@dataclass(frozen=True)
class Deviation:
    """One known way to differ: the option and the value it takes, in words."""

    option: str
    value: object
    words: str


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 0.5 * (1 + np.tanh(0.5 * x))  # no overflow where x is far below 0


def _hard_sigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _deviating(w: Weights, options: Options) -> Weights:
    # Weights with the deviations that every cell can have, in all gates or in one.
    hidden_size = w.weight_hh.shape[1]
    if "missing" in options:
        name, gate = options["missing"]
        bias = np.array(getattr(w, name))
        rows = slice(None) if gate is None else slice(gate * hidden_size, (gate + 1) * hidden_size)
        bias[rows] = 0
        w = w._replace(**{name: bias})
    if "transposed" in options:
        gates = np.split(
            w.weight_hh, len(w.weight_hh) // hidden_size
        )  # (G * H, H) to G times (H, H)
        for k, gate_weight in enumerate(gates):
            if options["transposed"] in (k, "all"):
                gates[k] = gate_weight.T
        w = w._replace(weight_hh=np.concatenate(gates))
    return w


def _plain_step(activation: Callable[[Array], Array]) -> Step:
    # h' = f(W x + b + U h + b), with f = tanh or relu.
    def step(w: Weights, x: Array, carry: tuple[Array, ...], options: Options) -> tuple[Array, ...]:
        w = _deviating(w, options)
        squash = options.get("activation", activation)
        return (squash(x @ w.weight_ih.T + w.bias_ih + carry[0] @ w.weight_hh.T + w.bias_hh),)

    return step


def _gru_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # n = tanh(x_n + r * h_n), h' = (1 - z) * n + z * h.
    w = _deviating(w, options)
    h = carry[0]
    order = options.get("order", (0, 1, 2))  # where the rows of r, z and n lie
    x_gates = np.split(x @ w.weight_ih.T, 3, axis=1)  # (B, 3 * H) to 3 times (B, H)
    b_x = np.split(w.bias_ih, 3)
    weights = np.split(w.weight_hh, 3)  # (3 * H, H) to 3 times (H, H)
    b_h = np.split(w.bias_hh, 3)

    def gate(name: str, k: int) -> Array:
        squash = _hard_sigmoid if name in str(options.get("hard", "")) else sigmoid
        return squash(x_gates[k] + b_x[k] + h @ weights[k].T + b_h[k])

    r = gate("r", order[0])
    z = gate("z", order[1])

    # The candidate. Its hidden bias b_hn belongs inside the reset gate: r * (W h + b_hn).
    k = order[2]
    b_in = b_x[k]
    b_hn = b_h[k]
    if options.get("b_hn") == "outside":
        b_in = b_in + b_hn
    if options.get("b_hn") in ("outside", "missing"):
        b_hn = np.zeros_like(b_hn)
    reset = options.get("reset", "after")
    h_part = ((r * h) if reset == "before" else h) @ weights[k].T + b_hn
    if reset == "after":
        h_part = r * h_part
    n = np.tanh(x_gates[k] + b_in + h_part)
    if options.get("z") == "new":
        return ((1 - z) * h + z * n,)
    return ((1 - z) * n + z * h,)


def _lstm_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # c' = f * c + i * g, h' = o * tanh(c').
    w = _deviating(w, options)
    h, c = carry
    gates = np.split(x @ w.weight_ih.T + w.bias_ih + h @ w.weight_hh.T + w.bias_hh, 4, axis=1)
    order = options.get("order", (0, 1, 2, 3))
    i, f, g, o = (gates[k] for k in order)  # (B, H) each
    forget_bias = 1.0 if options.get("forget") else 0.0
    c_after = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(g)
    output = options.get("output", "tanh of the new c")
    if output == "plain":
        h_after = sigmoid(o) * c_after
    else:
        h_after = sigmoid(o) * np.tanh(c if output == "old" else c_after)
    if options.get("carry") == "exchanged":
        return c_after, h_after
    return h_after, c_after


def _orders(names: str) -> list[Deviation]:
    # Every other order of the gates' rows.
    right = tuple(range(len(names)))
    found = []
    for order in permutations(right):
        if order == right:
            continue
        exchanged = [names[k] for k in right if order[k] != k]
        shown = ", ".join(names[order.index(k)] for k in right)
        words = f"the gates lie in the order {shown}"
        if len(exchanged) == 2:
            words += f" ({' and '.join(exchanged)} exchanged)"
        found.append(Deviation("order", order, words))
    return found


def _common(gates: str) -> list[Deviation]:
    # What can be wrong with the weights and the carry of every cell.
    biases = {"bias_hh": "hidden bias b_hh", "bias_ih": "input bias b_ih"}
    found = []
    for name, words in biases.items():
        found.append(Deviation("missing", (name, None), f"the {words} is missing"))
    found.append(Deviation("transposed", "all", "the recurrent weight is transposed"))
    found.append(Deviation("carry_in", "zeros", FROM_ZEROS))
    if len(gates) == 1:
        return found
    for k, gate in enumerate(gates):
        for name, words in biases.items():
            found.append(Deviation("missing", (name, k), f"the {words} of gate {gate} is missing"))
        words = f"the recurrent weight of gate {gate} is transposed"
        found.append(Deviation("transposed", k, words))
    return found


_GRU = [
    Deviation("reset", "before", "the reset gate is applied before the matmul"),
    Deviation("reset", "none", "there is no reset gate"),
    Deviation("b_hn", "missing", "the hidden bias b_hn of the candidate is missing"),
    Deviation(
        "b_hn",
        "outside",
        "the hidden bias b_hn is missing inside the reset gate: it is added outside, "
        "as if folded into the input bias",
    ),
    Deviation("z", "new", "z weighs the new candidate instead of the old state"),
    Deviation("hard", "rz", "the gates use a hard sigmoid"),
    Deviation("hard", "r", "gate r uses a hard sigmoid"),
    Deviation("hard", "z", "gate z uses a hard sigmoid"),
    *_orders("rzn"),
]
_LSTM = [
    Deviation("forget", True, "1 is added to the forget gate"),
    Deviation("output", "plain", "the output has no tanh"),
    Deviation("output", "old", "the output reads the old cell state"),
    Deviation("carry", "exchanged", "h and c are exchanged"),
    *_orders("ifgo"),
]
_TANH = Deviation("activation", np.tanh, "the activation is tanh")
_RELU = Deviation("activation", _relu, "the activation is relu")
_LINEAR = Deviation("activation", lambda x: x, "there is no activation")

# PyTorch's equation of each cell, and how it is known to be varied.
EQUATIONS: dict[str, tuple[Step, list[Deviation]]] = {
    "tanh": (_plain_step(np.tanh), [_RELU, _LINEAR, *_common("h")]),
    "relu": (_plain_step(_relu), [_TANH, _LINEAR, *_common("h")]),
    "gru": (_gru_step, [*_GRU, *_common("rzn")]),
    "lstm": (_lstm_step, [*_LSTM, *_common("ifgo")]),
}


def variants(cell: str) -> Iterator[tuple[str, Callable[..., tuple[Array, ...]]]]:
    """Every variant of a cell with up to two deviations, the simplest first.

    Gives what it is in words, empty for PyTorch's own, and `step(weights, x, carry)`.
    """
    step, deviations = EQUATIONS[cell]
    chosen: list[tuple[Deviation, ...]] = [()]
    chosen += combinations(deviations, 1)
    for one, other in combinations(deviations, 2):
        # Two values of one option exclude each other.
        if one.option != other.option:
            chosen.append((one, other))
    for together in chosen:
        options = {deviation.option: deviation.value for deviation in together}
        words = " and ".join(deviation.words for deviation in together)
        yield words, lambda w, x, carry, options=options: step(w, x, carry, options)
