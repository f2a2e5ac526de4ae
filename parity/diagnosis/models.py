"""What is a failed check's difference? Its place and cause for models, losses and gradients.

Shapes: T time steps, B batch, V vocabulary.

The stack of recurrent layers is looked at first (`parity.diagnosis.localize`). Where it is right,
known deviations of what surrounds it are put into the PyTorch reference; the one whose numbers are
JAX's is the cause. Equal log probabilities with another loss separate the loss from the model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from parity.core.bridge import numpy_of, tensors
from parity.core.cases import Case, sample_case
from parity.core.pairs import Pair
from parity.core.runners import Results, precision, run_jax, run_torch, torch_module
from parity.diagnosis.causes import Diagnosis, factor_between, fitting
from parity.diagnosis.localize import differing, differs, localize
from parity.diagnosis.stacks import sample_stack_case
from parity.diagnosis.tables import TABLE, table_cause


def diagnose_values(pair: Pair) -> Diagnosis | None:
    """Place and cause of a difference in outputs, loss or gradients; None if there is none."""
    # The recurrent layers alone: there the search can go by layer, step and gate.
    stack = pair.stack
    if stack is not None:
        stack_case = sample_stack_case(
            stack.cell,
            num_layers=stack.num_layers,
            bidirectional=stack.bidirectional,
            lengths=pair.lengths,
            dropout=stack.dropout,
        )
        found = localize(stack_case)
        if found:
            return found
    case = sample_case(pair, 0, "float64")
    got = run_jax(pair, "float64")(*case)
    right = run_torch(pair, "float64")(*case)
    # In the order of the computation: what differs first makes the rest differ.
    return (
        _forward(pair, case, got, right)
        or _loss(pair, case, got, right)
        or _gradients(pair, case, got, right)
    )


def _forward(pair: Pair, case: Case, got: Results, right: Results) -> Diagnosis | None:
    wrong = differing(got["forward"], right["forward"])
    if not wrong:
        return None
    if pair.model is None:
        return Diagnosis(f"the outputs {', '.join(wrong)}")
    for place, words, array in [*_other_weights(pair, case), *_other_ends(pair, case)]:
        if fitting([(words, array)], got["forward"]["log_probs"]):
            return Diagnosis(place, words)
    return Diagnosis(f"the forward pass, {', '.join(wrong)}")


# Place, cause, and the log probabilities that it would give.
Candidate = tuple[str, str, np.ndarray]


def _other_weights(pair: Pair, case: Case) -> Iterator[Candidate]:
    # The reference's log probabilities with changes of its weights that bugs make.
    changes: list[tuple[str, str, dict[str, np.ndarray]]] = []
    # Output layers and the like, one by one and all at once.
    biases = {}
    transposed = {}
    for key, array in case.weights.items():
        if not key.startswith("l_") and key != "bias_out":
            continue
        module = key.rsplit(".", 1)[0]
        if array.ndim == 1:
            biases[key] = np.zeros_like(array)
            changes.append((module, "its bias is missing", {key: biases[key]}))
        elif array.shape == array.T.shape:  # others do not fit the other way round
            transposed[key] = array.T
            changes.append((module, "its weight is transposed", {key: array.T}))
    changes.append(("every Dense", "its bias is missing", biases))
    changes.append(("every square Dense", "its weight is transposed", transposed))

    # The embedding, whose rows libraries count and scale in other ways.
    e = case.weights["e.weight"]
    padding = np.array(e)
    padding[0] = 0
    tables = {
        "its rows are shifted by one": np.roll(e, 1, axis=0),
        "its rows are shifted by minus one": np.roll(e, -1, axis=0),
        "its row 0 is zero, as if for padding": padding,
        "it is scaled by the root of its width": e * e.shape[1] ** 0.5,
    }
    for words, table in tables.items():
        changes.append(("e", words, {"e.weight": table}))

    # What the reference computes with each of them.
    for place, words, change in changes:
        changed = case._replace(weights={**case.weights, **change})
        yield place, words, reference_outputs(pair, changed)


def _other_ends(pair: Pair, case: Case) -> Iterator[Candidate]:
    # The reference's log probabilities with another last step.
    # (T, B, V) or (B, V).
    logits = torch.tensor(reference_outputs(pair, case, output_of=lambda model: model.logits))
    yield "log_softmax", "it is left out", logits.numpy()
    square = case.weights["e.weight"].shape[0] == case.weights["e.weight"].shape[1]
    if "bias_out" in case.weights and square:
        turned = reference_outputs(pair, case, output_of=_with_turned_table)
        yield "the output layer, whose weight is the tied table", "its weight is transposed", turned
    # The right axis is the last one, the vocabulary.
    axes = ("the batch",) if logits.ndim == 2 else ("time", "the batch")
    for axis, name in enumerate(axes):
        values = functional.log_softmax(logits, dim=axis)
        yield "log_softmax", f"it is taken over {name}", values.numpy()


def reference_outputs(
    pair: Pair,
    case: Case,
    *,
    output_of: Callable[[Any], Callable[[torch.Tensor], torch.Tensor]] | None = None,
) -> np.ndarray:
    """The reference's log probabilities in float64.

    Args:
        pair: a model.
        case: its weights and inputs.
        output_of: makes of the reference another function from the outputs of its layers to what is
            taken for log probabilities; its own if None.
    """
    with precision("float64"), torch.no_grad():
        reference = torch_module(pair, case.weights, "float64")
        if output_of is not None:
            reference.log_probs = output_of(reference)  # type: ignore[assignment]
        outputs = pair.torch_outputs(reference, tensors(case.inputs, "float64"))
        return numpy_of(outputs["log_probs"])


def _with_turned_table(reference: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    # The end of a model whose tied table is square and used the wrong way round.
    def log_probs(outputs: torch.Tensor) -> torch.Tensor:
        logits = functional.linear(outputs, reference.e.weight.T, reference.bias_out)
        return functional.log_softmax(logits, dim=-1)

    return log_probs


def _loss(pair: Pair, case: Case, got: Results, right: Results) -> Diagnosis | None:
    loss = got["loss"]["loss"]
    if not differs(loss, right["loss"]["loss"]):
        return None
    if pair.model is None:
        return Diagnosis("the loss")
    candidates = _losses(case, right["forward"]["log_probs"])
    return Diagnosis("the loss, from equal log probabilities", fitting(candidates, loss))


def _losses(case: Case, log_probs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    # Losses of the same log probabilities as libraries or bugs compute them.
    targets = case.inputs["targets"]
    tokens = case.inputs["tokens"]
    if log_probs.ndim == 2:  # (B, V): only the last step predicts
        targets = targets[-1]
        tokens = tokens[-1]
    steps = len(log_probs)
    batch_size = log_probs.shape[-2]
    # Sums and averages.
    mean = _mean_nll(log_probs, targets[:steps])
    yield "it is summed", mean * log_probs[..., 0].size
    yield "it is summed over the batch, averaged over time only", mean * batch_size
    yield "it is summed over time, averaged over the batch only", mean * steps
    yield "its sign is wrong", -mean
    # Other targets.
    yield "the targets are the inputs", _mean_nll(log_probs, tokens[:steps])
    mixed = targets.T.reshape(targets.shape)
    yield "time and batch of the targets are exchanged", _mean_nll(log_probs, mixed[:steps])
    if steps < len(targets) and log_probs.ndim == 3:
        # Outputs beyond the length are zeros, of which the output layer leaves its bias.
        bias = case.weights.get("l_out.bias", case.weights.get("bias_out"))
        empty = numpy_of(functional.log_softmax(torch.tensor(bias), dim=-1))  # (V,)
        rest = np.broadcast_to(empty, (len(targets) - steps, *log_probs.shape[1:]))
        padded = np.concatenate([log_probs, rest])  # (T, B, V)
        yield "steps beyond the length count", _mean_nll(padded, targets)


def _mean_nll(log_probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -np.take_along_axis(log_probs, targets[..., None].astype(int), axis=-1).mean()


def _gradients(pair: Pair, case: Case, got: Results, right: Results) -> Diagnosis | None:
    names = differing(got["gradients"], right["gradients"], "gradients")
    if not names:
        return None
    if pair.model is not None and TABLE in names:
        # Of the arrays that go wrong with a table, the table is the place.
        cause = table_cause(pair, case, got["gradients"], right["gradients"])
        if cause:
            return Diagnosis(f"the gradient of {TABLE}, the embedding's table", cause)
    wrong = {name: (got["gradients"][name], right["gradients"][name]) for name in names}
    place = f"the gradient of {', '.join(names)}, from an equal loss"
    return Diagnosis(place, _gradient_cause(wrong))


def _gradient_cause(wrong: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    if all(name.startswith("input carry") for name in wrong):
        # In PyTorch it is zero, because the model cuts its carry.
        cut = not any(np.any(expected) for _, expected in wrong.values())
        return "the carry is not cut: it flows into the window before" if cut else ""
    # One cause has to explain them all.
    causes = {_array_cause(got, expected) for got, expected in wrong.values()}
    return causes.pop() if len(causes) == 1 else ""


def _array_cause(got: np.ndarray, expected: np.ndarray) -> str:
    if not np.any(got):
        return "it is zero: nothing flows back"
    factor = factor_between(got, expected)
    without = np.array(expected)
    without[0] = 0
    candidates = [
        ("its sign is wrong", -expected),
        (f"it is {factor:.3g} times what it should be", factor * expected),
        ("row 0 is not trained, as if for padding", without),
    ]
    return fitting(candidates, got, "gradients")
