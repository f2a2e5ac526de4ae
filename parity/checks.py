"""The suite: which checks there are, and how the two sides' results become findings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from jaxrnn.nn.models import (
    COURSE_MODELS,
    CharLoopModel,
    CharSeqStatefulGRU,
    CharSeqStatefulLSTM,
    CharSeqStatefulRnn2,
    StatefulModel,
)
from parity.cases import draw_case, pooled
from parity.compare import Arrays, Comparison, Finding, Outcome, meaning, numerics, structure
from parity.generation import greedy_findings
from parity.initialisation import initialisation_findings
from parity.runs import overlapping, run_findings, streams
from parity.sides import Side, jax_side, torch_side
from parity.stack_subjects import layer_subjects
from parity.subjects import Subject, course_subjects
from parity.training import ADAM, RULES, Rule
from parity.trajectories import Text, followed, trained_subject, within_envelope
from parity.updates import MOVE, SECOND_MOMENTS, STEPS, jax_updates, torch_updates, undecided

DRAWS = {"float64": 2, "float32": 16, "tf32": 16, "bfloat16": 16}
"""How many sets of weights and inputs are compared. In the lower precisions they are pooled: the
round-off of one small array is a matter of luck, that of sixteen is not."""
QUICK = ("CharLoopConcatModel", "CharSeqStatefulGRU")
"""What the quick form does in full; of the others it looks at the values in float64."""
INITIALISED = (
    "CharSeqRnn, identity",
    "CharLoopConcatModel",
    "CharLM, gru, tied",
    "CharLM, gru, 2 layers",
    "CharSeqStatefulRnn2",
    "CharSeqStatefulLSTM",
)
"""Between them they have every initialiser; the first is the quick form's."""
LONG, SHORT = 1000, 100
"""Updates of the trajectories."""
ENVELOPE_STEPS = 100


@dataclass(frozen=True)
class Check:
    """One thing to run: its subject, its kind, and the function that gives the findings."""

    subject: str
    kind: str
    run: Callable[[], list[Finding]]

    def findings(self) -> list[Finding]:
        """Run it; what cannot be run is a finding too."""
        try:
            return self.run()
        except Exception as error:  # whatever a broken model raises is the result of its check
            what = Comparison(self.subject, self.kind, "")
            note = " ".join(f"{type(error).__name__}: {error}".split())
            return [what.finding("G0", "", Outcome.ERROR, note=note)]


def suite(*, quick: bool, text: Text, tf32: bool = False) -> Iterator[Check]:
    """Every check, in order.

    Args:
        quick: every model and cell, but fewer sizes, precisions and steps.
        text: what the trajectories train on.
        tf32: whether to compare with products rounded to TF32, too; needs a GPU.
    """
    low = ("float32",) if quick else ("float32", "bfloat16", "tf32")[: 3 if tf32 else 2]
    models, layers = course_subjects(), layer_subjects(quick=quick)
    for subject in [*models, *layers]:
        dtypes = ("float64", *_low(subject, low, quick=quick))
        yield Check(subject.name, "values", partial(value_findings, subject, dtypes))
    yield from _update_checks(models, quick=quick)
    for subject in models:
        if subject.name in INITIALISED[: 1 if quick else None]:
            run = partial(initialisation_findings, subject)
            yield Check(subject.name, "initialisation", run)
    for subject in models[: len(COURSE_MODELS)]:
        if quick and subject.name not in QUICK:
            continue
        run = partial(greedy_findings, subject, draw_case(subject, 0, "float32")[0], "float32")
        yield Check(subject.name, "generation", run)
    yield from _trajectory_checks(text, quick=quick)


def _low(subject: Subject, low: tuple[str, ...], *, quick: bool) -> tuple[str, ...]:
    """The precisions below float64 for a subject: all for a model, for a stack only float32."""
    if subject.model is not None:
        return low if not quick or subject.name in QUICK else ()
    both = "lengths" in subject.name or "dropout" in subject.name
    return ("float32",) if both and not quick else ()


