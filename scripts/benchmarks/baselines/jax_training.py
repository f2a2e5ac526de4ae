"""What the JAX baselines share: a jitted step with donated state, called from a Python loop.

Shapes: T time steps, B batch.

That is how the documentation of all of them trains. The windows lie cut and ready on the device
before the clock starts. The optimizer is optax's (Keras brings its own).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import CLIP, RATE, Case
from benchmarks.data import Weights, streams


class Optimizer(NamedTuple):
    """`init(params) -> state` and `update(gradients, state, params) -> (params, state)`."""

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]


class Network(NamedTuple):
    """A baseline's model as a pure function.

    Attributes:
        params: the parameters.
        carry: the carry from which a text starts.
        logits: `logits(params, carry, inputs) -> (carry, logits)`, (T, B) to (T, B, V).
        optimizer: how it is trained; optax's clipping and Adam if None.
    """

    params: Any
    carry: Any
    logits: Callable[[Any, Any, Any], tuple[Any, Any]]
    optimizer: Optimizer | None = None


def optax_adam() -> Optimizer:
    """Clipping by the global norm and Adam, as optax's documentation chains them."""
    chain = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(RATE))

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = chain.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return Optimizer(chain.init, update)


class JaxBaseline:
    """Training, or the forward pass, of a baseline in JAX."""

    def __init__(
        self,
        make_network: Callable[[Case, Weights], Network],
        case: Case,
        weights: Weights,
        tokens: np.ndarray,
    ) -> None:
        network = make_network(case, weights)
        optimizer = network.optimizer or optax_adam()
        self._windows = [
            (jnp.asarray(x), jnp.asarray(y)) for x, y in zip(*streams(tokens, case), strict=True)
        ]
        loss = partial(_loss, network.logits)
        self._start = network.carry
        self._params = jax.tree.map(jnp.array, network.params)
        self._opt_state = optimizer.init(self._params)
        self._carry = jax.tree.map(jnp.array, network.carry)
        self._loss = jax.jit(loss)
        self._check = jax.jit(lambda *inputs: loss(*inputs)[0])  # leaves `_loss` uncompiled
        self._step = jax.jit(partial(_step, loss, optimizer), donate_argnums=(0, 1, 2))
        self._training = case.kind == "training"
        self._next = 0

    def check(self) -> list[float]:
        """The loss on the first window from a zero carry."""
        inputs, targets = self._windows[0]
        return [float(self._check(self._params, self._start, inputs, targets))]

    def run(self, count: int) -> None:
        """Make `count` steps and wait for the last."""
        run = self._train if self._training else self._forward
        for _ in range(count):
            inputs, targets = self._windows[self._next]
            loss = run(inputs, targets)
            self._next = (self._next + 1) % len(self._windows)
        jax.block_until_ready((loss, self._params, self._carry))

    def _train(self, inputs: Any, targets: Any) -> Any:
        self._params, self._opt_state, self._carry, loss = self._step(
            self._params, self._opt_state, self._carry, inputs, targets
        )
        return loss

    def _forward(self, inputs: Any, targets: Any) -> Any:
        loss, self._carry = self._loss(self._params, self._carry, inputs, targets)
        return loss


def _loss(
    logits_of: Callable[[Any, Any, Any], tuple[Any, Any]],
    params: Any,
    carry: Any,
    inputs: Any,
    targets: Any,
) -> tuple[Any, Any]:
    carry, logits = logits_of(params, carry, inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), carry


def _step(
    loss: Callable[..., Any],
    optimizer: Optimizer,
    params: Any,
    opt_state: Any,
    carry: Any,
    inputs: Any,
    targets: Any,
) -> tuple[Any, Any, Any, Any]:
    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, carry), gradients = gradient(params, carry, inputs, targets)
    params, opt_state = optimizer.update(gradients, opt_state, params)
    return params, opt_state, carry, value


def zeros(case: Case) -> Any:
    """(B, H) zeros."""
    return jnp.zeros((case.batch_size, case.hidden_size), jnp.float32)
