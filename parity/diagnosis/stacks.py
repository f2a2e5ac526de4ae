"""A recurrent stack in PyTorch, each layer and direction of which can be run by itself.

Shapes: T time steps, B batch, I input size, H hidden size, L layers, D directions.

A free run shows where the numbers differ; from there the difference spreads. A clamped run hands
one layer and direction the reference's own input and carry, so what differs there, starts there.
A single step does the same for every step. The reference is torch's own layer, step by step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import Cell
from parity.core.bridge import numpy_of
from parity.core.pairs import projection
from parity.core.references import LAYERS
from parity.core.runners import torch_device
from parity.diagnosis.equations import Weights
from parity.diagnosis.identify import layer_weights

Fields = tuple[np.ndarray, ...]
"""The fields of one carry, each (B, H)."""

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class Case:
    """A stack, its weights and its inputs, all in float64.

    Attributes:
        stack: the stack, as the library has it.
        weights: by torch's names.
        xs: (T, B, I).
        carry: for each layer and direction the fields, in torch's order.
        lengths: (B,), or None.
        masks: for every layer but the last which outputs are kept, (T, B, D * H); empty without
            dropout.
    """

    stack: RNN
    weights: dict[str, np.ndarray]
    xs: np.ndarray
    carry: tuple[Fields, ...]
    lengths: np.ndarray | None = None
    masks: tuple[np.ndarray, ...] = ()

    @property
    def mask(self) -> np.ndarray | None:
        """Which steps count, (T, B); None if all do."""
        if self.lengths is None:
            return None
        return np.arange(len(self.xs))[:, None] < self.lengths[None, :]


class Part(NamedTuple):
    """One layer in one direction, and what goes into it.

    Attributes:
        cell: the name of its cell.
        w: its weights.
        xs: (T, B, I).
        carry: the fields before its first step.
        reverse: whether it runs from the last step to the first.
        mask: (T, B), or None.
    """

    cell: str
    w: Weights
    xs: np.ndarray
    carry: Fields
    reverse: bool = False
    mask: np.ndarray | None = None


class Ran(NamedTuple):
    """What one layer and direction gave.

    Attributes:
        last: the fields after the last step.
        ys: (T, B, H).
        before: for each step the fields before it, (T, B, H) each; None of the JAX side.
        gradients: of `projection` of last and ys: by weight, "xs", and "carry.h" and so on.
    """

    last: Fields
    ys: np.ndarray
    before: Fields | None
    gradients: dict[str, np.ndarray]


def draw(
    cell: Cell,
    *,
    steps: int = 4,
    batch_size: int = 3,
    inputs: int = 6,
    hidden_size: int = 5,
    num_layers: int = 2,
    bidirectional: bool = False,
    lengths: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
) -> Case:
    """A random case; no weight, bias or carry is zero."""
    rng = np.random.default_rng(seed)
    stack = RNN(cell, hidden_size, num_layers, bidirectional=bidirectional, dropout=dropout)
    rows, directions = len(cell.gates) * hidden_size, 2 if bidirectional else 1
    weights: dict[str, np.ndarray] = {}
    for name in part_names(stack):
        width = inputs if name.startswith("l0") else directions * hidden_size
        shapes = (rows, width), (rows, hidden_size), (rows,), (rows,)
        drawn = zip(NAMES, shapes, strict=True)
        weights |= {f"{kind}_{name}": rng.uniform(-1, 1, shape) for kind, shape in drawn}
    fields = len(cell.carry._fields)
    carry = rng.uniform(-0.9, 0.9, (num_layers * directions, fields, batch_size, hidden_size))
    counts = np.maximum(1, steps - np.arange(batch_size)) if lengths else None
    masks = rng.random((num_layers - 1, steps, batch_size, directions * hidden_size)) > dropout
    return Case(
        stack,
        weights,
        rng.uniform(-1.5, 1.5, (steps, batch_size, inputs)),
        tuple(tuple(one) for one in carry),
        counts,
        tuple(masks) if dropout else (),
    )


def part_names(stack: RNN) -> list[str]:
    """torch's suffixes of the weights: "l0", "l0_reverse", "l1", ..."""
    suffixes = ("", "_reverse") if stack.bidirectional else ("",)
    return [f"l{layer}{suffix}" for layer in range(stack.num_layers) for suffix in suffixes]


def reference(case: Case) -> dict[str, tuple[Part, Ran]]:
    """PyTorch's stack: what goes into every layer and direction, and what comes out."""
    found: dict[str, tuple[Part, Ran]] = {}
    for name, part in reference_parts(case, found):
        found[name] = part, run_part(part)
    return found


