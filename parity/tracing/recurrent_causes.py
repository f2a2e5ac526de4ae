"""The equation of a recurrent layer that JAX computes in place of PyTorch's.

Shapes: T time steps, B batch, I input size, H hidden size.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from parity.diagnosis.identify import match
from parity.tracing.torch_trace import Call
from parity.tracing.variants import Variant

# The cell of each function that runs a layer.
CELLS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "tanh", "rnn_relu": "relu"}
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def recurrent_causes(
    call: Call, given: Mapping[int, torch.Tensor], targets: Sequence[np.ndarray]
) -> Iterator[Variant]:
    """Known equations that give one of JAX's results.

    Args:
        call: a call of a recurrent function; nothing is found for others.
        given: the tensors that it reads from other calls, by number.
        targets: results of JAX's that may be its hidden states.
    """
    cell = CELLS.get(call.name)
    if cell is None:
        return
    tensors = [given.get(number, tensor) for number, tensor in enumerate(call.tensors)]
    arrays = [tensor.numpy() for tensor in tensors]
    fields = 2 if cell == "lstm" else 1
    xs, carry, weights = arrays[0], arrays[1 : 1 + fields], arrays[1 + fields :]
    if len(weights) != len(WEIGHTS):
        return  # without biases, or with a projection
    batch_first = call.arguments[-1] is True
    xs = xs.swapaxes(0, 1) if batch_first else xs  # (T, B, I)
    shape = (xs.shape[0], xs.shape[1], weights[1].shape[1])
    named = dict(zip(WEIGHTS, weights, strict=True))
    start = tuple(state[0] for state in carry)  # (1, B, H) to (B, H)
    for target in targets:
        for ys in _as_steps(target, shape):
            words = match(cell, named, xs, start, ys)
            if words:
                outputs = ys.swapaxes(0, 1) if batch_first else ys
                # The last carry is that of PyTorch: its other fields are not known.
                rest = call.outputs[1:]
                yield Variant(words, partial(list, [outputs, *rest]))


def _as_steps(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    # JAX's result as (T, B, H), whichever of time and batch comes first.
    if array.shape == shape:
        yield array
    if array.ndim == 3 and array.swapaxes(0, 1).shape == shape:
        yield array.swapaxes(0, 1)
