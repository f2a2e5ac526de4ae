"""Other people's packages: where they are right, they pass, and a known fault is found.

None of them is a dependency. Each test is skipped unless its package can be imported; they are
installed without their own dependencies, into a folder for PYTHONPATH:

    python -m pip install --no-deps --target FOLDER minGRU-pytorch==0.2.1
    python -m pip install --no-deps --target FOLDER recurrentgemma==1.0.1 einops sentencepiece
    python -m pip install --no-deps --target FOLDER "typeguard<3"  # which recurrentgemma needs
    python -m pip install --no-deps --target FOLDER sru==2.6.0     # compiles itself: ninja, g++
    PYTHONPATH=FOLDER python -m pytest tests/test_parity_packages.py
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.scipy.linalg import block_diag

import parity
from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import Hidden, HiddenAndCell
from parity import Absent, Identity, PermuteGates, Transpose, WeightMap, entry

B, T, H = 2, 3, 8
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(B, T, H))
BEFORE = RNG.uniform(0.2, 2.0, size=(B, 1, H))
"""A hidden state of a minGRU or minLSTM, which is positive."""


def run_ours(name, params, xs, carry):
    """Our layer on inputs with the batch first; biases that are not given are zero."""
    cell = CELLS[name]
    stack = RNN(cell, H)
    rows = len(cell.gates) * H
    params = {"bias_ih_l0": jnp.zeros(rows, xs.dtype), **params}
    last, ys = stack.apply({"params": params}, (carry,), xs.swapaxes(0, 1))
    return ys.swapaxes(0, 1), last[0]  # (T, B, H) to (B, T, H)


# minGRU-pytorch.


class StepByStep(torch.nn.Module):
    """A layer of the package in its own loop: one step at a time."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, xs, before):
        ys = []
        for t in range(xs.shape[1]):
            y, before = self.layer(xs[:, t : t + 1], before, return_next_prev_hidden=True)
            ys.append(y)
        return torch.cat(ys, dim=1)


def min_layer(name, *, prefix=""):
    """A layer of the package, our function of the same weights, and the map between them."""
    pytest.importorskip("minGRU_pytorch", reason="minGRU-pytorch is not installed")
    from minGRU_pytorch.minGRU import minGRU
    from minGRU_pytorch.minLSTM import minLSTM

    layer, key, order = {
        "mingru": (minGRU, "to_hidden_and_gate.weight", (1, 0)),
        "minlstm": (minLSTM, "to_hidden_and_f_i_gate.weight", (1, 2, 0)),
    }[name]
    weight_map = WeightMap([entry(f"{prefix}{key}", "weight_ih_l0", PermuteGates(order))])

    def run(params, xs, before):
        return run_ours(name, params, xs, Hidden(before[:, 0]))[0]

    params = {"weight_ih_l0": np.zeros((len(order) * H, H))}
    return layer(H), run, params, weight_map


def test_the_mingru_of_the_package_is_ours():
    layer, run, params, weight_map = min_layer("mingru")
    parity.assert_parity(run, params, layer, weight_map, (XS, BEFORE))


def test_the_minlstm_of_the_package_in_its_own_loop_is_ours():
    layer, run, params, weight_map = min_layer("minlstm", prefix="layer.")
    parity.assert_parity(run, params, StepByStep(layer), weight_map, (XS, BEFORE))


def test_the_minlstm_of_the_package_without_a_carry_is_ours():
    layer, run, params, weight_map = min_layer("minlstm")

    def from_zeros(params, xs):
        return run(params, xs, jnp.zeros((B, 1, H), xs.dtype))

    parity.assert_parity(from_zeros, params, layer, weight_map, (XS,))


def test_the_fault_of_the_minlstm_of_the_package_is_found():
    """Version 0.2.1: its parallel branch sends the carry through g, which its loop does not."""
    layer, run, params, weight_map = min_layer("minlstm")
    report = parity.check(run, params, layer, weight_map, (XS, BEFORE), dtypes=("float64",))
    assert not report.passed
    failed = {f.quantity for f in report.findings if f.outcome.value == "FAIL"}
    assert {"forward", "gradients"} <= failed
    apart = max(f.value for f in report.findings if f.quantity == "forward")
    assert apart > 0.01  # far from round-off

    # The cause: with the carry sent through g, ours gives the same.
    def faulty(params, xs, before):
        return run(params, xs, jnp.where(before >= 0, before + 0.5, jax.nn.sigmoid(before)))

    parity.assert_parity(faulty, params, layer, weight_map, (XS, BEFORE))


# recurrentgemma: the gates are block-diagonal, and what enters the recurrence is x itself.

HEADS = 2


