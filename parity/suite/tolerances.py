"""What the caps of G3 are made of: the largest distance from the truth in twenty draws.

A cap is `CAP_FACTOR` times the distance that `parity caps` measures, which `compare.MEASURED`
keeps, and at most `compare.WIDEST`.
Every draw is judged by itself here, where a check pools sixteen: single ones lie further out.
"""

from collections.abc import Iterator
from typing import NamedTuple

from parity.core.cases import draw_case
from parity.core.compare import Comparison, relative_l2
from parity.core.layer_pairs import layer_pairs
from parity.core.pairs import B, Pair, course_pairs
from parity.core.runners import Results, Side, run_jax, run_torch
from parity.measures.training import ADAM, RULES, Rule
from parity.measures.updates import jax_updates, torch_updates, undecided
from parity.suite.checks import gradient_jumps, resolved

SEEDS = 20
UPDATED = "CharSeqStatefulRnn"
"""The model that is updated by every rule."""


class Farthest(NamedTuple):
    """The largest distance of a check in one precision.

    Attributes:
        value: relative, in the Euclidean norm.
        where: pair and array.
    """

    value: float
    where: str


def farthest(dtype: str) -> dict[str, Farthest]:
    """For each check the largest distance of JAX in `dtype` from PyTorch in float64."""
    found: dict[str, Farthest] = {}
    for pair, rule in _cases(dtype):
        for check, far in _of_pair(pair, rule, dtype).items():
            found[check] = max(found.get(check, far), far)
    return found


def _cases(dtype: str) -> Iterator[tuple[Pair, Rule | None]]:
    """Models and stacks for their values; in float32 every rule for its updates."""
    models = course_pairs()
    yield from ((pair, None) for pair in [*models, *layer_pairs(quick=True)])
    if dtype == "float32":
        yield from ((s, rule) for s in models if s.name == UPDATED for rule in RULES)
        yield from ((s, ADAM) for s in models if "CharLM" in s.name)


def _of_pair(pair: Pair, rule: Rule | None, dtype: str) -> dict[str, Farthest]:
    in_jax = _side(pair, rule, dtype, jax=True)
    in_torch = _side(pair, rule, "float64", jax=False)
    found: dict[str, Farthest] = {}
    for seed in range(SEEDS):
        case = draw_case(pair, seed, dtype)
        for check, far in _distances(pair, dtype, in_jax(*case), in_torch(*case)):
            found[check] = max(found.get(check, far), far)
    return found


def _side(pair: Pair, rule: Rule | None, dtype: str, *, jax: bool) -> Side:
    if rule is None:
        return (run_jax if jax else run_torch)(pair, dtype)
    return (jax_updates if jax else torch_updates)(pair, rule, (B,), dtype)


def _distances(
    pair: Pair, dtype: str, got: Results, reference: Results
) -> Iterator[tuple[str, Farthest]]:
    for check, expected in reference.items():
        if gradient_jumps(pair, Comparison(pair.name, check, dtype)):
            continue
        masks = undecided(expected)
        arrays, truth = (resolved(results, masks) for results in (got[check], expected))
        for name, array in truth.items():
            value = relative_l2(arrays[name], array)
            yield check, Farthest(value, f"{pair.name}: {name}")
