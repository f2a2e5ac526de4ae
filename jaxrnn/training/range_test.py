"""The learning-rate range test: raise the rate from step to step and see where the loss falls.

Smith 2017, https://arxiv.org/abs/1506.01186; fastai's `lr_find`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM
from jaxrnn.training.experiment import Experiment
from jaxrnn.training.history import AVERAGE_DECAY
from jaxrnn.training.steps import train_steps

MOST_STEPS = 1_000_000
"""More rates than anybody could tell apart in a picture."""
DIVERGED = 4.0
"""The test ends when the averaged loss is this many times the lowest so far."""


class RangeTest(NamedTuple):
    """Rates tried so far, and the averaged loss (nats per character) after the step at each."""

    rates: list[float]
    losses: list[float]

    @property
    def suggested(self) -> float:
        """The rate at which the averaged loss falls fastest, over the logarithm of the rate."""
        if len(self.losses) < 3:
            raise ValueError("The loss is not finite from the first steps on: nothing to suggest.")
        return self.rates[int(np.argmin(np.gradient(self.losses)))]


def range_test(
    experiment: Experiment, *, lowest: float = 1e-5, highest: float = 10.0, steps: int = 320
) -> Iterator[RangeTest]:
    """Train a fresh state with growing rates; yields the curve so far.

    Args:
        experiment: the run to find a rate for; its schedule is not used.
        lowest: the first rate, above 0.
        highest: the last rate, above `lowest`.
        steps: how many steps to make at the most, at least 3.
    """
    if not 0 < lowest < highest < math.inf or not 3 <= steps <= MOST_STEPS:
        raise ValueError(
            f"A range test needs 0 < lowest < highest and at least 3 steps, at most {MOST_STEPS}, "
            f"got {lowest}, {highest} and {steps}."
        )
    source, state = experiment.source, experiment.fresh_state()
    rates = np.geomspace(lowest, highest, steps)
    tokens = jnp.asarray(source.tokens)
    curve, average, epoch, window = RangeTest([], []), 0.0, 0, 0
    while len(curve.rates) < steps:
        done = len(curve.rates)
        count = min(STEPS_IN_ONE_PROGRAM, steps - done, source.steps(epoch) - window)
        padded = np.resize(rates[done:], STEPS_IN_ONE_PROGRAM)
        state, metrics = train_steps(
            experiment.model,
            experiment.optimizer,
            state,
            tokens,
            source.windows(epoch, window, STEPS_IN_ONE_PROGRAM),
            padded.astype(jax.tree.leaves(state.params)[0].dtype),
            count,
            sizes=source.sizes,
            padded=source.padded,
        )
        for rate, loss in zip(
            padded[:count].tolist(), np.asarray(metrics.loss)[:count].tolist(), strict=True
        ):
            average = AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * loss
            shown = average / (1 - AVERAGE_DECAY ** (len(curve.rates) + 1))
            if not np.isfinite(shown) or shown > DIVERGED * min([*curve.losses, shown]):
                yield curve
                return
            curve.rates.append(rate)
            curve.losses.append(shown)
        yield curve
        window += count
        if window == source.steps(epoch):
            epoch, window = epoch + 1, 0
