"""The ways to run the recurrence: which one runs, and every derivative through each."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, relative

from jaxrnn import (
    GRU,
    LSTM,
    RNN,
    TANH,
    Batch,
    CharLM,
    Hidden,
    eval_step,
    make_optimizer,
    make_state,
)
from jaxrnn.recurrent.compiled import library
from jaxrnn.recurrent.inputs import Inputs
from jaxrnn.recurrent.recurrence import backend, recurrence, which_backend, why_not_compiled
from jaxrnn.training.steps import batch_loss

KEY = jax.random.key(0)
NO_LIBRARY = why_not_compiled()
needs_library = pytest.mark.skipif(NO_LIBRARY is not None, reason=str(NO_LIBRARY))
fast_backends = pytest.mark.parametrize(
    "way", ["scan", pytest.param("compiled", marks=needs_library)]
)

every_backend = pytest.mark.parametrize(
    "way", ["autodiff", "scan", pytest.param("compiled", marks=needs_library)]
)


def loss_of(cell, remat_every=None):
    """A loss over 9 characters, of which some rows have fewer, and parameters in float64."""
    model = CharLM(30, 8, 16, cell=cell)
    state = make_state(model, make_optimizer("sgd"), 4, KEY)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), state.params)
    tokens = jax.random.randint(KEY, (9, 4), 0, 30)

    def loss(params):
        return batch_loss(
            model, params, state.carry, Batch(tokens, tokens), remat_every=remat_every
        )[0]

    return loss, params


def gradient_of_gradient(loss):
    def squared(params):
        return sum((g * g).sum() for g in jax.tree.leaves(jax.grad(loss)(params)))

    return jax.grad(squared)


@pytest.mark.slow
@fast_backends
@pytest.mark.usefixtures("float64")
def test_second_derivatives_of_a_model_are_those_of_autodiff(way):
    loss, params = loss_of(GRU, remat_every=4)
    with backend("autodiff"):
        expected = jax.jit(gradient_of_gradient(loss))(params)
    with backend(way):
        got = jax.jit(gradient_of_gradient(loss))(params)
    assert relative(got, expected) < EXACT


@fast_backends
@pytest.mark.usefixtures("float64")
def test_forward_mode_is_the_product_with_the_gradient(way):
    loss, params = loss_of(LSTM)
    with backend(way):
        _, directional = jax.jit(lambda p: jax.jvp(loss, (p,), (p,)))(params)
        gradient = jax.jit(jax.grad(loss))(params)
    products = jax.tree.map(lambda g, p: (g * p).sum(), gradient, params)
    assert float(directional) == pytest.approx(float(sum(jax.tree.leaves(products))), rel=1e-12)


@needs_library
def test_a_program_of_one_backend_is_not_run_in_another():
    rnn = RNN(GRU, 4)
    xs = jnp.ones((3, 2, 5))
    variables = rnn.init(KEY, rnn.initial_carry(2), xs)
    run = jax.jit(rnn.apply)
    texts = {}
    for way in ("compiled", "scan", "autodiff", "compiled"):
        with backend(way):
            assert which_backend(GRU, jnp.float32) == way
            run(variables, rnn.initial_carry(2), xs)
            texts[way] = run.lower(variables, rnn.initial_carry(2), xs).as_text()
    assert "jaxrnn_forward" in texts["compiled"]
    assert "jaxrnn_forward" not in texts["scan"] + texts["autodiff"]


def test_a_backend_that_is_none_is_refused():
    known = "scan, compiled, parallel, autodiff"
    with pytest.raises(ValueError, match=f"must be one of {known}, got 'cuda'"):
        backend("cuda")


@pytest.mark.slow
@needs_library
def test_gradients_do_not_depend_on_the_number_of_threads():
    """The library's own sums: the same bits with one thread and five."""
    code = (
        "import hashlib, sys; sys.path.insert(0, 'tests')\n"
        "import jax, jax.numpy as jnp, numpy as np\n"
        "from test_native import arguments, outputs_and_gradients\n"
        "from jaxrnn import GRU, LSTM, TANH\n"
        "from helpers import compiled\n"
        "digest = hashlib.sha256()\n"
        "for cell, B, looked_up in (\n"
        "    (TANH, 140, True), (GRU, 140, False), (GRU, 3, True), (LSTM, 140, True),\n"
        "):\n"
        "    inputs = arguments(cell, jnp.float32, 8, B, 96)\n"
        "    options = (cell, False, inputs, looked_up, True)\n"
        "    outputs, gradients = outputs_and_gradients(compiled, *options)\n"
        "    own = outputs, gradients[:3], gradients[3:] if looked_up else ()\n"
        "    for leaf in jax.tree.leaves(own): digest.update(np.asarray(leaf).tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    digests = set()
    for threads in (1, 5):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PJRT_NPROC": str(threads), "NPROC": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout)
    assert len(digests) == 1


@needs_library
def test_a_library_that_was_cut_short_is_compiled_again(tmp_path, monkeypatch):
    """Loading what is left of one would end the process.

    What is compiled is one function in place of the core, which takes ten seconds.
    """
    monkeypatch.setenv(library.FOLDER, str(tmp_path))
    core = library._core()._replace(source="int one() { return 1; }\n")
    monkeypatch.setattr(library, "_core", lambda: core)
    path = library.compiled_library()
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + b"\1"):
        other = path.with_name("other")
        other.write_bytes(damaged)
        other.replace(path)
        assert library.compiled_library() == path
        assert path.stat().st_size == len(whole)
    path.with_suffix(".sha256").unlink()
    written = path.stat().st_mtime_ns
    library.compiled_library()
    assert path.stat().st_mtime_ns > written
    for suffix in (".sha256", ".so"):
        file = path.with_suffix(suffix)
        file.unlink()
        os.mkfifo(file)
        assert library.compiled_library() == path  # a pipe is not waited for
        assert file.is_file()


