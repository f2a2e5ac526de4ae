"""What is a failed check's difference? Its place and cause in updates, runs and fresh weights.

PyTorch's gradients, replayed through the JAX optimizer, and JAX's through torch's, separate the
optimizer from the gradient. A PyTorch run with a known fault in its windows, its carry or its
rates, whose numbers are those of the JAX run, names that fault.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrnn.training.steps import Batch, batch_loss
from parity.core.bridge import jax_of, numpy_of, tensor_of
from parity.core.cases import draw_case
from parity.core.compare import Arrays, Diagnosis, relative_l2
from parity.core.pairs import B, Pair, carry_of_torch
from parity.core.runners import jax_params, precision, torch_device, torch_module, torch_names
from parity.diagnosis.causes import fitting
from parity.diagnosis.localize import differs
from parity.diagnosis.models import diagnose_values
from parity.diagnosis.optimizers import variants
from parity.measures.generation import PROMPT, jax_log_probs, jax_written, torch_written
from parity.measures.initialization import jax_draws, same_distribution, torch_draws
from parity.measures.plans import TrainingPlan, faulty_plans
from parity.measures.training import ReferenceTraining, Rule
from parity.measures.updates import RATE, READ, STEPS, jax_state, jax_updates

Weights = dict[str, np.ndarray]

FOLLOWED = 1e-11
"""A run with a known fault counts as the same up to here; its round-off grows a little."""


def diagnose_update(pair: Pair, rule: Rule) -> Diagnosis | None:
    """Place and cause of a difference in the updates of the weights; None if there is none."""
    weights, inputs = draw_case(pair, 0, "float64")
    gradients, moved = torch_gradients(pair, rule, weights, inputs)
    replayed = jax_replayed(pair, rule, weights, gradients)
    if not _moves_differ(weights, replayed, moved):
        found = diagnose_values(pair)
        return found or _later(pair, rule, weights, inputs, moved)
    flat = _moves(weights, replayed)
    others = ((words, _moves(weights, w)) for words, w in variants(rule, weights, gradients, RATE))
    place = "the optimizer, given PyTorch's gradients"
    return Diagnosis(place, fitting(others, flat, "update"))


def _later(
    pair: Pair, rule: Rule, weights: Arrays, inputs: Arrays, moved: Weights
) -> Diagnosis | None:
    """What is left when the first gradient and the optimizer are right.

    That is a later gradient, if JAX's gradients move the weights elsewhere through torch's
    optimizer too; else the training step itself.
    """
    if _moves_differ(weights, torch_replayed(pair, rule, weights, inputs), moved):
        return Diagnosis("a gradient after the first update, through torch's optimizer")
    got = jax_updates(pair, rule, (B,) * STEPS, "float64")(weights, inputs)["update"]
    after = {key: got[f"weights of {key}"] for key in weights}
    differ = _moves_differ(weights, after, moved)
    return Diagnosis("the training step around gradient and optimizer") if differ else None


def torch_gradients(
    pair: Pair, rule: Rule, weights: Arrays, inputs: Arrays
) -> tuple[list[Weights], Weights]:
    """The gradient of each of torch's updates, unclipped, and the weights after the last."""
    seen: list[Weights] = []
    with precision("float64"):
        reference = torch_module(pair, weights, "float64")
        cast = {n: tensor_of(a, "float64", torch_device()) for n, a in inputs.items()}
        training = ReferenceTraining(reference, rule, carry_of_torch(cast))  # type: ignore[arg-type]
        training.watch = lambda: seen.append(
            {name: numpy_of(p.grad) for name, p in reference.named_parameters()}
        )
        for step in range(STEPS):
            tokens, targets = (cast[n].roll(step, 0) for n in READ)
            training.step(tokens, targets, RATE)
        return seen, training.weights()


def torch_replayed(pair: Pair, rule: Rule, weights: Arrays, inputs: Arrays) -> Weights:
    """The weights after torch's optimizer has had JAX's gradients, each at those weights."""

    def loss(params: Any, carry: Any, batch: Batch) -> Any:
        """The loss on a window, and the carry after it."""
        return batch_loss(pair.model, params, carry, batch)  # type: ignore[arg-type]

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    with precision("float64"):
        training = ReferenceTraining(torch_module(pair, weights, "float64"), rule)  # type: ignore[arg-type]
        cast = {name: jax_of(array, "float64") for name, array in inputs.items()}
        carry = jax_state(pair, (), (), cast).carry
        for step in range(STEPS):
            batch = Batch(*(jnp.roll(cast[n], step, axis=0) for n in READ))
            params = jax_params(pair, training.weights(), "float64")
            tree, carry = gradient(params, carry, batch)
            training.move(torch_names(pair, tree), RATE)
        return training.weights()


