"""Train a cell or a model on a generated task; a training that was stopped goes on where it was.

Each update reads a batch that nobody has seen before. Models of tokens start every sequence from a
carry of zeros; the adding problem is regression by `SequenceModel`.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrnn.data.sequences import SequenceBatch, Sequences
from jaxrnn.data.tasks import MemoryTask, TaskBatch
from jaxrnn.nn.losses import nll_loss
from jaxrnn.nn.model import CharModel
from jaxrnn.nn.sequence_model import SequenceModel
from jaxrnn.programs import bounded_jit
from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.runs.checkpoints import load, save
from jaxrnn.runs.config import Config
from jaxrnn.runs.jobs import Stopped, Watch
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.optimizers import Optimizer
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.sequences import (
    make_sequence_state,
    mse,
    predict_sequences,
    sequence_step,
)
from jaxrnn.training.state import TrainState, make_state
from jaxrnn.training.steps import Batch, batch_loss, train_step
from jaxrnn.training.timetable import ROWS_PER_EPOCH, rates_of

VALIDATED = 1024
"""Number of sequences that a model is validated on."""
CHECKPOINT = "last.safetensors"
"""Name of the file, in the folder of a training, of the state to go on from."""
SECONDS_BETWEEN_CHECKPOINTS = 30.0
"""Minimum time between two checkpoints: the most that a crash costs."""
FIRST = 3
"""Number of updates that are not timed: they compile, and fill the caches."""


class TaskRow(NamedTuple):
    """The losses at an update.

    Attributes:
        step: number of updates made.
        train: the mean loss of the updates since the row before.
        validation: the loss on the sequences to validate on.
    """

    step: int
    train: float
    validation: float


class Learner(Protocol):
    """How a network is trained on a task: one class for tokens, another one for numbers."""

    def init(self, key: Array) -> TrainState: ...
    def update(
        self, state: TrainState, batch: TaskBatch, rate: float
    ) -> tuple[TrainState, Array]: ...
    def evaluate(self, params: Any, batch: TaskBatch) -> float: ...


def learner_of(config: Config, task: MemoryTask) -> Learner:
    """How the network of a configuration is trained on a task.

    Raises:
        ValueError: if the network is none for the task.
    """
    if task.vocab_size is None:
        if config.model != "CharLM":
            raise ValueError(
                f"The adding problem reads numbers, and {config.model} tokens: name a cell."
            )
        model = SequenceModel(
            1, CELLS.find(config.cell), config.hidden_size, config.num_layers, False, config.dropout
        )
        return Numbers(model, config.make_optimizer(), config.batch_size)
    network = config.make_model(task.vocab_size)
    if network.reads != "streams":
        raise ValueError(f"{config.model} has no carry: a memory task needs a stateful model.")
    return Tokens(network, config.make_optimizer(), config.batch_size, task.ignored)


class Numbers:
    """The adding problem: numbers in, one number out.

    Attributes:
        model: the model of sequences.
        optimizer: the optimizer.
        batch_size: B.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, batch_size: int) -> None:
        self.model = model
        self.optimizer = optimizer
        self.batch_size = batch_size

    def init(self, key: Array) -> TrainState:
        """A fresh state."""
        example = Sequences(np.zeros((1, 1, 2), np.float32), np.zeros((1, 1), np.float32))
        return make_sequence_state(self.model, self.optimizer, example, key)

    def update(self, state: TrainState, batch: TaskBatch, rate: float) -> tuple[TrainState, Array]:
        """One update, and the loss before it."""
        sequences = SequenceBatch(jnp.asarray(batch.inputs), jnp.asarray(batch.targets))
        updated: tuple[TrainState, Array] = sequence_step(
            self.model, self.optimizer, mse, state, sequences, rate
        )
        return updated

    def evaluate(self, params: Any, batch: TaskBatch) -> float:
        """The loss on some sequences."""
        source = Sequences(batch.inputs, batch.targets, batch_size=self.batch_size)
        outputs = predict_sequences(self.model, params, source)
        # In float64: squares of a training that diverges overflow in float32.
        errors = outputs.astype(float) - batch.targets  # (B, 1)
        return float(np.mean(errors**2))


