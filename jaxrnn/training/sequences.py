"""Training on sequences of numbers with one target each: regression and classification.

Shapes: N sequences, T time steps, B batch, I input size, O outputs.

    train = Sequences(inputs, classes, lengths, batch_size=32)     # (N, T, I), (N,), (N,)
    model = SequenceModel(outputs=3, cell="lstm", hidden_size=64)
    state, history = fit_sequences(model, train, loss="cross_entropy", schedule="10 x 1e-3")
    scores = predict_sequences(model, state.params, test)          # (N, 3)

A model is any Flax module that is called with time first, `model(xs, lengths=lengths)`, with xs of
(T, B, I), and returns an array whose first axis is B. Every sequence ends at its own length, as in
PyTorch's packed sequences.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxrnn.array_checks import check_key, described, precision
from jaxrnn.checks import check_at_least_0, check_seed
from jaxrnn.data.sequences import SequenceBatch, Sequences
from jaxrnn.nn.layers import RNN
from jaxrnn.nn.model import CharModel, check_shapes, shapes_of_params
from jaxrnn.programs import bounded_jit
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.optimizers import (
    AnyOptimizer,
    Optimizer,
    check_optimizer,
    make_optimizer,
    updated,
)
from jaxrnn.training.schedules import Schedule, check_schedule, length_of
from jaxrnn.training.state import TrainState, check_state

Loss: TypeAlias = Literal["cross_entropy", "mse"] | Callable[[Array, Array], Array]
"""A loss by name, or `loss(outputs, targets)`, a scalar: the mean over the sequences of a batch."""


@dataclass(frozen=True)
class SequenceRow:
    """The losses of an epoch.

    Attributes:
        epoch: the epoch, from 1 on.
        step: number of updates made.
        train: the mean loss over the epoch's sequences, each as it was trained on.
        validation: the mean loss over the sequences to validate on, behind the epoch, if any.
    """

    epoch: int
    step: int
    train: float
    validation: float | None = None


def cross_entropy(outputs: Float[Array, "B O"], targets: Array) -> Float[Array, ""]:
    """Mean negative log likelihood of the classes (B,), as `torch.nn.CrossEntropyLoss`."""
    if not jnp.issubdtype(targets.dtype, jnp.integer) or targets.shape != outputs.shape[:1]:
        raise ValueError(
            "cross_entropy takes classes, integers of shape (B,); the targets of a batch are "
            f"{described(targets)}."
        )
    if outputs.ndim != 2:
        raise ValueError(
            "cross_entropy takes a number for each class, outputs of shape (B, classes); the "
            f"model gives {described(outputs)}."
        )
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def mse(outputs: Float[Array, "..."], targets: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean squared difference, as `torch.nn.MSELoss`."""
    if outputs.shape != targets.shape:
        # Broadcasting would compare each output with every target.
        hint = " One number a sequence is targets[:, None]." if targets.ndim == 1 else ""
        raise ValueError(
            f"mse takes targets of the shape of the outputs, {outputs.shape}; those of a batch "
            f"have shape {targets.shape}.{hint}"
        )
    return optax.squared_error(outputs, targets).mean()


LOSSES: dict[str, Callable[[Array, Array], Array]] = {"cross_entropy": cross_entropy, "mse": mse}
"""The losses by name."""


def make_sequence_state(
    model: nn.Module, optimizer: AnyOptimizer, source: Sequences, key: Array
) -> TrainState:
    """A fresh state for sequences like those of `source`: parameters, step 0, and no carry."""
    check_optimizer(optimizer)
    _check_kinds(model, source)
    check_key(key=key)
    params_key, run_key = jax.random.split(key)
    params = _init(model, params_key, _shapes(source))["params"]
    return TrainState(params, optimizer.init(params), (), jnp.zeros((), jnp.int32), run_key)


