"""How the results of somebody's modules are judged: against the round-off of the module itself.

Everything here is NumPy. A group is some cases that are judged together: their results in JAX, in
PyTorch in the same precision (peer) and in float64 (reference), and PyTorch's in float64 where
every weight and input is moved by a rounding (moved). No implementation can be asked to come closer
than such a rounding moves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity.core.compare import (
    CONDITION_FACTOR,
    MEANING_LIMIT,
    NOISE_FACTOR,
    TOLERANCE_FACTOR,
    TOLERANCES,
    UNIT_ROUNDOFF,
    WARNING_FACTOR,
    WIDEST_MEANING,
    Comparison,
    Finding,
    Outcome,
    places,
    structural_findings,
)

Stacked = dict[str, dict[str, np.ndarray]]
"""Of "forward" and "gradients", named arrays with a leading axis for the cases."""

# C2 and C3: what a rounding moves widens no limit further, relative to the size of the array. Some
# roundings on a path through 1e5 of them reach it in float32; beyond it there is little to compare.
WIDEST_NOISE = {"float32": 1e-2, "bfloat16": 0.25}
# C2: what both may round whatever the module does, in roundings. Each side adds up in an order of
# its own: a convolution's gradient was measured 6 roundings off, where PyTorch was 2.
LEAST_NOISE = 8
# C2 on a variant of the inputs, which is one case where as many as sixteen are pooled otherwise:
# the round-off of one case is a matter of luck. A difference in meaning lies far beyond.
VARIANT_FACTOR = 32.0
# What is smaller than so many roundings of the module's largest array is zero but for round-off, as
# the gradient of a bias in front of a norm.
ROUNDINGS_OF_ZERO = 64

ZERO = "zero in both frameworks"
ROUND_OFF = "zero but for round-off in both frameworks"
NOT_FINITE = "NaN or infinite everywhere in both frameworks"
CONSTANT = "the same number everywhere, whatever the weights"
FIXED = "the same whatever the weights and inputs"
UNRESOLVED = "a rounding of weights and inputs moves it as far, so that nothing is shown"
UNDECIDED = "round-off decides between neighboring results"
PEER = "PyTorch's own results are as far"


@dataclass(frozen=True)
class Group:
    """Cases that are judged together.

    Attributes:
        label: which inputs they have.
        dtype: the precision.
        got: JAX's results.
        peer: PyTorch's.
        reference: PyTorch's in float64.
        moved: PyTorch's in float64 from perturbed cases.
        given: whether the inputs are the user's own.
        rounded: what PyTorch rounds in float32, where the group is in float64.
    """

    label: str
    dtype: str
    got: Stacked
    peer: Stacked
    reference: Stacked
    moved: tuple[Stacked, ...]
    given: bool
    rounded: Stacked | None = None


@dataclass(frozen=True)
class Sizes:
    """How large arrays are for the user's own inputs: root mean squares of their numbers.

    Attributes:
        arrays: by quantity and name.
        largest: by quantity, of all arrays.
    """

    arrays: dict[str, dict[str, float]]
    largest: dict[str, float]


@dataclass(frozen=True)
class Limits:
    """What the user asks for, by criterion or by criterion and quantity ("C1 gradients")."""

    values: Mapping[str, float]

    def of(self, criterion: str, quantity: str) -> float | None:
        """The user's limit, if there is one."""
        return self.values.get(f"{criterion} {quantity}", self.values.get(criterion))


LIMITS = tuple(
    name
    for criterion in ("C1", "C2", "C3")
    for name in (criterion, f"{criterion} forward", f"{criterion} gradients")
)


