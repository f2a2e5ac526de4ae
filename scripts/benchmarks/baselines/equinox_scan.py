"""Equinox cells in `lax.scan`, one sequence at a time under `jax.vmap`.

That is the RNN example of its documentation; parameters and structure are split with
`eqx.partition` around `jax.jit`. It has no tanh cell, so that is a module of a few lines.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.baselines.jax_training import Network, zeros
from benchmarks.cases import EMBEDDING, VOCABULARY, Case
from benchmarks.data import BIASES, Weights
from benchmarks.mapping import FoldGru, keys
from jaxrnn.exchange.operations import FoldBiases, Operation


class TanhCell(eqx.Module):
    """h' = tanh(W_ih x + W_hh h + b), written like `eqx.nn.GRUCell`."""

    weight_ih: jax.Array
    weight_hh: jax.Array
    bias: jax.Array

    def __init__(self, inputs: int, hidden_size: int, *, key: jax.Array) -> None:
        self.weight_ih = jnp.zeros((hidden_size, inputs))
        self.weight_hh = jnp.zeros((hidden_size, hidden_size))
        self.bias = jnp.zeros(hidden_size)

    def __call__(self, x: Any, h: Any) -> Any:
        """One step."""
        return jnp.tanh(self.weight_ih @ x + self.weight_hh @ h + self.bias)


CELLS: dict[str, Any] = {"tanh": TanhCell, "gru": eqx.nn.GRUCell, "lstm": eqx.nn.LSTMCell}
BIAS: dict[str, tuple[tuple[str, ...], Operation]] = {
    "tanh": (("bias",), FoldBiases()),
    "gru": (("bias", "bias_n"), FoldGru()),
    "lstm": (("bias",), FoldBiases()),
}
"""The biases of each cell, and how torch's become them."""


class Model(eqx.Module):
    """One sequence: embedding, a stack of cells over time, output layer."""

    e: eqx.nn.Embedding
    cells: tuple[Any, ...]
    l_out: eqx.nn.Linear

    def __call__(self, carry: tuple[Any, ...], tokens: Any) -> tuple[tuple[Any, ...], Any]:
        """The carry after the tokens (T,), and logits (T, V)."""
        xs = jax.vmap(self.e)(tokens)  # (T, F)
        after = []
        for cell, before in zip(self.cells, carry, strict=True):

            def step(state: Any, x: Any, cell: Any = cell) -> tuple[Any, Any]:
                state = cell(x, state)
                return state, state[0] if isinstance(state, tuple) else state

            last, xs = lax.scan(step, before, xs)
            after.append(last)
        return tuple(after), jax.vmap(self.l_out)(xs)


def network(case: Case, weights: Weights) -> Network:
    """The model with torch's weights, which Equinox keeps in torch's shapes and gate order."""
    key = jax.random.key(0)
    tensors = {name: jnp.asarray(array) for name, array in weights.items()}
    e = eqx.nn.Embedding(weight=tensors["e.weight"])
    l_out = eqx.tree_at(
        lambda layer: (layer.weight, layer.bias),
        eqx.nn.Linear(case.hidden_size, VOCABULARY, key=key),
        (tensors["l_out.weight"], tensors["l_out.bias"]),
    )
    model = Model(e, tuple(_cell(case, k, weights, key) for k in range(case.num_layers)), l_out)
    params, structure = eqx.partition(model, eqx.is_inexact_array)

    def logits(params: Any, carry: Any, tokens: Any) -> Any:
        model = eqx.combine(params, structure)
        return jax.vmap(model, in_axes=(0, 1), out_axes=(0, 1))(carry, tokens)

    carry = (zeros(case), zeros(case)) if case.cell == "lstm" else zeros(case)
    return Network(params, (carry,) * case.num_layers, logits)


def _cell(case: Case, k: int, weights: Weights, key: jax.Array) -> Any:
    names, operation = BIAS[case.cell]
    cell = CELLS[case.cell](case.hidden_size if k else EMBEDDING, case.hidden_size, key=key)
    kernels = [weights[name] for name in keys(k, "weight_ih", "weight_hh")]
    folded = operation.from_torch([weights[name] for name in keys(k, *BIASES)])
    return eqx.tree_at(
        lambda cell: [cell.weight_ih, cell.weight_hh, *(getattr(cell, name) for name in names)],
        cell,
        [jnp.asarray(array) for array in (*kernels, *folded)],
    )
