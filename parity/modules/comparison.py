"""The comparison of a JAX function and a PyTorch module on many inputs, with second opinions.

What fails at first is looked at more closely: more roundings are tried where a result may jump, and
a gradient is compared beside a point where it may not exist. A difference in meaning survives both.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.core.bridge import is_float, rounded
from parity.core.cases import Case
from parity.core.compare import (
    CONDITION_FACTOR,
    UNIT_ROUNDOFF,
    Arrays,
    Comparison,
    Finding,
    Outcome,
    failures,
    places,
)
from parity.modules.inputs import Batch, beside
from parity.modules.runners import ModulePair, Results, Runner, run_jax, run_torch
from parity.modules.verdicts import (
    CONSTANT,
    FIXED,
    VARIANT_FACTOR,
    Group,
    Limits,
    Numbers,
    Sizes,
    Stacked,
    distance,
    is_discrete,
    judged,
    meaning,
    reduced,
    sizes_of,
    structure,
)

# How many sets of weights and inputs are compared for each of the user's batches. In the lower
# precisions they are pooled: the round-off of one small array is a matter of luck.
CASES = {"float64": 2, "float32": 16, "bfloat16": 16}
# As many fresh ones are judged where a low precision fails: a ratio of two noises is a matter of
# luck, a mistake is none.
FRESH_CASES = 32
# Perturbed copies of each case from which the noise of a function is estimated, at first and where
# a comparison fails.
PERTURBATIONS = 2
MORE_PERTURBATIONS = 8
# Points beside one where gradients differ.
POINTS_BESIDE = 2
# Where a low precision jumps, roundings of this size are tried: JAX takes many roundings on the
# way to a jump.
JUMP = 16.0
# At most this share of the pooled cases may lie on a jump; more are no accident.
WIDEST_SHARE = 0.25

# What JAX's own round-off may explain, relative to the size of the module's arrays: beyond it,
# round-off leaves little of the result.
WIDEST_OWN = 1e-3

LESS_EXACT = "a rounding moves JAX's own results as far: the same function, computed less exactly"
NO_OUTPUT = "no output shows anything"
KINK = "the derivative jumps here, where either rule is right; beside these inputs both agree"
BY_ROUNDING = "it rounds otherwise than PyTorch; in float64 both agree"
JUMPS = "a result jumps between two roundings in {count} of {cases} cases, which are left out"


@dataclass(frozen=True)
class Tried:
    """What was tried.

    Attributes:
        findings: one for each array and criterion.
        reference: PyTorch's outputs and gradients for the user's own inputs, pooled.
        refused: variants of the inputs that PyTorch does not take, with its words.
    """

    findings: list[Finding]
    reference: Stacked
    refused: dict[str, str]


class Runners:
    """The runners of both sides by precision, each made once.

    Args:
        pair: what is compared.
    """

    def __init__(self, pair: ModulePair) -> None:
        self._pair = pair
        self._made: dict[tuple[str, str], Runner] = {}

    def __call__(self, side: str, dtype: str) -> Runner:
        """The runner of a side, "jax" or "torch"."""
        make: Callable[[ModulePair, str], Runner] = {"jax": run_jax, "torch": run_torch}[side]
        return self._made.setdefault((side, dtype), make(self._pair, dtype))


def stacked(run: Runner, cases: Sequence[Case]) -> Stacked:
    """A runner's results on all cases, each array with a leading axis for the cases."""
    results = [run(case) for case in cases]
    return together(results)


def together(results: Sequence[Results]) -> Stacked:
    """Results of several cases as one, each array with a leading axis for the cases."""
    found: Stacked = {}
    for quantity, arrays in results[0].items():
        found[quantity] = {
            name: np.stack([result[quantity][name] for result in results]) for name in arrays
        }
    return found


def perturbed(case: Case, unit: float, rng: np.random.Generator) -> Case:
    """The case with each float a rounding higher or lower; other numbers as they are."""

    def moved(arrays: Arrays) -> dict[str, np.ndarray]:
        found = {}
        for name, array in arrays.items():
            found[name] = array
            if is_float(array):
                wide = np.asarray(array, np.float64)
                found[name] = wide * (1 + unit * rng.choice([-1.0, 1.0], wide.shape))
        return found

    return Case(moved(case.weights), moved(case.inputs))


