"""`flax.linen.RNN` over Linen's own cells, time-major, the carry handed in and out.

Its GRU is torch's equation. `OptimizedLSTMCell` is the one that Flax recommends for speed.
"""

from typing import Any

import flax.linen as nn

from benchmarks.baselines.jax_training import Network, zeros
from benchmarks.cases import EMBEDDING, VOCABULARY, Case
from benchmarks.data import Weights
from benchmarks.mapping import FoldGru, LayerMap, SplitFirst, biases, keys, nested, paths, whole_map
from jaxrnn.exchange.operations import Chain, FoldBiases, SplitGates, Transpose
from jaxrnn.exchange.weights import entry

CELLS: dict[str, Any] = {
    "tanh": nn.SimpleCell,
    "gru": nn.GRUCell,
    "lstm": nn.OptimizedLSTMCell,
}


class Model(nn.Module):
    """Embedding, a stack of `nn.RNN`, output layer."""

    cell: str
    hidden_size: int
    num_layers: int

    @nn.compact
    def __call__(self, carry: tuple[Any, ...], tokens: Any) -> tuple[tuple[Any, ...], Any]:
        xs = nn.Embed(VOCABULARY, EMBEDDING, name="e")(tokens)
        after = []
        for layer in range(self.num_layers):
            cell = CELLS[self.cell](self.hidden_size, name=f"cell_{layer}")
            rnn = nn.RNN(cell, time_major=True, return_carry=True)
            last, xs = rnn(xs, initial_carry=carry[layer])
            after.append(last)
        return tuple(after), nn.Dense(VOCABULARY, name="l_out")(xs)


def network(case: Case, weights: Weights) -> Network:
    """The model with torch's weights."""
    model = Model(case.cell, case.hidden_size, case.num_layers)
    table = whole_map(
        case.num_layers, LAYERS[case.cell], "e/embedding", "l_out/kernel", "l_out/bias"
    )
    carry = (zeros(case), zeros(case)) if case.cell == "lstm" else zeros(case)
    params = nested(table.from_torch(weights))
    return Network(
        params,
        (carry,) * case.num_layers,
        lambda params, carry, tokens: model.apply({"params": params}, carry, tokens),
    )


def _tanh(k: int) -> Any:
    return [
        entry(keys(k, "weight_ih"), f"cell_{k}/i/kernel", Transpose()),
        entry(keys(k, "weight_hh"), f"cell_{k}/h/kernel", Transpose()),
        entry(biases(k), f"cell_{k}/i/bias", FoldBiases()),
    ]


def _gru(k: int) -> Any:
    cell = f"cell_{k}"
    kernel = Chain((SplitGates(3), Transpose()))
    bias = Chain((FoldGru(), SplitFirst(3)))
    return [
        entry(keys(k, "weight_ih"), paths(cell, ("ir", "iz", "in"), "kernel"), kernel),
        entry(keys(k, "weight_hh"), paths(cell, ("hr", "hz", "hn"), "kernel"), kernel),
        entry(biases(k), paths(cell, ("ir", "iz", "in", "hn"), "bias"), bias),
    ]


def _lstm(k: int) -> Any:
    cell = f"cell_{k}"
    kernel = Chain((SplitGates(4), Transpose()))
    bias = Chain((FoldBiases(), SplitGates(4)))
    return [
        entry(keys(k, "weight_ih"), paths(cell, ("ii", "if", "ig", "io"), "kernel"), kernel),
        entry(keys(k, "weight_hh"), paths(cell, ("hi", "hf", "hg", "ho"), "kernel"), kernel),
        entry(biases(k), paths(cell, ("hi", "hf", "hg", "ho"), "bias"), bias),
    ]


LAYERS: dict[str, LayerMap] = {"tanh": _tanh, "gru": _gru, "lstm": _lstm}
