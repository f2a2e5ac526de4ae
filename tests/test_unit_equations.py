"""Every equation with every deviation computes what its words say, written out once more.

Shapes: B batch, I input size, H hidden size.
"""

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
import torch
from cell_equations import ORACLES, H, blocks
from scipy.special import expit

from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import Cell
from parity.core.reference_layers import REFERENCE_CELLS, gated
from parity.diagnosis.equations import EQUATIONS, FROM_ZEROS, sigmoid, variants

B, I = 7, 4
GATES = {"tanh": "h", "relu": "h", "gru": "rzn", "lstm": "ifgo", "lru": "x"}
GATES |= {"gru-reset-before": "rzn", "paper-mgu": "fn"}
FIELDS = {"lstm": ("h", "c")}
# Options of weights and the carry, which every cell has, and the order of its gates.
COMMON = ("missing", "transposed", "carry_in", "order")


def gates_of(cell):
    """The letters of a cell's gates in the order of their rows."""
    return GATES.get(cell) or "".join(CELLS[cell].gates)


def case_of(cell):
    """Weights, input and carry so large that gates leave their linear range."""
    rng = np.random.default_rng(len(cell))
    reference = REFERENCE_CELLS.get(cell)
    shapes = (reference.shapes if reference else gated(len(gates_of(cell))))(I, H)
    w = {name: rng.uniform(-1.5, 1.5, shape) for name, shape in shapes.items()}
    fields = reference.fields if reference else FIELDS.get(cell, ("h",))
    carry = {name: rng.uniform(-1, 1, (B, H)) for name in fields}
    if "n" in carry:
        carry["n"] = rng.uniform(0.5, 1.5, (B, H))
        carry["n"][0] = 0  # no past
    return w, rng.uniform(-2, 2, (B, I)), tuple(carry.values())


OWN = [
    (cell, deviation.words)
    for cell, (_, deviations) in EQUATIONS.items()
    for deviation in deviations
    if deviation.option not in COMMON
]


def steps_of(cell):
    """The step of each variant by its words."""
    return {variant.words: variant.step for variant in variants(cell)}


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def differ(got, expected):
    return any(not np.allclose(a, b, rtol=1e-6) for a, b in zip(got, expected, strict=True))


def test_every_equation_has_an_oracle():
    assert ORACLES.keys() == EQUATIONS.keys()
    assert list(variants("mogrifier-lstm")) == []


@pytest.mark.parametrize("cell", EQUATIONS)
def test_the_equation_itself_is_the_references(cell):
    w, x, carry = case_of(cell)
    got = next(variants(cell)).step(w, x, carry)
    assert_same(got, ORACLES[cell](w, x, carry, ""))
    if cell in REFERENCE_CELLS:
        tensors = {name: torch.tensor(array) for name, array in w.items()}
        after = REFERENCE_CELLS[cell].step(
            tensors, torch.tensor(x), tuple(map(torch.tensor, carry))
        )
        assert_same(got, [field.numpy() for field in after])


@pytest.mark.parametrize(("cell", "words"), OWN)
def test_a_deviation_is_what_its_words_say(cell, words):
    w, x, carry = case_of(cell)
    steps = steps_of(cell)
    got = steps[words](w, x, carry)
    assert_same(got, ORACLES[cell](w, x, carry, words))
    assert differ(got, steps[""](w, x, carry))


def test_the_sigmoid_of_large_numbers_is_0_or_1():
    x = np.array([-1e4, -3.0, 0.0, 3.0, 1e4])
    np.testing.assert_allclose(sigmoid(x), expit(x), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("cell", EQUATIONS)
def test_gates_in_another_order_are_read_from_where_they_lie(cell):
    """Every order but the right one, once; the two of a mere exchange are named."""
    gates = gates_of(cell)
    if isinstance(CELLS[cell], Cell):
        assert gates == "".join(CELLS[cell].gates)
    w, x, carry = case_of(cell)
    steps = steps_of(cell)
    words = [d.words for d in EQUATIONS[cell][1] if d.option == "order"]
    if len(gates) == 1 or cell in ("tanh", "relu"):
        assert words == []
        return
    assert len(set(words)) == len(words) == factorial(len(gates)) - 1
    for order in permutations(gates):
        if order == tuple(gates):
            continue
        moved = [a for a, b in zip(gates, order, strict=True) if a != b]
        name = f"the gates lie in the order {', '.join(order)}"
        if len(moved) == 2:
            name += f" ({' and '.join(moved)} exchanged)"
        # Block k holds the gate order[k]; the equation itself reads them in the order of `gates`.
        moved_back = {}
        for key, array in w.items():
            if key.startswith(("weight_", "bias_")):
                lying = blocks(array, order, axis=0)
                array = np.concatenate([lying[gate] for gate in gates])
            moved_back[key] = array
        assert_same(steps[name](w, x, carry), steps[""](moved_back, x, carry))


@pytest.mark.parametrize("cell", EQUATIONS)
def test_weights_that_are_missing_or_transposed_are_so_in_the_gate_that_is_named(cell):
    gates = gates_of(cell)
    w, x, carry = case_of(cell)
    steps = steps_of(cell)
    singles = {d.words for d in EQUATIONS[cell][1] if d.option in ("missing", "transposed")}
    named = {"hidden bias b_hh": "bias_hh", "input bias b_ih": "bias_ih"}
    named["recurrent weight"] = "weight_hh"
    expected = set()
    for what, key in named.items():
        if key not in w:
            continue
        end = "is transposed" if key == "weight_hh" else "is missing"
        places = {f"the {what} {end}": gates}
        if len(gates) > 1:
            places |= {f"the {what} of gate {gate} {end}": gate for gate in gates}
        for words, chosen in places.items():
            expected.add(words)
            parts = blocks(np.array(w[key]), gates, axis=0)
            for gate in chosen:
                parts[gate] = parts[gate].T if key == "weight_hh" else 0 * parts[gate]
            changed = {**w, key: np.concatenate(list(parts.values()))}
            before = np.array(w[key])
            got = steps[words](w, x, carry)
            assert_same(got, steps[""](changed, x, carry))
            assert differ(got, steps[""](w, x, carry))
            np.testing.assert_array_equal(w[key], before)
    assert singles == expected
    # The step itself knows nothing of where its carry comes from.
    assert_same(steps[FROM_ZEROS](w, x, carry), steps[""](w, x, carry))


@pytest.mark.parametrize("cell", EQUATIONS)
def test_variants_are_sorted_and_pairs_have_two_options(cell):
    deviations = EQUATIONS[cell][1]
    found = list(variants(cell))
    assert len({d.words for d in deviations}) == len(deviations)
    pairs = [(a, b) for a, b in combinations(deviations, 2) if a.option != b.option]
    expected = ["", *(d.words for d in deviations), *(f"{a.words} and {b.words}" for a, b in pairs)]
    assert [variant.words for variant in found] == expected
    counts = [0] + [1] * len(deviations) + [2] * len(pairs)
    assert [variant.deviations for variant in found] == counts


def test_a_pair_of_deviations_is_both():
    w, x, carry = case_of("gru")
    steps = steps_of("gru")
    missing = "the hidden bias b_hh is missing"
    one = "z weighs the new candidate instead of the old state"
    changed = {**w, "bias_hh": 0 * w["bias_hh"]}
    assert_same(steps[f"{one} and {missing}"](w, x, carry), steps[one](changed, x, carry))
