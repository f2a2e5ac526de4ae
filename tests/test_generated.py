"""Cells generated from their steps: equal to the scan, whatever they are made of, or refused."""

import functools
import itertools
import logging
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, compiled, relative, scanned
from jax import lax
from scipy.optimize import linprog

from jaxrnn import (
    COUPLED_LSTM,
    GRU,
    LSTM,
    MGU,
    PEEPHOLE_LSTM,
    RELU,
    RNN,
    SLSTM,
    TANH,
    Cell,
    CharLM,
    Hidden,
    HiddenAndCell,
    gates_of,
)
from jaxrnn.recurrent.compiled import library
from jaxrnn.recurrent.compiled.calls import runs_compiled
from jaxrnn.recurrent.compiled.generated import generated
from jaxrnn.recurrent.compiled.graph import Graph, NotElementwiseError
from jaxrnn.recurrent.compiled.residuals import (
    KEEPING,
    choose_residuals,
    depends_on_gradient,
    is_given,
)
from jaxrnn.recurrent.compiled.source import write_source
from jaxrnn.recurrent.compiled.tracing import trace
from jaxrnn.recurrent.recurrence import recurrence, which_backend

needs_library = pytest.mark.skipif(
    jax.default_backend() != "cpu" or library.why_unavailable() is not None,
    reason="the recurrence is compiled on CPUs that have a C++ compiler",
)

T, B, H = 3, 7, 19
"""Sizes that fill no vector and no block of rows."""
ULP = {"float32": 2.0**-23, "float64": 2.0**-52}
MOST_ULP = 2
"""Error of a function, in units in the last place."""

sigmoid, tanh = jax.nn.sigmoid, jnp.tanh


class Four(NamedTuple):
    h: Any
    c: Any
    n: Any
    m: Any


def one_gate(step, name="odd"):
    """A cell whose whole memory is its output, with one gate."""
    return Cell(name, ("g",), lambda carry, x, h: Hidden(step(carry.h, x, h)))


def four_fields(carry, x, h):
    a, b = gates_of(x + h, 2)
    p, q = gates_of(x * h, 2)
    c = jnp.clip(a, -1, 1) * carry.c + jax.nn.leaky_relu(b)
    n = jnp.maximum(p, q) + jnp.abs(carry.n) + jax.nn.silu(a) + jnp.minimum(carry.m, 0.3)
    m = jnp.sqrt(1 + jnp.square(carry.m)) / 2 + jax.nn.gelu(b) - jnp.where(p > q, p**3, q)
    return Four(tanh(c) * jax.nn.softplus(n) / (1 + jnp.exp(m)), c, jnp.log1p(n**2), jnp.sin(m))


def with_parameters(carry, x, h, *, p_i, p_o):
    a, b = gates_of(x + h, 2)
    c = sigmoid(a + p_i * carry.c) * carry.c + tanh(b) * jnp.exp(-jnp.square(p_o))
    return HiddenAndCell(tanh(c) * p_o + p_i, c)


def logic(h, x, s):
    either = jnp.logical_xor(jnp.logical_and(x > 0, s <= 0), h > 0)
    return jax.nn.elu(jnp.where(either, x, s)) + 0.1 * jnp.sign(x) * jnp.isfinite(h) + (x != s) * h


CELLS = {
    "four fields": Cell("four", ("a", "b"), four_fields, Four),
    "parameters": Cell(
        "parameters", ("a", "b"), with_parameters, HiddenAndCell, params=("p_i", "p_o")
    ),
    "eight gates": Cell(
        "eight",
        tuple("abcdefgh"),
        lambda carry, x, h: Hidden(sum(map(tanh, gates_of(x, 8))) * sigmoid(gates_of(h, 8)[3])),
    ),
    "one gate of three": Cell(
        "middle",
        tuple("abc"),
        lambda carry, x, h: Hidden(tanh((x + h).reshape(len(x), 3, -1)[:, 1]) - carry.h),
    ),
    "logic": one_gate(logic),
    "power": one_gate(
        lambda h, x, s: jnp.power(jnp.abs(x) + 1, tanh(s)) + lax.stop_gradient(h) / 9
    ),
    "an error function": one_gate(lambda h, x, s: lax.erf(x + 0.1 * s) + jax.nn.gelu(h, False)),
    "a comparison": one_gate(lambda h, x, s: jnp.where(x > s, tanh(h), h / 2)),
    "a rounded constant": one_gate(
        lambda h, x, s: x * jnp.zeros((), jnp.float16).astype(x.dtype) + jnp.float32(0.1) * s
    ),
    "its own dtype": one_gate(lambda h, x, s: tanh(x + s + jnp.finfo(x.dtype).eps * 1e4)),
    "nothing": one_gate(lambda h, x, s: jnp.zeros_like(x)),
    "fields exchanged": Cell(
        "exchanged",
        ("g",),
        lambda carry, x, h: HiddenAndCell(carry.c, carry.h + x + h),
        HiddenAndCell,
    ),
    "a field that stays": Cell(
        "stays", ("g",), lambda carry, x, h: HiddenAndCell(tanh(x), carry.c), HiddenAndCell
    ),
    "peephole-lstm": PEEPHOLE_LSTM,
    "coupled-lstm": COUPLED_LSTM,
    "mgu": MGU,
    "slstm": SLSTM,
}


