"""What a check is, and how each kind of it is made."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn.recurrent.cells import Cell
from jaxrnn.recurrent.linear import LinearCell
from jaxrnn.recurrent.recurrence import Backend, backend, which_backend, why_not_compiled
from parity.core.cases import sample_case
from parity.core.compare import STORED_AS, Comparison, Finding, Outcome, failures
from parity.core.pairs import B, Pair
from parity.diagnosis.causes import Diagnosis
from parity.diagnosis.initialization import diagnose_initialization
from parity.diagnosis.models import diagnose_values
from parity.diagnosis.training import diagnose_generation, diagnose_run, diagnose_update
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
from parity.measures.updates import STEPS
from parity.suite.findings import update_findings, value_findings

# The ways to run the recurrence of any cell.
PATHS: tuple[Backend, ...] = ("compiled", "scan")


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
        cell: the cell of its recurrence, if there is one that can run in several ways.
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
        """Run it, and name the path that the recurrence took; what cannot be run is a finding."""
        with on_path(self.path):
            try:
                findings = self.run()
            except Exception as error:  # whatever a broken model raises is the result of its check
                what = Comparison(self.pair, self.kind, "")
                note = " ".join(f"{type(error).__name__}: {error}".split())
                findings = [what.finding("C0", "", Outcome.ERROR, note=note)]
            return [replace(found, path=self._path_in(found.dtype)) for found in findings]

    def _path_in(self, dtype: str) -> str:
        # The path that the recurrence takes in a precision; empty without a recurrence.
        if self.cell is None:
            return ""
        return which_backend(self.cell, jnp.dtype(STORED_AS.get(dtype, dtype) or "float32"))

    def diagnosis(self) -> Diagnosis:
        """Place and cause of what the findings show; a search that fails is named as the cause.

        The check's own path is looked at first, then the other; the one that differs is named.
        """
        try:
            return self._traced() or self._rounded() or Diagnosis("nowhere that was looked at")
        except Exception as error:  # a broken model may break the search as well
            return Diagnosis("unknown", f"{type(error).__name__} while looking for it")

    def _traced(self) -> Diagnosis | None:
        if self.cell is None:
            return self.explain()
        # Its own path first: the other is tried only if nothing differs there.
        for path in dict.fromkeys((self.path, *paths_of(self.cell))):  # each once
            if path == "compiled" and why_not_compiled():
                continue
            with on_path(path):
                found = self.explain()
                ran = self._path_in("float64")
            if found:
                return found._replace(place=f"{found.place}, path {ran}")
        return None

    def _rounded(self) -> Diagnosis | None:
        # What differs in the lower precisions alone. Searches run in float64, and find nothing.
        findings = self.findings()
        wrong = failures(findings)
        right = {found.dtype for found in findings} - {found.dtype for found in wrong}
        if not wrong or "float64" not in right:
            return None
        first = wrong[0]  # in the order of the computation
        place = f"{first.array} ({first.quantity}), in {first.dtype} alone"
        if first.path:
            place += f", path {first.path}"
        return Diagnosis(place, "it is right in float64, but rounded more than PyTorch's")


def paths_of(cell: Cell | None) -> list[Backend | None]:
    """The ways to run the recurrence of a cell here; None alone if there is no choice."""
    if cell is None:
        return [None]
    paths: list[Backend | None] = ["scan"] if why_not_compiled() else list(PATHS)
    if isinstance(cell, LinearCell):
        paths.append("parallel")
    return paths


def on_path(path: Backend | None) -> contextlib.AbstractContextManager[None]:
    """Within it the recurrence runs in this way; None changes nothing."""
    return contextlib.nullcontext() if path is None else backend(path)


def cell_of(pair: Pair) -> Cell | None:
    """The cell of a pair's recurrence, if there is one that can run in several ways."""
    if pair.stack is None or not isinstance(pair.stack.cell, Cell):
        return None  # a free cell always runs in the same way
    return pair.stack.cell


def values_check(pair: Pair, dtypes: Sequence[str] = ("float64",)) -> Check:
    """Outputs, loss and gradients."""
    run = partial(value_findings, pair, dtypes)
    explain = partial(diagnose_values, pair)
    return Check(pair.name, "values", run, explain, pair, cell=cell_of(pair))


def update_check(
    pair: Pair,
    rule: Rule,
    dtypes: Sequence[str] = ("float64",),
    rows: Sequence[int] = (B,) * STEPS,
) -> Check:
    """Updates by a rule, with these batch sizes."""
    name = f"{pair.name}, {rule.name}"
    if len(set(rows)) > 1:
        name += ", batch changing"
    run = partial(update_findings, name, pair, rule, dtypes, rows)
    explain = partial(diagnose_update, pair, rule)
    return Check(name, "update", run, explain, pair, rule, cell=cell_of(pair))


def initialization_check(pair: Pair) -> Check:
    """Fresh weights."""
    run = partial(initialization_findings, pair)
    return Check(pair.name, "initialization", run, partial(diagnose_initialization, pair))


def generation_check(pair: Pair) -> Check:
    """Greedy texts."""
    weights = sample_case(pair, 0, "float32").weights
    run = partial(greedy_findings, pair, weights, "float32")
    explain = partial(diagnose_generation, pair)
    return Check(pair.name, "generation", run, explain, cell=cell_of(pair))


def trajectory_check(
    pair: Pair, text: Text, steps: int, scale: Scale = SMALL, *, envelope: bool = False
) -> Check:
    """Updates on real text, in float64, or in float32 within the envelope."""
    judge = within_envelope if envelope else followed
    name = f"{pair.name}, {scale.hidden_size} units, {steps} steps"
    # In float32 a trajectory cannot be followed digit by digit, only within an envelope.
    run = partial(judge, pair, text, steps, scale)
    explain = partial(diagnose_trajectory, pair, text, scale)
    return Check(name, "trajectory", run, explain, cell=cell_of(pair))


def diagnose_trajectory(pair: Pair, text: Text, scale: Scale) -> Diagnosis | None:
    """Place and cause of a difference in the first chunk of a trajectory."""
    # As the check does, but for one chunk: there a mistake shows already.
    weights = first_weights(pair, seed=0)
    got = named_results(jax_trajectory(pair, weights, text, CHUNK, "float64", scale))

    def run(plan: TrainingPlan) -> dict[str, np.ndarray]:
        return named_results(torch_trajectory(pair, weights, plan, "float64"))

    return diagnose_run(pair, plan_of(text, CHUNK, scale), text.tokens, got, run)


def fit_check(kind: Any, data: Data) -> Check:
    """A whole run of `jaxrnn.fit`."""
    pair = run_pair(kind, data)

    def explain() -> Diagnosis | None:
        got = jax_run(pair, data)
        return diagnose_run(pair, data.plan, data.source.tokens, got, partial(torch_run, pair))

    run = partial(run_findings, kind, data)
    return Check(f"fit {kind.__name__}", "trajectory", run, explain, cell=cell_of(pair))