def chosen_limits(limits: Mapping[str, float] | None) -> Limits:
    """The limits that an option asks for.

    Args:
        limits: positive numbers by the names in `LIMITS`; None for those that stand in the code.

    Raises:
        ValueError: if a name is unknown, or a number not positive.
    """
    limits = dict(limits or {})
    for name, limit in limits.items():
        if name not in LIMITS:
            raise ValueError(f"limits must name some of {', '.join(LIMITS)}; got {name!r}.")
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise ValueError(f"limits[{name!r}] must be a positive number, got {limit!r}.")
    return Limits(limits)


def sizes_of(results: Sequence[Stacked]) -> Sizes:
    """How large the arrays of some results are."""
    arrays: dict[str, dict[str, float]] = {}
    for stacked in results:
        for quantity, named in stacked.items():
            known = arrays.setdefault(quantity, {})
            for name, array in named.items():
                known[name] = max(known.get(name, 0.0), _mean_size(array))
    largest = {quantity: max(named.values(), default=0.0) for quantity, named in arrays.items()}
    return Sizes(arrays, largest)


def _mean_size(array: np.ndarray) -> float:
    # The root mean square of the finite numbers.
    wide = np.asarray(array, np.float64)
    finite = wide[np.isfinite(wide)]
    with np.errstate(over="ignore"):
        return float(np.sqrt((finite**2).mean())) if finite.size else 0.0


def distance(got: np.ndarray, reference: np.ndarray) -> float:
    """|got - reference|_2 over the entries that are finite in both, in float64."""
    wide = np.asarray(got, np.float64)
    truth = np.asarray(reference, np.float64)
    finite = np.isfinite(wide) & np.isfinite(truth)
    return _norm(wide[finite] - truth[finite])


def _norm(array: np.ndarray) -> float:
    # The Euclidean norm, also of numbers whose squares overflow.
    largest = float(np.abs(array).max(initial=0.0))
    return largest * float(np.linalg.norm(array / largest)) if largest else 0.0


def _size(array: np.ndarray) -> float:
    return distance(array, np.zeros(np.shape(array)))


def structure(what: Comparison, group: Group) -> list[Finding]:
    """C0: one finding a problem, or a single one that passes."""
    return structural_findings(
        what,
        group.got[what.quantity],
        group.peer[what.quantity],
        lambda one, other: _problem(one, other, what.dtype),
        may_be_none=what.quantity != "forward",  # a function of integers has no gradients
    )


# A boolean is no number; integers of 32 and 64 bits are the same numbers.
KINDS = {"b": "bool", "i": "integers", "u": "integers"}


def _problem(got: np.ndarray, expected: np.ndarray, dtype: str) -> str:
    # Why two arrays cannot be compared number by number; empty if they can.
    if got.shape != expected.shape:
        return f"expected shape {expected.shape[1:]}, got {got.shape[1:]}"
    kind = KINDS.get(expected.dtype.kind, dtype)
    found = KINDS.get(got.dtype.kind, str(got.dtype))
    if found != kind and not (kind == dtype and got.dtype == expected.dtype):
        return f"expected {kind}, got {found}"
    return places(got, expected)


def is_discrete(array: np.ndarray) -> bool:
    """Whether an array holds integers or booleans, which are equal or not."""
    return array.dtype.kind in "biu"


def judged(
    what: Comparison, name: str, group: Group, sizes: Sizes, limits: Limits
) -> list[Finding]:
    """C1, or C2 and C3, of one array.

    Args:
        what: what is compared.
        name: of the array.
        group: the results.
        sizes: of the user's own inputs.
        limits: of the user's.
    """
    if is_discrete(group.peer[what.quantity][name]):
        return [exact(what, name, group)]
    numbers = Numbers.of(what.quantity, name, group, sizes)
    if what.dtype == "float64":
        return [meaning(what, name, numbers, limits)]
    return numerics(what, name, numbers, limits, given=group.given)


