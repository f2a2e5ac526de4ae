"""The learning-rate range test: raise the rate from step to step and see where the loss falls.

Smith 2017, https://arxiv.org/abs/1506.01186; fastai's `lr_find`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.nn.model import CharModel
from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM, Source
from jaxrnn.training.history import AVERAGE_DECAY
from jaxrnn.training.optimizers import Optimizer
from jaxrnn.training.state import TrainState
from jaxrnn.training.steps import train_steps

# Maximum number of steps: more rates than anybody could distinguish in a picture.
MOST_STEPS = 1_000_000
# Ratio of the averaged loss to the lowest so far at which the test ends.
DIVERGED = 4.0
# Standard deviation of the smoothing, as a fraction of the steps: about a sixth of a decade.
SMOOTHED = 1 / 40
# Width of either end of the range, as a fraction of the steps.
MARGIN = 1 / 20
# Maximum number of points of the analyzed curve; of more steps, some in a row are averaged.
MOST_POINTS = 1000
# Minimum fall of the loss, as a fraction of itself, that counts as one.
LEAST_FALL = 0.02


class Suggestion(NamedTuple):
    """The result of a range test.

    Attributes:
        rate: the learning rate to take, or None where the range does not show one.
        sentence: the same for a reader: the rate, or what to change to find one.
    """

    rate: float | None
    sentence: str


class RangeTest(NamedTuple):
    """Rates tried so far, and the loss (nats per character) at each.

    Attributes:
        rates: the rates, evenly spaced in their logarithm.
        losses: the averaged loss after the step at each.
        raw: the loss of the step alone; the averaged one is taken where it is not given.
        diverged: whether the test ended because the loss grew, before the highest rate.
        by_frequency: the loss of a guess by the characters' frequencies alone, if known.
    """

    rates: list[float]
    losses: list[float]
    raw: list[float] | None = None
    diverged: bool = False
    by_frequency: float | None = None

    def suggestion(self) -> Suggestion:
        """The rate to take, or what to change.

        The loss is smoothed on both sides of each rate, which moves nothing along the axis. It is
        looked for where the loss falls fastest before its minimum (Smith 2017; fastai's
        `lr_find`). The first plunge of a character model, to what the frequencies of the characters
        explain, comes at any rate that moves the output's bias at all; it is left out where the
        loss falls on from there. A minimum or a fastest fall at an end of the range may well lie
        outside it: no rate is suggested then.
        """
        count = len(self.rates)
        if count < 3:
            return Suggestion(
                None, "The loss is not finite from the first steps on: nothing to suggest."
            )
        losses = np.asarray(self.losses if self.raw is None else self.raw, float)

        # Average steps in a row down to at most MOST_POINTS points, and smooth.
        together = -(-count // MOST_POINTS)
        points = count // together
        rates = np.asarray(self.rates)[: points * together : together]  # (points,)
        grouped = losses[: points * together].reshape(points, together)
        curve = smoothed(grouped.mean(axis=1))  # (points,)

        # Is there a minimum inside the range?
        lowest = int(np.argmin(curve))
        margin = max(1, round(MARGIN * len(curve)))
        little = LEAST_FALL * abs(curve[0])
        if curve[0] - curve[lowest] < little:
            if not self.diverged and curve[-1] <= curve[0] + little:
                return Suggestion(
                    None,
                    "The loss hardly changes at any rate tried, up to "
                    f"{self.rates[-1]:.1e}: raise --highest.",
                )
            return Suggestion(
                None,
                f"The loss falls at no rate tried, from {self.rates[0]:.1e} on: lower --lowest.",
            )
        if not self.diverged and lowest >= len(curve) - margin:
            return Suggestion(
                None,
                f"The loss is still falling at the highest rate tried, {self.rates[-1]:.1e}: "
                "raise --highest.",
            )

        # The steepest fall before it, behind the first plunge.
        slopes = np.gradient(curve, np.log(rates))
        first = 0
        if self.by_frequency is not None and curve[lowest] < self.by_frequency - little:
            first = int(np.argmax(curve < self.by_frequency))
        steepest = first + int(np.argmin(slopes[first : lowest + 1]))
        if steepest < margin:
            return Suggestion(
                None,
                f"The loss falls fastest at the lowest rate tried, {self.rates[0]:.1e}: lower "
                "--lowest.",
            )
        rate = float(rates[steepest])
        return Suggestion(rate, f"The loss falls fastest at a learning rate of {rate:.1e}.")


def entropy(tokens: np.ndarray) -> float:
    """The mean loss, in nats, of a guess by the tokens' frequencies."""
    _, counts = np.unique(tokens, return_counts=True)
    frequencies = counts / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum())


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """The losses, averaged with a Gaussian on both sides of each; one that explodes is clipped."""
    values = np.asarray(losses, float)
    values = np.minimum(values, DIVERGED * values.min())
    width = max(1.0, SMOOTHED * len(values))
    steps = np.arange(len(values))
    differences = np.subtract.outer(steps, steps)  # (points, points)
    weights = np.exp(-0.5 * np.square(differences / width))
    # Divided by the sum, because at the ends a part of the Gaussian lies outside.
    return weights @ values / weights.sum(axis=1)


