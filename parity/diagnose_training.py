"""What is a failed check's difference? Its place and cause in updates, runs and fresh weights.

PyTorch's gradients, replayed through the JAX optimizer, and JAX's through torch's, separate the
optimizer from the gradient. A PyTorch run with a known fault in its windows, its carry or its
rates, whose numbers are those of the JAX run, names that fault.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import torch

from jaxrnn.data.windows import BpttStream, WindowSet
from parity.bridge import jax_of, numpy_of, tensor_of
from parity.cases import draw_case
from parity.compare import Arrays, Diagnosis, relative_l2
from parity.diagnose import diagnose_values
from parity.generation import PROMPT, jax_log_probs, jax_written, torch_written
from parity.initialisation import jax_draws, same_distribution, torch_draws
from parity.localise import differs
from parity.rules import variants
from parity.sides import jax_params, precision, torch_device, torch_module, torch_names
from parity.stack_causes import fitting
from parity.subjects import Subject, carry_of_torch
from parity.training import Rule, TwinTraining
from parity.updates import RATE, STEPS, jax_updates

Weights = dict[str, np.ndarray]


def diagnose_update(subject: Subject, rule: Rule) -> Diagnosis | None:
    """Place and cause of a difference in the updates of the weights; None if there is none."""
    weights, inputs = draw_case(subject, 0, "float64")
    gradients, moved = torch_gradients(subject, rule, weights, inputs)
    replayed = jax_replayed(subject, rule, weights, gradients)
    if not _moves_differ(weights, replayed, moved):
        found = diagnose_values(subject)
        return found or _around(subject, rule, weights, inputs, moved)
    flat = _moves(weights, replayed)
    others = ((words, _moves(weights, w)) for words, w in variants(rule, weights, gradients, RATE))
    place = "the optimizer, given PyTorch's gradients"
    return Diagnosis(place, fitting(others, flat, "update"))


def _around(
    subject: Subject, rule: Rule, weights: Arrays, inputs: Arrays, moved: Weights
) -> Diagnosis | None:
    """What is left when gradient and optimizer are right: the training step itself."""
    got = jax_updates(subject, rule, STEPS, "float64")(weights, inputs)["update"]
    after = {key: got[f"weights of {key}"] for key in weights}
    differ = _moves_differ(weights, after, moved)
    return Diagnosis("the training step around gradient and optimizer") if differ else None


def torch_gradients(
    subject: Subject, rule: Rule, weights: Arrays, inputs: Arrays
) -> tuple[list[Weights], Weights]:
    """The gradient of each of torch's updates, unclipped, and the weights after the last."""
    seen: list[Weights] = []
    with precision("float64"):
        twin = torch_module(subject, weights, "float64")
        cast = {n: tensor_of(a, "float64", torch_device()) for n, a in inputs.items()}
        training = TwinTraining(twin, rule, carry_of_torch(cast))  # type: ignore[arg-type]
        training.watch = lambda: seen.append(
            {name: numpy_of(p.grad) for name, p in twin.named_parameters()}
        )
        for step in range(STEPS):
            training.step(*(cast[n].roll(step, 0) for n in ("tokens", "targets")), RATE)
        return seen, training.weights()


def jax_replayed(
    subject: Subject, rule: Rule, weights: Arrays, gradients: Sequence[Weights]
) -> Weights:
    """The weights after the JAX optimizer has had these gradients."""
    optimizer = rule.in_jax()
    with precision("float64"):
        params = jax_params(subject, weights, "float64")
        state = optimizer.init(params)
        for gradient in gradients:
            moved = subject.weight_map.from_torch(gradient)
            tree = subject.params({path: jax_of(a, "float64") for path, a in moved.items()})
            direction, state = optimizer.update(tree, state, params)
            params = jax.tree.map(lambda p, d: p - RATE * d, params, direction)
        return torch_names(subject, params)


def torch_replayed(weights: Arrays, rule: Rule, gradients: Sequence[Weights]) -> Weights:
    """The weights after torch's optimizer has had these gradients, clipped if the rule clips."""
    tensors = {key: torch.tensor(a, requires_grad=True) for key, a in weights.items()}
    optimizer = rule.in_torch(tensors.values(), RATE)
    for gradient in gradients:
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(gradient[key])
        if rule.clip is not None:
            torch.nn.utils.clip_grad_norm_(tensors.values(), rule.clip)
        optimizer.step()
    return {key: numpy_of(tensor) for key, tensor in tensors.items()}


