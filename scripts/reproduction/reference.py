"""Train a recipe in PyTorch, from the weights and through the windows that JAX starts from.

The reference model, `torch.optim.Adam` and a plain loop; the initial weights, where each window
lies and how long it is, and the learning rates are ours, and windows are not padded. So in float64
the losses and weights of the two agree digit by digit, but where there is dropout: PyTorch draws
masks of its own.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jaxrnn.data.windows import Windows
from jaxrnn.exchange.weights import WeightMap
from jaxrnn.files import locked, write_whole
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.jobs import Watch
from jaxrnn.runs.run import RunError
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM, Source
from jaxrnn.training.history import Position
from jaxrnn.training.timetable import ROWS_PER_EPOCH
from jaxrnn.tree import named_leaves
from parity.core.bridge import TORCH_DTYPES
from parity.core.references import CharReference, reference_of
from parity.measures.training import ReferenceTraining, Rule
from reproduction.training import Trained
from reproduction.units import Unit

CHECKPOINT = "last.pt"
"""The file, in a unit's folder, of what it takes to go on after the last finished epoch."""
OURS_ALONE = ("update_ratio", "saturated")
"""What the history of the JAX side has besides."""

Window = tuple[torch.Tensor, torch.Tensor]


def train(unit: Unit, experiment: Experiment, folder: Path, watch: Watch) -> Trained:
    """Train the reference of a unit's model; a `reproduction.training.Trainer`."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        run = ReferenceRun(unit, experiment)
        run.go_on(folder / CHECKPOINT)
        while run.position.epoch < experiment.schedule.epochs:
            for _ in run.epoch():
                share = run.position.epoch + run.position.window / run.count
                watch(share / experiment.schedule.epochs, f"loss {run.position.train:.3f}")
            run.save(folder / CHECKPOINT)
    return Trained(run.rows, run.training.weights(), run.seconds)


class ReferenceRun:
    """The reference of a model under training.

    Attributes:
        training: the reference, its optimizer and its carry.
        position: where it stands.
        rows: the history.
        seconds: what has been trained for, up to the last finished epoch.
    """

    def __init__(self, unit: Unit, experiment: Experiment) -> None:
        torch.manual_seed(unit.seed)  # of the dropout masks; the weights are overwritten
        self.config, self._experiment = experiment.config, experiment
        reference = first_reference(experiment, unit.dtype)
        self.training = ReferenceTraining(reference, rule_of(self.config))
        self.position, self.rows, self.seconds = Position(), list[dict[str, Any]](), 0.0

    @property
    def count(self) -> int:
        """The windows of the epoch under way."""
        return self._experiment.source.steps(self.position.epoch)

    def epoch(self) -> Iterator[None]:
        """Train and validate an epoch; yields now and then."""
        started, steps = time.perf_counter(), -(-self.count // ROWS_PER_EPOCH)
        self._begin()
        while self.position.window < self.count:
            self.train(min(steps, self.count - self.position.window))
            if self.position.window < self.count:
                self._add_row()
            yield
        self._add_row(validation=self._validated())
        after = replace(self.position, epoch=self.position.epoch + 1, window=0)
        self.position = after
        self.seconds += time.perf_counter() - started

    def train(self, steps: int) -> None:
        """Make some steps of the epoch under way."""
        source, at = self._experiment.source, self.position
        windows = source.windows(at.epoch, at.window, steps)
        phase, _ = self._experiment.schedule.phase(at.epoch)
        rates = phase.rates(at.averaged + np.arange(steps), source.steps_per_epoch)
        found = [
            self.training.step(*window, float(rate))
            for window, rate in zip(cut(source, windows), rates, strict=True)
        ]
        losses, norms = (np.asarray(values, float) for values in zip(*found, strict=True))
        self.position = at.after(losses, norms, np.zeros(steps), windows, rates)
        if not (np.isfinite(losses) & np.isfinite(norms)).all():
            step = len(self.rows) and self.rows[-1]["step"]
            raise NonFiniteLossError(f"The loss is no longer finite soon after step {step}.")

    def go_on(self, path: Path) -> None:
        """Take over what `save` wrote, if there is anything."""
        if not path.is_file():
            return
        try:
            kept = torch.load(path, weights_only=True)
        except Exception as error:  # torch raises whatever the damage runs into
            raise RunError(f"{path} is damaged: remove it to train from the beginning.") from error
        self.training.reference.load_state_dict(kept["twin"])
        self.training.optimizer.load_state_dict(kept["optimizer"])
        self.training.carry, self.rows, self.seconds = kept["carry"], kept["rows"], kept["seconds"]
        self.position = Position(**kept["position"])
        torch.set_rng_state(kept["random"])

    def save(self, path: Path) -> None:
        """Write what it takes to go on."""
        kept = {
            "twin": self.training.reference.state_dict(),
            "optimizer": self.training.optimizer.state_dict(),
            "carry": self.training.carry,
            "rows": self.rows,
            "seconds": self.seconds,
            "position": asdict(self.position),
            "random": torch.get_rng_state(),
        }
        data = io.BytesIO()
        torch.save(kept, data)
        write_whole(path, data.getvalue())

    def _begin(self) -> None:
        """As at the beginning of each epoch in `jaxrnn.training.loop`."""
        if self.config.carry == "epoch":
            self.training.carry = None
        epoch = self.position.epoch
        if self._experiment.schedule.phase(epoch)[1] == epoch:
            self.position = replace(self.position, average=0.0, averaged=0)

    def _validated(self) -> float:
        """The validation loss; the carry flows, or is put aside, as the configuration says."""
        source, aside = self._experiment.validation, self.training.carry
        if self.config.carry != "never":
            self.training.carry = None
        epoch, total, weight = self.position.epoch, 0.0, 0.0
        for first in range(0, source.steps(epoch), STEPS_IN_ONE_PROGRAM):
            steps = min(STEPS_IN_ONE_PROGRAM, source.steps(epoch) - first)
            windows = source.windows(epoch, first, steps)
            losses = [self.training.evaluate(*window) for window in cut(source, windows)]
            weights = (windows.lengths * windows.rows).astype(float)
            total += float(np.asarray(losses, float) @ weights)
            weight += float(weights.sum())
        if self.config.carry != "never":
            self.training.carry = aside
        return total / weight

    def _add_row(self, validation: float | None = None) -> None:
        step = (self.rows[-1]["step"] if self.rows else 0) + self.position.steps
        row = self.position.row(step, self.count, update_ratio=0.0)
        row = row if validation is None else row.with_validation(validation)
        kept = row.repeatable().items()
        self.rows.append({name: value for name, value in kept if name not in OURS_ALONE})
        self.position = self.position.after_row()


def first_reference(experiment: Experiment, dtype: str) -> CharReference:
    """The reference with the weights that the JAX side starts from."""
    leaves = named_leaves(experiment.fresh_state().params)
    tensors = WeightMap.for_flax(leaves).to_torch(leaves)
    reference = reference_of(experiment.model).to(TORCH_DTYPES[dtype])
    reference.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
    return reference


def rule_of(config: Config) -> Rule:
    """The update that a configuration asks for."""
    options = {
        "weight_decay": config.weight_decay,
        "momentum": config.momentum,
        "clip": config.clip,
    }
    given = tuple((name, float(value)) for name, value in options.items() if value)
    return Rule(config.optimizer, config.optimizer, given)


def cut(source: Source, windows: Windows) -> Iterator[Window]:
    """Inputs and targets (T, B) of each window, without what only fills the arrays."""
    tokens = torch.tensor(source.tokens.astype(np.int64))
    steps = zip(windows.starts, windows.lengths, windows.rows, strict=True)
    for starts, length, rows in steps:
        positions = torch.tensor(starts[None, :rows] + np.arange(length + 1)[:, None])
        characters = tokens[positions]
        yield characters[:-1], characters[1:]
