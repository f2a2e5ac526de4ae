"""Arrays of another shape, structure or precision: one message, or a cast, on every backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import relative

from jaxrnn import (
    GRU,
    LSTM,
    RNN,
    TANH,
    Batch,
    Cell,
    CharLM,
    CharSeqStatefulRnn2,
    Hidden,
    Sampler,
    eval_step,
    generate,
    make_optimizer,
    make_state,
    train_step,
)
from jaxrnn.recurrent.compiled.calls import _gradients, _run
from jaxrnn.recurrent.compiled.generated import USUAL_CELLS
from jaxrnn.recurrent.handwritten import Arguments, Wanted
from jaxrnn.recurrent.inputs import Inputs, Projection
from jaxrnn.recurrent.recurrence import backend, recurrence, which_backend, why_not_compiled

T, B, H, I = 5, 6, 4, 3
KEY = jax.random.key(0)
NO_LIBRARY = why_not_compiled()
needs_library = pytest.mark.skipif(NO_LIBRARY is not None, reason=str(NO_LIBRARY))
every_backend = pytest.mark.parametrize(
    "way", ["autodiff", "scan", pytest.param("compiled", marks=needs_library)]
)
INITIALIZED = {}
"""Parameters by stack and whether float64 is allowed."""


def layers(cell=GRU, count=1, **options):
    """A stack, its parameters, a carry and inputs."""
    rnn = RNN(cell, H, count, **options)
    carry = rnn.initial_carry(B)
    xs = jax.random.normal(KEY, (T, B, I))
    # What is compiled for it is most of the time of a test.
    x64 = jax.config.jax_enable_x64
    if (rnn, x64) not in INITIALIZED:
        INITIALIZED[rnn, x64] = jax.jit(rnn.init)(KEY, carry, xs)
    return rnn, INITIALIZED[rnn, x64], carry, xs


WRONG = {
    "batch of the carry": (lambda r, c, x: (r.initial_carry(64), x), "expected|got"),
    "a carry far too large": (lambda r, c, x: (r.initial_carry(200_000), x), r"\[200000,4\]"),
    "units of the carry": (lambda r, c, x: (RNN(GRU, 4096).initial_carry(B), x), r"\[6,4096\]"),
    "an LSTM's carry": (lambda r, c, x: (RNN(LSTM, H).initial_carry(B), x), "HiddenAndCell"),
    "too many layers": (lambda r, c, x: ((*c, *c), x), "carry must be"),
    "too few layers": (lambda r, c, x: ((), x), r"got \(\)"),
    "no tuple of layers": (lambda r, c, x: (c[0], x), r"got Hidden\("),
    "text as the carry": (lambda r, c, x: ("text", x), "got str"),
    "a plain tuple": (lambda r, c, x: ((tuple(c[0]),), x), "carry must be"),
    "integers in the carry": (lambda r, c, x: (jax.tree.map(jnp.int32, c), x), "int32"),
    "two axes": (lambda r, c, x: (c, x[0]), r"h=float32\[4\]\),\), got .*h=float32\[6,4\]"),
    "one axis": (lambda r, c, x: (c, x[0, 0]), r"\(T, B, I\), got \(3,\)"),
    "four axes": (lambda r, c, x: (c, x[None]), r"got \(1, 5, 6, 3\)"),
    "input size": (lambda r, c, x: (c, x[..., :2]), r"\(12, 2\).*got \(12, 3\)"),
    "integers": (lambda r, c, x: (c, x.astype(int)), "floating numbers, got int32"),
    "complex numbers": (lambda r, c, x: (c, x.astype(complex)), "got complex64"),
    "no array": (lambda r, c, x: (c, "text"), "must be an array"),
}


@every_backend
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_carry_or_input_is_one_message(way, wrong):
    rnn, variables, carry, xs = layers()
    change, message = WRONG[wrong]
    with backend(way), pytest.raises(ValueError, match=message):
        rnn.apply(variables, *change(rnn, carry, xs))


@every_backend
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([2, 3], r"\(6,\), got \(2,\)"),
        ([2], r"\(6,\), got \(1,\)"),
        ([2, 3, -1, 0, 0, 0], r"\[0, 5\], got -1"),
        (np.array([2, 3, 6, 0, 0, 0]), r"\[0, 5\], got 6"),
        (np.full(B, 2.0), "integers, got float"),
    ],
    ids=["two rows", "one row", "negative", "longer than T", "floats"],
)
def test_wrong_lengths_are_one_message(way, lengths, message):
    rnn, variables, carry, xs = layers()
    with backend(way), pytest.raises(ValueError, match=message):
        rnn.apply(variables, carry, xs, lengths=lengths)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"hidden_size": 4, "num_layers": 0}, "num_layers must be at least 1, got 0"),
        (
            {"hidden_size": 4, "num_layers": 2, "dropout": 1.0},
            r"dropout must lie in \[0, 1\), got 1.0",
        ),
    ],
    ids=["no units", "no layers", "all dropped"],
)
def test_wrong_settings_are_one_message(options, message):
    with pytest.raises(ValueError, match=message):
        RNN(GRU, **options).initial_carry(B)
    with pytest.raises(ValueError, match=message):
        RNN(GRU, **options).init(KEY, (Hidden(jnp.zeros((B, 4))),), jnp.zeros((T, B, I)))


def test_masks_of_dropout_are_checked():
    rnn, variables, carry, xs = layers(count=2, dropout=0.5)
    good = jnp.ones((T, B, H), bool)
    rnn.apply(variables, carry, xs, dropout_masks=[good])
    for masks, message in (
        ([], "one mask for each layer but the last, 1, got 0"),
        ([good[:2]], r"\(5, 6, 4\), got \(2, 6, 4\)"),
        ([good.astype(float)], "truth values, got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            rnn.apply(variables, carry, xs, dropout_masks=masks)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("way", "cell"),
    [
        pytest.param("autodiff", GRU, id="autodiff-gru"),
        pytest.param("scan", LSTM, id="scan-lstm"),
        *(
            pytest.param("compiled", cell, id=f"compiled-{cell.name}", marks=needs_library)
            for cell in (TANH, GRU, LSTM)
        ),
        *(
            pytest.param(way, cell, id=f"{way}-{cell.name}", marks=pytest.mark.slow)
            for way, cell in (("autodiff", TANH), ("autodiff", LSTM), ("scan", TANH), ("scan", GRU))
        ),
    ],
)
@pytest.mark.usefixtures("float64")
def test_the_weights_decide_the_precision(way, cell):
    """Inputs, carry or other weights in another precision are cast to that of weight_hh.

    They are cast before a backend is chosen: not every cell on every one.
    """
    rnn, variables, carry, xs = layers(cell, 2, bidirectional=True)
    coarse = jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), (variables, xs))
    with backend(way):
        run = jax.jit(rnn.apply)
        expected = run(coarse[0], carry, coarse[1])
        for dtype, other in ((jnp.float16, jnp.float64), (jnp.float64, jnp.float16)):
            cast = [jax.tree.map(lambda x, d=dtype: x.astype(d), y) for y in (carry, coarse[1])]
            got = run(coarse[0], *cast)
            assert jax.tree.map(jnp.result_type, got) == jax.tree.map(jnp.result_type, expected)
            jax.tree.map(np.testing.assert_array_equal, got, expected)
            params = dict(coarse[0]["params"])
            odd = {"bias_hh_l1": dtype, "bias_ih_l0_reverse": other, "weight_ih_l1": dtype}
            for name, of_weight in odd.items():
                params[name] = params[name].astype(of_weight)
            got = run({"params": params}, carry, coarse[1])
            jax.tree.map(np.testing.assert_array_equal, got, expected)


@every_backend
@pytest.mark.usefixtures("float64")
def test_float64_weights_take_the_default_carry(way):
    model = CharLM(9, 5, 8, cell=LSTM)
    state = make_state(model, make_optimizer("adam"), B, KEY)
    exact = jax.tree.map(lambda p: p.astype(jnp.float64), state.params)
    tokens = np.arange(8 * B).reshape(8, B) % 9
    with backend(way):
        carry, loss = eval_step(model, exact, model.initial_carry(B), Batch(tokens, tokens))
        _, single = eval_step(model, state.params, model.initial_carry(B), Batch(tokens, tokens))
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype("float64")}
    assert float(loss) == pytest.approx(float(single), rel=1e-5)
    assert 1 < float(loss) < 4


@every_backend
@pytest.mark.usefixtures("float64")
def test_init_takes_inputs_of_another_precision(way):
    with backend(way):
        xs = np.random.default_rng(0).normal(size=(T, B, I))
        params = RNN(GRU, H).init(KEY, RNN(GRU, H).initial_carry(B), xs)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("model", [CharLM(9, 5, 8), CharSeqStatefulRnn2(9, 5, 8)], ids=type)
def test_a_model_says_what_carry_it_takes(model):
    params = make_state(model, make_optimizer("adam"), 4, KEY).params
    prompt = np.zeros((3, 4), np.int32)
    with pytest.raises(ValueError, match=r"\[4,8\].*got.*\[6,8\]"):
        generate(model, params, prompt, 5, KEY, carry=model.initial_carry(6))
    _, tokens = generate(model, params, prompt, 5, KEY, carry=model.initial_carry(4, jnp.float16))
    assert tokens.shape == (5, 4)


def test_a_step_that_gives_another_carry_is_named():
    wide = Cell("wide", ("h",), lambda carry, x, h: Hidden((x + h).astype(jnp.float16)))
    with pytest.raises(ValueError, match=r"'wide' must give.*float32\[6,4\].*float16\[6,4\]"):
        layers(wide)


@needs_library
def test_layouts_of_the_host_do_not_matter():
    """Strided, transposed and read-only arrays are the numbers that they show."""
    rnn, variables, carry, xs = layers()
    expected = rnn.apply(variables, carry, xs)
    dense = np.asarray(xs)
    strided = np.repeat(dense, 2, axis=1)[:, ::2]
    fortran = np.asfortranarray(dense)
    frozen = dense.copy()
    frozen.flags.writeable = False
    for other in (strided, fortran, frozen, dense.tolist()):
        for way in ("scan", "compiled"):
            with backend(way):
                assert relative(rnn.apply(variables, carry, other), expected) < 1e-6


def test_a_carry_may_be_a_list_of_layers():
    rnn, variables, carry, xs = layers(count=2)
    expected = rnn.apply(variables, carry, xs)
    assert relative(rnn.apply(variables, list(carry), xs), expected) == 0


@needs_library
@pytest.mark.parametrize("cell", USUAL_CELLS, ids=lambda cell: cell.name)
def test_the_library_itself_refuses_what_does_not_fit(cell):
    """The last line: calls that pass by every check of Python's reach no memory."""
    G = len(cell.gates)
    zeros = jnp.zeros
    carry = cell.zeros(B, H)
    right = Arguments(zeros((G * H, H)), zeros(G * H), carry, Inputs(zeros((T, B, G * H))), None)
    _run(cell, False, True, right)
    wrong = [
        right._replace(bias_hh=zeros(G * H - 1)),
        right._replace(x_gates=Inputs(zeros((T, B + 1, G * H)))),
        right._replace(x_gates=Inputs(zeros((T, B, G * H), jnp.float16))),
        right._replace(x_gates=Inputs(zeros((T, B)))),
        right._replace(carry=carry._replace(h=zeros((B, H, 1))[..., 0].T)),
        right._replace(bias_hh=zeros(G * H, jnp.bfloat16)),
        right._replace(mask=zeros((T, B - 1), bool)),
    ]
    for inputs in wrong:
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=r"jaxrnn: |expected"):
            jax.block_until_ready(_run(cell, False, True, inputs))
    masked = right._replace(mask=zeros((T, B), bool))
    wanted = Wanted(carry=True, x_gates=True)
    _, kept = _run(cell, False, True, masked)
    gradients = (carry, kept.ys)
    _gradients(cell, False, wanted, masked, kept, gradients)
    for bad in (kept._replace(before=zeros((T, B - 1, H))), kept._replace(gates=zeros((T, B, 99)))):
        with pytest.raises(jax.errors.JaxRuntimeError, match="jaxrnn: "):
            jax.block_until_ready(_gradients(cell, False, wanted, masked, bad, gradients))


