"""Training and evaluation steps: pure functions of a state and the windows to read.

Shapes: T time steps, B batch, V vocabulary, N tokens of the corpus, S steps in one program.
"""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from jaxrnn.array_checks import as_integers, as_real, check_arrays
from jaxrnn.checks import check_tokens
from jaxrnn.data.windows import Windows
from jaxrnn.nn.losses import nll_loss
from jaxrnn.nn.model import (
    CharModel,
    apply_model,
    apply_with_hidden,
    check_char_model,
)
from jaxrnn.programs import bounded_jit
from jaxrnn.recurrent.cells import Carry
from jaxrnn.training.losses import Loss, check_loss, extras_of, own_loss
from jaxrnn.training.optimizers import AnyOptimizer, check_rate, updated
from jaxrnn.training.remat import remat_loss
from jaxrnn.training.state import TrainState, carry_for, check_state, repackage

# Here and not beside the class: `data` needs NumPy alone. The sizes decide what is compiled.
jax.tree_util.register_dataclass(
    Windows,
    data_fields=["tokens", "starts", "lengths", "rows"],
    meta_fields=["sizes", "padded"],
)

# Number of combinations of model, optimizer and `remat_every` whose single steps stay compiled: a
# user's loop may go through many in turn.
SINGLE_STEPS = 32


