"""How the results of the two runners of a pair become findings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from parity.core.cases import pooled, sample_case
from parity.core.compare import (
    Arrays,
    Comparison,
    Finding,
    Outcome,
    meaning,
    numerics,
    structure,
    worst_outcome,
)
from parity.core.pairs import B, Pair
from parity.core.runners import Runner, run_jax, run_torch
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


def value_findings(pair: Pair, dtypes: Sequence[str]) -> list[Finding]:
    """Outputs, loss and gradients.

    Args:
        pair: what is compared.
        dtypes: the precisions.
    """
    in_jax = partial(run_jax, pair)
    in_torch = partial(run_torch, pair)
    findings = []
    for dtype in dtypes:
        findings += runner_findings(pair.name, pair, in_jax, in_torch, dtype)
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
) -> list[Finding]:
    """C0 and C1 in float64; C0, C2 and C3 in the other precisions.

    Args:
        name: as the report shows it.
        pair: what is compared.
        in_jax: makes the JAX runner for a precision.
        in_torch: makes the PyTorch runner for a precision.
        dtype: the precision.
    """
    cases = [sample_case(pair, seed, dtype) for seed in range(CASES[dtype])]
    # JAX, the truth, and PyTorch in the same precision.
    got = pooled(in_jax(dtype), cases)  # (cases, ...) each
    reference = pooled(in_torch("float64"), cases)
    peer = reference if dtype == "float64" else pooled(in_torch(dtype), cases)

    findings = []
    for quantity, expected in peer.items():
        what = Comparison(name, quantity, dtype)
        problems = structure(what, got[quantity], expected)
        findings += problems
        # Arrays of other names and shapes have no distance.
        if worst_outcome(problems) is Outcome.FAIL:
            continue
        if dtype == "float64":
            findings += meaning(what, got[quantity], expected)
            continue
        # Entries whose direction hangs on round-off are left out, in all three alike.
        masks = undecided(reference[quantity])
        judged = numerics(
            what,
            resolved(got[quantity], masks),
            resolved(expected, masks),
            resolved(reference[quantity], masks),
        )
        if gradient_jumps(pair, what):
            # The numbers, without a verdict.
            judged = [replace(f, outcome=Outcome.ABSTAIN, note=JUMPS) for f in judged]
        findings += judged
    return findings


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
