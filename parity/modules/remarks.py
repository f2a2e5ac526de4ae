"""What a reader of a report has to know of somebody's modules, in words.

What computes in a lower precision inside, what draws random numbers, what is unused, what mode the
module was in.
"""

import traceback
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode

from parity.core.bridge import is_float, jax_arrays, tensors
from parity.core.cases import Case
from parity.core.compare import Finding, Outcome, relative_l2
from parity.core.jaxprs import equations, is_users, users_line
from parity.core.runners import precision
from parity.modules.inputs import Batch, is_mask
from parity.modules.outputs import named_outputs
from parity.modules.runners import ModulePair, Runner, prepared

# Two runs that differ by more are random; those that add in another order differ by less.
RANDOM = 1e-6
# The primitives of JAX that make random numbers.
RANDOM_PRIMITIVES = ("random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform")
LOWER = ("float32", "bfloat16", "float16")
# Places that are named, of each kind.
SHOWN = 3


def modes_in_words(module: nn.Module) -> list[str]:
    """In which mode the module was compared."""
    training = [name for name, part in module.named_modules() if part.training]
    count = len(list(module.modules()))
    if not any(_has_modes(part) for part in module.modules()):
        return []
    if len(training) == count:
        mode = "in training mode"
    elif not training:
        mode = "in evaluation mode"
    else:
        named = [name or "the module itself" for name in training][:SHOWN]
        mode = f"partly in training mode ({', '.join(named)})"
    return [f"The PyTorch module was compared {mode}, as it was given."]


def _has_modes(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._NormBase) or bool(_dropout_rate(part))


def updated_buffers(pair: ModulePair, case: Case) -> list[str]:
    """A sentence on the buffers that a call changes."""
    with precision("float64"), torch.no_grad():
        module = prepared(pair, case.weights, "float64")
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        module(*_arguments(pair, case))
        changed = []
        for name, buffer in module.named_buffers():
            if name in before and not torch.equal(before[name], buffer):
                changed.append(name)
    if not changed:
        return []
    return [
        f"A call in training mode changes {', '.join(changed)}: what they become was not compared, "
        "unless both sides return it among the outputs."
    ]


def _arguments(pair: ModulePair, case: Case) -> Any:
    leaves = tensors(case.inputs, "float64")
    return jax.tree.unflatten(
        pair.structure, [leaves[str(k)] for k in range(pair.structure.num_leaves)]
    )


def random_in_torch(pair: ModulePair, run: Runner, case: Case) -> str:
    """Why PyTorch gives other outputs in a second run of the same, in words; empty if it does not.

    Args:
        pair: what is compared.
        run: PyTorch's runner.
        case: what it is run on.
    """
    first = run(case)["forward"]
    second = run(case)["forward"]
    if all(relative_l2(second[name], array) <= RANDOM for name, array in first.items()):
        return ""
    parts = [part for part in random_parts(pair.module) if part.split(" ")[0] not in pair.masks]
    named = ", ".join(parts[:SHOWN]) or "no module that is known to be random"
    return (
        f"PyTorch's outputs differ between two runs of the same: {named}, in training mode. Call "
        ".eval() on it, or give the masks of dropout that both sides use (dropout_masks)"
    )


def random_parts(module: nn.Module) -> list[str]:
    """The submodules that draw random numbers as they stand, by name."""
    found = []
    for name, part in module.named_modules():
        if not part.training:
            continue
        rate = _dropout_rate(part)
        if rate:
            found.append(f"{name or 'the module'} ({type(part).__name__}, {rate})")
    return found


def _dropout_rate(part: nn.Module) -> float:
    # The share that a module drops in training mode.
    if isinstance(part, _DropoutNd):
        return part.p
    if isinstance(part, nn.RNNBase | nn.MultiheadAttention):
        return part.dropout
    return 0.0


# JAX's side is a program that can be read.