def check_range(lowest: float, highest: float, steps: int) -> None:
    """Refuse rates that do not grow, and too few or too many steps, for `range_test`."""
    if not 0 < lowest < highest < math.inf or not 3 <= steps <= MOST_STEPS:
        raise ValueError(
            f"A range test needs 0 < lowest < highest and at least 3 steps, at most {MOST_STEPS}, "
            f"got {lowest}, {highest} and {steps}."
        )


def range_test(
    model: CharModel,
    source: Source,
    optimizer: Optimizer,
    state: TrainState,
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    steps: int = 320,
) -> Iterator[RangeTest]:
    """Train a fresh state with growing rates; yields the curve so far.

    Args:
        model: the model to find a rate for.
        source: the windows that it is trained on.
        optimizer: the optimizer of the steps.
        state: a fresh state; its buffers are donated.
        lowest: the first rate, above 0.
        highest: the last rate, above `lowest`.
        steps: maximum number of steps, at least 3.
    """
    check_range(lowest, highest, steps)
    rates = np.geomspace(lowest, highest, steps)
    tokens = jnp.asarray(source.tokens)
    raw: list[float] = []
    curve = RangeTest([], [], raw, by_frequency=entropy(source.tokens))
    average = 0.0
    epoch = 0
    window = 0
    while len(curve.rates) < steps:
        done = len(curve.rates)
        count = min(STEPS_IN_ONE_PROGRAM, steps - done, source.steps(epoch) - window)
        # The program has a fixed number of steps, of which the first `count` are made.
        padded = np.resize(rates[done:], STEPS_IN_ONE_PROGRAM)
        windows = source.windows(epoch, window, STEPS_IN_ONE_PROGRAM).with_tokens(tokens)
        dtype = jax.tree.leaves(state.params)[0].dtype
        state, metrics = train_steps(model, optimizer, state, windows, padded.astype(dtype), count)

        losses = np.asarray(metrics.loss)[:count]  # (count,)
        for rate, loss in zip(padded[:count].tolist(), losses.tolist(), strict=True):
            average = AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * loss
            # The average starts at 0: as Adam's moments, it is corrected for that.
            corrected = average / (1 - AVERAGE_DECAY ** (len(curve.rates) + 1))
            lowest_loss = min([*curve.losses, corrected])
            if not np.isfinite(corrected) or corrected > DIVERGED * lowest_loss:
                yield curve._replace(diverged=True)
                return
            raw.append(loss)
            curve.rates.append(rate)
            curve.losses.append(corrected)
        yield curve
        window += count
        if window == source.steps(epoch):
            epoch += 1
            window = 0
