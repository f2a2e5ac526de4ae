"""Optimizers with PyTorch's arithmetic, whose learning rate is an argument of each update.

So one compiled step serves every schedule, and Adam's moments go on when the rate is set by hand
between two blocks. An `Optimizer` and a transformation of optax's are applied in the same way:
their updates carry the minus sign, and `optax.apply_updates` adds them to the parameters. The type
distinguishes the two: an `Optimizer` needs a rate, a transformation brings its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxrnn.checks import check_not_negative, check_share, check_text, is_number, shown
from jaxrnn.registry import Registry

# torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6; optax divides by the norm.
CLIP_EPSILON = 1e-6


def clip_by_norm(norm: float) -> optax.GradientTransformation:
    """Scale the gradient down to `norm` where its norm is larger.

    gradient * min(1, norm / (|gradient| + 1e-6)), as `torch.nn.utils.clip_grad_norm_`.
    """
    check_clip(norm)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        # One norm over all parameters together, not one for each.
        scale = jnp.minimum(1, norm / (optax.tree.norm(updates) + CLIP_EPSILON))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def check_clip(norm: float) -> None:
    """Refuse a norm that nothing could be clipped to."""
    if not is_number(norm) or not norm > 0:
        raise ValueError(f"clip must be above 0, got {shown(norm)}.")


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
        mu = jax.tree.map(jnp.zeros_like, params)
        nu = jax.tree.map(jnp.zeros_like, params)  # not the same buffers: both are donated
        return AdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(
        updates: optax.Updates, state: AdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        """The direction of a step, to be scaled by the learning rate, and the next state."""
        count = state.step + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            # Both moments start at zero: divided by 1 - b ** count, they are unbiased.
            unbiased_m = m / _bias(b1, count, m.dtype)
            unbiased_v = v / _bias(b2, count, v.dtype)
            return unbiased_m / (jnp.sqrt(unbiased_v) + eps)

        return jax.tree.map(direction, mu, nu), AdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _bias(decay: float, count: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """1 - decay ** count, to the last digit of the wider of float32 and `dtype`."""
    # 1 - b^n = -expm1(n log b): no difference of two numbers close to 1.
    wide = jnp.promote_types(dtype, jnp.float32)
    log_decay = jnp.log1p(jnp.asarray(decay - 1, wide))
    return (-jnp.expm1(count.astype(wide) * log_decay)).astype(dtype)


@dataclass(frozen=True)
class Optimizer:
    """An optimizer whose learning rate is an argument of each update.

    Optimizers of equal settings are equal and hash alike, so a second training compiles nothing.
    Any direction of optax's makes one: `Optimizer(optax.scale_by_lion)`.

    Attributes:
        direction: a function from the options to an `optax.GradientTransformation`, whose results
            point uphill, as those of `optax.scale_by_adam` do.
        options: the options, as (name, value).
        clip: maximum norm of the gradient, above 0, or None.
    """

    direction: Callable[..., optax.GradientTransformation]
    options: tuple[tuple[str, Any], ...] = ()
    clip: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.direction):
            raise ValueError(
                "direction must be a function that makes an optax.GradientTransformation, such as "
                f"optax.scale_by_lion, got {shown(self.direction)}."
            )
        pairs = isinstance(self.options, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)
            for pair in self.options
        )
        if not pairs:
            raise ValueError(
                'options must be pairs of name and value, such as (("b1", 0.9),), got '
                f"{shown(self.options)}."
            )
        if self.clip is not None:
            check_clip(self.clip)

    def init(self, params: optax.Params) -> optax.OptState:
        """The state before the first update."""
        return self._transformation.init(params)

    def update(
        self,
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        rate: jax.Array | float | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        """What `optax.apply_updates` adds to the parameters, -rate * direction, and the state.

        Args:
            updates: the gradients.
            state: the state before.
            params: the parameters; weight decay needs them.
            rate: the learning rate.

        Raises:
            ValueError: without a rate.
        """
        if rate is None:
            raise ValueError(NEEDS_A_RATE)
        direction, state = self._transformation.update(updates, state, params)
        # The rate may be wider than the parameters: the update has their dtype.
        like = updates if params is None else params
        moved = jax.tree.map(lambda d, p: -(rate * d).astype(p.dtype), direction, like)
        return moved, state

    @cached_property
    def _transformation(self) -> optax.GradientTransformation:
        """The gradient to the direction, clipping and all, without a rate."""
        direction = self.direction(**dict(self.options))
        if self.clip is None:
            return direction
        return optax.chain(clip_by_norm(self.clip), direction)


# An optimizer that needs a rate, or one that brings its own.
AnyOptimizer: TypeAlias = Optimizer | optax.GradientTransformation

NEEDS_A_RATE = (
    "An optimizer made by name or by make_optimizer needs a learning rate with each update: give "
    "rate, for example rate=1e-3."
)
HAS_A_RATE = (
    "The optimizer brings its own learning rate: leave {given} out. Rates from outside are for an "
    'optimizer given by name, such as "adam", or made by make_optimizer.'
)


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is no optimizer.

    Raises:
        ValueError: if it has no `init` or no `update`.
    """
    if isinstance(optimizer, str):
        raise ValueError(
            f"optimizer must be made here, got a name: take make_optimizer({optimizer!r:.60})."
        )
    hint = ""
    if callable(optimizer):
        hint = " Call it first, as in optax.adam(1e-3)."
    for name in ("init", "update"):
        if not callable(getattr(optimizer, name, None)):
            raise ValueError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, made by make_optimizer, or an "
                f"optax.GradientTransformation, got {optimizer!r:.60}.{hint}"
            )


