"""Models and cells of one's own that are not what they must be: one line, before anything runs."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrnn import (
    CELLS,
    GRU,
    RNN,
    BpttStream,
    Cell,
    CharLM,
    CharSeqStatefulRnn2,
    FreeCell,
    Hidden,
    LinearCell,
    RNNCell,
    StatefulModel,
    evaluate,
    fit,
    make_optimizer,
    make_state,
)
from jaxrnn.recurrent.dry_run import dry_run, dry_run_free, dry_run_linear
from jaxrnn.training.diagnostics import saturated_share

V, F, H, B = 9, 4, 8, 4
TOKENS = np.random.default_rng(0).integers(0, V, 200)
SOURCE = BpttStream(TOKENS, B, 20)


class HiddenLast(NamedTuple):
    c: jax.Array
    h: jax.Array


def gated(step, gates=("h",), **options):
    return lambda: Cell("mine", gates, step, **options)


def free(step, init=lambda key, inputs, hidden: {"w": jnp.zeros((hidden, inputs))}, **options):
    return lambda: FreeCell("mine", init, step, **options)


WRONG_CELLS = {
    "an array": (gated(lambda c, x, h: x), r"must give Hidden\(h=float32\[4,64\]\), .*gives float"),
    "h is not first": (gated(lambda c, x, h: c, carry=HiddenLast), "must be h, the output.*c, h"),
    "other shapes": (gated(lambda c, x, h: Hidden(x), ("f", "n")), r"it gives .*\[4,128\]"),
    "truth values": (gated(lambda c, x, h: Hidden(x > 0)), "it gives .*bool"),
    "a plain tuple": (gated(lambda c, x, h: (x,), carry=tuple), "must be a NamedTuple, the class"),
    "an instance": (gated(lambda c, x, h: c, carry=Hidden(0)), "must be a NamedTuple, the class"),
    "no such field": (gated(lambda c, x, h: c.c), "fails on .*no attribute 'c'"),
    "a parameter": (gated(lambda c, x, h: c, params=("p",)), r"\(carry, x_gates, h_gates, p=\)"),
    "a condition": (
        gated(lambda c, x, h: Hidden(x) if x.sum() > 0 else c),
        "it decides by a value, which is not known yet: take jnp.where",
    ),
    "NumPy": (gated(lambda c, x, h: Hidden(np.tanh(x))), "take jax.numpy"),
    "a text of gates": (gated(lambda c, x, h: c, "fn"), r"tuple of names such as \('f', 'n'\)"),
    "no gates": (gated(lambda c, x, h: c, ()), "at least 1 name, got none"),
    "no function": (gated(3), "must be a function of .*got 3"),
    "free, an array": (free(lambda p, c, x: x), r"the carry and the output, \(carry, y\)"),
    "free, a carry": (free(lambda p, c, x: c), r"the carry and the output, \(carry, y\)"),
    "free, outputs": (free(lambda p, c, x: (c, x)), r"outputs of shape \(4, 64\), .* \(4, 32\)"),
    "free, product": (free(lambda p, c, x: (c, x @ p["w"][:3])), "fails on .*dot_general"),
    "free, start": (
        free(lambda p, c, x: (c, c), carry_init=lambda b, h, dtype: jnp.zeros((b, h))),
        "must give a Hidden, the cell's carry",
    ),
    "free, no names": (
        free(lambda p, c, x: (c, c.h), lambda key, inputs, hidden: [jnp.zeros(3)]),
        "a dictionary of at least one array by name",
    ),
    "linear": (
        lambda: LinearCell("mine", ("z",), coefficients=lambda gates: gates),
        r"must give \(a, b\)",
    ),
}


@pytest.mark.parametrize("kind", WRONG_CELLS)
def test_a_wrong_cell_is_refused_where_it_is_made(kind):
    make, message = WRONG_CELLS[kind]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_cell_for_some_sizes_is_refused_where_it_is_used():
    cell = Cell("of five", ("h",), lambda c, x, h: Hidden(x + jnp.ones(5)))
    fits, does_not = RNN(cell, 5), RNN(cell, 6)
    xs = jnp.zeros((3, 2, 4))
    fits.init(jax.random.key(0), None, xs)
    with pytest.raises(ValueError, match=r"'of five' fails on Hidden\(h=float32\[2,6\]\)"):
        does_not.init(jax.random.key(0), None, xs)


@pytest.mark.parametrize("name", CELLS)
def test_the_cells_of_the_package_pass_what_they_are_spared(name):
    cell = CELLS[name]
    if isinstance(cell, FreeCell):
        dry_run_free(cell)
    elif isinstance(cell, LinearCell):
        dry_run_linear(cell)
        dry_run(cell)
    else:
        dry_run(cell)


def test_a_name_stands_for_its_cell():
    assert RNN("gru", H) == RNN(GRU, H)
    assert RNNCell("gru", H).cell is GRU
    # One model, whose programs are compiled once.
    assert CharLM(V, F, H, cell="gru") == CharLM(V, F, H, cell=GRU)
    with pytest.raises(ValueError, match=r"cell must be one of tanh, .*got 'gruu'"):
        CharLM(V, F, H, cell="gruu")


class Own(StatefulModel):
    """Parameters called as those of a stack, which are none; and what `returned` says."""

    returned: str = "both"

    @property
    def stack(self):
        return RNN(GRU, self.hidden_size, parent=None)

    @nn.compact
    def __call__(self, carry, tokens):
        xs = nn.Embed(self.vocab_size, self.embedding_size, name="e")(tokens)
        xs = nn.Dense(self.hidden_size, name="rnn")(xs)
        log_probs = nn.log_softmax(nn.Dense(self.vocab_size, name="l_out")(xs))
        return {
            "both": (carry, log_probs),
            "one": log_probs,
            "no carry": ((), log_probs),
            "fewer": (carry, log_probs[..., :-1]),
        }[self.returned]


class NoLayers(StatefulModel):
    @nn.compact
    def __call__(self, carry, tokens):
        return carry, tokens


def fit_small(model=None, source=SOURCE, validation=None, **options):
    if model is None:
        model = CharLM(V, F, H, cell="tanh")
    return fit(model, source, validation, **{"schedule": "1 x 1e-3", **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(fit_small, source=TOKENS), r"jaxrnn.BpttStream\(tokens, batch_size=64, bptt=16\)"),
        (partial(fit_small, source="a text"), r"BpttStream\(vocabulary.encode\(text\), batch"),
        (partial(fit_small, validation=TOKENS), "validation must be windows of tokens, got"),
        (partial(evaluate, CharLM(V, F, H), {}, TOKENS), "source must be windows of tokens"),
        (partial(fit_small, CharLM), r"not its class: call it, CharLM\(vocab_size, "),
        (partial(fit_small, RNN(GRU, H)), "derive from jaxrnn.StatefulModel, got a RNN"),
        (partial(fit_small, optimizer=optax.adam), "made by make_optimizer, or an optax"),
        (partial(fit_small, Own(V, F, H, "one")), r"must return the carry and the log prob.*\[3,1"),
        (partial(fit_small, Own(V, F, H, "no carry")), r"as it takes it, \(Hidden.*returns \(\)"),
        (partial(fit_small, Own(V, F, H, "fewer")), "must return log probabilities of shape"),
        (partial(fit_small, NoLayers(V, F, H)), "the property `stack`, or, .*`initial_carry"),
        (
            partial(fit_small, Own(V, F, H), BpttStream(TOKENS, B, 20, random_bptt=True)),
            "takes no lengths, .*--no-random-bptt",
        ),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_line_that_is_given_for_tokens_works():
    tokens = np.resize(TOKENS, 64 * 20)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        fit_small(source=tokens)
    line = str(caught.value).partition("take jaxrnn.")[2].partition(", or a")[0]
    assert isinstance(eval(line, {"BpttStream": BpttStream, "tokens": tokens}), BpttStream)


def test_metrics_give_nothing_for_what_they_do_not_know():
    """A model with a `__call__` of its own trains, and its gates are not counted."""
    _, history = fit_small(Own(V, F, H))
    assert history[-1].saturated is None
    # What is known is still counted: a cell without the number of a layer, too.
    model = CharSeqStatefulRnn2(V, F, H)
    state = make_state(model, make_optimizer("adam"), B, jax.random.key(0))
    large = jax.tree.map(lambda leaf: 1e3 * leaf, state.params)
    share = saturated_share(model, large, state.carry, jnp.asarray(TOKENS), np.arange(B))
    assert share > 0.9