def fit_sequences(
    model: nn.Module,
    source: Sequences,
    validation: Sequences | None = None,
    *,
    loss: Loss,
    schedule: Schedule | str | None = None,
    epochs: int | None = None,
    optimizer: AnyOptimizer | str | None = None,
    state: TrainState | None = None,
    start: int = 0,
    seed: int = 0,
) -> tuple[TrainState, list[SequenceRow]]:
    """Train on sequences to the end of the schedule, or for some epochs.

    Args:
        model: any Flax module of sequences; see the top of this file, and `SequenceModel`.
        source: the sequences to train on.
        validation: the sequences to validate on after each epoch, if any.
        loss: "cross_entropy" for classes, "mse" for values, or `loss(outputs, targets)`, a scalar.
        schedule: the learning rates, as for `jaxrnn.fit`.
        epochs: number of epochs, for an optimizer of optax's that brings its own rate.
        optimizer: a name such as "adam", from `make_optimizer`, or any of optax's; Adam if None.
        state: the state to start from; a fresh one if None.
        start: number of epochs of the schedule that `state` has behind it. Training that was
            stopped behind an epoch and goes on from there ends with the same numbers.
        seed: seed of a fresh state.

    Returns:
        The trained state, and one row of history an epoch.

    Raises:
        NonFiniteLossError: if a loss is not finite.
        ValueError: if something is of another kind than it must be, or does not fit.
    """
    # Mistakes of the user's come before the work.
    check_seed(seed)
    check_at_least_0(start=start)
    _check_kinds(model, source)
    if validation is not None:
        _check_kinds(model, validation)
    loss_of = _loss(loss)
    if optimizer is None:
        optimizer = "adam"
    if isinstance(optimizer, str):
        optimizer = make_optimizer(optimizer)
    schedule = length_of(optimizer, schedule, epochs)
    check_schedule(optimizer, schedule)
    for one in (source, validation):
        if one is not None:
            _check_outputs(model, one, loss_of)
    if state is None:
        state = make_sequence_state(model, optimizer, source, jax.random.key(seed))
    else:
        check_state(state, optimizer)
        _check_params(model, state.params, source)

    history = []
    for epoch in range(start, schedule.epochs):
        rates = _rates(optimizer, schedule, epoch, source.steps_per_epoch)
        losses = []
        for batch, rate in zip(source.batches(source.order(epoch)), rates, strict=True):
            state, value = sequence_step(model, optimizer, loss_of, state, _on_device(batch), rate)
            losses.append(value)
        train = _mean(losses, source, f"of epoch {epoch + 1}")
        held_out = None
        if validation is not None:
            in_order = validation.batches(np.arange(len(validation)))
            values = [_evaluate(model, loss_of, state.params, _on_device(b)) for b in in_order]
            held_out = _mean(values, validation, f"of the validation behind epoch {epoch + 1}")
        history.append(SequenceRow(epoch + 1, int(state.step), train, held_out))
    return state, history


def predict_sequences(model: nn.Module, params: Any, source: Sequences) -> np.ndarray:
    """The model's outputs for all sequences, (N, ...), in their order.

    Raises:
        ValueError: if something is of another kind, or the parameters are not those of the model.
    """
    _check_kinds(model, source)
    _check_params(model, params, source)
    batches = source.batches(np.arange(len(source)))
    return np.concatenate([np.asarray(_outputs(model, params, _on_device(one))) for one in batches])


@bounded_jit(static_argnames=("model", "optimizer", "loss"))
def sequence_step(
    model: nn.Module,
    optimizer: AnyOptimizer,
    loss: Callable[[Array, Array], Array],
    state: TrainState,
    batch: SequenceBatch,
    rate: Float[Array, ""] | float | None,
) -> tuple[TrainState, Float[Array, ""]]:
    """One update, and the loss before it.

    Args:
        model: the model (static).
        optimizer: from `make_optimizer`, or any of optax's (static).
        loss: the loss (static).
        state: the state.
        batch: the sequences.
        rate: the learning rate; None for an optimizer that brings its own.
    """
    key = jax.random.fold_in(state.key, state.step)  # of this step's dropout masks

    def loss_of(params: Any) -> Array:
        return _loss_on(model, loss, params, batch, key)

    value, gradients = jax.value_and_grad(loss_of)(state.params)
    params, _, opt_state = updated(
        optimizer,
        gradients,
        state.opt_state,
        state.params,
        rate,
        value=value,
        grad=gradients,
        value_fn=loss_of,
    )
    return state._replace(params=params, opt_state=opt_state, step=state.step + 1), value


