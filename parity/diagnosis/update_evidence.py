"""Two training loops that part, and what the first step that differs shows."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from parity.core.compare import Arrays
from parity.diagnosis.factors import factor_of
from parity.measures.envelopes import Center, matching_moments
from parity.measures.training_loops import Alteration, Step, TorchLoop

# What it would be, in words, and what makes PyTorch's loop do it.
Candidate = tuple[str, Callable[[], Alteration]]


class Case(NamedTuple):
    """Two loops that part.

    Attributes:
        loop: PyTorch's.
        weights: the first, a state dict.
        batches: of all steps.
        center: PyTorch's run in float64.
        got: JAX's run in float64.
        first: the first step that differs, counted from 0.
        folded: PyTorch's weights as they would come back from JAX.
    """

    loop: TorchLoop
    weights: Arrays
    batches: Sequence[Any]
    center: Center
    got: Sequence[Step]
    first: int
    folded: Callable[[Arrays], dict[str, np.ndarray]]


class Evidence:
    """The options of PyTorch's optimizer, and moves and moments at the first step that differs.

    Args:
        case: the two loops.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.updates = [step for step in case.center.steps if step.groups]
        self.groups = self.updates[0].groups if self.updates else []
        self.kind = self.updates[0].kind if self.updates else ""
        self.keys = [key for group in self.groups for key in group["keys"]]

    def _move(self, steps: Sequence[Step]) -> dict[str, np.ndarray]:
        t = self.case.first
        before = self.case.center.start if t == 0 else steps[t - 1].weights
        return {k: np.asarray(a, float) - before[k] for k, a in steps[t].weights.items()}

    @cached_property
    def moves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """JAX's move and PyTorch's, of every parameter that an optimizer moves."""
        got = self._move(self.case.got)
        expected = self._move(self.case.center.steps)
        return {key: (got[key], expected[key]) for key in self.keys if key in got}

    @cached_property
    def factors(self) -> dict[str, float]:
        """How many times as far JAX moves each parameter; NaN where it is no factor."""
        return {key: factor_of(*moves) for key, moves in self.moves.items()}

    def moment_ratios(
        self, names: tuple[str, ...] = ("exp_avg of", "momentum_buffer of")
    ) -> list[float]:
        """By how much JAX's moments are larger; the first ones are linear in the gradients."""
        t = self.case.first
        moments = matching_moments(self.case.got[t], self.case.center.steps[t])
        ratios = []
        for name, array in moments.items():
            if name.startswith(names):
                theirs = np.asarray(self.case.center.steps[t].moments[name], float)
                ratios.append(factor_of(array, theirs))
        return ratios
