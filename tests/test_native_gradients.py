"""Gradients of the compiled recurrence where rows, steps or whole chunks of rows are not run.

Every combination of cell, direction, looked-up or given inputs, and carry differentiated or not,
on masks that leave something out, against `lax.scan` in float64. They all run in one process of
their own (this file as a script), so that a write outside an array fails the tests of the
combinations from there on and does not end pytest.
"""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, relative

from jaxrnn import GRU, LSTM, RNN, TANH
from jaxrnn.native import library
from jaxrnn.native.calls import NUMBERS, compiled
from jaxrnn.nn.lookup import Lookup
from jaxrnn.nn.scanned import scanned

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu" or library.why_unavailable() is not None,
    reason="the recurrence is compiled on CPUs that have a C++ compiler",
)

CHARACTERS = 7
"""Rows of the table that is looked up in."""


def within(lengths, T, B):
    """The mask of sequences of these lengths; the last length is that of all further rows."""
    lengths = [*lengths, *[lengths[-1]] * (B - len(lengths))]
    return np.arange(T)[:, None] < np.array(lengths)


def gaps(T, B):
    """A mask with gaps, in which rows begin late and end early."""
    return np.random.default_rng(0).random((T, B)) < 0.5


def one_full_row(T, B):
    """Two steps of every row, and all of the last row: the first chunks never run a last step."""
    alive = np.arange(T)[:, None] < np.full(B, 2)
    alive[:, -1] = True
    return alive


def late_start(T, B):
    """No row runs the first step; where time goes forward, that is where gradients end."""
    return (np.arange(T)[:, None] > 0) & np.ones(B, bool)


# Sizes (T, B, H) and masks of those sizes. Chunks have at most 64 rows; large sizes use threads.
CASES = {
    "all steps": ((5, 4, 9), lambda T, B: None),
    "no full row": ((5, 4, 9), lambda T, B: within([3, 2, 1, 3], T, B)),
    "some empty rows": ((5, 4, 9), lambda T, B: within([5, 0, 3, 0], T, B)),
    "empty": ((5, 4, 9), lambda T, B: within([0], T, B)),
    "late start": ((5, 4, 9), late_start),
    "gaps": ((5, 4, 9), gaps),
    "one full row of 140": ((4, 140, 3), one_full_row),
    "no full row of 140": ((4, 140, 3), lambda T, B: within([3, 2, 1, 0], T, B)),
    "empty first chunks": ((4, 140, 3), lambda T, B: np.arange(B) >= np.full((T, 1), 130)),
    "empty, 140 rows": ((4, 140, 3), lambda T, B: within([0], T, B)),
    "gaps, 140 rows": ((4, 140, 3), gaps),
    "one full row on threads": ((5, 140, 40), one_full_row),
    "no step": ((0, 4, 9), lambda T, B: None),
    "no step, masked": ((0, 4, 9), lambda T, B: within([0], T, B)),
    "no row": ((5, 0, 9), lambda T, B: None),
    "no row, masked": ((5, 0, 9), lambda T, B: np.ones((T, B), bool)),
}
ON_THREADS = ("gru", "lstm")
"""The cells of the large case, which takes longest."""

COMBINATIONS = [
    (case, cell.name, reverse, looked_up, carried)
    for case, cell, reverse, looked_up, carried in product(
        CASES, NUMBERS, (False, True), (False, True), (False, True)
    )
    if "threads" not in case or (cell.name in ON_THREADS and reverse and not carried)
]


def arguments(cell, T, B, H):
    """Weight, bias, carry, inputs, table and tokens: random, nothing zero."""
    rng = np.random.default_rng(T + B + H)
    width = len(cell.gates) * H
    carry = cell.carry(*(rng.normal(size=(B, H)) for _ in cell.carry._fields))
    weight, bias = rng.normal(size=(width, H)) / np.sqrt(H), rng.normal(size=width)
    x_gates, table = rng.normal(size=(T, B, width)), rng.normal(size=(CHARACTERS, width))
    return weight, bias, carry, x_gates, table, rng.integers(0, CHARACTERS, (T, B))


