"""Learning-rate schedules, as phases one after the other.

A schedule has the notation of the course's table:

    4 x 1e-3, 4 x 1e-4              four epochs at 1e-3, then four at 1e-4
    2 x 1e-2, sgdr(1e-2, 4)         two epochs at 1e-2, then cosine cycles of 1, 2, 4, 8 epochs
    one-cycle(10, 1e-2)             ten epochs up to 1e-2 and down again
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxrnn.checks import check_at_least_1
from jaxrnn.training.optimizers import HAS_A_RATE, AnyOptimizer, Optimizer, check_optimizer


@runtime_checkable
class Phase(Protocol):
    """Some epochs of training with one rule for the learning rate."""

    @property
    def epochs(self) -> int:
        """How many epochs the phase has."""

    def rates(self, steps: np.ndarray, steps_per_epoch: float) -> np.ndarray:
        """The learning rate of each step, `steps` counted from the start of the phase."""


@dataclass(frozen=True)
class Block:
    """Epochs at one rate."""

    epochs: int
    rate: float

    def rates(self, steps: np.ndarray, steps_per_epoch: float) -> np.ndarray:
        """`rate`, always."""
        return np.full(len(steps), self.rate)  # (S,)


@dataclass(frozen=True)
class CosineRestarts:
    """SGDR as the course runs it: cycles of 1, 2, 4, ... epochs from `rate` to nearly nothing.

    Step i of a cycle of n steps has the rate base / 2 * (1 + cos(pi * i / n)); the first
    `steps_per_epoch / 20` steps of all have base / 100. Loshchilov and Hutter 2017,
    https://arxiv.org/abs/1608.03983.
    """

    rate: float
    cycles: int

    @property
    def epochs(self) -> int:
        """1 + 2 + 4 + ... = 2 ** cycles - 1."""
        return 2**self.cycles - 1

    def rates(self, steps: np.ndarray, steps_per_epoch: float) -> np.ndarray:
        """The cosine of each step's place in its cycle."""
        # Cycle k has 2^k epochs and begins behind 2^k - 1 of them.
        cycle = np.floor(np.log2(steps // steps_per_epoch + 1))
        length = steps_per_epoch * 2**cycle
        place = (steps - (length - steps_per_epoch)) / length  # in [0, 1)
        rates = self.rate / 2 * (1 + np.cos(np.pi * place))
        # fastai's warm-up: a twentieth of the first epoch.
        return np.where(steps < steps_per_epoch / 20, self.rate / 100, rates)


@dataclass(frozen=True)
class OneCycle:
    """Up from rate / 25 over the first 30 % of the steps, then down to rate / 10,000.

    Both ways along half a cosine. Smith and Topin 2018, https://arxiv.org/abs/1708.07120, with
    fastai's defaults.
    """

    epochs: int
    rate: float

    def rates(self, steps: np.ndarray, steps_per_epoch: float) -> np.ndarray:
        """The rate at each step's share of the whole phase."""
        place = np.minimum(steps / (self.epochs * steps_per_epoch), 1)  # in [0, 1]
        up = _cosine(self.rate / 25, self.rate, place / 0.3)
        down = _cosine(self.rate, self.rate / 10_000, (place - 0.3) / 0.7)
        return np.where(place < 0.3, up, down)


def _cosine(start: float, end: float, place: np.ndarray) -> np.ndarray:
    """Half a cosine from `start` at place 0 to `end` at place 1."""
    return end + (start - end) / 2 * (1 + np.cos(np.pi * place))


@dataclass(frozen=True)
class OwnRates:
    """Epochs of an optimizer that brings its own learning rates."""

    epochs: int

    def rates(self, steps: np.ndarray, steps_per_epoch: float) -> np.ndarray:
        """There are none to give."""
        raise TypeError("The rates of these epochs are the optimizer's own.")


@dataclass(frozen=True)
class Schedule:
    """Phases, one after the other; the optimizer's moments go on from one to the next."""

    phases: tuple[Phase, ...]

    @property
    def epochs(self) -> int:
        """The epochs of all the phases."""
        return sum(phase.epochs for phase in self.phases)

    def phase(self, epoch: int) -> tuple[Phase, int]:
        """The phase of epoch `epoch`, and the first epoch of that phase."""
        first = 0
        for phase in self.phases:
            if epoch < first + phase.epochs:
                return phase, first
            first += phase.epochs
        raise IndexError(f"The schedule has {self.epochs} epochs, there is no epoch {epoch}.")


def length_of(
    optimizer: AnyOptimizer, schedule: Schedule | str | None, epochs: int | None
) -> Schedule:
    """The schedule of a training, from whichever of the two the optimizer takes.

    Args:
        optimizer: the optimizer.
        schedule: the learning rates, for an optimizer that needs them.
        epochs: number of epochs, for an optimizer that brings its own rates.

    Raises:
        ValueError: if what is given does not fit the optimizer.
    """
    check_optimizer(optimizer)
    if isinstance(optimizer, Optimizer):
        if schedule is None or epochs is not None:
            raise ValueError(
                "An optimizer made by name or by make_optimizer takes its length and its rates "
                'from schedule, for example schedule="4 x 1e-3", and no epochs.'
            )
        return _as_schedule(schedule)
    if schedule is not None:
        raise ValueError(HAS_A_RATE.format(given="schedule") + " Say how long with epochs.")
    if epochs is None:
        raise ValueError(
            "The optimizer brings its own learning rate: say how long with epochs, for example "
            "epochs=2, or in updates with steps."
        )
    check_at_least_1(epochs=epochs)
    return Schedule((OwnRates(epochs),))


def _as_schedule(schedule: Any) -> Schedule:
    """A schedule, from its notation or as it is.

    Raises:
        ValueError: if it is neither, or cannot be read.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, str):
        return parse_schedule(schedule)
    hint = ""
    if callable(schedule):
        hint = " A schedule of optax's goes into its optimizer: optimizer=optax.adam(schedule)."
    raise ValueError(
        'schedule must be written as EPOCHS x RATE, for example "4 x 1e-3, 2 x 1e-4", got '
        f"{schedule!r:.60}.{hint}"
    )


def check_schedule(optimizer: AnyOptimizer, schedule: Schedule) -> None:
    """Refuse rates for an optimizer that brings its own, and none for one that needs them.

    Raises:
        ValueError: if optimizer and schedule do not fit.
    """
    if any(isinstance(phase, OwnRates) for phase in schedule.phases):
        length_of(optimizer, None, schedule.epochs)
    else:
        length_of(optimizer, schedule, None)


def parse_schedule(text: str) -> Schedule:
    """Read a schedule such as "2 x 1e-2, sgdr(1e-2, 4)".

    Raises:
        ValueError: if a phase cannot be read, or a number of it is out of range.
    """
    phases = []
    # At the commas between phases, not at those inside of brackets.
    for part in re.split(r",(?![^(]*\))", text):
        name = "x"
        arguments = part.strip().split("x")
        call = re.fullmatch(r"([a-z-]+)\s*\(([^)]*)\)", part.strip())
        if call:
            name = call[1]
            arguments = call[2].split(",")
        numbers = [argument.strip() for argument in arguments]
        if name not in _PHASES or len(numbers) != 2:
            raise ValueError(
                f"Cannot read {part.strip()!r:.60} as a phase of a schedule: write "
                "'EPOCHS x RATE', 'sgdr(RATE, CYCLES)' or 'one-cycle(EPOCHS, RATE)', with commas "
                "between phases."
            )
        phases.append(_PHASES[name](*numbers))
    return Schedule(tuple(phases))


# Constructors of phases by their notation. More than 12 cycles would be 4,095 epochs.
_PHASES: dict[str, Callable[[str, str], Phase]] = {
    "x": lambda epochs, rate: Block(_count("epochs", epochs), _rate(rate)),
    "sgdr": lambda rate, cycles: CosineRestarts(_rate(rate), _count("cycles", cycles, most=12)),
    "one-cycle": lambda epochs, rate: OneCycle(_count("epochs", epochs), _rate(rate)),
}


def _count(what: str, text: str, most: int = 1_000_000) -> int:
    # `int` alone would also read "1_000" and digits of other scripts.
    if not re.fullmatch(r"\d{1,9}", text) or not 1 <= int(text) <= most:
        raise ValueError(
            f"{what} of a schedule must be a whole number from 1 to {most}, got {text!r:.60}."
        )
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        raise ValueError(f"A learning rate must be a number, got {text!r:.60}.") from None
    if not 0 <= rate < math.inf:
        raise ValueError(f"A learning rate must be at least 0 and finite, got {text}.")
    return rate
