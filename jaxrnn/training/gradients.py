"""Does a training step compute the gradient of its own loss?

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

# h. Measured on the recipes of `jaxrnn self-check` in float64: the error of the differences grows
# with h^2, to 5e-6 at 1e-4; below 1e-5 the round-off of the loss, divided by h, takes over.
STEP = 1e-5
# Random directions for each parameter. One could lie at right angles to an error.
DIRECTIONS = 3
# Seed of the directions.
SEED = 0
# Number of the window in the first epoch: one that goes on from a carry.
WINDOW = 1
# Time steps of a segment, few enough that the window has several.
SEGMENT = 2

Dtype = Literal["float32", "float64"]

# Largest relative error of a gradient, by precision.
#
# Sound code, seeds 0 to 3 of each recipe of `jaxrnn self-check`, both backends: at most 5e-8 in
# float64 (error of the differences themselves) and 8e-7 in float32 (round-off).
TOLERANCES: dict[Dtype, float] = {"float64": 1e-5, "float32": 1e-4}

# For each parameter, the directions, and the slope of the loss along each of them.
Differences = Mapping[str, tuple[list[np.ndarray], np.ndarray]]

# An optimizer whose state is the last gradient: what a training step trains with.
_keeping = optax.GradientTransformation(
    init=lambda params: params, update=lambda gradients, state, params=None: (gradients, gradients)
)


class GradientError(NamedTuple):
    """How far one gradient is from the finite differences.

    Attributes:
        name: the parameter, or "carry".
        way: the backend of the recurrence.
        dtype: the precision.
        how: "training step", "training step in segments", or "cut", for the carry's gradient, which
            is zero.
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
        source: what it trains on.
        state: its weights and the carry of its first window.
        ways: the backends; every one that is available here if None.

    Returns:
        The error of each parameter's gradient, for each backend and precision; of a stateful model
        in segments as well, where the gradient flows back through the carry; and the gradient of
        the carry before the window, which truncated backpropagation cuts off.
    """
    windows = source.windows(0, WINDOW, 1)
    batch = batch_at(windows.with_tokens(on_device(source, model)), 0)
    errors: list[GradientError] = []
    # "highest": on a GPU, float32 products have 10 bits by default, and no tolerance would do.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        state = cast_floats(state, "float64")
        with backend("autodiff"):  # nothing of it was written by hand
            # The carry that the window itself leaves behind: no zeros hide a missing term.
            carry, _ = eval_step(model, state.params, state.carry, batch)
            differences = _differences(model, state.params, carry, batch)
        state = state._replace(opt_state=state.params, carry=carry)
        for way in _ways() if ways is None else ways:
            with backend(way):
                errors += _errors(model, state, batch, differences, way)
    return errors


def _ways() -> tuple[Backend, ...]:
    return ("scan",) if why_not_compiled() else ("compiled", "scan")


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

        directions = [generator.standard_normal(leaves[place].shape) for _ in range(DIRECTIONS)]
        slopes = []
        for direction in directions:
            after = loss_at(leaves[place] + STEP * direction)
            before = loss_at(leaves[place] - STEP * direction)
            slopes.append((after - before) / (2 * STEP))
        found[name] = (directions, np.array(slopes))
    return found


def _errors(
    model: CharModel, state: TrainState, batch: Batch, differences: Differences, way: Backend
) -> Iterator[GradientError]:
    """The errors on the backend that is chosen, from a state whose optimizer's is a gradient."""
    for dtype in TOLERANCES:
        with jax.enable_x64(dtype == "float64"):
            after, _ = train_step(model, _keeping, cast_floats(state, dtype), batch)
        yield from _compared(after.opt_state, differences, way, dtype, "training step")
    if model.reads == "streams":
        after, _ = train_step(model, _keeping, state, batch, remat_every=SEGMENT)
        yield from _compared(
            after.opt_state, differences, way, "float64", "training step in segments"
        )
        gradients = jax.jit(jax.grad(_loss_by_carry), static_argnums=1)(
            state.carry, model, state.params, batch
        )
        # Zero in every entry. What else there is, counts by the size of the weights' gradient.
        size = optax.tree.norm(gradients) / optax.tree.norm(after.opt_state)
        yield GradientError("carry", way, "float64", "cut", float(size))


def _loss_by_carry(carry: Carry, model: CharModel, params: Any, batch: Batch) -> jax.Array:
    return batch_loss(model, params, carry, batch)[0]


def _compared(
    gradients: Any, differences: Differences, way: Backend, dtype: Dtype, how: str
) -> Iterator[GradientError]:
    """Each parameter's gradient against the slopes."""
    for name, gradient in named_leaves(gradients).items():
        directions, slopes = differences[name]
        wide = np.asarray(gradient, np.float64)
        reported = np.array([np.vdot(wide, direction) for direction in directions])
        error = np.linalg.norm(reported - slopes) / np.linalg.norm(slopes)
        yield GradientError(name, way, dtype, how, float(error))
