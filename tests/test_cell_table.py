"""The README's table of cells says what is so."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import CELLS, Cell, CharLM, LinearCell, apply_model, generate
from jaxrnn.generation.compiled import runs_compiled
from jaxrnn.recurrent.linear import window_of
from jaxrnn.recurrent.recurrence import which_backend, why_not_compiled
from jaxrnn.training.diagnostics import saturated_share

ROW = re.compile(
    r"^\| (`[a-z][a-z0-9-]*`(?:, `[a-z][a-z0-9-]*`)*) \|[^|]+\|([^|]*)\|([^|]*)\|([^|]*)\|$", re.M
)


def rows():
    """Compiled, parallel and one call, as the README says, for each cell."""
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## Cells\n")[1].split("\n### ")[0]
    found = {}
    for names, *columns in ROW.findall(section):
        for name in re.findall(r"`([^`]+)`", names):
            found[name] = tuple(column.strip() == "yes" for column in columns)
    return found


def test_every_cell_has_a_row():
    assert set(rows()) == set(CELLS)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", CELLS)
def test_what_the_table_says_of_a_cell_is_so(name):
    """How it runs; that it generates; that a window more goes on where the one before ended."""
    compiled, parallel, one_call = rows()[name]
    cell = CELLS[name]
    assert isinstance(cell, LinearCell) == parallel
    model = CharLM(7, 4, 6, cell=cell)
    start = model.initial_carry(1)
    window = jnp.arange(6).reshape(6, 1) % 7
    params = model.init(jax.random.key(0), start, window)["params"]
    if not why_not_compiled():
        has_step = compiled and which_backend(cell, jnp.float32) == "compiled"
        assert has_step == compiled
        assert runs_compiled(model.components(params)) == one_call
    _, tokens = generate(model, params, jnp.array([[1, 2]]), 5, jax.random.key(1))
    assert tokens.shape == (5, 2)
    share = saturated_share(model, params, start, jnp.arange(60) % 7, np.array([3]))
    has_ends = isinstance(cell, Cell) and window_of(cell) == 1 and name != "lru"
    assert (share is not None) == has_ends
    assert share is None or 0 <= share <= 1
    _, whole = apply_model(model, params, start, window)
    middle, first = apply_model(model, params, start, window[:2])
    _, second = apply_model(model, params, middle, window[2:])
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-5, atol=1e-5)
