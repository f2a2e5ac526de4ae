"""Equinox, whose modules take one example at a time: `jax.vmap` gives them a batch.

Shapes: T time steps, B batch, I input features, H hidden size, C channels, O output channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from torch import nn

from parity import Chain, FoldGruBiases, PermuteAxes, Reshape, WeightMap, entry
from third_party.cases import RECURRENT_SIZES, Case, Port, Sizes
from third_party.layers import (
    ATTENTION_SIZES,
    BATCH_NORM_SIZES,
    EPSILONS,
    HEADS,
    IMAGE_SIZES,
    KERNEL,
    NORM_SIZES,
    attention_inputs,
    batch_norm_inputs,
    batch_norm_map,
    batch_norm_variants,
    image_inputs,
    norm_inputs,
    options_tried,
    split_attention_map,
)
from third_party.operations import Flip
from third_party.recurrent import BIASES, gru_inputs, joined_map, lstm_inputs
from third_party.references import Attention, BatchNormStep

KEY = jax.random.key(0)
MOMENTUM = 0.99
"""Equinox's default."""
LATER = 10_000
"""Batches after which the weights of an average add up to 1 in float64."""


def pure(module: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The module's arrays as a tree, and the way from such a tree to a module."""
    params, static = eqx.partition(module, eqx.is_inexact_array)
    return params, lambda params: eqx.combine(params, static)


def called(module: Any, batch_axes: int) -> tuple[Any, Callable[..., Any]]:
    """The module's arrays, and the module as a function of them and of inputs.

    Args:
        module: a module of single examples.
        batch_axes: how many leading axes of the inputs are mapped over.
    """
    params, made = pure(module)

    def run(params: Any, *inputs: Any) -> Any:
        function = made(params)
        for _ in range(batch_axes):
            function = jax.vmap(function)
        return function(*inputs)

    return params, run


def lstm(sizes: Sizes) -> Port:
    """Beside `torch.nn.LSTM`."""
    params, made = pure(eqx.nn.LSTMCell(sizes["I"], sizes["H"], key=KEY))

    def run(params: Any, xs: Any, carry: Any) -> Any:
        cell = jax.vmap(made(params))

        def step(carry: Any, x: Any) -> Any:
            carry = cell(x, carry)
            return carry, carry[0]

        (h, c), ys = lax.scan(step, (carry[0][0], carry[1][0]), xs)
        return ys, (h[None], c[None])

    weight_map = joined_map("weight_ih", "weight_hh", "bias", order=(0, 1, 2, 3), transposed=False)
    torch_module = nn.LSTM(sizes["I"], sizes["H"])
    return Port(run, params, torch_module, weight_map, lstm_inputs(sizes))


def gru(sizes: Sizes) -> Port:
    """Beside `torch.nn.GRU`."""
    params, made = pure(eqx.nn.GRUCell(sizes["I"], sizes["H"], key=KEY))

    def run(params: Any, xs: Any, h: Any) -> Any:
        cell = jax.vmap(made(params))

        def step(h: Any, x: Any) -> Any:
            h = cell(x, h)
            return h, h

        last, ys = lax.scan(step, h[0], xs)
        return ys, last[None]

    weight_map = WeightMap(
        [
            entry("weight_ih_l0", "weight_ih"),
            entry("weight_hh_l0", "weight_hh"),
            entry(BIASES, ["bias", "bias_n"], FoldGruBiases()),
        ]
    )
    return Port(run, params, nn.GRU(sizes["I"], sizes["H"]), weight_map, gru_inputs(sizes))


WEIGHT_AND_BIAS = WeightMap([entry("weight", "weight"), entry("bias", "bias")])


def linear(sizes: Sizes) -> Port:
    """Beside `torch.nn.Linear`."""
    params, run = called(eqx.nn.Linear(sizes["C"], sizes["H"], key=KEY), 2)
    torch_module = nn.Linear(sizes["C"], sizes["H"])
    return Port(run, params, torch_module, WEIGHT_AND_BIAS, norm_inputs(sizes))


def layer_norm(sizes: Sizes) -> Port:
    """Beside `torch.nn.LayerNorm`."""
    params, run = called(eqx.nn.LayerNorm(sizes["C"]), 2)
    return Port(run, params, nn.LayerNorm(sizes["C"]), WEIGHT_AND_BIAS, norm_inputs(sizes))


def rms_norm(sizes: Sizes, *, use_bias: bool) -> Port:
    """Beside `torch.nn.RMSNorm`, which has no bias."""
    params, run = called(eqx.nn.RMSNorm(sizes["C"], use_bias=use_bias), 2)
    weight_map = WeightMap([entry("weight", "weight")])
    return Port(run, params, nn.RMSNorm(sizes["C"]), weight_map, norm_inputs(sizes))


def group_norm(sizes: Sizes) -> Port:
    """Beside `torch.nn.GroupNorm`."""
    params, run = called(eqx.nn.GroupNorm(GROUPS, sizes["C"]), 1)
    torch_module = nn.GroupNorm(GROUPS, sizes["C"])
    return Port(run, params, torch_module, WEIGHT_AND_BIAS, image_inputs(sizes))


def conv(sizes: Sizes) -> Port:
    """Beside `torch.nn.Conv2d`."""
    O = sizes["O"]
    params, run = called(eqx.nn.Conv2d(sizes["C"], O, KERNEL, key=KEY), 1)
    bias = Reshape((O,), (O, 1, 1))
    weight_map = WeightMap([entry("weight", "weight"), entry("bias", "bias", bias)])
    torch_module = nn.Conv2d(sizes["C"], O, KERNEL)
    return Port(run, params, torch_module, weight_map, image_inputs(sizes))


def conv_transpose(sizes: Sizes) -> Port:
    """Beside `torch.nn.ConvTranspose2d`."""
    O = sizes["O"]
    params, run = called(eqx.nn.ConvTranspose2d(sizes["C"], O, KERNEL, stride=2, key=KEY), 1)
    weight_map = WeightMap(
        [
            entry("weight", "weight", Chain((PermuteAxes((1, 0, 2, 3)), Flip((2, 3))))),
            entry("bias", "bias", Reshape((O,), (O, 1, 1))),
        ]
    )
    torch_module = nn.ConvTranspose2d(sizes["C"], O, KERNEL, stride=2)
    return Port(run, params, torch_module, weight_map, image_inputs(sizes))


def attention(sizes: Sizes) -> Port:
    """Beside `torch.nn.MultiheadAttention` without biases, as Equinox has it."""
    E = HEADS * sizes["D"]
    params, run = called(eqx.nn.MultiheadAttention(HEADS, E, key=KEY), 1)
    names = [f"{name}_proj" for name in ("query", "key", "value", "output")]
    weight_map = split_attention_map(
        sizes, names, kernel="weight", bias="", heads=False, transposed=False
    )
    torch_module = Attention(E, HEADS, bias=False)
    return Port(run, params, torch_module, weight_map, attention_inputs(sizes))


Mode = Literal["batch", "ema"]


def batch_norm(sizes: Sizes, *, mode: Mode, training: bool, counter: int = LATER) -> Port:
    """Beside `torch.nn.BatchNorm1d`; in training with the running statistics after a batch.

    Args:
        sizes: the sizes.
        mode: Equinox's. In "batch" the statistics are sums, which are divided by what their
            weights add up to, 1 - momentum ** counter.
        training: whether the statistics are updated.
        counter: batches seen before.
    """
    make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
    before, after = 1.0, 1.0
    if mode == "batch":
        before = 1 - MOMENTUM**counter
        after = 1 - MOMENTUM ** (counter + 1)

    def run(params: Any, x: Any) -> Any:
        # Made here, because a state keeps the precision it was made in.
        norm, state = make(
            sizes["C"],
            axis_name="batch",
            dtype=x.dtype,
            mode=mode,
            momentum=MOMENTUM,
            inference=not training,
        )
        norm = eqx.tree_at(
            lambda norm: (norm.weight, norm.bias), norm, (params["weight"], params["bias"])
        )
        statistics = norm.ema_state_index if mode == "ema" else norm.batch_state_index
        state = state.set(statistics, (params["mean"] * before, params["var"] * before))
        if mode == "ema":
            state = state.set(norm.ema_first_time_index, jnp.array(counter == 0))
        else:
            state = state.set(norm.batch_counter, jnp.array(counter))
        over_batch = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        y, state = over_batch(x, state)
        if not training:
            return y
        # PyTorch's statistics have no gradient.
        return y, *(lax.stop_gradient(array / after) for array in state.get(statistics))

    C = sizes["C"]
    names = ("weight", "bias", "mean", "var")
    params = {name: jnp.ones(C) for name in names}
    torch_module = BatchNormStep(C) if training else nn.BatchNorm1d(C).eval()
    return Port(run, params, torch_module, batch_norm_map(*names), batch_norm_inputs(sizes))


def batch_norm_case(mode: Mode, when: str, *, training: bool, counter: int = LATER) -> Case:
    """A case of a batch norm, with all that its training may do otherwise than PyTorch."""
    port = partial(batch_norm, mode=mode, training=training, counter=counter)
    return Case(
        module=f'eqx.nn.BatchNorm(mode="{mode}"), {when}',
        counterpart="nn.BatchNorm1d",
        port=port,
        sizes=BATCH_NORM_SIZES,
        variants=batch_norm_variants(port) if training else (),
    )


def rms_reference(sizes: Sizes, **given: Any) -> nn.Module:
    """`torch.nn.RMSNorm` with options."""
    return nn.RMSNorm(sizes["C"], **given)


GROUPS = 2
"""Groups of channels of a group norm."""
RMS_NORM = partial(rms_norm, use_bias=False)
CASES = [
    Case(module="eqx.nn.LSTMCell", counterpart="nn.LSTM", port=lstm, sizes=RECURRENT_SIZES),
    Case(module="eqx.nn.GRUCell", counterpart="nn.GRU", port=gru, sizes=RECURRENT_SIZES),
    Case(
        module="eqx.nn.Linear",
        counterpart="nn.Linear",
        port=linear,
        sizes={**NORM_SIZES, "H": 7},
    ),
    Case(module="eqx.nn.LayerNorm", counterpart="nn.LayerNorm", port=layer_norm, sizes=NORM_SIZES),
    Case(
        module="eqx.nn.RMSNorm(use_bias=False)",
        counterpart="nn.RMSNorm",
        port=RMS_NORM,
        sizes=NORM_SIZES,
        variants=options_tried(RMS_NORM, rms_reference, {"eps": (1e-5, *EPSILONS)}),
    ),
    Case(module="eqx.nn.GroupNorm", counterpart="nn.GroupNorm", port=group_norm, sizes=IMAGE_SIZES),
    batch_norm_case("batch", "evaluation", training=False),
    batch_norm_case("batch", "training, first batch", training=True, counter=0),
    batch_norm_case("batch", "training, 10,000 batches later", training=True),
    batch_norm_case("ema", "evaluation", training=False),
    batch_norm_case("ema", "training, first batch", training=True, counter=0),
    batch_norm_case("ema", "training, 10,000 batches later", training=True),
    Case(module="eqx.nn.Conv2d", counterpart="nn.Conv2d", port=conv, sizes=IMAGE_SIZES),
    Case(
        module="eqx.nn.ConvTranspose2d",
        counterpart="nn.ConvTranspose2d",
        port=conv_transpose,
        sizes=IMAGE_SIZES,
    ),
    Case(
        module="eqx.nn.MultiheadAttention",
        counterpart="nn.MultiheadAttention, bias=False",
        port=attention,
        sizes=ATTENTION_SIZES,
    ),
]
