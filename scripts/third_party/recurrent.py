"""What the cases of recurrent cells share: a layer from a cell, its inputs, and weight maps.

Shapes: T time steps, B batch, I input features, H hidden size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from parity import (
    Chain,
    FoldBiases,
    FoldGruBiases,
    Identity,
    Operation,
    PermuteGates,
    SplitGates,
    Transpose,
    WeightMap,
    entry,
)
from third_party.cases import Sizes, samples

BIASES = ("bias_ih_l0", "bias_hh_l0")
"""PyTorch's two biases of a layer."""
SPLIT_KERNELS = Chain((SplitGates(4), Transpose()))
"""The gates of an LSTM's weight, one kernel each."""

Step = Callable[[Any, jax.Array], tuple[Any, jax.Array]]
"""A cell: (carry, x) to (carry, y)."""


def h_layer(step: Step, xs: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A cell whose carry is h over time, answering as `torch.nn.GRU` does."""
    last, ys = lax.scan(step, h[0], xs)
    return ys, last[None]  # (T, B, H) and (1, B, H)


def ch_layer(step: Step, xs: jax.Array, carry: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """A cell whose carry is (c, h) over time, answering as `torch.nn.LSTM` does."""
    h, c = carry
    (c_last, h_last), ys = lax.scan(step, (c[0], h[0]), xs)
    return ys, (h_last[None], c_last[None])


def gru_inputs(sizes: Sizes) -> tuple[Any, ...]:
    """Inputs (T, B, I) and h (1, B, H)."""
    T, B, I, H = (sizes[letter] for letter in "TBIH")
    return samples(T, B, I), samples(1, B, H, seed=1)


def lstm_inputs(sizes: Sizes) -> tuple[Any, ...]:
    """Inputs (T, B, I), and h and c, (1, B, H) each."""
    T, B, I, H = (sizes[letter] for letter in "TBIH")
    return samples(T, B, I), (samples(1, B, H, seed=1), samples(1, B, H, seed=2))


def split_lstm_map(input_names: Sequence[str], hidden_names: Sequence[str]) -> WeightMap:
    """An LSTM with a dense layer for each gate; the hidden ones have the biases."""
    return WeightMap(
        [
            entry("weight_ih_l0", [f"{name}/kernel" for name in input_names], SPLIT_KERNELS),
            entry("weight_hh_l0", [f"{name}/kernel" for name in hidden_names], SPLIT_KERNELS),
            entry(
                BIASES,
                [f"{name}/bias" for name in hidden_names],
                Chain((FoldBiases(), SplitGates(4))),
            ),
        ]
    )


def joined_map(
    weight_ih: str,
    weight_hh: str,
    bias: str,
    *,
    order: Sequence[int] = (0,),
    after_folding: Operation | None = None,
    transposed: bool = True,
) -> WeightMap:
    """A layer with one array for all gates, and one bias.

    Args:
        weight_ih: the path of the input's weight.
        weight_hh: the path of the hidden state's weight.
        bias: the path of the bias.
        order: gate k is PyTorch's gate `order[k]`.
        after_folding: what else happens to the bias, in PyTorch's order of the gates.
        transposed: whether the weights are (in, out).
    """
    gates = PermuteGates(tuple(order))
    kernel = Chain((gates, Transpose())) if transposed else gates
    folded = Chain((FoldBiases(), after_folding or Identity(), gates))
    return WeightMap(
        [
            entry("weight_ih_l0", weight_ih, kernel),
            entry("weight_hh_l0", weight_hh, kernel),
            entry(BIASES, bias, folded),
        ]
    )


def split_gru_map() -> WeightMap:
    """Linen's GRU: a dense layer for each gate, and one bias for each but for n, which has two."""
    kernels = Chain((SplitGates(3), Transpose()))
    return WeightMap(
        [
            entry("weight_ih_l0", [f"i{gate}/kernel" for gate in "rzn"], kernels),
            entry("weight_hh_l0", [f"h{gate}/kernel" for gate in "rzn"], kernels),
            entry(BIASES, ["ir/bias", "iz/bias", "in/bias", "hn/bias"], FoldGruBiases(split=True)),
        ]
    )
