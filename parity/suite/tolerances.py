"""How far from the truth is JAX in twenty cases? The tolerances of C3 are five times as wide.

A tolerance is `TOLERANCE_FACTOR` times the distance that `parity tolerances` measures, which
`compare.MEASURED` has, and at most `compare.WIDEST`.
Every case is judged by itself here, where a check pools sixteen: single ones lie further out.
"""

from collections.abc import Iterator
from typing import NamedTuple

from parity.core.cases import sample_case
from parity.core.compare import Comparison, relative_l2
from parity.core.layer_pairs import layer_pairs, loop_pairs
from parity.core.pairs import B, Pair, course_pairs
from parity.core.runners import Results, run_jax, run_torch
from parity.measures.training import ADAM, RULES, Rule
from parity.measures.updates import jax_updates, torch_updates, undecided
from parity.suite.findings import gradient_jumps, resolved

SEEDS = 20
# The model that is updated by every rule.
UPDATED = "CharSeqStatefulRnn"


class Farthest(NamedTuple):
    """The largest distance of a quantity in one precision.

    Attributes:
        value: relative, in the Euclidean norm.
        where: pair and array.
    """

    value: float
    where: str


def farthest(dtype: str) -> dict[str, Farthest]:
    """For each quantity the largest distance of JAX in `dtype` from PyTorch in float64."""
    found: dict[str, Farthest] = {}
    for pair, rule in _cases(dtype):
        if rule is None:
            # Values, or one update.
            in_jax = run_jax(pair, dtype)
            in_torch = run_torch(pair, "float64")
        else:
            in_jax = jax_updates(pair, rule, (B,), dtype)
            in_torch = torch_updates(pair, rule, (B,), "float64")
        for seed in range(SEEDS):
            case = sample_case(pair, seed, dtype)
            for quantity, far in _distances(pair, dtype, in_jax(*case), in_torch(*case)):
                # A NamedTuple compares by its first field, the distance.
                found[quantity] = max(found.get(quantity, far), far)
    return found


def _cases(dtype: str) -> Iterator[tuple[Pair, Rule | None]]:
    # Models and stacks for their values; in float32 every rule for its updates.
    models = course_pairs()
    for pair in [*models, *layer_pairs(quick=True), *loop_pairs()]:
        yield pair, None
    if dtype != "float32":
        return
    for pair in models:
        if pair.name == UPDATED:
            for rule in RULES:
                yield pair, rule
        elif "CharLM" in pair.name:
            yield pair, ADAM


def _distances(
    pair: Pair, dtype: str, got: Results, reference: Results
) -> Iterator[tuple[str, Farthest]]:
    for quantity, expected in reference.items():
        if gradient_jumps(pair, Comparison(pair.name, quantity, dtype)):
            continue
        # As the checks: without what the precision cannot resolve.
        masks = undecided(expected)
        arrays = resolved(got[quantity], masks)
        for name, truth in resolved(expected, masks).items():
            value = relative_l2(arrays[name], truth)
            yield quantity, Farthest(value, f"{pair.name}: {name}")
