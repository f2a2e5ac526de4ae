"""What is a failed check's difference? Its place and cause in updates, runs and fresh weights.

PyTorch's gradients, replayed through the JAX optimizer, and JAX's through torch's, separate the
optimizer from the gradient. A PyTorch run with a known deviation in its windows, its carry or its
rates, whose numbers are those of the JAX run, names that deviation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxrnn.training.steps import Batch, batch_loss
from parity.core.bridge import jax_arrays, numpy_arrays, tensors
from parity.core.cases import Case, sample_case
from parity.core.compare import Arrays, relative_l2
from parity.core.pairs import B, Pair, carry_of_torch
from parity.core.runners import jax_params, precision, torch_module, torch_names
from parity.diagnosis.causes import Diagnosis, fitting
from parity.diagnosis.localize import differing, differs
from parity.diagnosis.models import diagnose_values
from parity.diagnosis.optimizers import variants
from parity.measures.generation import PROMPT, jax_generated, jax_log_probs, torch_generated
from parity.measures.initialization import jax_samples, same_distribution, torch_samples
from parity.measures.plans import TrainingPlan, deviating_plans
from parity.measures.training import ReferenceTraining, Rule
from parity.measures.updates import RATE, STEPS, jax_state, jax_updates, jax_window, torch_window

Weights = dict[str, np.ndarray]

# A run with a known deviation counts as the same up to here; its round-off grows a little.
FOLLOWED = 1e-11


def diagnose_update(pair: Pair, rule: Rule) -> Diagnosis | None:
    """Place and cause of a difference in the updates of the weights; None if there is none."""
    case = sample_case(pair, 0, "float64")
    gradients, after = torch_gradients(pair, rule, case)
    replayed = jax_replayed(pair, rule, case.weights, gradients)
    if not _moves_differ(case.weights, replayed, after):
        # The optimizer is right, so the gradient is to blame, or what surrounds the two.
        return diagnose_values(pair) or _later(pair, rule, case, after)
    got = _moves(case.weights, replayed)
    others = variants(rule, case.weights, gradients, RATE)
    moves = ((words, _moves(case.weights, weights)) for words, weights in others)
    return Diagnosis("the optimizer, given PyTorch's gradients", fitting(moves, got, "update"))


def _later(pair: Pair, rule: Rule, case: Case, after: Weights) -> Diagnosis | None:
    # What is left when the first gradient and the optimizer are right.
    #
    # That is a later gradient, if JAX's gradients move the weights elsewhere through torch's
    # optimizer too; else the training step itself.
    if _moves_differ(case.weights, torch_replayed(pair, rule, case), after):
        return Diagnosis("a gradient after the first update, through torch's optimizer")
    got = jax_updates(pair, rule, (B,) * STEPS, "float64")(*case)["update"]
    weights = {key: got[f"weights of {key}"] for key in case.weights}
    if _moves_differ(case.weights, weights, after):
        return Diagnosis("the training step around gradient and optimizer")
    return None


def torch_gradients(pair: Pair, rule: Rule, case: Case) -> tuple[list[Weights], Weights]:
    """The gradient of each of torch's updates, unclipped, and the weights after the last."""
    gradients: list[Weights] = []
    with precision("float64"):
        reference = torch_module(pair, case.weights, "float64")
        inputs = tensors(case.inputs, "float64")
        training = ReferenceTraining(reference, rule, carry_of_torch(pair.carry, inputs))  # type: ignore[arg-type]
        parameters = dict(reference.named_parameters())

        def record() -> None:
            gradients.append(numpy_arrays({name: p.grad for name, p in parameters.items()}))

        training.on_gradients = record
        for step in range(STEPS):
            training.step(*torch_window(inputs, step), RATE)
        return gradients, training.weights()


def torch_replayed(pair: Pair, rule: Rule, case: Case) -> Weights:
    """The weights after torch's optimizer has had JAX's gradients, each at those weights."""

    def loss(params: Any, carry: Any, batch: Batch) -> Any:
        return batch_loss(pair.model, params, carry, batch)  # type: ignore[arg-type]

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    with precision("float64"):
        training = ReferenceTraining(torch_module(pair, case.weights, "float64"), rule)  # type: ignore[arg-type]
        inputs = jax_arrays(case.inputs, "float64")
        carry = jax_state(pair, (), (), inputs).carry
        for step in range(STEPS):
            # JAX's gradient at the weights that torch's optimizer has reached.
            params = jax_params(pair, training.weights(), "float64")
            tree, carry = gradient(params, carry, jax_window(inputs, step))
            training.move(torch_names(pair, tree), RATE)
        return training.weights()


