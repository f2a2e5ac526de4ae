"""Optimizers with PyTorch's arithmetic, as optax transformations without a learning rate.

The learning rate is an argument of the training step, which subtracts `rate` times what the
transformation returns. So one compiled step serves every schedule, and Adam's moments go on when
the rate is set by hand between two blocks.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

CLIP_EPSILON = 1e-6
"""torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6; optax divides by the norm."""

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]


def clip_by_norm(norm: float) -> optax.GradientTransformation:
    """Scale the gradient down to `norm` where its norm is larger.

    gradient * min(1, norm / (|gradient| + 1e-6)), as `torch.nn.utils.clip_grad_norm_`.
    """
    if not norm > 0:
        raise ValueError(f"clip must be above 0, got {norm}.")

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        scale = jnp.minimum(1, norm / (optax.tree.norm(updates) + CLIP_EPSILON))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class AdamState(NamedTuple):
    """The moments of Adam and the number of updates made."""

    step: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def scale_by_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam's direction, m / (sqrt(v) + eps) with both moments corrected for their bias.

    As `optax.scale_by_adam`, but that the corrections 1 - b ** count are exact: optax takes the
    power in float32, where 1 - 0.999 ** 1 is 1.3e-5 off. `expm1` is not.
    Kingma and Ba 2015, https://arxiv.org/abs/1412.6980.
    """

    def init(params: optax.Params) -> AdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return AdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(
        updates: optax.Updates, state: AdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        """The direction of a step, to be scaled by the learning rate, and the next state."""
        count = state.step + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            correct_m, correct_v = _bias(b1, count, m.dtype), _bias(b2, count, v.dtype)
            return m / correct_m / (jnp.sqrt(v / correct_v) + eps)

        return jax.tree.map(direction, mu, nu), AdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _bias(decay: float, count: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """1 - decay ** count, to the last digit of the wider of float32 and `dtype`."""
    wide = jnp.promote_types(dtype, jnp.float32)
    return (-jnp.expm1(count.astype(wide) * jnp.log1p(jnp.asarray(decay - 1, wide)))).astype(dtype)


def adam(*, weight_decay: float = 0.0, decoupled: bool = False) -> optax.GradientTransformation:
    """`torch.optim.Adam`, or AdamW if the weight decay is decoupled from the gradient.

    Coupled decay adds `weight_decay * p` to the gradient before the moments (L2 regularisation);
    decoupled decay adds it to the direction (Loshchilov and Hutter 2019,
    https://arxiv.org/abs/1711.05101).
    """
    if decoupled:
        return optax.chain(scale_by_adam(), optax.add_decayed_weights(weight_decay))
    if weight_decay:
        return optax.chain(optax.add_decayed_weights(weight_decay), scale_by_adam())
    return scale_by_adam()


def sgd(*, momentum: float = 0.0, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """`torch.optim.SGD`: the gradient, or its running sum v = momentum * v + gradient."""
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, optax.trace(momentum) if momentum else optax.identity())


def rmsprop(*, momentum: float = 0.0, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """`torch.optim.RMSprop`: gradient / (sqrt(v) + 1e-8), v an average of decay 0.99."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False),
        optax.trace(momentum) if momentum else optax.identity(),
    )


def make_optimizer(
    name: OptimizerName,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """An optimizer by name, behind clipping by norm if `clip` is given.

    Args:
        name: "adam", "adamw", "sgd" or "rmsprop".
        weight_decay: L2, added to the gradient; for "adamw", decoupled.
        momentum: for "sgd" and "rmsprop", in [0, 1).
        clip: the largest gradient norm, above 0.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}.")
    if momentum and name in ("adam", "adamw"):
        raise ValueError(f"momentum is for sgd and rmsprop; {name} has its own.")
    optimizer = OPTIMIZERS[name](weight_decay, momentum)
    return optimizer if clip is None else optax.chain(clip_by_norm(clip), optimizer)


OPTIMIZERS: dict[str, Callable[[float, float], optax.GradientTransformation]] = {
    "adam": lambda decay, momentum: adam(weight_decay=decay),
    "adamw": lambda decay, momentum: adam(weight_decay=decay, decoupled=True),
    "sgd": lambda decay, momentum: sgd(weight_decay=decay, momentum=momentum),
    "rmsprop": lambda decay, momentum: rmsprop(weight_decay=decay, momentum=momentum),
}
