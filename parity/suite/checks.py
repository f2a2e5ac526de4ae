"""How the two sides' results become findings, and what a check is."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn.recurrent.cells import Cell
from jaxrnn.recurrent.recurrence import Backend, backend, which_backend, why_not_compiled
from parity.core.cases import draw_case, pooled
from parity.core.compare import (
    Arrays,
    Comparison,
    Diagnosis,
    Finding,
    Outcome,
    meaning,
    numerics,
    structure,
)
from parity.core.pairs import B, Pair
from parity.core.runners import Side, run_jax, run_torch
from parity.diagnosis.models import diagnose_values
from parity.diagnosis.training import (
    diagnose_generation,
    diagnose_initialization,
    diagnose_plan,
    diagnose_update,
)
from parity.measures.generation import greedy_findings
from parity.measures.initialization import initialization_findings
from parity.measures.plans import TrainingPlan
from parity.measures.runs import Data, jax_run, run_findings, run_pair, torch_run
from parity.measures.training import Rule
from parity.measures.trajectories import (
    CHUNK,
    SMALL,
    Scale,
    Text,
    first_weights,
    followed,
    jax_trajectory,
    named_results,
    plan_of,
    torch_trajectory,
    within_envelope,
)
from parity.measures.updates import (
    MOVE,
    SECOND_MOMENTS,
    STEPS,
    jax_updates,
    torch_updates,
    undecided,
)

DRAWS = {"float64": 2, "float32": 16, "tf32": 16, "bfloat16": 16}
"""How many sets of weights and inputs are compared. In the lower precisions they are pooled: the
round-off of one small array is a matter of luck, that of sixteen is not."""


@dataclass(frozen=True)
class Check:
    """One thing to run.

    Attributes:
        pair: its pair.
        kind: what is compared.
        run: gives the findings.
        explain: traces a difference to its place and cause; None of a difference if there is none.
        target: what is compared, where a smaller case of it can be made.
        rule: how it is updated, if it is.
        cell: the cell of its recurrence, if there is one.
        path: how the recurrence is to run; None as it would by itself.
    """

    pair: str
    kind: str
    run: Callable[[], list[Finding]]
    explain: Callable[[], Diagnosis | None] = lambda: None
    target: Pair | None = None
    rule: Rule | None = None
    cell: Cell | None = None
    path: Backend | None = None

    def findings(self) -> list[Finding]:
        """Run it, and say how the recurrence ran; what cannot be run is a finding too."""
        with on_path(self.path):
            return [replace(found, path=self._ran(found.dtype)) for found in self._found()]

    def _ran(self, dtype: str) -> str:
        if self.cell is None:
            return ""
        stored = {"": "float32", "tf32": "float32"}.get(dtype, dtype)
        return which_backend(self.cell, jnp.dtype(stored))

    def _found(self) -> list[Finding]:
        try:
            return self.run()
        except Exception as error:  # whatever a broken model raises is the result of its check
            what = Comparison(self.pair, self.kind, "")
            note = " ".join(f"{type(error).__name__}: {error}".split())
            return [what.finding("G0", "", Outcome.ERROR, note=note)]

    def diagnosis(self) -> Diagnosis:
        """Place and cause of what the findings show; a search that fails says why.

        The check's own path is looked at first, then the other; the one that differs is named.
        """
        try:
            return self._traced() or Diagnosis("nowhere that was looked at")
        except Exception as error:  # a broken model may break the search as well
            return Diagnosis("unknown", f"{type(error).__name__} while looking for it")

    def _traced(self) -> Diagnosis | None:
        for path in dict.fromkeys((self.path, *PATHS)) if self.cell else (None,):
            if path == "compiled" and why_not_compiled():
                continue
            with on_path(path):
                found = self.explain()
                ran = self._ran("float64")
            if found:
                return found._replace(place=f"{found.place}, path {ran}") if ran else found
        return None


PATHS: tuple[Backend, ...] = ("compiled", "scan")
"""The ways to run the recurrence that are checked."""


def on_path(path: Backend | None) -> contextlib.AbstractContextManager[None]:
    """Within it the recurrence runs in this way; None changes nothing."""
    return contextlib.nullcontext() if path is None else backend(path)


def cell_of(pair: Pair) -> Cell | None:
    """The cell of a pair's recurrence, if there is one."""
    return None if pair.stack is None else pair.stack.cell


def values_check(pair: Pair, dtypes: Sequence[str] = ("float64",)) -> Check:
    """Outputs, loss and gradients."""
    run = partial(value_findings, pair, tuple(dtypes))
    explain = partial(diagnose_values, pair)
    return Check(pair.name, "values", run, explain, pair, cell=cell_of(pair))


def update_check(
    pair: Pair,
    rule: Rule,
    dtypes: Sequence[str] = ("float64",),
    rows: Sequence[int] = (B,) * STEPS,
) -> Check:
    """Updates by a rule, with these batch sizes."""
    name = f"{pair.name}, {rule.name}" + (", batch changing" if len(set(rows)) > 1 else "")
    run = partial(update_findings, name, pair, rule, tuple(dtypes), rows)
    explain = partial(diagnose_update, pair, rule)
    return Check(name, "update", run, explain, pair, rule, cell=cell_of(pair))


