"""Flax Linen.

Shapes: T time steps, B batch, I input features, H hidden size, C channels, O output channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import lax
from torch import nn

from parity import Chain, FoldBiases, PermuteAxes, SplitGates, Transpose, WeightMap, entry
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
from third_party.operations import DropFirstGate, Flip, FoldAllButLast
from third_party.recurrent import (
    BIASES,
    ch_layer,
    gru_inputs,
    h_layer,
    lstm_inputs,
    split_gru_map,
    split_lstm_map,
)
from third_party.references import Attention, BatchNormStep, PaddedConv2d, TiedGRU

LSTM_NAMES = ([f"i{gate}" for gate in "ifgo"], [f"h{gate}" for gate in "ifgo"])
SCALE_AND_BIAS = WeightMap([entry("weight", "scale"), entry("bias", "bias")])


def params_of(module: linen.Module, *inputs: Any) -> Any:
    """The parameters of a module, for their shapes."""
    return module.init(jax.random.key(0), *inputs)["params"]


def applied(module: linen.Module) -> Callable[..., Any]:
    """The module as a function of its parameters and inputs."""
    return lambda params, *inputs: module.apply({"params": params}, *inputs)


def cell_params(cell: linen.RNNCellBase, sizes: Sizes) -> Any:
    """The parameters of a cell."""
    x = jnp.zeros((sizes["B"], sizes["I"]))
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    return params_of(cell, carry, x)


def lstm(sizes: Sizes, *, cell: Any) -> Port:
    """A cell with a dense layer for each gate beside `torch.nn.LSTM`."""
    module = cell(sizes["H"])

    def run(params: Any, xs: Any, carry: Any) -> Any:
        return ch_layer(partial(module.apply, {"params": params}), xs, carry)

    torch_module = nn.LSTM(sizes["I"], sizes["H"])
    weight_map = split_lstm_map(*LSTM_NAMES)
    return Port(run, cell_params(module, sizes), torch_module, weight_map, lstm_inputs(sizes))


def h_cell(sizes: Sizes, cell: Any, torch_module: nn.Module, weight_map: WeightMap) -> Port:
    """A cell whose carry is h."""
    module = cell(sizes["H"])

    def run(params: Any, xs: Any, h: Any) -> Any:
        return h_layer(partial(module.apply, {"params": params}), xs, h)

    return Port(run, cell_params(module, sizes), torch_module, weight_map, gru_inputs(sizes))


def gru(sizes: Sizes) -> Port:
    """Beside `torch.nn.GRU`."""
    return h_cell(sizes, linen.GRUCell, nn.GRU(sizes["I"], sizes["H"]), split_gru_map())


def simple(sizes: Sizes) -> Port:
    """Beside `torch.nn.RNN`."""
    weight_map = WeightMap(
        [
            entry("weight_ih_l0", "i/kernel", Transpose()),
            entry("weight_hh_l0", "h/kernel", Transpose()),
            entry(BIASES, "i/bias", FoldBiases()),
        ]
    )
    return h_cell(sizes, linen.SimpleCell, nn.RNN(sizes["I"], sizes["H"]), weight_map)


def mgu(sizes: Sizes) -> Port:
    """Beside `torch.nn.GRU`, whose reset gate it lacks."""
    port = tied_mgu(sizes)
    entries = []
    for one in port.weight_map.entries:
        operation = Chain((DropFirstGate(3), one.operation))
        entries.append(entry(one.keys, one.paths, operation))
    module = nn.GRU(sizes["I"], sizes["H"])
    return port._replace(module=module, weight_map=WeightMap(entries))


def tied_mgu(sizes: Sizes) -> Port:
    """Beside a GRU whose reset and update gates are one."""
    kernels = Chain((SplitGates(2), Transpose()))
    weight_map = WeightMap(
        [
            entry("weight_ih_l0", ["if/kernel", "in/kernel"], kernels),
            entry("weight_hh_l0", ["hf/kernel", "hn/kernel"], kernels),
            entry(BIASES, ["if/bias", "in/bias", "hn/bias"], FoldAllButLast(2)),
        ]
    )
    return h_cell(sizes, linen.MGUCell, TiedGRU(sizes["I"], sizes["H"]), weight_map)


def dense(sizes: Sizes) -> Port:
    """Beside `torch.nn.Linear`."""
    module = linen.Dense(sizes["H"])
    inputs = norm_inputs(sizes)
    weight_map = WeightMap([entry("weight", "kernel", Transpose()), entry("bias", "bias")])
    torch_module = nn.Linear(sizes["C"], sizes["H"])
    return Port(applied(module), params_of(module, *inputs), torch_module, weight_map, inputs)


def embed(sizes: Sizes) -> Port:
    """Beside `torch.nn.Embedding`."""
    V, C = sizes["V"], sizes["C"]
    module = linen.Embed(V, C)
    tokens = np.random.default_rng(0).integers(0, V, (sizes["T"], sizes["B"]))
    weight_map = WeightMap([entry("weight", "embedding")])
    params = params_of(module, tokens)
    return Port(applied(module), params, nn.Embedding(V, C), weight_map, (tokens,))


def norm(sizes: Sizes, *, module: linen.Module, torch_module: nn.Module) -> Port:
    """A norm with a scale and a bias beside PyTorch's."""
    inputs = norm_inputs(sizes)
    return Port(applied(module), params_of(module, *inputs), torch_module, SCALE_AND_BIAS, inputs)


