"""Recurrent equations with known deviations from PyTorch's, in plain NumPy.

Shapes: B batch, I input size, H hidden size, G gates.

When a layer differs from PyTorch's, one of these may be what it really computes: each deviation is
something that some library, paper or bug does. `variants` lists the equation with every
deviation and every pair of them; the one that reproduces the numbers names the cause.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import NamedTuple, cast

import numpy as np

Array = np.ndarray


class Weights(NamedTuple):
    """One layer and direction, as torch has it: (G * H, I), (G * H, H), (G * H,), (G * H,)."""

    ih: Array
    hh: Array
    b_ih: Array
    b_hh: Array


FROM_ZEROS = "the carry starts from zeros"
Options = Mapping[str, object]
Step = Callable[[Weights, Array, tuple[Array, ...], Options], tuple[Array, ...]]


@dataclass(frozen=True)
class Deviation:
    """One known way to differ: the option and the value it takes, in words."""

    option: str
    value: object
    words: str


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def _changed(w: Weights, options: Options) -> Weights:
    """Weights with the deviations that every cell can have, in all gates or in one."""
    hidden_size = w.hh.shape[1]
    if "missing" in options:
        missing, gate = cast(tuple[str, int | None], options["missing"])
        bias = np.array(getattr(w, missing))
        bias[
            slice(None) if gate is None else slice(gate * hidden_size, (gate + 1) * hidden_size)
        ] = 0
        w = w._replace(**{missing: bias})
    if "transposed" in options:
        gates = np.split(w.hh, len(w.hh) // hidden_size)
        chosen = options["transposed"]
        turned = [g.T if chosen in (k, "all") else g for k, g in enumerate(gates)]
        w = w._replace(hh=np.concatenate(turned))
    return w


def _plain_step(activation: Callable[[Array], Array]) -> Step:
    def step(w: Weights, x: Array, carry: tuple[Array, ...], options: Options) -> tuple[Array, ...]:
        """One step: (weights, x, carry) to the next carry."""
        w = _changed(w, options)
        squash = options.get("activation", activation)
        assert callable(squash)
        return (squash(x @ w.ih.T + w.b_ih + carry[0] @ w.hh.T + w.b_hh),)

    return step


def _gru_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    w, (h,) = _changed(w, options), carry
    hard = str(options.get("hard", ""))
    order = options.get("order", (0, 1, 2))
    assert isinstance(order, tuple)
    xs, us, bs = (
        np.split(a, 3, axis=axis) for a, axis in ((x @ w.ih.T, 1), (w.hh, 0), (w.b_hh, 0))
    )
    cs = np.split(w.b_ih, 3)
    r, z = (
        (_hard_sigmoid if name in hard else sigmoid)(xs[k] + cs[k] + h @ us[k].T + bs[k])
        for name, k in zip("rz", order, strict=False)
    )
    k = order[2]
    b_in, b_hn = cs[k], bs[k]
    if options.get("b_hn") in ("outside", "missing"):
        b_in, b_hn = b_in + (b_hn if options["b_hn"] == "outside" else 0), np.zeros_like(b_hn)
    reset = options.get("reset", "after")
    product = (r * h) @ us[k].T + b_hn if reset == "before" else r * (h @ us[k].T + b_hn)
    product = h @ us[k].T + b_hn if reset == "none" else product
    n = np.tanh(xs[k] + b_in + product)
    return ((1 - z) * h + z * n if options.get("z") == "new" else (1 - z) * n + z * h,)


def _lstm_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    w, (h, c) = _changed(w, options), carry
    gates = np.split(x @ w.ih.T + w.b_ih + h @ w.hh.T + w.b_hh, 4, axis=1)
    order = options.get("order", (0, 1, 2, 3))
    assert isinstance(order, tuple)
    i, f, g, o = (gates[k] for k in order)
    after = sigmoid(f + (1.0 if options.get("forget") else 0.0)) * c + sigmoid(i) * np.tanh(g)
    seen = {"plain": after, "old": np.tanh(c)}.get(str(options.get("output")), np.tanh(after))
    out = sigmoid(o) * seen
    return (after, out) if options.get("carry") == "exchanged" else (out, after)


def _hard_sigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _orders(names: str) -> list[Deviation]:
    right = tuple(range(len(names)))
    found = []
    for order in permutations(right):
        if order == right:
            continue
        exchanged = [k for k in right if order[k] != k]
        shown = ", ".join(names[order.index(k)] for k in right)
        words = f"the gates lie in the order {shown}"
        if len(exchanged) == 2:
            words += f" ({' and '.join(names[k] for k in exchanged)} exchanged)"
        found.append(Deviation("order", order, words))
    return found


def _common(gates: str) -> list[Deviation]:
    """What can be wrong with the weights and the carry of every cell."""
    biases = {"b_hh": "hidden", "b_ih": "input"}
    found = [
        Deviation("missing", (name, None), f"the {kind} bias {name} is missing")
        for name, kind in biases.items()
    ]
    found.append(Deviation("transposed", "all", "the recurrent weight is transposed"))
    found.append(Deviation("carry_in", "zeros", FROM_ZEROS))
    for k, gate in enumerate(gates if len(gates) > 1 else ""):
        for name, kind in biases.items():
            words = f"the {kind} bias {name} of gate {gate} is missing"
            found.append(Deviation("missing", (name, k), words))
        words = f"the recurrent weight of gate {gate} is transposed"
        found.append(Deviation("transposed", k, words))
    return found


_GRU = [
    Deviation("reset", "before", "the reset gate is applied before the product"),
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
    Deviation("output", "old", "the output sees the old cell state"),
    Deviation("carry", "exchanged", "h and c are exchanged"),
    *_orders("ifgo"),
]
_ACTIVATIONS = [
    Deviation("activation", np.tanh, "the activation is tanh"),
    Deviation("activation", _relu, "the activation is relu"),
    Deviation("activation", lambda x: x, "there is no activation"),
]

EQUATIONS: dict[str, tuple[Step, list[Deviation]]] = {
    "tanh": (_plain_step(np.tanh), [*_ACTIVATIONS[1:], *_common("h")]),
    "relu": (_plain_step(_relu), [*_ACTIVATIONS[::2], *_common("h")]),
    "gru": (_gru_step, [*_GRU, *_common("rzn")]),
    "lstm": (_lstm_step, [*_LSTM, *_common("ifgo")]),
}
"""PyTorch's equation of each cell, and how it is known to be varied."""


def variants(cell: str) -> Iterator[tuple[str, Callable[..., tuple[Array, ...]]]]:
    """Every variant of a cell with up to two deviations, the simplest first.

    Gives what it is in words, empty for PyTorch's own, and `step(weights, x, carry)`.
    """
    step, deviations = EQUATIONS[cell]
    pairs = (p for p in combinations(deviations, 2) if p[0].option != p[1].option)
    for chosen in [(), *((d,) for d in deviations), *pairs]:
        options = {d.option: d.value for d in chosen}
        words = " and ".join(d.words for d in chosen)
        yield words, lambda w, x, carry, options=options: step(w, x, carry, options)