@needs_library
@pytest.mark.parametrize("cell", USUAL_CELLS, ids=lambda cell: cell.name)
def test_the_library_itself_refuses_inputs_that_do_not_fit_their_weight(cell):
    G = len(cell.gates)
    zeros = jnp.zeros
    projection = Projection(zeros((G * H, 3)), zeros(G * H))
    xs = Inputs(zeros((T, B, 3)))
    weight = zeros((G * H, H))
    right = Arguments(weight, zeros(G * H), cell.zeros(B, H), xs, projection=projection)
    wanted = Wanted(carry=True, x_gates=True)
    last, kept = _run(cell, False, True, right)
    _gradients(cell, False, wanted, right, kept, (last, kept.ys))
    wrong = [
        right._replace(x_gates=Inputs(zeros((T, B, 4)))),
        right._replace(x_gates=Inputs(zeros((T, B + 1, 3)))),
        right._replace(projection=projection._replace(weight_ih=zeros((G * (H + 64), 3)))),
        right._replace(projection=projection._replace(bias_ih=zeros(G * H - 1))),
    ]
    for inputs in wrong:
        with pytest.raises(jax.errors.JaxRuntimeError, match="jaxrnn: "):
            jax.block_until_ready(_run(cell, False, True, inputs))
    for inputs in wrong[:3]:
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=r"jaxrnn: |expected"):
            jax.block_until_ready(_gradients(cell, False, wanted, inputs, kept, (last, kept.ys)))


