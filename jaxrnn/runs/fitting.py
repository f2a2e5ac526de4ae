"""Train a model in a program or a notebook, with a progress display, by one call."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp

from jaxrnn.checks import check_bool, check_path, check_seed, shown
from jaxrnn.data.tokenizers import token_name
from jaxrnn.nn.model import CharModel, check_char_model
from jaxrnn.runs.checkpointing import train_run
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.fit_folder import Begun, checkpoints_in, settings_of
from jaxrnn.runs.run import Run
from jaxrnn.terminal import Screen, stop_requests
from jaxrnn.training.display import SHORT, Display
from jaxrnn.training.evaluation import Source, check_source
from jaxrnn.training.history import Position, Progress
from jaxrnn.training.loop import training
from jaxrnn.training.losses import Loss, check_loss, extras_of
from jaxrnn.training.optimizers import AnyOptimizer, Optimizer, make_optimizer
from jaxrnn.training.records import History
from jaxrnn.training.schedules import Schedule, length_of
from jaxrnn.training.state import CarryPolicy, TrainState, check_state, make_state
from jaxrnn.training.steps import Batch, batch_loss
from jaxrnn.training.timetable import Budget

logger = logging.getLogger(__name__)


def fit(
    model: CharModel,
    source: Source,
    validation: Source | None = None,
    *,
    schedule: Schedule | str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    optimizer: AnyOptimizer | str | None = None,
    state: TrainState | None = None,
    carry_policy: CarryPolicy = "never",
    seed: int = 0,
    validate_every: int | None = None,
    validation_tokens: int | None = None,
    loss: Loss | None = None,
    progress: bool = True,
    callbacks: Sequence[Callable[[Progress], Any]] = (),
    checkpoints: Path | str | None = None,
) -> tuple[TrainState, History]:
    """Train to the end of the schedule, or for some epochs or updates, and show how far it is.

    An optimizer of optax's brings its own learning rate: it takes `epochs` or `steps`, and rates of
    its own (`optax.adam(optax.cosine_decay_schedule(1e-3, 1000))`). All others take a `schedule`.

    Ctrl-C ends the training: what is trained so far is returned. A second one interrupts at once.

    Args:
        model: the model.
        source: the windows to train on.
        validation: the windows to validate on after each epoch, if any.
        schedule: the learning rates, for example "4 x 1e-3, 4 x 1e-4".
        epochs: number of epochs, at least 1, for an optimizer that brings its own rate.
        steps: number of updates, at least 1, instead of epochs; those of the schedule are then its
            parts: of "3 x 1e-3, 1 x 1e-4" and 1,000 updates, 750 have the first rate.
        optimizer: a name such as "adam", from `make_optimizer`, or any
            `optax.GradientTransformation`; Adam if None.
        state: the state to start from, which is left as it is. A fresh one if None.
        carry_policy: see `training`.
        seed: seed of a fresh state.
        validate_every: number of updates between validations, at least 1; each epoch if None.
        validation_tokens: number of tokens after which a validation ends, at least 1; all if None.
        loss: a function `loss(outputs, targets, model)` to train with, which returns the loss of
            each target or their mean: outputs are (T, B, V) log probabilities and targets (T, B),
            or (B, V) and (B,) of a model that predicts the next character alone. With a parameter
            `hidden` it gets the outputs of the recurrent layers, (T, B, H), too; with `weights`,
            as the targets, what is 0 where a target only fills the array. The mean negative log
            likelihood if None. The validation stays in nats per character.
        progress: whether to show a line for each validation and, in a terminal or a notebook, a
            progress bar.
        callbacks: functions that are called with the `Progress` about every two seconds and
            wherever a row of history is complete; one that returns something true ends the
            training.
        checkpoints: a folder for the last and the best state and the history, saved as the training
            goes on and where it is stopped. The same call goes on from there, whatever `state`;
            `jaxrnn.load` reads the best one: `load(f"{folder}/best.safetensors", like=state)`.

    Returns:
        The trained state, and the history, whose last row of each epoch has the validation loss.

    Raises:
        NonFiniteLossError: see `training`.
        ValueError: see `training`; if an argument is of another kind, or if the length of the
            training is given twice, not at all, or in a way that the optimizer does not take; if
            the folder of checkpoints is that of another training.
    """
    # Check the arguments, in words, before anything is traced.
    check_char_model(model)
    check_source("source", source)
    if validation is not None:
        check_source("validation", validation)
    check_bool(progress=progress)
    check_seed(seed)
    if carry_policy not in get_args(CarryPolicy):
        named = ", ".join(get_args(CarryPolicy))
        raise ValueError(f"carry_policy must be one of {named}, got {carry_policy!r:.40}.")
    check_callbacks(callbacks)
    if checkpoints is not None:
        check_path(checkpoints=checkpoints)
    if loss is not None:
        check_loss(loss)
    if optimizer is None:
        optimizer = "adam"
    if isinstance(optimizer, str):
        optimizer = make_optimizer(optimizer)
    budget = Budget(steps=steps, validate_every=validate_every, validation_tokens=validation_tokens)
    if steps is not None:
        if epochs is not None:
            raise ValueError("Say how long to train with epochs or with steps, not with both.")
        if schedule is None and not isinstance(optimizer, Optimizer):
            epochs = 1  # all updates are one part
    lengths = length_of(optimizer, schedule, epochs)
    if state is None:
        state = make_state(model, optimizer, source.batch_size, jax.random.key(seed))
    else:
        check_state(state, optimizer, model)
    if loss is not None:
        _check_mean(loss, model, state, source)

    begun = Begun(state, Position(), History(), None)
    with contextlib.ExitStack() as stack:
        emit: Callable[[str], None] = logger.warning
        display = None
        if progress:
            screen = stack.enter_context(Screen())
            emit = screen.notice
            display = Display(screen, lengths, budget, SHORT["token"])
        if checkpoints is not None:
            settings = settings_of(
                model,
                source,
                validation,
                lengths,
                optimizer,
                budget,
                carry_policy=carry_policy,
                seed=seed,
                loss=getattr(loss, "__qualname__", None if loss is None else type(loss).__name__),
            )
            begun = stack.enter_context(checkpoints_in(checkpoints, settings, state, emit))
        if begun.position != Position():
            emit(f"Going on from {checkpoints}, at step {int(begun.state.step):,}.")
        progresses = training(
            model,
            source,
            validation,
            lengths,
            optimizer,
            begun.state,
            begun.position,
            carry_policy=carry_policy,
            budget=budget,
            loss=loss,
        )
        return _followed(progresses, begun, display, callbacks, emit)


def train_shown(
    run: Run,
    experiment: Experiment,
    state: TrainState,
    *,
    progress: bool = True,
    callbacks: Sequence[Callable[[Progress], Any]] = (),
    notes: Sequence[str] = (),
) -> None:
    """Train a run from its last checkpoint, with the display of `fit`; Ctrl-C ends it, saved.

    Args:
        run: the run.
        experiment: what it trains.
        state: the state of that checkpoint.
        progress: see `fit`.
        callbacks: see `fit`.
        notes: what is shown before, a sentence each.

    Raises:
        RunError, NonFiniteLossError: see `train_run`.
    """
    with contextlib.ExitStack() as stack:
        emit: Callable[[str], None] = logger.warning
        display = None
        if progress:
            screen = stack.enter_context(Screen())
            emit = screen.notice
            unit = SHORT[token_name(experiment.vocabulary)]
            display = Display(screen, experiment.schedule, experiment.config.budget, unit)
        for note in notes:
            emit(note)
        progresses = train_run(run, experiment, resume=True, picture=True, emit=emit)
        # Stopped early, it saves the last checkpoint.
        stack.callback(progresses.close)
        begun = Begun(state, Position(), History(), None)
        _followed(progresses, begun, display, callbacks, emit)


def _followed(
    progresses: Iterator[Progress],
    begun: Begun,
    display: Display | None,
    callbacks: Sequence[Callable[[Progress], Any]],
    emit: Callable[[str], None],
) -> tuple[TrainState, History]:
    """Train to the end, or until it is stopped: the state and the history there.

    Args:
        progresses: the training.
        begun: where it begins, and what saves it.
        display: shows it, if that is asked for.
        callbacks: see `fit`.
        emit: receives a sentence about an early end.
    """
    state, _, history, checkpointing = begun
    if display is not None:
        display.screen.show("compiling", 0.0)
    now = None
    with stop_requests(ctrl_c_alone=True) as stopping:
        for now in progresses:
            state = now.state
            if now.row is not None:
                history.append(now.row)
            if checkpointing is not None:
                checkpointing.update(now)
            if display is not None:
                display.show(now)
            reason = ""
            if now.validating is None:
                # All of them are called, whatever one of them wants.
                asked = [bool(callback(now)) for callback in callbacks]
                if any(asked):
                    reason = "a callback"
            if stopping():
                reason = "Ctrl-C"
            # After the last validation there is nothing to stop.
            over = now.share >= 1 and now.ends_section
            if reason and not over:
                made = int(state.step)
                emit(f"Stopped by {reason} at step {made:,}: what is trained so far is returned.")
                break
        if checkpointing is not None and now is not None:
            checkpointing.save(now)
    return state, history


def _check_mean(loss: Loss, model: CharModel, state: TrainState, source: Source) -> None:
    """Refuse a loss that takes the mean over targets which only fill the array.

    Raises:
        ValueError: if it does not ask for weights, and the source has such targets.
    """
    returned = []

    @wraps(loss)
    def seen(*arguments: Any, **extras: Any) -> Any:
        value = loss(*arguments, **extras)
        returned.append(getattr(value, "shape", None))
        return value

    tokens: Any = jax.ShapeDtypeStruct((source.sizes[0], source.batch_size), jnp.int32)
    batch = Batch(tokens, tokens)
    jax.eval_shape(partial(batch_loss, model, loss=seen), state.params, state.carry, batch)
    last = source.windows(0, source.steps(0) - 1, 1)
    filled = last.padded or bool((last.rows < source.batch_size).any())
    if filled and () in returned and "weights" not in extras_of(loss):
        raise ValueError(
            "loss returns one number, the mean over targets of which some only fill the array "
            "here: return the loss of each target, or take weights as well."
        )


def check_callbacks(callbacks: Any) -> None:
    """Refuse what is no sequence of functions.

    Raises:
        ValueError: if it is a single function, or holds something else.
    """
    if callable(callbacks):
        raise ValueError("callbacks must be a list of functions: write callbacks=[function].")
    if not isinstance(callbacks, Iterable):
        raise ValueError(f"callbacks must be a list of functions, got {shown(callbacks)}.")
    for callback in callbacks:
        if not callable(callback):
            raise ValueError(
                f"callbacks must be functions, called with the progress, got {callback!r:.60}."
            )
