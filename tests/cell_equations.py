"""The equations of recurrent cells, each with the deviations that are known, written out once more.

A function takes the weights, the input, the carry and the words of a deviation, empty for none, and
gives the carry after one step. Shapes: B batch, I input size, H hidden size.
"""

import numpy as np
from scipy.special import expit, log_expit

H = 4


def hard(x):
    return np.minimum(np.maximum(x / 6 + 0.5, 0), 1)


def blocks(array, gates, axis=-1):
    return dict(zip(gates, np.split(array, len(gates), axis=axis), strict=True))


def sums(w, x, h, gates):
    return blocks(
        x @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"], gates
    ).values()


def of_input(w, x, gates):
    return blocks(x @ w["weight_ih"].T + w["bias_ih"], gates).values()


def plain(activation):
    def step(w, x, carry, d):
        (gate,) = sums(w, x, carry[0], "h")
        if d == "there is no activation":
            return (gate,)
        other = {"the activation is relu": "relu", "the activation is tanh": "tanh"}
        return (np.tanh(gate) if other.get(d, activation) == "tanh" else gate * (gate > 0),)

    return step


def gru(w, x, carry, d):
    h = carry[0]
    r, z, _ = sums(w, x, h, "rzn")
    x_n = x @ w["weight_ih"][2 * H :].T + w["bias_ih"][2 * H :]
    rows, bias = w["weight_hh"][2 * H :], w["bias_hh"][2 * H :]
    both = d == "the gates use a hard sigmoid"
    r = hard(r) if both or d == "gate r uses a hard sigmoid" else expit(r)
    z = hard(z) if both or d == "gate z uses a hard sigmoid" else expit(z)
    n = x_n + r * (h @ rows.T + bias)
    if d == "the reset gate is applied before the matmul":
        n = x_n + (r * h) @ rows.T + bias
    elif d == "there is no reset gate":
        n = x_n + h @ rows.T + bias
    elif d.startswith("the hidden bias b_hn is missing inside the reset gate: it is added outside"):
        n = x_n + bias + r * (h @ rows.T)
    if d == "z weighs the new candidate instead of the old state":
        z = 1 - z
    return ((1 - z) * np.tanh(n) + z * h,)


def gru_reset_before(w, x, carry, d):
    if d == "the reset gate is applied after the matmul":
        return gru(w, x, carry, "")
    if not d:
        return gru(w, x, carry, "the reset gate is applied before the matmul")
    # Other gates: the candidate from those, as the exact equation has it.
    h = carry[0]
    r, z, _ = sums(w, x, h, "rzn")
    both = d == "the gates use a hard sigmoid"
    r = hard(r) if both or d == "gate r uses a hard sigmoid" else expit(r)
    z = hard(z) if both or d == "gate z uses a hard sigmoid" else expit(z)
    if d == "z weighs the new candidate instead of the old state":
        z = 1 - z
    n = x @ w["weight_ih"][2 * H :].T + w["bias_ih"][2 * H :]
    n = np.tanh(n + (r * h) @ w["weight_hh"][2 * H :].T + w["bias_hh"][2 * H :])
    return (n + z * (h - n),)


def shown(c, c_after, d):
    if d == "the output has no tanh":
        return c_after
    return np.tanh(c) if d == "the output reads the old cell state" else np.tanh(c_after)


def lstm(w, x, carry, d):
    h, c = carry
    i, f, g, o = sums(w, x, h, "ifgo")
    f = f + 1 if d == "1 is added to the forget gate" else f
    c_after = expit(f) * c + expit(i) * np.tanh(g)
    h_after = expit(o) * shown(c, c_after, d)
    return (c_after, h_after) if d == "h and c are exchanged" else (h_after, c_after)


ZONEOUT = {
    "there is no zoneout": (0, 0),
    "the zoneout rates of h and c are exchanged": (0.5, 0.05),
    "the zoneout rate of h weighs the new state": (0.95, 0.5),
    "h has no zoneout": (0, 0.5),
    "c has no zoneout": (0.05, 0),
}


