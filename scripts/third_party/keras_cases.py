"""Keras on the JAX backend.

A Keras layer computes in the precision that it was made with, so there is one for each.

Shapes: T time steps, B batch, I input features, H hidden size, C channels, O output channels.
"""

import os

# Read when Keras is imported.
os.environ["KERAS_BACKEND"] = "jax"

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import keras
from jax import lax
from torch import nn

from parity import Chain, PermuteGates, StackLayers, Transpose, WeightMap, entry
from third_party.cases import RECURRENT_SIZES, Case, Port, Sizes, Variant
from third_party.layers import (
    ATTENTION_SIZES,
    BATCH_NORM_SIZES,
    CONV_MAP,
    EPSILONS,
    HEADS,
    IMAGE_SIZES,
    KERNEL,
    NORM_SIZES,
    attention_inputs,
    batch_norm_inputs,
    batch_norm_map,
    batch_norm_variants,
    channels_last,
    image_inputs,
    norm_inputs,
    options_tried,
    split_attention_map,
    with_reference,
)
from third_party.recurrent import BIASES, gru_inputs, joined_map, lstm_inputs
from third_party.references import Attention, BatchNormStep, EarlyResetGRU

PRECISIONS = ("float32", "float64")


class Pure:
    """A Keras layer as a function of its weights.

    Args:
        make: makes the layer for a dtype.
        shapes: of the inputs that it is built with.
        names: the paths of the weights in the order of `trainable_variables`, then of
            `non_trainable_variables` without the state of random generators.
        options: of every call.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        shapes: Sequence[tuple[int, ...]],
        names: Sequence[str],
        **options: Any,
    ) -> None:
        self._names = names
        self._options = options
        self._layers = {}
        for dtype in PRECISIONS:
            with jax.enable_x64(dtype == "float64"):
                layer = make(dtype=dtype)
                layer.build(*shapes)
            self._layers[dtype] = layer
        layer = self._layers["float32"]
        self.params: dict[str, Any] = {}
        variables = [*layer.trainable_variables, *_statistics(layer)]
        for name, variable in zip(names, variables, strict=True):
            self._put(self.params, name, variable.value)

    @staticmethod
    def _put(params: dict[str, Any], name: str, value: Any) -> None:
        *folders, leaf = name.split("/")
        for folder in folders:
            params = params.setdefault(folder, {})
        params[leaf] = value

    def __call__(self, params: Any, *inputs: Any, **more: Any) -> tuple[Any, list[Any]]:
        """The outputs, and the running statistics after them."""
        given = []
        for name in self._names:
            value = params
            for part in name.split("/"):
                value = value[part]
            given.append(value)
        layer = self._layers[str(given[0].dtype)]
        count = len(layer.trainable_variables)
        statistics = iter(given[count:])
        known = {id(variable) for variable in _statistics(layer)}
        others = []
        for variable in layer.non_trainable_variables:
            # The state of a random generator stays as it is.
            others.append(next(statistics) if id(variable) in known else variable.value)
        outputs, after = layer.stateless_call(
            given[:count], others, *inputs, **self._options, **more
        )
        pairs = zip(layer.non_trainable_variables, after, strict=True)
        return outputs, [value for variable, value in pairs if id(variable) in known]


def _statistics(layer: Any) -> list[Any]:
    """The variables that are not trained, without the state of random generators."""
    return [v for v in layer.non_trainable_variables if "seed_generator" not in v.path]


def first(pure: Pure) -> Callable[..., Any]:
    """The outputs alone."""
    return lambda params, *inputs: pure(params, *inputs)[0]


def recurrent(kind: Any, sizes: Sizes) -> Pure:
    """A recurrent layer that gives all outputs and its last state."""
    make = partial(kind, sizes["H"], return_sequences=True, return_state=True)
    shape = (sizes["B"], sizes["T"], sizes["I"])
    return Pure(make, [shape], ("kernel", "recurrent_kernel", "bias"))


def lstm(sizes: Sizes) -> Port:
    """Beside `torch.nn.LSTM`."""
    pure = recurrent(keras.layers.LSTM, sizes)

    def run(params: Any, xs: Any, carry: Any) -> Any:
        states = [state[0] for state in carry]
        (ys, h, c), _ = pure(params, xs.swapaxes(0, 1), initial_state=states)
        return ys.swapaxes(0, 1), (h[None], c[None])

    weight_map = joined_map("kernel", "recurrent_kernel", "bias", order=(0, 1, 2, 3))
    torch_module = nn.LSTM(sizes["I"], sizes["H"])
    return Port(run, pure.params, torch_module, weight_map, lstm_inputs(sizes))


def h_layer(pure: Pure) -> Callable[..., Any]:
    """A layer whose state is h, answering as `torch.nn.GRU` does."""

    def run(params: Any, xs: Any, h: Any) -> Any:
        (ys, last), _ = pure(params, xs.swapaxes(0, 1), initial_state=[h[0]])
        return ys.swapaxes(0, 1), last[None]

    return run


def gru(sizes: Sizes) -> Port:
    """Beside `torch.nn.GRU`: both biases are there, a row each."""
    pure = recurrent(keras.layers.GRU, sizes)
    zrn = PermuteGates((1, 0, 2))
    weight_map = WeightMap(
        [
            entry("weight_ih_l0", "kernel", Chain((zrn, Transpose()))),
            entry("weight_hh_l0", "recurrent_kernel", Chain((zrn, Transpose()))),
            entry(BIASES, "bias", Chain((zrn, StackLayers()))),
        ]
    )
    torch_module = nn.GRU(sizes["I"], sizes["H"])
    return Port(h_layer(pure), pure.params, torch_module, weight_map, gru_inputs(sizes))


def early_gru(sizes: Sizes) -> Port:
    """The same with `reset_after=False` and one bias."""
    pure = recurrent(partial(keras.layers.GRU, reset_after=False), sizes)
    weight_map = joined_map("kernel", "recurrent_kernel", "bias", order=(1, 0, 2))
    torch_module = nn.GRU(sizes["I"], sizes["H"])
    return Port(h_layer(pure), pure.params, torch_module, weight_map, gru_inputs(sizes))


def simple(sizes: Sizes) -> Port:
    """Beside `torch.nn.RNN`."""
    pure = recurrent(keras.layers.SimpleRNN, sizes)
    weight_map = joined_map("kernel", "recurrent_kernel", "bias")
    torch_module = nn.RNN(sizes["I"], sizes["H"])
    return Port(h_layer(pure), pure.params, torch_module, weight_map, gru_inputs(sizes))


def dense(sizes: Sizes) -> Port:
    """Beside `torch.nn.Linear`."""
    inputs = norm_inputs(sizes)
    pure = Pure(partial(keras.layers.Dense, sizes["H"]), [inputs[0].shape], ("kernel", "bias"))
    weight_map = WeightMap([entry("weight", "kernel", Transpose()), entry("bias", "bias")])
    torch_module = nn.Linear(sizes["C"], sizes["H"])
    return Port(first(pure), pure.params, torch_module, weight_map, inputs)


def layer_norm(sizes: Sizes) -> Port:
    """Beside `torch.nn.LayerNorm`."""
    inputs = norm_inputs(sizes)
    pure = Pure(keras.layers.LayerNormalization, [inputs[0].shape], ("gamma", "beta"))
    weight_map = WeightMap([entry("weight", "gamma"), entry("bias", "beta")])
    return Port(first(pure), pure.params, nn.LayerNorm(sizes["C"]), weight_map, inputs)


def batch_norm(sizes: Sizes, *, training: bool) -> Port:
    """Beside `torch.nn.BatchNorm1d`; in training with the running statistics after a batch."""
    inputs = batch_norm_inputs(sizes)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    pure = Pure(keras.layers.BatchNormalization, [inputs[0].shape], names, training=training)

    def run(params: Any, x: Any) -> Any:
        y, statistics = pure(params, x)
        if not training:
            return y
        # PyTorch's statistics have no gradient.
        return y, *(lax.stop_gradient(array) for array in statistics)

    C = sizes["C"]
    torch_module = BatchNormStep(C) if training else nn.BatchNorm1d(C).eval()
    return Port(run, pure.params, torch_module, batch_norm_map(*names), inputs)


def evaluated_batch_norm(sizes: Sizes, **given: Any) -> nn.Module:
    """`torch.nn.BatchNorm1d` with options, in evaluation."""
    return nn.BatchNorm1d(sizes["C"], **given).eval()


def conv(sizes: Sizes, *, padding: str, torch_padding: Any) -> Port:
    """Beside `torch.nn.Conv2d`."""
    images = image_inputs(sizes)
    shape = images[0].transpose(0, 2, 3, 1).shape
    make = partial(keras.layers.Conv2D, sizes["O"], KERNEL, padding=padding)
    pure = Pure(make, [shape], ("kernel", "bias"))
    torch_module = nn.Conv2d(sizes["C"], sizes["O"], KERNEL, padding=torch_padding)
    return Port(channels_last(first(pure)), pure.params, torch_module, CONV_MAP, images)


def attention(sizes: Sizes) -> Port:
    """Beside `torch.nn.MultiheadAttention`."""
    inputs = attention_inputs(sizes)
    shapes = [inputs[k].shape for k in (0, 2, 1)]  # queries, values, keys
    names = [f"{name}/{part}" for name in ("query", "key", "value", "out") for part in PARTS]
    pure = Pure(partial(keras.layers.MultiHeadAttention, HEADS, sizes["D"]), shapes, names)

    def run(params: Any, query: Any, key: Any, value: Any) -> Any:
        return pure(params, query, value, key)[0]

    E = HEADS * sizes["D"]
    return Port(run, pure.params, Attention(E, HEADS), split_attention_map(sizes), inputs)


PARTS = ("kernel", "bias")
"""Of a projection."""
CASES = [
    Case(module="keras.layers.LSTM", counterpart="nn.LSTM", port=lstm, sizes=RECURRENT_SIZES),
    Case(module="keras.layers.GRU", counterpart="nn.GRU", port=gru, sizes=RECURRENT_SIZES),
    Case(
        module="keras.layers.GRU(reset_after=False)",
        counterpart="nn.GRU",
        port=early_gru,
        sizes=RECURRENT_SIZES,
        variants=[
            Variant(
                "equation",
                "the reset gate is applied before the matmul",
                with_reference(early_gru, lambda sizes: EarlyResetGRU(sizes["I"], sizes["H"])),
            )
        ],
    ),
    Case(module="keras.layers.SimpleRNN", counterpart="nn.RNN", port=simple, sizes=RECURRENT_SIZES),
    Case(
        module="keras.layers.Dense",
        counterpart="nn.Linear",
        port=dense,
        sizes={**NORM_SIZES, "H": 7},
    ),
    Case(
        module="keras.layers.LayerNormalization",
        counterpart="nn.LayerNorm",
        port=layer_norm,
        sizes=NORM_SIZES,
        variants=options_tried(
            layer_norm, lambda sizes, **given: nn.LayerNorm(sizes["C"], **given), {"eps": EPSILONS}
        ),
    ),
    Case(
        module="keras.layers.BatchNormalization, evaluation",
        counterpart="nn.BatchNorm1d",
        port=partial(batch_norm, training=False),
        sizes=BATCH_NORM_SIZES,
        variants=options_tried(
            partial(batch_norm, training=False), evaluated_batch_norm, {"eps": EPSILONS}
        ),
    ),
    Case(
        module="keras.layers.BatchNormalization, training",
        counterpart="nn.BatchNorm1d",
        port=partial(batch_norm, training=True),
        sizes=BATCH_NORM_SIZES,
        variants=batch_norm_variants(partial(batch_norm, training=True)),
    ),
    Case(
        module='keras.layers.Conv2D(padding="valid")',
        counterpart="nn.Conv2d",
        port=partial(conv, padding="valid", torch_padding=0),
        sizes=IMAGE_SIZES,
    ),
    Case(
        module='keras.layers.Conv2D(padding="same")',
        counterpart='nn.Conv2d, padding="same"',
        port=partial(conv, padding="same", torch_padding="same"),
        sizes=IMAGE_SIZES,
    ),
    Case(
        module="keras.layers.MultiHeadAttention",
        counterpart="nn.MultiheadAttention",
        port=attention,
        sizes=ATTENTION_SIZES,
    ),
]
