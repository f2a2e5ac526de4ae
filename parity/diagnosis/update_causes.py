"""Why does a user's training step in JAX move the weights elsewhere than PyTorch's?

PyTorch's own loop is run again with one deviation after the other. The one whose weights and
moments are JAX's, digit by digit, is the cause. Amounts, such as another rate or decay, are read
off the first step that differs, and then have to hold in all of them.
"""

from collections.abc import Iterator

import numpy as np

from parity.diagnosis.alterations import Equation
from parity.diagnosis.update_amounts import AmountCauses
from parity.diagnosis.update_evidence import Candidate, Case
from parity.diagnosis.update_rules import RuleCauses
from parity.measures.training_loops import Alteration

# A deviation fits up to so many times the distance that passes: an amount that was read off the
# numbers has their round-off.
FITTING = 10.0
# A difference below this is no other formula, but float32 somewhere.
ROUNDED = 1e-6
# Steps in which a deviation has to fit, from the first that differs on.
FOLLOWED = 10


def update_cause(case: Case) -> str:
    """The deviation that gives JAX's numbers; empty if none of those that are known does."""
    structure = _structural(case)
    if structure:
        return structure
    for words, alteration in _candidates(case):
        if _fits(case, alteration()):
            return words
    return ""


def _candidates(case: Case) -> Iterator[Candidate]:
    """The deviations that are tried, the most telling first; none without a torch optimizer."""
    amounts = AmountCauses(case)
    rules = RuleCauses(case)
    if not amounts.groups:
        return
    for deviations in (
        amounts.rates,
        amounts.clipping,
        amounts.decays,
        amounts.frozen,
        rules.flags,
        amounts.factors_of_moves,
        rules.estimated_numbers,
        rules.numbers,
        rules.equations,
        amounts.gradient_scales,
        amounts.several,
    ):
        yield from deviations()


def _structural(case: Case) -> str:
    """Causes that show without another run."""
    step = case.center.steps[case.first]
    before = case.center.start if case.first == 0 else case.got[case.first - 1].weights
    moved = any(not np.array_equal(a, before[k]) for k, a in case.got[case.first].weights.items())
    if step.updates == 0 and moved:
        return "JAX updates the weights with this batch, PyTorch's optimizer does not step"
    if step.updates > 0 and not moved:
        later = any(
            not np.array_equal(a, before[k])
            for got in case.got[case.first :]
            for k, a in got.weights.items()
        )
        if not later:
            return "JAX's step does not change the weights"
    return ""


def _fits(case: Case, alteration: Alteration) -> bool:
    """Whether PyTorch's loop with this deviation gives JAX's weights and moments."""
    last = min(len(case.got), case.first + FOLLOWED)
    own_moments = not isinstance(alteration, Equation)
    # A state that keeps float32 gives no more digits than that.
    rounded = ROUNDED if case.got[0].rounded else 0.0
    run = case.loop.steps(case.weights, case.batches[:last], "float64", alteration=alteration)
    for t, step in enumerate(run):
        step.weights = case.folded(step.weights)
        expected = case.center.quantities(step)
        got = case.center.quantities(case.got[t], step)
        for quantity in ("weights", *(["moments"] if own_moments else [])):
            for name, array in got[quantity].items():
                # A deviation may have moments that neither run has.
                if name not in expected[quantity] or (quantity, name) not in case.center.limits:
                    continue
                far = case.center.distance(quantity, name, t, array, expected[quantity][name])
                limit = FITTING * case.center.limits[quantity, name][t].limit
                if not far <= max(limit, rounded):
                    return False
    return True