def arguments(cell, dtype=np.float64):
    """Weight, bias, carry, input gates, parameters and a mask with gaps: nothing is zero."""
    rng = np.random.default_rng(0)
    width = len(cell.gates) * H

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    weight = normal(width, H) / H**0.5
    carry = cell.carry(*(normal(B, H) for _ in cell.carry._fields))
    params = {name: normal(H) for name in cell.params}
    mask = jnp.asarray(rng.random((T, B)) < 0.7)
    return (weight, normal(width), carry, normal(T, B, width), params), mask


def outputs_and_gradients(run, cell, reverse, inputs, mask):
    """Outputs, and the gradients of a sum in which every output has a factor of its own."""

    def loss(weight, bias, carry, x_gates, params):
        outputs = run(cell, reverse, weight, bias, carry, x_gates, mask, params)
        leaves = jax.tree.leaves(outputs)
        factors = [jnp.cos(jnp.arange(x.size) + 1.0).reshape(x.shape) for x in leaves]
        return sum((f * x).sum() for f, x in zip(factors, leaves, strict=True)), outputs

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3, 4), has_aux=True))
    (_, outputs), gradients = gradient(*inputs)
    return outputs, gradients


def evaluated(cell, x, s=0.0, *, dtype=jnp.float32):
    """What a cell of one gate gives for an input half and a recurrent half, and its derivatives."""
    x, s = (jnp.asarray(half, dtype) for half in np.broadcast_arrays(x, s))
    weight = jnp.zeros((len(x), len(x)), dtype)

    def run(x, s):
        ys = compiled(cell, False, weight, s, cell.zeros(1, len(x), dtype), x[None, None])[1][0, 0]
        return ys.sum(), ys

    (_, ys), gradients = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(x, s)
    return np.asarray(ys), gradients


QUICK = {
    ("four fields", True),
    ("parameters", False),
    ("peephole-lstm", True),
    ("coupled-lstm", False),
    ("mgu", True),
    ("slstm", False),
    ("an error function", True),
}
"""The cells and directions of the quick run: XLA takes a second to compile each."""

CELLS_AND_DIRECTIONS = [
    pytest.param(name, reverse, marks=() if (name, reverse) in QUICK else pytest.mark.slow)
    for name, reverse in itertools.product(CELLS, (False, True))
]


@pytest.mark.sample(3)
@needs_library
@pytest.mark.parametrize(("name", "reverse"), CELLS_AND_DIRECTIONS)
@pytest.mark.usefixtures("float64")
def test_a_generated_cell_equals_the_scan(name, reverse):
    """Values, carry and gradients, with steps that are not run."""
    cell = CELLS[name]
    assert runs_compiled(cell, jnp.float64)
    inputs, mask = arguments(cell)
    ours = outputs_and_gradients(compiled, cell, reverse, inputs, mask)
    assert relative(ours, outputs_and_gradients(scanned, cell, reverse, inputs, mask)) < EXACT


@needs_library
def test_a_step_that_asks_for_its_precision_gets_it():
    inputs, _ = arguments(CELLS["its own dtype"], jnp.float32)
    cell = one_gate(lambda h, x, s: jnp.full_like(x, jnp.finfo(x.dtype).eps) * x / x)
    ys = compiled(cell, False, *inputs[:4])[1]
    assert np.all(np.asarray(ys) == np.finfo(np.float32).eps)