@bounded_jit(static_argnames=("model", "loss"))
def _evaluate(
    model: nn.Module, loss: Callable[[Array, Array], Array], params: Any, batch: SequenceBatch
) -> Float[Array, ""]:
    return _loss_on(model, loss, params, batch, None)


@bounded_jit(static_argnames=("model",))
def _outputs(model: nn.Module, params: Any, batch: SequenceBatch) -> Array:
    return _apply(model, params, batch, None)


def _loss_on(
    model: nn.Module,
    loss: Callable[[Array, Array], Array],
    params: Any,
    batch: SequenceBatch,
    key: Array | None,
) -> Float[Array, ""]:
    targets = jnp.asarray(batch.targets)
    if jnp.issubdtype(targets.dtype, jnp.floating):
        targets = targets.astype(precision(params))
    return loss(_apply(model, params, batch, key), targets)


def _apply(model: nn.Module, params: Any, batch: SequenceBatch, key: Array | None) -> Array:
    """The outputs, in the precision of the weights; without dropout if `key` is None."""
    rngs = None if key is None else {"dropout": key}
    xs = jnp.asarray(batch.inputs, precision(params)).swapaxes(0, 1)  # (T, B, I)
    outputs: Any = model.apply({"params": params}, xs, rngs=rngs, **_lengths(batch))
    return outputs


def _lengths(batch: SequenceBatch) -> dict[str, Any]:
    """The lengths as an option: a model for sequences of one length need not take them."""
    return {} if batch.lengths is None else {"lengths": batch.lengths}


def _on_device(batch: SequenceBatch) -> SequenceBatch:
    """The batch with its arrays on the device; integers as int32."""
    targets = batch.targets
    if np.issubdtype(targets.dtype, np.integer):
        targets = targets.astype(np.int32)
    lengths = None if batch.lengths is None else jnp.asarray(batch.lengths)
    return SequenceBatch(jnp.asarray(batch.inputs), jnp.asarray(targets), lengths)


def _shapes(source: Sequences) -> SequenceBatch:
    """The shapes of a batch of one sequence."""
    first = next(source.batches(np.arange(1)))
    shapes: SequenceBatch = jax.eval_shape(lambda: _on_device(first))
    return shapes


def _rates(
    optimizer: AnyOptimizer, schedule: Schedule, epoch: int, steps: int
) -> np.ndarray | list[None]:
    """The learning rate of each step of an epoch; None each where the optimizer brings its own."""
    if not isinstance(optimizer, Optimizer):
        return [None] * steps
    phase, first = schedule.phase(epoch)
    places = (epoch - first) * steps + np.arange(steps)  # counted from the start of the phase
    return phase.rates(places, steps)


def _mean(losses: list[Array], source: Sequences, where: str) -> float:
    """The mean over the sequences, from the means over the batches."""
    values = np.array([float(value) for value in losses])
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise NonFiniteLossError(
            f"The loss is {values[bad[0]]} at batch {bad[0] + 1} {where}. Try a smaller rate or "
            "clip, and look for NaN in the inputs."
        )
    sizes = np.full(len(values), source.batch_size)
    sizes[-1] = len(source) - sizes[:-1].sum()  # the last batch may be smaller
    return float(np.average(values, weights=sizes))


