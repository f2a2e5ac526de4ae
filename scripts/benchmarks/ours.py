"""jaxrnn, as `fit` trains and evaluates: many steps in one program, read back once a program.

Shapes: T time steps, B batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.arithmetic import norm
from benchmarks.cases import CHECKED_CHARACTERS, CLIP, EMBEDDING, RATE, VOCABULARY, Case
from benchmarks.data import WINDOWS, Weights
from benchmarks.mapping import nested
from jaxrnn import (
    CELLS,
    GREEDY,
    RNN,
    BpttStream,
    CharLM,
    Sampler,
    eval_step,
    generate,
    make_optimizer,
)
from jaxrnn.exchange.weights import WeightMap
from jaxrnn.training.evaluation import STEPS_IN_ONE_PROGRAM
from jaxrnn.training.state import make_state
from jaxrnn.training.steps import Batch, eval_steps, train_step, train_steps
from jaxrnn.tree import named_leaves

REMAT_EVERY = 64
"""Number of time steps between kept carries: the square root of 4,096, the longest window measured,
which takes the least memory."""


def model_of(case: Case) -> CharLM:
    """The model of a case."""
    return CharLM(
        VOCABULARY, EMBEDDING, case.hidden_size, cell=CELLS[case.cell], num_layers=case.num_layers
    )


def params_of(model: CharLM, weights: Weights) -> Any:
    """Torch's weights as the model's parameters, through the project's own weight map."""
    like = jax.eval_shape(
        lambda key: model.init(key, model.initial_carry(1), jnp.zeros((1, 1), jnp.int32)),
        jax.random.key(0),
    )["params"]
    moved = WeightMap.for_flax(named_leaves(like)).from_torch(weights)
    return nested({path: jnp.asarray(array) for path, array in moved.items()})


class Ours:
    """Training, or the forward pass."""

    def __init__(self, case: Case, weights: Weights, tokens: np.ndarray) -> None:
        self._model = model_of(case)
        self._optimizer = make_optimizer("adam", clip=CLIP)
        self._source = BpttStream(tokens, case.batch_size, case.steps)
        self._tokens = jnp.asarray(tokens)
        params = params_of(self._model, weights)
        state = make_state(self._model, self._optimizer, case.batch_size, jax.random.key(0))
        self._state = state._replace(params=params, opt_state=self._optimizer.init(params))
        self._training = case.kind == "training"
        self._next = 0

    def check(self) -> list[float]:
        """The loss on the first window from a zero carry."""
        batch = Batch(*(jnp.asarray(a, jnp.int32) for a in self._source.window(0, 0)))
        carry = self._model.initial_carry(self._source.batch_size)
        return [float(eval_step(self._model, self._state.params, carry, batch)[1])]

    def run(self, count: int) -> None:
        """Make `count` steps, up to the end of the epoch in one program, and read the losses."""
        while count > 0:
            steps = min(count, WINDOWS - self._next)
            windows = self._source.windows(0, self._next, STEPS_IN_ONE_PROGRAM)
            windows = windows.with_tokens(self._tokens)
            if self._training:
                self._train(windows, steps)
            else:
                self._forward(windows, steps)
            self._next = (self._next + steps) % WINDOWS
            count -= steps

    def _train(self, windows: Any, steps: int) -> None:
        rates = np.full(STEPS_IN_ONE_PROGRAM, RATE, np.float32)
        self._state, metrics = train_steps(
            self._model,
            self._optimizer,
            self._state,
            windows,
            rates,
            steps,
        )
        jax.tree.map(np.asarray, metrics)

    def _forward(self, windows: Any, steps: int) -> None:
        carry, losses = eval_steps(
            self._model,
            self._state.params,
            self._state.carry,
            windows,
            steps,
        )
        np.asarray(losses)
        self._state = self._state._replace(carry=carry)


class OursRemat(Ours):
    """Training step by step, with the activations of `REMAT_EVERY` time steps kept at once."""

    def run(self, count: int) -> None:
        """Make `count` steps and read the losses."""
        for _ in range(count):
            batch = Batch(*(jnp.asarray(a, jnp.int32) for a in self._source.window(0, self._next)))
            self._state, metrics = train_step(
                self._model, self._optimizer, self._state, batch, RATE, remat_every=REMAT_EVERY
            )
            np.asarray(metrics.loss)
            self._next = (self._next + 1) % WINDOWS


class OursLayer:
    """A stack alone, whose inputs are numbers: its outputs, or its gradients too."""

    def __init__(self, case: Case, weights: Weights, inputs: np.ndarray) -> None:
        self._stack = RNN(CELLS[case.cell], case.hidden_size, case.num_layers)
        self._params = {
            name.removeprefix("rnn."): jnp.asarray(array) for name, array in weights.items()
        }
        self._inputs = jnp.asarray(inputs)
        gradients = jax.value_and_grad(self._objective, argnums=(0, 1))
        self._call = jax.jit(gradients if case.kind == "layer" else self._outputs)

    def check(self) -> list[float]:
        """The objective, and the norms of the gradients."""
        found = self._call(self._params, self._inputs)
        return [norm(array) for array in jax.tree.leaves(found)]

    def run(self, count: int) -> None:
        """Make `count` calls, and wait for each."""
        for _ in range(count):
            jax.block_until_ready(self._call(self._params, self._inputs))

    def _outputs(self, params: Any, inputs: Any) -> Any:
        return self._stack.apply({"params": params}, None, inputs)[1]

    def _objective(self, params: Any, inputs: Any) -> Any:
        return jnp.square(self._outputs(params, inputs)).sum()


class OursGeneration:
    """Generation: `jaxrnn.generate`, the whole loop in one program."""

    def __init__(self, case: Case, weights: Weights, tokens: np.ndarray) -> None:
        self._model = model_of(case)
        self._params = params_of(self._model, weights)
        self._prompt = jnp.asarray(tokens.reshape(1, case.batch_size), jnp.int32)
        self._length = case.steps
        self._sampler = Sampler() if case.sampled else GREEDY
        self._texts = 0

    def check(self) -> list[float]:
        """The first characters generated greedily."""
        length = min(CHECKED_CHARACTERS, self._length)
        key = jax.random.key(0)
        _, tokens = generate(self._model, self._params, self._prompt, length, key, sampler=GREEDY)
        return [float(token) for token in np.asarray(tokens).ravel()]

    def run(self, count: int) -> None:
        """Generate `count` texts, each from another key."""
        for _ in range(count):
            key = jax.random.key(self._texts)
            _, tokens = generate(
                self._model, self._params, self._prompt, self._length, key, sampler=self._sampler
            )
            np.asarray(tokens)
            self._texts += 1
