"""Haiku's `dynamic_unroll` over its own cores, time-major.

Its GRU multiplies the reset gate before the product: another equation. Its LSTM adds 1 to the
forget gate, which the weights take back. Its `VanillaRNN` is a relu, so the tanh cell is a core
of a few lines, written like it.
"""

from typing import Any

import haiku as hk
import jax.numpy as jnp

from benchmarks.baselines.jax_training import Network, zeros
from benchmarks.cases import EMBEDDING, VOCABULARY, Case
from benchmarks.data import Weights
from benchmarks.mapping import (
    IGFO,
    ZRN,
    LayerMap,
    LessForgetOffset,
    SideBySide,
    biases,
    keys,
    whole_map,
)
from jaxrnn.exchange.operations import Chain, FoldBiases, PermuteGates, Transpose
from jaxrnn.exchange.weights import entry


class TanhRNN(hk.RNNCore):
    """`hk.VanillaRNN` with tanh instead of relu, one bias."""

    def __init__(self, hidden_size: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.hidden_size = hidden_size

    def __call__(self, inputs: Any, prev_state: Any) -> tuple[Any, Any]:
        """One step."""
        x = hk.Linear(self.hidden_size)(inputs)
        out = jnp.tanh(x + hk.Linear(self.hidden_size, with_bias=False)(prev_state))
        return out, out

    def initial_state(self, batch_size: int | None) -> Any:
        """Zeros."""
        return jnp.zeros(
            [self.hidden_size] if batch_size is None else [batch_size, self.hidden_size]
        )


CORES: dict[str, Any] = {"tanh": TanhRNN, "gru": hk.GRU, "lstm": hk.LSTM}


def network(case: Case, weights: Weights) -> Network:
    """The model with torch's weights."""

    def forward(carry: tuple[Any, ...], tokens: Any) -> tuple[tuple[Any, ...], Any]:
        xs = hk.Embed(VOCABULARY, EMBEDDING, name="e")(tokens)  # (T, B, F)
        after = []
        for k in range(case.num_layers):
            core = CORES[case.cell](case.hidden_size, name=f"core_{k}")
            xs, last = hk.dynamic_unroll(core, xs, carry[k], time_major=True)
            after.append(last)
        return tuple(after), hk.Linear(VOCABULARY, name="l_out")(xs)

    table = whole_map(case.num_layers, LAYERS[case.cell], "e|embeddings", "l_out|w", "l_out|b")
    params: dict[str, Any] = {}
    for path, array in table.from_torch(weights).items():
        module, name = path.split("|")
        params.setdefault(module, {})[name] = array
    model: Any = hk.without_apply_rng(hk.transform(forward))
    carry = hk.LSTMState(zeros(case), zeros(case)) if case.cell == "lstm" else zeros(case)
    return Network(params, (carry,) * case.num_layers, model.apply)


def _tanh(k: int) -> Any:
    return [
        entry(keys(k, "weight_ih"), f"core_{k}/linear|w", Transpose()),
        entry(keys(k, "weight_hh"), f"core_{k}/linear_1|w", Transpose()),
        entry(biases(k), f"core_{k}/linear|b", FoldBiases()),
    ]


def _gru(k: int) -> Any:
    order = PermuteGates(ZRN)
    return [
        entry(keys(k, "weight_ih"), f"core_{k}|w_i", Chain((order, Transpose()))),
        entry(keys(k, "weight_hh"), f"core_{k}|w_h", Chain((order, Transpose()))),
        entry(biases(k), f"core_{k}|b", Chain((FoldBiases(), order))),
    ]


def _lstm(k: int) -> Any:
    order = PermuteGates(IGFO)
    bias = Chain((FoldBiases(), order, LessForgetOffset()))
    return [
        entry(
            keys(k, "weight_ih", "weight_hh"),
            f"core_{k}/linear|w",
            Chain((order, SideBySide())),
        ),
        entry(biases(k), f"core_{k}/linear|b", bias),
    ]


LAYERS: dict[str, LayerMap] = {"tanh": _tanh, "gru": _gru, "lstm": _lstm}
