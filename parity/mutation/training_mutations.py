"""Mutations of what surrounds a model: data, carry, optimizers, rates, initialization."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn.nn.layers
import jaxrnn.recurrent.layer
from jaxrnn.data.windows import BpttStream, Windows, WindowSet
from jaxrnn.generation import decoding, sampler
from jaxrnn.training import optimizers, steps
from jaxrnn.training.schedules import CosineRestarts
from parity.mutation.tools import Mutation, replaced, wrapped

# The carry, and the characters of a window.


def carry_with(change: Callable[[Any, Any], Any]) -> Mutation:
    """The carry that a window leaves behind as `change(before, after)`."""

    def around(batch_loss: Any) -> Any:
        def run(model: Any, params: Any, carry: Any, *rest: Any, **options: Any) -> Any:
            loss, after = batch_loss(model, params, carry, *rest, **options)
            return loss, jax.tree.map(change, carry, after)

        return run

    return wrapped(steps, "batch_loss", around)


def history_kept() -> Mutation:
    """The carry is not cut: gradients flow into the window before."""
    return replaced(steps, "repackage", lambda carry: carry)


def batch_with(change: Callable[[Any], Any]) -> Mutation:
    """The characters of a window, once cut, as `change(batch)`."""
    return wrapped(steps, "_cut", lambda cut: lambda *args: change(cut(*args)))


def windows_with(
    kind: type[BpttStream] | type[WindowSet], change: Callable[..., Windows]
) -> Mutation:
    """Where windows lie as `change(windows, source)`."""

    def around(windows: Any) -> Any:
        # Called as a method: `self` is the source.
        return lambda self, *args: change(windows(self, *args), self)

    return wrapped(kind, "windows", around)


def interleaved(windows: Windows, source: Any) -> Windows:
    """Stream b has every B-th character's neighborhood instead of the b-th part."""
    # Row b of a batch starts at b * rows in the right order.
    columns = np.arange(source.batch_size)
    return replace(windows, starts=windows.starts - columns * source.rows + columns)


# Optimizers, from optax's own.


def adam_with(
    direction: Callable[[Any, Any, Any, Any, float], Any],
    *,
    b2: float | None = None,
    dtype: str | None = None,
) -> Mutation:
    """Adam whose direction is `direction(m, v, c1, c2, eps)`, c1 and c2 the bias corrections.

    They are computed in `dtype`, or in that of the gradients.
    """

    def make(b1: float = 0.9, decay: float = 0.999, eps: float = 1e-8) -> Any:
        decay = decay if b2 is None else b2
        # The moments are optax's; only the direction is another.
        plain = optax.scale_by_adam(b1, decay, eps)

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            after = plain.update(updates, state, params)[1]
            # The corrections are made in `dtype`, and used in the gradient's precision.
            wide = jax.tree.leaves(updates)[0].dtype
            count = after.count.astype(dtype or wide)
            c1 = (1 - b1**count).astype(wide)
            c2 = (1 - decay**count).astype(wide)
            moved = jax.tree.map(lambda m, v: direction(m, v, c1, c2, eps), after.mu, after.nu)
            return moved, after

        return optax.GradientTransformation(plain.init, update)

    return replaced(optimizers, "scale_by_adam", make)


def adam_direction(m: Any, v: Any, c1: Any, c2: Any, eps: float) -> Any:
    """As it should be."""
    return m / c1 / (jnp.sqrt(v / c2) + eps)


def adam_arguments(**changes: Any) -> Mutation:
    """`adam` called with other options than it was asked for."""
    return wrapped(
        optimizers, "adam", lambda adam: lambda **options: adam(**{**options, **changes})
    )


def clip_with(scale: Callable[[Any, float], Any]) -> Mutation:
    """Clipping that multiplies the gradient by `scale(gradient, norm)`."""

    def make(norm: float) -> Any:
        def update(updates: Any, state: Any, params: Any = None) -> Any:
            return scale(updates, norm), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    return replaced(optimizers, "clip_by_norm", make)


