"""Haiku.

Shapes: T time steps, B batch, I input features, H hidden size, C channels, O output channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import haiku
import jax
import jax.numpy as jnp
from jax import lax
from torch import nn

from parity import (
    Chain,
    FoldBiases,
    OffsetGate,
    PermuteGates,
    Reshape,
    Transpose,
    WeightMap,
    entry,
)
from third_party.cases import RECURRENT_SIZES, Case, Port, Sizes, Variant
from third_party.layers import (
    ATTENTION_SIZES,
    BATCH_NORM_SIZES,
    CONV_KERNEL,
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
from third_party.operations import JoinColumns
from third_party.recurrent import BIASES, gru_inputs, joined_map, lstm_inputs
from third_party.references import Attention, BatchNormStep

DECAY = 0.9
"""Share of the old statistics in the new; Haiku has no default. PyTorch's is 0.9, too."""
FORGET_GATE = 1
"""The place of the forget gate in PyTorch."""


def transformed(function: Callable[..., Any], *inputs: Any) -> tuple[Any, Callable[..., Any]]:
    """A function with Haiku modules in it: its parameters, and a pure function of them."""
    network: Any = haiku.without_apply_rng(haiku.transform(function))
    arrays = jax.tree.map(jnp.asarray, inputs)
    return network.init(jax.random.key(0), *arrays), network.apply


def lstm(sizes: Sizes, *, offset: float = 0.0) -> Port:
    """Beside `torch.nn.LSTM`.

    Args:
        sizes: the sizes.
        offset: what the weight map takes from the bias of the forget gate.
    """

    def over_time(xs: Any, carry: Any) -> Any:
        h, c = carry
        state = haiku.LSTMState(h[0], c[0])
        ys, last = haiku.dynamic_unroll(haiku.LSTM(sizes["H"]), xs, state)
        return ys, (last.hidden[None], last.cell[None])

    inputs = lstm_inputs(sizes)
    params, run = transformed(over_time, *inputs)
    gates = PermuteGates((0, 2, 1, 3))  # i, g, f, o
    bias = Chain((FoldBiases(), OffsetGate(FORGET_GATE, 4, offset), gates))
    weights = Chain((JoinColumns(sizes["I"]), gates, Transpose()))
    weight_map = WeightMap(
        [
            entry(("weight_ih_l0", "weight_hh_l0"), "lstm/linear/w", weights),
            entry(BIASES, "lstm/linear/b", bias),
        ]
    )
    return Port(run, params, nn.LSTM(sizes["I"], sizes["H"]), weight_map, inputs)


def h_core(core: Callable[[], haiku.RNNCore], sizes: Sizes) -> tuple[Any, Callable[..., Any]]:
    """A core whose state is h, over time."""

    def over_time(xs: Any, h: Any) -> Any:
        ys, last = haiku.dynamic_unroll(core(), xs, h[0])
        return ys, last[None]

    return transformed(over_time, *gru_inputs(sizes))


def gru(sizes: Sizes) -> Port:
    """Beside `torch.nn.GRU`."""
    params, run = h_core(lambda: haiku.GRU(sizes["H"]), sizes)
    weight_map = joined_map("gru/w_i", "gru/w_h", "gru/b", order=(1, 0, 2))
    return Port(run, params, nn.GRU(sizes["I"], sizes["H"]), weight_map, gru_inputs(sizes))


def vanilla(sizes: Sizes) -> Port:
    """Beside `torch.nn.RNN`."""
    params, run = h_core(lambda: haiku.VanillaRNN(sizes["H"]), sizes)
    weight_map = WeightMap(
        [
            entry("weight_ih_l0", "vanilla_rnn/linear/w", Transpose()),
            entry("weight_hh_l0", "vanilla_rnn/linear_1/w", Transpose()),
            entry("bias_ih_l0", "vanilla_rnn/linear/b"),
            entry("bias_hh_l0", "vanilla_rnn/linear_1/b"),
        ]
    )
    return Port(run, params, nn.RNN(sizes["I"], sizes["H"]), weight_map, gru_inputs(sizes))


