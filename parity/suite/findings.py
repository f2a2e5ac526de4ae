"""How the results of the two runners of a pair become findings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from parity.core.bridge import is_float
from parity.core.cases import Case, pooled, sample_case
from parity.core.compare import (
    UNIT_ROUNDOFF,
    Arrays,
    Comparison,
    Finding,
    Outcome,
    meaning,
    numerics,
    relative_l2,
    structure,
    worst_outcome,
)
from parity.core.pairs import B, Pair
from parity.core.runners import Results, Runner, run_jax, run_torch
from parity.measures.training import Rule
from parity.measures.updates import (
    MOVE,
    SECOND_MOMENTS,
    STEPS,
    jax_updates,
    torch_updates,
    undecided,
)

# How many sets of weights and inputs are compared. In the lower precisions they are pooled: the
# round-off of one small array is a matter of luck, that of sixteen is not.
CASES = {"float64": 2, "float32": 16, "tf32": 16, "bfloat16": 16}


def value_findings(pair: Pair, dtypes: Sequence[str], *, calibrated: bool = False) -> list[Finding]:
    """Outputs, loss and gradients.

    Args:
        pair: what is compared.
        dtypes: the precisions.
        calibrated: whether the limits make allowance for a function that magnifies round-off.
    """
    in_jax = partial(run_jax, pair)
    in_torch = partial(run_torch, pair)
    findings = []
    for dtype in dtypes:
        findings += runner_findings(pair.name, pair, in_jax, in_torch, dtype, calibrated=calibrated)
    return findings


def update_findings(
    name: str,
    pair: Pair,
    rule: Rule,
    dtypes: Sequence[str],
    rows: Sequence[int] = (B,) * STEPS,
) -> list[Finding]:
    """Moves of the weights, moments, gradient norms and carry.

    There is one update for each batch size in `rows`; in low precisions only the first.
    """
    findings = []
    for dtype in dtypes:
        # In low precision the second update would start from weights that round-off moved.
        updates = rows if dtype == "float64" else rows[:1]
        in_jax = partial(jax_updates, pair, rule, updates)
        in_torch = partial(torch_updates, pair, rule, updates)
        findings += runner_findings(name, pair, in_jax, in_torch, dtype)
    return findings


def runner_findings(
    name: str,
    pair: Pair,
    in_jax: Callable[[str], Runner],
    in_torch: Callable[[str], Runner],
    dtype: str,
    *,
    calibrated: bool = False,
) -> list[Finding]:
    """C0 and C1 in float64; C0, C2 and C3 in the other precisions.

    Args:
        name: as the report shows it.
        pair: what is compared.
        in_jax: makes the JAX runner for a precision.
        in_torch: makes the PyTorch runner for a precision.
        dtype: the precision.
        calibrated: see `value_findings`.
    """
    cases = [sample_case(pair, seed, dtype) for seed in range(CASES[dtype])]
    # JAX, the truth, and PyTorch in the same precision.
    got = pooled(in_jax(dtype), cases)  # (cases, ...) each
    reference = pooled(in_torch("float64"), cases)
    peer = reference if dtype == "float64" else pooled(in_torch(dtype), cases)
    noise: dict[str, dict[str, float]] = {}
    if calibrated:
        noise = conditioning(in_torch, cases, reference, dtype)

    findings = []
    for quantity, expected in peer.items():
        what = Comparison(name, quantity, dtype)
        problems = structure(what, got[quantity], expected)
        findings += problems
        # Arrays of other names and shapes have no distance.
        if worst_outcome(problems) is Outcome.FAIL:
            continue
        if dtype == "float64":
            judged = meaning(what, got[quantity], expected, noise.get(quantity))
            findings += _without_constants(judged, expected) if calibrated else judged
            continue
        # Entries whose direction hangs on round-off are left out, in all three alike.
        masks = undecided(reference[quantity])
        judged = numerics(
            what,
            resolved(got[quantity], masks),
            resolved(expected, masks),
            resolved(reference[quantity], masks),
            noise.get(quantity),
        )
        if gradient_jumps(pair, what):
            # The numbers, without a verdict.
            judged = [replace(f, outcome=Outcome.ABSTAIN, note=JUMPS) for f in judged]
        findings += _without_constants(judged, expected) if calibrated else judged
    return findings


# Perturbed copies of each case from which the noise of a function is estimated.
PERTURBATIONS = 2


def conditioning(
    in_torch: Callable[[str], Runner], cases: Sequence[Case], reference: Results, dtype: str
) -> dict[str, dict[str, float]]:
    """How far the results move when every weight and input moves by a rounding of a precision.

    It is PyTorch's movement, in float64, so that it knows nothing of the implementation in JAX. For
    float64, what PyTorch rounds on the way counts too, as float32 shows it.

    Args:
        in_torch: makes PyTorch's runner for a precision.
        cases: the cases.
        reference: its results on them, in float64.
        dtype: the precision whose rounding it is.
    """
    farthest: dict[str, dict[str, float]] = {}

    def add(results: Results, scale: float = 1.0) -> None:
        for quantity, arrays in results.items():
            known = farthest.setdefault(quantity, {})
            for name, array in arrays.items():
                distance = scale * relative_l2(array, reference[quantity][name])
                # Zeros that do not stay zeros have no relative distance, and allow for nothing.
                if np.isfinite(distance):
                    known[name] = max(known.get(name, 0.0), distance)

    unit = UNIT_ROUNDOFF[dtype]
    if dtype == "float64":
        add(pooled(in_torch("float32"), cases), unit / UNIT_ROUNDOFF["float32"])
        unit *= 2  # half the distance to the next number would be rounded away
    run = in_torch("float64")
    for seed in range(PERTURBATIONS):
        rng = np.random.default_rng([seed, len(cases)])
        add(pooled(run, [_perturbed(case, unit, rng) for case in cases]))
    return farthest


def _perturbed(case: Case, unit: float, rng: np.random.Generator) -> Case:
    """The case with each number a rounding higher or lower; whole numbers as they are."""

    def moved(arrays: Arrays) -> dict[str, np.ndarray]:
        found = {}
        for name, array in arrays.items():
            found[name] = array
            if is_float(array):
                wide = np.asarray(array, np.float64)
                found[name] = wide * (1 + unit * rng.choice([-1.0, 1.0], wide.shape))
        return found

    return Case(moved(case.weights), moved(case.inputs))


CONSTANT = "the same number everywhere, whatever the weights"


def _without_constants(judged: list[Finding], expected: Arrays) -> list[Finding]:
    """Outputs that are one number in all places and cases show nothing, if they agree."""
    found = []
    for finding in judged:
        array = np.asarray(expected[finding.array], np.float64)
        constant = (
            finding.quantity == "forward"
            and array.size > 1
            and bool((array == array.flat[0]).all())
        )
        if constant and finding.outcome is Outcome.PASS:
            finding = replace(finding, outcome=Outcome.ABSTAIN, note=CONSTANT)
        found.append(finding)
    return found


JUMPS = "the derivative jumps where round-off decides a sign"
# The cells whose derivative jumps: relu, the maximum of an sLSTM, g of minGRU and minLSTM.
JUMPING = ("relu", "slstm", "mingru", "minlstm")


def gradient_jumps(pair: Pair, what: Comparison) -> bool:
    """Whether a gradient hangs on the signs of numbers that are 0 but for round-off.

    In bfloat16 that is so for the gradients of some cells; what follows was measured in sixteen
    repetitions with other seeds.

    Of relu, of some 450 arguments of a case a few change sign, in either framework, and each turns
    a derivative from 0 to 1. The ratio of C2 was between 1.0 and 9.1, and the distance between 0.01
    and 0.12, with PyTorch's own distance as far as 0.11.

    The cell state, normalizer and stabilizer of an sLSTM have a kink where the two arguments of its
    maximum meet, its output has none. The ratio was as large as 11, and as small as 1 / 18, with
    PyTorch's own distance as far as 0.65. g of minGRU and minLSTM has a kink at 0; the ratio was as
    large as 4.4.
    """
    jumps = pair.stack is not None and pair.stack.cell.name in JUMPING
    return jumps and (what.dtype, what.quantity) == ("bfloat16", "gradients")


def resolved(arrays: Arrays, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that a low precision can resolve, without the entries that it cannot.

    Second moments are in the gradient's own unit: squared, few entries would outweigh the rest.
    """
    resolved = {}
    for name, array in arrays.items():
        if name.startswith(MOVE):  # the rounding of the weights drowns it
            continue
        if name in masks:
            array = np.where(masks[name], 0, array)
        elif name.startswith(SECOND_MOMENTS):
            array = np.sqrt(array)
        resolved[name] = array
    return resolved