def exact(what: Comparison, name: str, group: Group) -> Finding:
    """C1 or C2 of integers and booleans: the share of the entries that differ."""
    criterion = "C1" if what.dtype == "float64" else "C2"
    got = group.got[what.quantity][name].astype(np.int64)
    truth = group.reference[what.quantity][name].astype(np.int64)
    differs = got != truth
    decided = np.zeros(truth.shape, bool)
    for moved in group.moved:
        decided |= moved[what.quantity][name].astype(np.int64) != truth
    share = float(differs.mean())
    if not differs.any():
        return what.finding(criterion, name, Outcome.PASS, value=0.0)
    undecided = not (differs & ~decided).any()
    outcome = Outcome.WARN if undecided else Outcome.FAIL
    note = UNDECIDED if undecided else "the share of entries that differ"
    return what.finding(criterion, name, outcome, value=share, note=note)


@dataclass(frozen=True)
class Numbers:
    """The numbers that decide on one array, all absolute.

    Attributes:
        distance: of JAX from the reference.
        own: of PyTorch in the same precision from the reference.
        moved: of the reference from itself, where a rounding moves weights and inputs.
        rounded: of PyTorch in float32 from the reference, in roundings of float64.
        size: of the reference.
        scale: the same, or the size for the user's own inputs where that is larger.
        largest: the size of an array of the module's largest numbers.
        finite: whether any entry is.
    """

    distance: float
    own: float
    moved: float
    rounded: float
    size: float
    scale: float
    largest: float
    finite: bool

    @classmethod
    def of(cls, quantity: str, name: str, group: Group, sizes: Sizes) -> "Numbers":
        """The numbers of an array of a group."""
        reference = group.reference[quantity][name]
        moved = [distance(results[quantity][name], reference) for results in group.moved]
        rounded = 0.0
        if group.rounded is not None:
            steps = UNIT_ROUNDOFF["float64"] / UNIT_ROUNDOFF["float32"]
            rounded = steps * distance(group.rounded[quantity][name], reference)
        size = _size(reference)
        entries = np.sqrt(reference.size)
        usual = 0.0 if group.given else sizes.arrays[quantity].get(name, 0.0) * entries
        here = max(map(_mean_size, group.reference[quantity].values()))
        largest = max(sizes.largest.get(quantity, 0.0), here) * entries
        return cls(
            distance=distance(group.got[quantity][name], reference),
            own=distance(group.peer[quantity][name], reference),
            moved=max(moved, default=0.0),
            rounded=rounded,
            size=size,
            scale=max(size, usual),
            largest=largest,
            finite=bool(np.isfinite(np.asarray(reference, np.float64)).any()),
        )

    @property
    def zero(self) -> float:
        """What is smaller is round-off of the module's largest array."""
        return ROUNDINGS_OF_ZERO * UNIT_ROUNDOFF["float64"] * self.largest

    @property
    def shows_nothing(self) -> str:
        """Why the array shows nothing, in words; empty if it does."""
        if not self.finite:
            return NOT_FINITE
        if self.size == 0 and self.distance == 0:
            return ZERO
        if self.size <= self.zero:
            return ROUND_OFF
        return ""


def meaning(what: Comparison, name: str, numbers: Numbers, limits: Limits) -> Finding:
    """C1: JAX may differ by round-off only, the module's own magnification of it included."""
    scale = numbers.scale or 1.0
    noise = max(numbers.moved, numbers.rounded)
    conditioned = min(CONDITION_FACTOR * noise / scale, WIDEST_MEANING)
    chosen = limits.of("C1", what.quantity)
    limit = max(MEANING_LIMIT[what.quantity], conditioned) if chosen is None else chosen
    value = numbers.distance / scale
    nothing = numbers.shows_nothing
    if nothing and numbers.distance <= numbers.zero:
        return what.finding("C1", name, Outcome.ABSTAIN, value=value, limit=limit, note=nothing)
    if value <= limit:
        return what.finding("C1", name, Outcome.PASS, value=value, limit=limit)
    outcome, note = Outcome.FAIL, ""
    if chosen is None and numbers.distance <= CONDITION_FACTOR * numbers.moved:
        outcome, note = Outcome.ABSTAIN, UNRESOLVED
    return what.finding("C1", name, outcome, value=value, limit=limit, note=note)