@needs_library
@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_second_derivatives_with_parameters_are_those_of_the_scan():
    cell = CELLS["parameters"]
    (weight, bias, carry, x_gates, params), mask = arguments(cell)

    def curvature(run):
        def squared(params):
            loss = lambda p: run(cell, False, weight, bias, carry, x_gates, mask, p)[1].sum()  # noqa: E731
            return sum((g * g).sum() for g in jax.tree.leaves(jax.grad(loss)(params)))

        return jax.jit(jax.grad(squared))(params)

    assert relative(curvature(compiled), curvature(scanned)) < EXACT


FUNCTIONS = {
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
}
"""Functions of lax, and the same of longer numbers in NumPy."""


MANY = 20_000
"""Inputs of each kind. A coefficient that is a few units off shows in a small range alone."""
WIDE = 64
"""Units of the layer that they are the inputs of, many rows at once."""


def inputs_everywhere(dtype):
    """Finite numbers of every size, near zero, and where the functions change their formula."""
    rng = np.random.default_rng(0)
    limits = np.finfo(dtype)
    bits = np.uint32 if dtype == "float32" else np.uint64
    # As many of each exponent, from the smallest subnormal number to the largest finite one.
    patterns = rng.integers(0, np.iinfo(bits).max, MANY, bits, endpoint=True).view(dtype)
    patterns = patterns[np.isfinite(patterns)]
    largest = float(np.log(limits.max))
    spread = [rng.uniform(-bound, bound, MANY) for bound in (1.5, 20.0, 1.1 * largest)]
    edges = [0.0, limits.tiny, limits.smallest_subnormal, 0.5, 0.625, 2**-0.5, 1.0, np.log(2) / 2]
    edges += [largest, float(np.log(limits.tiny)), limits.max]
    edges = np.array([*edges, *np.negative(edges)], dtype)
    infinity = np.array(np.inf, dtype)
    with np.errstate(over="ignore"):  # beside the largest number is infinity
        beside = [np.nextafter(edges, infinity), np.nextafter(edges, -infinity)]
    xs = np.concatenate([patterns, *spread, edges, *beside]).astype(dtype)
    return xs[np.isfinite(xs)]


@pytest.fixture(scope="module")
def functions():
    """Each function of `FUNCTIONS` as the compiled code has it, of any number of inputs."""

    def step(carry, x, h):
        (value, _), (_, chosen) = gates_of(x, 2), gates_of(h, 2)
        results = [getattr(lax, name)(value) for name in FUNCTIONS]
        picked = jnp.zeros_like(value)
        for number, result in enumerate(results):
            picked = jnp.where(chosen == number, result, picked)
        return Hidden(picked)

    # All in one cell, whose second gate says which of them is the result.
    cell = Cell("functions", ("x", "number"), step)

    def run(name, xs):
        rows = -(-len(xs) // WIDE)
        values = np.zeros((1, rows, 2 * WIDE), xs.dtype)  # (T, B, G * H)
        values[..., :WIDE] = np.resize(xs, (1, rows, WIDE))
        weight = jnp.zeros((2 * WIDE, WIDE), xs.dtype)
        bias = jnp.full(2 * WIDE, list(FUNCTIONS).index(name), xs.dtype)
        carry = cell.zeros(rows, WIDE, xs.dtype)
        _, ys = compiled(cell, False, weight, bias, carry, jnp.asarray(values))
        return np.asarray(ys).ravel()[: len(xs)]

    return run


@needs_library
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.usefixtures("float64")
def test_functions_are_within_two_units_in_the_last_place(dtype, name, functions):
    """Of normal numbers with normal results, whatever their size, and nowhere NaN beside it."""
    xs = inputs_everywhere(dtype)
    got = functions(name, xs)
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name](xs.astype(np.longdouble))
        expected = exact.astype(dtype)
    tiny = np.finfo(dtype).tiny
    subnormal = np.abs(xs) < tiny
    usual = np.isfinite(expected) & (np.abs(exact) >= tiny) & ~subnormal
    error = np.abs(got[usual] - exact[usual]) / np.abs(exact[usual]) / ULP[dtype]
    assert error.max() <= MOST_ULP, xs[usual][error.argmax()]
    # Results that overflow are infinite. XLA's threads take subnormal numbers for zeros.
    special = ~usual & ~subnormal
    np.testing.assert_allclose(got[special], expected[special], rtol=0, atol=tiny)
    with np.errstate(all="ignore"):
        of_zero = FUNCTIONS[name](0 * xs[subnormal])
    as_zero = np.isclose(got[subnormal], of_zero, rtol=0, atol=tiny)
    as_itself = np.isclose(got[subnormal], expected[subnormal], rtol=2 * MOST_ULP * ULP[dtype])
    assert np.all(as_zero | as_itself)


