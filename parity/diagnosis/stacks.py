"""A recurrent stack in PyTorch, each layer and direction of which can be run by itself.

Shapes: T time steps, B batch, I input size, H hidden size, L layers, D directions.

A free run shows where the numbers differ; from there the difference spreads. A clamped run hands
one layer and direction the reference's own input and carry, so what differs there, starts there.
A single step does the same for every step. The reference is torch's own layer, step by step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import AnyCell
from parity.core.bridge import numpy_arrays, numpy_of, tensor_of, tensors, torch_device
from parity.core.pairs import carry_shapes, directions, named_fields, projection, sample_field
from parity.core.reference_layers import by_field, part_names, torch_carry
from parity.core.references import LAYERS
from parity.core.runners import gradient_of
from parity.diagnosis.equations import Weights
from parity.diagnosis.identify import layer_weights

# The carry of one layer and direction, a NamedTuple of arrays: (B, H) each, or (B, I).
Fields = Any


@dataclass(frozen=True)
class StackCase:
    """A stack, its weights and its inputs, all in float64.

    Attributes:
        stack: the stack, as the library has it.
        weights: by torch's names.
        xs: (T, B, I).
        carry: for each layer and direction the carry, in torch's order.
        lengths: (B,), or None.
        masks: for every layer but the last which outputs dropout leaves, (T, B, D * H); empty
            without dropout.
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
    """One layer in one direction, and its inputs.

    Attributes:
        cell: the name of its cell.
        weights: its weights, without its suffix.
        xs: (T, B, I).
        carry: the carry before its first step.
        reverse: whether it runs from the last step to the first.
        mask: (T, B), or None.
    """

    cell: str
    weights: Weights
    xs: np.ndarray
    carry: Fields
    reverse: bool = False
    mask: np.ndarray | None = None

    @property
    def steps(self) -> range:
        """The time steps in the order in which they run."""
        steps = range(len(self.xs))
        return steps[::-1] if self.reverse else steps

    @property
    def counted(self) -> np.ndarray:
        """A copy of the mask, all True where there is none: (T, B)."""
        if self.mask is None:
            return np.ones(self.xs.shape[:2], bool)
        return self.mask.copy()


class PartResults(NamedTuple):
    """What one layer and direction computes.

    Attributes:
        last: the carry after the last step.
        ys: (T, B, H).
        before: for each step the carry before it, (T, B, H) a field; None of JAX.
        gradients: of `projection` of last and ys: by weight, "xs", and "carry.h" and so on.
    """

    last: Fields
    ys: np.ndarray
    before: Fields | None
    gradients: dict[str, np.ndarray]


# Inputs and results of every layer and direction, by name.
Parts = dict[str, tuple[Part, PartResults]]


def sample_stack_case(
    cell: AnyCell,
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
) -> StackCase:
    """A random case; no weight, bias or carry is zero."""
    rng = np.random.default_rng(seed)
    stack = RNN(cell, hidden_size, num_layers, bidirectional=bidirectional, dropout=dropout)
    outputs = directions(stack) * hidden_size

    weights: dict[str, np.ndarray] = {}
    for name, parameter in _layers(stack, inputs).named_parameters():
        weights[name] = rng.uniform(-1, 1, tuple(parameter.shape))

    # The carry, then (L - 1, T, B, D * H), in this order: the seed decides.
    carry = []
    for shapes in carry_shapes(stack, batch_size, inputs):
        fields = shapes._asdict().items()
        carry.append(shapes._make(sample_field(rng, name, like.shape) for name, like in fields))
    masks = rng.random((num_layers - 1, steps, batch_size, outputs)) > dropout
    return StackCase(
        stack,
        weights,
        rng.uniform(-1.5, 1.5, (steps, batch_size, inputs)),
        tuple(carry),
        np.maximum(1, steps - np.arange(batch_size)) if lengths else None,
        tuple(masks) if dropout else (),
    )


def parts_of(stack: RNN) -> list[str]:
    """torch's suffixes of the weights: "l0", "l0_reverse", "l1", ..."""
    return part_names(stack.num_layers, directions(stack))


def _layers(stack: RNN, input_size: int) -> nn.Module:
    # The same stack in PyTorch, without dropout.
    return LAYERS[stack.cell.name](
        input_size, stack.hidden_size, stack.num_layers, bidirectional=stack.bidirectional
    )


def layer_words(name: str) -> str:
    """ "l1_reverse" as "layer 1 reverse"."""
    return name.replace("l", "layer ", 1).replace("_", " ")


