"""Cells of Flax's in our stack, against Flax's own `nn.RNN` and `nnx.RNN`."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import unflatten_dict
from helpers import EXACT, random_tree, relative
from safetensors.numpy import load_file

from jaxrnn import (
    RNN,
    BpttStream,
    CharLM,
    Hidden,
    HiddenAndCell,
    cli,
    fit,
    from_linen,
    from_nnx,
    generate,
)

T, B, I, H, V = 6, 3, 4, 5, 7
ENDS = [T, 2, 1]

LINEN = {
    "SimpleCell": nn.SimpleCell,
    "residual": partial(nn.SimpleCell, residual=True, activation_fn=nn.gelu),
    "GRUCell": nn.GRUCell,
    "MGUCell": nn.MGUCell,
    "LSTMCell": nn.LSTMCell,
    "OptimizedLSTMCell": nn.OptimizedLSTMCell,
}
NNX = {
    "SimpleCell": partial(nnx.SimpleCell, dtype=jnp.float64),  # float32 by default
    "GRUCell": nnx.GRUCell,
    "LSTMCell": nnx.LSTMCell,
    "OptimizedLSTMCell": nnx.OptimizedLSTMCell,
}


class Thrice(nn.RNNCellBase):
    """A cell of a user's: three arrays in its carry, submodules from `setup`, h in the middle."""

    features: int

    def setup(self):
        self.up = nn.Dense(self.features)
        self.across = nn.Dense(self.features, use_bias=False)

    def __call__(self, carry, x):
        slow, h, fast = carry
        new = jnp.tanh(self.up(x) + self.across(h) + slow)
        after = (0.9 * slow + 0.1 * new, new + fast, 0.5 * fast - new)
        return after, after[1]

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        shape = (*input_shape[:-1], self.features)
        return jnp.zeros(shape), jnp.ones(shape), jnp.full(shape, 2.0)

    @property
    def num_feature_axes(self):
        return 1


THRICE = from_linen(Thrice, fields=("slow", "h", "fast"))


def example(cell, reverse=False):
    """One layer in float64, its parameters, carry and inputs, of which none is zero."""
    stack = RNN(cell, H, bidirectional=reverse)
    keys = jax.random.split(jax.random.key(0), 3)
    carry = random_tree(keys[0], stack.initial_carry(B, jnp.float64))
    xs = jax.random.normal(keys[1], (T, B, I), jnp.float64)
    params = stack.init(keys[2], carry, xs)["params"]
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    params = jax.tree.map(lambda p, e: p + 0.3 * e, params, random_tree(keys[2], params))
    return stack, params, carry, xs


def theirs(carry):
    """Our carry in Flax's order."""
    if isinstance(carry, Hidden):
        return carry.h
    if isinstance(carry, HiddenAndCell):
        return carry.c, carry.h
    return carry.slow, carry.h, carry.fast


def ours(like, carry):
    """Flax's carry in our order."""
    if isinstance(like, Hidden):
        return Hidden(carry)
    if isinstance(like, HiddenAndCell):
        return HiddenAndCell(carry[1], carry[0])
    return type(like)(h=carry[1], slow=carry[0], fast=carry[2])


def objective(after, ys, lengths):
    """A number that every output and every array of the carry changes; padding does not count."""
    if lengths is not None:
        counts = jnp.arange(T)[:, None] < jnp.array(lengths)  # (T, B)
        ys = jnp.where(counts[..., None], ys, 0)
    total = sum(jnp.cos(leaf).sum() for leaf in jax.tree.leaves((after, ys)))
    return total, (after, ys)


def of_ours(stack, lengths):
    def loss(params, carry, xs):
        counts = None if lengths is None else jnp.array(lengths)
        after, ys = stack.apply({"params": params}, carry, xs, lengths=counts)
        return objective(after, ys, lengths)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def nested(params, suffix="_l0"):
    """{"hf_kernel_l0": ...} as {"hf": {"kernel": ...}}."""
    paths = {name.removesuffix(suffix).rpartition("_")[::2]: p for name, p in params.items()}
    return unflatten_dict(paths)