def zoneout_lstm(w, x, carry, d):
    of_h, of_c = ZONEOUT.get(d, (0.05, 0.5))
    h, c = lstm(w, x, carry, d)
    return h + of_h * (carry[0] - h), c + of_c * (carry[1] - c)


def peephole_lstm(w, x, carry, d):
    h, c = carry
    i, f, g, o = sums(w, x, h, "ifgo")
    sees = {
        gate: d not in ("there are no peepholes", f"gate {gate} has no peephole") for gate in "ifo"
    }
    c_after = expit(f + sees["f"] * w["p_f"] * c) * c
    c_after = c_after + expit(i + sees["i"] * w["p_i"] * c) * np.tanh(g)
    seen = c if d == "the output gate sees the old cell state" else c_after
    return expit(o + sees["o"] * w["p_o"] * seen) * shown(c, c_after, d), c_after


def coupled_lstm(w, x, carry, d):
    h, c = carry
    f, g, o = sums(w, x, h, "fgo")
    of_old = expit(-f) if d.startswith("f weighs the new candidate") else expit(f)
    c_after = of_old * c + (1 - of_old) * np.tanh(g)
    return expit(o) * shown(c, c_after, d), c_after


def mgu(w, x, carry, d):
    h = carry[0]
    f, _ = sums(w, x, h, "fn")
    f = expit(f)
    x_n = x @ w["weight_ih"][H:].T + w["bias_ih"][H:]
    n = x_n + f * (h @ w["weight_hh"][H:].T + w["bias_hh"][H:])
    if d == "f is applied before the matmul":
        n = x_n + (f * h) @ w["weight_hh"][H:].T + w["bias_hh"][H:]
    elif d == "the candidate has no reset":
        n = x_n + h @ w["weight_hh"][H:].T + w["bias_hh"][H:]
    if d == "f weighs the new candidate instead of the old state":
        f = 1 - f
    return ((1 - f) * np.tanh(n) + f * h,)


def paper_mgu(w, x, carry, d):
    h = carry[0]
    n = np.zeros_like(h)
    f, _ = sums(w, x, h, "fn")
    f = expit(f)
    factor = 1.0 if d == "the candidate has no reset" else f
    n = x @ w["weight_ih"][H:].T + w["bias_ih"][H:]
    if d == "f is applied after the matmul":
        n = np.tanh(n + f * (h @ w["weight_hh"][H:].T + w["bias_hh"][H:]))
    else:
        n = np.tanh(n + (factor * h) @ w["weight_hh"][H:].T + w["bias_hh"][H:])
    if d == "f weighs the old state instead of the new candidate":
        return (f * h + (1 - f) * n,)
    return (f * n + (1 - f) * h,)


def slstm(w, x, carry, d):
    h, c, n, m = carry
    i, f, z, o = sums(w, x, h, "ifzo")
    log_f = f if d.startswith("the forget gate is an exponential") else log_expit(f)
    past = log_f if d == "the stabilizer is not handed on" else log_f + m
    past = np.where(n == 0, i, past)
    m_after = np.where(past > i, past, i)
    weight, decay = np.exp(i - m_after), np.exp(past - m_after)
    c_after = decay * c + weight * np.tanh(z)
    n_after = n + weight if d == "the normalizer forgets nothing" else decay * n + weight
    read = c_after if d == "the output is not divided by the normalizer" else c_after / n_after
    return expit(o) * read, c_after, n_after, m_after


def window(x, before, d):
    if d == "the input before stands first":
        return np.concatenate([before, x], axis=1)
    return np.concatenate([x, 0 * before if "taken for zero" in d else before], axis=1)


def pooled(f, z, c, d):
    of_old = expit(-f) if d.startswith("f weighs the new candidate") else expit(f)
    return of_old * c + (1 - of_old) * (z if d == "the candidate has no tanh" else np.tanh(z))


