"""The recurrence against its oracles, in float64: compiled where it can be, and in `lax.scan`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    EXACT,
    compiled,
    loop_oracle,
    normal,
    random_stack,
    random_tree,
    relative,
    scan_oracle,
    scanned,
)

from jaxrnn import CELLS, LSTM, RNN, TANH, Cell, Hidden, gates_of
from jaxrnn.recurrent.compiled.generated import USUAL_CELLS
from jaxrnn.recurrent.compiled.library import why_unavailable
from jaxrnn.recurrent.inputs import Inputs, Projection, input_gates
from jaxrnn.recurrent.recurrence import length_mask

T, B, I, H = 6, 4, 5, 7  # all different, so that a swapped axis shows

pytestmark = pytest.mark.usefixtures("float64")


def forgetful_step(carry, x_gates, h_gates):
    forget, candidate = gates_of(x_gates + h_gates, 2)
    forget = jax.nn.sigmoid(forget)
    return Hidden(forget * carry.h + (1 - forget) * jnp.tanh(candidate))


FORGETFUL = Cell("forgetful", gates=("f", "n"), step=forgetful_step)

needs_library = pytest.mark.skipif(
    jax.default_backend() != "cpu" or why_unavailable() is not None,
    reason="the recurrence is compiled on CPUs that have a C++ compiler",
)


def ways(cells):
    """Each cell in each way of running it."""
    marked = [(c, w) for c in cells for w in (scanned, compiled)]
    return pytest.mark.parametrize(
        ("cell", "recurrence"),
        [
            pytest.param(
                c, w, id=f"{c.name}-{w.__name__}", marks=needs_library if w is compiled else ()
            )
            for c, w in marked
        ],
    )


ELEMENTWISE = [*(cell for cell in CELLS.values() if isinstance(cell, Cell)), FORGETFUL]
every_cell = ways([*USUAL_CELLS, FORGETFUL])


LENGTHS = np.array([6, 1, 4, 0])


def arguments(cell):
    width = len(cell.gates) * H
    weight_hh = normal(0, width, H) / 3
    bias_hh = normal(1, width) / 3
    carry = random_tree(jax.random.key(2), cell.zeros(B, H, jnp.float64))
    return weight_hh, bias_hh, carry, normal(3, T, B, width)


def differentiated(run, count=4, compiler_options=None):
    """A function's outputs, and the value and gradients of a sum of them, each with its factor."""

    def loss(*args):
        outputs = run(*args)
        leaves = jax.tree.leaves(outputs)
        factors = [jnp.cos(jnp.arange(x.size) + 1.0).reshape(x.shape) for x in leaves]
        return sum((f * x).sum() for f, x in zip(factors, leaves, strict=True)), outputs

    gradient = jax.value_and_grad(loss, tuple(range(count)), has_aux=True)
    return jax.jit(gradient, compiler_options=compiler_options)


@functools.cache
def program(run, cell, reverse, masked=False):
    """`differentiated`, compiled once for all tests: that takes most of their time."""
    # The oracles take no mask.
    masks = (length_mask(jnp.array(LENGTHS), T),) if masked else ()
    # Neither are they what users run: few passes of the compiler are enough.
    oracle = run in (scan_oracle, loop_oracle, masked_scan_oracle)
    few = {"xla_backend_optimization_level": 0} if oracle else None
    return differentiated(lambda *args: run(cell, reverse, *args, *masks), compiler_options=few)


def masked_scan_oracle(cell, reverse, weight_hh, bias_hh, carry, x_gates, mask):
    """`scan_oracle` in which a row that is not run keeps its carry and gives zeros."""

    def body(carry, x):
        gates, mask = x
        after = cell.step(carry, gates, carry.h @ weight_hh.T + bias_hh)
        after = jax.tree.map(lambda a, b: jnp.where(mask[:, None], a, b), after, carry)
        return after, jnp.where(mask[:, None], after.h, 0)

    return jax.lax.scan(body, carry, (x_gates, mask), reverse=reverse)


@pytest.mark.sample(3)
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_gradients_equal_both_oracles(cell, recurrence, reverse):
    args = arguments(cell)
    ours = program(recurrence, cell, reverse)(*args)
    for oracle in (scan_oracle, loop_oracle):
        assert relative(ours, program(oracle, cell, reverse)(*args)) < EXACT


@pytest.mark.sample(5)
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_equal_each_sequence_alone(cell, recurrence, reverse):
    args = arguments(cell)
    weight_hh, bias_hh, carry, x_gates = args
    (_, (last, ys)), gradients = program(recurrence, cell, reverse, masked=True)(*args)
    for row, length in enumerate(LENGTHS):
        alone = jax.tree.map(lambda x, row=row: x[row : row + 1], carry)
        xs = x_gates[:length, row : row + 1]
        if length == 0:
            expected, expected_ys = alone, jnp.zeros((0, 1, H))
        else:
            expected, expected_ys = loop_oracle(cell, reverse, weight_hh, bias_hh, alone, xs)
        assert relative(jax.tree.map(lambda x, row=row: x[row : row + 1], last), expected) < EXACT
        assert relative(ys[:length, row : row + 1], expected_ys) < EXACT
        assert not np.any(ys[length:, row])
        assert not np.any(gradients[3][length:, row])


@pytest.mark.sample(3)
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_with_lengths_equal_autodiff(cell, recurrence, reverse):
    args = arguments(cell)
    ours = program(recurrence, cell, reverse, masked=True)(*args)
    plain = program(masked_scan_oracle, cell, reverse, masked=True)(*args)
    assert relative(ours, plain) < EXACT