@pytest.fixture
def rg_lru(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = pytest.importorskip(
            "recurrentgemma.torch.layers", reason="recurrentgemma is not installed"
        )
    scan = layers.rnn_scan

    def in_the_inputs_precision(*, x, a, reset, h0):
        """The package accumulates in float32, whatever the inputs are."""
        return scan(x=x, a=a, reset=reset, h0=h0, acc_dtype=x.dtype)

    monkeypatch.setattr(layers, "rnn_scan", in_the_inputs_precision)
    return layers.RGLRU(H, HEADS)


def rg_lru_of(params, xs, positions, before):
    """Our RG-LRU with the weights of the package's."""
    weights, biases = [], []
    for gate in ("a_gate", "input_gate"):
        weights.append(block_diag(*params[gate]["w"]).T)  # (heads, H / heads, H / heads) to (H, H)
        biases.append(params[gate]["b"].ravel())
    ours = {
        "weight_ih_l0": jnp.concatenate([*weights, jnp.eye(H, dtype=xs.dtype)]),  # (3 * H, H)
        "bias_ih_l0": jnp.concatenate([*biases, jnp.zeros(H, xs.dtype)]),
        "lam_l0": params["a_param"],
    }
    ys, last = run_ours("rg-lru", ours, xs, Hidden(before))
    return ys, last.h


def rg_lru_case():
    blocks = {"w": np.zeros((HEADS, H // HEADS, H // HEADS)), "b": np.zeros((HEADS, H // HEADS))}
    params = {"a_param": np.zeros(H), "a_gate": blocks, "input_gate": blocks}
    names = ["a_param"] + [f"{gate}.{part}" for gate in ("a_gate", "input_gate") for part in "wb"]
    weight_map = WeightMap([entry(name, name.replace(".", "/"), Identity()) for name in names])
    return params, weight_map


def test_the_rg_lru_of_the_package_is_ours(rg_lru):
    params, weight_map = rg_lru_case()
    positions = np.tile(np.arange(1, T + 1), (B, 1))
    inputs = (XS, positions, BEFORE[:, 0])
    report = parity.check(rg_lru_of, params, rg_lru, weight_map, inputs, dtypes=("float64",))
    assert report.passed, report.summary()


def test_the_rg_lru_of_the_package_does_not_scale_the_first_step_of_a_text(rg_lru):
    params, weight_map = rg_lru_case()
    positions = np.tile(np.arange(T), (B, 1))  # from 0 on: a text begins
    inputs = (XS, positions, np.zeros((B, H)))
    report = parity.check(rg_lru_of, params, rg_lru, weight_map, inputs, dtypes=("float64",))
    assert not report.passed


# sru, on the CPU.

INPUTS = 5
"""Other than H: only then the highway has a projection of its own."""


@pytest.mark.filterwarnings("ignore:Running SRU on CPU with grad_enabled")
def test_the_sru_of_the_package_is_ours():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the CUDA kernels that it cannot compile
        sru = pytest.importorskip("sru", reason="sru is not installed")
    weight_map = WeightMap(
        [
            entry("rnn_lst.0.weight", "weight", Transpose()),
            entry("rnn_lst.0.weight_c", "weight_c"),
            entry("rnn_lst.0.bias", "bias"),
            entry("rnn_lst.0.scale_x", (), Absent((1,))),
        ]
    )

    def run(params, xs, before):
        v_f, v_r = jnp.split(params["weight_c"], 2)
        b_f, b_r = jnp.split(params["bias"], 2)
        zeros = jnp.zeros_like(b_f)
        ours = {
            # Its rows go unit by unit, four gates each; ours gate by gate.
            "weight_ih_l0": params["weight"]
            .reshape(H, 4, INPUTS)
            .swapaxes(0, 1)
            .reshape(-1, INPUTS),
            "bias_ih_l0": jnp.concatenate([zeros, b_f, b_r, zeros]),
            "v_f_l0": v_f,
            "v_r_l0": v_r,
        }
        carry = HiddenAndCell(jnp.zeros_like(before[0]), before[0])
        ys, last = run_ours("sru", ours, xs.swapaxes(0, 1), carry)
        return ys.swapaxes(0, 1), last.c[None]

    params = {
        "weight": np.zeros((4 * H, INPUTS)),
        "weight_c": np.zeros(2 * H),
        "bias": np.zeros(2 * H),
    }
    xs = RNG.normal(size=(T, B, INPUTS))
    before = RNG.normal(size=(1, B, H))
    layer = sru.SRU(INPUTS, H, num_layers=1, rescale=False)
    parity.assert_parity(run, params, layer, weight_map, (xs, before))
