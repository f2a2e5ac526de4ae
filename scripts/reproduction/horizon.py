"""How long can training be followed? JAX and PyTorch from one start, and PyTorch from a hair off.

At a learning rate of 1e-2 an LSTM is chaotic: any round-off grows exponentially, within PyTorch as
much as between it and JAX. What can be said is after how many steps the weights are farther apart
than some limit, and that two PyTorch runs that start one unit in the last place apart part as
soon. Without dropout, whose masks differ anyway; on the recipe's text, windows and rates.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from jaxrnn.exchange.weights import WeightMap
from jaxrnn.runs.experiment import Experiment, prepare
from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM
from jaxrnn.training.history import Position
from jaxrnn.training.loop import Trainer
from jaxrnn.tree import named_leaves
from parity.core.bridge import numpy_of
from parity.core.compare import Arrays, relative_l2
from parity.core.runners import precision
from parity.measures.trajectories import perturbed
from reproduction.findings import HORIZON_FORMAT, Horizon
from reproduction.reference import ReferenceRun
from reproduction.results import write_json
from reproduction.units import Unit

LIMIT = 1e-6
"""relL2 of all weights above which two runs count as apart."""
FIRST = (1, 2, 5)
"""Steps after which weights are compared, before every tenth."""
EVERY = 10


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
        self._state = experiment.fresh_state()
        self.position = Position()

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


def followed(unit: Unit, steps: int) -> Iterator[dict[str, Any]]:
    """Train all three for `steps` steps; yields the distances that are known so far.

    Args:
        unit: the recipe, precision, seed and changes; its framework does not matter.
        steps: to follow.
    """
    found: dict[str, Any] = {"steps": [], "jax_torch": [], "torch_ulp": []}
    with precision(unit.dtype):
        experiment = prepare(unit.config)._replace(dtype=unit.dtype)
        jax, center, other = _Jax(experiment), _Torch(unit, experiment), _Torch(unit, experiment)
        other.perturb(unit.dtype)
        done = 0
        for step in looked_at(steps):
            for side in (jax, center, other):
                _take_on(side, step - done, experiment)
            done = step
            reference = center.weights()
            found["steps"].append(step)
            found["jax_torch"].append(relative_l2(jax.weights(), reference))
            found["torch_ulp"].append(relative_l2(other.weights(), reference))
            yield found


def looked_at(steps: int) -> list[int]:
    """The steps after which weights are compared."""
    return sorted({s for s in (*FIRST, *range(EVERY, steps, EVERY), steps) if s <= steps})


def horizon_unit(recipe: str, dtype: Any, seed: int) -> Unit:
    """A recipe at its first learning rate for as long as is asked for, without dropout."""
    rate = Unit(recipe=recipe).first_rate
    changes = {"dropout": 0.0, "schedule": f"1000 x {rate:g}"}
    return Unit(recipe=recipe, dtype=dtype, seed=seed, changes=changes, study="horizon")


def write_horizon(folder: Path, unit: Unit, found: dict[str, Any]) -> tuple[Path, Horizon]:
    """Write what was found as JSON; gives the file, and what it says."""
    what: dict[str, Any] = {
        "recipe": unit.recipe,
        "dtype": unit.dtype,
        "seed": unit.seed,
        "limit": LIMIT,
    } | found
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"horizon-{unit.dtype}.json"
    write_json(path, {"format": HORIZON_FORMAT, "config": unit.config.to_dict()} | what)
    return path, Horizon(**what, environment={})


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