TOKENS = np.random.default_rng(4).integers(1, 9, (T, B))
"""Characters, of which none is the first."""


@functools.cache
def program_of_table(run, cell, reverse, masked, embedded):
    """`program`, of a table whose rows are looked up or given."""
    mask = length_mask(jnp.array(LENGTHS), T) if masked else None

    def of_table(weight_hh, bias_hh, carry, table):
        x_gates = Inputs(table, jnp.asarray(TOKENS)) if embedded else table[TOKENS]
        return run(cell, reverse, weight_hh, bias_hh, carry, x_gates, mask)

    return differentiated(of_table)


@pytest.mark.sample(5)
@every_cell
@pytest.mark.parametrize(
    ("reverse", "masked"), [(False, False), (True, True)], ids=["all steps", "backwards, lengths"]
)
def test_looking_up_equals_having_the_rows(cell, recurrence, reverse, masked):
    """Row 0 is never read, so its gradient is zero; others are read several times."""
    weight_hh, bias_hh, carry, table = arguments(cell)
    table = table.reshape(-1, table.shape[-1])[:9]
    args = (weight_hh, bias_hh, carry, table)
    ours = program_of_table(recurrence, cell, reverse, masked, True)(*args)
    assert relative(ours, program_of_table(scanned, cell, reverse, masked, False)(*args)) < EXACT
    assert not np.any(ours[1][3][0])


@ways([LSTM])
def test_the_rows_that_a_place_reads_are_added_up(cell, recurrence):
    weight_hh, bias_hh, carry, table = arguments(cell)
    table = table.reshape(-1, table.shape[-1])[:9]
    two = jnp.asarray(np.stack([TOKENS, TOKENS[:, ::-1]], -1))  # (T, B, K)
    got = recurrence(cell, False, weight_hh, bias_hh, carry, Inputs(table, two))
    rows = table[TOKENS] + table[TOKENS[:, ::-1]]
    assert relative(got, scanned(cell, False, weight_hh, bias_hh, carry, rows)) < EXACT


def test_input_gates_of_a_table_are_those_of_its_rows():
    table, weight, bias = normal(0, 9, I), normal(1, H, I), normal(2, H)
    projection = Projection(weight, bias)
    gates = input_gates(Inputs(table, jnp.asarray(TOKENS)), projection)
    rows = input_gates(Inputs(table[TOKENS]), projection)
    assert relative(gates.dense(), rows.dense()) < EXACT


@every_cell
def test_two_halves_with_carry_equal_whole(cell, recurrence):
    weight_hh, bias_hh, carry, x_gates = arguments(cell)
    whole = recurrence(cell, False, weight_hh, bias_hh, carry, x_gates)
    middle, first = recurrence(cell, False, weight_hh, bias_hh, carry, x_gates[:2])
    last, second = recurrence(cell, False, weight_hh, bias_hh, middle, x_gates[2:])
    assert relative((last, jnp.concatenate([first, second])), whole) < EXACT


@every_cell
def test_batch_rows_are_independent(cell, recurrence):
    weight_hh, bias_hh, carry, x_gates = arguments(cell)
    other = x_gates.at[:, 2].add(1.0)
    _, ys = recurrence(cell, False, weight_hh, bias_hh, carry, x_gates)
    _, changed = recurrence(cell, False, weight_hh, bias_hh, carry, other)
    kept = np.array([0, 1, 3])
    np.testing.assert_array_equal(ys[:, kept], changed[:, kept])
    assert np.abs(ys[:, 2] - changed[:, 2]).max() > 1e-3


@every_cell
def test_gradient_agrees_with_finite_differences(cell, recurrence):
    args = arguments(cell)
    direction = random_tree(jax.random.key(9), args)
    run = program(recurrence, cell, False)
    _, gradients = run(*args)
    slope = sum(
        np.vdot(g, d)
        for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
    )
    step = 1e-6
    (there, _), _ = run(*jax.tree.map(lambda a, d: a + step * d, args, direction))
    (back, _), _ = run(*jax.tree.map(lambda a, d: a - step * d, args, direction))
    np.testing.assert_allclose((there - back) / (2 * step), slope, rtol=1e-6)


@functools.cache
def curvature(run, cell):
    """The gradient of the norm of a gradient."""

    def norm(weight, *rest):
        grad = jax.grad(lambda w: jnp.sin(run(cell, False, w, *rest)[1]).sum())(weight)
        return (grad**2).sum()

    return jax.jit(jax.grad(norm))


@ways([TANH, LSTM])
def test_second_derivative_equals_the_oracle(cell, recurrence):
    args = arguments(cell)
    assert relative(curvature(recurrence, cell)(*args), curvature(scan_oracle, cell)(*args)) < EXACT


@pytest.mark.sample(3)
@pytest.mark.parametrize("cell", ELEMENTWISE, ids=lambda c: c.name)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_stack_with_lengths_equals_each_sequence_alone(cell, bidirectional):
    rnn = RNN(cell, H, num_layers=2, bidirectional=bidirectional)
    params, carry, xs = random_stack(rnn, I, B, T, jnp.float64)
    lengths = np.array([6, 1, 4, 6])
    apply = jax.jit(rnn.apply)
    last, ys = apply({"params": params}, carry, xs, lengths=jnp.array(lengths))
    for row, length in enumerate(lengths):
        alone = jax.tree.map(lambda x, row=row: x[row : row + 1], carry)
        expected = apply({"params": params}, alone, xs[:length, row : row + 1])
        got = jax.tree.map(lambda x, row=row: x[row : row + 1], last)
        assert relative((got, ys[:length, row : row + 1]), expected) < EXACT
