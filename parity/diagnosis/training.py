"""What is a failed check's difference? Its place and cause in updates, runs and generated texts.

PyTorch's gradients, replayed through the JAX optimizer, and JAX's through torch's, separate the
optimizer from the gradient. A PyTorch run with a known deviation in its windows, its carry or its
rates, whose numbers are those of the JAX run, names that deviation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import optax

from jaxrnn.training.optimizers import CLIP_EPSILON
from jaxrnn.training.steps import Batch, batch_loss
from parity.core.bridge import jax_arrays, numpy_arrays, tensors
from parity.core.cases import Case, sample_case
from parity.core.compare import Arrays, relative_l2
from parity.core.pairs import SIZES, Pair, carry_of_torch, model_pair
from parity.core.runners import jax_params, precision, torch_module, torch_names
from parity.diagnosis.causes import Diagnosis, fitting
from parity.diagnosis.localize import differing, differs
from parity.diagnosis.models import diagnose_values
from parity.diagnosis.optimizers import variants
from parity.measures.generation import (
    CHARACTERS,
    PROMPT,
    jax_generated,
    jax_log_probs,
    torch_generated,
)
from parity.measures.plans import TrainingPlan, deviating_plans
from parity.measures.runs import VALIDATION
from parity.measures.training import ADAM, ReferenceTraining, Rule
from parity.measures.updates import (
    NORMS,
    RATE,
    STEPS,
    jax_state,
    jax_updates,
    jax_window,
    torch_updates,
    torch_window,
)

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
        return diagnose_values(_whole_window(pair)) or _later(pair, rule, case, after)
    got = _moves(case.weights, replayed)
    others = variants(rule, case.weights, gradients, RATE)
    moves = ((words, _moves(case.weights, weights)) for words, weights in others)
    return Diagnosis("the optimizer, given PyTorch's gradients", fitting(moves, got, "update"))


def _whole_window(pair: Pair) -> Pair:
    # An update reads all steps of a window, also where the values of the pair are of fewer.
    if pair.model is None or not pair.lengths:
        return pair
    return model_pair(pair.name, pair.model)


def _later(pair: Pair, rule: Rule, case: Case, after: Weights) -> Diagnosis | None:
    # What is left when the first gradient and the optimizer are right.
    #
    # That is a later gradient, if JAX's gradients move the weights elsewhere through torch's
    # optimizer too; else the training step itself.
    if _moves_differ(case.weights, torch_replayed(pair, rule, case), after):
        return Diagnosis("a gradient after the first update, through torch's optimizer")
    got = jax_updates(pair, rule, _rows(case), "float64")(*case)["update"]
    weights = {key: got[f"weights of {key}"] for key in case.weights}
    if _moves_differ(case.weights, weights, after):
        return Diagnosis("the training step around gradient and optimizer")
    return _beside_the_weights(pair, rule, case, got)


def _rows(case: Case) -> Sequence[int]:
    # All streams in each update.
    return (case.inputs["tokens"].shape[1],) * STEPS


def _beside_the_weights(pair: Pair, rule: Rule, case: Case, got: Weights) -> Diagnosis | None:
    # What a step reports and hands on, where the weights are right: norms, moments, the carry.
    expected = torch_updates(pair, rule, _rows(case), "float64")(*case)["update"]
    wrong = differing(got, expected, "update")
    if NORMS not in wrong:
        return Diagnosis(f"beside the weights: {', '.join(wrong)}") if wrong else None
    candidates = _other_norms(rule, case, torch_gradients(pair, rule, case)[0])
    words = fitting(candidates, got[NORMS], "update")
    return Diagnosis("the metric of the gradient's norm", words)


def _other_norms(
    rule: Rule, case: Case, gradients: Sequence[Weights]
) -> Iterator[tuple[str, np.ndarray]]:
    # For each step what may be taken for the norm of its gradient.
    steps = range(len(gradients) + 1)
    own = [next(variants(rule, case.weights, gradients[:k], RATE))[1] for k in steps]
    updates = [_moves(*pair) for pair in pairwise(own)]
    norms = np.array([np.linalg.norm(_joined(gradient)) for gradient in gradients])
    moved = np.array([np.linalg.norm(update) for update in updates])
    yield "it is that of the update", moved
    yield "it is that of the direction, before the learning rate", moved / RATE
    if rule.clip is not None:
        yield "it is that of the clipped gradient", np.minimum(norms, rule.clip)
        scale = np.minimum(1, rule.clip / (norms + CLIP_EPSILON))
        yield "it is that of the clipped gradient", norms * scale
    yield "it is squared", norms**2
    yield (
        "it is that of the weights",
        np.array([np.linalg.norm(_joined(weights)) for weights in own[:-1]]),
    )
    each = [[np.linalg.norm(array) for array in gradient.values()] for gradient in gradients]
    yield "it is the largest of one parameter", np.max(each, axis=1)
    yield "it is the sum of those of the parameters", np.sum(each, axis=1)


def _joined(arrays: Arrays) -> np.ndarray:
    return np.concatenate([arrays[key].ravel() for key in sorted(arrays)])


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
    return _joined({key: after[key] - array for key, array in before.items()})


def _moves_differ(before: Arrays, got: Arrays, expected: Arrays) -> bool:
    return differs(_moves(before, got), _moves(before, expected), "update")


def diagnose_run(
    pair: Pair,
    plan: TrainingPlan,
    tokens: np.ndarray,
    got: Weights,
    run: Callable[[TrainingPlan], Weights],
) -> Diagnosis | None:
    """The place and the cause for which a PyTorch run gives what the JAX run gave.

    Args:
        pair: the model that is trained, by Adam.
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
    if wrong == [VALIDATION]:
        return Diagnosis("the validation, after an equal training")
    # What surrounds the steps is right, so it is a step. In a case of its sizes, what is chosen by
    # size is chosen as in the run.
    assert pair.model is not None
    steps = max(len(inputs) for inputs, _ in plan.windows)
    sizes = SIZES._replace(T=steps, B=plan.windows[0][0].shape[1])
    step = diagnose_update(model_pair(pair.name, pair.model, sizes=sizes), ADAM)
    return step or Diagnosis(f"the run: {', '.join(wrong[:4])}")