def layer_norm(sizes: Sizes) -> Port:
    """Beside `torch.nn.LayerNorm`."""
    return norm(sizes, module=linen.LayerNorm(), torch_module=nn.LayerNorm(sizes["C"]))


def rms_norm(sizes: Sizes) -> Port:
    """Beside `torch.nn.RMSNorm`."""
    port = norm(sizes, module=linen.RMSNorm(), torch_module=nn.RMSNorm(sizes["C"]))
    return port._replace(weight_map=WeightMap([entry("weight", "scale")]))


def group_norm(sizes: Sizes) -> Port:
    """Beside `torch.nn.GroupNorm`, whose channels come second."""
    module = linen.GroupNorm(num_groups=GROUPS)
    images = image_inputs(sizes)
    params = params_of(module, images[0].transpose(0, 2, 3, 1))
    torch_module = nn.GroupNorm(GROUPS, sizes["C"])
    return Port(channels_last(applied(module)), params, torch_module, SCALE_AND_BIAS, images)


def batch_norm(sizes: Sizes, *, training: bool) -> Port:
    """Beside `torch.nn.BatchNorm1d`; in training with the running statistics after a batch."""
    module = linen.BatchNorm(use_running_average=not training)
    inputs = batch_norm_inputs(sizes)
    variables = module.init(jax.random.key(0), *inputs)

    def run(variables: Any, x: Any) -> Any:
        if not training:
            return module.apply(variables, x)
        y, after = module.apply(variables, x, mutable="batch_stats")
        # PyTorch's statistics have no gradient.
        statistics = lax.stop_gradient(after["batch_stats"])
        return y, statistics["mean"], statistics["var"]

    weight_map = batch_norm_map(
        "params/scale", "params/bias", "batch_stats/mean", "batch_stats/var"
    )
    torch_module = BatchNormStep(sizes["C"]) if training else nn.BatchNorm1d(sizes["C"]).eval()
    return Port(run, variables, torch_module, weight_map, inputs)


def conv(sizes: Sizes, *, padding: str, torch_padding: Any, stride: int = 1) -> Port:
    """Beside `torch.nn.Conv2d`."""
    module = linen.Conv(sizes["O"], KERNEL, strides=stride, padding=padding)
    images = image_inputs(sizes)
    params = params_of(module, images[0].transpose(0, 2, 3, 1))
    torch_module = nn.Conv2d(sizes["C"], sizes["O"], KERNEL, stride=stride, padding=torch_padding)
    return Port(channels_last(applied(module)), params, torch_module, CONV_MAP, images)


def conv_transpose(sizes: Sizes, *, transpose_kernel: bool) -> Port:
    """Beside `torch.nn.ConvTranspose2d`, of kernels (I, O, height, width) turned around."""
    module = linen.ConvTranspose(
        sizes["O"], KERNEL, strides=(2, 2), padding="VALID", transpose_kernel=transpose_kernel
    )
    images = image_inputs(sizes)
    params = params_of(module, images[0].transpose(0, 2, 3, 1))
    kernel: Any = Chain((PermuteAxes((2, 3, 0, 1)), Flip((0, 1))))
    if transpose_kernel:
        kernel = PermuteAxes((2, 3, 1, 0))
    weight_map = WeightMap([entry("weight", "kernel", kernel), entry("bias", "bias")])
    torch_module = nn.ConvTranspose2d(sizes["C"], sizes["O"], KERNEL, stride=2)
    return Port(channels_last(applied(module)), params, torch_module, weight_map, images)


def attention(sizes: Sizes) -> Port:
    """Beside `torch.nn.MultiheadAttention`."""
    E = HEADS * sizes["D"]
    module = linen.MultiHeadDotProductAttention(HEADS, qkv_features=E)
    inputs = attention_inputs(sizes)
    return Port(
        applied(module),
        params_of(module, *inputs),
        Attention(E, HEADS),
        split_attention_map(sizes),
        inputs,
    )


def gelu(sizes: Sizes) -> Port:
    """Beside `torch.nn.GELU`."""
    return Port(lambda params, x: linen.gelu(x), {}, nn.GELU(), WeightMap([]), norm_inputs(sizes))