def _update_checks(models: list[Subject], *, quick: bool) -> Iterator[Check]:
    by_name = {subject.name: subject for subject in models}
    pairs = [(by_name["CharSeqStatefulRnn"], rule, not quick) for rule in RULES]
    if not quick:
        others = [subject for subject in models if subject.name != "CharSeqStatefulRnn"]
        pairs += [(subject, ADAM, "CharLM" in subject.name) for subject in others]
        pairs += [(by_name["CharSeqStatefulLSTM"], rule, False) for rule in RULES[1:]]
    for subject, rule, low in pairs:
        name = f"{subject.name}, {rule.name}"
        dtypes = ("float64", "float32") if low else ("float64",)
        yield Check(name, "update", partial(update_findings, name, subject, rule, dtypes))


def _trajectory_checks(text: Text, *, quick: bool) -> Iterator[Check]:
    run = partial(run_findings, CharSeqStatefulGRU, streams(text))
    yield Check("fit CharSeqStatefulGRU", "trajectory", run)
    if not quick:
        run = partial(run_findings, CharLoopModel, overlapping(text))
        yield Check("fit CharLoopModel", "trajectory", run)
    kinds = [kind for kind in COURSE_MODELS if issubclass(kind, StatefulModel)]
    for kind in kinds[2:3] if quick else kinds:
        options = {"dropout": 0.0} if kind is CharSeqStatefulLSTM else {}
        subject, steps = trained_subject(kind, text, **options), SHORT if quick else LONG
        yield Check(kind.__name__, "trajectory", partial(followed, subject, text, steps))
        if not quick and kind is not CharSeqStatefulRnn2:  # its round-off is that of its sibling
            within = partial(within_envelope, subject, text, ENVELOPE_STEPS)
            yield Check(kind.__name__, "trajectory", within)


def value_findings(subject: Subject, dtypes: tuple[str, ...]) -> list[Finding]:
    """Outputs, loss and gradients."""
    return sided_findings(subject.name, subject, jax_side, torch_side, dtypes)


def update_findings(
    name: str, subject: Subject, rule: Rule, dtypes: tuple[str, ...]
) -> list[Finding]:
    """Moves of the weights, moments, gradient norms and carry."""

    findings = []
    for dtype in dtypes:
        steps = STEPS if dtype == "float64" else 1

        def in_jax(subject: Subject, dtype: str, steps: int = steps) -> Side:
            return jax_updates(subject, rule, steps, dtype)

        def in_torch(subject: Subject, dtype: str, steps: int = steps) -> Side:
            return torch_updates(subject, rule, steps, dtype)

        findings += sided_findings(name, subject, in_jax, in_torch, (dtype,))
    return findings


def sided_findings(
    name: str,
    subject: Subject,
    in_jax: Callable[[Subject, str], Side],
    in_torch: Callable[[Subject, str], Side],
    dtypes: tuple[str, ...],
) -> list[Finding]:
    """G0 and G1 in float64; G0, G2 and G3 in the other precisions."""
    findings = []
    for dtype in dtypes:
        cases = [draw_case(subject, seed, dtype) for seed in range(DRAWS[dtype])]
        got = pooled(in_jax(subject, dtype), cases)
        reference = pooled(in_torch(subject, "float64"), cases)
        low = dtype != "float64"
        peer = pooled(in_torch(subject, dtype), cases) if low else reference
        for check, expected in peer.items():
            what = Comparison(name, check, dtype)
            problems = structure(what, got[check], expected)
            findings += problems
            if any(p.outcome is Outcome.FAIL for p in problems):
                continue
            if low:
                masks = undecided(reference[check])
                kept = [_resolved(r[check], masks) for r in (got, peer, reference)]
                findings += numerics(what, *kept)
            else:
                findings += meaning(what, got[check], expected)
    return findings


def _resolved(arrays: Arrays, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that a low precision can tell, without the entries that it cannot.

    Second moments are in the gradient's own unit: squared, few entries would outweigh the rest.
    """
    resolved = {name: array for name, array in arrays.items() if not name.startswith(MOVE)}
    for name, array in resolved.items():
        if name in masks:
            resolved[name] = np.where(masks[name], 0, array)
        elif name.startswith(SECOND_MOMENTS):
            resolved[name] = np.sqrt(array)
    return resolved
