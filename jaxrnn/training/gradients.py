"""A check that a training step computes the gradient of its own loss.

Training hides a wrong gradient: one that is transposed, halved or missing in a single weight still
lowers the loss, and where it ends differs from run to run. So the gradient itself is measured, on
one window of a run's own text, against finite differences of the loss, which need no backward pass:

    (L(p + h d) - L(p - h d)) / 2h  =  g . d  +  O(h^2)

for random directions d in each parameter p. For standard normal d, the root mean square of
differences minus g . d estimates the norm of the error of g, and that of the differences the norm
of the true gradient. Their ratio depends on the machine by round-off only.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from jaxrnn.nn.model import CharModel
from jaxrnn.recurrent.cells import Carry
from jaxrnn.recurrent.recurrence import Backend, backend, why_not_compiled
from jaxrnn.training.evaluation import Source, on_device
from jaxrnn.training.state import TrainState, cast_floats
from jaxrnn.training.steps import Batch, batch_at, batch_loss, eval_step, train_step
from jaxrnn.tree import named_leaves

# h, the step of the differences. Measured on the recipes of `jaxrnn self-check` in float64: the
# error of the differences grows with h^2, to 5e-6 at 1e-4; below 1e-5 the round-off of the loss,
# divided by h, takes over.
STEP = 1e-5
# Number of random directions for each parameter. One could lie at right angles to an error.
DIRECTIONS = 3
# Seed of the directions.
SEED = 0
# Index of the window in the first epoch: not the first one, so that it goes on from a carry.
WINDOW = 1
# Time steps between two stored carries, few enough that the window has several.
REMAT_EVERY = 2

Dtype = Literal["float32", "float64"]

# Largest relative error of a gradient, by precision.
#
# Sound code, seeds 0 to 3 of each recipe of `jaxrnn self-check`, both backends: at most 5e-8 in
# float64 (error of the differences themselves) and 8e-7 in float32 (round-off).
TOLERANCES: dict[Dtype, float] = {"float64": 1e-5, "float32": 1e-4}

# For each parameter, the directions, and the slope (DIRECTIONS,) of the loss along each of them.
Differences = Mapping[str, tuple[list[np.ndarray], np.ndarray]]

# An optimizer whose state is the gradient itself, as the training step computed it.
_gradient_state = optax.GradientTransformation(
    init=lambda params: params, update=lambda gradients, state, params=None: (gradients, gradients)
)


class GradientError(NamedTuple):
    """The error of one gradient against the finite differences.

    Attributes:
        name: the parameter, or "carry".
        way: the backend of the recurrence.
        dtype: the precision.
        how: "training step", "training step in segments", or "cut", for the carry's gradient, which
            is zero. ("In segments" means with `remat_every`.)
        error: the norm of the error over that of the gradient.
    """

    name: str
    way: Backend
    dtype: Dtype
    how: str
    error: float

    @property
    def ratio(self) -> float:
        """The error in units of its tolerance."""
        return self.error / TOLERANCES[self.dtype]


def gradient_errors(
    model: CharModel,
    source: Source,
    state: TrainState,
    ways: Sequence[Backend] | None = None,
) -> list[GradientError]:
    """Measure the gradients of a model's weights.

    Args:
        model: the model.
        source: the windows that it trains on.
        state: its weights and the carry of its first window.
        ways: the backends; every one that is available here if None.

    Returns:
        The error of each parameter's gradient, for each backend and precision; of a stateful model
        also with rematerialization, where the gradient flows back through the stored carries; and
        the gradient of the carry before the window, which truncated backpropagation cuts off.
    """
    windows = source.windows(0, WINDOW, 1)
    batch = batch_at(windows.with_tokens(on_device(source, model)), 0)
    available: tuple[Backend, ...] = ("scan",) if why_not_compiled() else ("compiled", "scan")
    errors: list[GradientError] = []
    # "highest": on a GPU, float32 products have 10 bits by default, and no tolerance would do.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        state = cast_floats(state, "float64")
        # The reference: a backend without a backward pass by hand.
        with backend("autodiff"):
            # The carry that the window itself leaves behind: no zeros hide a missing term.
            carry, _ = eval_step(model, state.params, state.carry, batch)
            differences = _differences(model, state.params, carry, batch)
        # The gradient has the structure of the parameters, and so has the optimizer's state.
        state = state._replace(opt_state=state.params, carry=carry)
        for way in ways or available:
            with backend(way):
                errors += _errors(model, state, batch, differences, way)
    return errors


def _differences(model: CharModel, params: Any, carry: Carry, batch: Batch) -> Differences:
    """The slopes of the loss by central differences, parameter by parameter."""
    generator = np.random.default_rng(SEED)
    leaves, tree = jax.tree.flatten(params)
    found = {}
    for place, name in enumerate(named_leaves(params)):

        def loss_at(moved: Any, place: int = place) -> float:
            """The loss with another value of this parameter."""
            others = [*leaves[:place], moved, *leaves[place + 1 :]]
            _, loss = eval_step(model, jax.tree.unflatten(tree, others), carry, batch)
            return float(loss)

        directions = []
        slopes = []
        for _ in range(DIRECTIONS):
            direction = generator.standard_normal(leaves[place].shape)
            after = loss_at(leaves[place] + STEP * direction)
            before = loss_at(leaves[place] - STEP * direction)
            directions.append(direction)
            slopes.append((after - before) / (2 * STEP))
        found[name] = (directions, np.array(slopes))
    return found


def _errors(
    model: CharModel, state: TrainState, batch: Batch, differences: Differences, way: Backend
) -> Iterator[GradientError]:
    """The errors on the backend that is chosen, from a state for `_gradient_state`."""
    # The training step, in each precision.
    for dtype in TOLERANCES:
        with jax.enable_x64(dtype == "float64"):
            after, _ = train_step(model, _gradient_state, cast_floats(state, dtype), batch)
        yield from _compared(after.opt_state, differences, way, dtype, "training step")
    # Where the gradient flows from one part of the window to the part before.
    if model.reads == "streams":
        after, _ = train_step(model, _gradient_state, state, batch, remat_every=REMAT_EVERY)
        yield from _compared(
            after.opt_state, differences, way, "float64", "training step in segments"
        )
        by_carry = jax.jit(jax.grad(batch_loss, argnums=2, has_aux=True), static_argnums=0)
        gradients, _ = by_carry(model, state.params, state.carry, batch)
        # It must be zero: any other norm is an error, relative to that of the weights' gradient.
        size = optax.tree.norm(gradients) / optax.tree.norm(after.opt_state)
        yield GradientError("carry", way, "float64", "cut", float(size))


def _compared(
    gradients: Any, differences: Differences, way: Backend, dtype: Dtype, how: str
) -> Iterator[GradientError]:
    """Each parameter's gradient against the slopes."""
    for name, gradient in named_leaves(gradients).items():
        directions, slopes = differences[name]
        wide = np.asarray(gradient, np.float64)
        along = np.array([np.vdot(wide, direction) for direction in directions])  # g . d
        error = np.linalg.norm(along - slopes) / np.linalg.norm(slopes)
        yield GradientError(name, way, dtype, how, float(error))