def _same(got: Weights, expected: Mapping[str, np.ndarray]) -> bool:
    # Whether losses, norms and weights agree; a carry that is not handed on may be anything.
    for name, array in expected.items():
        if name.startswith("carry."):
            continue
        if got[name].shape != array.shape or not relative_l2(got[name], array) <= FOLLOWED:
            return False
    return True


def diagnose_generation(pair: Pair) -> Diagnosis | None:
    """Whether another text comes from the model or from the choice."""
    assert pair.model is not None
    weights = sample_case(pair, 0, "float32").weights
    prompt = np.arange(PROMPT) % pair.model.vocab_size
    right = torch_generated(pair, weights, prompt, "float64")
    if differs(jax_log_probs(pair, weights, right, "float64"), right.log_probs):
        return diagnose_values(pair) or Diagnosis("the model, one character at a time")
    # The model is right, so the first character shows which one is chosen.
    got = jax_generated(pair, weights, prompt, CHARACTERS, "float64")
    different = np.flatnonzero(got != right.tokens[PROMPT:])
    if not len(different):
        return None
    k = int(different[0])
    if k:
        place = f"the loop over characters, from number {k} on"
        return Diagnosis(place, "what it hands on from character to character differs")
    order = np.argsort(right.log_probs[0])[::-1]
    rank = int(np.flatnonzero(order == got[0])[0])
    cause = f"number {rank + 1} in the order of likelihood is taken"
    return Diagnosis("the choice of the character, from equal log probabilities", cause)
