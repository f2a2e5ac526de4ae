"""A training loss of one's own: any function of the outputs, the targets and the model.

Shapes: T time steps, B batch, V vocabulary, H hidden size.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrnn.nn.model import CharModel
from jaxrnn.recurrent.dry_run import in_words

# `loss(outputs, targets, model)`: outputs (T, B, V) or, of a model that predicts the next token
# alone, (B, V), and the targets without V. It returns the loss of each target, whose mean is taken,
# or the mean itself.
Loss: TypeAlias = Callable[..., Any]

# What a loss may ask for as well, by the name of a parameter: `hidden`, the outputs of the
# recurrent layers, (T, B, H), and `weights`, as the targets, 0 where a target only fills the array.
EXTRAS = ("hidden", "weights")


def check_loss(loss: Any) -> None:
    """Refuse what cannot be called as a loss.

    Raises:
        ValueError: if it is no function, or takes other arguments.
    """
    words = (
        "loss must be a function of (outputs, targets, model), which may take hidden and weights "
        "as well"
    )
    if not callable(loss):
        raise ValueError(f"{words}, got {loss!r:.60}.")
    try:
        signature = inspect.signature(loss)
    except ValueError:
        return  # a function without a signature, such as a built-in one
    try:
        signature.bind(0, 0, 0, **dict.fromkeys(extras_of(loss)))
    except TypeError:
        raise ValueError(f"{words}, got one of {signature}.") from None


def extras_of(loss: Loss) -> list[str]:
    """What a loss asks for beyond outputs, targets and model."""
    try:
        parameters = inspect.signature(loss).parameters
    except ValueError:
        return []
    return [name for name in EXTRAS if name in parameters]


def own_loss(
    loss: Loss,
    model: CharModel,
    outputs: Float[Array, "*T B V"],
    targets: Int[Array, "*T B"],
    *,
    hidden: Float[Array, "T B H"] | None,
    weights: Float[Array, "*T B"] | None,
) -> Float[Array, ""]:
    """The mean loss by a function of one's own.

    Args:
        loss: the function.
        model: the model.
        outputs: what the model predicts.
        targets: the true tokens.
        hidden: the outputs of the recurrent layers, if the function asks for them.
        weights: the weight of each target; one each if None.

    Raises:
        ValueError: if the function returns another shape, or no number, or decides by a value.
    """
    extras: dict[str, Any] = {"hidden": hidden, "weights": weights}
    if weights is None:
        extras["weights"] = jnp.ones(targets.shape, outputs.dtype)
    asked = {name: extras[name] for name in extras_of(loss)}
    try:
        value = loss(outputs, targets, model, **asked)
    except jax.errors.JAXTypeError as error:  # a value that is not known while it is traced
        raise ValueError(f"loss fails: {in_words(error)}") from error
    shape = getattr(value, "shape", None)
    numbers = shape is not None and jnp.issubdtype(value.dtype, jnp.floating)
    if not numbers or shape not in ((), targets.shape):
        got = f"shape {shape} of {value.dtype}" if shape is not None else f"{value!r:.40}"
        raise ValueError(
            f"loss must return the loss of each target, of shape {targets.shape}, or one number, "
            f"got {got}."
        )
    value = value.astype(outputs.dtype)
    if shape == () or weights is None:
        return value.mean()
    return (value * weights).sum() / weights.sum()