def jax_replayed(pair: Pair, rule: Rule, weights: Arrays, gradients: Sequence[Weights]) -> Weights:
    """The weights after the JAX optimizer has had these gradients."""
    optimizer = rule.in_jax()
    with precision("float64"):
        params = jax_params(pair, weights, "float64")
        state = optimizer.init(params)
        for gradient in gradients:
            moved = pair.weight_map.from_torch(gradient)
            tree = pair.params({path: jax_of(a, "float64") for path, a in moved.items()})
            updates, state = optimizer.update(tree, state, params, rate=RATE)
            params = optax.apply_updates(params, updates)
        return torch_names(pair, params)


def _moves(before: Arrays, after: Arrays) -> np.ndarray:
    return np.concatenate([(after[key] - before[key]).ravel() for key in sorted(before)])


def _moves_differ(before: Arrays, got: Arrays, expected: Arrays) -> bool:
    return differs(_moves(before, got), _moves(before, expected), "update")


def diagnose_plan(
    course: TrainingPlan, tokens: np.ndarray, got: Weights, run: Callable[[TrainingPlan], Weights]
) -> Diagnosis | None:
    """The place and the cause for which a PyTorch run gives what the JAX run gave.

    Args:
        course: the right one.
        tokens: the text that its windows are cut from.
        got: of the JAX run.
        run: makes a PyTorch run, with results of the same names.
    """
    right = run(course)
    if not any(differs(got[name], right[name], "trajectory") for name in right):
        return None
    for place, words, other in faulty_plans(course, tokens):
        if _same(got, run(other)):
            return Diagnosis(place, words)
    wrong = [name for name in right if differs(got[name], right[name], "trajectory")]
    return Diagnosis(f"the run: {', '.join(wrong[:4])}")


def _same(got: Weights, expected: Weights) -> bool:
    """Whether losses, norms and weights agree; a carry that is not handed on may be anything."""
    seen = {name: array for name, array in expected.items() if not name.startswith("carry.")}
    pairs = ((got[name], array) for name, array in seen.items())
    return all(a.shape == b.shape and relative_l2(a, b) <= FOLLOWED for a, b in pairs)


def diagnose_initialization(pair: Pair) -> Diagnosis | None:
    """The parameters that start differently, and how."""
    got, expected = jax_draws(pair), torch_draws(pair)
    wrong = [key for key in expected if not same_distribution(got[key], expected[key])]
    if not wrong:
        return None
    causes = dict.fromkeys(_start_words(got[key], expected[key]) for key in wrong)
    return Diagnosis(f"the start of {', '.join(wrong)}", "; ".join(causes))


def _start_words(got: np.ndarray, expected: np.ndarray) -> str:
    if np.ptp(expected, axis=0).max() == 0:
        identity = expected.ndim == 3 and np.array_equal(expected[0], np.eye(*expected.shape[1:]))
        return f"it should be {'the identity matrix' if identity else 'the same each time'}"
    quarters = zip(*(np.array_split(a, 4, axis=1) for a in (got, expected)), strict=True)
    shifts = [round(float(a.mean() - b.mean()), 1) for a, b in quarters]
    shifted = [f"{by:+} in gate {gate}" for gate, by in zip("ifgo", shifts, strict=True) if by]
    if len(shifted) == 1:
        return f"its mean is {shifted[0]}"
    return f"it spreads {got.std() / expected.std():.2g} times as far as PyTorch's"


def diagnose_generation(pair: Pair) -> Diagnosis | None:
    """Whether another text comes from the model or from the choice."""
    weights = draw_case(pair, 0, "float32")[0]
    prompt = np.arange(PROMPT) % (pair.model.vocab_size if pair.model else 1)
    right = torch_written(pair, weights, prompt, "float64")
    got = jax_written(pair, weights, prompt, 1, "float64")
    if differs(jax_log_probs(pair, weights, right, "float64"), right.log_probs):
        return diagnose_values(pair) or Diagnosis("the model, one character at a time")
    order = np.argsort(right.log_probs[0])[::-1]
    place = int(np.flatnonzero(order == got[0])[0])
    if place == 0:
        return None
    cause = f"number {place + 1} in the order of likelihood is taken"
    return Diagnosis("the choice of the character, from equal log probabilities", cause)
