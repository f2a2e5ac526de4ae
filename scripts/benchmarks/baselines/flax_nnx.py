"""`flax.nnx.RNN` over NNX's own cells, time-major, the carry handed in and out.

Split into parameters and structure around `jax.jit`, as NNX's guide to performance recommends
(the "functional training loop"); `nnx.jit` would cost Python time in every step. NNX's GRU has no
bias in the candidate's recurrent product, so it is another equation with one vector less.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from benchmarks.baselines.jax_training import Network, zeros
from benchmarks.cases import EMBEDDING, VOCABULARY, Case
from benchmarks.data import Weights
from benchmarks.mapping import LayerMap, biases, keys, nested, whole_map
from jaxrnn.exchange.operations import FoldBiases, Transpose
from jaxrnn.exchange.weights import entry

CELLS: dict[str, Any] = {
    "tanh": nnx.SimpleCell,
    "gru": nnx.GRUCell,
    "lstm": nnx.OptimizedLSTMCell,
}


class Model(nnx.Module):
    """Embedding, a stack of `nnx.RNN`, output layer."""

    def __init__(self, case: Case) -> None:
        rngs = nnx.Rngs(0)
        widths = [EMBEDDING] + [case.hidden_size] * (case.num_layers - 1)
        self.e = nnx.Embed(VOCABULARY, EMBEDDING, rngs=rngs)
        self.layers = nnx.List(
            nnx.RNN(
                CELLS[case.cell](width, case.hidden_size, rngs=rngs),
                time_major=True,
                return_carry=True,
            )
            for width in widths
        )
        self.l_out = nnx.Linear(case.hidden_size, VOCABULARY, rngs=rngs)

    def __call__(self, carry: tuple[Any, ...], tokens: Any) -> tuple[tuple[Any, ...], Any]:
        """The carry after the tokens, and logits."""
        xs = self.e(tokens)  # (T, B, F)
        after = []
        for layer, before in zip(self.layers, carry, strict=True):
            last, xs = layer(xs, initial_carry=before)
            after.append(last)
        return tuple(after), self.l_out(xs)


def network(case: Case, weights: Weights) -> Network:
    """The model with torch's weights."""
    parts: Any = nnx.split(Model(case), nnx.Param, ...)
    structure, params, rest = parts
    table = whole_map(
        case.num_layers, LAYERS[case.cell], "e/embedding", "l_out/kernel", "l_out/bias"
    )
    tree = nested({path: jnp.asarray(a) for path, a in table.from_torch(weights).items()})
    tree["layers"] = {int(k): layer for k, layer in tree["layers"].items()}
    nnx.replace_by_pure_dict(params, tree)
    carry = (zeros(case), zeros(case)) if case.cell == "lstm" else zeros(case)

    def logits(params: Any, carry: Any, tokens: Any) -> Any:
        return nnx.merge(structure, params, rest)(carry, tokens)

    return Network(params, (carry,) * case.num_layers, logits)


def _layer(bias: str) -> LayerMap:
    return lambda k: [
        entry(keys(k, "weight_ih"), f"layers/{k}/cell/dense_i/kernel", Transpose()),
        entry(keys(k, "weight_hh"), f"layers/{k}/cell/dense_h/kernel", Transpose()),
        entry(biases(k), f"layers/{k}/cell/{bias}/bias", FoldBiases()),
    ]


LAYERS: dict[str, LayerMap] = {
    "tanh": _layer("dense_i"),
    "gru": _layer("dense_i"),
    "lstm": _layer("dense_h"),
}
