"""The references in PyTorch: loops over the textbook equation, against NumPy and against torch."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import parity
from jaxrnn.nn.layers import RNN
from jaxrnn.nn.models import CharLM
from jaxrnn.recurrent.catalog import BUILT_IN, CELLS
from jaxrnn.recurrent.cells import GRU, SLSTM, FreeCell, Hidden, SLSTMCarry
from parity import WeightMap
from parity.core.compare import Outcome, worst_outcome
from parity.core.layer_pairs import layer_pair
from parity.core.pairs import (
    H,
    carry_of_jax,
    carry_of_torch,
    named_carry_of_jax,
    named_carry_of_torch,
    sample_carry,
    torch_carry,
)
from parity.core.reference_layers import REFERENCE_CELLS, ReferenceCell, ReferenceRNN, gated
from parity.core.references import LAYERS, LOOP_CELLS, reference_of
from parity.diagnosis.identify import identified
from parity.diagnosis.localize import localize
from parity.diagnosis.stacks import sample_stack_case
from parity.suite.checks import values_check

T, B, I = 6, 3, 4  # noqa: E741: the field's letter
LENGTHS = [4, 6, 1]


# One unit at a time, from the numbers that its rows of the products give.


def plus_half(n):
    return n + 0.5 if n >= 0 else 1 / (1 + np.exp(-n))


def peephole_lstm(carry, g, p_i, p_f, p_o):
    c = carry[1]
    new = sigmoid(g[1] + p_f * c) * c + sigmoid(g[0] + p_i * c) * np.tanh(g[2])
    return sigmoid(g[3] + p_o * new) * np.tanh(new), new


def coupled_lstm(carry, g):
    new = sigmoid(g[0]) * carry[1] + (1 - sigmoid(g[0])) * np.tanh(g[1])
    return sigmoid(g[2]) * np.tanh(new), new


def slstm(carry, g):
    """Without a stabilizer: what it scales, c and n, is scaled back by exp(m)."""
    _, c, n, m = carry
    c = sigmoid(g[1]) * c * np.exp(m) + np.exp(g[0]) * np.tanh(g[2])
    n = sigmoid(g[1]) * n * np.exp(m) + np.exp(g[0])
    m = max(np.log(sigmoid(g[1])) + m, g[0])
    return sigmoid(g[3]) * c / n, c / np.exp(m), n / np.exp(m), m


def pooled(c, z, f):
    return sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(z)


def fo_pooled(carry, g):
    c = pooled(carry[1], g[0], g[1])
    return sigmoid(g[2]) * c, c


def zoneout_lstm(carry, g):
    new, o = sigmoid(g[1]) * carry[1] + sigmoid(g[0]) * np.tanh(g[2]), sigmoid(g[3])
    return 0.05 * carry[0] + 0.95 * o * np.tanh(new), (carry[1] + new) / 2


def zoneout_qrnn(carry, g):
    c = 0.1 * carry[1] + 0.9 * pooled(carry[1], g[0], g[1])
    return sigmoid(g[2]) * c, c


def minlstm(carry, g):
    f, i = sigmoid(g[0]), sigmoid(g[1])
    return ((f * carry[0] + i * plus_half(g[2])) / (f + i),)


def rg_lru(carry, g, decay):
    a = (1 / (1 + np.exp(decay))) ** (8 * sigmoid(g[0]))
    return (a * carry[0] + (1 - a * a) ** 0.5 * sigmoid(g[1]) * g[2],)


def lru(carry, g, nu):
    a = np.exp(-np.exp(nu))
    return (a * carry[0] + (1 - a * a) ** 0.5 * g[0],)


def sru(carry, g, v_f, v_r):
    c = carry[1]
    f, r = sigmoid(g[1] + v_f * c), sigmoid(g[2] + v_r * c)
    new = f * c + (1 - f) * g[0]
    return r * new + (1 - r) * g[3], new


def mingru(carry, g):
    return (carry[0] + sigmoid(g[0]) * (plus_half(g[1]) - carry[0]),)


SUMMED = {
    "peephole-lstm": peephole_lstm,
    "coupled-lstm": coupled_lstm,
    "zoneout-lstm": zoneout_lstm,
    "slstm": slstm,
}
"""Functions of the sum of both products."""
LINEAR = {
    "qrnn": fo_pooled,
    "zoneout-qrnn": zoneout_qrnn,
    "qrnn-1": fo_pooled,
    "qrnn-f": lambda carry, g: (pooled(carry[1], g[0], g[1]),) * 2,
    "mingru": mingru,
    "minlstm": minlstm,
    "rg-lru": rg_lru,
    "lru": lru,
    "sru": sru,
}
"""Functions of the product with the input alone."""


def normalized(v, gain, bias):
    return (v - v.mean()) / np.sqrt(v.var() + 1e-5) * gain + bias


def lstm(gates, c, read=lambda c: c):
    """h and c of a whole layer from its gates (4 * H,)."""
    i, f, g, o = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(read(c)), c


def layer_norm_lstm(p, x, h, c):
    gates = normalized(p["weight_ih"] @ x, p["gain_ih"], p["bias_ih"]) + p["bias"]
    gates = gates + normalized(p["weight_hh"] @ h, p["gain_hh"], p["bias_hh"])
    return lstm(gates, c, lambda c: normalized(c, p["gain_c"], p["bias_c"]))


def gru_reset_before(p, x, h):
    w, u, b = (np.split(p[kind], 3) for kind in ("weight_ih", "weight_hh", "bias_hh"))
    r, z = (sigmoid(w[k] @ x + np.split(p["bias_ih"], 3)[k] + u[k] @ h + b[k]) for k in range(2))
    n = np.tanh(w[2] @ x + np.split(p["bias_ih"], 3)[2] + u[2] @ (r * h) + b[2])
    return (z * h + (1 - z) * n,)


def multiplicative_lstm(p, x, h, c):
    m = (p["weight_mx"] @ x) * (p["weight_mh"] @ h)
    return lstm(p["weight_ih"] @ x + p["weight_hm"] @ m + p["bias"], c)


def mogrifier_lstm(p, x, h, c):
    x = 2 * sigmoid(p["weight_q1"] @ h) * x
    h = 2 * sigmoid(p["weight_r2"] @ x) * h
    x = 2 * sigmoid(p["weight_q3"] @ h) * x
    h = 2 * sigmoid(p["weight_r4"] @ x) * h
    x = 2 * sigmoid(p["weight_q5"] @ h) * x
    return lstm(p["weight_ih"] @ x + p["bias_ih"] + p["weight_hh"] @ h + p["bias_hh"], c)


def paper_mgu(p, x, h):
    w, u, b = (np.split(p[kind], 2) for kind in ("weight_ih", "weight_hh", "bias_hh"))
    b_f, b_n = np.split(p["bias_ih"], 2)
    f = sigmoid(w[0] @ x + b_f + u[0] @ h + b[0])
    return ((1 - f) * h + f * np.tanh(w[1] @ x + b_n + u[1] @ (f * h) + b[1]),)


FREE = {
    "layer-norm-lstm": layer_norm_lstm,
    "gru-reset-before": gru_reset_before,
    "multiplicative-lstm": multiplicative_lstm,
    "mogrifier-lstm": mogrifier_lstm,
    "paper-mgu": paper_mgu,
}
"""Functions of a whole layer."""
WIDE = ("qrnn", "qrnn-f", "zoneout-qrnn")
"""Cells that see the input before, too."""
MATRICES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def one_step(name, p, x, carry):
    """The carry of one sequence after a step: x (I,), fields (H,) or (I,)."""
    if name in FREE:
        return FREE[name](p, x, *carry)
    if name in WIDE:
        x_gates = p["weight_ih"] @ np.concatenate([x, carry[2]]) + p["bias_ih"]
    else:
        x_gates = p["weight_ih"] @ x + p["bias_ih"]
    units = len(carry[0])
    if name in LINEAR:
        step, gates = LINEAR[name], x_gates
    else:
        h_gates = p["weight_hh"] @ carry[0] + p["bias_hh"]
        step, gates = SUMMED.get(name), x_gates + h_gates
    after = []
    for k in range(units):
        if name == "mgu":
            f = sigmoid(gates[k])
            n = np.tanh(x_gates[units + k] + f * h_gates[units + k])
            after.append(((1 - f) * n + f * carry[0][k],))
            continue
        fields = [field[k] for field in carry if len(field) == units]
        own = [p[kind][k] for kind in p if kind not in MATRICES]
        after.append(step(fields, gates[k::units], *own))
    fields = tuple(np.array(field) for field in zip(*after, strict=True))
    return (*fields, x) if name in WIDE else fields


def in_numpy(name, weights, xs, carry, lengths, directions):
    """Each sequence alone: outputs (T, B, D * H), and the carry a layer and direction."""
    last = [list(part) for part in carry]
    ys = np.zeros((T, B, directions * H))
    for b, length in enumerate(lengths):
        below = xs[:length, b]  # (T, I)
        for layer in range(len(carry) // directions):
            outputs = []
            for direction in range(directions):
                part = f"l{layer}" + "_reverse" * direction
                own = {
                    key.removesuffix(f"_{part}"): array
                    for key, array in weights.items()
                    if key.endswith(f"_{part}")
                }
                k = layer * directions + direction
                fields = tuple(field[b] for field in carry[k])
                found = {}
                for t in range(length)[:: -1 if direction else 1]:
                    fields = one_step(name, own, below[t], fields)
                    found[t] = fields[0]
                outputs.append(np.stack([found[t] for t in range(length)]))
                for place, field in enumerate(fields):
                    last[k][place] = np.array(last[k][place])
                    last[k][place][b] = field
            below = np.concatenate(outputs, axis=1)
        ys[:length, b] = below
    return ys, last


@pytest.mark.parametrize("name", REFERENCE_CELLS)
def test_a_reference_computes_its_equation(name):
    """Two layers, both directions, lengths, and a carry that is not zero."""
    torch.manual_seed(0)
    module = LAYERS[name](I, H, 2, bidirectional=True).double()
    xs = torch.randn(T, B, I, dtype=torch.float64)
    carry = module.initial_carry(B)
    carry = (carry,) if isinstance(carry, torch.Tensor) else carry
    # Normalizers are positive.
    fields = [
        tuple(torch.rand_like(state) + 0.5 for state in field)  # (B, H) a layer and direction
        for field in carry
    ]
    given = [tuple(field) for field in zip(*fields, strict=True)]
    states = [torch.stack(f) if len({s.shape for s in f}) == 1 else f for f in fields]
    packed = pack_padded_sequence(xs, torch.tensor(LENGTHS), enforce_sorted=False)
    ys, after = module(packed, states[0] if len(states) == 1 else tuple(states))
    ys, _ = pad_packed_sequence(ys)

    weights = {key: array.numpy() for key, array in module.state_dict().items()}
    numbers = [tuple(state.numpy() for state in part) for part in given]
    expected, last = in_numpy(name, weights, xs.numpy(), numbers, LENGTHS, 2)
    np.testing.assert_allclose(ys.detach().numpy(), expected, rtol=1e-12, atol=1e-14)
    after = (after,) if isinstance(after, torch.Tensor) else after
    for place, field in enumerate(after):
        for k, state in enumerate(field):
            np.testing.assert_allclose(state.detach(), last[k][place], rtol=1e-12, atol=1e-14)


def torchs_lstm(p, x, carry):
    """The step of `torch.nn.LSTM`, to see that the loop around it is torch's."""
    h, c = carry
    gates = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
    i, f, g, o = gates.chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize(
    ("with_lengths", "dropout"), [(False, 0.0), (True, 0.0), (False, 0.4)], ids=str
)
def test_the_loop_is_torchs(with_lengths, dropout):
    """Layers, directions, carry, packed sequences and dropout, values and gradients."""
    cell = ReferenceCell(torchs_lstm, gated(4), ("h", "c"))
    ours = ReferenceRNN(cell, I, H, 3, bidirectional=True, dropout=dropout).double()
    theirs = torch.nn.LSTM(I, H, 3, bidirectional=True, dropout=dropout).double()
    theirs.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.manual_seed(1)
    xs = torch.randn(T, B, I, dtype=torch.float64)
    carry = tuple(torch.randn(6, B, H, dtype=torch.float64) for _ in range(2))
    results = []
    for module in (ours, theirs):
        inputs = xs
        if with_lengths:
            inputs = pack_padded_sequence(xs, torch.tensor(LENGTHS), enforce_sorted=False)
        torch.manual_seed(2)
        ys, (h, c) = module(inputs, carry)
        if with_lengths:
            ys = pad_packed_sequence(ys)[0]
        (ys.square().sum() + h.sum() + c.sum()).backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        results.append([ys, h, c, *gradients])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_every_cell_has_a_reference():
    assert {cell.name for cell in BUILT_IN} <= set(LAYERS)


