"""The compiled recurrence: functions, sizes that leave a rest, threads, and doing without it."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, FLOAT32, compiled, normal, random_tree, relative, scanned

from jaxrnn import GRU, LSTM, RELU, TANH, Cell, Hidden
from jaxrnn.recurrent.compiled import library
from jaxrnn.recurrent.compiled.calls import runs_compiled
from jaxrnn.recurrent.compiled.generated import USUAL_CELLS
from jaxrnn.recurrent.inputs import Inputs, Projection
from jaxrnn.recurrent.recurrence import backend, recurrence

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu" or library.why_unavailable() is not None,
    reason="the recurrence is compiled on CPUs that have a C++ compiler",
)

ULP = {jnp.float32: 2.0**-23, jnp.float64: 2.0**-52}
MOST_BIAS = 1.0
"""Mean error of XLA's tanh within other operations, in units in the last place: it is -0.35."""
every_cell = pytest.mark.parametrize("cell", USUAL_CELLS, ids=lambda cell: cell.name)
both_dtypes = pytest.mark.parametrize("dtype", ULP, ids=lambda dtype: dtype.__name__)


def arguments(cell, dtype, T, B, H, seed=0):
    """Weight, bias, carry, table, tokens and a mask in which every row has gaps."""
    keys = jax.random.split(jax.random.key(seed), 6)
    width = len(cell.gates) * H
    weight = jax.random.normal(keys[0], (width, H), dtype) / np.sqrt(H)
    bias = jax.random.normal(keys[1], (width,), dtype)
    carry = random_tree(keys[2], cell.zeros(B, H, dtype))
    table = jax.random.normal(keys[3], (9, width), dtype)
    tokens = jax.random.randint(keys[4], (T, B), 0, 9, jnp.int32)
    return weight, bias, carry, table, tokens, jax.random.bernoulli(keys[5], 0.7, (T, B))


def outputs_and_gradients(run, cell, reverse, arguments, embedded, masked):
    *inputs, tokens, mask = arguments

    def loss(weight, bias, carry, table):
        x_gates = Inputs(table, tokens) if embedded else Inputs(table[tokens])
        outputs = run(cell, reverse, weight, bias, carry, x_gates, mask if masked else None)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(outputs)), outputs

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))
    (_, outputs), gradients = gradient(*inputs)
    return outputs, gradients


@pytest.mark.sample(3)
@every_cell
@pytest.mark.parametrize(
    ("T", "B", "H", "embedded"),
    [
        (1, 1, 1, True),
        (3, 13, 16, False),
        (2, 25, 33, True),
        (4, 7, 50, False),
        (3, 131, 40, True),
    ],
    ids=str,
)
@pytest.mark.usefixtures("float64")
def test_every_rest_of_rows_and_units_equals_the_scan(cell, T, B, H, embedded):
    """Sizes that fill no vector, no block of rows and no chunk of a thread."""
    inputs = arguments(cell, jnp.float64, T, B, H)
    options = (cell, B % 2 == 1, inputs, embedded, True)
    ours = outputs_and_gradients(compiled, *options)
    assert relative(ours, outputs_and_gradients(scanned, *options)) < EXACT


@every_cell
@pytest.mark.usefixtures("float64")
def test_steps_at_which_no_row_is_run_are_passed_over(cell):
    """As at the end of a padded window, and at its beginning where time runs backwards."""
    *inputs, tokens, _ = arguments(cell, jnp.float64, 6, 5, 9)
    mask = jnp.arange(6)[:, None] < jnp.array([4, 2, 0, 4, 1])
    for reverse in (False, True):
        options = (cell, reverse, (*inputs, tokens, mask), True, True)
        ours = outputs_and_gradients(compiled, *options)
        assert relative(ours, outputs_and_gradients(scanned, *options)) < EXACT


@every_cell
def test_large_layers_on_all_threads_equal_the_scan(cell):
    """Large enough that rows and the packing of the weight are shared out among threads."""
    inputs = arguments(cell, jnp.float32, 8, 140, 160)
    options = (cell, False, inputs, True, False)
    ours = outputs_and_gradients(compiled, *options)
    assert relative(ours, outputs_and_gradients(scanned, *options)) < FLOAT32