@every_backend
def test_the_recurrence_itself_checks_too(way):
    weight, bias, gates = jnp.zeros((3 * H, H)), jnp.zeros(3 * H), jnp.zeros((T, B, 3 * H))
    carry = GRU.zeros(B, H)
    with backend(way):
        assert which_backend(GRU, jnp.float32) == way
        recurrence(GRU, False, weight, bias, carry, gates)
        for arguments, message in (
            ((weight[:-1], bias, carry, gates), r"weight_hh must have shape \(12, 4\)"),
            ((weight, bias[:-1], carry, gates), r"bias_hh must have shape \(12,\), got \(11,\)"),
            ((weight, bias, carry, gates[..., 1:]), "x_gates must have shape"),
            ((weight, bias, carry, gates, jnp.ones((T, 1), bool)), "mask must have shape"),
            ((weight, bias, carry, gates, jnp.ones((T, B))), "truth values"),
        ):
            with pytest.raises(ValueError, match=message):
                recurrence(GRU, False, *arguments)


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        (jnp.zeros((2, 5), jnp.int32), "floating numbers, got int32"),
        (jnp.zeros((2, 5), complex), "floating numbers, got complex64"),
        (jnp.zeros(5), r"\(B, V\), got \(5,\)"),
        (jnp.zeros(()), r"\(B, V\), got \(\)"),
        (jnp.zeros((1, 2, 5)), r"\(B, V\), got \(1, 2, 5\)"),
        ("text", "must be an array"),
    ],
    ids=["integers", "complex", "one axis", "none", "three axes", "text"],
)
def test_a_sampler_says_what_it_draws_from(log_probs, message):
    with pytest.raises(ValueError, match=message):
        Sampler()(KEY, log_probs)
    with pytest.raises(ValueError, match=message):
        Sampler().choose(jnp.zeros(2), log_probs)


