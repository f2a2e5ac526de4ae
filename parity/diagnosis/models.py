"""What is a failed check's difference? Its place and cause for models, losses and gradients.

Shapes: T time steps, B batch, V vocabulary.

The stack of recurrent layers is looked at first (`parity.diagnosis.localize`). Where it is right,
known faults of what surrounds it are put into the PyTorch reference; the one whose numbers are
JAX's is the cause. Equal log probabilities with another loss separate the loss from the model.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch.nn import functional

from parity.core.bridge import numpy_of, tensor_of
from parity.core.cases import draw_case
from parity.core.compare import Arrays, Diagnosis
from parity.core.pairs import Pair
from parity.core.runners import Results, precision, run_jax, run_torch, torch_device, torch_module
from parity.diagnosis.causes import fitting
from parity.diagnosis.localize import differs, localize
from parity.diagnosis.stacks import draw


def diagnose_values(pair: Pair) -> Diagnosis | None:
    """Place and cause of a difference in outputs, loss or gradients; None if there is none."""
    found = diagnose_stack(pair)
    if found:
        return found
    weights, inputs = draw_case(pair, 0, "float64")
    got = run_jax(pair, "float64")(weights, inputs)
    right = run_torch(pair, "float64")(weights, inputs)
    return (
        _forward(pair, weights, inputs, got, right)
        or _loss(pair, weights, inputs, got, right)
        or _gradients(got, right)
    )


def diagnose_stack(pair: Pair) -> Diagnosis | None:
    """The same of the recurrent layers alone, if there are any."""
    stack = pair.stack
    if stack is None:
        return None
    case = draw(
        stack.cell,
        num_layers=stack.num_layers,
        bidirectional=stack.bidirectional,
        lengths=pair.lengths,
        dropout=stack.dropout,
    )
    return localize(case)


def _forward(
    pair: Pair, weights: Arrays, inputs: Arrays, got: Results, right: Results
) -> Diagnosis | None:
    wrong = [n for n in right["forward"] if differs(got["forward"][n], right["forward"][n])]
    if not wrong:
        return None
    if pair.model is None:
        return Diagnosis(f"the outputs {', '.join(wrong)}")
    name = "log_probs"
    candidates = [*_other_weights(pair, weights, inputs), *_other_ends(pair, weights, inputs)]
    for place, words, array in candidates:
        if fitting([(words, array)], got["forward"][name]):
            return Diagnosis(place, words)
    return Diagnosis(f"the forward pass, {', '.join(wrong)}")


Candidate = tuple[str, str, np.ndarray]


def _other_weights(pair: Pair, weights: Arrays, inputs: Arrays) -> Iterator[Candidate]:
    """The reference's log probabilities with changes of its weights that bugs make."""
    biases = {key: np.zeros_like(a) for key, a in weights.items() if _is_dense(key, a, 1)}
    turned = {k: a.T for k, a in weights.items() if _is_dense(k, a, 2) and a.shape == a.T.shape}
    changes = [(_module(key), "its bias is missing", {key: a}) for key, a in biases.items()]
    changes += [(_module(key), "its weight is transposed", {key: a}) for key, a in turned.items()]
    changes += [("every Dense", "its bias is missing", biases)]
    changes += [("every square Dense", "its weight is transposed", turned)]
    e = np.array(weights["e.weight"])
    without = np.concatenate([np.zeros_like(e[:1]), e[1:]])
    changes += [
        ("e", "its rows are shifted by one", {"e.weight": np.roll(e, 1, axis=0)}),
        ("e", "its rows are shifted by minus one", {"e.weight": np.roll(e, -1, axis=0)}),
        ("e", "its row 0 is zero, as if for padding", {"e.weight": without}),
        ("e", "it is scaled by the root of its width", {"e.weight": e * e.shape[1] ** 0.5}),
    ]
    for place, words, change in changes:
        yield place, words, reference_outputs(pair, {**weights, **change}, inputs)


def _module(key: str) -> str:
    return key.rsplit(".", 1)[0]


def _is_dense(key: str, array: np.ndarray, dimensions: int) -> bool:
    dense = key.startswith("l_") or key == "bias_out"
    return dense and array.ndim == dimensions


