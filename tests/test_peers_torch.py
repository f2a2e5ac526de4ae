"""PyTorch's own samples of its recurrent modules, all of them, through ours: values and gradients.

`torch.testing._internal.common_modules.module_db` says how PyTorch itself tests RNN, GRU, LSTM and
their single-step cells: with and without biases, states and projections, batch or time first, one
or two directions, and all of it for one sequence without a batch axis. Each sample also runs with a
batch of other numbers, without which `batch_first` would change nothing.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, relative

from jaxrnn import GRU, LSTM, RELU, RNN, TANH, RNNCell
from jaxrnn.recurrent.recurrence import backend, which_backend, why_not_compiled

pytest.importorskip("torch")

SAMPLES = {"RNN": 32, "GRU": 16, "LSTM": 32, "RNNCell": 3, "GRUCell": 2, "LSTMCell": 2}
"""How many samples PyTorch has: another version that has others is to be looked at."""
FORMS = ("as it stands", "in a batch")
FEW_PASSES = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options of the compiler, which takes nearly all of the time here, and a third less with them."""
NO_LIBRARY = why_not_compiled()
WAYS_IN_TURN = ("scan", "compiled")
WAYS = [
    "scan",
    pytest.param(
        "compiled", marks=pytest.mark.skipif(NO_LIBRARY is not None, reason=str(NO_LIBRARY))
    ),
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """PyTorch's samples, and what PyTorch computes of them, by `torch_samples.py`."""
    path = tmp_path_factory.mktemp("peers") / "samples.npz"
    program = Path(__file__).with_name("torch_samples.py")
    ran = subprocess.run(
        [sys.executable, program, path], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    with np.load(path) as file:
        arrays = dict(file)
    described = json.loads(str(arrays.pop("samples")))
    for number, sample in enumerate(described):
        for form in FORMS:
            sample[form] = {}
            start = f"{number} {form}: "
            for name, array in arrays.items():
                if name.startswith(start):
                    group, _, leaf = name.removeprefix(start).partition(" ")
                    sample[form].setdefault(group, {})[leaf] = array
    return described


def module_of(sample):
    """Our module of a sample, made with PyTorch's own arguments."""
    settings = dict(sample["settings"])
    settings.pop("input_size")  # Flax's modules take it from their inputs
    kind = sample["module"].removesuffix("Cell")
    if kind == "RNN":
        cell = {"tanh": TANH, "relu": RELU}[settings.pop("nonlinearity", "tanh")]
    else:
        cell = {"GRU": GRU, "LSTM": LSTM}[kind]
    if sample["module"].endswith("Cell"):
        return RNNCell(cell, **settings)
    return RNN(cell, **settings)


def carry_of_torch(module, states):
    """Our carry of PyTorch's states, h and c of all layers and directions; None of none."""
    if not states:
        return None
    kind = module.cell.carry
    if isinstance(module, RNNCell):
        return kind(**states)
    # (L * D, ...) a field -> one carry for each of the L * D.
    return tuple(kind(*fields) for fields in zip(*states.values(), strict=True))


def states_of_carry(module, carry):
    """The way back: h and c by name, (L * D, ...) each for a stack."""
    if isinstance(module, RNNCell):
        return carry._asdict()
    fields = [jnp.stack(field) for field in zip(*carry, strict=True)]
    return dict(zip(module.cell.carry._fields, fields, strict=True))


def run(module, given):
    """Results and gradients by PyTorch's names, of PyTorch's inputs and weights."""

    def results(weights, inputs):
        states = {
            name: inputs[f"before.{name}"]
            for name in module.cell.carry._fields
            if f"before.{name}" in inputs
        }
        carry = carry_of_torch(module, states)
        after, ys = module.apply({"params": weights}, carry, inputs["x"])
        named = {f"after.{k}": v for k, v in states_of_carry(module, after).items()}
        if isinstance(module, RNN):
            named["ys"] = ys
        return named

    def loss(weights, inputs):
        outputs = results(weights, inputs)
        products = [(given["factor"][name] * array).sum() for name, array in outputs.items()]
        return sum(products), outputs

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, outputs), (of_weights, of_inputs) = gradient(given["weight"], given["input"])
    return {"output": outputs, "gradient": of_weights | of_inputs}


def test_there_are_87_samples(samples):
    assert Counter(sample["module"] for sample in samples) == SAMPLES
    assert sum(SAMPLES.values()) == 87


def assert_equals_pytorch(samples, name, form, part=slice(None)):
    """Run the samples of a module, or a part of them, and compare all results and gradients."""
    chosen = [sample for sample in samples if sample["module"] == name]
    assert len(chosen) == SAMPLES[name]
    for sample in chosen[part]:
        given = jax.tree.map(jnp.asarray, sample[form])
        program = jax.jit(run, static_argnums=0, compiler_options=FEW_PASSES)
        got = program(module_of(sample), given)
        expected = {group: given[group] for group in got}
        assert relative(got, expected) < EXACT, sample["settings"]


@pytest.mark.sample(2)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_equals_pytorch(samples, name, way):
    """Every sample in one of the ways, in turn; where there is one way alone, all of them in it."""
    part = slice(None) if NO_LIBRARY else slice(WAYS_IN_TURN.index(way), None, 2)
    with backend(way):
        assert which_backend(GRU, jnp.float64) == way
        assert_equals_pytorch(samples, name, "as it stands", part)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_equals_pytorch_in_every_way(samples, name, way):
    with backend(way):
        assert_equals_pytorch(samples, name, "as it stands")


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_in_a_batch_equals_pytorch(samples, name):
    assert_equals_pytorch(samples, name, "in a batch")