def stored_case(case: Case, dtype: str) -> Case:
    """The case with inputs that a precision can hold; float32 for float64."""
    stored = "float32" if dtype == "float64" else dtype
    inputs = {
        name: rounded(array, stored) if is_float(array) else array
        for name, array in case.inputs.items()
    }
    return Case(case.weights, inputs)


CasesOf = Callable[[Batch, int, str], Sequence[Case]]


class Judge:
    """Judges groups of cases of one pair.

    Args:
        runners: of the pair.
        cases_of: (batch, how many, precision) -> cases, always the same ones first.
        name: as the findings call it.
        limits: of the user's.
    """

    def __init__(self, runners: Runners, cases_of: CasesOf, name: str, limits: Limits) -> None:
        self.runners = runners
        self.cases_of = cases_of
        self.name = name
        self.limits = limits
        # Whether outputs differ for the user's own inputs: no second look changes that verdict.
        self.decided = False

    def group(self, label: str, cases: Sequence[Case], dtype: str, *, given: bool) -> Group:
        """Run both sides on some cases."""
        in_torch = self.runners("torch", "float64")
        cases = [stored_case(case, dtype) for case in cases]
        got = stacked(self.runners("jax", dtype), cases)
        reference = stacked(in_torch, cases)
        peer = reference
        rounded_results = None
        if dtype == "float64":
            rounded_results = stacked(self.runners("torch", "float32"), cases)
        else:
            peer = stacked(self.runners("torch", dtype), cases)
        moved = self.moved(cases, dtype, range(PERTURBATIONS))
        return Group(label, dtype, got, peer, reference, tuple(moved), given, rounded_results)

    def moved(
        self, cases: Sequence[Case], dtype: str, seeds: Sequence[int], scale: float = 1.0
    ) -> list[Stacked]:
        """PyTorch's results in float64 where every weight and input moves by a rounding.

        They know nothing of the implementation in JAX.
        """
        # Half the distance to the next number would be rounded away in float64.
        unit = scale * UNIT_ROUNDOFF[dtype] * (2 if dtype == "float64" else 1)
        run = self.runners("torch", "float64")
        found = []
        for seed in seeds:
            rng = np.random.default_rng([seed, len(cases)])
            found.append(stacked(run, [perturbed(case, unit, rng) for case in cases]))
        return found

    def findings(
        self, group: Group, cases: Sequence[Case], batch: Batch, sizes: Sizes
    ) -> list[Finding]:
        """The findings of a group, after a second look at what fails."""
        found = self.first(group, sizes)
        failed = {(f.quantity, f.array) for f in found if f.outcome is Outcome.FAIL}
        self.decided = self.decided or (group.given and any(map(_is_plain, found)))
        comparable = {
            (quantity, name)
            for quantity, name in failed
            if name in group.got[quantity]
            and name in group.peer[quantity]
            and group.got[quantity][name].shape == group.peer[quantity][name].shape
        }
        if comparable and not self.decided:
            closer = self._closer(group, cases, batch, sizes, comparable)
            found = [closer.get((f.quantity, f.array, f.criterion), f) for f in found]
        failed_outputs = [f for f in failures(found) if f.quantity == "forward"]
        self.decided = self.decided or (group.given and bool(failed_outputs))
        return [replace(f, inputs=batch.label) for f in found]

    def first(self, group: Group, sizes: Sizes) -> list[Finding]:
        """The findings of a group as its numbers stand."""
        found: list[Finding] = []
        for quantity, expected in group.peer.items():
            what = Comparison(self.name, quantity, group.dtype)
            problems = structure(what, group)
            found += problems
            bad = {f.array for f in problems if f.outcome is Outcome.FAIL}
            for name in expected:
                # Arrays of other names and shapes have no distance.
                if name not in bad and name in group.got[quantity]:
                    found += judged(what, name, group, sizes, self.limits)
        return found

    def _closer(
        self,
        group: Group,
        cases: Sequence[Case],
        batch: Batch,
        sizes: Sizes,
        failed: set[tuple[str, str]],
    ) -> dict[tuple[str, str, str], Finding]:
        """Findings that replace failures, by quantity, array and criterion."""
        cases = [stored_case(case, group.dtype) for case in cases]
        more = self.moved(cases, group.dtype, range(PERTURBATIONS, MORE_PERTURBATIONS))
        again = replace(group, moved=(*group.moved, *more))
        replaced: dict[tuple[str, str, str], Finding] = {}
        left = set()
        for quantity, name in sorted(failed):
            what = Comparison(self.name, quantity, group.dtype)
            # NaN and infinity in other places are no matter of round-off.
            if places(group.got[quantity][name], group.peer[quantity][name]):
                left.add((quantity, name))
                continue
            for finding in judged(what, name, again, sizes, self.limits):
                replaced[quantity, name, finding.criterion] = finding
                if finding.outcome is Outcome.FAIL:
                    left.add((quantity, name))
        if group.dtype != "float64" and left:
            replaced |= self._without_jumps(again, cases, sizes, left)
            left = {key for key in left if not self._agrees(replaced.values(), *key)}
            noisy = left
            if left and group.given:
                replaced |= self._fresh(batch, sizes, group.dtype, left)
                noisy = {key for key in left if self._is_noisy(replaced, *key)}
            if noisy:
                replaced |= self._exactly(group, cases, sizes, noisy, replaced)
        if group.dtype == "float64" and left:
            replaced |= self._less_exact(again, cases, sizes, left)
        gradients = {
            name
            for quantity, name in left
            if quantity == "gradients"
            and not self._agrees(replaced.values(), quantity, name)
            and not self._by_luck(replaced, name)
        }
        if gradients:
            replaced |= self._beside(group, cases, batch, sizes, gradients)
        return replaced

    def _less_exact(
        self, group: Group, cases: Sequence[Case], sizes: Sizes, failed: set[tuple[str, str]]
    ) -> dict[tuple[str, str, str], Finding]:
        """float64: what JAX's own round-off explains is the same function, computed less exactly.

        How inexactly is C2's to judge.
        """
        run = self.runners("jax", "float64")
        unit = 2 * UNIT_ROUNDOFF["float64"]
        moved = []
        for seed in range(MORE_PERTURBATIONS):
            rng = np.random.default_rng([seed, len(cases)])
            moved.append(stacked(run, [perturbed(case, unit, rng) for case in cases]))
        replaced = {}
        for quantity, name in failed:
            got = group.got[quantity][name]
            reference = group.reference[quantity][name]
            if is_discrete(got) or places(got, reference):
                continue
            what = Comparison(self.name, quantity, group.dtype)
            numbers = Numbers.of(quantity, name, group, sizes)
            own = max(distance(results[quantity][name], got) for results in moved)
            explained = numbers.distance <= CONDITION_FACTOR * own
            # What is zero but for round-off has the size of the arrays that cancel.
            if explained and numbers.distance <= WIDEST_OWN * max(numbers.scale, numbers.largest):
                finding = meaning(what, name, numbers, self.limits)
                finding = replace(finding, outcome=Outcome.WARN, note=LESS_EXACT)
                replaced[quantity, name, "C1"] = finding
        return replaced

    @staticmethod
    def _by_luck(found: dict[tuple[str, str, str], Finding], name: str) -> bool:
        # A ratio of noises that is not much too large has nothing to do with a kink.
        ratio = found.get(("gradients", name, "C2"))
        return ratio is not None and ratio.value <= VARIANT_FACTOR

    def _fresh(
        self, batch: Batch, sizes: Sizes, dtype: str, failed: set[tuple[str, str]]
    ) -> dict[tuple[str, str, str], Finding]:
        """Low precisions: the same for more cases, none of which was seen before."""
        count = CASES[dtype] + FRESH_CASES
        cases = self.cases_of(batch, count, dtype)[CASES[dtype] :]
        group = self.group(batch.label, cases, dtype, given=True)
        replaced = {}
        for quantity, name in failed:
            if places(group.got[quantity][name], group.peer[quantity][name]):
                continue
            what = Comparison(self.name, quantity, dtype)
            for finding in judged(what, name, group, sizes, self.limits):
                replaced[quantity, name, finding.criterion] = finding
        return replaced

    @staticmethod
    def _is_noisy(found: dict[tuple[str, str, str], Finding], quantity: str, name: str) -> bool:
        # Within the tolerance, but further off than PyTorch, which may add up in float64.
        same = [f for (q, n, _), f in found.items() if (q, n) == (quantity, name)]
        wrong = failures(same)
        return bool(wrong) and all(f.criterion == "C2" and f.value <= VARIANT_FACTOR for f in wrong)

    def _exactly(
        self,
        group: Group,
        cases: Sequence[Case],
        sizes: Sizes,
        failed: set[tuple[str, str]],
        found: dict[tuple[str, str, str], Finding],
    ) -> dict[tuple[str, str, str], Finding]:
        """Low precisions: what agrees in float64 was round-off.

        PyTorch's is no measure of it where that adds up in float64, or is zero as in a softmax that
        saturates.
        """
        try:
            other = self.group(group.label, cases, "float64", given=group.given)
        except Exception:  # the function may run in this precision alone
            return {}
        judged_exactly = self.first(other, sizes)
        replaced = {}
        for (quantity, name, criterion), finding in found.items():
            if (quantity, name) not in failed or finding.outcome is not Outcome.FAIL:
                continue
            if self.limits.of(criterion, quantity) is not None:
                continue  # what the user asks for is not to be talked away
            # What is infinite or NaN in this precision alone is no round-off.
            odd = places(group.got[quantity][name], group.peer[quantity][name])
            if not odd and self._agrees(judged_exactly, quantity, name):
                warning = replace(finding, outcome=Outcome.WARN, note=BY_ROUNDING)
                replaced[quantity, name, criterion] = warning
        return replaced

    @staticmethod
    def _agrees(found: Iterable[Finding], quantity: str, name: str) -> bool:
        same = [f for f in found if (f.quantity, f.array) == (quantity, name)]
        return bool(same) and all(f.outcome is not Outcome.FAIL for f in same)

    def _without_jumps(
        self, group: Group, cases: Sequence[Case], sizes: Sizes, failed: set[tuple[str, str]]
    ) -> dict[tuple[str, str, str], Finding]:
        """Low precisions: the same without the few cases in which PyTorch's own result jumps."""
        wide = self.moved(cases, group.dtype, range(MORE_PERTURBATIONS), JUMP)
        replaced = {}
        for quantity, name in failed:
            what = Comparison(self.name, quantity, group.dtype)
            jumps = _jumping(group, wide, quantity, name)
            count = int(jumps.sum())
            if count == 0 or count > WIDEST_SHARE * len(cases):
                continue
            rest = _selected(group, ~jumps, quantity, name)
            for finding in judged(what, name, rest, sizes, self.limits):
                if finding.outcome is not Outcome.FAIL:
                    note = JUMPS.format(count=count, cases=len(cases))
                    finding = replace(finding, outcome=Outcome.WARN, note=note)
                replaced[quantity, name, finding.criterion] = finding
        return replaced

    def _beside(
        self, group: Group, cases: Sequence[Case], batch: Batch, sizes: Sizes, names: set[str]
    ) -> dict[tuple[str, str, str], Finding]:
        """Gradients that agree at points beside these, where nothing ties, are no mistake."""
        agree = set(names)
        for seed in range(POINTS_BESIDE):
            near = beside(batch, np.random.default_rng([seed, 1]))
            other = self.group(
                near.label,
                [Case(case.weights, near.arrays) for case in cases],
                group.dtype,
                given=group.given,
            )
            found = self.first(other, sizes)
            agree -= {f.array for f in found if f.outcome is Outcome.FAIL}
        replaced = {}
        for name in agree:
            what = Comparison(self.name, "gradients", group.dtype)
            odd = places(group.got["gradients"][name], group.peer["gradients"][name])
            note = f"{odd}: {KINK}" if odd else KINK
            for criterion in ("C0", "C1", "C2", "C3"):
                replaced["gradients", name, criterion] = what.finding(
                    criterion, name, Outcome.WARN, note=note
                )
        return replaced