class Tokens:
    """Copying and brackets: a token in, a token out, at every step.

    Attributes:
        model: the model, whose carry starts from zeros.
        optimizer: the optimizer.
        batch_size: B.
        loss: the loss of the targets that count.
    """

    def __init__(
        self, model: CharModel, optimizer: Optimizer, batch_size: int, ignored: int | None
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.batch_size = batch_size
        # One object for all that is equal: programs are compiled for it.
        self.loss = every_target if ignored is None else last_is_ignored

    def init(self, key: Array) -> TrainState:
        """A fresh state."""
        return make_state(self.model, self.optimizer, self.batch_size, key)

    def update(self, state: TrainState, batch: TaskBatch, rate: float) -> tuple[TrainState, Array]:
        """One update, and the loss before it."""
        tokens = Batch(jnp.asarray(batch.inputs), jnp.asarray(batch.targets))
        carry = state.carry  # zeros, which each batch starts from
        state, metrics = train_step(self.model, self.optimizer, state, tokens, rate, loss=self.loss)
        return state._replace(carry=carry), metrics.loss

    def evaluate(self, params: Any, batch: TaskBatch) -> float:
        """The loss on some sequences, in batches of the size that training reads."""
        losses = []
        sizes = []
        for first in range(0, batch.inputs.shape[1], self.batch_size):
            columns = slice(first, first + self.batch_size)
            tokens = Batch(
                jnp.asarray(batch.inputs[:, columns]), jnp.asarray(batch.targets[:, columns])
            )
            losses.append(float(_token_loss(self.model, self.loss, params, tokens)))
            sizes.append(tokens.inputs.shape[1])
        # Each sequence has equally many targets that count.
        return float(np.average(losses, weights=sizes))


@bounded_jit(static_argnames=("model", "loss"))
def _token_loss(
    model: CharModel, loss: Callable[..., Array], params: Any, batch: Batch
) -> Float[Array, ""]:
    carry = model.initial_carry(batch.inputs.shape[1])
    mean, _ = batch_loss(model, params, carry, batch, loss=loss)
    return mean


def every_target(
    outputs: Float[Array, "T B V"], targets: Int[Array, "T B"], model: CharModel
) -> Float[Array, ""]:
    """The mean negative log likelihood of all targets."""
    return nll_loss(outputs, targets)


def last_is_ignored(
    outputs: Float[Array, "T B V"], targets: Int[Array, "T B"], model: CharModel
) -> Float[Array, ""]:
    """The mean negative log likelihood of the targets but token V - 1, which predicts nothing."""
    counts = targets != model.vocab_size - 1  # (T, B)
    return nll_loss(outputs, targets, counts.astype(outputs.dtype))


def train_task(
    config: Config, task: MemoryTask, folder: Path, watch: Watch
) -> tuple[list[TaskRow], float | None]:
    """Train on a task, for the updates of the configuration.

    Args:
        config: the network, the optimizer and the schedule; `steps` must be set.
        task: the task.
        folder: where the state is kept; made if it is not there, and gone on with if it is.
        watch: receives the share that is done, and the loss.

    Returns:
        The rows, and the median seconds of an update in this process, if there were enough.

    Raises:
        NonFiniteLossError: if training diverges.
        CheckpointError: if the state in the folder cannot be read.
        Stopped: if `watch` raises it; what is done is kept.
    """
    assert config.steps is not None
    learner = learner_of(config, task)
    steps = config.steps
    rates = rates_of(parse_schedule(config.schedule), steps)
    row_steps = -(-steps // ROWS_PER_EPOCH)
    held_out = task.validation(config.seed, VALIDATED)
    state, rows, total = _begun(learner, config, folder)
    step = int(state.step)

    def keep() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / CHECKPOINT, state, {"rows": rows, "total": total})

    times = []
    kept = time.monotonic()
    while step < steps:
        started = time.perf_counter()
        batch = task.training(config.seed, step, config.batch_size)
        state, value = learner.update(state, batch, float(rates[step]))
        loss = float(value)  # waits for the update
        times.append(time.perf_counter() - started)
        step += 1
        total += loss
        validation = 0.0
        if step % row_steps == 0 or step == steps:
            since = step - (rows[-1].step if rows else 0)
            validation = learner.evaluate(state.params, held_out)
            rows.append(TaskRow(step, total / since, validation))
            total = 0.0
        if not np.isfinite(loss + validation):
            raise NonFiniteLossError(
                f"The loss is {loss + validation} at step {step} with learning rate "
                f"{rates[step - 1]:g}. Try a smaller rate or clip."
            )
        try:
            watch(step / steps, f"loss {loss:.3f}")
        except Stopped:
            keep()
            raise
        if time.monotonic() - kept > SECONDS_BETWEEN_CHECKPOINTS:
            keep()
            kept = time.monotonic()
    timed = times[FIRST:]
    return rows, float(np.median(timed)) if timed else None


def _begun(
    learner: Learner, config: Config, folder: Path
) -> tuple[TrainState, list[TaskRow], float]:
    """The state to go on from, the rows up to there, and the sum of the losses since."""
    fresh = partial(learner.init, jax.random.key(config.seed))
    path = folder / CHECKPOINT
    if not path.exists():
        return fresh(), [], 0.0
    state, metadata = load(path, jax.eval_shape(fresh))
    rows = [TaskRow(*row) for row in metadata["rows"]]
    return state, rows, float(metadata["total"])