def of_linen(cell, lengths, **options):
    """`nn.RNN` in terms of our parameters and carry."""
    module = nn.RNN(cell, time_major=True, return_carry=True, **options)

    def loss(params, carry, xs):
        after, ys = module.apply(
            {"params": {"cell": nested(params)}},
            xs,
            initial_carry=theirs(carry[0]),
            seq_lengths=None if lengths is None else jnp.array(lengths),
        )
        return objective((ours(carry[0], after),), ys, lengths)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def of_nnx(make, lengths):
    """`nnx.RNN` in terms of our parameters and carry."""

    def loss(params, carry, xs):
        cell = make(I, H, rngs=nnx.Rngs(0))
        nnx.update(cell, nested(params))
        after, ys = nnx.RNN(cell)(
            xs,
            initial_carry=theirs(carry[0]),
            seq_lengths=None if lengths is None else jnp.array(lengths),
            time_major=True,
            return_carry=True,
        )
        return objective((ours(carry[0], after),), ys, lengths)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


@pytest.mark.sample(1)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "lengths"),
    [*((name, ENDS) for name in LINEN), ("Thrice", ENDS), ("OptimizedLSTMCell", None)],
)
def test_a_linen_cell_computes_what_flax_does(name, lengths):
    cell = THRICE if name == "Thrice" else from_linen(LINEN[name])
    stack, *arguments = example(cell)
    module = {**LINEN, "Thrice": Thrice}[name](H)
    expected = of_linen(module, lengths)(*arguments)
    assert relative(of_ours(stack, lengths)(*arguments), expected) < EXACT


@pytest.mark.sample(1)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "lengths"), [*((name, ENDS) for name in NNX), ("OptimizedLSTMCell", None)]
)
def test_an_nnx_cell_computes_what_flax_does(name, lengths):
    stack, *arguments = example(from_nnx(NNX[name]))
    expected = of_nnx(NNX[name], lengths)(*arguments)
    assert relative(of_ours(stack, lengths)(*arguments), expected) < EXACT


@pytest.mark.sample(1)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lengths", [None, ENDS], ids=str)
def test_the_backward_direction_is_that_of_flax(lengths):
    stack, params, carry, xs = example(from_linen(nn.OptimizedLSTMCell), reverse=True)
    _, ys = stack.apply(
        {"params": params}, carry, xs, lengths=None if lengths is None else jnp.array(lengths)
    )
    backward = {
        name.replace("_reverse", ""): p for name, p in params.items() if name.endswith("_reverse")
    }
    run = of_linen(nn.OptimizedLSTMCell(H), lengths, reverse=True, keep_order=True)
    (_, (_, expected)), _ = run(backward, carry[1:], xs)
    assert relative(ys[..., H:], expected) < EXACT


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_two_layers_are_one_upon_the_other_and_the_carry_goes_on():
    one = RNN(THRICE, H)
    two = RNN(THRICE, H, 2)
    carry = random_tree(jax.random.key(1), two.initial_carry(B, jnp.float64))
    xs = jax.random.normal(jax.random.key(0), (T, B, I), jnp.float64)
    params = jax.tree.map(lambda p: p.astype(float), two.init(jax.random.key(2), carry, xs))
    params = params["params"]
    lower = {name: p for name, p in params.items() if name.endswith("_l0")}
    upper = {name[:-1] + "0": p for name, p in params.items() if name.endswith("_l1")}
    below, ys = one.apply({"params": lower}, carry[:1], xs)
    above, ys = one.apply({"params": upper}, carry[1:], ys)
    expected = ((*below, *above), ys)
    assert relative(two.apply({"params": params}, carry, xs), expected) < EXACT
    between, first = two.apply({"params": params}, carry, xs[:2])
    after, second = two.apply({"params": params}, between, xs[2:])
    assert relative((after, jnp.concatenate([first, second])), expected) < EXACT


