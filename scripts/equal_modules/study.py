"""Draw modules, check them, count what fails."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import beta

import parity
from equal_modules.kinds import KINDS
from parity.core.compare import failures

# The confidence of the bound on a rate.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trial:
    """One module that was checked.

    Attributes:
        kind: of the module.
        seed: that it was drawn from.
        mistake: what is wrong with the port; empty if nothing is.
        outcome: the verdict.
        words: the first failure or remark.
    """

    kind: str
    seed: int
    mistake: str
    outcome: str
    words: str


def trials(seeds: range, kinds: tuple[str, ...] = tuple(KINDS), *, wrong: bool) -> Iterator[Trial]:
    """Check one module of each kind for each seed.

    Args:
        seeds: of the generator.
        kinds: out of `KINDS`.
        wrong: whether wrong ports are checked, each of the kind's, rather than the right one.
    """
    for seed in seeds:
        for kind in kinds:
            rng = np.random.default_rng([seed, list(KINDS).index(kind)])
            torch.manual_seed(seed)
            example = KINDS[kind](rng)
            for mistake in tuple(example.mistakes) if wrong else ("",):
                report = parity.check(*example.arguments(mistake or None))
                bad = failures(report.findings)
                words = ""
                if bad:
                    first = bad[0]
                    words = f"{first.quantity} {first.dtype} {first.criterion} {first.array}"
                    words += f", {first.inputs}: {first.value:.2g} > {first.limit:.2g} {first.note}"
                outcome = report.outcome.value
                # A report without a failure passes only if something was shown.
                if not bad and not report.passed:
                    outcome = "ABSTAIN"
                yield Trial(kind, seed, mistake, outcome, words)


def upper_bound(failed: int, count: int) -> float:
    """The one-sided Clopper-Pearson bound on a rate: with `CONFIDENCE` it is no larger.

    C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the
    case of the binomial", Biometrika 26, 1934.
    """
    if failed == count:
        return 1.0
    return float(beta.ppf(CONFIDENCE, failed + 1, count - failed))


FAILED = ("FAIL", "ERROR")


def table(found: list[Trial]) -> list[str]:
    """A line for each kind, and one for all."""
    lines = [f"{'kind':28}{'checked':>8}{'FAIL':>6}{'WARN':>6}{'bound':>8}"]
    for kind in [*dict.fromkeys(trial.kind for trial in found), "all"]:
        same = [trial for trial in found if kind in (trial.kind, "all")]
        failed = sum(trial.outcome in FAILED for trial in same)
        warned = sum(trial.outcome == "WARN" for trial in same)
        bound = upper_bound(failed, len(same))
        lines.append(f"{kind:28}{len(same):8}{failed:6}{warned:6}{bound:8.2%}")
    return lines