def _other_ends(pair: Pair, weights: Arrays, inputs: Arrays) -> Iterator[Candidate]:
    """The reference's log probabilities with another last step."""
    logits = torch.tensor(reference_outputs(pair, weights, inputs, end="logits"))
    place = "log_softmax"
    yield place, "it is left out", logits.numpy()
    names = ("time", "the batch")[-(logits.ndim - 1) :]
    for axis, name in enumerate(names):
        values = functional.log_softmax(logits, dim=axis)
        yield place, f"it is taken over {name}", values.numpy()


def reference_outputs(
    pair: Pair, weights: Arrays, inputs: Arrays, end: str = "log_probs"
) -> np.ndarray:
    """The reference's log probabilities in float64, or its logits."""
    with precision("float64"), torch.no_grad():
        reference = torch_module(pair, weights, "float64")
        if end == "logits":
            reference.log_probs = reference.logits
        cast = {n: tensor_of(a, "float64", torch_device()) for n, a in inputs.items()}
        return numpy_of(pair.torch_outputs(reference, cast)["log_probs"])


def _loss(
    pair: Pair, weights: Arrays, inputs: Arrays, got: Results, right: Results
) -> Diagnosis | None:
    if not differs(got["loss"]["loss"], right["loss"]["loss"]):
        return None
    if pair.model is None:
        return Diagnosis("the loss")
    candidates = _losses(pair, weights, inputs, right["forward"]["log_probs"])
    return Diagnosis(
        "the loss, from equal log probabilities", fitting(candidates, got["loss"]["loss"])
    )


def _losses(
    pair: Pair, weights: Arrays, inputs: Arrays, log_probs: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Losses of the same log probabilities as libraries or bugs compute them."""
    targets, tokens = inputs["targets"], inputs["tokens"]
    if log_probs.ndim == 2:
        targets, tokens = targets[-1], tokens[-1]
    steps = len(log_probs)
    batch_size = log_probs.shape[-2]
    mean = _mean_nll(log_probs, targets[:steps])
    yield "it is summed", mean * log_probs[..., 0].size
    yield "it is summed over the batch, averaged over time only", mean * batch_size
    yield "it is summed over time, averaged over the batch only", mean * steps
    yield "its sign is wrong", -mean
    yield "the targets are the inputs", _mean_nll(log_probs, tokens[:steps])
    mixed = targets.T.reshape(targets.shape)
    yield "time and batch of the targets are exchanged", _mean_nll(log_probs, mixed[:steps])
    if steps < len(targets) and log_probs.ndim == 3:
        bias = weights.get("l_out.bias", weights.get("bias_out"))
        empty = numpy_of(functional.log_softmax(torch.tensor(bias), dim=-1))
        rest = np.broadcast_to(empty, (len(targets) - steps, *log_probs.shape[1:]))
        padded = np.concatenate([log_probs, rest])
        yield "steps beyond the length count", _mean_nll(padded, targets)


def _mean_nll(log_probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -np.take_along_axis(log_probs, targets[..., None].astype(int), axis=-1).mean()


def _gradients(got: Results, right: Results) -> Diagnosis | None:
    pairs = {n: (got["gradients"][n], a) for n, a in right["gradients"].items()}
    wrong = {n: pair for n, pair in pairs.items() if differs(*pair, "gradients")}
    if not wrong:
        return None
    place = f"the gradient of {', '.join(wrong)}, from an equal loss"
    return Diagnosis(place, _gradient_cause(wrong))


def _gradient_cause(wrong: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    if all(name.startswith("input carry") for name in wrong):
        cut = not any(np.any(expected) for _, expected in wrong.values())
        return "the carry is not cut: it flows into the window before" if cut else ""
    causes = {name: _array_cause(*pair) for name, pair in wrong.items()}
    return causes[next(iter(causes))] if len(set(causes.values())) == 1 else ""


def _array_cause(got: np.ndarray, expected: np.ndarray) -> str:
    if not np.any(got):
        return "it is zero: nothing flows back"
    factor = float(np.vdot(expected, got) / np.vdot(expected, expected))
    without = np.array(expected)
    without[0] = 0
    candidates = [
        ("its sign is wrong", -expected),
        (f"it is {factor:.3g} times what it should be", factor * expected),
        ("row 0 is not trained, as if for padding", without),
    ]
    return fitting(candidates, got, "gradients")