class Metrics(NamedTuple):
    """The metrics of a step.

    Attributes:
        loss: in nats per character, or what a loss of one's own counts in.
        gradient_norm: the gradient's norm, unclipped.
        update_norm: the norm of the update, which was added to the parameters.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    update_norm: Float[Array, ""]


class Batch(NamedTuple):
    """The characters of one step.

    Attributes:
        inputs: (T, B) tokens.
        targets: (T, B), the token after each.
        length: number of the T steps that count, or None for all.
        rows: number of the B rows that count, or None for all.
    """

    inputs: Int[Array, "T B"]
    targets: Int[Array, "T B"]
    length: Int[Array, ""] | None = None
    rows: Int[Array, ""] | None = None


def batch_loss(
    model: CharModel,
    params: Any,
    carry: Carry,
    batch: Batch,
    key: Array | None = None,
    *,
    remat_every: int | None = None,
    loss: Loss | None = None,
) -> tuple[Float[Array, ""], Carry]:
    """The loss on one window, in nats per character, and the carry after it.

    Args:
        model: the model.
        params: its parameters.
        carry: the carry before the window; its history is cut off here.
        batch: the characters. Where the model predicts only the next character, the target is
            the last one.
        key: the random key of the dropout masks; None leaves dropout out.
        remat_every: number of steps whose activations are in memory at once; the others are
            computed again (`jaxrnn.training.remat`). None stores all.
        loss: a loss of one's own, see `jaxrnn.training.losses`; the mean negative log likelihood
            if None.
    """
    inputs = as_integers("inputs", batch.inputs, ("T", "B"))
    targets = as_integers("targets", batch.targets, inputs.shape)
    steps, rows = inputs.shape
    # Truncated backpropagation: no gradient flows into the window before.
    carry = repackage(carry_for(model, params, carry, rows))
    lengths = None if batch.length is None else jnp.full(rows, batch.length)
    if remat_every is not None:
        if loss is not None:
            raise ValueError("remat_every has a loss of its own: leave it or loss out.")
        weights = _weights(batch, steps, rows, jax.tree.leaves(params)[0].dtype)
        return remat_loss(
            model,
            params,
            carry,
            inputs,
            targets,
            remat_every=remat_every,
            weights=weights,
            lengths=lengths,
            key=key,
        )
    hidden = None
    if loss is not None and "hidden" in extras_of(loss):
        carry, log_probs, hidden = apply_with_hidden(
            model, params, carry, inputs, lengths=lengths, dropout_key=key
        )
    else:
        carry, log_probs = apply_model(
            model, params, carry, inputs, lengths=lengths, dropout_key=key
        )
    weights = _weights(batch, steps, rows, log_probs.dtype)
    if log_probs.ndim == 2:
        # One prediction a window, (B, V): only the last target counts.
        targets = targets[-1]  # (B,)
        if weights is not None:
            weights = weights[-1]
    if loss is not None:
        mean = own_loss(loss, model, log_probs, targets, hidden=hidden, weights=weights)
        return mean, carry
    return nll_loss(log_probs, targets, weights), carry


def host_checked(step: Any) -> Any:
    """A step of `model` that refuses, before it is traced, what only the host can see.

    That is NumPy tokens outside [0, V) in a `Batch`, and leaves that are no arrays.
    """
    names = list(inspect.signature(step).parameters)[1:]  # without the model

    @wraps(step)
    def checked(model: CharModel, *arguments: Any, **options: Any) -> Any:
        """The step, after the checks."""
        check_char_model(model)
        named = dict(zip(names, arguments, strict=False)) | options
        for name, value in named.items():
            if isinstance(value, Batch):
                for tokens in (value.inputs, value.targets):
                    # Values on the device are not checked: the host would wait for them.
                    if not isinstance(tokens, jax.Array):
                        check_tokens(tokens, model.vocab_size)
                for count in ("length", "rows"):
                    if getattr(value, count) is not None:
                        as_integers(f"{count} of the batch", getattr(value, count), ())
            elif name == "rate" and value is not None:
                as_real("rate", value)
            elif name == "batch":
                raise ValueError(
                    "batch must be a Batch: jaxrnn.Batch(inputs, targets), time first, got a "
                    f"{type(value).__name__}."
                )
            elif name in ("state", "params", "carry"):
                check_arrays(**{name: value})
        return step(model, *arguments, **options)

    return checked


@host_checked
@bounded_jit(static_argnames=("model", "optimizer", "remat_every", "loss"), sets=SINGLE_STEPS)
def train_step(
    model: CharModel,
    optimizer: AnyOptimizer,
    state: TrainState,
    batch: Batch,
    rate: Float[Array, ""] | float | None = None,
    *,
    remat_every: int | None = None,
    loss: Loss | None = None,
) -> tuple[TrainState, Metrics]:
    """One update: forward, loss, backward through this window only, optimizer.

    Args:
        model: the model (static).
        optimizer: from `make_optimizer`, or any of optax's (static).
        state: the state; the window goes on from its carry. If the batch size has changed, the
            carry starts from zeros.
        batch: the characters.
        rate: the learning rate of an optimizer from `make_optimizer`; None for one of optax's,
            which brings its own.
        remat_every: as in `batch_loss`, for windows too long for the memory (static).
        loss: a function of outputs, targets and model, as in `batch_loss` (static).

    Raises:
        ValueError: if a token of a NumPy array is outside [0, V), or if optimizer and rate do not
            fit. Arrays on the device are not looked at, which would wait for it.
    """
    return _update(model, optimizer, state, batch, rate, remat_every, loss)


@host_checked
@bounded_jit(static_argnames=("model",), sets=SINGLE_STEPS)
def eval_step(
    model: CharModel, params: Any, carry: Carry, batch: Batch
) -> tuple[Carry, Float[Array, ""]]:
    """The carry after one window, and the loss on it, in nats per character.

    Raises:
        ValueError: as `train_step`.
    """
    loss, carry = batch_loss(model, params, carry, batch)
    return carry, loss


@bounded_jit(static_argnames=("model", "optimizer", "loss"), donate_argnames=("state",))
def train_steps(
    model: CharModel,
    optimizer: AnyOptimizer,
    state: TrainState,
    windows: Windows,
    rates: Float[Array, " S"] | None,
    count: Int[Array, ""],
    loss: Loss | None = None,
) -> tuple[TrainState, Metrics]:
    """The first `count` of S updates in one program. The buffers of `state` are donated.

    Args:
        model: the model (static).
        optimizer: from `make_optimizer`, or any of optax's (static).
        state: the state; its carry must be of the windows' batch size.
        windows: the windows of the S steps; their tokens are on the device already, or are copied
            there at each call.
        rates: the learning rate of each step; None where the optimizer brings its own.
        count: number of steps to make, in [0, S].
        loss: a function of outputs, targets and model, as in `batch_loss` (static).

    Returns:
        The state, and the metrics of each step, (S,); zeros from `count` on.
    """

    def body(i: Array, carried: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, metrics = carried
        rate = None if rates is None else rates[i]
        update = partial(_update, model, optimizer, state, rate=rate, loss=loss)
        state, new = _at_size(update, windows, i)
        return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), metrics, new)

    # A loop whose length is an argument: any number of steps is the same program.
    zeros = jnp.zeros(len(windows.lengths), jax.tree.leaves(state.params)[0].dtype)
    return lax.fori_loop(0, count, body, (state, Metrics(zeros, zeros, zeros)))


@bounded_jit(static_argnames=("model",))
def eval_steps(
    model: CharModel,
    params: Any,
    carry: Carry,
    windows: Windows,
    count: Int[Array, ""],
) -> tuple[Carry, Float[Array, " S"]]:
    """The losses on the first `count` of S windows in one program; see `train_steps`."""

    def body(i: Array, carried: tuple[Carry, Array]) -> tuple[Carry, Array]:
        carry, losses = carried

        def evaluate(batch: Batch) -> tuple[Carry, Array]:
            loss, after = batch_loss(model, params, carry, batch)
            return after, loss

        carry, loss = _at_size(evaluate, windows, i)
        return carry, losses.at[i].set(loss)

    zeros = jnp.zeros(len(windows.lengths), jax.tree.leaves(params)[0].dtype)
    return lax.fori_loop(0, count, body, (carry, zeros))


def _update(
    model: CharModel,
    optimizer: AnyOptimizer,
    state: TrainState,
    batch: Batch,
    rate: Array | float | None,
    remat_every: int | None = None,
    loss: Loss | None = None,
) -> tuple[TrainState, Metrics]:
    if loss is not None:
        check_loss(loss)
    check_rate(optimizer, rate)
    check_state(state, optimizer, model)
    key = jax.random.fold_in(state.key, state.step)  # of this step's dropout masks

    # Without one, the call is the usual one.
    given: dict[str, Any] = {} if loss is None else {"loss": loss}

    def loss_of(params: Any) -> tuple[Array, Carry]:
        return batch_loss(model, params, state.carry, batch, key, remat_every=remat_every, **given)

    (mean, carry), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    params, updates, opt_state = updated(
        optimizer,
        gradients,
        state.opt_state,
        state.params,
        rate,
        value=mean,
        grad=gradients,
        value_fn=lambda params: loss_of(params)[0],
    )
    after = TrainState(params, opt_state, carry, state.step + 1, state.key)
    # An optimizer may compute in a wider type than the model.
    update_norm = optax.tree.norm(updates).astype(mean.dtype)
    return after, Metrics(mean, optax.tree.norm(gradients), update_norm)


def batch_at(windows: Windows, i: int) -> Batch:
    """The tokens of step i, as `train_steps` cuts them."""
    length = int(windows.lengths[i])
    size = next(size for size in windows.sizes if size >= length)
    return _cut(windows, i, size)


def _at_size(function: Callable[[Batch], Any], windows: Windows, i: Array) -> Any:
    """Apply `function` to the tokens of step i, padded to the smallest size that holds them."""

    def branch(size: int) -> Any:
        return function(_cut(windows, i, size))

    if len(windows.sizes) == 1:
        return branch(windows.sizes[0])
    # Shapes are static: one branch for each size.
    which = jnp.searchsorted(np.asarray(windows.sizes), windows.lengths[i])
    return lax.switch(which, [partial(branch, size) for size in windows.sizes])


def _cut(windows: Windows, i: Array | int, size: int) -> Batch:
    """Cut `size` tokens and their targets at each start of step i out of the text."""
    starts = jnp.asarray(windows.starts[i])  # (B,)
    # Without padding, a model needs no mask over the steps.
    length = jnp.asarray(windows.lengths[i]) if windows.padded else None
    rows = jnp.asarray(windows.rows[i])
    positions = starts[None, :] + jnp.arange(size + 1)[:, None]  # (size + 1, B)
    tokens = jnp.asarray(windows.tokens)
    # Rows that only fill the array may lie behind the end of the text.
    found = tokens.at[positions].get(mode="clip").astype(jnp.int32)  # (size + 1, B)
    return Batch(found[:-1], found[1:], length, rows)


def _weights(batch: Batch, steps: int, rows: int, dtype: Any) -> Array | None:
    """1 where a target counts, 0 where it fills the array: (T, B)."""
    if batch.length is None and batch.rows is None:
        return None
    length = steps if batch.length is None else batch.length
    counted = rows if batch.rows is None else batch.rows
    step_mask = jnp.arange(steps) < length  # (T,)
    row_mask = jnp.arange(rows) < counted  # (B,)
    return (step_mask[:, None] & row_mask[None, :]).astype(dtype)  # (T, B)