def test_without_a_carry_it_starts_from_zeros():
    module = LAYERS["slstm"](I, H)
    xs = torch.randn(T, B, I)
    for got, expected in zip(module(xs)[1], module(xs, module.initial_carry(B))[1], strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", LOOP_CELLS)
def test_parameters_and_carry_have_the_librarys_names_and_shapes(name):
    stack = RNN(CELLS[name], H, 2, bidirectional=True)
    carry = stack.initial_carry(B, input_size=I)
    make = partial(stack.init, jax.random.key(0))
    params = jax.eval_shape(make, carry, jnp.zeros((T, B, I)))["params"]
    module = LAYERS[name](I, H, 2, bidirectional=True)
    expected = {key: tuple(array.shape) for key, array in module.state_dict().items()}
    assert {key: array.shape for key, array in params.items()} == expected
    ours = named_carry_of_jax(carry)
    theirs = named_carry_of_torch(carry[0], module.initial_carry(B))
    assert {key: field.shape for key, field in ours.items()} == {
        key: tuple(field.shape) for key, field in theirs.items()
    }


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", LOOP_CELLS)
def test_nothing_is_found_where_nothing_is_wrong(name):
    case = sample_stack_case(CELLS[name], num_layers=1, bidirectional=True, lengths=True)
    assert localize(case) is None


def test_a_carry_whose_fields_differ_in_width_has_a_name_for_each_part():
    narrow, wide = np.ones((2, B, H)), (np.ones((B, 4)), np.zeros((B, 6)))
    named = {"carry.h": narrow, "carry.c": narrow, "carry.n": narrow}
    named |= {"carry.m[0]": wide[0], "carry.m[1]": wide[1]}
    of_jax = carry_of_jax(SLSTMCarry, named)
    assert [part.m.shape for part in of_jax] == [(B, 4), (B, 6)]
    assert named_carry_of_jax(of_jax).keys() == named.keys()
    of_torch = carry_of_torch(SLSTMCarry, named)
    assert named_carry_of_torch(SLSTMCarry, of_torch).keys() == named.keys()


def test_the_normalizer_of_a_sampled_carry_is_positive():
    carry = sample_carry(np.random.default_rng(0), RNN(SLSTM, H), B, I)
    assert carry["carry.n"].min() > 0
    assert carry["carry.c"].min() < 0


def plain_step(params, carry, x):
    h = jnp.tanh(x @ params["w"] + carry.h @ params["u"] + params["b"])
    return Hidden(h), h


PLAIN = FreeCell(
    "plain",
    init=lambda key, I, H: {"w": jnp.ones((I, H)), "u": jnp.ones((H, H)), "b": jnp.ones(H)},
    step=plain_step,
)


def test_one_entry_adds_a_free_cell(monkeypatch):
    reference = ReferenceCell(
        step=lambda p, x, carry: (torch.tanh(x @ p["w"] + carry[0] @ p["u"] + p["b"]),),
        shapes=lambda I, H: {"w": (I, H), "u": (H, H), "b": (H,)},
    )
    monkeypatch.setitem(LAYERS, "plain", partial(ReferenceRNN, reference))
    monkeypatch.setitem(CELLS, "plain", PLAIN)
    check = values_check(layer_pair(RNN(PLAIN, H, 2, bidirectional=True), lengths=True))
    assert worst_outcome(check.findings()) is Outcome.PASS

    def wrong(params, carry, x):
        return plain_step({**params, "u": params["u"].T}, carry, x)

    broken = values_check(layer_pair(RNN(replace(PLAIN, step=wrong), H, 2)))
    assert worst_outcome(broken.findings()) is Outcome.FAIL
    assert broken.diagnosis().place == "layer 0, h at step 0"


def test_a_model_without_a_reference_says_where_to_put_one():
    model = CharLM(11, 4, H, cell=replace(GRU, name="mine"))
    with pytest.raises(ValueError, match="'mine' has no layer in PyTorch; add its step to REF"):
        reference_of(model)


# What a recurrent layer computes instead of torch's equation.


def answers_of(name, weights, xs, carry):
    """The hidden states of a cell from the weights of a torch layer with as many gates."""
    module = LAYERS[name](I, H).double()
    module.load_state_dict(weights)
    fields = [*carry, *[torch.zeros(1, B, H, dtype=torch.float64)] * 4]
    states = tuple(fields[: len(CELLS[name].carry._fields)])
    return module(xs, states)[0].detach().numpy()


@pytest.mark.parametrize(
    ("layer", "other", "zeros"),
    [(torch.nn.GRU, "coupled-lstm", "c"), (torch.nn.LSTM, "slstm", "n, m")],
)
def test_another_cell_with_as_many_gates_is_told_by_its_numbers(layer, other, zeros):
    """A weight's shape does not tell a GRU from a coupled LSTM, nor an LSTM from an sLSTM."""
    torch.manual_seed(0)
    module = layer(I, H).double()
    xs = torch.randn(T, B, I, dtype=torch.float64)
    count = 1 if layer is torch.nn.GRU else 2
    fields = [torch.randn(1, B, H, dtype=torch.float64) for _ in range(count)]
    got = answers_of(other, module.state_dict(), xs, fields)
    carry = tuple(field.numpy() for field in fields)
    weights = {key: array.numpy() for key, array in module.state_dict().items()}
    words = identified(module, weights, (xs.numpy(), carry), got)
    assert words == f"it is that of the cell {other}, whose {zeros} start from zeros"
    own = module(xs, torch_carry(fields))[0].detach().numpy()
    assert identified(module, weights, (xs.numpy(), carry), own) == ""


def test_what_the_inputs_do_not_tell_apart_is_not_claimed():
    """From zeros, the first step of a GRU is the same wherever it applies its reset gate."""
    torch.manual_seed(0)
    module = torch.nn.GRU(I, H).double()
    weights = {key: array.numpy() for key, array in module.state_dict().items()}
    xs = np.random.default_rng(0).normal(size=(1, B, I))
    zeros = np.zeros((1, B, H))
    gates = xs[0] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"] + weights["bias_hh_l0"]
    z, n = gates[:, H : 2 * H], gates[:, 2 * H :]
    got = ((1 - sigmoid(z)) * np.tanh(n))[None]
    words = identified(module, weights, (xs, zeros), got)
    assert words.startswith("either ")
    assert "the reset gate is applied before the matmul or" in words
    assert "it is added outside" in words
    assert words.endswith("which these inputs do not tell apart")


def test_parity_check_names_the_ambiguity():
    module = torch.nn.GRU(I, H)
    weight_map = WeightMap.for_flax(module.state_dict())

    def haiku_like(params, xs, h):
        gates = xs @ params["weight_ih_l0"].T + params["bias_ih_l0"]  # (T, B, 3 * H)
        r, z, n = jnp.split(gates + h @ params["weight_hh_l0"].T + params["bias_hh_l0"], 3, axis=-1)
        del r
        h = (1 - jax.nn.sigmoid(z)) * jnp.tanh(n) + jax.nn.sigmoid(z) * h
        return h, h

    params = {key: np.zeros(array.shape) for key, array in module.state_dict().items()}
    inputs = (np.ones((1, B, I)), np.zeros((1, B, H)))
    report = parity.check(haiku_like, params, module, weight_map, inputs, dtypes=("float64",))
    assert not report.passed
    assert "which these inputs do not tell apart" in report.summary()
