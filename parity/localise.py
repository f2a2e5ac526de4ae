"""Where does a difference start, and what is it? Layer x time x gate, forward and backward.

Shapes: T time steps, B batch, I input size, H hidden size, L layers.

A free run shows where the numbers differ; from there the difference spreads. A clamped run hands
every step of every layer PyTorch's own input and carry, so what differs there, starts there. The
gradient of a clamped step, gate by gate, does the same for the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.nn.cells import Cell
from jaxrnn.nn.layers import RNN
from parity.bridge import numpy_of
from parity.compare import MEANING_LIMIT, relative_l2
from parity.equations import Weights, variants
from parity.recognise import match
from parity.sides import precision
from parity.subjects import nested

Grid = dict[str, dict[str, float]]
"""Errors by row and column, such as layer and time step."""

Layer = Callable[..., tuple[tuple[np.ndarray, ...], np.ndarray]]

STEP = 1e-6
"""Of the central differences behind the reference gradients, which are good to about 1e-9."""
BACKWARD_LIMIT = 1e-6
ROUNDED = 1e-6
"""A smaller error than this is no other equation, but float32 somewhere."""


@dataclass(frozen=True)
class Case:
    """A stack of layers, weights and inputs, all in float64.

    Attributes:
        cell: the cell, as the library has it.
        weights: one entry a layer.
        xs: (T, B, I).
        carry: for each layer, the carry's fields (B, H).
    """

    cell: Cell
    weights: tuple[Weights, ...]
    xs: np.ndarray
    carry: tuple[tuple[np.ndarray, ...], ...]


@dataclass(frozen=True)
class Localisation:
    """What was found.

    Attributes:
        free: error of h at (layer, time step) when the layers run by themselves.
        clamped: error of each field of the carry when every step gets the reference's input.
        backward: error of the gradient of a clamped step at (layer, gate).
        origin: the first (layer, time step, field) of the clamped run that differs, in words;
            empty if none does.
        cause: the known equation that the layer computes instead, in words; empty if unknown.
    """

    free: Grid
    clamped: Grid
    backward: Grid
    origin: str
    cause: str

    def summary(self) -> str:
        """Origin and cause in one line."""
        return f"{self.origin or 'no single step differs'}: {self.cause or 'no known cause fits'}"


def draw(
    cell: Cell,
    *,
    steps: int = 4,
    batch: int = 3,
    inputs: int = 6,
    hidden: int = 5,
    layers: int = 2,
    seed: int = 0,
) -> Case:
    """A random case; no weight, bias or carry is zero."""
    rng = np.random.default_rng(seed)
    rows = len(cell.gates) * hidden
    fan_in = [inputs, *[hidden] * (layers - 1)]

    def weights(width: int) -> Weights:
        shapes = (rows, width), (rows, hidden), (rows,), (rows,)
        return Weights(*(rng.uniform(-1, 1, shape) for shape in shapes))

    count = len(cell.carry._fields)
    carry = tuple(
        tuple(rng.uniform(-0.9, 0.9, (batch, hidden)) for _ in range(count)) for _ in range(layers)
    )
    xs = rng.uniform(-1.5, 1.5, (steps, batch, inputs))
    return Case(cell, tuple(weights(width) for width in fan_in), xs, carry)


def localise(case: Case) -> Localisation:
    """Compare the library's layers with PyTorch's equation, step by step."""
    free: Grid = {}
    clamped: Grid = {}
    backward: Grid = {}
    inputs, ys = case.xs, case.xs
    origin, cause = "", ""
    layer = layer_of(case.cell)
    for k, (w, before) in enumerate(zip(case.weights, case.carry, strict=True)):
        name = f"layer {k}"
        ys = layer(w, ys, before)[1]
        carries = reference_carries(case.cell, w, inputs, before)
        free[name] = {str(t): relative_l2(ys[t], c[0]) for t, c in enumerate(carries)}
        errors = _clamped(layer, w, inputs, [before, *carries])
        rows = dict(zip((f"{name} {f}" for f in case.cell.carry._fields), errors, strict=True))
        clamped |= rows
        backward[name] = gate_errors(case.cell, w, inputs[0], before)
        if not origin:
            origin = _first(rows) or _first_backward(name, backward[name])
            cause = _cause(case.cell, layer, w, inputs, before) if origin else ""
        inputs = np.stack([c[0] for c in carries])
    return Localisation(free, clamped, backward, origin, cause)


def layer_of(cell: Cell) -> Layer:
    """One layer of the library, compiled afresh: (weights, xs, carry) -> last carry, outputs."""
    program = jax.jit(partial(_apply, cell))

    def run(
        w: Weights, xs: np.ndarray, carry: tuple[np.ndarray, ...]
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        with precision("float64"):
            fields = tuple(jnp.asarray(field) for field in carry)
            last, ys = program(_params(w), jnp.asarray(xs), fields)
            return tuple(numpy_of(field) for field in last[0]), numpy_of(ys)

    return run


def _apply(cell: Cell, params: Any, xs: Any, carry: Any) -> Any:
    stack = RNN(cell, carry[0].shape[-1])
    return stack.apply({"params": params}, (cell.carry(*carry),), xs)


def _params(w: Weights) -> Any:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return nested({name: jnp.asarray(array) for name, array in zip(names, w, strict=True)})


def reference_carries(
    cell: Cell, w: Weights, xs: np.ndarray, carry: tuple[np.ndarray, ...]
) -> list[tuple[np.ndarray, ...]]:
    """PyTorch's carry after every step."""
    _, step = next(iter(variants(cell.name)))
    carries = []
    for x in xs:
        carry = step(w, x, carry)
        carries.append(carry)
    return carries