def clipped_by_value(updates: Any, norm: float) -> Any:
    """Every entry on its own."""
    return jax.tree.map(lambda g: jnp.clip(g, -norm, norm), updates)


def clipped_by_leaf(updates: Any, norm: float) -> Any:
    """Every parameter on its own."""

    def clip(g: Any) -> Any:
        return g * jnp.minimum(1, norm / (jnp.linalg.norm(g.ravel()) + 1e-6))

    return jax.tree.map(clip, updates)


def clipping_the_direction() -> Mutation:
    """An optimizer that clips what comes behind the moments in the place of the gradient."""

    def make(self: Any) -> Any:
        direction = self.direction(**dict(self.options))
        if self.clip is None:
            return direction
        return optax.chain(direction, optimizers.clip_by_norm(self.clip))

    return replaced(optimizers.Optimizer, "_transformation", property(make))


def decay_behind_the_momentum() -> Mutation:
    """SGD that adds the weight decay to the running sum, which does not see it."""

    def direction(momentum: float, weight_decay: float) -> Any:
        return optax.chain(optax.trace(momentum), optax.add_decayed_weights(weight_decay))

    return replaced(optimizers, "_sgd_direction", direction)


def norm_of_the_update_reported() -> Mutation:
    """A step that reports the norm of the update in the place of the gradient's."""

    def around(metrics: Any) -> Any:
        return lambda loss, gradient_norm, update_norm: metrics(loss, update_norm, update_norm)

    return wrapped(steps, "Metrics", around)


def trace_with(**changes: Any) -> Mutation:
    """Momentum with other options."""
    return wrapped(optax, "trace", lambda trace: lambda decay: trace(decay, **changes))


def rms_with(**changes: Any) -> Mutation:
    """RMSprop with other options."""

    def around(scale: Any) -> Any:
        return lambda **options: scale(**{**options, **changes})

    return wrapped(optax, "scale_by_rms", around)


# Rates, generation, validation, initialization.


def rates_one_step_late() -> Mutation:
    """Each step has the learning rate of the step before."""

    def around(rates: Any) -> Any:
        return lambda self, at, per_epoch: rates(self, np.maximum(at - 1, 0), per_epoch)

    return wrapped(CosineRestarts, "rates", around)


@contextlib.contextmanager
def wrong_choice() -> Iterator[None]:
    """Greedy generation takes the second most likely character."""

    def allowed(rules: Any, log_probs: Any) -> Any:
        second = jnp.argsort(log_probs, axis=-1)[:, -2:-1]
        return jnp.where(jnp.arange(log_probs.shape[-1]) == second, 0.0, -jnp.inf)

    # The compiled loop chooses by itself, so it may not run.
    with (
        replaced(sampler, "allowed_by", allowed),
        replaced(decoding, "runs_compiled", lambda components: False),
    ):
        yield


def without_carry(evaluation: Any) -> Any:
    """Validation that starts from zeros and leaves zeros behind."""

    def run(model: Any, params: Any, source: Any, carry: Any, *rest: Any, **options: Any) -> Any:
        return evaluation(model, params, source, None, *rest, **options)

    return run


def forgetful_start() -> Mutation:
    """The forget gate of an LSTM starts with a bias of 1, as some libraries do it."""

    def around(uniform: Any) -> Any:
        def make(bound: float) -> Any:
            def init(key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
                value = uniform(bound)(key, shape, dtype)
                if len(shape) != 1:  # a weight
                    return value
                quarter = shape[0] // 4  # (4 * H,) in the order i, f, g, o
                return value.at[quarter : 2 * quarter].add(1.0)

            return init

        return make

    return wrapped(jaxrnn.recurrent.layer, "uniform", around)


def small_embed(vocab_size: int, features: int, *, init: Any = None, name: Any = None) -> Any:
    """An embedding of deviation 0.1."""
    return jaxrnn.nn.layers.embed(vocab_size, features, init=nn.initializers.normal(0.1), name=name)