def _moves(before: Arrays, after: Arrays) -> np.ndarray:
    return np.concatenate([(after[key] - before[key]).ravel() for key in sorted(before)])


def _moves_differ(before: Arrays, got: Arrays, expected: Arrays) -> bool:
    return differs(_moves(before, got), _moves(before, expected), "update")


Window = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Course:
    """How a PyTorch run goes: what it reads, at which rates, and what becomes of the carry.

    Attributes:
        windows: tokens and targets of every step.
        rates: the learning rate of every step.
        carried: whether the carry goes on from window to window.
        validation: the windows that are validated on after every epoch.
        validation_carried: whether validation goes on from the carry and hands it back.
        epoch: steps of an epoch; all if None.
    """

    windows: Sequence[Window]
    rates: Sequence[float]
    carried: bool = True
    validation: Sequence[Window] = ()
    validation_carried: bool = True
    epoch: int | None = None


Run = Callable[[Course], Weights]


def diagnose_course(
    course: Course, source: BpttStream | WindowSet, got: Weights, run: Run
) -> Diagnosis | None:
    """The place and the cause for which a PyTorch run gives what the JAX run gave.

    Args:
        course: the right one.
        source: what the windows were cut from.
        got: of the JAX run.
        run: makes a PyTorch run, with results of the same names.
    """
    right = run(course)
    if not any(differs(got[name], right[name], "trajectory") for name in right):
        return None
    for place, words, other in _courses(course, source):
        result = run(other)
        if all(_same(got[name], result[name]) for name in result):
            return Diagnosis(place, words)
    wrong = [name for name in right if not _same(got[name], right[name])]
    return Diagnosis(f"the run: {', '.join(wrong[:4])}")


def _same(got: np.ndarray, expected: np.ndarray) -> bool:
    return got.shape == expected.shape and relative_l2(got, expected) <= 1e-11


def _courses(
    course: Course, source: BpttStream | WindowSet
) -> Iterator[tuple[str, str, Course]]:
    """Courses with a fault that libraries or bugs have."""
    windows, data = list(course.windows), "the windows"
    if len(set(course.rates)) > 1:
        late = [course.rates[0], *course.rates[:-1]]
        yield "the schedule", "the rate is that of the step before", replace(course, rates=late)
    place = "the carry between windows"
    words = "every window starts from zeros: the carry is not handed on"
    yield place, words, replace(course, carried=False)
    if course.validation:
        words = "validation starts from zeros"
        other = replace(course, validation_carried=False)
        yield "the carry between training and validation", words, other
    same = [(tokens, tokens) for tokens, _ in windows]
    yield data, "the targets are the inputs", replace(course, windows=same)
    for words, cut in _cuts(source):
        other = replace(course, windows=[cut(k, w) for k, w in enumerate(windows)])
        if course.validation and isinstance(source, WindowSet):
            other = replace(other, validation=other.windows)
        yield data, words, other


Cut = Callable[[int, Window], Window]


def _cuts(source: BpttStream | WindowSet) -> Iterator[tuple[str, Cut]]:
    """Other ways to cut windows out of the same text."""
    tokens = np.asarray(source.tokens, np.int64)

    def at(starts: np.ndarray, length: int) -> Window:
        places = starts[None, :] + np.arange(length + 1)[:, None]
        piece = tokens[np.minimum(places, len(tokens) - 1)]
        return piece[:-1], piece[1:]

    def shifted(k: int, window: Window) -> Window:
        starts, lengths, rows = source.windows(0, k, 1)
        return at(starts[0][: rows[0]] + 1, int(lengths[0]))

    def right(k: int, window: Window) -> tuple[np.ndarray, int]:
        true = _true_windows(source, k)
        return true, window[0].shape[0]

    yield "they start one character late", lambda k, w: at(right(k, w)[0] + 1, right(k, w)[1])
    if isinstance(source, BpttStream):
        columns = np.arange(source.batch)
        first = columns * source.rows
        yield (
            "the streams are interleaved",
            lambda k, w: at(right(k, w)[0] - first + columns, right(k, w)[1]),
        )
        yield "padded steps count and move the carry", lambda k, w: at(
            right(k, w)[0], min(size for size in source.sizes if size >= right(k, w)[1])
        )
    else:
        yield "the filler rows of the last batch count", lambda k, w: at(
            _with_filler(source, k), right(k, w)[1]
        )
    del shifted