def random_in_jax(pair: ModulePair, case: Case) -> list[str]:
    """A sentence if the JAX function draws random numbers, or is another one when traced again."""
    try:
        first = _traced(pair, case, "float32")
    except Exception:  # it takes float64 alone, and is judged there
        return []
    drawn = [
        _place(eqn) for eqn in equations(first.jaxpr) if eqn.primitive.name in RANDOM_PRIMITIVES
    ]
    sentences = []
    if drawn:
        sentences.append(
            f"The JAX function draws random numbers ({drawn[0]}), which PyTorch cannot draw: turn "
            "them off, or give both sides the same ones as an input."
        )
    second = _traced(pair, case, "float32")
    same = len(first.consts) == len(second.consts) and str(first.jaxpr) == str(second.jaxpr)
    pairs = zip(first.consts, second.consts, strict=False)
    if not same or not all(
        np.array_equal(a, b, equal_nan=is_float(np.asarray(a))) for a, b in pairs
    ):
        sentences.append(
            "The JAX function is not pure: traced twice it is two different programs, as with "
            "random numbers of NumPy."
        )
    return sentences


def lower_precision(pair: ModulePair, case: Case) -> list[str]:
    """Sentences on what computes below float64 although it was given float64, on either side."""
    sentences = []
    for side, look in LOOKS.items():
        found = look(pair, case)
        if found:
            places = "; ".join(found[:SHOWN])
            sentences.append(
                f"The {side} computes in a lower precision inside ({places}), so that float64 "
                "cannot show what it means: keep the precision of its inputs, or ask for dtypes="
                '("float32",) alone, which shows less.'
            )
    return sentences


def _traced(pair: ModulePair, case: Case, dtype: str) -> Any:
    with precision(dtype):
        params = pair.jax_params(case.weights, dtype)
        leaves = jax_arrays(case.inputs, dtype)

        def called(params: Any, leaves: Any) -> Any:
            return named_outputs(pair.called(params, leaves), names=False)

        return jax.make_jaxpr(called)(params, leaves)


def _place(eqn: Any) -> str:
    # The primitive and the line of the user's that it comes from.
    line = users_line(eqn)
    return f"{eqn.primitive.name}, {line}" if line else str(eqn.primitive.name)


def _lowered_in_jax(pair: ModulePair, case: Case) -> list[str]:
    found = []
    for eqn in equations(_traced(pair, case, "float64").jaxpr):
        before = [str(getattr(v.aval, "dtype", "")) for v in eqn.invars]
        after = [str(getattr(v.aval, "dtype", "")) for v in eqn.outvars]
        if "float64" in before and any(name in LOWER for name in after):
            lower = next(name for name in after if name in LOWER)
            found.append(f"float64 to {lower}: {_place(eqn)}")
    return list(dict.fromkeys(found))


