"""Writing in one compiled call: the same characters as step by step, and when it is not used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, random_tree, relative

from jaxrnn import (
    COUPLED_LSTM,
    GREEDY,
    GRU,
    LSTM,
    MGU,
    MIN_GRU,
    PEEPHOLE_LSTM,
    QRNN,
    QRNN_1,
    SLSTM,
    SRU,
    TANH,
    Cell,
    CharLM,
    CharSeqStatefulGRU,
    CharSeqStatefulRnn2,
    Hidden,
    Sampler,
    backend,
    generate,
    make_optimizer,
    make_state,
)
from jaxrnn.generation import decoding as module
from jaxrnn.recurrent.compiled import library
from jaxrnn.recurrent.compiled.generated import USUAL_CELLS
from jaxrnn.training.state import cast_floats

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu" or library.why_unavailable() is not None,
    reason="writing is compiled on CPUs that have a C++ compiler",
)

LENGTH = 60
KEY = jax.random.key(3)
GROWN = 1e-10
"""Relative, of the carry after LENGTH steps of networks that let differences grow."""


def params_of(model, dtype="float64"):
    state = make_state(model, make_optimizer("sgd"), 1, jax.random.key(0))
    return jax.tree.map(lambda w: 2 * w, cast_floats(state.params, dtype))


def written(model, params, batch_size, sampler, monkeypatch, *, compiled):
    """Carry and characters, and whether the library wrote them."""
    calls = []

    def write(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        original = module.generate_compiled
        patch.setattr(module, "generate_compiled", write)
        if not compiled:
            patch.setattr(module, "runs_compiled", lambda components: False)
        jax.clear_caches()
        prompt = jnp.arange(2 * batch_size).reshape(2, batch_size) % model.vocab_size
        found = generate(model, params, prompt, LENGTH, KEY, sampler=sampler)
    jax.clear_caches()
    return found, bool(calls)


@pytest.mark.sample(2)
@pytest.mark.parametrize("cell", USUAL_CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize(
    ("num_layers", "batch_size", "hidden_size", "vocab_size", "tied", "sampler"),
    [
        (1, 1, 16, 85, False, GREEDY),
        (2, 3, 33, 11, False, Sampler(temperature=0.6, banned=(0, 9))),
        (3, 70, 40, 50, True, Sampler()),
        (2, 1, 300, 20, False, Sampler()),
    ],
    ids=str,
)
@pytest.mark.usefixtures("float64")
def test_the_same_characters_as_step_by_step(
    cell, num_layers, batch_size, hidden_size, vocab_size, tied, sampler, monkeypatch
):
    """Sizes that fill no vector and no block of rows, several chunks of rows, and a team."""
    width = hidden_size if tied else 5
    model = CharLM(vocab_size, width, hidden_size, cell=cell, num_layers=num_layers, tied=tied)
    params = params_of(model)
    both = [
        written(model, params, batch_size, sampler, monkeypatch, compiled=compiled)
        for compiled in (True, False)
    ]
    ((carry, tokens), ours), ((expected, oracle), theirs) = both
    assert (ours, theirs) == (True, False)
    np.testing.assert_array_equal(tokens, oracle)
    assert len(np.unique(tokens)) > 1 or sampler is GREEDY
    assert relative(carry, expected) < GROWN


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "cell",
    [PEEPHOLE_LSTM, COUPLED_LSTM, MGU, SLSTM, MIN_GRU, QRNN, QRNN_1, SRU],
    ids=lambda cell: cell.name,
)
@pytest.mark.usefixtures("float64")
def test_other_cells_are_written_in_one_call_too(cell, monkeypatch):
    """With parameters per unit and several fields of the carry, in two layers."""
    model = CharLM(11, 5, 33, cell=cell, num_layers=2)
    params = params_of(model)
    both = [
        written(model, params, 3, Sampler(), monkeypatch, compiled=compiled)
        for compiled in (True, False)
    ]
    ((carry, tokens), ours), ((expected, oracle), theirs) = both
    assert (ours, theirs) == (True, False)
    np.testing.assert_array_equal(tokens, oracle)
    assert relative(carry, expected) < GROWN


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("num_layers", "batch_size", "length"), [(1, 20, 1), (3, 3, 17), (2, 70, 5)]
)
@pytest.mark.usefixtures("float64")
def test_a_window_of_two_begins_with_the_input_before(num_layers, batch_size, length):
    """From any carry, in which the input before is not what the layer below gave."""
    model = CharLM(11, 5, 33, cell=QRNN, num_layers=num_layers)
    params = params_of(model)
    carry = random_tree(KEY, model.initial_carry(batch_size, jnp.float64))
    prompt = jnp.arange(batch_size)[None] % 11
    found = {}
    for way in ("scan", "compiled"):
        with backend(way):
            found[way] = generate(model, params, prompt, length, KEY, carry=carry)
    np.testing.assert_array_equal(found["compiled"][1], found["scan"][1])
    assert relative(found["compiled"][0], found["scan"][0]) < GROWN


@pytest.mark.usefixtures("float64")
def test_the_courses_models_are_written_compiled(monkeypatch):
    model = CharSeqStatefulGRU(11, 5, 16)
    found, compiled = written(model, params_of(model), 2, Sampler(), monkeypatch, compiled=True)
    expected, _ = written(model, params_of(model), 2, Sampler(), monkeypatch, compiled=False)
    assert compiled
    assert relative(found[0], expected[0]) < EXACT
    np.testing.assert_array_equal(found[1], expected[1])


class Louder(CharSeqStatefulGRU):
    """A model that computes something of its own."""

    def __call__(self, carry, tokens, *, lengths=None):
        carry, log_probs = CharSeqStatefulGRU.__call__(self, carry, tokens, lengths=lengths)
        return carry, -log_probs


class Least(Sampler):
    """A sampler with a taste of its own."""

    def allowed(self, log_probs):
        return super().allowed(-log_probs)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("model", "sampler", "dtype"),
    [
        (Louder(11, 5, 16), GREEDY, "float32"),
        (CharSeqStatefulRnn2(11, 5, 16), GREEDY, "float32"),
        (CharLM(11, 5, 16, cell=GRU), Sampler(top_k=3), "float32"),
        (CharLM(11, 5, 16, cell=LSTM), Sampler(top_p=0.5), "float32"),
        (CharLM(11, 5, 16, cell=GRU), Least(), "float32"),
        (CharLM(11, 5, 16, cell=GRU), Sampler(), "bfloat16"),
        (
            CharLM(11, 5, 16, cell=Cell("mean", ("h",), lambda c, x, h: Hidden(x + h - h.mean()))),
            GREEDY,
            "float32",
        ),
    ],
    ids=["own call", "own loop", "top_k", "top_p", "own sampler", "bfloat16", "not elementwise"],
)
def test_anything_else_is_written_step_by_step(model, sampler, dtype, monkeypatch):
    (_, tokens), compiled = written(
        model, params_of(model, dtype), 2, sampler, monkeypatch, compiled=True
    )
    assert not compiled
    assert tokens.shape == (LENGTH, 2)
    assert ((tokens >= 0) & (tokens < 11)).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("sampler", [GREEDY, Sampler()], ids=["greedy", "drawn"])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "step by step"])
def test_logits_that_are_not_finite_are_refused_whoever_writes(
    poison, sampler, compiled, monkeypatch
):
    """One impossible character is never drawn; NaN, infinity and nothing possible are errors."""
    model = CharLM(11, 5, 16, cell=TANH)
    params = params_of(model, "float32")
    params["l_out"]["bias"] = params["l_out"]["bias"].at[4].set(poison)
    if poison == -np.inf:
        (_, tokens), _ = written(model, params, 3, sampler, monkeypatch, compiled=compiled)
        assert 4 not in np.asarray(tokens)
        params["l_out"]["bias"] = jnp.full(11, poison)
    with pytest.raises(ValueError, match="no character a finite probability"):
        written(model, params, 3, sampler, monkeypatch, compiled=compiled)


@pytest.mark.parametrize("at", [0, 10])
def test_a_text_that_turns_to_nan_on_the_way_is_refused(at, monkeypatch):
    """Only the carry after a certain character is NaN: the first characters are still drawn."""
    model = CharLM(11, 5, 16, cell=TANH)
    params = params_of(model, "float32")
    params["e"]["embedding"] = params["e"]["embedding"].at[at].set(np.nan)
    with pytest.raises(ValueError, match=r"\(character \d+ of text \d\)"):
        written(model, params, 3, Sampler(temperature=1e30), monkeypatch, compiled=True)


@pytest.mark.sample(1)
@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-30, 1e39, 1e308])
@pytest.mark.parametrize("banned", [(), (0, 3)])
def test_extreme_temperatures_are_greedy_and_uniform_when_compiled(
    temperature, banned, monkeypatch
):
    model = CharLM(11, 5, 16)
    params = params_of(model, "float32")
    sampler = Sampler(temperature=temperature, banned=banned)
    (_, tokens), compiled = written(model, params, 40, sampler, monkeypatch, compiled=True)
    assert compiled
    if temperature < 1:
        greedy = Sampler(temperature=0.0, banned=banned)
        (_, expected), _ = written(model, params, 40, greedy, monkeypatch, compiled=True)
        np.testing.assert_array_equal(tokens, expected)
    else:
        shares = np.bincount(np.asarray(tokens).ravel(), minlength=11) / tokens.size
        expected = np.where(np.isin(np.arange(11), banned), 0, 1 / (11 - len(banned)))
        np.testing.assert_allclose(shares, expected, atol=5 * 0.5 / np.sqrt(tokens.size))


def test_a_team_writes_the_same_bits_every_time():
    """Whoever takes a panel computes the same numbers."""
    model = CharLM(85, 42, 640, cell=GRU)
    params, prompt = params_of(model, "float32"), jnp.zeros((1, 1), int)
    runs = [generate(model, params, prompt, 300, KEY) for _ in range(5)]
    for run in runs[1:]:
        jax.tree.map(np.testing.assert_array_equal, run, runs[0])
