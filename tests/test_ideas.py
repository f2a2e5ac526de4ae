"""Ideas of one's own as files, `scripts/examples/`: they are small, right, and work everywhere."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import EXACT, random_stack, relative

from jaxrnn import (
    CELLS,
    MODELS,
    OPTIMIZERS,
    RNN,
    TOKENIZERS,
    Batch,
    BpttStream,
    apply_model,
    cli,
    fit,
    generate,
    make_optimizer,
    make_state,
    train_step,
)
from jaxrnn.runs.run import Run

FOLDER = Path(__file__).parents[1] / "scripts" / "examples"
# The cells that the package has as well, by the name that it gives them.
BUILT_IN = {
    "minimal_gated_unit.py:MINIMAL": "mgu",
    "peephole_lstm.py:PEEPHOLE": "peephole-lstm",
    "layer_norm_lstm.py:NORMED": "layer-norm-lstm",
    "gru_reset_before.py:RESET_BEFORE": "gru-reset-before",
    "min_gru.py:MINIMAL_GRU": "mingru",
}
MODEL = {"weight_dropout.py:WeightDropped": [], "residual_layers.py:Residual": ["--layers", "3"]}
OPTIMIZER = ("any_optimizer.py:LION", "any_optimizer.py:LAMB", "any_optimizer.py:YOGI")
NOTES = "integer_tokens.py:Notes"
FILES = sorted({name.partition(":")[0] for name in (*BUILT_IN, *MODEL, *OPTIMIZER, NOTES)})
FILES += ["activation_penalty.py", "series_classifier.py"]
LONGEST = 40
V, F, H, B, T = 9, 4, 8, 3, 5
TOKENS = np.random.default_rng(0).integers(0, V, 200)


def path_of(name):
    return str(FOLDER / name)


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_short_and_takes_no_cell_of_ours(file):
    text = (FOLDER / file).read_text()
    assert len(text.splitlines()) <= LONGEST
    lines = text.partition('"""\n')[2].splitlines()  # without what to type
    imports = " ".join(line for line in lines if line.startswith("from jaxrnn"))
    constants = {cell.name.upper().replace("-", "_") for cell in CELLS.values()}
    constants |= {"MIN_GRU", "MIN_LSTM", "QRNN_1", "QRNN_F", "CELLS"}
    assert not constants & set(imports.replace(",", " ").split())
    quoted = {f'"{name}"' for name in CELLS}
    assert not [name for name in quoted if name in "\n".join(lines)]


@pytest.mark.sample(2)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_cell_that_is_there_already_is_the_same(name):
    """Outputs, carry and all gradients, in a stack of two layers whose rows end at lengths."""
    mine, ours = (RNN(cell, H, num_layers=2) for cell in (path_of(name), CELLS[BUILT_IN[name]]))
    params, carry, xs = random_stack(ours, F, B, T, jnp.float64)

    def loss(params, carry, xs, stack):
        results = stack.apply({"params": params}, carry, xs, lengths=jnp.array([T, 2, 1]))
        return sum(jnp.cos(leaf).sum() for leaf in jax.tree.leaves(results)), results

    run = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    got, expected = (jax.jit(run, static_argnums=3)(params, carry, xs, one) for one in (mine, ours))
    assert relative(got, expected) < EXACT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a text and with notes, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What ran before is trusted in another cache.
    monkeypatch.setattr("jaxrnn.registry._modules", {})
    Path("text.txt").write_text("the cat sat on the mat, the dog on the log.\n" * 20)
    np.save("notes.npy", np.random.default_rng(0).choice([48, 60, 62, 64, 72], 800))
    return tmp_path


