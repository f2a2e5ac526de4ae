"""Recurrent equations with known deviations from PyTorch's, in plain NumPy.

Shapes: B batch, I input size, H hidden size, G gates.

When a layer differs from PyTorch's, one of these may be what it really computes: each deviation is
something that some library, paper or bug does. `variants` lists the equation with every
deviation and every pair of them; the one that reproduces the numbers names the cause.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray

Weights = Mapping[str, Array]
"""The weights of one layer and direction, by torch's names without the suffix.

weight_ih (G * H, I), weight_hh (G * H, H), bias_ih and bias_hh (G * H,), and the cell's own vectors
(H,)."""

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
    if "missing" in options:
        name, gate, count = options["missing"]
        biases = np.split(np.array(w[name]), count)  # (G * H,) to G times (H,)
        for k, bias in enumerate(biases):
            if gate in (k, "all"):
                bias[:] = 0
        w = {**w, name: np.concatenate(biases)}
    if "transposed" in options:
        weight_hh = w["weight_hh"]
        hidden_size = weight_hh.shape[1]
        gates = np.split(weight_hh, len(weight_hh) // hidden_size)  # (G * H, H) to G times (H, H)
        for k, gate_weight in enumerate(gates):
            if options["transposed"] in (k, "all"):
                gates[k] = gate_weight.T
        w = {**w, "weight_hh": np.concatenate(gates)}
    return w


def _halves(w: Weights, x: Array, h: Array) -> tuple[Array, Array]:
    # The two products with their biases, (B, G * H) each.
    return x @ w["weight_ih"].T + w["bias_ih"], h @ w["weight_hh"].T + w["bias_hh"]


def _gates(w: Weights, x: Array, h: Array, count: int, options: Options) -> list[Array]:
    # The gates in the order of the equation, (B, H) each, wherever their rows lie.
    of_x, of_h = _halves(w, x, h)
    gates = np.split(of_x + of_h, count, axis=1)
    return [gates[k] for k in options.get("order", range(count))]


def _plain_step(activation: Callable[[Array], Array]) -> Step:
    # h' = f(W x + b + U h + b), with f = tanh or relu.
    def step(w: Weights, x: Array, carry: tuple[Array, ...], options: Options) -> tuple[Array, ...]:
        w = _deviating(w, options)
        squash = options.get("activation", activation)
        of_x, of_h = _halves(w, x, carry[0])
        return (squash(of_x + of_h),)

    return step


def _gru_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # n = tanh(x_n + r * h_n), h' = (1 - z) * n + z * h.
    w = _deviating(w, options)
    h = carry[0]
    order = options.get("order", (0, 1, 2))  # where the rows of r, z and n lie
    x_gates = np.split(x @ w["weight_ih"].T, 3, axis=1)  # (B, 3 * H) to 3 times (B, H)
    b_x = np.split(w["bias_ih"], 3)
    weights = np.split(w["weight_hh"], 3)  # (3 * H, H) to 3 times (H, H)
    b_h = np.split(w["bias_hh"], 3)

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
    i, f, g, o = _gates(w, x, h, 4, options)
    forget_bias = 1.0 if options.get("forget") else 0.0
    c_after = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(g)
    h_after = sigmoid(o) * _shown(c, c_after, options)
    if options.get("carry") == "exchanged":
        return c_after, h_after
    return h_after, c_after


def _shown(c: Array, c_after: Array, options: Options) -> Array:
    # What the output gate of an LSTM lets out: tanh(c').
    output = options.get("output")
    if output == "plain":
        return c_after
    return np.tanh(c if output == "old" else c_after)


def _zoneout_lstm_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # The expectation of zoneout: both fields of the LSTM's carry move towards its next one.
    rates = options.get("rates", (0.05, 0.5))  # of h and c
    after = _lstm_step(w, x, carry, options)
    fields = zip(rates, carry, after, strict=True)
    return tuple(rate * old + (1 - rate) * new for rate, old, new in fields)


def _peephole_lstm_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # As the LSTM, but i and f see c and o sees c'.
    w = _deviating(w, options)
    h, c = carry
    i, f, g, o = _gates(w, x, h, 4, options)
    peeps = {name: w[name] for name in ("p_i", "p_f", "p_o")}
    for name in options.get("without", ()):
        peeps[name] = np.zeros_like(peeps[name])
    c_after = sigmoid(f + peeps["p_f"] * c) * c + sigmoid(i + peeps["p_i"] * c) * np.tanh(g)
    seen = c if options.get("seen") == "old" else c_after
    return sigmoid(o + peeps["p_o"] * seen) * _shown(c, c_after, options), c_after


def _coupled_lstm_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # c' = f * c + (1 - f) * g.
    w = _deviating(w, options)
    h, c = carry
    f, g, o = _gates(w, x, h, 3, options)
    f = sigmoid(f)
    if options.get("f") == "new":
        f = 1 - f
    c_after = f * c + (1 - f) * np.tanh(g)
    return sigmoid(o) * _shown(c, c_after, options), c_after


def _mgu_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # n = tanh(x_n + f * h_n), h' = (1 - f) * n + f * h.
    w = _deviating(w, options)
    h = carry[0]
    order = options.get("order", (0, 1))
    of_x, of_h = _halves(w, x, h)
    x_gates = np.split(of_x, 2, axis=1)  # (B, 2 * H) to 2 times (B, H)
    h_gates = np.split(of_h, 2, axis=1)
    f = sigmoid(x_gates[order[0]] + h_gates[order[0]])
    h_n = h_gates[order[1]]
    if options.get("reset") == "before":
        rows = np.split(w["weight_hh"], 2)[order[1]]  # (H, H)
        h_n = (f * h) @ rows.T + np.split(w["bias_hh"], 2)[order[1]]
    elif options.get("reset") != "none":
        h_n = f * h_n
    n = np.tanh(x_gates[order[1]] + h_n)
    if options.get("f") == "new":
        f = 1 - f
    return ((1 - f) * n + f * h,)


def _log_sigmoid(x: Array) -> Array:
    return -np.logaddexp(0, -x)


def _slstm_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # c' = f * c + i * z and n' = f * n + i, both over exp(m'); h' = o * c' / n'.
    w = _deviating(w, options)
    h, c, n, m = carry
    i, f, z, o = _gates(w, x, h, 4, options)
    log_f = f if options.get("forget") == "exponential" else _log_sigmoid(f)
    past = log_f + (0 if options.get("m") == "lost" else m)
    past = np.where(n == 0, i, past)
    m_after = np.maximum(past, i)
    i = np.exp(i - m_after)
    f = np.exp(past - m_after)
    c_after = f * c + i * np.tanh(z)
    n_after = f * n + i
    if options.get("n") == "not forgotten":
        n_after = n + i
    shown = c_after if options.get("output") == "not divided" else c_after / n_after
    return sigmoid(o) * shown, c_after, n_after, m_after


def _input_gates(w: Weights, x: Array, count: int, options: Options) -> list[Array]:
    # The gates of a cell without a recurrent product, (B, H) each.
    w = _deviating(w, options)
    gates = np.split(x @ w["weight_ih"].T + w["bias_ih"], count, axis=1)
    return [gates[k] for k in options.get("order", range(count))]


def _pooled(f: Array, z: Array, c: Array, options: Options) -> Array:
    # f * c + (1 - f) * z.
    f = sigmoid(f)
    if options.get("f") == "new":
        f = 1 - f
    if options.get("z") != "plain":
        z = np.tanh(z)
    return f * c + (1 - f) * z


def _both_inputs(x: Array, before: Array, options: Options) -> Array:
    # What a window of 2 reads, (B, 2 * I).
    if options.get("before") == "zero":
        before = np.zeros_like(before)
    if options.get("before") == "first":
        return np.concatenate([before, x], axis=1)
    return np.concatenate([x, before], axis=1)


def _qrnn_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # fo-pooling, window 2.
    _, c, before = carry
    z, f, o = _input_gates(w, _both_inputs(x, before, options), 3, options)
    c_after = _pooled(f, z, c, options)
    return sigmoid(o) * (c if options.get("output") == "old" else c_after), c_after, x


def _zoneout_qrnn_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # As the QRNN, with the expectation of zoneout of its state.
    _, c, before = carry
    z, f, o = _input_gates(w, _both_inputs(x, before, options), 3, options)
    rate = options.get("rate", 0.1)
    c_after = rate * c + (1 - rate) * _pooled(f, z, c, options)
    return sigmoid(o) * (c if options.get("output") == "old" else c_after), c_after, x


def _qrnn_1_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # fo-pooling, window 1.
    _, c = carry
    z, f, o = _input_gates(w, x, 3, options)
    c_after = _pooled(f, z, c, options)
    return sigmoid(o) * (c if options.get("output") == "old" else c_after), c_after


def _qrnn_f_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # f-pooling, window 2.
    _, c, before = carry
    z, f = _input_gates(w, _both_inputs(x, before, options), 2, options)
    c_after = _pooled(f, z, c, options)
    return c_after, c_after, x


def _candidate(n: Array, options: Options) -> Array:
    # g(n) of minGRU and minLSTM, which is positive.
    if options.get("g") == "none":
        return n
    if options.get("g") == "tanh":
        return np.tanh(n)
    return np.where(n >= 0, n + 0.5, sigmoid(n))


def _min_gru_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # h' = (1 - z) * h + z * g(n).
    z, n = _input_gates(w, x, 2, options)
    z = sigmoid(z)
    if options.get("z") == "old":
        z = 1 - z
    return ((1 - z) * carry[0] + z * _candidate(n, options),)


def _min_lstm_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # h' = f * h + i * g(n), with f and i over their sum.
    f, i, n = _input_gates(w, x, 3, options)
    f = sigmoid(f)
    i = sigmoid(i)
    total = f + i
    if options.get("gates") == "free":
        total = np.ones_like(total)
    h = carry[0]
    if options.get("h") == "g":
        h = _candidate(h, {})
    return (f / total * h + i / total * _candidate(n, options),)


def _scale(a: Array, options: Options) -> Array:
    # What an LRU multiplies its input by.
    if options.get("scale") == "none":
        return np.ones_like(a)
    if options.get("scale") == "1 - a":
        return 1 - a
    return np.sqrt(1 - a**2)


def _rg_lru_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # h' = a * h + sqrt(1 - a^2) * i * x, with log a = -8 softplus(lam) r.
    r, i, x_gate = _input_gates(w, x, 3, options)
    power = 1.0 if options.get("power") == "none" else 8.0
    a = np.exp(-power * np.logaddexp(0, w["lam"]) * sigmoid(r))
    return (a * carry[0] + _scale(a, options) * sigmoid(i) * x_gate,)


def _lru_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # h' = a * h + sqrt(1 - a^2) * x, with a = exp(-exp(nu)).
    (x_gate,) = _input_gates(w, x, 1, options)
    a = np.exp(-np.exp(w["nu"]))
    return (a * carry[0] + _scale(a, options) * x_gate,)


def _sru_step(
    w: Weights, x: Array, carry: tuple[Array, ...], options: Options
) -> tuple[Array, ...]:
    # c' = f * c + (1 - f) * z, h' = r * c' + (1 - r) * x.
    _, c = carry
    z, f, r, x_gate = _input_gates(w, x, 4, options)
    peeps = {name: w[name] for name in ("v_f", "v_r")}
    for name in options.get("without", ()):
        peeps[name] = np.zeros_like(peeps[name])
    f = sigmoid(f + peeps["v_f"] * c)
    c_after = f * c + (1 - f) * (np.tanh(z) if options.get("z") == "tanh" else z)
    r = sigmoid(r + peeps["v_r"] * (c_after if options.get("seen") == "new" else c))
    shown = np.tanh(c_after) if options.get("output") == "tanh" else c_after
    highway = 0 if options.get("highway") == "none" else (1 - r) * x_gate
    return r * shown + highway, c_after


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


def _common(gates: str, *, recurrent: bool = True) -> list[Deviation]:
    # What can be wrong with the weights and the carry of every cell.
    biases = {"bias_hh": "hidden bias b_hh", "bias_ih": "input bias b_ih"}
    if not recurrent:
        del biases["bias_hh"]
    count = len(gates)
    found = []
    for name, words in biases.items():
        found.append(Deviation("missing", (name, "all", count), f"the {words} is missing"))
    found.append(Deviation("carry_in", "zeros", FROM_ZEROS))
    if recurrent:
        found.append(Deviation("transposed", "all", "the recurrent weight is transposed"))
    if count == 1:
        return found
    for k, gate in enumerate(gates):
        for name, words in biases.items():
            missing = f"the {words} of gate {gate} is missing"
            found.append(Deviation("missing", (name, k, count), missing))
        if not recurrent:
            continue
        words = f"the recurrent weight of gate {gate} is transposed"
        found.append(Deviation("transposed", k, words))
    return found


def _linear(gates: str) -> list[Deviation]:
    # What can be wrong with a cell without a recurrent product.
    return _common(gates, recurrent=False)


_GRU = [
    Deviation("reset", "before", "the reset gate is applied before the matmul"),
    Deviation("reset", "none", "there is no reset gate"),
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
_OUTPUTS = [
    Deviation("output", "plain", "the output has no tanh"),
    Deviation("output", "old", "the output reads the old cell state"),
]
_LSTM = [
    Deviation("forget", True, "1 is added to the forget gate"),
    *_OUTPUTS,
    Deviation("carry", "exchanged", "h and c are exchanged"),
    *_orders("ifgo"),
]
_PEEPHOLE_LSTM = [
    Deviation("seen", "old", "the output gate sees the old cell state"),
    Deviation("without", ("p_i", "p_f", "p_o"), "there are no peepholes"),
    Deviation("without", ("p_i",), "gate i has no peephole"),
    Deviation("without", ("p_f",), "gate f has no peephole"),
    Deviation("without", ("p_o",), "gate o has no peephole"),
    *_OUTPUTS,
    *_orders("ifgo"),
]
_COUPLED_LSTM = [
    Deviation("f", "new", "f weighs the new candidate instead of the old cell state"),
    *_OUTPUTS,
    *_orders("fgo"),
]
_ZONEOUT_LSTM = [
    Deviation("rates", (0, 0), "there is no zoneout"),
    Deviation("rates", (0.5, 0.05), "the zoneout rates of h and c are exchanged"),
    Deviation("rates", (0.95, 0.5), "the zoneout rate of h weighs the new state"),
    Deviation("rates", (0, 0.5), "h has no zoneout"),
    Deviation("rates", (0.05, 0), "c has no zoneout"),
]
_ZONEOUT_QRNN = [
    Deviation("rate", 0, "there is no zoneout"),
    Deviation("rate", 0.9, "the zoneout rate weighs the new state"),
]
_MGU = [
    Deviation("f", "new", "f weighs the new candidate instead of the old state"),
    Deviation("reset", "before", "f is applied before the matmul"),
    Deviation("reset", "none", "the candidate has no reset"),
    *_orders("fn"),
]
_SLSTM = [
    Deviation("forget", "exponential", "the forget gate is an exponential, not a sigmoid"),
    Deviation("output", "not divided", "the output is not divided by the normalizer"),
    Deviation("n", "not forgotten", "the normalizer forgets nothing"),
    Deviation("m", "lost", "the stabilizer is not handed on"),
    *_orders("ifzo"),
]
_F_NEW = Deviation("f", "new", "f weighs the new candidate instead of the old state")
_NO_TANH = Deviation("z", "plain", "the candidate has no tanh")
_OLD_STATE = Deviation("output", "old", "the output reads the old state")
_WINDOW = [
    Deviation("before", "zero", "the input before is taken for zero"),
    Deviation("before", "first", "the input before stands first"),
]
_CANDIDATES = [
    Deviation("g", "none", "the candidate does not go through g"),
    Deviation("g", "tanh", "the candidate goes through tanh instead of g"),
]
_SCALES = [
    Deviation("scale", "none", "the input is not scaled"),
    Deviation("scale", "1 - a", "the input is scaled by 1 - a"),
]
_SRU = [
    Deviation("seen", "new", "the reset gate sees the new state"),
    Deviation("without", ("v_f", "v_r"), "no gate sees the state"),
    Deviation("without", ("v_f",), "gate f does not see the state"),
    Deviation("without", ("v_r",), "gate r does not see the state"),
    Deviation("z", "tanh", "the candidate has a tanh"),
    Deviation("output", "tanh", "the output has a tanh"),
    Deviation("highway", "none", "there is no highway connection"),
    *_orders("zfrx"),
]
_TANH = Deviation("activation", np.tanh, "the activation is tanh")
_RELU = Deviation("activation", _relu, "the activation is relu")
_LINEAR = Deviation("activation", lambda x: x, "there is no activation")


def _with(step: Step, **always: object) -> Step:
    # A step with options that its deviations may replace.
    return lambda w, x, carry, options: step(w, x, carry, {**always, **options})


# The reference's equation of each cell, and how it is known to be varied.
EQUATIONS: dict[str, tuple[Step, list[Deviation]]] = {
    "tanh": (_plain_step(np.tanh), [_RELU, _LINEAR, *_common("h")]),
    "relu": (_plain_step(_relu), [_TANH, _LINEAR, *_common("h")]),
    "gru": (_gru_step, [*_GRU, *_common("rzn")]),
    "lstm": (_lstm_step, [*_LSTM, *_common("ifgo")]),
    "zoneout-lstm": (_zoneout_lstm_step, [*_ZONEOUT_LSTM, *_LSTM, *_common("ifgo")]),
    "peephole-lstm": (_peephole_lstm_step, [*_PEEPHOLE_LSTM, *_common("ifgo")]),
    "coupled-lstm": (_coupled_lstm_step, [*_COUPLED_LSTM, *_common("fgo")]),
    "mgu": (_mgu_step, [*_MGU, *_common("fn")]),
    "slstm": (_slstm_step, [*_SLSTM, *_common("ifzo")]),
    "qrnn": (
        _qrnn_step,
        [_F_NEW, _NO_TANH, _OLD_STATE, *_WINDOW, *_orders("zfo"), *_linear("zfo")],
    ),
    "zoneout-qrnn": (
        _zoneout_qrnn_step,
        [*_ZONEOUT_QRNN, _F_NEW, _NO_TANH, *_WINDOW, *_orders("zfo"), *_linear("zfo")],
    ),
    "qrnn-1": (_qrnn_1_step, [_F_NEW, _NO_TANH, _OLD_STATE, *_orders("zfo"), *_linear("zfo")]),
    "qrnn-f": (_qrnn_f_step, [_F_NEW, _NO_TANH, *_WINDOW, *_orders("zf"), *_linear("zf")]),
    "mingru": (
        _min_gru_step,
        [
            Deviation("z", "old", "z weighs the old state instead of the new candidate"),
            *_CANDIDATES,
            *_orders("zn"),
            *_linear("zn"),
        ],
    ),
    "minlstm": (
        _min_lstm_step,
        [
            Deviation("gates", "free", "the gates are not normalized"),
            Deviation("h", "g", "the old state goes through g"),
            *_CANDIDATES,
            *_orders("fin"),
            *_linear("fin"),
        ],
    ),
    "rg-lru": (
        _rg_lru_step,
        [
            Deviation("power", "none", "the power of the decay is 1 instead of 8"),
            *_SCALES,
            *_orders("rix"),
            *_linear("rix"),
        ],
    ),
    "lru": (_lru_step, [*_SCALES, *_linear("x")]),
    "sru": (_sru_step, [*_SRU, *_linear("zfrx")]),
    "gru-reset-before": (
        _with(_gru_step, reset="before"),
        [
            Deviation("reset", "after", "the reset gate is applied after the matmul"),
            *(deviation for deviation in _GRU if deviation.option not in ("reset", "b_hn")),
            *_common("rzn"),
        ],
    ),
    "paper-mgu": (
        _with(_mgu_step, reset="before", f="new"),
        [
            Deviation("f", "old", "f weighs the old state instead of the new candidate"),
            Deviation("reset", "after", "f is applied after the matmul"),
            Deviation("reset", "none", "the candidate has no reset"),
            *_orders("fn"),
            *_common("fn"),
        ],
    ),
}


class Variant(NamedTuple):
    """An equation that differs from the reference's in known ways.

    Attributes:
        deviations: how many there are.
        words: what they are; empty for the reference's own equation.
        step: `step(weights, x, carry) -> carry`.
    """

    deviations: int
    words: str
    step: Callable[..., tuple[Array, ...]]


def variants(cell: str) -> Iterator[Variant]:
    """Every variant of a cell with up to two deviations, the simplest first.

    Of a cell without an entry in `EQUATIONS` none is known.
    """
    if cell not in EQUATIONS:
        return
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
        yield Variant(len(together), words, partial(_varied, step, options))


def _varied(
    step: Step, options: Options, w: Weights, x: Array, carry: tuple[Array, ...]
) -> tuple[Array, ...]:
    return step(w, x, carry, options)
