"""The course's models against the course's equations and each other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, random_tree, relative

from jaxrnn import GRU, LSTM, MODELS, Char3Model, CharLM
from jaxrnn.nn.layers import embed, embedded_tokens
from jaxrnn.nn.model import apply_model
from jaxrnn.recurrent.inputs import Inputs

V, F, H, B, T = 13, 5, 7, 4, 6

pytestmark = pytest.mark.usefixtures("float64")


def made(name, steps=T, **options):
    """A small model, random parameters, a random carry, tokens."""
    model = MODELS[name](V, F, H, **options)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, V, (steps, B)))
    carry = random_tree(jax.random.key(1), model.initial_carry(B, jnp.float64))
    shapes = jax.eval_shape(model.init, jax.random.key(0), carry, tokens)["params"]
    wide = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float64), shapes)
    params = jax.tree.map(lambda p: p / 2, random_tree(jax.random.key(2), wide))
    return model, params, carry, tokens


def linear(params, x):
    return x @ params["kernel"] + params["bias"]


def log_softmax(x):
    x = np.asarray(x)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def added(p, c, h):
    return np.tanh(linear(p["l_hidden"], h + np.maximum(linear(p["l_in"], c), 0)))


def side_by_side(p, c, h):
    z = np.maximum(linear(p["l_in"], np.concatenate([h, c], axis=-1)), 0)
    return np.tanh(linear(p["l_hidden"], z))


def elman(p, c, h):
    weights = {name.removesuffix("_l0"): w for name, w in p["rnn"].items()}
    x = c @ weights["weight_ih"].T + weights["bias_ih"]
    return np.tanh(x + h @ weights["weight_hh"].T + weights["bias_hh"])


@pytest.mark.parametrize(
    ("name", "step", "steps", "every"),
    [
        ("Char3Model", added, 3, False),
        ("CharLoopModel", added, T, False),
        ("CharLoopConcatModel", side_by_side, T, False),
        ("CharRnn", elman, T, False),
        ("CharSeqRnn", elman, T, True),
        ("CharSeqStatefulRnn", elman, T, True),
        ("CharSeqStatefulRnn2", elman, T, True),
    ],
)
def test_model_equals_the_courses_loop(name, step, steps, every):
    model, params, carry, tokens = made(name, steps)
    p = jax.tree.map(np.asarray, params)
    h = np.asarray(carry[0].h) if carry else np.zeros((B, H))
    outputs = []
    for t in range(steps):
        h = step(p, p["e"]["embedding"][np.asarray(tokens[t])], h)
        outputs.append(log_softmax(linear(p["l_out"], h)))
    after, log_probs = apply_model(model, params, carry, tokens)
    assert relative(log_probs, np.stack(outputs) if every else outputs[-1]) < EXACT
    assert relative(jax.tree.leaves(after), [h] if carry else []) < EXACT


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m.reads == "streams"])
def test_two_windows_with_carry_equal_one(name):
    model, params, carry, tokens = made(name)
    whole = apply_model(model, params, carry, tokens)
    middle, first = apply_model(model, params, carry, tokens[:2])
    last, second = apply_model(model, params, middle, tokens[2:])
    assert relative((last, jnp.concatenate([first, second])), whole) < EXACT


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m.reads == "streams"])
def test_a_padded_window_equals_the_short_one(name):
    model, params, carry, tokens = made(name)
    short = apply_model(model, params, carry, tokens[:4])
    after, log_probs = apply_model(model, params, carry, tokens, lengths=jnp.full(B, 4))
    assert relative((after, log_probs[:4]), short) < EXACT


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_sum_to_one_and_rows_are_independent(name):
    model, params, carry, tokens = made(name, 3)
    _, log_probs = apply_model(model, params, carry, tokens)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=1e-12)
    _, changed = apply_model(model, params, carry, tokens.at[:, 1].set((tokens[:, 1] + 1) % V))
    kept = np.array([0, 2, 3])
    np.testing.assert_array_equal(log_probs[..., kept, :], changed[..., kept, :])
    assert relative(changed, log_probs) > 1e-3


def test_general_model_equals_the_courses_lstm():
    course, params, carry, tokens = made("CharSeqStatefulLSTM")
    general = CharLM(V, F, H, cell=LSTM, num_layers=2)
    ours = apply_model(general, params, carry, tokens)
    assert relative(ours, apply_model(course, params, carry, tokens)) == 0


def test_tied_output_uses_the_embedding():
    model = CharLM(V, H, H, cell=GRU, tied=True)
    tokens = jnp.zeros((T, B), int)
    carry = model.initial_carry(B, jnp.float64)
    params = model.init(jax.random.key(0), carry, tokens)["params"]
    assert "l_out" not in params
    silent = {**params, "rnn": jax.tree.map(jnp.zeros_like, params["rnn"])}
    _, log_probs = apply_model(model, silent, carry, tokens)
    np.testing.assert_allclose(log_probs, -np.log(V), rtol=1e-6)  # h = 0: only the bias is left
    _, log_probs = apply_model(model, params, carry, tokens)
    scaled = {**params, "e": jax.tree.map(lambda e: 2 * e, params["e"])}
    assert relative(apply_model(model, scaled, carry, tokens)[1], log_probs) > 1e-3
    with pytest.raises(ValueError, match="embedding_size = hidden_size, got 5 and 7"):
        CharLM(V, F, H, tied=True).init(jax.random.key(0), model.initial_carry(B), tokens)


@pytest.mark.parametrize("num_tokens", [T, 1], ids=["rows looked up", "rows in order"])
def test_a_tied_table_has_the_gradients_of_both_its_uses(num_tokens):
    """Those of the embedding and of the output layer of an untied model with equal weights."""
    tied = CharLM(H, H, H, cell=GRU, tied=True)  # square, so that a transposed table would fit
    untied = CharLM(H, H, H, cell=GRU)
    tokens = jax.random.randint(jax.random.key(1), (num_tokens, B), 0, H, jnp.int32)
    carry = tied.initial_carry(B, jnp.float64)
    params = random_tree(jax.random.key(2), tied.init(jax.random.key(0), carry, tokens)["params"])
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    separate = {
        "e": params["e"],
        "rnn": params["rnn"],
        "l_out": {"kernel": params["e"]["embedding"].T, "bias": params["bias_out"]},
    }

    def run(model, params):
        def loss(params):
            after, log_probs = apply_model(model, params, carry, tokens)
            return jnp.sin(log_probs).sum() + jnp.cos(after[0].h).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    loss, gradients = run(tied, params)
    expected, apart = run(untied, separate)
    both = apart["e"]["embedding"] + apart["l_out"]["kernel"].T
    assert relative(loss, expected) < EXACT
    assert relative(gradients["e"]["embedding"], both) < EXACT
    assert relative(gradients["rnn"], apart["rnn"]) < EXACT
    assert relative(gradients["bias_out"], apart["l_out"]["bias"]) < EXACT


@pytest.mark.parametrize(
    ("tied", "bound", "deviation"), [(True, 32**-0.5, 96**-0.5), (False, np.inf, 1.0)]
)
def test_a_tied_table_starts_as_an_output_layer_and_another_as_an_embedding(tied, bound, deviation):
    """Uniform within 1 / sqrt(H), whose deviation is 1 / sqrt(3 H), or standard normal."""
    model = CharLM(400, 32, 32, tied=tied)
    params = model.init(jax.random.key(0), model.initial_carry(B), jnp.zeros((T, B), int))
    table = params["params"]["e"]["embedding"]
    assert np.abs(table).max() <= bound
    # The deviation of 12,800 numbers is their distribution's within 2 %.
    assert table.std() == pytest.approx(deviation, rel=0.02)


def test_identity_initialization():
    model = MODELS["CharSeqRnn"](V, F, H, identity=True)
    params = model.init(jax.random.key(0), (), jnp.zeros((T, B), int))["params"]
    np.testing.assert_array_equal(params["rnn"]["weight_hh_l0"], np.eye(H))
    assert np.abs(params["rnn"]["weight_ih_l0"]).max() <= 1 / np.sqrt(H)


@pytest.mark.wrong_shapes
def test_three_characters_are_three():
    with pytest.raises(ValueError, match="3 characters, got 4"):
        Char3Model(V).init(jax.random.key(0), (), jnp.zeros((4, B), int))


def test_hidden_default_is_the_courses():
    assert MODELS["CharSeqStatefulGRU"](V).hidden_size == 256
    assert MODELS["CharSeqStatefulLSTM"](V).hidden_size == 512
    assert all(m.embedding_size == 42 for m in MODELS.values())


@pytest.mark.parametrize(
    ("vocabulary", "tokens", "embedded"), [(15, 15, True), (15, 14, False), (16, 99, False)]
)
def test_characters_are_looked_up_where_that_is_less_work(vocabulary, tokens, embedded):
    """With a large vocabulary the table's gradient would cost more than it saves."""

    class Both(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return embedded_tokens(embed(vocabulary, F), tokens)

    found, _ = Both().init_with_output(jax.random.key(0), jnp.zeros((1, tokens), jnp.int32))
    assert (found.tokens is not None) == embedded


@pytest.mark.parametrize("name", ["CharSeqStatefulGRU", "CharLM"])
def test_looking_the_characters_up_changes_nothing(name, monkeypatch):
    model, params, carry, tokens = made(name)
    assert tokens.size >= V  # as many as it takes to look them up

    def gradients():
        def loss(params):
            after, log_probs = apply_model(model, params, carry, tokens)
            return jnp.sin(log_probs).sum() + jnp.cos(after[0].h).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    embedded = gradients()
    for module in ("model", "models"):
        monkeypatch.setattr(
            f"jaxrnn.nn.{module}.embedded_tokens", lambda e, tokens: Inputs(e(tokens))
        )
    assert relative(embedded, gradients()) < EXACT