def test_without_a_compiler_one_line_says_so():
    code = (
        "import jax, jax.numpy as jnp\n"
        "from jaxrnn import RNN, GRU\n"
        "rnn = RNN(GRU, 3)\n"
        "for _ in range(3):\n"
        "    rnn.init(jax.random.key(0), rnn.initial_carry(2), jnp.ones((4, 2, 3)))\n"
    )
    said = {}
    for name, variables in (("none", {"PATH": ""}), ("meant", {library.SWITCH: "0"})):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "JAX_PLATFORMS": "cpu", **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        said[name] = run.stderr.splitlines()
    assert said["meant"] == []
    assert len(said["none"]) == 1
    assert "lax.scan" in said["none"][0]
    assert "no C++ compiler" in said["none"][0]


@needs_library
def test_numbers_of_all_backends_agree():
    rnn = RNN(LSTM, 7, 2, bidirectional=True)
    xs = jax.random.normal(KEY, (5, 3, 4))
    variables = rnn.init(KEY, rnn.initial_carry(3), xs)
    results = []
    for way in ("autodiff", "scan", "compiled"):
        with backend(way):
            results.append(
                rnn.apply(variables, rnn.initial_carry(3), xs, lengths=np.array([5, 0, 2]))
            )
    assert relative(results[1], results[0]) < 1e-6
    assert relative(results[2], results[0]) < 1e-6


TOKENS_OUTSIDE = [-1, -5, -(2**40), 5, 100, 2**31, 2**40, np.uint64(2**63), np.uint8(200)]


@every_backend
@pytest.mark.parametrize("token", TOKENS_OUTSIDE, ids=lambda token: f"{token}{type(token)}")
def test_a_token_outside_the_table_reads_the_nearest_row_on_every_backend(way, token):
    """Value and gradient; JAX's own indexing would count from the end, wrap, or give NaN."""
    rows = 5
    table = jax.random.normal(KEY, (rows, 3))
    weight = jax.random.normal(jax.random.key(1), (3, 3))
    nearest = 0 if token < 0 else rows - 1

    def output(table, token):
        with backend(way):
            tokens = Inputs(table, jnp.array([[token]]))
            carry = Hidden(jnp.zeros((1, 3)))
            return recurrence(TANH, False, weight, jnp.zeros(3), carry, tokens)[1].sum()

    with jax.enable_x64(True):
        got = jax.value_and_grad(output)(table, token)
        expected = jax.value_and_grad(output)(table, nearest)
    assert relative(got, expected) == 0
    assert np.flatnonzero(np.abs(got[1]).sum(axis=1)).tolist() == [nearest]


@every_backend
@pytest.mark.parametrize("steps", [1, 50])
@pytest.mark.parametrize("token", [-1, 5, 2**40, -(2**40)])
def test_a_model_reads_the_nearest_row_whether_or_not_it_looks_rows_up(way, steps, token):
    model = CharLM(5, 4, 4, cell=GRU)
    params = make_state(model, make_optimizer("sgd"), 2, KEY).params
    targets = jnp.zeros((steps, 2), int)

    def loss(token):
        batch = Batch(jnp.full((steps, 2), token), targets)
        return float(eval_step(model, params, model.initial_carry(2), batch)[1])

    with jax.enable_x64(True), backend(way):
        assert loss(token) == loss(0 if token < 0 else 4)