def test_the_carry_begins_as_flaxs():
    (carry,) = RNN(THRICE, H).initial_carry(B, jnp.bfloat16)
    assert carry._fields == ("h", "slow", "fast")
    assert [(float(a.min()), float(a.max())) for a in carry] == [(1, 1), (0, 0), (2, 2)]
    assert all(a.shape == (B, H) and a.dtype == jnp.bfloat16 for a in carry)
    ones = from_nnx(nnx.LSTMCell)
    assert isinstance(RNN(ones, H).initial_carry(B)[0], HiddenAndCell)


@pytest.mark.parametrize("make", [nn.MGUCell, nnx.GRUCell], ids=["linen", "nnx"])
def test_parameters_begin_as_flaxs(make):
    """Orthogonal recurrent kernels, zero biases, and ones for the forget bias of an MGU."""
    cell = from_linen(make) if make is nn.MGUCell else from_nnx(make)
    stack = RNN(cell, 20)
    params = stack.init(jax.random.key(0), stack.initial_carry(1), jnp.zeros((1, 1, 30)))["params"]
    shapes = {name: p.shape for name, p in params.items()}
    if make is nn.MGUCell:
        assert shapes == {
            "if_kernel_l0": (30, 20),
            "in_kernel_l0": (30, 20),
            "hf_kernel_l0": (20, 20),
            "hn_kernel_l0": (20, 20),
            "if_bias_l0": (20,),
            "in_bias_l0": (20,),
            "hn_bias_l0": (20,),
        }
        assert (params["if_bias_l0"] == 1).all()
        recurrent = params["hn_kernel_l0"]
    else:
        assert shapes == {
            "dense_i_kernel_l0": (30, 60),
            "dense_i_bias_l0": (60,),
            "dense_h_kernel_l0": (20, 60),
        }
        recurrent = params["dense_h_kernel_l0"]
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(20), atol=1e-5)


@pytest.mark.slow  # one of them trains on the command line in every run
@pytest.mark.parametrize(
    "cell", [THRICE, from_linen(nn.OptimizedLSTMCell), from_nnx(nnx.GRUCell)], ids=lambda c: c.name
)
def test_a_cell_of_flaxs_trains_and_generates(cell):
    tokens = np.arange(900) % V
    model = CharLM(V, 4, 8, cell=cell)
    state, history = fit(model, BpttStream(tokens, 4, 8), None, schedule="3 x 3e-2")
    assert history[-1].train < 0.5 * np.log(V)
    _, generated = generate(model, state.params, np.array([[0], [1]]), 6, jax.random.key(0))
    assert generated.shape == (6, 1)


@pytest.mark.parametrize("weights", [jnp.float32, jnp.float64], ids=["float32", "float64"])
@pytest.mark.usefixtures("float64")
def test_the_weights_decide_the_precision_of_the_results(weights):
    """As `dtype` decides that of the computation: float16 here, with 2 ** -11 rounding."""
    half = RNN(from_linen(partial(nn.SimpleCell, dtype=jnp.float16)), H)
    whole, params, carry, xs = example(from_linen(nn.SimpleCell))
    params = jax.tree.map(lambda p: p.astype(weights), params)
    after, ys = half.apply({"params": params}, carry, xs)
    assert after[0].h.dtype == ys.dtype == weights
    expected = whole.apply({"params": params}, carry, xs)
    assert EXACT < relative((after, ys), expected) < 2**-8


class Counting(nn.RNNCellBase):
    """A cell with a variable that is no parameter."""

    features: int

    @nn.compact
    def __call__(self, carry, x):
        self.variable("counts", "steps", lambda: jnp.zeros(()))
        h = nn.Dense(self.features)(x) + carry
        return h, h

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], self.features))

    @property
    def num_feature_axes(self):
        return 1


