"""What a stack takes beside (T, B, I): batch first, one sequence alone, no carry, no biases,
projections; and a single step.

The oracles are the stack itself on (T, B, I), whose own tests are elsewhere, and a loop by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, random_stack, random_tree, relative

from jaxrnn import (
    CELLS,
    GREEDY,
    GRU,
    LSTM,
    PEEPHOLE_LSTM,
    RNN,
    TANH,
    BpttStream,
    Cell,
    FreeCell,
    Hidden,
    HiddenAndCell,
    RNNCell,
    StatefulModel,
    fit,
    generate,
)
from jaxrnn.nn.model import apply_model
from jaxrnn.recurrent.inputs import Inputs

T, B, I, H, P, V = 4, 3, 5, 6, 2, 9
KEY = jax.random.key(0)


def gradients(stack, params, carry, xs, **options):
    """Results, and gradients of all of them, for weights, carry and inputs."""

    def loss(params, carry, xs):
        results = stack.apply({"params": params}, carry, xs, **options)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(results)), results

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, results), by_argument = gradient(params, carry, xs)
    return results, by_argument


@pytest.mark.usefixtures("float64")
def test_batch_first_is_time_first_with_both_axes_exchanged():
    settings = {"num_layers": 2, "bidirectional": True, "dropout": 0.5}
    stack = RNN(LSTM, H, **settings)
    params, carry, xs = random_stack(stack, I, B, T, jnp.float64)
    mask = jax.random.bernoulli(KEY, 0.5, (T, B, 2 * H))
    lengths = jnp.array([T, 1, 2])
    resets = jax.random.bernoulli(KEY, 0.5, (T, B))

    (after, ys), (d_params, d_carry, d_xs) = gradients(
        stack, params, carry, xs, lengths=lengths, dropout_masks=[mask], resets=resets
    )
    exchanged = gradients(
        RNN(LSTM, H, **settings, batch_first=True),
        params,
        carry,
        xs.swapaxes(0, 1),
        lengths=lengths,
        dropout_masks=[mask.swapaxes(0, 1)],
        resets=resets.T,
    )
    expected = (
        (after, ys.swapaxes(0, 1)),
        (d_params, d_carry, d_xs.swapaxes(0, 1)),
    )
    assert relative(exchanged, expected) < EXACT


@pytest.mark.usefixtures("float64")
def test_one_sequence_alone_is_a_batch_of_one():
    settings = {"num_layers": 2, "bidirectional": True, "dropout": 0.5}
    stack = RNN(LSTM, H, **settings)
    params, carry, xs = random_stack(stack, I, 1, T, jnp.float64)
    mask = jax.random.bernoulli(KEY, 0.5, (T, 1, 2 * H))
    resets = jnp.arange(T)[:, None] == 2
    (after, ys), (d_params, d_carry, d_xs) = gradients(
        stack, params, carry, xs, dropout_masks=[mask], resets=resets
    )

    def first(tree):
        return jax.tree.map(lambda field: field[0], tree)

    expected = ((first(after), ys[:, 0]), (d_params, first(d_carry), d_xs[:, 0]))
    # It has no batch axis that could come first.
    for batch_first in (False, True):
        alone = gradients(
            RNN(LSTM, H, **settings, batch_first=batch_first),
            params,
            first(carry),
            xs[:, 0],
            dropout_masks=[mask[:, 0]],
            resets=resets[:, 0],
        )
        assert relative(alone, expected) < EXACT


@pytest.mark.parametrize("batch_first", [False, True])
def test_embedded_tokens_have_the_same_layouts(batch_first):
    stack = RNN(GRU, H)
    params, carry, _ = random_stack(stack, I, B, T, jnp.float32)
    table = jax.random.normal(KEY, (V, I))
    tokens = jax.random.randint(KEY, (T, B), 0, V)
    other = RNN(GRU, H, batch_first=batch_first)

    def outputs(stack, carry, tokens):
        return jax.jit(stack.apply)({"params": params}, carry, Inputs(table, tokens))[1]

    expected = outputs(stack, carry, tokens)
    if batch_first:
        whole = outputs(other, carry, tokens.T).swapaxes(0, 1)
    else:
        whole = outputs(other, carry, tokens)
    alone = outputs(other, jax.tree.map(lambda field: field[1], carry), tokens[:, 1])
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    np.testing.assert_allclose(alone, expected[:, 1], rtol=1e-5, atol=1e-6)


COUNTING = FreeCell(
    "counting",
    lambda key, input_size, hidden_size: {"w": jnp.ones((hidden_size, input_size))},
    lambda params, carry, x: (Hidden(carry.h + x @ params["w"].T), carry.h),
    Hidden,
    lambda batch_size, hidden_size, dtype: Hidden(jnp.full((batch_size, hidden_size), 7, dtype)),
)


@pytest.mark.parametrize("cell", [LSTM, COUNTING], ids=lambda cell: cell.name)
@pytest.mark.parametrize("batch_size", [B, None])
def test_no_carry_is_the_initial_carry(cell, batch_size):
    stack = RNN(cell, H, 2)
    carry = stack.initial_carry(batch_size)
    rows = () if batch_size is None else (batch_size,)
    assert all(leaf.shape == (*rows, H) for leaf in jax.tree.leaves(carry))
    xs = jax.random.normal(KEY, (T, *rows, I))
    variables = stack.init(KEY, None, xs)
    got = stack.apply(variables, None, xs)
    expected = stack.apply(variables, carry, xs)
    assert relative(got, expected) == 0

    one = RNNCell(cell, H)
    variables = one.init(KEY, None, xs[0])
    got = one.apply(variables, None, xs[0])
    expected = one.apply(variables, one.initial_carry(batch_size), xs[0])
    assert relative(got, expected) == 0


@pytest.mark.sample(2)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["gru", "peephole-lstm", "minlstm", "sru"])
def test_no_biases_are_biases_of_zero(name):
    cell = CELLS[name]
    with_biases = RNN(cell, H, 2)
    params, carry, xs = random_stack(with_biases, I, B, T, jnp.float64)
    zeroed = {
        key: jnp.zeros_like(array) if key.startswith("bias") else array
        for key, array in params.items()
    }
    left = {key: array for key, array in params.items() if not key.startswith("bias")}
    without = RNN(cell, H, 2, bias=False)
    assert set(without.init(KEY, carry, xs)["params"]) == set(left)
    results, (d_params, *d_others) = gradients(with_biases, zeroed, carry, xs)
    d_left = {name: d_params[name] for name in left}
    expected = (results, (d_left, *d_others))
    assert relative(gradients(without, left, carry, xs), expected) < EXACT


def projected_loop(cell, weights, carry, xs, lengths, resets, *, reverse):
    """A projected layer as loops over steps and rows; weights by their names without a number."""
    rows = []
    for row, length in enumerate(lengths):
        h, *others = (field[row] for field in carry)
        ys = jnp.zeros((len(xs), P))
        steps = range(int(length))
        for t in reversed(steps) if reverse else steps:
            if resets[t, row]:
                h, *others = (jnp.zeros_like(field[row]) for field in carry)
            x_gates = xs[t, row] @ weights["weight_ih"].T + weights["bias_ih"]
            h_gates = h @ weights["weight_hh"].T + weights["bias_hh"]
            # The step reads no h: any number will do.
            before = cell.carry(jnp.full((1, H), jnp.nan), *(field[None] for field in others))
            own = {name: weights[name] for name in cell.params}
            after = cell.step(before, x_gates[None], h_gates[None], **own)
            h = after.h[0] @ weights["weight_hr"].T
            others = [field[0] for field in after[1:]]
            ys = ys.at[t].set(h)
        rows.append((cell.carry(h, *others), ys))
    carries, outputs = zip(*rows, strict=True)
    return jax.tree.map(lambda *fields: jnp.stack(fields), *carries), jnp.stack(outputs, axis=1)


@pytest.mark.sample(1)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", [LSTM, PEEPHOLE_LSTM], ids=lambda cell: cell.name)
def test_a_projected_layer_is_the_equations_in_a_loop(cell):
    stack = RNN(cell, H, bidirectional=True, proj_size=P)
    params, carry, xs = random_stack(stack, I, B, T, jnp.float64)
    lengths = np.array([T, 1, 2])
    resets = np.zeros((T, B), bool)
    resets[2, 0] = True
    resets[1, 1:] = True  # behind the end of row 1, at the end of row 2

    def by_hand(params, carry, xs):
        after = []
        outputs = []
        for number, suffix in enumerate(("_l0", "_l0_reverse")):
            weights = {
                name.removesuffix(suffix): array
                for name, array in params.items()
                if name.endswith(suffix)
            }
            last, ys = projected_loop(
                cell, weights, carry[number], xs, lengths, resets, reverse=number == 1
            )
            after.append(last)
            outputs.append(ys)
        return tuple(after), jnp.concatenate(outputs, axis=-1)

    def loss(params, carry, xs):
        results = by_hand(params, carry, xs)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(results)), results

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, results), by_argument = gradient(params, carry, xs)
    got = gradients(stack, params, carry, xs, lengths=lengths, resets=resets)
    assert relative(got, (results, by_argument)) < EXACT


def test_projected_layers_have_torchs_parameters():
    stack = RNN(LSTM, 200, 2, bidirectional=True, proj_size=50)
    params = stack.init(KEY, None, jnp.zeros((1, 1, 30)))["params"]
    expected = {}
    for layer, width in ((0, 30), (1, 2 * 50)):
        for suffix in (f"l{layer}", f"l{layer}_reverse"):
            expected[f"weight_ih_{suffix}"] = (800, width)
            expected[f"weight_hh_{suffix}"] = (800, 50)
            expected[f"weight_hr_{suffix}"] = (50, 200)
            expected[f"bias_ih_{suffix}"] = (800,)
            expected[f"bias_hh_{suffix}"] = (800,)
    assert {name: array.shape for name, array in params.items()} == expected
    bound = 1 / np.sqrt(200)
    for array in params.values():
        assert 0.9 * bound < np.abs(array).max() <= bound
    carry = stack.initial_carry(7)
    assert [leaf.shape for leaf in carry[3]] == [(7, 50), (7, 200)]


def test_projected_layers_take_forward_mode():
    stack = RNN(LSTM, H, proj_size=P)
    params, carry, xs = random_stack(stack, I, B, T, jnp.float32)
    outputs = lambda xs: stack.apply({"params": params}, carry, xs)[1].sum()  # noqa: E731
    _, tangent = jax.jvp(outputs, (xs,), (jnp.ones_like(xs),))
    np.testing.assert_allclose(tangent, jax.grad(outputs)(xs).sum(), rtol=1e-4)


def _reads_h(carry, x_gates, h_gates):
    i, f, g, o = jnp.split(x_gates + h_gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return HiddenAndCell(jax.nn.sigmoid(o) * jnp.tanh(c) + carry.h, c)


READS_H = Cell("reads-h", ("i", "f", "g", "o"), _reads_h, HiddenAndCell)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNN(LSTM, H, proj_size=H), "proj_size must be less than hidden_size, 6, got 6"),
        (lambda: RNN(LSTM, H, proj_size=-1), "proj_size must be at least 0, got -1"),
        (
            lambda: RNN(LSTM, H, proj_size=2.0),
            "proj_size must be an integer of at least 0, got 2.0",
        ),
        (lambda: RNN(GRU, H, proj_size=P), r"a cell state c, such as jaxrnn.LSTM; gru is none"),
        (lambda: RNN(COUNTING, H, proj_size=P), "a cell state c.*counting is none"),
        (
            lambda: RNN(READS_H, H, proj_size=P),
            "reads c alone of the carry.*'reads-h' fails without h",
        ),
        (
            lambda: RNN(COUNTING, H, bias=False),
            "bias=False is for gated cells; counting makes its own",
        ),
        (lambda: RNN(LSTM, H, bias=1), "bias must be True or False, got 1"),
        (lambda: RNN(LSTM, H, batch_first="no"), "batch_first must be True or False, got 'no'"),
        (lambda: RNNCell(GRU, 0), "hidden_size must be at least 1, got 0"),
        (lambda: RNNCell(GRU, H, bias="True"), "bias must be True or False, got 'True'"),
        (lambda: RNNCell("gruu", H), "cell must be one of tanh, relu, gru"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_settings_are_one_message(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make().init(KEY, None, jnp.zeros((B, I)))
    assert "\n" not in str(caught.value)


def test_lengths_need_a_batch():
    stack = RNN(GRU, H)
    with pytest.raises(ValueError, match="lengths are for a batch"):
        stack.init(KEY, None, jnp.zeros((T, I)), lengths=T)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("carry", "x", "message"),
    [
        (Hidden(jnp.zeros((B + 1, H))), jnp.zeros((B, I)), r"float32\[3,6\].*got.*\[4,6\]"),
        (Hidden(jnp.zeros((B, H))), jnp.zeros(I), r"float32\[6\].*got.*float32\[3,6\]"),
        (Hidden(jnp.zeros(H)), jnp.zeros((B, I)), r"float32\[3,6\].*got.*float32\[6\]"),
        (jnp.zeros((B, H)), jnp.zeros((B, I)), r"carry must be Hidden\(h=float32\[3,6\]\)"),
        (Hidden(jnp.zeros((B, H))), jnp.zeros((T, B, I)), r"x must have shape \(B, I\)"),
        (Hidden(jnp.zeros((B, H))), jnp.zeros((B, I + 1)), r"\(18, 6\).*got \(18, 5\)"),
        (Hidden(jnp.zeros((B, H))), jnp.zeros((B, I), int), "floating numbers, got int32"),
    ],
    ids=["batch", "no batch", "batch of x alone", "bare", "axes", "input size", "integers"],
)
def test_wrong_arrays_of_one_step_are_one_message(carry, x, message):
    one = RNNCell(GRU, H)
    variables = one.init(KEY, None, jnp.zeros((B, I)))
    with pytest.raises(ValueError, match=message):
        one.apply(variables, carry, x)


@pytest.mark.sample(2)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["gru", "slstm", "qrnn", "sru", "mogrifier-lstm"])
def test_a_single_step_is_a_stack_of_one_layer_and_one_step(name):
    cell = CELLS[name]
    stack = RNN(cell, H)
    one = RNNCell(cell, H)
    params, carry, xs = random_stack(stack, I, B, 1, jnp.float64)
    own = {key.removesuffix("_l0"): array for key, array in params.items()}
    assert set(one.init(KEY, carry[0], xs[0])["params"]) == set(own)
    (after,), ys = stack.apply({"params": params}, carry, xs)
    got = jax.jit(one.apply)({"params": own}, carry[0], xs[0])
    assert relative(got, (after, ys[0])) < EXACT


class Own(StatefulModel):
    """A model whose recurrent layers have settings that none of ours has."""

    settings: tuple = ()

    @property
    def stack(self):
        return RNN(LSTM, self.hidden_size, 2, **dict(self.settings), parent=None)


@pytest.mark.parametrize(
    "settings",
    [(("bias", False),), (("proj_size", 4),)],
    ids=["no biases", "projections"],
)
@pytest.mark.slow
def test_a_model_of_such_layers_trains_and_generates(settings):
    tokens = np.arange(900) % V
    model = Own(V, 4, 8, settings=settings)
    state, history = fit(model, BpttStream(tokens, 4, 8), None, schedule="3 x 3e-2")
    assert history[-1].train < 0.7 * np.log(V)
    assert 0 <= history[-1].saturated < 1
    # Written out, one character after the other: what the compiled library does in one call.
    prompt = np.array([[0, 3], [1, 4]])
    carry, generated = generate(model, state.params, prompt, 3, KEY, sampler=GREEDY)
    text = jnp.asarray(prompt)
    for _ in range(3):
        start = model.initial_carry(2)
        _, log_probs = apply_model(model, state.params, start, text)
        text = jnp.concatenate([text, log_probs[-1].argmax(-1)[None]])
    np.testing.assert_array_equal(generated, text[2:])
    expected, _ = apply_model(model, state.params, model.initial_carry(2), text[:-1])
    assert relative(carry, expected) < 1e-5


def test_the_layers_of_a_model_read_time_first():
    model = Own(V, 4, 8, settings=(("batch_first", True),))
    with pytest.raises(ValueError, match="leave batch_first False"):
        model.init(KEY, model.initial_carry(B), jnp.zeros((B, B), int))


def test_a_random_carry_of_a_stack_without_a_batch_runs_jitted_and_in_a_map():
    """One sequence alone under `vmap` is the batch."""
    stack = RNN(TANH, H)
    params, carry, xs = random_stack(stack, I, B, T, jnp.float32)
    expected = stack.apply({"params": params}, carry, xs)
    alone = jax.vmap(
        lambda carry, xs: stack.apply({"params": params}, carry, xs),
        in_axes=(0, 1),
        out_axes=(0, 1),
    )
    got = jax.jit(alone)(carry, xs)
    assert relative(got, expected) < 1e-6
    assert random_tree(KEY, stack.initial_carry(None))[0].h.shape == (H,)