def jax_replayed(pair: Pair, rule: Rule, weights: Arrays, gradients: Sequence[Weights]) -> Weights:
    """The weights after the JAX optimizer has had these gradients."""
    optimizer = rule.in_jax()
    with precision("float64"):
        params = jax_params(pair, weights, "float64")
        state = optimizer.init(params)
        for gradient in gradients:
            tree = jax_params(pair, gradient, "float64")  # named and shaped as the weights
            # The rate is an argument of every update.
            updates, state = optimizer.update(tree, state, params, rate=RATE)
            params = optax.apply_updates(params, updates)
        return torch_names(pair, params)


def _moves(before: Arrays, after: Arrays) -> np.ndarray:
    return np.concatenate([(after[key] - before[key]).ravel() for key in sorted(before)])


def _moves_differ(before: Arrays, got: Arrays, expected: Arrays) -> bool:
    return differs(_moves(before, got), _moves(before, expected), "update")


def diagnose_plan(
    plan: TrainingPlan, tokens: np.ndarray, got: Weights, run: Callable[[TrainingPlan], Weights]
) -> Diagnosis | None:
    """The place and the cause for which a PyTorch run gives what the JAX run gave.

    Args:
        plan: the right one.
        tokens: the text that its windows are cut from.
        got: of the JAX run.
        run: makes a PyTorch run, with results of the same names.
    """
    wrong = differing(got, run(plan), "trajectory")
    if not wrong:
        return None
    # Each deviating plan is a whole run in PyTorch; the first with JAX's numbers names it.
    for place, words, other in deviating_plans(plan, tokens):
        if _same(got, run(other)):
            return Diagnosis(place, words)
    return Diagnosis(f"the run: {', '.join(wrong[:4])}")


def _same(got: Weights, expected: Mapping[str, np.ndarray]) -> bool:
    # Whether losses, norms and weights agree; a carry that is not handed on may be anything.
    for name, array in expected.items():
        if name.startswith("carry."):
            continue
        if got[name].shape != array.shape or not relative_l2(got[name], array) <= FOLLOWED:
            return False
    return True


def diagnose_initialization(pair: Pair) -> Diagnosis | None:
    """The parameters that start differently, and how."""
    got = jax_samples(pair)
    expected = torch_samples(pair)
    wrong = [key for key in expected if not same_distribution(got[key], expected[key])]
    if not wrong:
        return None
    causes = dict.fromkeys(_start_words(got[key], expected[key]) for key in wrong)  # each once
    return Diagnosis(f"the start of {', '.join(wrong)}", "; ".join(causes))


def _start_words(got: np.ndarray, expected: np.ndarray) -> str:
    # How the samples of a parameter, (samples, ...), differ from PyTorch's.
    if np.ptp(expected, axis=0).max() == 0:
        if expected.ndim == 3 and np.array_equal(expected[0], np.eye(*expected.shape[1:])):
            return "it should be the identity matrix"
        return "it should be the same each time"
    # Four equal parts, which in an LSTM are its gates: a shifted one is a bias of its own.
    quarters = zip(np.array_split(got, 4, axis=1), np.array_split(expected, 4, axis=1), strict=True)
    shifted = []
    for gate, (got_part, part) in zip("ifgo", quarters, strict=True):
        shift = round(float(got_part.mean() - part.mean()), 1)
        if shift:
            shifted.append(f"its mean is {shift:+} in gate {gate}")
    if len(shifted) == 1:
        return shifted[0]
    return f"it spreads {got.std() / expected.std():.2g} times as far as PyTorch's"


def diagnose_generation(pair: Pair) -> Diagnosis | None:
    """Whether another text comes from the model or from the choice."""
    assert pair.model is not None
    weights = sample_case(pair, 0, "float32").weights
    prompt = np.arange(PROMPT) % pair.model.vocab_size
    right = torch_generated(pair, weights, prompt, "float64")
    if differs(jax_log_probs(pair, weights, right, "float64"), right.log_probs):
        return diagnose_values(pair) or Diagnosis("the model, one character at a time")
    # The model is right, so the first character shows which one is chosen.
    got = jax_generated(pair, weights, prompt, 1, "float64")
    order = np.argsort(right.log_probs[0])[::-1]
    place = int(np.flatnonzero(order == got[0])[0])
    if place == 0:
        return None
    cause = f"number {place + 1} in the order of likelihood is taken"
    return Diagnosis("the choice of the character, from equal log probabilities", cause)