@pytest.mark.sample(3)
@every_cell
@pytest.mark.parametrize(
    ("T", "B", "inputs", "H", "reverse", "masked"),
    [
        (1, 1, 1, 1, False, False),
        (70, 1, 20, 33, True, False),  # more steps than are made at a time
        (5, 13, 40, 16, False, True),
        (4, 67, 3, 50, True, True),
        (3, 130, 9, 100, False, False),  # one step of a thread's rows fills the cache
    ],
    ids=str,
)
@pytest.mark.usefixtures("float64")
def test_inputs_with_their_weight_equal_gates(cell, T, B, inputs, H, reverse, masked):
    """The product with the inputs within the recurrence, its gradients, and what is not asked."""
    width = len(cell.gates) * H
    weight, bias, weight_ih, bias_ih = (
        normal(i, *shape) / np.sqrt(H + inputs)
        for i, shape in enumerate([(width, H), (width,), (width, inputs), (width,)])
    )
    xs = normal(4, T, B, inputs)
    carry = jax.tree.map(lambda zeros: normal(5, *zeros.shape), cell.zeros(B, H))
    rng = np.random.default_rng(6)
    mask, resets = (jnp.asarray(rng.random((T, B)) < p) if masked else None for p in (0.7, 0.2))

    def loss(way, weight, bias, carry, xs, projection):
        with backend(way):
            outputs = recurrence(
                cell, reverse, weight, bias, carry, xs, mask, None, resets, projection
            )
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(outputs)), outputs

    arguments = (weight, bias, carry, xs, Projection(weight_ih, bias_ih))
    for wanted in ((1, 2, 3, 4, 5), (1, 5)):  # all; not the carry and the inputs
        gradient = jax.value_and_grad(loss, wanted, has_aux=True)
        ours, scanned = (gradient(way, *arguments) for way in ("compiled", "scan"))
        assert relative(ours, scanned) < EXACT


@pytest.mark.parametrize("cell", [GRU, LSTM], ids=lambda cell: cell.name)
def test_gradients_are_the_same_bits_every_time(cell):
    """Sums over rows do not depend on which thread was faster."""
    inputs = arguments(cell, jnp.float32, 8, 140, 160)
    run = jax.jit(lambda inputs: outputs_and_gradients(compiled, cell, False, inputs, True, False))
    runs = [run(inputs) for _ in range(5)]
    for run in runs[1:]:
        jax.tree.map(np.testing.assert_array_equal, run, runs[0])