class CountingNnx(nnx.GRUCell):
    def __init__(self, *sizes, rngs):
        super().__init__(*sizes, rngs=rngs)
        self.steps = nnx.Variable(jnp.zeros(()))


class Ambiguous(nn.RNNCellBase):
    """a_b.kernel and a.b_kernel would have one name."""

    features: int

    @nn.compact
    def __call__(self, carry, x):
        h = nn.Dense(self.features, name="a_kernel", use_bias=False)(x) + carry
        h += self.param("a_kernel_kernel", nn.initializers.zeros, (self.features,))
        return h, h

    initialize_carry = Counting.initialize_carry
    num_feature_axes = Counting.num_feature_axes


class Losing(Counting):
    """A step that gives another carry than it takes."""

    @nn.compact
    def __call__(self, carry, x):
        h = nn.Dense(self.features)(x) + carry
        return (h, h), h


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: from_linen(lambda size: nn.GRUCell(size)), "not called like these: .*'parent'"),
        (lambda: from_linen(nn.GRUCell(4)), "must be given as a class of Flax's, such as GRUCell"),
        (lambda: from_nnx(nn.GRUCell), "must be given as a class of Flax's"),
        (lambda: from_linen(nn.Dense), "must derive from linen's RNNCellBase; it is of type Dense"),
        (lambda: from_nnx(nnx.Linear), "must derive from nnx's RNNCellBase; it is of type Linear"),
        (
            lambda: from_linen(partial(nn.ConvLSTMCell, kernel_size=(3, 3))),
            "ConvLSTMCell has 3 axes of features; a cell here has one",
        ),
        (lambda: from_linen(Thrice), r"The carry of Thrice has 3 arrays: name each"),
        (lambda: from_linen(nn.LSTMCell, fields=("h",)), r"LSTMCell has 2 arrays.*got \('h',\)"),
        (lambda: from_linen(nn.LSTMCell, fields=("c", "d")), r"and the output h"),
        (lambda: from_linen(Counting), "Counting has counts"),
        (lambda: from_nnx(CountingNnx), "CountingNnx has steps"),
        (lambda: from_linen(Losing), r"must give the carry that it takes, PyTreeDef\(\*\)"),
        (lambda: from_linen(Ambiguous), "Two parameters of the cell have one name"),
    ],
)
def test_what_is_no_such_cell_is_refused_in_words(make, expected):
    def run():
        stack = RNN(make(), H)
        stack.init(jax.random.key(0), stack.initial_carry(B), jnp.zeros((T, B, I)))

    with pytest.raises(ValueError, match=expected):
        run()


@pytest.mark.slow
def test_a_cell_of_flaxs_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(
        "import flax.linen as nn\n"
        "from jaxrnn import from_linen\n"
        "FLAX = from_linen(nn.OptimizedLSTMCell)\n"
    )
    (tmp_path / "text.txt").write_text("the cat sat on the mat, the dog on the log.\n" * 40)
    flags = ["--corpus", "text.txt", "--embedding", "4", "--hidden", "8", "--batch", "4"]
    flags += [
        "--no-random-bptt",
        "--bptt",
        "400",
        "--model",
        "CharLM",
        "--cell",
        "mine.py:FLAX",
        "--name",
        "own",
    ]
    assert cli.main(["train", *flags, "--schedule", "1 x 1e-2"]) == 0
    assert cli.main(["train", "--resume", "runs/own", "--schedule", "2 x 1e-2"]) == 0
    assert cli.main(["sample", "runs/own", "--prompt", "the cat", "--length", "5"]) == 0
    # The names of the weights come through every file.
    assert cli.main(["export", "runs/own", "own.safetensors"]) == 0
    flags = ["--corpus", "text.txt", "--name", "again"]
    assert cli.main(["import", "own.safetensors", *flags]) == 0
    assert cli.main(["export", "runs/again", "again.safetensors"]) == 0
    before = load_file("own.safetensors")
    after = load_file("again.safetensors")
    assert before["rnn.hf_kernel_l0"].shape == (8, 8)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