SMALL = ["--embedding", "4", "--hidden", "8", "--batch", "4", "--schedule", "1 x 1e-2"]
SMALL += ["--no-random-bptt", "--bptt", "100"]
TEXT = ["--corpus", "text.txt", "--min-frequency", "1"]
COMMANDS = {
    **{name: [*TEXT, "--model", "CharLM", "--cell", path_of(name)] for name in BUILT_IN},
    **{name: [*TEXT, "--model", path_of(name), *more] for name, more in MODEL.items()},
    **{name: [*TEXT, "--optimizer", path_of(name)] for name in OPTIMIZER},
    NOTES: [
        "--model",
        "CharSeqStatefulRnn",
        "--corpus",
        "notes.npy",
        "--tokenizer",
        path_of(NOTES),
    ],
}
SHORT = ("min_gru.py:MINIMAL_GRU",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in SHORT else pytest.mark.slow) for name in COMMANDS],
)
def test_a_file_is_named_on_the_command_line(name, folder, capsys):
    """Train, sample, evaluate, and go on: as a user types it, who touches no package."""
    assert cli.main(["train", *SMALL, *COMMANDS[name], "--name", "own"]) == 0
    prompt = "60 62 64" if name == NOTES else "the cat"
    capsys.readouterr()
    assert cli.main(["sample", "runs/own", "--prompt", prompt, "--length", "6"]) == 0
    text = capsys.readouterr().out.strip()
    assert text.startswith(prompt)
    if name == NOTES:
        assert {int(note) for note in text.split()} <= {48, 60, 62, 64, 72}
    assert cli.main(["evaluate", "runs/own"]) == 0
    assert cli.main(["train", "--resume", "runs/own", "--schedule", "2 x 1e-2"]) == 0
    assert max(row.epoch for row in Run("runs/own").history) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["min_gru.py:MINIMAL_GRU", "weight_dropout.py:WeightDropped"])
def test_a_rate_is_found_for_it(name, folder, capsys):
    assert cli.main(["find-rate", *SMALL, *COMMANDS[name], "--steps", "20"]) == 0
    assert "learning-rates.png" in capsys.readouterr().out


def test_weight_dropout_has_one_mask_a_window():
    """With a key, the outputs are those of a weight of which half is 0 and the rest doubled."""
    model = MODELS.find(path_of("weight_dropout.py:WeightDropped"))(V, F, H)
    params = make_state(model, make_optimizer("adam"), B, jax.random.key(0)).params
    tokens = TOKENS[: T * B].reshape(T, B)
    zeros = model.initial_carry(B)

    def run(params, key=None):
        return apply_model(model, params, zeros, tokens, dropout_key=key)

    def gradient(key=None):
        return jax.grad(lambda p: run(p, key)[1][-1, 0, 0])(params)["rnn"]["weight_hh_l0"]

    # A weight that is left out has no gradient; without a key, every one has.
    key = jax.random.key(1)
    kept = np.asarray(gradient(key)) != 0
    assert 0.25 < kept.mean() < 0.75
    assert (np.asarray(gradient()) != 0).all()
    whole = params["rnn"]["weight_hh_l0"]
    dropped = params | {"rnn": params["rnn"] | {"weight_hh_l0": jnp.where(kept, 2 * whole, 0)}}
    assert relative(run(params, key), run(dropped)) < 1e-6
    assert relative(run(params), run(dropped)) > 1e-3
    # Another window has another mask.
    assert (kept != (np.asarray(gradient(jax.random.key(2))) != 0)).any()


@pytest.mark.usefixtures("float64")
def test_residual_layers_add_their_inputs():
    """Against a loop over layers and steps in NumPy."""
    model = MODELS.find(path_of("residual_layers.py:Residual"))(V, F, H, num_layers=3)
    state = make_state(model, make_optimizer("adam"), B, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), state.params)
    tokens = TOKENS[: T * B].reshape(T, B)
    after, got = apply_model(
        model, jax.tree.map(jnp.asarray, params), model.initial_carry(B, jnp.float64), tokens
    )

    xs = params["e"]["embedding"][tokens] @ params["l_in"]["kernel"] + params["l_in"]["bias"]
    last = []
    for number in range(3):
        p = params[f"rnn_{number}"]
        h = np.zeros((B, H))
        ys = []
        for x in xs:
            gates = x @ p["weight_ih_l0"].T + p["bias_ih_l0"] + p["bias_hh_l0"]
            h = np.tanh(gates + h @ p["weight_hh_l0"].T)
            ys.append(h)
        last.append(h)
        xs = xs + np.stack(ys)
    logits = xs @ params["l_out"]["kernel"] + params["l_out"]["bias"]
    assert relative(got, logits - np.log(np.exp(logits).sum(-1, keepdims=True))) < EXACT
    assert relative([layer.h for layer in after], last) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL)