def linear(sizes: Sizes) -> Port:
    """Beside `torch.nn.Linear`."""
    inputs = norm_inputs(sizes)
    params, run = transformed(lambda x: haiku.Linear(sizes["H"])(x), *inputs)
    weight_map = WeightMap([entry("weight", "linear/w", Transpose()), entry("bias", "linear/b")])
    return Port(run, params, nn.Linear(sizes["C"], sizes["H"]), weight_map, inputs)


def layer_norm(sizes: Sizes) -> Port:
    """Beside `torch.nn.LayerNorm`."""
    inputs = norm_inputs(sizes)
    norm = partial(haiku.LayerNorm, axis=-1, create_scale=True, create_offset=True)
    params, run = transformed(lambda x: norm()(x), *inputs)
    weight_map = WeightMap(
        [entry("weight", "layer_norm/scale"), entry("bias", "layer_norm/offset")]
    )
    return Port(run, params, nn.LayerNorm(sizes["C"]), weight_map, inputs)


def rms_norm(sizes: Sizes) -> Port:
    """Beside `torch.nn.RMSNorm`."""
    inputs = norm_inputs(sizes)
    params, run = transformed(lambda x: haiku.RMSNorm(axis=-1)(x), *inputs)
    weight_map = WeightMap([entry("weight", "rms_norm/scale")])
    return Port(run, params, nn.RMSNorm(sizes["C"]), weight_map, inputs)


def conv(sizes: Sizes) -> Port:
    """Beside `torch.nn.Conv2d`."""
    images = image_inputs(sizes)
    params, run = transformed(
        lambda x: haiku.Conv2D(sizes["O"], KERNEL)(x), images[0].transpose(0, 2, 3, 1)
    )
    weight_map = WeightMap([entry("weight", "conv2_d/w", CONV_KERNEL), entry("bias", "conv2_d/b")])
    torch_module = nn.Conv2d(sizes["C"], sizes["O"], KERNEL, padding="same")
    return Port(channels_last(run), params, torch_module, weight_map, images)


def attention(sizes: Sizes) -> Port:
    """Beside `torch.nn.MultiheadAttention`."""
    inputs = attention_inputs(sizes)

    def attend(query: Any, key: Any, value: Any) -> Any:
        init = haiku.initializers.VarianceScaling(1.0)
        return haiku.MultiHeadAttention(HEADS, sizes["D"], w_init=init)(query, key, value)

    params, run = transformed(attend, *inputs)
    names = [f"multi_head_attention/{name}" for name in ("query", "key", "value", "linear")]
    weight_map = split_attention_map(sizes, names, kernel="w", bias="b", heads=False)
    E = HEADS * sizes["D"]
    return Port(run, params, Attention(E, HEADS), weight_map, inputs)