def test_every_number_of_a_result_is_written():
    """Where memory is full of NaNs before, as glibc makes it here, `debug_nans` finds none."""
    code = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "from jaxrnn import CELLS, RNN\n"
        "jax.config.update('jax_debug_nans', True)\n"
        "lengths = jnp.array([3, 6, 0])\n"
        "for name in ('gru', 'lstm', 'mingru'):\n"
        "    rnn, xs = RNN(CELLS[name], 5), jnp.ones((7, 3, 4))\n"
        "    params = rnn.init(jax.random.key(0), None, xs)\n"
        "    for some in (None, lengths):\n"
        "        run = jax.jit(lambda p, xs: rnn.apply(p, None, xs, lengths=some)[1])\n"
        "        ys, pull = jax.vjp(run, params, xs)\n"
        "        pull(jnp.ones_like(ys))\n"
    )
    environment = os.environ | {"MALLOC_PERTURB_": "256"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def function_of(cell, xs, dtype, run=compiled):
    """What the cell does to its input half alone, for every number of `xs`: a row each."""
    gates = len(cell.gates)
    x_gates = jnp.tile(jnp.asarray(xs, dtype)[None, :, None], gates)  # (1, B, G)
    weight = jnp.zeros((gates, 1), dtype)
    _, ys = run(cell, False, weight, weight[:, 0], cell.zeros(len(xs), 1, dtype), x_gates)
    return np.asarray(ys[0, :, 0])


# A cell of tanh computes tanh and nothing else: compiled, within what its functions claim; in the
# scan, as XLA does, whose own error is not ours.
@both_dtypes
@pytest.mark.usefixtures("float64")
def test_tanh_is_tanh_to_the_last_digits_on_both_paths(dtype):
    rng = np.random.default_rng(0)
    sizes = [rng.uniform(-25, 25, 20_000), rng.uniform(-1, 1, 20_000), np.geomspace(1e-30, 1, 300)]
    xs = np.concatenate(sizes).astype(np.dtype(dtype))
    exact = np.tanh(xs.astype(np.longdouble))
    off = np.abs(function_of(TANH, xs, dtype) - exact)
    assert np.all(off <= 2 * ULP[dtype] * np.abs(exact))
    # Within other operations XLA compiles its tanh otherwise: some numbers differ by up to 4 units,
    # but to both sides. A factor of 1 + 2 units would move them all to one.
    of_xla = np.asarray(jax.jit(jnp.tanh)(xs))
    off = (function_of(TANH, xs, dtype, scanned) - of_xla) / of_xla / ULP[dtype]
    assert abs(off.mean()) <= MOST_BIAS


@both_dtypes
@pytest.mark.usefixtures("float64")
def test_sigmoids_of_a_gru_are_exact_to_the_last_digits(dtype):
    """From a zero carry h' = (1 - sigmoid(x)) * tanh(x)."""
    xs = np.asarray(np.linspace(-80, 80, 799), np.dtype(dtype))
    wide = xs.astype(np.longdouble)
    exact = np.tanh(wide) / (1 + np.exp(wide))
    error = np.abs(function_of(GRU, xs, dtype) - exact)
    assert np.all(error <= 4 * ULP[dtype])


@pytest.mark.parametrize("cell", [TANH, RELU, GRU, LSTM], ids=lambda cell: cell.name)
def test_a_nan_stays_one_and_infinities_saturate(cell):
    got = function_of(cell, [np.nan, np.inf, -np.inf, 0.0], jnp.float32)
    expected = {
        "tanh": [np.nan, 1, -1, 0],
        "relu": [np.nan, np.inf, 0, 0],
        "gru": [np.nan, 0, -1, 0],
        "lstm": [np.nan, np.tanh(1), 0, 0],
    }
    np.testing.assert_allclose(got, expected[cell.name], rtol=1e-6, atol=1e-6)


def test_a_token_outside_the_table_reads_its_nearest_row():
    weight, bias, carry, table, tokens, _ = arguments(TANH, jnp.float32, 3, 4, 5)

    def run(tokens):
        _, outputs = compiled(TANH, False, weight, bias, carry, Inputs(table, tokens))
        return outputs

    np.testing.assert_array_equal(run(tokens.at[1].set(2**30)), run(tokens.at[1].set(8)))
    np.testing.assert_array_equal(run(tokens.at[1].set(-7)), run(tokens.at[1].set(0)))


def test_vmap_equals_one_after_the_other():
    weight, bias, carry, table, tokens, _ = arguments(GRU, jnp.float32, 3, 4, 5)
    weights = jnp.stack([weight, -weight, weight / 2])
    run = lambda w: compiled(GRU, False, w, bias, carry, Inputs(table, tokens))[1]  # noqa: E731
    expected = jnp.stack([run(w) for w in weights])
    np.testing.assert_array_equal(jax.vmap(run)(weights), expected)


def test_what_is_not_elementwise_and_other_precisions_are_not_compiled():
    assert runs_compiled(TANH, jnp.float32)
    assert not runs_compiled(TANH, jnp.bfloat16)
    other = Cell(
        "other", ("h",), lambda carry, x, h: Hidden(jnp.tanh(x + h.mean(-1, keepdims=True)))
    )
    assert not runs_compiled(other, jnp.float32)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [({"JAXRNN_NATIVE": "0"}, "JAXRNN_NATIVE is 0"), ({"PATH": ""}, "no C++ compiler")],
    ids=["switched off", "no compiler"],
)
def test_without_the_library_everything_runs_in_a_scan(variables, reason):
    code = (
        "import jax.numpy as jnp\n"
        "from jaxrnn import RNN, GRU\n"
        "from jaxrnn.recurrent.compiled import library\n"
        "rnn = RNN(GRU, 3)\n"
        "import jax\n"
        "carry, xs = rnn.initial_carry(2), jnp.ones((4, 2, 3))\n"
        "(_, ys), _ = rnn.init_with_output(jax.random.key(0), carry, xs)\n"
        "assert 'scan' in str(jax.make_jaxpr(lambda x: rnn.init_with_output("
        "jax.random.key(0), carry, x))(xs))\n"
        "print(ys.shape, library.why_unavailable())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("(4, 2, 3)")
    assert reason in run.stdout


def test_a_compiler_that_fails_is_reported_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "_folder", lambda: tmp_path)
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "--no-such-flag"))
    with pytest.raises(subprocess.SubprocessError, match="no-such-flag"):
        library.compiled_library()
    assert list(tmp_path.iterdir()) == []


def test_extra_flags_and_a_folder_come_from_the_environment(tmp_path, monkeypatch):
    """Flags take part in the library's name: what a sanitizer checks is never taken for the usual.

    A compiler that refuses the flag shows that it was given it.
    """
    names = {library._fingerprint("c++")}
    monkeypatch.setenv(library.FOLDER, str(tmp_path / "scratch"))
    monkeypatch.setenv(library.EXTRA_FLAGS, "--no-such-flag '-DTEXT=two words'")
    names.add(library._fingerprint("c++"))
    assert len(names) == 2
    assert library._flags()[-2:] == ["--no-such-flag", "-DTEXT=two words"]
    with pytest.raises(subprocess.SubprocessError, match="no-such-flag"):
        library.compiled_library()
    assert list((tmp_path / "scratch").iterdir()) == []