def initialization_check(pair: Pair) -> Check:
    """Fresh weights."""
    run = partial(initialization_findings, pair)
    return Check(pair.name, "initialization", run, partial(diagnose_initialization, pair))


def generation_check(pair: Pair) -> Check:
    """Greedy texts."""
    weights = draw_case(pair, 0, "float32")[0]
    run = partial(greedy_findings, pair, weights, "float32")
    explain = partial(diagnose_generation, pair)
    return Check(pair.name, "generation", run, explain, cell=cell_of(pair))


def trajectory_check(
    pair: Pair, text: Text, steps: int, scale: Scale = SMALL, *, envelope: bool = False
) -> Check:
    """Updates on real text, in float64, or in float32 within the envelope."""
    judge = within_envelope if envelope else followed
    name = f"{pair.name}, {scale.hidden_size} units, {steps} steps"
    run = partial(judge, pair, text, steps, scale)
    explain = partial(diagnose_trajectory, pair, text, scale)
    return Check(name, "trajectory", run, explain, cell=cell_of(pair))


def diagnose_trajectory(pair: Pair, text: Text, scale: Scale) -> Diagnosis | None:
    """Place and cause of a difference in the first chunk of a trajectory."""
    weights = first_weights(pair, seed=0)
    got = named_results(jax_trajectory(pair, weights, text, CHUNK, "float64", scale))

    def run(course: TrainingPlan) -> dict[str, np.ndarray]:
        """What a PyTorch run on this course ends with."""
        return named_results(torch_trajectory(pair, weights, course, "float64"))

    return diagnose_plan(plan_of(text, CHUNK, scale), text.tokens, got, run)


def fit_check(kind: Any, data: Data) -> Check:
    """A whole run of `jaxrnn.fit`."""
    pair = run_pair(kind, data)

    def explain() -> Diagnosis | None:
        """Place and cause of a difference of the run."""
        got = jax_run(pair, data)
        return diagnose_plan(data.course, data.source.tokens, got, partial(torch_run, pair))

    run = partial(run_findings, kind, data)
    name = f"fit {kind.__name__}"
    return Check(name, "trajectory", run, explain, cell=cell_of(pair))


def value_findings(pair: Pair, dtypes: tuple[str, ...]) -> list[Finding]:
    """Outputs, loss and gradients."""
    return sided_findings(pair.name, pair, run_jax, run_torch, dtypes)


def update_findings(
    name: str,
    pair: Pair,
    rule: Rule,
    dtypes: tuple[str, ...],
    rows: Sequence[int] = (B,) * STEPS,
) -> list[Finding]:
    """Moves of the weights, moments, gradient norms and carry.

    There is one update for each batch size in `rows`; in low precisions only the first.
    """

    findings = []
    for dtype in dtypes:
        made = rows if dtype == "float64" else rows[:1]

        def in_jax(pair: Pair, dtype: str, made: Sequence[int] = made) -> Side:
            """`train_step`."""
            return jax_updates(pair, rule, made, dtype)

        def in_torch(pair: Pair, dtype: str, made: Sequence[int] = made) -> Side:
            """torch's optimizer."""
            return torch_updates(pair, rule, made, dtype)

        findings += sided_findings(name, pair, in_jax, in_torch, (dtype,))
    return findings


def sided_findings(
    name: str,
    pair: Pair,
    in_jax: Callable[[Pair, str], Side],
    in_torch: Callable[[Pair, str], Side],
    dtypes: tuple[str, ...],
) -> list[Finding]:
    """G0 and G1 in float64; G0, G2 and G3 in the other precisions."""
    findings = []
    for dtype in dtypes:
        cases = [draw_case(pair, seed, dtype) for seed in range(DRAWS[dtype])]
        got = pooled(in_jax(pair, dtype), cases)
        reference = pooled(in_torch(pair, "float64"), cases)
        low = dtype != "float64"
        peer = pooled(in_torch(pair, dtype), cases) if low else reference
        for check, expected in peer.items():
            what = Comparison(name, check, dtype)
            problems = structure(what, got[check], expected)
            findings += problems
            if any(p.outcome is Outcome.FAIL for p in problems):
                continue
            if low:
                masks = undecided(reference[check])
                kept = [resolved(r[check], masks) for r in (got, peer, reference)]
                judged = numerics(what, *kept)
                findings += (
                    [_not_judged(f) for f in judged] if gradient_jumps(pair, what) else judged
                )
            else:
                findings += meaning(what, got[check], expected)
    return findings


JUMPS = "relu's derivative jumps where round-off decides the sign"


def gradient_jumps(pair: Pair, what: Comparison) -> bool:
    """Whether a gradient hangs on the signs of numbers that the precision cannot tell from 0.

    In bfloat16 that is so for the gradient of relu cells: of some 450 arguments of a case a few
    change sign, on either side, and each turns a derivative from 0 to 1. The ratio of G2 was
    between 1.0 and 9.1, and the distance between 0.01 and 0.12, in sixteen repetitions with other
    draws, with PyTorch's own distance as far as 0.11.
    """
    relu = pair.stack is not None and pair.stack.cell.name == "relu"
    return relu and (what.dtype, what.check) == ("bfloat16", "gradients")


def _not_judged(finding: Finding) -> Finding:
    """The number, without a verdict."""
    return replace(finding, outcome=Outcome.ABSTAIN, note=JUMPS)


def resolved(arrays: Arrays, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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
