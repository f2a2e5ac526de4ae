"""Flax NNX.

Shapes: T time steps, B batch, I input features, H hidden size, C channels, O output channels.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from flax import nnx
from jax import lax
from torch import nn

from parity import FoldBiases, Transpose, WeightMap, entry
from third_party.cases import RECURRENT_SIZES, Case, Port, Promise, Sizes
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
)
from third_party.recurrent import (
    BIASES,
    ch_layer,
    gru_inputs,
    h_layer,
    joined_map,
    lstm_inputs,
    split_lstm_map,
)
from third_party.references import Attention, BatchNormStep

VARIABLES = (nnx.Param, nnx.BatchStat)
"""What a module computes from: parameters and running statistics."""


def pure(module: nnx.Module) -> tuple[Any, Callable[[Any], Any]]:
    """The module's variables as a tree of dictionaries, and the way from such a tree to a module.

    Args:
        module: a module.
    """
    parts: Any = nnx.split(module, VARIABLES, ...)
    graph, state, rest = parts

    def made(params: Any) -> Any:
        given = nnx.clone(state)
        nnx.replace_by_pure_dict(given, params)
        return nnx.merge(graph, given, rest)

    return nnx.to_pure_dict(state), made


def called(module: nnx.Module) -> tuple[Any, Callable[..., Any]]:
    """The module's variables, and the module as a function of them and of its inputs."""
    params, made = pure(module)
    return params, lambda params, *inputs: made(params)(*inputs)


def lstm(sizes: Sizes) -> Port:
    """Beside `torch.nn.LSTM`."""
    params, made = pure(nnx.LSTMCell(sizes["I"], sizes["H"], rngs=nnx.Rngs(0)))

    def run(params: Any, xs: Any, carry: Any) -> Any:
        return ch_layer(made(params), xs, carry)

    weight_map = split_lstm_map(["ii", "if_", "ig", "io"], ["hi", "hf", "hg", "ho"])
    torch_module = nn.LSTM(sizes["I"], sizes["H"])
    return Port(run, params, torch_module, weight_map, lstm_inputs(sizes))


def optimized_lstm(sizes: Sizes) -> Port:
    """Beside `torch.nn.LSTM`."""
    params, made = pure(nnx.OptimizedLSTMCell(sizes["I"], sizes["H"], rngs=nnx.Rngs(0)))

    def run(params: Any, xs: Any, carry: Any) -> Any:
        return ch_layer(made(params), xs, carry)

    weight_map = joined_map("dense_i/kernel", "dense_h/kernel", "dense_h/bias", order=(0, 1, 2, 3))
    torch_module = nn.LSTM(sizes["I"], sizes["H"])
    return Port(run, params, torch_module, weight_map, lstm_inputs(sizes))


def h_cell(sizes: Sizes, *, cell: Any, layer: Any, **options: Any) -> Port:
    """A cell whose carry is h and whose bias is with the inputs, beside a layer of PyTorch's.

    Args:
        sizes: the sizes.
        cell: the cell's class.
        layer: the class of PyTorch's layer.
        options: of the cell.
    """
    made_cell = cell(sizes["I"], sizes["H"], **options, rngs=nnx.Rngs(0))
    params, made = pure(made_cell)

    def run(params: Any, xs: Any, h: Any) -> Any:
        return h_layer(made(params), xs, h)

    weight_map = WeightMap(
        [
            entry("weight_ih_l0", "dense_i/kernel", Transpose()),
            entry("weight_hh_l0", "dense_h/kernel", Transpose()),
            entry(BIASES, "dense_i/bias", FoldBiases()),
        ]
    )
    torch_module = layer(sizes["I"], sizes["H"])
    return Port(run, params, torch_module, weight_map, gru_inputs(sizes))


def documents_b_hn() -> bool:
    """Whether the documentation of `nnx.GRUCell` has a bias b_hn."""
    return "b_{hn}" in (inspect.getdoc(nnx.GRUCell) or "")


def layer_norm(sizes: Sizes) -> Port:
    """Beside `torch.nn.LayerNorm`."""
    params, run = called(nnx.LayerNorm(sizes["C"], rngs=nnx.Rngs(0)))
    weight_map = WeightMap([entry("weight", "scale"), entry("bias", "bias")])
    return Port(run, params, nn.LayerNorm(sizes["C"]), weight_map, norm_inputs(sizes))


