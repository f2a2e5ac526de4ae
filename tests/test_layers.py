"""The recurrent stack: depth, directions, dropout, initialization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, random_stack, relative

from jaxrnn import CELLS, GRU, LSTM, PEEPHOLE_LSTM, RNN, TANH, Cell
from jaxrnn.nn.layers import dense, embed, identity, product
from jaxrnn.recurrent.cells import GATED_CELLS
from jaxrnn.recurrent.inputs import Inputs
from jaxrnn.recurrent.layer import layer_of

T, B, I, H = 6, 4, 5, 7
ELEMENTWISE = {name: cell for name, cell in CELLS.items() if isinstance(cell, Cell)}


def only(params, layer, suffix=""):
    """The parameters of one layer and direction, named as those of a stack of one."""
    end = f"_l{layer}{suffix}"
    return {name.removesuffix(end) + "_l0": p for name, p in params.items() if name.endswith(end)}


@pytest.mark.sample(9)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_stack_equals_layer_upon_layer(cell):
    rnn, one = RNN(cell, H, num_layers=2), RNN(cell, H)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float64)
    whole = jax.jit(rnn.apply)({"params": params}, carry, xs)
    after = []
    for layer in range(2):
        (last,), xs = jax.jit(one.apply)(
            {"params": only(params, layer)}, carry[layer : layer + 1], xs
        )
        after.append(last)
    assert relative(whole, (tuple(after), xs)) < EXACT


@pytest.mark.sample(9)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_backward_direction_equals_forward_on_flipped_time(cell):
    rnn, one = RNN(cell, H, bidirectional=True), RNN(cell, H)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float64)
    after, ys = jax.jit(rnn.apply)({"params": params}, carry, xs)
    forward = jax.jit(one.apply)({"params": only(params, 0)}, carry[:1], xs)
    backward = jax.jit(one.apply)({"params": only(params, 0, "_reverse")}, carry[1:], xs[::-1])
    assert relative(after, (forward[0][0], backward[0][0])) < EXACT
    assert relative(ys, jnp.concatenate([forward[1], backward[1][::-1]], axis=-1)) < EXACT


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_stack_that_looks_up_equals_stack_of_the_rows(bidirectional):
    rnn = RNN(GRU, H, num_layers=2, bidirectional=bidirectional)
    tokens = jax.random.randint(jax.random.key(3), (T, B), 0, 9)
    table = jax.random.normal(jax.random.key(4), (9, I))
    params, carry, _ = random_stack(rnn, I, B, T, jnp.float64)

    def run(source):
        def loss(params, table):
            last, ys = rnn.apply({"params": params}, carry, source(table))
            return jnp.sin(ys).sum() + sum(jnp.cos(c.h).sum() for c in last)

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, table)

    assert relative(run(lambda t: Inputs(t, tokens)), run(lambda t: t[tokens])) < EXACT


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(B, I), (T, B, I)])
def test_product_has_the_gradients_of_the_plain_product(shape):
    xs, kernel = (jax.random.normal(jax.random.key(k), s) for k, s in enumerate((shape, (I, H))))

    def gradients(multiply):
        return jax.grad(lambda xs, kernel: jnp.sin(multiply(xs, kernel)).sum(), (0, 1))(xs, kernel)

    assert relative(gradients(product), gradients(jnp.matmul)) < EXACT


def test_dropout_acts_between_layers_and_only_with_a_key():
    rnn = RNN(GRU, H, num_layers=2, dropout=0.5)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float32)
    quiet = jax.jit(rnn.apply)({"params": params}, carry, xs)
    again = jax.jit(rnn.apply)({"params": params}, carry, xs)
    dropped = jax.jit(rnn.apply)({"params": params}, carry, xs, rngs={"dropout": jax.random.key(1)})
    assert relative(quiet, again) == 0
    assert relative(dropped[0][0], quiet[0][0]) == 0  # layer 0's carry is before the dropout
    assert relative(dropped[1], quiet[1]) > 0.01
    one = RNN(GRU, H, dropout=0.5)
    params, carry, xs = random_stack(one, I, B, T, jnp.float32)
    last = jax.jit(one.apply)({"params": params}, carry, xs, rngs={"dropout": jax.random.key(1)})
    assert relative(last, jax.jit(one.apply)({"params": params}, carry, xs)) == 0


def test_given_masks_replace_drawn_ones_and_rescale():
    rnn, one = RNN(LSTM, H, num_layers=2, dropout=0.25), RNN(LSTM, H)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float32)
    mask = jax.random.bernoulli(jax.random.key(3), 0.75, (T, B, H))
    _, ys = jax.jit(rnn.apply)({"params": params}, carry, xs, dropout_masks=[mask])
    _, below = jax.jit(one.apply)({"params": only(params, 0)}, carry[:1], xs)
    _, expected = jax.jit(one.apply)({"params": only(params, 1)}, carry[1:], below * mask / 0.75)
    assert relative(ys, expected) < 1e-6


def test_drawn_masks_keep_the_right_share_and_differ_by_step():
    rnn = RNN(TANH, 400, num_layers=2, dropout=0.3)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float32)
    top = jax.tree.map(jnp.zeros_like, only(params, 1))
    top["weight_ih_l0"] = jnp.eye(400)
    params = {**params, **{name.replace("_l0", "_l1"): p for name, p in top.items()}}
    key = {"dropout": jax.random.key(5)}
    _, ys = jax.jit(rnn.apply)({"params": params}, (carry[0], TANH.zeros(B, 400)), xs, rngs=key)
    kept = np.asarray(ys) != 0  # the top layer passes each dropped output on as tanh(0) = 0
    assert abs(kept.mean() - 0.7) < 0.02  # 9,600 draws: five standard deviations
    assert (kept[0] != kept[1]).any()


def test_parameters_are_made_in_one_order():
    """Flax samples them in the order in which they are made: a seed's weights depend on it."""
    order = []

    def param(name, init, shape):
        order.append(name)
        return init(jax.random.key(0), shape, jnp.float32)

    layer = layer_of(PEEPHOLE_LSTM, H)
    xs = Inputs(jnp.zeros((T, B, I)))
    layer(param, layer.initial_carry(B), xs, None, reverse=False)
    assert order == ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "p_i", "p_f", "p_o"]