def _loss(loss: Any) -> Callable[[Array, Array], Array]:
    if callable(loss):
        try:
            inspect.signature(loss).bind(0, 0)
        except TypeError:
            raise ValueError(
                f"loss must be a function of (outputs, targets), got one of "
                f"{inspect.signature(loss)}."
            ) from None
        except ValueError:
            pass  # a function without a signature, such as a built-in one
        function: Callable[[Array, Array], Array] = loss
        return function
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(
            f"loss must be one of {', '.join(LOSSES)}, or a function of (outputs, targets); got "
            f"{loss!r:.60}."
        )
    return LOSSES[loss]


def _check_kinds(model: Any, source: Any) -> None:
    """Refuse what is no module of sequences and no sequences.

    Raises:
        ValueError: if one of them is of another kind.
    """
    if isinstance(model, RNN):
        raise ValueError(
            "An RNN gives an output a step; for one a sequence take "
            "jaxrnn.SequenceModel(outputs=..., cell=...), or a Flax module of your own."
        )
    if isinstance(model, CharModel):
        raise ValueError(
            f"{type(model).__name__} reads tokens: train it with jaxrnn.fit, or take "
            "jaxrnn.SequenceModel(outputs=..., cell=...) for sequences of numbers."
        )
    if not isinstance(model, nn.Module):
        raise ValueError(
            "model must be a Flax module such as jaxrnn.SequenceModel(outputs=...), got "
            f"{model!r:.60}."
        )
    if not isinstance(source, Sequences):
        raise ValueError(
            f"The data must be jaxrnn.Sequences(inputs, targets, lengths, batch_size=64), got "
            f"{type(source).__name__}."
        )


def _init(model: nn.Module, key: Array, shapes: SequenceBatch) -> Any:
    batch: SequenceBatch = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    xs = jnp.zeros(batch.inputs.shape).swapaxes(0, 1)  # (T, B, I)
    return model.init(key, xs, **_lengths(batch))


def _check_params(model: nn.Module, params: Any, source: Sequences) -> None:
    """Refuse parameters that are not those of the model, for such sequences.

    Raises:
        ValueError: if a name or a shape differs.
    """
    make = lambda key, shapes: _init(model, key, shapes)["params"]  # noqa: E731
    expected = jax.eval_shape(make, jax.random.key(0), _shapes(source))
    check_shapes(model, params, shapes_of_params(expected))


def _check_outputs(
    model: nn.Module, source: Sequences, loss: Callable[[Array, Array], Array]
) -> None:
    """Run the model and the loss on shapes alone.

    Raises:
        ValueError: if the model gives no array of one output a sequence, the loss no number, or a
            class has no output.
    """
    name = type(model).__name__
    # Two sequences: of one, a mistake of axes would not show.
    rows = np.arange(len(source))[:2]
    batch = next(source.batches(rows)) if source.batch_size > 1 else next(source.batches(rows[:1]))
    shapes = jax.eval_shape(lambda: _on_device(batch))

    def outputs_of(key: Array, batch: SequenceBatch) -> Any:
        xs = jnp.zeros(batch.inputs.shape).swapaxes(0, 1)  # (T, B, I)
        outputs, _ = model.init_with_output(key, xs, **_lengths(batch))
        return outputs

    outputs = jax.eval_shape(outputs_of, jax.random.key(0), shapes)
    if not hasattr(outputs, "shape") or outputs.shape[:1] != (len(batch.inputs),):
        raise ValueError(
            f"{name} must return one array with a row for each sequence, (B, ...); for B = "
            f"{len(batch.inputs)} it returns {described(outputs)}."
        )
    value = jax.eval_shape(loss, outputs, shapes.targets)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            "loss must give one number, the mean over the sequences of a batch; it gives "
            f"{described(value)}."
        )
    if loss is cross_entropy:
        classes = outputs.shape[-1]
        outside = source.targets[(source.targets < 0) | (source.targets >= classes)]
        if outside.size:
            raise ValueError(
                f"{name} has {classes} outputs, so classes must lie in [0, {classes}); got "
                f"{outside[0]}."
            )
