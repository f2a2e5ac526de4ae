"""Recurrent stacks to compare: cells, layers and directions, with lengths and with dropout.

Shapes: T time steps, B batch, F input size, H hidden size, L layers, D directions.
"""

import contextlib
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from jaxrnn.exchange.weights import WeightMap
from jaxrnn.nn.layers import RNN
from parity.core.bridge import TORCH_DTYPES
from parity.core.pairs import (
    SIZES,
    H,
    Inputs,
    Pair,
    Sizes,
    apply,
    carry_of_jax,
    carry_of_torch,
    draw_carry,
    named_carry_of_jax,
    named_carry_of_torch,
    nested,
    projection,
)
from parity.core.references import LAYERS, TORCH_CELLS
from parity.core.runners import torch_device, without_cudnn

LAYER_DROPOUT = 0.4
"""Share of the outputs that the dropout cases drop."""
TORCH_SEED = 20
"""Of torch's dropout masks."""


@dataclass(frozen=True)
class _Stack:
    """A recurrent stack and torch's: what each of them computes from the same inputs."""

    stack: RNN
    lengths: bool
    sizes: Sizes

    def module(self) -> nn.Module:
        """torch's stack."""
        stack = self.stack
        options: dict[str, Any] = {"bidirectional": stack.bidirectional, "dropout": stack.dropout}
        return LAYERS[stack.cell.name](self.sizes.F, stack.hidden_size, stack.num_layers, **options)

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Inputs, a carry, and lengths: one of T, one of 1."""
        steps, batch_size = self.sizes.T, self.sizes.B
        inputs = {"xs": rng.uniform(-1.5, 1.5, (steps, batch_size, self.sizes.F))}
        inputs |= draw_carry(rng, self.stack, batch_size)
        counts = np.maximum([steps - 2, steps, *[1] * batch_size][:batch_size], 1)
        return inputs | ({"lengths": counts} if self.lengths else {})

    def masks(self, dtype: str) -> list[jax.Array] | None:
        """torch's dropout masks, drawn again from the seed, and in the precision, of its run."""
        if not self.stack.dropout:
            return None
        torch.manual_seed(TORCH_SEED)
        width = self.stack.hidden_size * (2 if self.stack.bidirectional else 1)
        shape = self.sizes.T, self.sizes.B, width
        ones = torch.ones(shape, dtype=TORCH_DTYPES[dtype], device=torch_device())
        drawn = (
            nn.functional.dropout(ones, self.stack.dropout)
            for _ in range(self.stack.num_layers - 1)
        )
        return [jnp.asarray((mask != 0).cpu().numpy()) for mask in drawn]

    def jax_outputs(self, params: Any, inputs: Inputs) -> dict[str, jax.Array]:
        """The outputs of every step, and the carry."""
        carry = carry_of_jax(self.stack.cell, inputs)
        xs = inputs["xs"]
        options = {"lengths": inputs.get("lengths"), "dropout_masks": self.masks(str(xs.dtype))}
        carry, ys = apply(self.stack, params, carry, xs, **options)
        return {"ys": ys, **named_carry_of_jax(carry)}

    def torch_outputs(self, module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
        """The same of torch; with lengths, on a packed sequence."""
        xs, carry = inputs["xs"], carry_of_torch(inputs)
        torch.manual_seed(TORCH_SEED)
        if self.lengths:
            xs = pack_padded_sequence(xs, inputs["lengths"].cpu(), enforce_sorted=False)
        # cuDNN draws dropout masks of its own.
        with without_cudnn() if self.stack.dropout else contextlib.nullcontext():
            ys, carry = module(xs, carry)
        if self.lengths:
            ys, _ = pad_packed_sequence(ys, total_length=self.sizes.T)
        return {"ys": ys, **named_carry_of_torch(carry)}


def layer_pair(stack: RNN, *, lengths: bool = False, sizes: Sizes = SIZES) -> Pair:
    """A recurrent stack and torch's; with lengths, torch's on a packed sequence.

    With dropout, torch's own masks, drawn again from the same seed, are injected on the JAX side.
    `sizes` has T, B and F; the stack has H.
    """
    both = _Stack(stack, lengths, sizes)
    return Pair(
        name=_layer_name(stack, lengths),
        module=both.module,
        weight_map=WeightMap.for_flax(name for name, _ in both.module().named_parameters()),
        params=nested,
        draw=both.draw,
        jax_outputs=both.jax_outputs,
        jax_loss=lambda params, inputs: projection(both.jax_outputs(params, inputs)),
        torch_outputs=both.torch_outputs,
        torch_loss=lambda module, inputs: projection(both.torch_outputs(module, inputs)),
        differentiable=("xs", *(f"carry.{f}" for f in stack.cell.carry._fields)),
        stack=stack,
        lengths=lengths,
    )


def _layer_name(stack: RNN, lengths: bool) -> str:
    parts = [stack.cell.name, f"{stack.num_layers} layer{'s' if stack.num_layers > 1 else ''}"]
    parts += ["both directions"] if stack.bidirectional else []
    parts += ["lengths"] if lengths else []
    parts += ["dropout"] if stack.dropout else []
    return ", ".join(parts)


def layer_pairs(*, quick: bool) -> list[Pair]:
    """Recurrent stacks: cells x layers x directions, with lengths and with dropout."""
    pairs = [
        layer_pair(RNN(cell, H, 2, bidirectional=True), lengths=True)
        for cell in TORCH_CELLS.values()
    ]
    dropped = [RNN(cell, H, 3, dropout=LAYER_DROPOUT) for cell in TORCH_CELLS.values()]
    pairs += [layer_pair(stack) for stack in dropped[-1 if quick else 0 :]]
    if quick:
        return pairs
    for cell, num_layers, both in product(TORCH_CELLS.values(), (1, 3), (False, True)):
        pairs.append(layer_pair(RNN(cell, H, num_layers, bidirectional=both)))
    return pairs