class _Lowered(TorchDispatchMode):
    """Notes the operations that make a lower precision from float64."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [x for x in jax.tree.leaves(args) if isinstance(x, torch.Tensor)]
        lower = [
            x
            for x in jax.tree.leaves(result)
            if isinstance(x, torch.Tensor) and str(x.dtype).removeprefix("torch.") in LOWER
        ]
        if lower and any(x.dtype == torch.float64 for x in given):
            name = str(lower[0].dtype).removeprefix("torch.")
            self.found.append(f"float64 to {name}: {function}{_line_in_torch()}")
        return result


def _line_in_torch() -> str:
    for frame in reversed(traceback.extract_stack()):
        if is_users(frame.filename):
            return f", {frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}"
    return ""


def _lowered_in_torch(pair: ModulePair, case: Case) -> list[str]:
    with precision("float64"), torch.no_grad():
        module = prepared(pair, case.weights, "float64")
        given = _arguments(pair, case)
        with _Lowered() as noted:
            module(*given)
    return list(dict.fromkeys(noted.found))


LOOKS = {"JAX function": _lowered_in_jax, "PyTorch module": _lowered_in_torch}


def unused_in_words(
    pair: ModulePair, run: Runner, batch: Batch, case: Case, findings: Sequence[Finding]
) -> list[str]:
    """Sentences on inputs and weights of PyTorch's that no output depends on.

    Args:
        pair: what is compared.
        run: PyTorch's runner.
        batch: the user's inputs.
        case: weights and inputs.
        findings: those on the gradients tell which weights may be unused.
    """
    outputs = run(case)["forward"]

    def matters(other: Case) -> bool:
        try:
            others = run(other)["forward"]
        except Exception:  # PyTorch may check the range: then it reads the input
            return True
        return any(
            not np.array_equal(array, others[name], equal_nan=is_float(array))
            for name, array in outputs.items()
        )

    sentences = []
    rng = np.random.default_rng(0)
    for name, array in batch.arrays.items():
        changed = _changed(array, rng)
        if changed is None:
            sentences.append(
                f"Input {name} is the same number everywhere: what it does is not shown."
            )
        elif not matters(Case(case.weights, {**case.inputs, name: changed})):
            sentences.append(f"No output of PyTorch's depends on input {name}.")
    for name in _without_gradient(findings):
        for key in pair.state.trained.get(name, ()):
            wide = np.asarray(case.weights.get(key, np.zeros(0)), np.float64)
            moved = wide + rng.normal(size=wide.shape)
            if key in case.weights and not matters(Case({**case.weights, key: moved}, case.inputs)):
                sentences.append(f"No output of PyTorch's depends on {key}: it is not compared.")
    return sentences


def _changed(array: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    # Another input that the module takes, too; None if there is none.
    if array.dtype == bool:
        return None if array.min() == array.max() else ~array
    if not is_float(array):
        if array.min() == array.max():
            return None
        return np.where(array == array.min(), array.max(), array.min()).astype(array.dtype)
    wide = np.asarray(array, np.float64)
    if is_mask(array):
        if wide.min() == wide.max():
            return None
        return np.where(wide == wide.min(), wide.max(), wide.min())
    return wide + rng.normal(size=wide.shape)


def _without_gradient(findings: Sequence[Finding]) -> list[str]:
    # Arrays whose gradients are zero wherever they are compared.
    outcomes: dict[str, set[Outcome]] = {}
    for finding in findings:
        if finding.quantity == "gradients" and finding.criterion in ("C1", "C2"):
            outcomes.setdefault(finding.array, set()).add(finding.outcome)
    return [name for name, seen in outcomes.items() if seen == {Outcome.ABSTAIN}]


def shown_nothing(findings: Sequence[Finding]) -> list[str]:
    """A sentence for each array that says nothing about the two functions."""
    sentences = []
    gradients = [f for f in findings if f.quantity == "gradients" and f.criterion in ("C1", "C2")]
    for finding in findings:
        if finding.outcome is not Outcome.ABSTAIN:
            continue
        if finding.quantity == "forward":
            sentences.append(f"{finding.array} shows nothing: {finding.note}.")
        elif finding.quantity == "gradients":
            sentences.append(f"The gradient of {finding.array} shows nothing: {finding.note}.")
    if gradients and all(f.outcome is Outcome.ABSTAIN for f in gradients):
        sentences = [s for s in sentences if not s.startswith("The gradient")]
        sentences.append("No gradient shows anything: all are zero, or NaN, in both frameworks.")
    return list(dict.fromkeys(sentences))


def warned(findings: Sequence[Finding]) -> list[str]:
    """A sentence for each reason of a warning, with the arrays that it concerns."""
    by_note: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding.outcome is Outcome.WARN and finding.note:
            by_note.setdefault((finding.note, finding.inputs), []).append(finding.array)
    sentences = []
    for (note, inputs), arrays in by_note.items():
        named = list(dict.fromkeys(arrays))
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        sentences.append(f"{', '.join(named[:SHOWN])}{more}, {inputs}: {note}.")
    return sentences
