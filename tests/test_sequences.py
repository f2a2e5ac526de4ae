"""Training on sequences of numbers, against a PyTorch loop over packed sequences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import EXACT, relative

from jaxrnn import (
    RNN,
    SequenceModel,
    Sequences,
    fit_sequences,
    load,
    make_optimizer,
    make_sequence_state,
    predict_sequences,
    save,
)
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.state import cast_floats

# Batches of 3, 3 and 1 sequences.
N, T, I, H, BATCH, CLASSES = 7, 5, 2, 4, 3, 3
LENGTHS = np.array([5, 1, 3, 1, 4, 2, 5])
RATE, EPOCHS = 1e-2, 3
ADAM = make_optimizer("adam")


def data(kind, **options):
    """Random sequences; behind the end of each stands what must not be read."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(N, T, I))
    inputs[np.arange(T) >= LENGTHS[:, None]] = 1e3
    targets = rng.normal(size=(N, 2)) if kind == "mse" else rng.integers(0, CLASSES, N)
    return Sequences(inputs, targets, LENGTHS, **{"batch_size": BATCH, **options})


def torch_losses(torch, kind, model, params, source):
    """The mean loss of each epoch, and the outputs behind the last, of a plain loop."""
    layers = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[model.cell.name]
    rnn = layers(I, H, model.num_layers, bidirectional=model.bidirectional).double()
    directions = 2 if model.bidirectional else 1
    head = torch.nn.Linear(directions * H, model.outputs).double()
    tensors = {name: torch.tensor(np.asarray(leaf)) for name, leaf in params["rnn"].items()}
    rnn.load_state_dict(tensors, strict=True)
    out = params["l_out"]
    head.weight.data = torch.tensor(np.asarray(out["kernel"]).T)
    head.bias.data = torch.tensor(np.asarray(out["bias"]))
    criterion = torch.nn.MSELoss() if kind == "mse" else torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam([*rnn.parameters(), *head.parameters()], lr=RATE)

    def outputs(rows):
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.tensor(source.inputs[rows]), torch.tensor(LENGTHS[rows]),
            batch_first=True, enforce_sorted=False,
        )  # fmt: skip
        _, last = rnn(packed)
        h = last[0] if isinstance(last, tuple) else last  # (L * D, B, H)
        return head(torch.cat(list(h[-directions:]), -1))

    means = []
    for epoch in range(EPOCHS):
        total = 0.0
        order = source.order(epoch)
        for first in range(0, N, BATCH):
            rows = order[first : first + BATCH]
            loss = criterion(outputs(rows), torch.tensor(source.targets[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        means.append(total / N)
    return means, outputs(np.arange(N)).detach().numpy()


@pytest.mark.sample(1)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("kind", "model"),
    [
        # The first and the last run by default.
        ("mse", SequenceModel(2, "lstm", H, num_layers=2, bidirectional=True)),
        ("mse", SequenceModel(2, "gru", H)),
        ("cross_entropy", SequenceModel(CLASSES, "lstm", H)),
        ("cross_entropy", SequenceModel(CLASSES, "gru", H, num_layers=2)),
    ],
    ids=["regression, both directions", "regression", "classes", "classes, two layers"],
)
def test_training_is_that_of_torch_over_packed_sequences(kind, model):
    torch = pytest.importorskip("torch")
    source = data(kind)
    state = cast_floats(make_sequence_state(model, ADAM, source, jax.random.key(1)), "float64")
    expected, outputs = torch_losses(torch, kind, model, state.params, source)
    state, history = fit_sequences(
        model, source, source, loss=kind, schedule=f"{EPOCHS} x {RATE}", state=state
    )
    assert relative([row.train for row in history], expected) < EXACT
    assert relative(predict_sequences(model, state.params, source), outputs) < EXACT
    # What is validated is the mean over the sequences, whatever the batches.
    alone = fit_sequences(
        model, source, data(kind, batch_size=N), loss=kind, state=state,
        schedule=f"{EPOCHS} x 0", start=EPOCHS - 1,
    )[1][0].validation  # fmt: skip
    assert alone == pytest.approx(history[-1].validation, rel=1e-12)


def test_what_was_stopped_goes_on_with_the_same_numbers(tmp_path):
    model, source = SequenceModel(CLASSES, "gru", H, num_layers=2, dropout=0.5), data("classes")
    fit = {"loss": "cross_entropy", "seed": 3}
    whole, rows = fit_sequences(model, source, schedule="2 x 1e-2, 1 x 1e-3", **fit)
    begun, _ = fit_sequences(model, source, schedule="2 x 1e-2", **fit)
    save(tmp_path / "begun.safetensors", begun)
    begun, _ = load(tmp_path / "begun.safetensors", begun)
    after, last = fit_sequences(
        model, source, schedule="2 x 1e-2, 1 x 1e-3", state=begun, start=2, **fit
    )
    assert last == rows[2:]
    for one, other in zip(
        jax.tree.leaves(after.params), jax.tree.leaves(whole.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


class Pooled(nn.Module):
    """The mean over time: no recurrence, and all sequences have one length."""

    @nn.compact
    def __call__(self, xs):
        return nn.Dense(1)(xs.mean(0))


def absolute(outputs, targets):
    return jnp.abs(outputs - targets).mean()


def test_any_module_loss_and_optimizer_learn_the_mean_of_a_series():
    inputs = np.random.default_rng(0).normal(size=(64, T, 1))
    source = Sequences(inputs, inputs.mean(1), batch_size=16)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, 240))
    _, history = fit_sequences(Pooled(), source, loss=absolute, epochs=60, optimizer=optimizer)
    assert history[-1].train < 0.1 * history[0].train
    assert history[-1].step == 60 * 4


class Both(nn.Module):
    @nn.compact
    def __call__(self, xs, *, lengths=None):
        return RNN("gru", H)(None, xs, lengths=lengths)


INPUTS, VALUES, KINDS = np.zeros((N, T, I)), np.zeros((N, 2)), np.zeros(N, int)
GRU_MODEL = SequenceModel(2, "gru", H)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sequences(INPUTS[..., 0], VALUES), r"\(N, T, I\).*inputs\[:, :, None\]"),
        (lambda: Sequences(INPUTS.astype(int), VALUES), "must be floating numbers"),
        (lambda: Sequences(INPUTS, VALUES[1:]), "one entry for each of 7 sequences"),
        (lambda: Sequences(INPUTS, np.array(["a"] * N)), "numbers or classes, got <U1"),
        (lambda: Sequences(INPUTS, VALUES, LENGTHS - 1), r"lie in \[1, 5\].*got 0"),
        (lambda: Sequences(INPUTS, VALUES, LENGTHS[1:]), "7 integers, one for each sequence"),
        (lambda: Sequences(INPUTS, VALUES, batch_size=0), "batch_size must be at least 1"),
        (lambda: fit(RNN("gru", H)), r"take jaxrnn.SequenceModel\(outputs"),
        (lambda: fit(SequenceModel), "must be a Flax module such as"),
        (lambda: fit(source=INPUTS), r"must be jaxrnn.Sequences\(inputs, .*got ndarray"),
        (lambda: fit(Both()), r"one array with a row for each sequence.*Hidden"),
        (lambda: fit(targets=VALUES[:, 0]), r"targets of the shape of the outputs.*\[:, None\]"),
        (lambda: fit(loss="cross_entropy"), "takes classes, integers"),
        (lambda: fit(targets=KINDS + 2, loss="cross_entropy"), r"in \[0, 2\); got 2"),
        (lambda: fit(loss="hinge"), "loss must be one of cross_entropy, mse, or a function"),
        (lambda: fit(loss=lambda outputs, targets: outputs), "loss must give one number"),
        (lambda: fit(schedule=None), "takes its length and its rates from schedule"),
        (lambda: fit(start=-1), "start must be at least 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_in_words(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def fit(model=GRU_MODEL, *, source=None, targets=VALUES, loss="mse", **options):
    if source is None:
        source = Sequences(INPUTS, targets, batch_size=BATCH)
    return fit_sequences(model, source, loss=loss, **{"schedule": "1 x 1e-3", **options})


def test_a_loss_that_is_not_finite_names_batch_and_epoch():
    inputs = INPUTS.copy()
    inputs[4] = np.nan
    source = Sequences(inputs, VALUES, batch_size=BATCH, shuffled=False)
    with pytest.raises(NonFiniteLossError, match="The loss is nan at batch 2 of epoch 1"):
        fit(source=source)
