"""Gradients of the compiled recurrence where rows, steps or whole chunks of rows are not run.

Every combination of cell, direction, looked-up or given inputs, and carry differentiated or not,
on masks that leave something out, against the scan in float64. They all run in one process of
their own (this file as a script), so that a write outside an array fails the tests of the
combinations from there on and does not end pytest.
"""

import json
import math
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, compiled, relative, scanned

from jaxrnn import GRU, LSTM, RNN, TANH
from jaxrnn.recurrent.compiled import library
from jaxrnn.recurrent.compiled.generated import USUAL_CELLS
from jaxrnn.recurrent.inputs import Inputs

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
    "all steps": ((5, 4, 9), lambda T, B: within([T], T, B)),
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
    "no row": ((5, 0, 9), lambda T, B: None),
}
ON_THREADS = ("gru", "lstm")
"""The cells of the large case, which takes longest."""

VARIANTS = list(product((False, True), (False, True), (False, True)))
"""Time backwards or not, inputs looked up or not, the carry differentiated or not."""

COMBINATIONS = [
    (case, cell.name)
    for case, cell in product(CASES, USUAL_CELLS)
    if "threads" not in case or cell.name in ON_THREADS
]


def arguments(cell, T, B, H):
    """Weight, bias, carry, table, tokens, and a factor for each output: random, nothing zero."""
    rng = np.random.default_rng(T + B + H)
    width = len(cell.gates) * H
    weight, bias = rng.normal(size=(width, H)) / np.sqrt(H), rng.normal(size=width)
    carry = cell.carry(*(rng.normal(size=(B, H)) for _ in cell.carry._fields))
    table, tokens = rng.normal(size=(CHARACTERS, width)), rng.integers(0, CHARACTERS, (T, B))
    factors = cell.carry(*(rng.normal(size=(B, H)) for _ in cell.carry._fields))
    return weight, bias, carry, table, tokens, (factors, rng.normal(size=(T, B, H)))


def gradients_of(run, cell, variants, compiler_options=None):
    """For each variant, the outputs and the gradients of weight, bias, inputs and carry.

    They are those of a sum in which every output has a factor of its own. All variants are in one
    program, which is compiled faster than one for each.
    """

    def one(weight, bias, carry, inputs, tokens, factors, alive, variant):
        reverse, embedded, carried = variant

        def loss(weight, bias, inputs, carry):
            x_gates = Inputs(inputs, tokens) if embedded else Inputs(inputs)
            outputs = run(cell, reverse, weight, bias, carry, x_gates, alive)
            return jax.tree.reduce(
                jnp.add, jax.tree.map(lambda f, x: (f * x).sum(), factors, outputs)
            ), outputs

        wanted = (0, 1, 2, 3) if carried else (0, 1, 2)
        gradient = jax.value_and_grad(loss, wanted, has_aux=True)
        (_, outputs), gradients = gradient(weight, bias, inputs, carry)
        return outputs, gradients

    def every(weight, bias, carry, table, tokens, factors, alive):
        sources = (table[tokens], table)
        return [
            one(weight, bias, carry, sources[embedded], tokens, factors, alive, variant)
            for variant in variants
            for embedded in variant[1:2]
        ]

    return jax.jit(every, compiler_options=compiler_options)


def expected_of(scan, inputs, variant):
    """A variant's outputs and gradients from the scan forward in time over given inputs.

    Time backwards is the same with time turned round, and the gradient of a row of the table the
    sum of the gradients where it is read.
    """
    weight, bias, carry, table, tokens, (d_last, d_ys), alive = inputs
    reverse, embedded, carried = variant
    turned = (lambda x: None if x is None else x[::-1]) if reverse else (lambda x: x)
    [((last, ys), gradients)] = scan(
        weight, bias, carry, table, turned(tokens), (d_last, turned(d_ys)), turned(alive)
    )
    d_weight, d_bias, d_inputs, d_carry = gradients
    d_inputs = turned(np.asarray(d_inputs))
    if embedded:
        d_table = np.zeros_like(table)
        np.add.at(d_table, tokens, d_inputs)
        d_inputs = d_table
    wanted = (d_weight, d_bias, d_inputs, d_carry)
    return (last, turned(np.asarray(ys))), wanted if carried else wanted[:3]


def distances():
    """For one case and cell after the other, the distance of each variant from the scan."""
    cells = {cell.name: cell for cell in USUAL_CELLS}
    ours = {cell: gradients_of(compiled, cell, VARIANTS) for cell in USUAL_CELLS}
    # The reference alone is compiled with few passes, a new program for each size.
    few = {"xla_backend_optimization_level": 0}
    scans = {cell: gradients_of(scanned, cell, [(False, False, True)], few) for cell in USUAL_CELLS}
    for case, name in COMBINATIONS:
        size, mask = CASES[case]
        cell = cells[name]
        inputs = (*arguments(cell, *size), mask(*size[:2]))
        found = ours[cell](*inputs)
        yield (
            case,
            name,
            [
                relative(got, expected_of(scans[cell], inputs, variant))
                for got, variant in zip(found, VARIANTS, strict=True)
            ],
        )


def main():
    jax.config.update("jax_enable_x64", True)
    for outcome in distances():
        print(json.dumps(outcome), flush=True)
    for cell in (TANH, GRU, LSTM):
        print(json.dumps(["alone", cell.name, [alone_and_together(cell)]]), flush=True)


def alone_and_together(cell):
    """How far the gradient of a bidirectional layer is from the sum of its sequences' alone."""
    rnn = RNN(cell, 4, bidirectional=True)
    lengths, T, B = [3, 2, 1, 3], 5, 4
    xs = jax.random.normal(jax.random.key(0), (T, B, 3), jnp.float64)
    params = rnn.init(jax.random.key(1), rnn.initial_carry(B), xs)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

    def loss(params, xs, lengths):
        """The carry is made here: nothing asks for its gradient."""
        start = rnn.initial_carry(xs.shape[1], jnp.float64)
        last, ys = rnn.apply(params, start, xs, lengths=lengths)
        return jnp.sin(ys).sum() + sum(jnp.sin(x).sum() for x in jax.tree.leaves(last))

    gradient = jax.jit(jax.grad(loss))
    alone = [gradient(params, xs[:n, row : row + 1], None) for row, n in enumerate(lengths)]
    return relative(
        gradient(params, xs, jnp.array(lengths)), jax.tree.map(lambda *x: sum(x), *alone)
    )


@pytest.fixture(scope="module")
def measured():
    """The distances of every case and cell, as far as the process came, and how it ended."""
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
    return {(case, cell): found for case, cell, found in lines}, ended


def largest_distance(measured, case, cell):
    """The largest of a case; infinite, with how the process ended, where it came not so far."""
    found, ended = measured
    if (case, cell) not in found:
        print(ended)
        return math.inf
    print(dict(zip(VARIANTS, found[case, cell], strict=False)))
    return max(found[case, cell])


@pytest.mark.sample(24)
@pytest.mark.parametrize(("case", "cell"), COMBINATIONS)
def test_gradients_equal_those_of_the_scan(measured, case, cell):
    assert largest_distance(measured, case, cell) < EXACT


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
def test_the_gradient_of_a_bidirectional_layer_is_that_of_each_sequence_alone(measured, cell):
    assert largest_distance(measured, "alone", cell) < EXACT


if __name__ == "__main__":
    main()