def numerics(
    what: Comparison, name: str, numbers: Numbers, limits: Limits, *, given: bool
) -> list[Finding]:
    """C2 and C3: JAX is no further from the truth than PyTorch, or what a rounding moves."""
    unit = UNIT_ROUNDOFF[what.dtype]
    scale = numbers.scale or 1.0
    nothing = numbers.shows_nothing
    widest = WIDEST_NOISE[what.dtype]
    free = max(numbers.own, numbers.moved) / scale
    own = max(min(free, widest), LEAST_NOISE * unit)
    factor = limits.of("C2", what.quantity) or (
        NOISE_FACTOR[what.dtype] if given else VARIANT_FACTOR
    )
    tolerance = limits.of("C3", what.quantity)
    if tolerance is None:
        fixed = TOLERANCES[what.dtype][what.quantity]
        conditioned = min(numbers.moved / scale, widest)
        tolerance = max(fixed, TOLERANCE_FACTOR * NOISE_FACTOR[what.dtype] * conditioned)
    value = numbers.distance / scale
    # What is zero but for round-off in float64 is round-off of the larger arrays here.
    roundings = unit / UNIT_ROUNDOFF["float64"]
    if nothing and numbers.distance <= numbers.zero * roundings:
        return [
            what.finding(criterion, name, Outcome.ABSTAIN, value=value, limit=limit, note=nothing)
            for criterion, limit in (("C2", factor), ("C3", tolerance))
        ]
    ratio = what.finding("C2", name, Outcome.PASS, value=value / own, limit=factor)
    if not ratio.value <= factor:
        unresolved = value <= factor * free
        outcome = Outcome.ABSTAIN if unresolved else Outcome.FAIL
        ratio = replace(ratio, outcome=outcome, note=UNRESOLVED if unresolved else "")
    elif given and ratio.value > WARNING_FACTOR:
        ratio = replace(ratio, outcome=Outcome.WARN)
    fixed_finding = what.finding("C3", name, Outcome.PASS, value=value, limit=tolerance)
    if not value <= tolerance:
        # The function may magnify round-off within itself, as PyTorch's own distance shows.
        excused = ratio.outcome is not Outcome.FAIL and limits.of("C3", what.quantity) is None
        if ratio.outcome is Outcome.ABSTAIN:
            fixed_finding = replace(fixed_finding, outcome=Outcome.ABSTAIN, note=UNRESOLVED)
        elif excused:
            fixed_finding = replace(fixed_finding, outcome=Outcome.WARN, note=PEER)
        else:
            fixed_finding = replace(fixed_finding, outcome=Outcome.FAIL)
    return [ratio, fixed_finding]


def reduced(findings: Sequence[Finding], given: Mapping[str, bool]) -> list[Finding]:
    """One finding for each array and criterion: the worst of all inputs.

    Where the user's own inputs show nothing, variants of them can only fail or warn.

    Args:
        findings: of all groups.
        given: whether inputs are the user's own, by their label.
    """
    groups: dict[tuple[str, str, str, str], list[Finding]] = {}
    for finding in findings:
        key = (finding.quantity, finding.dtype, finding.criterion, finding.array)
        if finding.criterion == "C0" and finding.outcome is Outcome.PASS:
            key = (*key[:3], "")
        groups.setdefault(key, []).append(finding)
    kept = []
    for same in groups.values():
        own = [f for f in same if given.get(f.inputs, True)]
        worst = max(same, key=lambda f: (f.outcome.severity, np.nan_to_num(f.margin)))
        if worst.outcome is Outcome.PASS and own and all(f.outcome is Outcome.ABSTAIN for f in own):
            worst = own[0]
        kept.append(worst)
    return kept