def _is_plain(finding: Finding) -> bool:
    # An output that differs in float64 by what no round-off explains.
    output = (finding.quantity, finding.criterion) == ("forward", "C1")
    return output and finding.outcome is Outcome.FAIL and finding.value > WIDEST_OWN


def _jumping(group: Group, wide: Sequence[Stacked], quantity: str, name: str) -> np.ndarray:
    # In which cases PyTorch's result moves further, for a few roundings more, than in proportion.
    truth = group.reference[quantity][name]

    def farthest(results: Sequence[Stacked]) -> np.ndarray:
        moves = [_by_case(result[quantity][name], truth) for result in results]
        return np.max(moves, axis=0)

    # The median is that of cases that do not jump.
    usual = np.median(farthest(group.moved))
    if is_discrete(truth):
        return farthest(wide) > 0
    return farthest(wide) > 4 * JUMP * usual


def _by_case(got: np.ndarray, truth: np.ndarray) -> np.ndarray:
    # The distance of each case: (cases, ...) to (cases,).
    difference = np.asarray(got, np.float64) - np.asarray(truth, np.float64)
    difference = np.where(np.isfinite(difference), difference, 0.0)
    return np.sqrt((difference.reshape(len(difference), -1) ** 2).sum(-1))


def _selected(group: Group, kept: np.ndarray, quantity: str, name: str) -> Group:
    # The group with one array, of the kept cases.
    def of(results: Stacked) -> Stacked:
        return {quantity: {name: results[quantity][name][kept]}}

    return replace(
        group,
        got=of(group.got),
        peer=of(group.peer),
        reference=of(group.reference),
        moved=tuple(of(results) for results in group.moved),
    )