@pytest.mark.sample(3)
@pytest.mark.parametrize("cell", GATED_CELLS, ids=lambda cell: cell.name)
def test_parameters_have_torch_names_shapes_and_spread(cell):
    rnn = RNN(cell, 200, num_layers=2, bidirectional=True)
    initialized = jax.jit(rnn.init)(jax.random.key(0), rnn.initial_carry(2), jnp.ones((3, 2, 30)))
    params = dict(initialized["params"])
    width = len(cell.gates) * 200
    for layer, inputs in ((0, 30), (1, 400)):
        for suffix in ("", "_reverse"):
            shapes = {
                "weight_ih": (width, inputs),
                "weight_hh": (width, 200),
                "bias_ih": (width,),
                "bias_hh": (width,),
                **dict.fromkeys(cell.params, (200,)),
            }
            for name, shape in shapes.items():
                p = np.asarray(params.pop(f"{name}_l{layer}{suffix}"))
                bound = 1 / np.sqrt(200)
                assert p.shape == shape
                assert 0.9 * bound < np.abs(p).max() <= bound
                assert abs(p.std() / (bound / np.sqrt(3)) - 1) < 0.15  # 200 draws or more
    assert not params


def test_dense_and_embedding_start_as_torch():
    kernel, bias = jax.tree.leaves(
        [
            dense(300, 16).init(jax.random.key(0), jnp.zeros((1, 16)))["params"][name]
            for name in ("kernel", "bias")
        ]
    )
    for p in (kernel, bias):
        assert 0.9 / 4 < np.abs(p).max() <= 1 / 4
    table = embed(200, 50).init(jax.random.key(0), jnp.zeros(1, int))["params"]["embedding"]
    assert abs(np.std(table) - 1) < 0.03  # 10,000 draws: four standard deviations


def test_identity_needs_a_square_weight():
    np.testing.assert_array_equal(identity(jax.random.key(0), (4, 4)), np.eye(4))
    with pytest.raises(ValueError, match="12 x 4"):
        identity(jax.random.key(0), (12, 4))