@needs_library
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.usefixtures("float64")
def test_functions_have_the_limits_and_nans_of_the_exact_ones(dtype, name, functions):
    xs = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, -1.0], dtype)
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name](xs)
    rounding = MOST_ULP * ULP[dtype]
    np.testing.assert_allclose(functions(name, xs), expected, rtol=rounding, atol=0)


def capturing(factor):
    return one_gate(lambda h, x, s: tanh(factor * x + s), "capturing")


@pytest.mark.sample(1)
@needs_library
@pytest.mark.parametrize("kind", [float, np.float32, jnp.asarray], ids=["float", "NumPy", "JAX"])
def test_cells_that_capture_other_numbers_are_other_cells(kind):
    """A jaxpr prints captured numbers as names, the same for 0.3 and 0.7."""
    few, many = capturing(kind(0.3)), capturing(kind(0.7))
    assert few.name == many.name
    assert generated(few).fingerprint != generated(many).fingerprint
    x = np.array([1.0, -2.0])
    np.testing.assert_allclose(evaluated(few, x)[0], np.tanh(0.3 * x), rtol=1e-6)
    np.testing.assert_allclose(evaluated(many, x)[0], np.tanh(0.7 * x), rtol=1e-6)


@needs_library
def test_cells_that_compute_the_same_are_one_file():
    assert generated(capturing(0.3)).fingerprint == generated(capturing(0.3)).fingerprint


@needs_library
@pytest.mark.usefixtures("float64")
def test_constants_are_exact_in_both_precisions():
    cell = one_gate(lambda h, x, s: jnp.full_like(x, 0.1) + 0 * s)
    for dtype in (np.float32, np.float64):
        assert evaluated(cell, np.zeros(2), dtype=dtype)[0][0] == dtype(0.1)


NAN, INF = np.nan, np.inf
PAIRS = np.array(list(itertools.product((NAN, INF, -INF, -0.0, 0.0, 1.0, -1.0), repeat=2))).T
EXTREMES = {
    "max": lambda h, x, s: jnp.maximum(x, s),
    "min": lambda h, x, s: jnp.minimum(x, s),
    "relu": lambda h, x, s: jax.nn.relu(x + s),
    "clip": lambda h, x, s: jnp.clip(x, -1, 1) + s,
    "abs": lambda h, x, s: jnp.abs(x) + s,
    "select": lambda h, x, s: jnp.where(x >= s, x, s),
    "a truth value": lambda h, x, s: x + (x > s).astype(x.dtype),
}


@pytest.mark.sample(4)
@needs_library
@pytest.mark.parametrize("name", EXTREMES)
def test_ties_and_nans_are_those_of_jax(name):
    """Values and derivatives; of two equal numbers each has half the derivative of the larger."""
    step = EXTREMES[name]
    x, s = PAIRS.astype(np.float32)

    def plain(x, s):
        ys = step(0.0, x, s)
        return ys.sum(), ys

    (_, ys), gradients = jax.jit(jax.value_and_grad(plain, (0, 1), has_aux=True))(x, s)
    got, got_gradients = evaluated(one_gate(step), x, s)
    np.testing.assert_array_equal(got, ys)
    for ours, theirs in zip(got_gradients, gradients, strict=True):
        np.testing.assert_array_equal(ours, theirs)


_ARRAY = np.array([0.1, 0.2])


@jax.custom_vjp
def mixed_up_backward(x):
    return x


mixed_up_backward.defvjp(lambda x: (x, None), lambda _, d: (d[:, ::-1],))


@jax.custom_vjp
def mixed_up_rows(x):
    return x


mixed_up_rows.defvjp(lambda x: (x, None), lambda _, d: (d[::-1],))


def given_another_step(name, step):
    """A cell whose step is exchanged after it was made: one that it would refuse then."""
    cell = one_gate(lambda h, x, s: x + s, name)
    object.__setattr__(cell, "step", step)
    return cell


