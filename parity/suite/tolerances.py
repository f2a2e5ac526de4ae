"""What the caps of G3 are made of: the largest distance from the truth in twenty draws.

A cap is `CAP_FACTOR` times the distance that `parity caps` measures, which `compare.MEASURED`
keeps, and at most `compare.WIDEST`.
Every draw is judged by itself here, where a check pools sixteen: single ones lie further out.
"""

from collections.abc import Iterator
from typing import NamedTuple

from parity.core.cases import draw_case
from parity.core.compare import Comparison, relative_l2
from parity.core.layer_pairs import layer_subjects
from parity.core.pairs import B, Subject, course_subjects
from parity.core.runners import Results, Side, jax_side, torch_side
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
        where: subject and array.
    """

    value: float
    where: str


def farthest(dtype: str) -> dict[str, Farthest]:
    """For each check the largest distance of JAX in `dtype` from PyTorch in float64."""
    found: dict[str, Farthest] = {}
    for subject, rule in _cases(dtype):
        for check, far in _of_subject(subject, rule, dtype).items():
            found[check] = max(found.get(check, far), far)
    return found


def _cases(dtype: str) -> Iterator[tuple[Subject, Rule | None]]:
    """Models and stacks for their values; in float32 every rule for its updates."""
    models = course_subjects()
    yield from ((subject, None) for subject in [*models, *layer_subjects(quick=True)])
    if dtype == "float32":
        yield from ((s, rule) for s in models if s.name == UPDATED for rule in RULES)
        yield from ((s, ADAM) for s in models if "CharLM" in s.name)


def _of_subject(subject: Subject, rule: Rule | None, dtype: str) -> dict[str, Farthest]:
    in_jax = _side(subject, rule, dtype, jax=True)
    in_torch = _side(subject, rule, "float64", jax=False)
    found: dict[str, Farthest] = {}
    for seed in range(SEEDS):
        case = draw_case(subject, seed, dtype)
        for check, far in _distances(subject, dtype, in_jax(*case), in_torch(*case)):
            found[check] = max(found.get(check, far), far)
    return found


def _side(subject: Subject, rule: Rule | None, dtype: str, *, jax: bool) -> Side:
    if rule is None:
        return (jax_side if jax else torch_side)(subject, dtype)
    return (jax_updates if jax else torch_updates)(subject, rule, (B,), dtype)


def _distances(
    subject: Subject, dtype: str, got: Results, reference: Results
) -> Iterator[tuple[str, Farthest]]:
    for check, expected in reference.items():
        if gradient_jumps(subject, Comparison(subject.name, check, dtype)):
            continue
        masks = undecided(expected)
        arrays, truth = (resolved(results, masks) for results in (got[check], expected))
        for name, array in truth.items():
            value = relative_l2(arrays[name], array)
            yield check, Farthest(value, f"{subject.name}: {name}")
