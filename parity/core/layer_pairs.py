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
from parity.core.bridge import TORCH_DTYPES, torch_device
from parity.core.pairs import (
    SIZES,
    H,
    Inputs,
    Pair,
    Sizes,
    apply,
    carry_inputs,
    carry_kind,
    carry_of_jax,
    carry_of_torch,
    directions,
    named_carry_of_jax,
    named_carry_of_torch,
    nested,
    projection,
    sample_carry,
)
from parity.core.references import LAYERS, LOOP_CELLS, TORCH_CELLS
from parity.core.runners import without_cudnn

# Share of the outputs that the dropout cases drop, and the seed of torch's masks.
LAYER_DROPOUT = 0.4
TORCH_SEED = 20


# Of the cells that torch has not, these run in both directions, and in every way even in the quick
# form: the one with the most fields in its carry, the one that carries its input, and a free one.
EVERY_WAY = ("slstm", "qrnn", "mogrifier-lstm")


@dataclass(frozen=True)
class _Stack:
    """A recurrent stack and torch's: what each of them computes from the same inputs."""

    stack: RNN
    lengths: bool
    sizes: Sizes

    @property
    def kind(self) -> Any:
        # The carry of one layer and direction.
        return carry_kind(self.stack, self.sizes.F)

    def module(self) -> nn.Module:
        # torch's stack.
        return LAYERS[self.stack.cell.name](
            self.sizes.F,
            self.stack.hidden_size,
            self.stack.num_layers,
            bidirectional=self.stack.bidirectional,
            dropout=self.stack.dropout,
        )

    def sample_inputs(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        # Inputs, a carry, and lengths: one of T, one of 1.
        steps = self.sizes.T
        batch_size = self.sizes.B
        inputs = {"xs": rng.uniform(-1.5, 1.5, (steps, batch_size, self.sizes.F))}
        inputs |= sample_carry(rng, self.stack, batch_size, self.sizes.F)
        if self.lengths:
            # All lengths but one are shorter than T, and most are as short as can be.
            counts = [steps - 2, steps, *[1] * batch_size]
            inputs["lengths"] = np.maximum(counts[:batch_size], 1)
        return inputs

    def masks(self, dtype: str) -> list[jax.Array] | None:
        # torch's dropout masks, sampled again from the seed, and in the precision, of its run.
        if not self.stack.dropout:
            return None
        torch.manual_seed(TORCH_SEED)
        # The mask depends on the type of what is dropped, too.
        ones = torch.ones(
            (self.sizes.T, self.sizes.B, directions(self.stack) * self.stack.hidden_size),
            dtype=TORCH_DTYPES[dtype],
            device=torch_device(),
        )
        masks = []
        for _ in range(self.stack.num_layers - 1):
            outputs = nn.functional.dropout(ones, self.stack.dropout)  # (T, B, D * H)
            masks.append(jnp.asarray((outputs != 0).cpu().numpy()))
        return masks

    def jax_outputs(self, params: Any, inputs: Inputs) -> dict[str, jax.Array]:
        # The outputs of every step, and the carry.
        carry, ys = apply(
            self.stack,
            params,
            carry_of_jax(self.kind, inputs),
            inputs["xs"],
            lengths=inputs.get("lengths"),
            dropout_masks=self.masks(str(inputs["xs"].dtype)),
        )
        return {"ys": ys, **named_carry_of_jax(carry)}

    def torch_outputs(self, module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
        # The same of torch; with lengths, on a packed sequence.
        xs = inputs["xs"]
        if self.lengths:
            xs = pack_padded_sequence(xs, inputs["lengths"].cpu(), enforce_sorted=False)
        torch.manual_seed(TORCH_SEED)
        # cuDNN samples dropout masks of its own.
        with without_cudnn() if self.stack.dropout else contextlib.nullcontext():
            # The seed from which `masks` samples the same ones.
            ys, carry = module(xs, carry_of_torch(self.kind, inputs))
        if self.lengths:
            ys = pad_packed_sequence(ys, total_length=self.sizes.T)[0]  # (T, B, D * H)
        return {"ys": ys, **named_carry_of_torch(self.kind, carry)}


def layer_pair(stack: RNN, *, lengths: bool = False, sizes: Sizes = SIZES) -> Pair:
    """A recurrent stack and torch's; with lengths, torch's on a packed sequence.

    With dropout, torch's own masks, sampled again from the same seed, are injected in JAX.
    `sizes` has T, B and F; the stack has H.
    """
    both = _Stack(stack, lengths, sizes)
    return Pair(
        name=_layer_name(stack, lengths),
        module=both.module,
        weight_map=WeightMap.for_flax(name for name, _ in both.module().named_parameters()),
        params=nested,
        sample_inputs=both.sample_inputs,
        jax_outputs=both.jax_outputs,
        jax_loss=lambda params, inputs: projection(both.jax_outputs(params, inputs)),
        torch_outputs=both.torch_outputs,
        torch_loss=lambda module, inputs: projection(both.torch_outputs(module, inputs)),
        differentiable=("xs", *carry_inputs(both.sample_inputs)),
        stack=stack,
        carry=both.kind,
        lengths=lengths,
    )


def _layer_name(stack: RNN, lengths: bool) -> str:
    words = {
        stack.cell.name: True,
        f"{stack.num_layers} layers": stack.num_layers > 1,
        "1 layer": stack.num_layers == 1,
        "both directions": stack.bidirectional,
        "lengths": lengths,
        "dropout": stack.dropout > 0,
    }
    return ", ".join(word for word, fits in words.items() if fits)


def layer_pairs(*, quick: bool) -> list[Pair]:
    """Stacks of the cells that torch has: cells x layers x directions, lengths and dropout."""
    cells = list(TORCH_CELLS.values())
    pairs = [layer_pair(RNN(cell, H, 2, bidirectional=True), lengths=True) for cell in cells]
    # Dropout is the stack's and not the cell's: one cell will do for the quick form.
    dropping = cells[-1:] if quick else cells
    pairs += [layer_pair(RNN(cell, H, 3, dropout=LAYER_DROPOUT)) for cell in dropping]
    if not quick:
        # Everything else, without lengths and dropout.
        for cell, num_layers, both in product(cells, (1, 3), (False, True)):
            pairs.append(layer_pair(RNN(cell, H, num_layers, bidirectional=both)))
    return pairs


def loop_pairs() -> list[Pair]:
    """A layer of each other cell, with lengths; of some of them in both directions.

    They run in the same stacks as those of torch, so what is theirs shows in one layer.
    """
    pairs = []
    for name, cell in LOOP_CELLS.items():
        pairs.append(layer_pair(RNN(cell, H, bidirectional=name in EVERY_WAY), lengths=True))
    return pairs