def test_a_model_trains_in_python_and_generates(name):
    source = BpttStream(TOKENS, B, 30)
    model = MODELS.find(path_of(name))(V, F, H)
    state, history = fit(model, source, source, schedule="2 x 1e-2")
    assert history[-1].validation < history[0].train
    assert history[-1].saturated is None  # what its layers do is not known
    _, tokens = generate(model, state.params, TOKENS[:4, None], 5, jax.random.key(0))
    assert tokens.shape == (5, 1)


def test_penalties_make_activations_small_and_slow():
    file = runpy.run_path(path_of("activation_penalty.py"))
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(V), (T, B)))
    targets = rng.integers(0, V, (T, B))
    hidden = rng.normal(size=(T, B, H))
    losses = -np.take_along_axis(log_probs, targets[..., None], -1)
    expected = losses.mean() + file["LARGE"] * (hidden**2).mean()
    assert file["penalized"](log_probs, targets, None, hidden[:1]) == pytest.approx(
        losses.mean() + file["LARGE"] * (hidden[:1] ** 2).mean(), rel=1e-6
    )
    expected += file["FAST"] * (np.diff(hidden, axis=0) ** 2).mean()
    assert file["penalized"](log_probs, targets, None, hidden) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_loss_of_ones_own_trains_goes_on_and_samples(folder, monkeypatch, capsys):
    """And its activations are smaller than those of the usual loss."""
    monkeypatch.setattr("sys.argv", ["activation_penalty.py", "text.txt"])
    for _ in range(2):
        file = runpy.run_path(path_of("activation_penalty.py"), run_name="__main__")
        assert "the cat sat" in capsys.readouterr().out
    assert Path("penalized/best.safetensors").is_file()
    model, source = file["model"], file["source"]
    usual, _ = fit(model, source, schedule="3 x 3e-3", progress=False)
    sizes = []
    for params in (file["state"].params, usual.params):
        tokens = source.tokens[:600].reshape(200, 3)
        carry, _ = apply_model(model, params, model.initial_carry(3), tokens)
        sizes.append(float(jnp.square(jax.tree.leaves(carry)[0]).mean()))
    assert sizes[0] < sizes[1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "of_optax"), [("LAMB", optax.lamb), ("LION", optax.lion)])
def test_an_optimizer_of_optax_makes_its_own_updates(name, of_optax):
    """At a rate of the schedule what optax makes at that rate. (Its lion has weight decay.)"""
    mine = OPTIMIZERS.find(path_of(f"any_optimizer.py:{name}"))
    options = {"weight_decay": 0.0} if name == "LION" else {}
    model = MODELS["CharLM"](V, F, H)
    batch = Batch(*(TOKENS[n : n + 12].reshape(4, 3) for n in (0, 1)))
    states = []
    for optimizer, rate in ((mine, 1e-2), (of_optax(1e-2, **options), None)):
        state = make_state(model, optimizer, B, jax.random.key(0))
        for _ in range(3):
            state, _ = train_step(model, optimizer, state, batch, rate)
        states.append(state.params)
    assert relative(*states) < 1e-5


def test_notes_are_numbered_and_come_back():
    notes = TOKENIZERS.find(path_of(NOTES)).from_documents([np.array([72, 60, 60]), np.array([62])])
    assert notes.size == 3
    np.testing.assert_array_equal(notes.encode("60 72 62"), [0, 2, 1])
    assert notes.decode(notes.encode(np.array([62, 60]))) == "62 60"
    assert notes.from_dict(notes.to_dict()).decode(np.array([2])) == "72"
    with pytest.raises(ValueError, match="The note 61 does not occur"):
        notes.encode("60 61")


def test_series_are_told_apart(tmp_path, monkeypatch, capsys):
    """In a short form; the file as it is, as a program, is a slow test."""
    from jaxrnn import fit_sequences, predict_sequences

    file = runpy.run_path(path_of("series_classifier.py"))
    source = file["series"](64, 0)
    state, history = fit_sequences(
        file["Classifier"](), source, loss="cross_entropy", schedule="3 x 1e-2"
    )
    assert history[-1].train < history[0].train
    assert predict_sequences(file["Classifier"](), state.params, source).shape == (64, 2)


@pytest.mark.slow
def test_the_classifier_runs_as_a_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(path_of("series_classifier.py"), run_name="__main__")
    right = int(capsys.readouterr().out.partition("; ")[2].partition("%")[0])
    assert right >= 90
    assert Path("classifier.safetensors").is_file()