def compared(
    judge: Judge,
    batches: Sequence[Batch],
    variants: Sequence[Batch],
    dtypes: Sequence[str],
) -> Tried:
    """Compare on the user's batches in every precision, on their variants in the most exact one.

    Args:
        judge: of the pair.
        batches: the user's.
        variants: of them.
        dtypes: the precisions.
    """
    findings: list[Finding] = []
    refused: dict[str, str] = {}
    own_outputs: list[Stacked] = []
    varied: list[Stacked] = []
    sizes = Sizes({}, {})
    # bfloat16 has too few digits to say anything about numbers of very different sizes.
    widest = next((dtype for dtype in ("float64", "float32") if dtype in dtypes), None)
    for dtype in sorted(dtypes, key=lambda dtype: UNIT_ROUNDOFF[dtype]):
        own: list[tuple[Group, Sequence[Case], Batch]] = []
        for batch in batches:
            cases = judge.cases_of(batch, CASES[dtype], dtype)
            own.append((judge.group(batch.label, cases, dtype, given=True), cases, batch))
        sizes = sizes_of([group.reference for group, _, _ in own])
        own_outputs += [group.reference for group, _, _ in own]
        for group, cases, batch in own:
            findings += judge.findings(group, cases, batch, sizes)
        if dtype != widest:
            continue
        for batch in variants:
            cases = judge.cases_of(batch, 1, dtype)
            try:
                group = judge.group(batch.label, cases, dtype, given=False)
            except Exception as error:  # PyTorch may check the range of its inputs
                refused[batch.label] = " ".join(f"{type(error).__name__}: {error}".split())
                continue
            findings += judge.findings(group, cases, batch, sizes)
            varied.append(group.reference)
    labels = {batch.label: batch.given for batch in (*batches, *variants)}
    shown = [_shows(finding, own_outputs, varied) for finding in reduced(findings, labels)]
    return Tried(_without_outputs(shown), own_outputs[0], refused)


