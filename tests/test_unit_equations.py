"""Every equation with every deviation computes what its words say, written out once more.

Shapes: B batch, I input size, H hidden size.
"""

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
import torch
from scipy.special import expit, log_expit

from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import Cell
from parity.core.reference_layers import REFERENCE_CELLS, gated
from parity.diagnosis.equations import EQUATIONS, FROM_ZEROS, sigmoid, variants

B, I, H = 7, 4, 4
GATES = {"tanh": "h", "relu": "h", "gru": "rzn", "lstm": "ifgo", "lru": "x"}
GATES |= {"gru-reset-before": "rzn", "paper-mgu": "fn"}
FIELDS = {"lstm": ("h", "c")}
# Options of weights and the carry, which every cell has, and the order of its gates.
COMMON = ("missing", "transposed", "carry_in", "order")


def gates_of(cell):
    """The letters of a cell's gates in the order of their rows."""
    return GATES.get(cell) or "".join(CELLS[cell].gates)


def case_of(cell):
    """Weights, input and carry so large that gates leave their linear range."""
    rng = np.random.default_rng(len(cell))
    reference = REFERENCE_CELLS.get(cell)
    shapes = (reference.shapes if reference else gated(len(gates_of(cell))))(I, H)
    w = {name: rng.uniform(-1.5, 1.5, shape) for name, shape in shapes.items()}
    fields = reference.fields if reference else FIELDS.get(cell, ("h",))
    carry = {name: rng.uniform(-1, 1, (B, H)) for name in fields}
    if "n" in carry:
        carry["n"] = rng.uniform(0.5, 1.5, (B, H))
        carry["n"][0] = 0  # no past
    return w, rng.uniform(-2, 2, (B, I)), tuple(carry.values())


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
OWN = [
    (cell, deviation.words)
    for cell, (_, deviations) in EQUATIONS.items()
    for deviation in deviations
    if deviation.option not in COMMON
]


def steps_of(cell):
    """The step of each variant by its words."""
    return {variant.words: variant.step for variant in variants(cell)}


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def differ(got, expected):
    return any(not np.allclose(a, b, rtol=1e-6) for a, b in zip(got, expected, strict=True))


def test_every_equation_has_an_oracle():
    assert ORACLES.keys() == EQUATIONS.keys()
    assert list(variants("mogrifier-lstm")) == []


@pytest.mark.parametrize("cell", EQUATIONS)
def test_the_equation_itself_is_the_references(cell):
    w, x, carry = case_of(cell)
    got = next(variants(cell)).step(w, x, carry)
    assert_same(got, ORACLES[cell](w, x, carry, ""))
    if cell in REFERENCE_CELLS:
        tensors = {name: torch.tensor(array) for name, array in w.items()}
        after = REFERENCE_CELLS[cell].step(
            tensors, torch.tensor(x), tuple(map(torch.tensor, carry))
        )
        assert_same(got, [field.numpy() for field in after])


@pytest.mark.parametrize(("cell", "words"), OWN)
def test_a_deviation_is_what_its_words_say(cell, words):
    w, x, carry = case_of(cell)
    steps = steps_of(cell)
    got = steps[words](w, x, carry)
    assert_same(got, ORACLES[cell](w, x, carry, words))
    assert differ(got, steps[""](w, x, carry))


def test_the_sigmoid_of_large_numbers_is_0_or_1():
    x = np.array([-1e4, -3.0, 0.0, 3.0, 1e4])
    np.testing.assert_allclose(sigmoid(x), expit(x), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("cell", EQUATIONS)
def test_gates_in_another_order_are_read_from_where_they_lie(cell):
    """Every order but the right one, once; the two of a mere exchange are named."""
    gates = gates_of(cell)
    if isinstance(CELLS[cell], Cell):
        assert gates == "".join(CELLS[cell].gates)
    w, x, carry = case_of(cell)
    steps = steps_of(cell)
    words = [d.words for d in EQUATIONS[cell][1] if d.option == "order"]
    if len(gates) == 1 or cell in ("tanh", "relu"):
        assert words == []
        return
    assert len(set(words)) == len(words) == factorial(len(gates)) - 1
    for order in permutations(gates):
        if order == tuple(gates):
            continue
        moved = [a for a, b in zip(gates, order, strict=True) if a != b]
        name = f"the gates lie in the order {', '.join(order)}"
        if len(moved) == 2:
            name += f" ({' and '.join(moved)} exchanged)"
        # Block k holds the gate order[k]; the equation itself reads them in the order of `gates`.
        moved_back = {}
        for key, array in w.items():
            if key.startswith(("weight_", "bias_")):
                lying = blocks(array, order, axis=0)
                array = np.concatenate([lying[gate] for gate in gates])
            moved_back[key] = array
        assert_same(steps[name](w, x, carry), steps[""](moved_back, x, carry))


@pytest.mark.parametrize("cell", EQUATIONS)
def test_weights_that_are_missing_or_transposed_are_so_in_the_gate_that_is_named(cell):
    gates = gates_of(cell)
    w, x, carry = case_of(cell)
    steps = steps_of(cell)
    singles = {d.words for d in EQUATIONS[cell][1] if d.option in ("missing", "transposed")}
    named = {"hidden bias b_hh": "bias_hh", "input bias b_ih": "bias_ih"}
    named["recurrent weight"] = "weight_hh"
    expected = set()
    for what, key in named.items():
        if key not in w:
            continue
        end = "is transposed" if key == "weight_hh" else "is missing"
        places = {f"the {what} {end}": gates}
        if len(gates) > 1:
            places |= {f"the {what} of gate {gate} {end}": gate for gate in gates}
        for words, chosen in places.items():
            expected.add(words)
            parts = blocks(np.array(w[key]), gates, axis=0)
            for gate in chosen:
                parts[gate] = parts[gate].T if key == "weight_hh" else 0 * parts[gate]
            changed = {**w, key: np.concatenate(list(parts.values()))}
            before = np.array(w[key])
            got = steps[words](w, x, carry)
            assert_same(got, steps[""](changed, x, carry))
            assert differ(got, steps[""](w, x, carry))
            np.testing.assert_array_equal(w[key], before)
    assert singles == expected
    # The step itself knows nothing of where its carry comes from.
    assert_same(steps[FROM_ZEROS](w, x, carry), steps[""](w, x, carry))


@pytest.mark.parametrize("cell", EQUATIONS)
def test_variants_are_sorted_and_pairs_have_two_options(cell):
    deviations = EQUATIONS[cell][1]
    found = list(variants(cell))
    assert len({d.words for d in deviations}) == len(deviations)
    pairs = [(a, b) for a, b in combinations(deviations, 2) if a.option != b.option]
    expected = ["", *(d.words for d in deviations), *(f"{a.words} and {b.words}" for a, b in pairs)]
    assert [variant.words for variant in found] == expected
    counts = [0] + [1] * len(deviations) + [2] * len(pairs)
    assert [variant.deviations for variant in found] == counts


def test_a_pair_of_deviations_is_both():
    w, x, carry = case_of("gru")
    steps = steps_of("gru")
    missing = "the hidden bias b_hh is missing"
    one = "z weighs the new candidate instead of the old state"
    changed = {**w, "bias_hh": 0 * w["bias_hh"]}
    assert_same(steps[f"{one} and {missing}"](w, x, carry), steps[one](changed, x, carry))
