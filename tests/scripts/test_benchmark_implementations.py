"""The benchmark's implementations: all compute, and learn, the same from the same weights."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.arithmetic import agree
from benchmarks.cases import Case
from benchmarks.data import load, make_inputs, make_tokens, make_weights, save
from benchmarks.implementations import IMPLEMENTATIONS, OURS
from benchmarks.protocol import LEARNING, LEARNING_TOLERANCE, TOLERANCE

TRAINING = [
    name
    for name, c in IMPLEMENTATIONS.items()
    if c.takes_part_in("training") and "compile" not in name and False in c.devices
]
BASELINES = [name for name in TRAINING if name != "torch"]
GENERATION = [
    name
    for name, c in IMPLEMENTATIONS.items()
    if c.takes_part_in("generation") and c.threads is None
]


def tiny(kind, cell, num_layers=1):
    return Case(kind=kind, cell=cell, batch_size=3, steps=4, hidden_size=5, num_layers=num_layers)


def build(name, case, change=None):
    """The implementation in this process; `change` alters the weights."""
    if missing := IMPLEMENTATIONS[name].missing():
        pytest.skip(f"{name} is not installed: {', '.join(missing)}")
    weights = make_weights(case)
    if change is not None:
        change(weights)
    return IMPLEMENTATIONS[name].maker(case.kind)()(case, weights, make_inputs(case))


@pytest.mark.sample(4)
@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
@pytest.mark.parametrize("name", BASELINES)
def test_the_loss_is_that_of_torch_exactly_where_the_equation_is(name, cell):
    case = tiny("training", cell, num_layers=2 if cell == "tanh" else 1)
    loss, torch_loss = build(name, case).check(), build("torch", case).check()
    same_equation = cell not in IMPLEMENTATIONS[name].differs
    assert agree(loss, torch_loss, TOLERANCE) == same_equation


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (OURS, "rnn.bias_hh_l0"),
        ("flax-linen", "rnn.bias_hh_l0"),
        ("keras", "rnn.weight_hh_l0"),
        ("equinox", "e.weight"),
    ],
)
def test_a_changed_weight_is_noticed(name, key):
    def change(weights):
        weights[key] = weights[key][::-1].copy()

    case = tiny("forward", "gru")
    assert not agree(build(name, case, change).check(), build("torch", case).check(), TOLERANCE)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", [OURS, "flax-linen", "keras"])  # the others share Linen's step
def test_training_moves_the_loss_as_torch_does(name):
    case = tiny("training", "tanh")
    before, after = [], []
    for implementation in (build(name, case), build("torch", case)):
        before += implementation.check()
        implementation.run(LEARNING)
        after += implementation.check()
    learned = abs(after[1] - before[1])
    assert learned > 100 * TOLERANCE
    assert abs(after[0] - after[1]) <= LEARNING_TOLERANCE * learned


def test_the_forward_pass_goes_on_from_its_carry_and_changes_no_weight():
    implementation = build(OURS, tiny("forward", "lstm"))
    before = implementation.check()
    implementation.run(70)
    assert implementation.check() == before


@pytest.mark.parametrize("name", [name for name in GENERATION if name != OURS])
def test_all_generate_the_same_greedy_characters(name):
    case = tiny("generation", "lstm")
    ours, theirs = build(OURS, case), build(name, case)
    assert ours.check() == theirs.check()
    assert len(ours.check()) == case.batch_size * case.steps
    theirs.run(1)


def test_many_numbers_have_the_norm_of_float64():
    case = replace(tiny("inference", "tanh"), batch_size=128, steps=20, hidden_size=300)
    assert agree(build(OURS, case).check(), build("torch", case).check(), TOLERANCE / 10)


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
@pytest.mark.parametrize(
    ("kind", "name"), [("layer", OURS), ("inference", OURS), ("inference", "onnxruntime")]
)
def test_a_layer_of_numbers_gives_the_norms_of_torchs(kind, name, cell, monkeypatch):
    """Of the outputs, and of the gradients of every weight and of the inputs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    case = tiny(kind, cell, num_layers=2)
    got, expected = build(name, case), build("torch", case)
    assert agree(got.check(), expected.check(), TOLERANCE)
    assert len(expected.check()) == (1 + 2 * 4 + 1 if kind == "layer" else 1)
    expected.run(2)  # the gradients of a call are its own
    assert agree(got.check(), expected.check(), TOLERANCE)


def test_the_weights_of_cudnn_are_torchs(monkeypatch):
    """By the function's own reference: cuDNN itself needs a GPU."""
    from jax.experimental import rnn

    def reference(x, h, c, weights, lengths, I, H, L, *rest):
        parts = rnn.unpack_lstm_weights(weights, I, H, L, False)
        return rnn.lstm_ref(x, h, c, *parts, lengths, I, H, L, 0.0, False)

    monkeypatch.setattr(rnn, "lstm", reference)
    case = tiny("training", "lstm", num_layers=2)
    assert agree(build("jax-cudnn", case).check(), build("torch", case).check(), TOLERANCE)
    with pytest.raises(ValueError, match="has an LSTM only, not gru"):
        build("jax-cudnn", tiny("training", "gru"))


def test_what_a_layer_reads_is_saved_with_its_weights_alone(tmp_path):
    case = tiny("layer", "gru")
    save(case, tmp_path / "case.npz")
    weights, inputs = load(tmp_path / "case.npz")
    assert {name.partition(".")[0] for name in weights} == {"rnn"}
    assert weights["rnn.weight_ih_l0"].shape == (15, 5)
    assert inputs.shape == (4, 3, 5)


def test_the_windows_are_those_that_ours_reads():
    from benchmarks.data import WINDOWS, streams

    from jaxrnn import BpttStream

    case = tiny("training", "gru")
    tokens = make_tokens(case)
    source = BpttStream(tokens, case.batch_size, case.steps)
    assert source.steps(0) == WINDOWS
    assert not source.padded
    inputs, targets = streams(tokens, case)
    for k in (0, 1, WINDOWS - 1):
        theirs, ours = (inputs[k], targets[k]), source.window(0, k)
        assert all(np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True))