def _shows(finding: Finding, own: Sequence[Stacked], varied: Sequence[Stacked]) -> Finding:
    # An output that is one number everywhere, or never changes, shows nothing if it agrees.
    judged_output = finding.quantity == "forward" and finding.criterion != "C0"
    if not judged_output or finding.outcome is not Outcome.PASS:
        return finding
    arrays = [results["forward"][finding.array] for results in own]
    values = np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])
    if values.size > 1 and bool((values == values[0]).all()):
        return replace(finding, outcome=Outcome.ABSTAIN, note=CONSTANT)
    arrays += [results["forward"][finding.array] for results in varied]
    cases = [np.asarray(case, np.float64) for array in arrays for case in array]
    if len(cases) > 1 and all(np.array_equal(case, cases[0], equal_nan=True) for case in cases):
        return replace(finding, outcome=Outcome.ABSTAIN, note=FIXED)
    return finding


def _without_outputs(findings: list[Finding]) -> list[Finding]:
    # Where no output shows anything, gradients that agree show nothing either.
    outputs = [f for f in findings if f.quantity == "forward" and f.criterion != "C0"]
    if any(f.outcome is not Outcome.ABSTAIN for f in outputs):
        return findings
    good = (Outcome.PASS, Outcome.WARN)
    return [
        replace(f, outcome=Outcome.ABSTAIN, note=NO_OUTPUT)
        if f.outcome in good and f.criterion != "C0"
        else f
        for f in findings
    ]