def qrnn(w, x, carry, d):
    c = carry[1]
    z, f, o = of_input(w, window(x, carry[2], d), "zfo")
    rate = {"the zoneout rate weighs the new state": 0.9, "there is no zoneout": 0}.get(d, 0)
    c_after = rate * c + (1 - rate) * pooled(f, z, c, d)
    return expit(o) * (c if d == "the output reads the old state" else c_after), c_after, x


def zoneout_qrnn(w, x, carry, d):
    c = carry[1]
    z, f, o = of_input(w, window(x, carry[2], d), "zfo")
    rate = {"the zoneout rate weighs the new state": 0.9, "there is no zoneout": 0}.get(d, 0.1)
    c_after = rate * c + (1 - rate) * pooled(f, z, c, d)
    return expit(o) * c_after, c_after, x


def qrnn_1(w, x, carry, d):
    z, f, o = of_input(w, x, "zfo")
    c_after = pooled(f, z, carry[1], d)
    read = carry[1] if d == "the output reads the old state" else c_after
    return expit(o) * read, c_after


def qrnn_f(w, x, carry, d):
    z, f = of_input(w, window(x, carry[2], d), "zf")
    return *[pooled(f, z, carry[1], d)] * 2, x


def candidate(n, d):
    if d == "the candidate does not go through g":
        return n
    if d == "the candidate goes through tanh instead of g":
        return np.tanh(n)
    return np.where(n >= 0, n + 0.5, expit(n))


def min_gru(w, x, carry, d):
    z, n = of_input(w, x, "zn")
    z = expit(-z) if d.startswith("z weighs the old state") else expit(z)
    return (carry[0] + z * (candidate(n, d) - carry[0]),)


def min_lstm(w, x, carry, d):
    f, i, n = of_input(w, x, "fin")
    total = 1 if d == "the gates are not normalized" else expit(f) + expit(i)
    h = candidate(carry[0], "") if d == "the old state goes through g" else carry[0]
    return ((expit(f) * h + expit(i) * candidate(n, d)) / total,)


def scale(a, d):
    scales = {"the input is not scaled": 1.0, "the input is scaled by 1 - a": 1 - a}
    return scales.get(d, np.sqrt(1 - a * a))


def rg_lru(w, x, carry, d):
    r, i, gate = of_input(w, x, "rix")
    power = 1 if d == "the power of the decay is 1 instead of 8" else 8
    a = (1 + np.exp(w["lam"])) ** (-power * expit(r))
    return (a * carry[0] + scale(a, d) * expit(i) * gate,)


def lru(w, x, carry, d):
    (gate,) = of_input(w, x, "x")
    a = np.exp(-np.exp(w["nu"]))
    return (a * carry[0] + scale(a, d) * gate,)


def sru(w, x, carry, d):
    c = carry[1]
    z, f, r, gate = of_input(w, x, "zfrx")
    sees = {
        g: d not in ("no gate sees the state", f"gate {g} does not see the state") for g in "fr"
    }
    f = expit(f + sees["f"] * w["v_f"] * c)
    c_after = f * c + (1 - f) * (np.tanh(z) if d == "the candidate has a tanh" else z)
    seen = c_after if d == "the reset gate sees the new state" else c
    r = expit(r + sees["r"] * w["v_r"] * seen)
    highway = 0 if d == "there is no highway connection" else (1 - r) * gate
    return r * (np.tanh(c_after) if d == "the output has a tanh" else c_after) + highway, c_after


ORACLES = {
    "tanh": plain("tanh"), "relu": plain("relu"), "gru": gru, "lstm": lstm,
    "zoneout-lstm": zoneout_lstm, "peephole-lstm": peephole_lstm, "coupled-lstm": coupled_lstm,
    "mgu": mgu, "slstm": slstm, "qrnn": qrnn, "zoneout-qrnn": zoneout_qrnn, "qrnn-1": qrnn_1,
    "qrnn-f": qrnn_f, "mingru": min_gru, "minlstm": min_lstm, "rg-lru": rg_lru, "lru": lru,
    "sru": sru, "gru-reset-before": gru_reset_before, "paper-mgu": paper_mgu,
}  # fmt: skip
