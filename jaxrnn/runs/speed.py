"""How long an update takes, and how many of them some minutes have room for."""

import math
from dataclasses import replace

import numpy as np

from jaxrnn.runs.config import LARGEST_BUDGET
from jaxrnn.runs.experiment import Experiment
from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM
from jaxrnn.training.history import Position
from jaxrnn.training.loop import Trainer
from jaxrnn.training.schedules import Block, Schedule

SECONDS_MEASURED = 3.0
"""Time that updates are measured for."""
LARGEST_PART = 0.05
"""Maximum part of the minutes asked for that is spent on the measurement."""
SECONDS_IN_ONE_PROGRAM = 0.3
"""Target duration of one program of the measurement."""


def check_minutes(minutes: float) -> None:
    """Refuse what is no length of time.

    Raises:
        ValueError: if it is not above 0 and finite.
    """
    number = isinstance(minutes, int | float) and not isinstance(minutes, bool)
    if not number or not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be a number above 0, got {minutes!r:.40}.")


def with_minutes(experiment: Experiment, minutes: float) -> tuple[Experiment, float]:
    """The same experiment with as many updates as fit into some minutes.

    Only updates count: validations, and compilation, come on top.

    Args:
        experiment: what is to be trained.
        minutes: the time for its updates.

    Returns:
        The experiment, whose configuration has the number of updates as its `steps`, and the
        measured seconds of an update.
    """
    check_minutes(minutes)
    seconds = seconds_per_update(experiment, min(SECONDS_MEASURED, 60 * minutes * LARGEST_PART))
    config = replace(experiment.config, steps=updates_in(minutes, seconds))
    return experiment._replace(config=config), seconds


def updates_in(minutes: float, seconds: float) -> int:
    """The number of updates of `seconds` each that take about some minutes, at least 1."""
    return min(LARGEST_BUDGET, max(1, round(60 * minutes / seconds)))


def seconds_per_update(experiment: Experiment, measured: float = SECONDS_MEASURED) -> float:
    """The mean seconds of an update, on the first windows of the text.

    Args:
        experiment: what is to be trained.
        measured: seconds of updates that the mean is taken over.
    """
    # At rate 0 nothing can diverge, and the arithmetic is the same.
    still = Schedule((Block(1, 0.0),))
    source = experiment.source
    trainer = Trainer(experiment.model, source, still, experiment.optimizer)
    state, _, _ = trainer.make(experiment.fresh_state(), Position(), 0)  # compiles
    # The first program brings memory and caches up to their sizes.
    state, position, _ = trainer.make(state, Position(), 1)
    steps = 1
    made = 0
    passed = 0.0
    while made == 0 or passed < measured:
        left = source.steps(0) - position.window
        if left == 0:
            position = Position()
            continue
        count = min(steps, left)
        state, position, seconds = trainer.make(state, position, count)
        made += count
        passed += seconds
        fitting = SECONDS_IN_ONE_PROGRAM * made / passed
        steps = int(np.clip(fitting, 1, STEPS_IN_ONE_PROGRAM))
    return passed / made
