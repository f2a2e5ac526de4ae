"""How long can training be followed? JAX and PyTorch from one start, and PyTorch from a hair off.

At a learning rate of 1e-2 an LSTM is chaotic: any round-off grows exponentially, within PyTorch as
much as between it and JAX. What can be said is after how many steps the weights are farther apart
than some limit, and that two PyTorch runs that start one unit in the last place apart part as
soon. Without dropout, whose masks differ anyway; on the recipe's text, windows and rates.
"""

import datetime
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from jaxrnn.exchange.weights import WeightMap
from jaxrnn.files import write_whole
from jaxrnn.reproduction.results import SOFTWARE, machine
from jaxrnn.reproduction.units import Unit
from jaxrnn.runs.environment import versions
from jaxrnn.runs.experiment import Experiment, prepare
from jaxrnn.training.chunks import Trainer
from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM
from jaxrnn.training.history import Position
from jaxrnn.tree import named_leaves
from parity.core.bridge import numpy_of
from parity.core.compare import Arrays, relative_l2
from parity.core.runners import precision
from parity.measures.trajectories import perturbed
from parity.reproduction import ReferenceRun

FORMAT = 1
LIMIT = 1e-6
"""relL2 of all weights above which two runs count as apart."""
FIRST = (1, 2, 5)
EVERY = 10
"""Weights are compared after these steps, and then after every so many."""


class Horizon(NamedTuple):
    """How far apart runs are after some steps.

    Attributes:
        steps: after which the weights were compared.
        jax_torch: relL2 of all weights, JAX's from PyTorch's.
        torch_ulp: that of PyTorch from weights 1 ulp off, from PyTorch's.
    """

    steps: list[int]
    jax_torch: list[float]
    torch_ulp: list[float]

    def apart(self, distances: list[float]) -> int | None:
        """The first of the steps after which the distance is above the limit, if any is."""
        return next((s for s, d in zip(self.steps, distances, strict=True) if d > LIMIT), None)


class _Side(Protocol):
    """A run that can be taken on, and looked at."""

    position: Position

    def train(self, steps: int) -> None: ...
    def weights(self) -> np.ndarray: ...


class _Jax:
    """A run of ours."""

    def __init__(self, experiment: Experiment) -> None:
        model, source = experiment.model, experiment.source
        self._trainer = Trainer(model, source, experiment.schedule, experiment.optimizer)
        self._state, self.position = experiment.fresh_state(), Position()

    def train(self, steps: int) -> None:
        """Make some steps of the epoch under way."""
        self._state, self.position, _ = self._trainer.make(self._state, self.position, steps)

    def weights(self) -> np.ndarray:
        """All weights in one vector."""
        leaves = {name: numpy_of(leaf) for name, leaf in named_leaves(self._state.params).items()}
        return _flat(WeightMap.for_flax(leaves).to_torch(leaves))


class _Torch(ReferenceRun):
    """A run of PyTorch's."""

    def weights(self) -> np.ndarray:
        """All weights in one vector, in the same order."""
        return _flat(self.training.weights())

    def perturb(self, dtype: str) -> None:
        """Move every weight by one unit in the last place."""
        moved = perturbed(self.training.weights(), seed=0, dtype=dtype)
        for name, parameter in self.training.reference.named_parameters():
            parameter.data.copy_(torch.tensor(moved[name]))


def followed(unit: Unit, steps: int) -> Iterator[Horizon]:
    """Train all three for `steps` steps; yields what is known so far.

    Args:
        unit: the recipe, precision, seed and changes; its framework does not matter.
        steps: to follow.
    """
    with precision(unit.dtype):
        experiment = prepare(unit.config)._replace(dtype=unit.dtype)
        jax, center, other = _Jax(experiment), _Torch(unit, experiment), _Torch(unit, experiment)
        other.perturb(unit.dtype)
        found, done = Horizon([], [], []), 0
        for step in looked_at(steps):
            for side in (jax, center, other):
                _take_on(side, step - done, experiment)
            done, reference = step, center.weights()
            found.steps.append(step)
            found.jax_torch.append(relative_l2(jax.weights(), reference))
            found.torch_ulp.append(relative_l2(other.weights(), reference))
            yield found


def looked_at(steps: int) -> list[int]:
    """The steps after which weights are compared."""
    return sorted({s for s in (*FIRST, *range(EVERY, steps, EVERY), steps) if s <= steps})


def horizon_unit(recipe: str, dtype: Any, seed: int) -> Unit:
    """A recipe at its first learning rate for as long as is asked for, without dropout."""
    rate = Unit(recipe=recipe).first_rate
    return Unit(
        recipe=recipe,
        dtype=dtype,
        seed=seed,
        changes={"dropout": 0.0, "schedule": f"1000 x {rate:g}"},
        study="horizon",
    )


def write_horizon(folder: Path, unit: Unit, found: Horizon) -> Path:
    """Write what was found as JSON, and give the file."""
    written = {
        "format": FORMAT,
        "recipe": unit.recipe,
        "dtype": unit.dtype,
        "seed": unit.seed,
        "config": unit.config.to_dict(),
        "limit": LIMIT,
        **found._asdict(),
        "horizon": {
            "jax_torch": found.apart(found.jax_torch),
            "torch_ulp": found.apart(found.torch_ulp),
        },
        "versions": versions(SOFTWARE),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"horizon-{unit.dtype}.json"
    write_whole(path, json.dumps(written, indent=1).encode() + b"\n")
    return path


def _take_on(side: _Side, steps: int, experiment: Experiment) -> None:
    """Make `steps` steps, over the ends of epochs; nothing is validated in between."""
    while steps:
        epoch, window = side.position.epoch, side.position.window
        count = experiment.source.steps(epoch)
        if window == count:
            side.position = replace(side.position, epoch=epoch + 1, window=0)
            continue
        now = min(steps, STEPS_IN_ONE_PROGRAM, count - window)
        side.train(now)
        steps -= now


def _flat(weights: Arrays) -> np.ndarray:
    return np.concatenate([np.asarray(weights[k], np.float64).ravel() for k in sorted(weights)])