def reference_parts(case: Case, found: dict[str, tuple[Part, Ran]]) -> Iterator[tuple[str, Part]]:
    """Each layer and direction, fed from those of `found` below it."""
    xs, count = case.xs, 2 if case.stack.bidirectional else 1
    names = part_names(case.stack)
    for k, name in enumerate(names):
        if k and k % count == 0:
            xs = joined([found[below][1].ys for below in names[k - count : k]])
            if case.masks:
                xs = dropped(xs, case.masks[k // count - 1], case.stack.dropout)
        w = layer_weights(case.weights, f"_{name}")
        reverse = name.endswith("_reverse")
        yield name, Part(case.stack.cell.name, w, xs, case.carry[k], reverse, case.mask)


def joined(outputs: list[np.ndarray]) -> np.ndarray:
    """The outputs of all directions side by side."""
    return np.concatenate(outputs, axis=-1)


def dropped(xs: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """torch's dropout: what is kept is divided by 1 - rate."""
    return np.where(mask, xs / (1 - rate), 0)


def run_part(part: Part) -> Ran:
    """torch's layer, one step after the other."""
    order = range(len(part.xs))[:: -1 if part.reverse else 1]
    hidden_size = part.carry[0].shape[-1]
    module = LAYERS[part.cell](part.xs.shape[-1], hidden_size).double().to(torch_device())
    keys = [f"{name}_l0" for name in NAMES]
    module.load_state_dict({k: torch.tensor(array) for k, array in zip(keys, part.w, strict=True)})
    xs = _tensor(part.xs).requires_grad_()
    start = [_tensor(field).requires_grad_() for field in part.carry]
    carry, before, ys = start, {}, {}
    for t in order:
        before[t] = [field.detach() for field in carry]
        carry, ys[t] = _torch_step(module, xs[t], carry, _mask_at(part, t))
    steps = range(len(part.xs))
    stacked = torch.stack([ys[t] for t in steps])
    named = zip("hc", carry, strict=False)
    projection({"ys": stacked, **{f"carry.{f}": field for f, field in named}}).backward()
    gradients = {name: module.get_parameter(f"{name}_l0").grad for name in NAMES}
    gradients |= {
        "xs": xs.grad,
        **{f"carry.{f}": a.grad for f, a in zip("hc", start, strict=False)},
    }
    kept = zip(*(before[t] for t in steps), strict=True)
    return Ran(
        tuple(numpy_of(field) for field in carry),
        numpy_of(stacked),
        tuple(numpy_of(torch.stack(field)) for field in kept),
        {name: numpy_of(gradient) for name, gradient in gradients.items()},
    )


def _mask_at(part: Part, t: int) -> torch.Tensor | None:
    return None if part.mask is None else _tensor(part.mask[t])[:, None]


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of an array where PyTorch computes."""
    return torch.tensor(array, device=torch_device())


def _torch_step(
    module: torch.nn.Module, x: torch.Tensor, carry: list[torch.Tensor], mask: Any
) -> tuple[list[torch.Tensor], torch.Tensor]:
    states = tuple(field[None] for field in carry)
    _, after = module(x[None], states[0] if len(states) == 1 else states)
    fields = [field[0] for field in (after if isinstance(after, tuple) else (after,))]
    if mask is None:
        return fields, fields[0]
    kept = [torch.where(mask, new, old) for new, old in zip(fields, carry, strict=True)]
    return kept, torch.where(mask, kept[0], 0)


def single_steps(part: Part, ran: Ran) -> tuple[Part, np.ndarray]:
    """Every step that counts by itself, with the reference's input and carry, as one batch.

    Also gives the number of the time step of each row.
    """
    assert ran.before is not None
    counts = np.ones(part.xs.shape[:2], bool) if part.mask is None else part.mask
    carry = tuple(field[counts] for field in ran.before)
    alone = part._replace(xs=part.xs[counts][None], carry=carry, mask=None)
    return alone, np.nonzero(counts)[0]


def stack_gradients(case: Case) -> dict[str, np.ndarray]:
    """The gradients of torch's own stack, by weight; without lengths and dropout."""
    stack = case.stack
    options = {"num_layers": stack.num_layers, "bidirectional": stack.bidirectional}
    module = LAYERS[stack.cell.name](case.xs.shape[-1], stack.hidden_size, **options)
    module = module.double().to(torch_device())
    module.load_state_dict({name: torch.tensor(array) for name, array in case.weights.items()})
    fields = tuple(_tensor(np.stack(field)) for field in zip(*case.carry, strict=True))
    ys, _ = module(_tensor(case.xs), fields[0] if len(fields) == 1 else fields)
    projection({"ys": ys}).backward()
    return {name: numpy_of(parameter.grad) for name, parameter in module.named_parameters()}