def reference_parts(case: StackCase) -> Parts:
    """PyTorch's stack: what every layer and direction reads, and what it computes."""
    parts: Parts = {}
    xs = case.xs
    below: list[np.ndarray] = []
    for k, name in enumerate(parts_of(case.stack)):
        # A layer reads the outputs of both directions below it.
        if k and k % directions(case.stack) == 0:
            xs = joined(below)
            if case.masks:
                layer = k // directions(case.stack)
                xs = dropped(xs, case.masks[layer - 1], case.stack.dropout)
            below = []
        part = Part(
            case.stack.cell.name,
            layer_weights(case.weights, name),
            xs,
            case.carry[k],
            name.endswith("_reverse"),
            case.mask,
        )
        results = run_part(part)
        below.append(results.ys)
        parts[name] = (part, results)
    return parts


def joined(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """The outputs of all directions side by side: (T, B, H) each to (T, B, D * H)."""
    return np.concatenate(outputs, axis=-1)


def dropped(xs: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """torch's dropout: what the mask leaves is divided by 1 - rate."""
    return np.where(mask, xs / (1 - rate), 0)


def run_part(part: Part) -> PartResults:
    """torch's layer, one step after the other."""
    hidden_size = part.carry[0].shape[-1]
    module = LAYERS[part.cell](part.xs.shape[-1], hidden_size).double().to(torch_device())
    state = {f"{name}_l0": array for name, array in part.weights.items()}
    module.load_state_dict(tensors(state, "float64"))
    xs = _tensor(part.xs).requires_grad_()
    start = [_tensor(field).requires_grad_() for field in part.carry]

    # Forward, step by step, because the carry before every step is asked for.
    carry = start
    before = [start] * len(xs)
    ys = [xs] * len(xs)
    # From the last step to the first, if the part runs backwards.
    for t in part.steps:
        before[t] = carry
        mask = None if part.mask is None else _tensor(part.mask[t])
        carry, ys[t] = _torch_step(module, xs[t], carry, mask)
    stacked = torch.stack(ys)  # (T, B, H)

    # Backward, from a scalar that depends on everything.
    projection({"ys": stacked, **named_fields(part.carry, carry)}).backward()
    leaves: dict[str, torch.Tensor] = {}
    for name in part.weights:
        leaves[name] = module.get_parameter(f"{name}_l0")
    leaves |= {"xs": xs, **named_fields(part.carry, start)}
    return PartResults(
        part.carry._make(map(numpy_of, carry)),
        numpy_of(stacked),
        part.carry._make(numpy_of(torch.stack(f)) for f in zip(*before, strict=True)),
        {name: gradient_of(leaf) for name, leaf in leaves.items()},
    )


def _tensor(array: np.ndarray) -> torch.Tensor:
    return tensor_of(array, "float64")


def _torch_step(
    module: nn.Module,
    x: torch.Tensor,
    carry: list[torch.Tensor],
    mask: torch.Tensor | None,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    # The carry after one step, and its output; rows that do not count stay as they are.
    states = torch_carry([field[None] for field in carry])  # (B, H) to (1, B, H)
    after = module(x[None], states)[1]
    fields = list(after) if isinstance(after, tuple) else [after]
    fields = [field[0] for field in fields]  # (1, B, H) to (B, H)
    if mask is None:
        return fields, fields[0]
    # As in a packed sequence: a step that does not count leaves the carry, and gives zero.
    rows = mask[:, None]  # (B,) to (B, 1)
    fields = [torch.where(rows, new, old) for new, old in zip(fields, carry, strict=True)]
    return fields, torch.where(rows, fields[0], 0)


def single_steps(part: Part, results: PartResults) -> tuple[Part, np.ndarray]:
    """Every step that counts by itself, with the reference's input and carry, as one batch.

    Also gives the number of the time step of each row.
    """
    assert results.before is not None
    counted = part.counted
    steps = part._replace(
        xs=part.xs[counted][None],  # (T, B, I) to (1, steps that count, I)
        carry=part.carry._make(field[counted] for field in results.before),
        mask=None,
    )
    return steps, np.nonzero(counted)[0]


def stack_gradients(case: StackCase) -> dict[str, np.ndarray]:
    """The gradients of PyTorch's whole stack, by weight; without lengths and dropout."""
    module = _layers(case.stack, case.xs.shape[-1]).double().to(torch_device())
    module.load_state_dict(tensors(case.weights, "float64"))
    parts = [[_tensor(field) for field in carry] for carry in case.carry]
    carry = torch_carry(by_field(parts, torch.stack))  # (L * D, B, H) a field
    ys = module(_tensor(case.xs), carry)[0]  # (T, B, D * H)
    projection({"ys": ys}).backward()
    return numpy_arrays({name: p.grad for name, p in module.named_parameters()})