def batch_norm(sizes: Sizes, *, training: bool) -> Port:
    """Beside `torch.nn.BatchNorm1d`; in training with the running statistics after a batch."""
    module = nnx.BatchNorm(sizes["C"], use_running_average=not training, rngs=nnx.Rngs(0))
    params, made = pure(module)

    def run(params: Any, x: Any) -> Any:
        norm = made(params)
        y = norm(x)
        if not training:
            return y
        # PyTorch's statistics have no gradient.
        return y, lax.stop_gradient(norm.mean[...]), lax.stop_gradient(norm.var[...])

    torch_module = BatchNormStep(sizes["C"]) if training else nn.BatchNorm1d(sizes["C"]).eval()
    weight_map = batch_norm_map("scale", "bias", "mean", "var")
    return Port(run, params, torch_module, weight_map, batch_norm_inputs(sizes))


def conv(sizes: Sizes) -> Port:
    """Beside `torch.nn.Conv2d`."""
    params, run = called(nnx.Conv(sizes["C"], sizes["O"], KERNEL, rngs=nnx.Rngs(0)))
    torch_module = nn.Conv2d(sizes["C"], sizes["O"], KERNEL, padding="same")
    return Port(channels_last(run), params, torch_module, CONV_MAP, image_inputs(sizes))


def linear(sizes: Sizes) -> Port:
    """Beside `torch.nn.Linear`."""
    params, run = called(nnx.Linear(sizes["C"], sizes["H"], rngs=nnx.Rngs(0)))
    weight_map = WeightMap([entry("weight", "kernel", Transpose()), entry("bias", "bias")])
    torch_module = nn.Linear(sizes["C"], sizes["H"])
    return Port(run, params, torch_module, weight_map, norm_inputs(sizes))


def attention(sizes: Sizes) -> Port:
    """Beside `torch.nn.MultiheadAttention`."""
    E = HEADS * sizes["D"]
    module = nnx.MultiHeadAttention(HEADS, E, decode=False, rngs=nnx.Rngs(0))
    params, run = called(module)
    weight_map = split_attention_map(sizes)
    return Port(run, params, Attention(E, HEADS), weight_map, attention_inputs(sizes))


CASES = [
    Case(module="nnx.LSTMCell", counterpart="nn.LSTM", port=lstm, sizes=RECURRENT_SIZES),
    Case(
        module="nnx.OptimizedLSTMCell",
        counterpart="nn.LSTM",
        port=optimized_lstm,
        sizes=RECURRENT_SIZES,
    ),
    Case(
        module="nnx.GRUCell",
        counterpart="nn.GRU",
        port=partial(h_cell, cell=nnx.GRUCell, layer=nn.GRU),
        sizes=RECURRENT_SIZES,
        promise=Promise("not what its documentation says, which has b_hn", documents_b_hn),
    ),
    Case(
        # By default this cell computes in float32, whatever it is given.
        module="nnx.SimpleCell(dtype=None)",
        counterpart="nn.RNN",
        port=partial(h_cell, cell=nnx.SimpleCell, layer=nn.RNN, dtype=None),
        sizes=RECURRENT_SIZES,
    ),
    Case(module="nnx.Linear", counterpart="nn.Linear", port=linear, sizes={**NORM_SIZES, "H": 7}),
    Case(
        module="nnx.LayerNorm",
        counterpart="nn.LayerNorm",
        port=layer_norm,
        sizes=NORM_SIZES,
        variants=options_tried(
            layer_norm, lambda sizes, **given: nn.LayerNorm(sizes["C"], **given), {"eps": EPSILONS}
        ),
    ),
    Case(
        module="nnx.BatchNorm, evaluation",
        counterpart="nn.BatchNorm1d",
        port=partial(batch_norm, training=False),
        sizes=BATCH_NORM_SIZES,
    ),
    Case(
        module="nnx.BatchNorm, training",
        counterpart="nn.BatchNorm1d",
        port=partial(batch_norm, training=True),
        sizes=BATCH_NORM_SIZES,
        variants=batch_norm_variants(partial(batch_norm, training=True)),
    ),
    Case(
        module="nnx.Conv, SAME",
        counterpart='nn.Conv2d, padding="same"',
        port=conv,
        sizes=IMAGE_SIZES,
    ),
    Case(
        module="nnx.MultiHeadAttention",
        counterpart="nn.MultiheadAttention",
        port=attention,
        sizes=ATTENTION_SIZES,
    ),
]