def _clamped(
    layer: Layer, w: Weights, xs: np.ndarray, carries: list[tuple[np.ndarray, ...]]
) -> list[dict[str, float]]:
    """For each field of the carry, the error at every time step."""
    rows: list[dict[str, float]] = [{} for _ in carries[0]]
    for t, x in enumerate(xs):
        got, _ = layer(w, x[None], carries[t])
        for row, field, expected in zip(rows, got, carries[t + 1], strict=True):
            row[str(t)] = relative_l2(field, expected)
    return rows


def gate_errors(
    cell: Cell, w: Weights, x: np.ndarray, carry: tuple[np.ndarray, ...]
) -> dict[str, float]:
    """For each gate, the error of the gradient of one step with respect to its hidden bias."""
    _, step = next(iter(variants(cell.name)))

    def reference(bias: np.ndarray) -> float:
        return float(sum(np.sum(f**2 + f) for f in step(w._replace(b_hh=bias), x, carry)))

    def loss(bias: Any) -> Any:
        fields = tuple(jnp.asarray(field) for field in carry)
        params = {**_params(w), "bias_hh_l0": bias}
        (last,), _ = _apply(cell, params, jnp.asarray(x[None]), fields)
        return sum(jnp.sum(f**2 + f) for f in last)

    with precision("float64"):
        got = numpy_of(jax.jit(jax.grad(loss))(jnp.asarray(w.b_hh)))
    unit = np.eye(len(w.b_hh)) * STEP
    truth = np.array([reference(w.b_hh + e) - reference(w.b_hh - e) for e in unit]) / (2 * STEP)
    pairs = zip(cell.gates, *(np.split(g, len(cell.gates)) for g in (got, truth)), strict=True)
    return {gate: relative_l2(a, b) for gate, a, b in pairs}


def _first(rows: Grid) -> str:
    limit = MEANING_LIMIT["forward"]
    bad = [(int(t), row) for row, errors in rows.items() for t, e in errors.items() if e > limit]
    return "{1} at step {0}".format(*min(bad)) if bad else ""


def _first_backward(name: str, errors: dict[str, float]) -> str:
    bad = [gate for gate, error in errors.items() if error > BACKWARD_LIMIT]
    return f"the backward pass of {name}, gate {', '.join(bad)}" if bad else ""


def _cause(
    cell: Cell, layer: Layer, w: Weights, xs: np.ndarray, carry: tuple[np.ndarray, ...]
) -> str:
    got = layer(w, xs, carry)[1]
    words = match(cell.name, w, xs, carry, got)
    expected = [c[0] for c in reference_carries(cell, w, xs, carry)]
    if words is None and relative_l2(got, np.stack(expected)) < ROUNDED:
        return "values are rounded to float32 on the way"
    return words or ""


def shrunken(cell: Cell) -> Case | None:
    """The smallest case that still differs, or None: one step, sequence, layer and unit first."""
    for steps, batch, hidden in ((1, 1, 1), (1, 1, 2), (2, 1, 2), (2, 2, 3), (4, 3, 5)):
        case = draw(cell, steps=steps, batch=batch, inputs=hidden, hidden=hidden, layers=1)
        if localise(case).origin:
            return case
    return None


def reproduction(case: Case) -> str:
    """Lines of Python that show the difference again."""
    T, B, inputs = case.xs.shape
    hidden, layers = case.carry[0][0].shape[1], len(case.weights)
    return (
        "from jaxrnn import CELLS\nfrom parity.localise import draw, localise\n"
        f'case = draw(CELLS["{case.cell.name}"], steps={T}, batch={B}, inputs={inputs}, '
        f"hidden={hidden}, layers={layers})\nprint(localise(case).summary())"
    )
