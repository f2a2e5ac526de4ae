"""How far two runs of a training loop may be apart: the envelope of PyTorch's own round-off.

Runs of PyTorch whose first weights, and all results of all operations, differ in the last place
show, array by array and step by step, what round-off becomes in this very loop. JAX may be so far
away, by a factor, and no further. An entry that they put anywhere, as Adam does where a gradient
is nothing but round-off, is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from parity.core.bridge import is_float
from parity.core.compare import (
    CONDITION_FACTOR,
    MEANING_LIMIT,
    UNIT_ROUNDOFF,
    WIDEST_MEANING,
    Arrays,
    Comparison,
    Finding,
    Outcome,
)
from parity.measures.training_loops import MOMENT_NAMES, Step
from parity.measures.trajectories import DIVERGED, ENVELOPE_FACTOR
from parity.measures.updates import SECOND_MOMENTS, UNDECIDED

# In the order in which a difference spreads within a step.
QUANTITIES = ("loss", "gradients", "moments", "weights", "averages")
# C1 of each: a move of the weights and a moment are parts of an update.
LIMITS = {
    "loss": MEANING_LIMIT["loss"],
    "gradients": MEANING_LIMIT["gradients"],
    "moments": MEANING_LIMIT["update"],
    "weights": MEANING_LIMIT["update"],
    "averages": MEANING_LIMIT["update"],
}
# No envelope in float32 is narrower than so many roundings. A loss is a single number, which may
# be a sum of many and right by luck in every run that makes the envelope.
ROUNDINGS = {"loss": 16, "gradients": 4, "moments": 4, "weights": 4, "averages": 4}
# A loss is compared relative to its size, but to no less than this share of the largest.
SMALLEST_LOSS = 1e-3

# Of a parameter that no step of either moves.
STILL = "it does not move in either framework"

Quantities = dict[str, dict[str, np.ndarray]]


class Limit(NamedTuple):
    """What holds for one array after one step.

    Attributes:
        size: what distances are relative to; 0 where the array is zero.
        limit: the largest distance that passes.
        envelope: how far PyTorch's own runs are apart.
        decided: the entries that are compared.
    """

    size: float
    limit: float
    envelope: float
    decided: np.ndarray


class Verdict(NamedTuple):
    """Where an array first differs, or what comes nearest to it.

    Attributes:
        step: counted from 1.
        distance: relative.
        limit: the largest that passes.
    """

    step: int
    distance: float
    limit: float

    @property
    def judged(self) -> bool:
        """Whether the limit says anything: where the envelope is wide, round-off decides."""
        return self.limit <= ENVELOPE_FACTOR * DIVERGED

    @property
    def differs(self) -> bool:
        """Whether the distance is beyond the limit; one of NaN is."""
        return self.judged and not self.distance <= self.limit


class Center:
    """PyTorch's run, and what PyTorch's other runs say about its round-off.

    Args:
        start: the weights before the first step.
        steps: of the run.
        others: runs from perturbed weights, with other roundings.
        dtype: the precision of them all.
        exact: the run in float64, where `dtype` is not that.
    """

    # A training may diverge, and its numbers overflow.
    @np.errstate(over="ignore", invalid="ignore")
    def __init__(
        self,
        start: Arrays,
        steps: Sequence[Step],
        others: Sequence[Sequence[Step]],
        dtype: str,
        exact: Sequence[Step] | None = None,
    ) -> None:
        self.start = start
        self.steps = tuple(steps)
        self.dtype = dtype
        self.arrays = [self.quantities(step) for step in steps]
        runs = [[self.quantities(step) for step in run] for run in others]
        truth = None if exact is None else [self.quantities(step) for step in exact]
        # The first step, from the second on, after which there is nothing left to follow.
        self.diverged = next(
            (
                t
                for t in range(1, len(steps))
                if any(_overflows(run[t]) for run in (steps, *others))
            ),
            len(steps),
        )
        self._largest_loss = np.nanmax([0.0] + [abs(s.loss) for s in steps if s.loss is not None])
        self.limits: dict[tuple[str, str], list[Limit]] = {}
        for quantity in QUANTITIES:
            for name in {name: None for arrays in self.arrays for name in arrays[quantity]}:
                self.limits[quantity, name] = self._limits(quantity, name, runs, truth)

    def quantities(self, step: Step, reference: Step | None = None) -> Quantities:
        """What is compared of a step, in float64.

        Args:
            step: of either framework.
            reference: PyTorch's step, if this is one of JAX: it has the names of the moments.
        """
        moments = step.moments
        gradients: Mapping[str, np.ndarray] = step.gradients
        if reference is not None:
            moments = matching_moments(step, reference)
            gradients = matching_gradients(step, reference)
        return {
            "loss": {} if step.loss is None else {"loss": np.array(step.loss)},
            "gradients": _wide(gradients),
            "moments": self._moments(moments),
            "weights": self._moves(step.weights),
            "averages": self._moves(step.averages),
        }

    def _moves(self, weights: Arrays) -> dict[str, np.ndarray]:
        found = _wide(weights)
        if self.dtype == "float64":
            # How far they have moved: beside the weights themselves a small step is nothing.
            found = {key: array - self.start[key] for key, array in found.items()}
        return found

    def _moments(self, moments: Arrays) -> dict[str, np.ndarray]:
        found = _wide(moments)
        for name in found:
            # In the gradient's own unit: squared, few entries would outweigh the rest.
            if self.dtype != "float64" and name.startswith(SECOND_MOMENTS):
                found[name] = np.sqrt(found[name])
        return found

    def _limits(
        self,
        quantity: str,
        name: str,
        runs: Sequence[Sequence[Quantities]],
        exact: Sequence[Quantities] | None,
    ) -> list[Limit]:
        found: list[Limit] = []
        widest = 0.0
        decided: Any = True
        for t, arrays in enumerate(self.arrays):
            center = arrays[quantity].get(name)
            if center is None or t >= self.diverged:
                found.append(Limit(0.0, np.inf, np.inf, np.zeros((), bool)))
                continue
            spread = np.zeros(center.shape)
            for run in (*runs, *([exact] if exact is not None else [])):
                spread = np.maximum(spread, np.abs(run[t][quantity].get(name, center) - center))
            size = self._size(quantity, name, center)
            typical = size / max(np.sqrt(center.size), 1.0)
            # What round-off has put anywhere once, stays anywhere.
            # What has not moved yet has moved nowhere.
            still = (spread <= DIVERGED * typical) | (size == 0)
            still &= np.logical_not(self._undecided(t, quantity, name))
            decided = (decided & still) if quantity in ("weights", "averages") else still
            decided = np.broadcast_to(decided, center.shape)
            # The largest distance of any run up to here: an envelope never shrinks.
            if size > 0 and decided.any():
                widest = max(widest, float(np.linalg.norm(np.asarray(spread)[decided])) / size)
            found.append(Limit(size, self._limit(quantity, widest), widest, decided))
        return found

    def _size(self, quantity: str, name: str, center: np.ndarray) -> float:
        size = float(np.linalg.norm(center[np.isfinite(center)]))
        return max(size, SMALLEST_LOSS * self._largest_loss) if quantity == "loss" else size

    def _limit(self, quantity: str, envelope: float) -> float:
        if self.dtype == "float64":
            conditioned = min(CONDITION_FACTOR * envelope, WIDEST_MEANING)
            return max(LIMITS[quantity], conditioned, ENVELOPE_FACTOR * envelope)
        narrowest = ROUNDINGS[quantity] * UNIT_ROUNDOFF[self.dtype]
        return ENVELOPE_FACTOR * max(envelope, narrowest)

    def _undecided(self, t: int, quantity: str, key: str) -> np.ndarray:
        # In float32 the entries whose gradient is too small to say which way a weight should go.
        if self.dtype == "float64" or quantity != "weights":
            return np.zeros((), bool)
        for kind in SECOND_MOMENTS:
            moment = self.steps[t].moments.get(f"{kind} of {key}")
            if moment is not None:
                size = np.sqrt(np.asarray(moment, np.float64))
                return np.asarray(size < UNDECIDED * size.max(initial=0.0))
        return np.zeros((), bool)

    @np.errstate(over="ignore", invalid="ignore")
    def spread(self, t: int) -> float:
        """How far PyTorch's own runs are apart after step `t`, counted from 0, in all weights.

        Relative to how far they have moved in float64, and to the weights in float32.
        """
        limits = [self.limits["weights", key][t] for key in self.steps[t].weights]
        size = np.linalg.norm([limit.size for limit in limits])
        apart = np.linalg.norm([limit.envelope * limit.size for limit in limits])
        # What overflows is as far apart as can be.
        return float(np.nan_to_num(apart / size, nan=np.inf)) if size > 0 else 0.0

    @property
    def horizon(self) -> int:
        """After how many steps round-off decides the weights; 0 if it never does in this run."""
        for t in range(len(self.steps)):
            if self.spread(t) > DIVERGED:
                return t + 1
        return 0

    @np.errstate(over="ignore", invalid="ignore")
    def distance(
        self,
        quantity: str,
        name: str,
        t: int,
        got: np.ndarray,
        reference: np.ndarray | None = None,
    ) -> float:
        """Of an array after step `t`, counted from 0; infinite where only the reference is zero.

        Args:
            quantity: one of `QUANTITIES`.
            name: of the array.
            t: the step.
            got: the array.
            reference: what it is compared with; that of PyTorch's run if None.
        """
        limit = self.limits[quantity, name][t]
        size = limit.size
        if reference is None:
            reference = self.arrays[t][quantity][name]
        else:
            size = self._size(quantity, name, reference)
        if got.shape != reference.shape:
            return np.inf
        got = np.asarray(got)[limit.decided]
        reference = np.asarray(reference)[limit.decided]
        odd = ~np.isfinite(reference)
        # Infinities of opposite signs stand in the same places, and still differ.
        if not np.array_equal(odd, ~np.isfinite(got)) or not np.array_equal(
            got[odd], reference[odd], equal_nan=True
        ):
            return np.inf
        far = float(np.linalg.norm(got[~odd] - reference[~odd]))
        if far == 0:
            return 0.0
        return far / size if size > 0 else np.inf

    def verdicts(
        self, t: int, got: Quantities, quantities: Iterable[str] = QUANTITIES
    ) -> dict[tuple[str, str], Verdict]:
        """Every array of a step that both have."""
        found = {}
        for quantity in quantities:
            for name, array in got[quantity].items():
                if name in self.arrays[t][quantity]:
                    far = self.distance(quantity, name, t, array)
                    limit = self.limits[quantity, name][t]
                    found[quantity, name] = Verdict(t + 1, far, limit.limit)
        return found


def _overflows(step: Step) -> bool:
    """Whether numbers have grown so large that their squares are none, or are none themselves."""
    arrays = [*step.weights.values(), np.array(0.0 if step.loss is None else step.loss)]
    return any(
        is_float(a) and not np.all(np.abs(a) < np.sqrt(np.finfo(a.dtype).max) / 1e6) for a in arrays
    )


def _wide(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def matching_moments(step: Step, reference: Step) -> dict[str, np.ndarray]:
    """JAX's moments under the names of PyTorch's, where both have them."""
    found = {}
    for name, array in step.moments.items():
        kind, _, key = name.partition(" of ")
        for other in MOMENT_NAMES.get(kind, ()):
            theirs = reference.moments.get(f"{other} of {key}")
            if theirs is None:
                continue
            scales = [1.0]
            if kind == "trace":
                # optax may sum up moves, the rate in them, where torch sums up directions.
                rates = [float(group["lr"]) for group in reference.groups if key in group["keys"]]
                scales += [-1.0, *(-rate for rate in rates if rate)]
            scaled = [np.asarray(array, np.float64) / scale for scale in scales]
            found[f"{other} of {key}"] = min(scaled, key=lambda a: np.linalg.norm(a - theirs))
    return found


def matching_gradients(step: Step, reference: Step) -> Mapping[str, np.ndarray]:
    """JAX's gradients, of which PyTorch's are unclipped.

    If they are the ones that PyTorch's optimizer was given, clipped or accumulated, they stand for
    those of the batch.
    """
    given = dict(step.gradients)
    if not given or not reference.applied.keys() >= reference.gradients.keys():
        return {key: array for key, array in given.items() if key in reference.gradients}
    found = {}
    for key, array in given.items():
        if key not in reference.gradients:
            continue
        raw = reference.gradients[key]
        applied = reference.applied[key]
        if np.linalg.norm(array - applied) < np.linalg.norm(array - raw):
            # The same distance, relative to the size of what it is compared with.
            scale = np.linalg.norm(raw) / max(np.linalg.norm(applied), np.finfo(float).tiny)
            array = raw + (array - applied) * scale
        found[key] = array
    return found


def trajectory_findings(name: str, center: Center, steps: Sequence[Step]) -> list[Finding]:
    """One finding for each array, of the first step at which it differs or of the nearest to it."""
    collected: dict[tuple[str, str], list[Verdict]] = {}
    for t, step in enumerate(steps):
        for place, verdict in center.verdicts(t, center.quantities(step, center.steps[t])).items():
            collected.setdefault(place, []).append(verdict)
    return [
        _finding(Comparison(name, quantity, center.dtype), array, center, verdicts)
        for (quantity, array), verdicts in collected.items()
    ]


def _finding(what: Comparison, array: str, center: Center, verdicts: Sequence[Verdict]) -> Finding:
    criterion = "C1" if center.dtype == "float64" else "C4"
    judged = [verdict for verdict in verdicts if verdict.judged]
    wrong = [verdict for verdict in judged if verdict.differs]
    if wrong:
        first = wrong[0]
        note = f"from step {first.step} on" if len(wrong) > 1 else f"at step {first.step}"
        return what.finding(
            criterion,
            array,
            Outcome.FAIL,
            value=first.distance,
            limit=first.limit,
            note=note,
        )
    nothing = _nothing(what.quantity, array, center)
    if nothing or not judged:
        note = nothing or "round-off decides it: PyTorch's own runs are as far apart"
        return what.finding(criterion, array, Outcome.ABSTAIN, note=note)
    nearest = max(judged, key=lambda v: v.distance / v.limit)
    note = f"step {nearest.step} of {len(verdicts)}"
    if len(judged) < len(verdicts):
        note += f"; from step {judged[-1].step + 1} on round-off decides it"
    return what.finding(
        criterion, array, Outcome.PASS, value=nearest.distance, limit=nearest.limit, note=note
    )


def _nothing(quantity: str, name: str, center: Center) -> str:
    """Why an array shows nothing; empty if it does."""
    arrays = [a[quantity][name] for a in center.arrays if name in a[quantity]]
    if not any(np.isfinite(array).any() for array in arrays):
        return "NaN or infinite in both frameworks"
    if quantity == "weights":
        still = [step.weights[name] for step in center.steps]
        if all(np.array_equal(array, center.start[name]) for array in still):
            return STILL
    if not any(np.any(array) for array in arrays):
        return "zero in both frameworks"
    if not any(limit.decided.any() for limit in center.limits[quantity, name]):
        return "round-off decides every entry"
    return ""


def float_arrays(arrays: Arrays) -> dict[str, np.ndarray]:
    """Those that hold floats."""
    return {name: array for name, array in arrays.items() if is_float(array)}