REFUSED = {
    "a mean over units": one_gate(lambda h, x, s: tanh(x + s.mean(-1, keepdims=True))),
    "a norm over units": one_gate(lambda h, x, s: (x + s) / jnp.linalg.norm(x + s)),
    "a mean over rows": one_gate(lambda h, x, s: tanh(x + s.mean(0))),
    "units rolled": one_gate(lambda h, x, s: tanh(x + jnp.roll(h, 1, axis=-1))),
    "units reversed": one_gate(lambda h, x, s: tanh(x + h[:, ::-1])),
    "rows reversed": one_gate(lambda h, x, s: tanh(x + h[::-1])),
    "sorted units": one_gate(lambda h, x, s: jnp.sort(x + s)),
    "a running sum": one_gate(lambda h, x, s: jnp.cumsum(x + s, -1)),
    "a product": one_gate(lambda h, x, s: tanh(x + s @ jnp.ones((s.shape[1], s.shape[1])))),
    "the number of a unit": one_gate(lambda h, x, s: x + s * jnp.arange(x.shape[1])),
    "the number of units": one_gate(lambda h, x, s: (x + s) / x.shape[1]),
    "the number of rows": one_gate(lambda h, x, s: (x + s) / len(x)),
    "an array": one_gate(lambda h, x, s: x + s * jnp.asarray(_ARRAY)[0] + _ARRAY.sum() * h[:, :1]),
    "an array for two units": one_gate(lambda h, x, s: tanh(x + s + jnp.asarray([0.1, 0.2]))),
    "rounded to float16": one_gate(lambda h, x, s: x.astype(jnp.float16).astype(x.dtype) + s),
    "whole numbers": one_gate(lambda h, x, s: (x + s).astype(int).astype(x.dtype)),
    "a loop": one_gate(lambda h, x, s: lax.fori_loop(0, 3, lambda i, y: tanh(y), x + s)),
    "a condition": one_gate(lambda h, x, s: lax.cond(x.sum() > 0, tanh, sigmoid, x + s)),
    "random numbers": one_gate(
        lambda h, x, s: x + s + jax.random.normal(jax.random.key(0), x.shape)
    ),
    "something printed": one_gate(lambda h, x, s: (jax.debug.print("step"), x + s)[1]),
    "a call of the host": one_gate(
        lambda h, x, s: jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x + s)
    ),
    "a pull-back across units": one_gate(lambda h, x, s: mixed_up_backward(x + s)),
    "a pull-back across rows": one_gate(lambda h, x, s: mixed_up_rows(x + s)),
    "truth values": one_gate(lambda h, x, s: x + lax.max(s > 0, h > 0).astype(x.dtype)),
    "an error": one_gate(lambda h, x, s: x[:, 5:6] + x[5] + s),
    "another carry": given_another_step("other", lambda carry, x, h: HiddenAndCell(x, h)),
    "gates of other units": Cell(
        "every other", ("a", "b"), lambda carry, x, h: Hidden(tanh(x[:, ::2] + h[:, 1::2]))
    ),
    "nine gates": Cell(
        "nine", tuple("abcdefghi"), lambda carry, x, h: Hidden(sum(gates_of(x + h, 9)))
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_step_that_is_not_elementwise_is_refused(name):
    with pytest.raises(NotElementwiseError):
        write_source(REFUSED[name])


@needs_library
def test_a_cell_that_is_refused_runs_in_the_scan_and_says_so_once(caplog):
    xs = jnp.ones((3, 2, 5))
    with caplog.at_level(logging.INFO, logger="jaxrnn"):
        for _ in range(2):
            cell = one_gate(lambda h, x, s: tanh(x + s.mean(-1, keepdims=True)), "average")
            rnn = RNN(cell, 4)
            carry = rnn.initial_carry(2)
            variables = rnn.init(jax.random.key(0), carry, xs)
            _, ys = rnn.apply(variables, carry, xs)
    assert ys.shape == (3, 2, 4)
    assert which_backend(cell, jnp.float32) == "scan"
    said = [record.getMessage() for record in caplog.records if "average" in record.getMessage()]
    assert len(said) == 1
    assert "runs as lax.scan" in said[0]
    assert "depends on other units" in said[0]


def optimum(step):
    """The cost of the best choice of residuals, as a linear program."""
    graph = step.graph
    given = [i for i in graph.reach(step.gradients) if is_given(step, i)]
    backward = depends_on_gradient(graph, step.gradients)
    live = graph.reach(step.gradients, given)
    values = [i for i in live if i not in backward and not is_given(step, i)]
    wanted = {a for i in backward for a in graph.arguments(i)} | set(step.gradients)
    cost, bounds, pairs = [], [], []
    for k, i in enumerate(values):
        operation = graph.operation(i)
        cost += [KEEPING, operation.cost - KEEPING if operation else 0]
        bounds += [(int(i in wanted), 1), (0, int(operation is not None))]
        needed = [i, *(a for a in graph.arguments(i) if a in values)]
        pairs += [(2 * k + 1, 2 * values.index(a)) for a in needed]
        pairs += [(2 * k, 2 * k + 1)] if operation and operation.is_mask else []
    if not values:
        return 0
    this, that = (np.eye(len(cost))[list(side)] for side in zip(*pairs, strict=True))
    return round(linprog(cost, this - that, np.zeros(len(pairs)), bounds=bounds).fun)


def cost_of(step, kept):
    """The cost of a choice: the numbers kept, and the operations that make the rest again."""
    graph = step.graph
    there = {i for i in graph.reach(step.gradients) if is_given(step, i)} | set(kept)
    backward = depends_on_gradient(graph, step.gradients)
    made = [i for i in graph.reach(step.gradients, there) if i not in backward | there]
    operations = [graph.operation(i) for i in made]
    assert None not in operations, "an argument of the step is needed and not kept"
    return KEEPING * len(kept) + sum(operation.cost for operation in operations)


@pytest.mark.parametrize("name", CELLS)
def test_what_is_kept_is_the_optimum_of_the_linear_program(name):
    step = trace(CELLS[name], np.float64)
    assert cost_of(step, choose_residuals(step)) == optimum(step)


@pytest.mark.parametrize(
    ("cell", "residuals", "shared"),
    [(TANH, 0, 1), (RELU, 0, 1), (GRU, 4, 2), (LSTM, 5, 4)],
    ids=["tanh", "relu", "gru", "lstm"],
)
def test_the_usual_cells_keep_as_little_as_kernels_written_by_hand(cell, residuals, shared):
    source = write_source(cell)
    assert set(source.residuals.values()) == {residuals}
    assert set(source.shared.values()) == {shared}


@pytest.mark.slow
def test_a_step_of_many_operations_is_no_recursion_too_deep():
    many = sys.getrecursionlimit() // 2 + 10
    cell = one_gate(lambda h, x, s: functools.reduce(lambda y, _: y * s + x, range(many), h))
    assert write_source(cell).text.count("=") > 4 * many


def test_equal_expressions_are_one_node():
    graph = Graph()
    x, y = graph.leaf("x", 0, (0, 0)), graph.leaf("s", 0, (0, 0))
    assert graph.node("add", x, y) == graph.node("add", y, x)
    assert graph.node("sub", x, y) != graph.node("sub", y, x)
    assert graph.node("mul", graph.constant(1.0), x) == x
    assert graph.constant(0.0) != graph.constant(-0.0)
    assert graph.constant(np.nan) == graph.constant(np.nan)
    assert graph.leaf("params", 0, (0, 1)) == graph.leaf("params", 0, (2, 1))


def test_the_derivative_of_tanh_is_written_with_a_square():
    """d (1 - y) + d (1 - y) y, as JAX has it, is d (1 - y^2): a shorter chain."""
    graph = Graph()
    d, y = graph.leaf("x", 0, (0, 0)), graph.leaf("s", 0, (0, 0))
    one = graph.constant(1.0)
    part = graph.node("mul", d, graph.node("sub", one, y))
    derivative = graph.node("add", part, graph.node("mul", part, y))
    assert derivative == graph.node("mul", d, graph.node("sub", one, graph.node("mul", y, y)))
    other = graph.node("add", d, graph.node("mul", part, y))
    assert graph.nodes[other][0] == "add"


def test_a_source_is_the_same_in_every_process():
    """The compiled programs that JAX keeps on the disk name a cell by it."""
    code = (
        "import jaxrnn, sys\n"
        "from jaxrnn.recurrent.compiled.source import write_source\n"
        "sys.stdout.write(write_source(jaxrnn.LSTM).text)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == write_source(LSTM).text


@needs_library
def test_a_program_names_its_cell_by_its_fingerprint():
    inputs, _ = arguments(GRU, jnp.float32)
    run = jax.jit(lambda *a: compiled(GRU, False, *a))
    assert f'"{generated(GRU).fingerprint}"' in run.lower(*inputs[:4]).as_text()


@needs_library
def test_a_cell_that_is_not_loaded_is_an_error_and_no_crash(monkeypatch):
    """As a program from another process might name it."""
    unknown = generated(GRU)._replace(fingerprint="0123456789abcdef")
    monkeypatch.setattr("jaxrnn.recurrent.compiled.calls.generated", lambda cell: unknown)
    inputs, _ = arguments(GRU, jnp.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="0123456789abcdef is not loaded"):
        jax.block_until_ready(compiled(GRU, False, *inputs[:4]))


@needs_library
def test_a_cell_that_was_cut_short_is_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setenv(library.FOLDER, str(tmp_path))
    source = write_source(capturing(0.123)).text
    target = library._cell(source)
    library._compiled([target])
    whole = target.path.read_bytes()
    target.path.write_bytes(whole[: len(whole) // 2])
    library._compiled([target])
    assert len(target.path.read_bytes()) == len(whole)


@needs_library
@pytest.mark.slow
def test_of_several_processes_one_compiles_a_cell(tmp_path):
    """The others wait for it, and find what it has made."""
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "import jaxrnn\n"
        "from jaxrnn.recurrent.compiled import library\n"
        "from jaxrnn.recurrent.compiled.source import write_source\n"
        "library._compiled([library._cell(write_source(jaxrnn.TANH).text)])\n"
    )
    environment = {
        **__import__("os").environ,
        library.FOLDER: str(tmp_path),
        "JAX_PLATFORMS": "cpu",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert sum("Compiling cell-" in text for text in said) == 1
    assert len(list(tmp_path.glob("cell-*.so"))) == 1


@needs_library
def test_a_cell_that_does_not_compile_runs_in_the_scan(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(library.FOLDER, str(tmp_path))
    monkeypatch.setenv(library.EXTRA_FLAGS, "--no-such-flag")
    cell = capturing(0.456)
    with caplog.at_level(logging.WARNING, logger="jaxrnn"):
        assert not runs_compiled(cell, jnp.float32)
        assert not runs_compiled(cell, jnp.float32)
    (record,) = caplog.records
    assert "no-such-flag" in record.getMessage()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, "are p_i, p_o, got none"),
        ({"p_i": jnp.ones(H)}, "are p_i, p_o, got p_i"),
        ({"p_i": jnp.ones(H), "p_o": jnp.ones(H + 1)}, r"p_o must have shape \(19,\), got \(20,\)"),
        ({"p_i": jnp.ones(H), "p_o": jnp.ones(H, int)}, "p_o must have floating numbers"),
    ],
    ids=["none", "too few", "another shape", "integers"],
)
def test_parameters_that_are_not_the_cells_are_one_message(params, message):
    cell = CELLS["parameters"]
    inputs, _ = arguments(cell, jnp.float32)
    with pytest.raises(ValueError, match=message):
        recurrence(cell, False, *inputs[:4], params=params)


def test_a_layer_makes_the_parameters_of_a_cell():
    cell = Cell(
        "parameters",
        ("a", "b"),
        with_parameters,
        HiddenAndCell,
        params=("p_i", "p_o"),
        param_init={"p_o": lambda key, shape, dtype=jnp.float32: jnp.ones(shape, dtype)},
    )
    model = CharLM(9, 4, 16, cell=cell, num_layers=2)
    tokens = jnp.zeros((3, 2), int)
    init = jax.jit(model.init)
    params = init(jax.random.key(0), model.initial_carry(2), tokens)["params"]["rnn"]
    own = {name: p for name, p in params.items() if name.startswith("p_")}
    assert {name: p.shape for name, p in own.items()} == {
        name: (16,) for name in ("p_i_l0", "p_o_l0", "p_i_l1", "p_o_l1")
    }
    np.testing.assert_array_equal(own["p_o_l1"], np.ones(16))
    assert 0 < np.abs(own["p_i_l0"]).max() <= 1 / 4
    assert hash(model) == hash(model.copy())