def check_rate(optimizer: AnyOptimizer, rate: Any) -> None:
    """Refuse a rate beside an optimizer that brings its own, and none beside one that needs it.

    Args:
        optimizer: the optimizer.
        rate: the rate, the rates, or None.

    Raises:
        ValueError: if optimizer and rate do not fit.
    """
    check_optimizer(optimizer)
    if isinstance(optimizer, Optimizer) and rate is None:
        raise ValueError(NEEDS_A_RATE)
    if not isinstance(optimizer, Optimizer) and rate is not None:
        raise ValueError(HAS_A_RATE.format(given="rate"))


def updated(
    optimizer: AnyOptimizer,
    gradients: optax.Updates,
    state: optax.OptState,
    params: optax.Params,
    rate: jax.Array | float | None,
    **extra: Any,
) -> tuple[optax.Params, optax.Updates, optax.OptState]:
    """The parameters after one update, what was added to them, and the optimizer's state.

    Args:
        optimizer: the optimizer.
        gradients: the gradients.
        state: the optimizer's state.
        params: the parameters.
        rate: the learning rate, or None for an optimizer that brings its own.
        extra: further arguments of some transformations (`optax.lbfgs`, `reduce_on_plateau`):
            `value`, the loss; `grad`, the gradients; `value_fn`, from parameters to the loss.
    """
    if isinstance(optimizer, Optimizer):
        updates, state = optimizer.update(gradients, state, params, rate=rate)
    else:
        # Transformations without extra arguments ignore them.
        with_extra = optax.with_extra_args_support(optimizer)
        updates, state = with_extra.update(gradients, state, params, **extra)
    return optax.apply_updates(params, updates), updates, state


def adam(*, weight_decay: float = 0.0, decoupled: bool = False) -> Optimizer:
    """`torch.optim.Adam`, or AdamW if the weight decay is decoupled from the gradient.

    Coupled decay adds `weight_decay * p` to the gradient before the moments (L2 regularisation);
    decoupled decay adds it to the direction (Loshchilov and Hutter 2019,
    https://arxiv.org/abs/1711.05101).
    """
    return Optimizer(_adam_direction, (("weight_decay", weight_decay), ("decoupled", decoupled)))