def gradient_of(run, cell, reverse, looked_up, carried):
    """Outputs and gradients of a sum with different weights; without the carry's if not wanted."""

    def loss(weight, bias, inputs, carry, tokens, alive):
        x_gates = Lookup(inputs, tokens) if looked_up else inputs
        outputs = run(cell, reverse, weight, bias, carry, x_gates, alive)
        leaves = jax.tree.leaves(outputs)
        factors = [jnp.cos(jnp.arange(x.size) + 1.0).reshape(x.shape) for x in leaves]
        return sum((w * x).sum() for w, x in zip(factors, leaves, strict=True)), outputs

    wanted = (0, 1, 2, 3) if carried else (0, 1, 2)
    return jax.jit(jax.value_and_grad(loss, wanted, has_aux=True))


def distances():
    """The combination and the distance from the scan, one after the other."""
    functions = {}
    cells = {cell.name: cell for cell in NUMBERS}
    for combination in COMBINATIONS:
        case, name, reverse, looked_up, carried = combination
        size, mask = CASES[case]
        cell, alive = cells[name], mask(*size[:2])
        weight, bias, carry, x_gates, table, tokens = arguments(cell, *size)
        inputs = (weight, bias, table if looked_up else x_gates, carry, tokens, alive)

        def computed(run, carried, key=(name, reverse, looked_up), cell=cell, inputs=inputs):
            function = functions.get((run, carried, *key))
            if function is None:
                function = gradient_of(run, cell, *key[1:], carried)
                functions[run, carried, *key] = function
            (_, outputs), gradients = function(*inputs)
            return outputs, gradients

        ours = computed(compiled, carried)
        outputs, gradients = computed(scanned, True)  # the same program for both
        expected = (outputs, gradients if carried else gradients[:3])
        yield combination, relative(ours, expected)


def main():
    jax.config.update("jax_enable_x64", True)
    for combination, distance in distances():
        print(json.dumps([combination, distance]), flush=True)


@pytest.fixture(scope="module")
def measured():
    """The distance of every combination, as far as the process came, and how it ended."""
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    run = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    ended = f"the process ended with {run.returncode}: {run.stderr[-2000:]}"
    return {tuple(combination): distance for combination, distance in lines}, ended


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cell", NUMBERS, ids=lambda cell: cell.name)
def test_gradients_equal_those_of_the_scan(measured, case, cell):
    distance_of, ended = measured
    chosen = [one for one in COMBINATIONS if one[:2] == (case, cell.name)]
    missing = [one for one in chosen if one not in distance_of]
    assert not missing, ended
    assert {one: distance_of[one] for one in chosen if not distance_of[one] < EXACT} == {}


ALONE = """
import sys
sys.path.insert(0, {tests!r})
from test_native_gradients import gradients_alone_and_together
gradients_alone_and_together({cell!r})
"""


def gradients_alone_and_together(name):
    """The gradient of a bidirectional stack is the sum of its sequences', each run alone."""
    jax.config.update("jax_enable_x64", True)
    cell = {cell.name: cell for cell in NUMBERS}[name]
    rnn = RNN(cell, 4, layers=2, bidirectional=True)
    lengths, T, B = [3, 2, 1, 3], 5, 4
    xs = jax.random.normal(jax.random.key(0), (T, B, 3), jnp.float64)
    carry = rnn.initial_carry(B, jnp.float64)
    params = rnn.init(jax.random.key(1), carry, xs)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

    def loss(params, xs, lengths):
        """The carry is made here: nothing asks for its gradient."""
        start = rnn.initial_carry(xs.shape[1], jnp.float64)
        last, ys = rnn.apply(params, start, xs, lengths=lengths)
        return jnp.sin(ys).sum() + sum(jnp.cos(x).sum() for x in jax.tree.leaves(last))

    together = jax.jit(jax.grad(loss))(params, xs, jnp.array(lengths))
    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    alone = [
        gradient(params, xs[:length, row : row + 1], None) for row, length in enumerate(lengths)
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves), *alone)
    assert relative(together, expected) < EXACT


@pytest.mark.parametrize("cell", [TANH, GRU, LSTM], ids=lambda cell: cell.name)
def test_the_gradient_of_a_bidirectional_stack_is_that_of_each_sequence_alone(cell):
    program = ALONE.format(tests=str(Path(__file__).parent), cell=cell.name)
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]


if __name__ == "__main__":
    main()
