"""JAX's own LSTM: the reference that its binding of cuDNN is tested against.

Shapes: T time steps, B batch, I input features, H hidden size, L layers.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax.experimental.rnn import lstm_ref
from torch import nn

from parity import WeightMap, entry
from third_party.cases import RECURRENT_SIZES, Case, Port, Sizes, samples

KINDS = {"weight_ih": "W_ih", "weight_hh": "W_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
"""PyTorch's names and those of `lstm_ref`."""


def lstm(sizes: Sizes, *, num_layers: int, bidirectional: bool) -> Port:
    """Beside `torch.nn.LSTM` with the batch first."""
    T, B, I, H = (sizes[letter] for letter in "TBIH")
    torch_module = nn.LSTM(I, H, num_layers, batch_first=True, bidirectional=bidirectional)
    suffixes = ["", "_reverse"] if bidirectional else [""]
    parts = [f"l{layer}{suffix}" for layer in range(num_layers) for suffix in suffixes]
    entries = []
    params: dict[str, dict[str, Any]] = {name: {} for name in KINDS.values()}
    for k, part in enumerate(parts):
        for theirs, name in KINDS.items():
            key = f"{theirs}_{part}"
            entries.append(entry(key, f"{name}/{k}"))
            params[name][str(k)] = jnp.zeros(tuple(getattr(torch_module, key).shape))

    def run(params: Any, xs: Any, carry: Any) -> Any:
        weights = []
        for name in KINDS.values():
            weights.append({k: params[name][str(k)] for k in range(len(parts))})
        lengths = jnp.full(B, T, jnp.int32)
        options = (I, H, num_layers, 0.0, bidirectional)
        ys, h, c = lstm_ref(xs, *carry, *weights, lengths, *options)
        return ys, (h, c)

    carry = tuple(samples(len(parts), B, H, seed=seed) for seed in (1, 2))
    return Port(run, params, torch_module, WeightMap(entries), (samples(B, T, I), carry))


CASES = [
    Case(
        module="jax.experimental.rnn.lstm_ref",
        counterpart="nn.LSTM",
        port=partial(lstm, num_layers=1, bidirectional=False),
        sizes=RECURRENT_SIZES,
    ),
    Case(
        module="jax.experimental.rnn.lstm_ref, 2 layers, bidirectional",
        counterpart="nn.LSTM",
        port=partial(lstm, num_layers=2, bidirectional=True),
        sizes=RECURRENT_SIZES,
    ),
]