def _adam_direction(weight_decay: float, decoupled: bool) -> optax.GradientTransformation:
    if decoupled:
        # Behind the moments: they do not see the decay.
        return optax.chain(scale_by_adam(), optax.add_decayed_weights(weight_decay))
    if weight_decay:
        return optax.chain(optax.add_decayed_weights(weight_decay), scale_by_adam())
    return scale_by_adam()


def sgd(*, momentum: float = 0.0, weight_decay: float = 0.0) -> Optimizer:
    """`torch.optim.SGD`: the gradient, or its running sum v = momentum * v + gradient."""
    return Optimizer(_sgd_direction, (("momentum", momentum), ("weight_decay", weight_decay)))


def _sgd_direction(momentum: float, weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay), _momentum(momentum))


def rmsprop(*, momentum: float = 0.0, weight_decay: float = 0.0) -> Optimizer:
    """`torch.optim.RMSprop`: gradient / (sqrt(v) + 1e-8), v an average of decay 0.99."""
    return Optimizer(_rmsprop_direction, (("momentum", momentum), ("weight_decay", weight_decay)))


def _rmsprop_direction(momentum: float, weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        # torch adds eps behind the square root, optax by default inside.
        optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False),
        _momentum(momentum),
    )


def _momentum(momentum: float) -> optax.GradientTransformation:
    # Without momentum, no running sum: it would be one more array for each parameter.
    return optax.trace(momentum) if momentum else optax.identity()


def make_optimizer(
    name: str,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    clip: float | None = None,
) -> Optimizer:
    """An optimizer by name, behind clipping by norm if `clip` is given.

    Its learning rate is an argument of each update: `train_step(..., rate)`, `fit(..., schedule)`
    or `optimizer.update(gradients, state, params, rate=rate)`.

    Args:
        name: "adam", "adamw", "sgd" or "rmsprop", or one of your own: see `OPTIMIZERS`.
        weight_decay: L2, added to the gradient; for "adamw", decoupled.
        momentum: for "sgd" and "rmsprop", in [0, 1).
        clip: maximum norm of the gradient, above 0.

    Raises:
        ValueError: if the name is unknown or an option out of range.
    """
    check_text(name=name)
    check_not_negative(weight_decay=weight_decay)
    check_share(momentum=momentum)
    if momentum and name in ("adam", "adamw"):
        raise ValueError(f"momentum is for sgd and rmsprop; {name} has its own.")
    if clip is not None:
        check_clip(clip)
    found = OPTIMIZERS.find(name)
    if isinstance(found, Optimizer):
        if weight_decay or momentum:
            raise ValueError(
                f"{name} is an optimizer with its options: leave weight_decay and momentum out."
            )
        if clip is None:
            clip = found.clip
        return replace(found, clip=clip)
    return replace(found(weight_decay, momentum), clip=clip)


def check_registered(optimizer: Any) -> None:
    """Refuse what cannot be named as an optimizer: its rate comes from the schedule.

    Raises:
        ValueError: if it is no `Optimizer`.
    """
    if isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            "an optax transformation brings its own learning rate. Give its direction, and the "
            "rate comes from the schedule: Optimizer(optax.scale_by_lion)."
        )
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"it is of type {type(optimizer).__name__}, not a jaxrnn.Optimizer.")


OPTIMIZERS: Registry[Optimizer | Callable[[float, float], Optimizer]] = Registry(
    "optimizer",
    check_registered,
    {
        "adam": lambda decay, momentum: adam(weight_decay=decay),
        "adamw": lambda decay, momentum: adam(weight_decay=decay, decoupled=True),
        "sgd": lambda decay, momentum: sgd(weight_decay=decay, momentum=momentum),
        "rmsprop": lambda decay, momentum: rmsprop(weight_decay=decay, momentum=momentum),
    },
)
"""The optimizers by name: functions of a weight decay and a momentum, or an `Optimizer`.

One of your own is named as FILE.py:NAME, or put in: `OPTIMIZERS["lion"] = Optimizer(...)`.
"""