def batch_norm(sizes: Sizes, *, training: bool, counter: int = 0) -> Port:
    """Beside `torch.nn.BatchNorm1d`; in training with the running statistics after a batch.

    Args:
        sizes: the sizes.
        training: whether the batch's own statistics are used, and averaged.
        counter: batches that the averages are made from; each is a sum divided by what its weights
            add up to, 1 - decay ** counter.
    """

    def normalize(x: Any) -> Any:
        norm = haiku.BatchNorm(create_scale=True, create_offset=True, decay_rate=DECAY)
        return norm(x, is_training=training)

    network: Any = haiku.without_apply_rng(haiku.transform_with_state(normalize))
    weights_sum = 1 - DECAY**counter

    def run(params: Any, x: Any) -> Any:
        state = {}
        for name in ("mean", "var"):
            average = params[name]
            state[f"batch_norm/~/{name}_ema"] = {
                "counter": jnp.asarray(counter, jnp.int32),
                "hidden": average * weights_sum,
                "average": average,
            }
        own = {"batch_norm": {"scale": params["scale"], "offset": params["offset"]}}
        y, after = network.apply(own, state, x)
        if not training:
            return y
        averages = (after[f"batch_norm/~/{name}_ema"]["average"] for name in ("mean", "var"))
        # PyTorch's statistics have no gradient.
        return y, *(lax.stop_gradient(average[0]) for average in averages)

    C = sizes["C"]
    row = Reshape((C,), (1, C))
    names = ("scale", "offset", "mean", "var")
    params = {name: jnp.ones((1, C)) for name in names}
    plain = batch_norm_map(*names)
    entries = []
    for one in plain.entries:
        entries.append(entry(one.keys, one.paths, row if one.paths else one.operation))
    torch_module = BatchNormStep(C) if training else nn.BatchNorm1d(C).eval()
    return Port(run, params, torch_module, WeightMap(entries), batch_norm_inputs(sizes))


def relu_rnn(sizes: Sizes, **given: Any) -> nn.Module:
    """`torch.nn.RNN` with options."""
    return nn.RNN(sizes["I"], sizes["H"], **given)


TRAINING_LATER = partial(batch_norm, training=True, counter=1000)
"""After so many batches that the weights of the average add up to 1."""
CASES = [
    Case(
        module="hk.LSTM",
        counterpart="nn.LSTM",
        port=lstm,
        sizes=RECURRENT_SIZES,
        variants=[
            Variant(
                "weights",
                "the cell adds 1 to the forget gate's bias by itself: take 1 from it",
                partial(lstm, offset=1.0),
            )
        ],
    ),
    Case(module="hk.GRU", counterpart="nn.GRU", port=gru, sizes=RECURRENT_SIZES),
    Case(
        module="hk.VanillaRNN",
        counterpart="nn.RNN",
        port=vanilla,
        sizes=RECURRENT_SIZES,
        variants=options_tried(vanilla, relu_rnn, {"nonlinearity": ["relu"]}),
    ),
    Case(module="hk.Linear", counterpart="nn.Linear", port=linear, sizes={**NORM_SIZES, "H": 7}),
    Case(module="hk.LayerNorm", counterpart="nn.LayerNorm", port=layer_norm, sizes=NORM_SIZES),
    Case(
        module="hk.RMSNorm",
        counterpart="nn.RMSNorm",
        port=rms_norm,
        sizes=NORM_SIZES,
        variants=options_tried(
            rms_norm,
            lambda sizes, **given: nn.RMSNorm(sizes["C"], **given),
            {"eps": (1e-5, *EPSILONS)},
        ),
    ),
    Case(
        module="hk.BatchNorm, evaluation",
        counterpart="nn.BatchNorm1d",
        port=partial(batch_norm, training=False),
        sizes=BATCH_NORM_SIZES,
    ),
    Case(
        module=f"hk.BatchNorm(decay_rate={DECAY}), training, first batch",
        counterpart="nn.BatchNorm1d",
        port=partial(batch_norm, training=True),
        sizes=BATCH_NORM_SIZES,
        variants=batch_norm_variants(partial(batch_norm, training=True)),
    ),
    Case(
        module=f"hk.BatchNorm(decay_rate={DECAY}), training, 1,000 batches later",
        counterpart="nn.BatchNorm1d",
        port=TRAINING_LATER,
        sizes=BATCH_NORM_SIZES,
        variants=batch_norm_variants(TRAINING_LATER),
    ),
    Case(
        module="hk.Conv2D, SAME",
        counterpart='nn.Conv2d, padding="same"',
        port=conv,
        sizes=IMAGE_SIZES,
    ),
    Case(
        module="hk.MultiHeadAttention",
        counterpart="nn.MultiheadAttention",
        port=attention,
        sizes=ATTENTION_SIZES,
    ),
]