GROUPS = 2
"""Groups of channels of a group norm."""
CONV_SAME_2 = partial(conv, padding="SAME", torch_padding=1, stride=2)
CASES = [
    Case(
        module="linen.LSTMCell",
        counterpart="nn.LSTM",
        port=partial(lstm, cell=linen.LSTMCell),
        sizes=RECURRENT_SIZES,
    ),
    Case(
        module="linen.OptimizedLSTMCell",
        counterpart="nn.LSTM",
        port=partial(lstm, cell=linen.OptimizedLSTMCell),
        sizes=RECURRENT_SIZES,
    ),
    Case(module="linen.GRUCell", counterpart="nn.GRU", port=gru, sizes=RECURRENT_SIZES),
    Case(module="linen.SimpleCell", counterpart="nn.RNN", port=simple, sizes=RECURRENT_SIZES),
    Case(
        module="linen.MGUCell",
        counterpart="nn.GRU",
        port=mgu,
        sizes=RECURRENT_SIZES,
        variants=[Variant("equation", "a GRU whose reset and update gates are one", tied_mgu)],
    ),
    Case(module="linen.Dense", counterpart="nn.Linear", port=dense, sizes={**NORM_SIZES, "H": 7}),
    Case(
        module="linen.Embed",
        counterpart="nn.Embedding",
        port=embed,
        sizes={"V": 9, "C": 6, "T": 5, "B": 3},
    ),
    Case(
        module="linen.LayerNorm",
        counterpart="nn.LayerNorm",
        port=layer_norm,
        sizes=NORM_SIZES,
        variants=options_tried(
            layer_norm, lambda sizes, **given: nn.LayerNorm(sizes["C"], **given), {"eps": EPSILONS}
        ),
    ),
    Case(
        module="linen.RMSNorm",
        counterpart="nn.RMSNorm",
        port=rms_norm,
        sizes=NORM_SIZES,
        variants=options_tried(
            rms_norm, lambda sizes, **given: nn.RMSNorm(sizes["C"], **given), {"eps": EPSILONS}
        ),
    ),
    Case(
        module="linen.GroupNorm",
        counterpart="nn.GroupNorm",
        port=group_norm,
        sizes=IMAGE_SIZES,
        variants=options_tried(
            group_norm,
            lambda sizes, **given: nn.GroupNorm(GROUPS, sizes["C"], **given),
            {"eps": EPSILONS},
        ),
    ),
    Case(
        module="linen.BatchNorm, evaluation",
        counterpart="nn.BatchNorm1d",
        port=partial(batch_norm, training=False),
        sizes=BATCH_NORM_SIZES,
    ),
    Case(
        module="linen.BatchNorm, training",
        counterpart="nn.BatchNorm1d",
        port=partial(batch_norm, training=True),
        sizes=BATCH_NORM_SIZES,
        variants=batch_norm_variants(partial(batch_norm, training=True)),
    ),
    Case(
        module="linen.Conv, VALID",
        counterpart="nn.Conv2d",
        port=partial(conv, padding="VALID", torch_padding=0),
        sizes=IMAGE_SIZES,
    ),
    Case(
        module="linen.Conv, SAME",
        counterpart='nn.Conv2d, padding="same"',
        port=partial(conv, padding="SAME", torch_padding="same"),
        sizes=IMAGE_SIZES,
    ),
    Case(
        module="linen.Conv, SAME, strides 2",
        counterpart="nn.Conv2d, stride=2, padding=1",
        port=CONV_SAME_2,
        sizes=IMAGE_SIZES,
        variants=[
            Variant(
                "equation",
                "even sizes are padded by (0, 1), at the end only",
                with_reference(
                    CONV_SAME_2,
                    lambda sizes: PaddedConv2d(
                        sizes["C"],
                        sizes["O"],
                        kernel_size=KERNEL,
                        stride=2,
                        before_and_after=(0, 1),
                    ),
                ),
            )
        ],
    ),
    Case(
        module="linen.ConvTranspose",
        counterpart="nn.ConvTranspose2d",
        port=partial(conv_transpose, transpose_kernel=False),
        sizes=IMAGE_SIZES,
    ),
    Case(
        module="linen.ConvTranspose, transpose_kernel",
        counterpart="nn.ConvTranspose2d",
        port=partial(conv_transpose, transpose_kernel=True),
        sizes=IMAGE_SIZES,
    ),
    Case(
        module="linen.MultiHeadDotProductAttention",
        counterpart="nn.MultiheadAttention",
        port=attention,
        sizes=ATTENTION_SIZES,
    ),
    Case(
        module="linen.gelu",
        counterpart="nn.GELU",
        port=gelu,
        sizes=NORM_SIZES,
        variants=options_tried(
            gelu, lambda sizes, **given: nn.GELU(**given), {"approximate": ["tanh"]}
        ),
    ),
]