@pytest.mark.parametrize("prompt", [None, "text", [[0.5]], [1, 2]], ids=str)
def test_a_prompt_that_is_none_is_one_message(prompt):
    model = CharLM(9, 5, 8)
    params = make_state(model, make_optimizer("adam"), 1, KEY).params
    with pytest.raises(ValueError, match="must be"):
        generate(model, params, prompt, 3, KEY)


def test_a_negative_batch_is_one_message():
    with pytest.raises(ValueError, match="batch_size must be at least 0, got -1"):
        make_state(CharLM(9, 5, 8), make_optimizer("adam"), -1, KEY)


@pytest.mark.parametrize("wrong", ["text", (Hidden("text"),), object()])
def test_a_step_says_which_leaf_is_no_array(wrong):
    model = CharLM(5, 4, 4, cell=GRU)
    optimizer = make_optimizer("sgd")
    state = make_state(model, optimizer, 2, jax.random.key(0))
    batch = Batch(jnp.zeros((3, 2), int), jnp.zeros((3, 2), int))
    with pytest.raises(ValueError, match=r"^carry.* must be an array, got (str|object)\.$"):
        eval_step(model, state.params, wrong, batch)
    with pytest.raises(ValueError, match=r"^state\.carry.* must be an array, got (str|object)\.$"):
        train_step(model, optimizer, state._replace(carry=wrong), batch, 0.1)
