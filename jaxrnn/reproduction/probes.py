"""What is measured on a trained model for the studies, beside its validation loss.

Shapes: T time steps, B batch, H hidden size.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxrnn.data.windows import WindowSet
from jaxrnn.nn.model import StatefulModel, apply_model
from jaxrnn.nn.models import CharSeqStatefulRnn
from jaxrnn.recurrent.cells import Carry
from jaxrnn.runs.experiment import Experiment, prepare
from jaxrnn.training.evaluation import evaluate
from jaxrnn.training.state import cast_floats

STEPS_BACK = 100
"""How far back gradients are followed."""
ROWS = 64
"""Places in the text over which their norms are averaged."""


def loss_on_shared_windows(experiment: Experiment, params: Any) -> float:
    """The mean loss on the windows that the random and the contiguous split both hold out.

    Two models that were trained on different splits are judged on the same text there. The windows
    lie in the last fifth of the text. Training on the random split has read the text around them,
    training on the contiguous one has not.

    Args:
        experiment: of a windowed model, with either split.
        params: the trained parameters.

    Returns:
        Nats per character.
    """
    held_out = [
        prepare(replace(experiment.config, split=split)).validation
        for split in ("random", "contiguous")
    ]
    assert all(isinstance(source, WindowSet) for source in held_out)
    starts = np.intersect1d(*(source.starts for source in held_out))  # type: ignore[attr-defined]
    source = replace(held_out[0], starts=starts)  # type: ignore[type-var]
    return evaluate(experiment.model, params, source)[1]


def gradient_flow(experiment: Experiment, params: Any) -> list[float]:
    """How much of the last character's loss comes back to each step before it.

    Args:
        experiment: of a `CharSeqRnn`, whose parameters are those of a `CharSeqStatefulRnn`.
        params: the parameters.

    Returns:
        The norm |d loss / d h|₂ of the hidden state 1, 2, ... `STEPS_BACK` steps before the last,
        mean over `ROWS` places spread over the text, each read from a zero carry.
    """
    config, tokens = experiment.config, experiment.validation.tokens
    model = CharSeqStatefulRnn(experiment.model.vocabulary, config.embedding, config.hidden)
    length = STEPS_BACK + 2  # the last is only a target
    places = np.linspace(0, len(tokens) - length, ROWS).astype(int)
    read = jnp.asarray(tokens[places + np.arange(length)[:, None]])
    with jax.enable_x64(True):  # a norm may fall below what float32 can hold
        norms = _norms(model, cast_floats(params, "float64"), read[:-1], read[-1])
    return [float(norm) for norm in norms[::-1]]


def _norms(
    model: StatefulModel, params: Any, tokens: Int[Array, "T B"], target: Int[Array, " B"]
) -> Float[Array, " T"]:
    """The mean norm of the gradient of the loss after the last step, by each earlier state."""

    def loss(added: Float[Array, "T B H"]) -> Array:
        """The sum over rows, of which each depends on its own states alone."""

        def step(carry: Carry, given: tuple[Array, Array]) -> tuple[Carry, Array]:
            token, more = given
            carry, log_probs = apply_model(model, params, carry, token[None])
            moved = jax.tree.map(lambda h: h + more, carry)
            return moved, log_probs[0]

        start = model.initial_carry(tokens.shape[1], added.dtype)
        # What is added to a state is seen by the steps after it: the loss is one step later.
        carry, _ = lax.scan(step, start, (tokens[:-1], added))
        _, log_probs = apply_model(model, params, carry, tokens[-1:])
        return -jnp.take_along_axis(log_probs[-1], target[:, None], axis=-1).sum()

    steps, batch = tokens.shape
    nothing = jnp.zeros((steps - 1, batch, model.hidden), jax.tree.leaves(params)[0].dtype)
    return jnp.linalg.norm(jax.grad(loss)(nothing), axis=-1).mean(axis=-1)
