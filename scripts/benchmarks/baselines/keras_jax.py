"""Keras with the JAX backend: its layers, its Adam, and the training loop of its JAX guide.

The guide ("Writing a training loop from scratch in JAX") calls `stateless_call` of the model and
`stateless_apply` of the optimizer in one jitted step. Keras layers are batch-major, so the tokens
are turned around. Its GRU (`reset_after=True`, the default) is torch's equation, both biases
included. Adam's epsilon is set to torch's.
"""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported

import keras
import numpy as np

from benchmarks.baselines.jax_training import Network, Optimizer, zeros
from benchmarks.cases import CLIP, EMBEDDING, RATE, VOCABULARY, Case
from benchmarks.data import Weights
from benchmarks.mapping import ZRN, LayerMap, biases, keys, whole_map
from jaxrnn.exchange.operations import Chain, FoldBiases, PermuteGates, StackLayers, Transpose
from jaxrnn.exchange.weights import entry

LAYER: dict[str, Any] = {
    "tanh": keras.layers.SimpleRNN,
    "gru": keras.layers.GRU,
    "lstm": keras.layers.LSTM,
}
STATES = {"tanh": 1, "gru": 1, "lstm": 2}


def network(case: Case, weights: Weights) -> Network:
    """The model with torch's weights."""
    model = _model(case)
    table = whole_map(
        case.num_layers, LAYERS[case.cell], "e/embeddings", "l_out/kernel", "l_out/bias"
    )
    named = table.from_torch(weights)
    params = [named[_path(variable)] for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]

    def logits(params: Any, carry: Any, tokens: Any) -> Any:
        outputs, _ = model.stateless_call(params, fixed, [tokens.T, *carry], training=True)
        return outputs[1:], outputs[0].swapaxes(0, 1)

    carry = [zeros(case)] * (case.num_layers * STATES[case.cell])
    return Network(params, carry, logits, _adam(model))


def _model(case: Case) -> Any:
    tokens = keras.Input((case.steps,), batch_size=case.batch_size, dtype="int32")
    xs = keras.layers.Embedding(VOCABULARY, EMBEDDING, name="e")(tokens)
    states = []
    after = []
    for k in range(case.num_layers):
        before = [
            keras.Input((case.hidden_size,), batch_size=case.batch_size)
            for _ in range(STATES[case.cell])
        ]
        layer = LAYER[case.cell](
            case.hidden_size, return_sequences=True, return_state=True, name=f"rnn_{k}"
        )
        xs, *last = layer(xs, initial_state=before)
        states += before
        after += last
    logits = keras.layers.Dense(VOCABULARY, name="l_out")(xs)
    return keras.Model([tokens, *states], [logits, *after])


def _adam(model: Any) -> Optimizer:
    adam = keras.optimizers.Adam(RATE, epsilon=1e-8, global_clipnorm=CLIP)
    adam.build(model.trainable_variables)

    def init(params: Any) -> Any:
        return [np.asarray(variable.value) for variable in adam.variables]

    def update(gradients: Any, state: Any, params: Any) -> Any:
        params, state = adam.stateless_apply(state, gradients, params)
        return list(params), list(state)

    return Optimizer(init, update)


def _path(variable: Any) -> str:
    """ "rnn_0/gru_cell/kernel" as "rnn_0/kernel"."""
    first, *_, last = variable.path.split("/")
    return f"{first}/{last}"


def _plain(k: int) -> Any:
    return [
        entry(keys(k, "weight_ih"), f"rnn_{k}/kernel", Transpose()),
        entry(keys(k, "weight_hh"), f"rnn_{k}/recurrent_kernel", Transpose()),
        entry(biases(k), f"rnn_{k}/bias", FoldBiases()),
    ]


def _gru(k: int) -> Any:
    order = PermuteGates(ZRN)
    return [
        entry(keys(k, "weight_ih"), f"rnn_{k}/kernel", Chain((order, Transpose()))),
        entry(keys(k, "weight_hh"), f"rnn_{k}/recurrent_kernel", Chain((order, Transpose()))),
        entry(biases(k), f"rnn_{k}/bias", Chain((order, StackLayers()))),
    ]


LAYERS: dict[str, LayerMap] = {"tanh": _plain, "gru": _gru, "lstm": _plain}
