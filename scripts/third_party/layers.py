"""What the cases of layers that are not recurrent share: inputs, maps, references, variants.

Shapes: B batch, S sequence, D features of a head, E = heads * D, C channels.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from parity import (
    Absent,
    Chain,
    Operation,
    PermuteAxes,
    Reshape,
    SplitGates,
    Transpose,
    WeightMap,
    entry,
)
from third_party.cases import MakePort, Port, Sizes, Variant, samples
from third_party.references import BatchNormStep

NORM_SIZES: Sizes = {"C": 6, "T": 5, "B": 3}
"""Sizes of a norm's inputs, (B, T, C)."""
BATCH_NORM_SIZES: Sizes = {"C": 6, "B": 17}
"""Sizes of a batch norm's inputs, (B, C)."""
IMAGE_SIZES: Sizes = {"O": 5, "C": 4, "B": 2, "height": 8, "width": 10}
"""Sizes of an image, (B, C, height, width), and of the output's channels."""
ATTENTION_SIZES: Sizes = {"D": 3, "B": 2, "S": 5, "T": 4}
"""Sizes of queries, (B, T, heads * D), and of keys and values, (B, S, heads * D)."""
HEADS = 2
"""Heads of an attention."""
KERNEL = (3, 3)
"""Size of a convolution's kernel."""

CONV_KERNEL = PermuteAxes((2, 3, 1, 0))
"""(O, I, height, width) in PyTorch, (height, width, I, O) where channels are last."""
CONV_MAP = WeightMap([entry("weight", "kernel", CONV_KERNEL), entry("bias", "bias")])
"""A convolution of Flax or Keras."""

EPSILONS = (1e-6, 1e-3)
"""Epsilons of norms in other packages, where PyTorch has 1e-5."""


def norm_inputs(sizes: Sizes) -> tuple[np.ndarray]:
    """(B, T, C)."""
    return (samples(sizes["B"], sizes["T"], sizes["C"]),)


def batch_norm_inputs(sizes: Sizes) -> tuple[np.ndarray]:
    """(B, C)."""
    return (samples(sizes["B"], sizes["C"]),)


def image_inputs(sizes: Sizes) -> tuple[np.ndarray]:
    """(B, C, height, width), as PyTorch takes them."""
    return (samples(*(sizes[name] for name in ("B", "C", "height", "width"))),)


def attention_inputs(sizes: Sizes) -> tuple[np.ndarray, ...]:
    """Queries, keys and values."""
    B, S, T = (sizes[letter] for letter in "BST")
    E = HEADS * sizes["D"]
    return samples(B, T, E), samples(B, S, E, seed=1), samples(B, S, E, seed=2)


def channels_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of images with their channels last, as one that has them second, as PyTorch."""

    def run(params: Any, images: Any) -> Any:
        y = function(params, images.transpose(0, 2, 3, 1))  # (B, C, h, w) to (B, h, w, C)
        return y.transpose(0, 3, 1, 2)

    return run


def split_attention_map(
    sizes: Sizes,
    names: Sequence[str] = ("query", "key", "value", "out"),
    *,
    kernel: str = "kernel",
    bias: str = "bias",
    heads: bool = True,
    transposed: bool = True,
) -> WeightMap:
    """`torch.nn.MultiheadAttention` where each projection has its own kernel.

    Args:
        sizes: the sizes.
        names: the paths of the projections.
        kernel: the name of a kernel.
        bias: the name of a bias; empty if there are none.
        heads: whether the heads are an axis of the kernels' own.
        transposed: whether a kernel is (in, out).
    """
    D = sizes["D"]
    E = HEADS * D
    split: list[Operation] = [SplitGates(3)]
    split_bias: list[Operation] = [SplitGates(3)]
    outwards: list[Operation] = []
    if transposed:
        split.append(Transpose())
        outwards.append(Transpose())
    if heads:
        split.append(Reshape((E, E), (E, HEADS, D)))
        split_bias.append(Reshape((E,), (HEADS, D)))
        outwards.append(Reshape((E, E), (HEADS, D, E)))
    *inwards, out = names
    entries = [
        entry("in_proj_weight", [f"{name}/{kernel}" for name in inwards], Chain(tuple(split))),
        entry("out_proj.weight", f"{out}/{kernel}", Chain(tuple(outwards))),
    ]
    if bias:
        paths = [f"{name}/{bias}" for name in inwards]
        entries.append(entry("in_proj_bias", paths, Chain(tuple(split_bias))))
        entries.append(entry("out_proj.bias", f"{out}/{bias}"))
    return WeightMap(entries)


def batch_norm_map(scale: str, bias: str, mean: str, var: str) -> WeightMap:
    """A batch norm, from the paths of its parameters and statistics."""
    return WeightMap(
        [
            entry("weight", scale),
            entry("bias", bias),
            entry("running_mean", mean),
            entry("running_var", var),
            entry("num_batches_tracked", (), Absent(())),
        ]
    )


def with_reference(port: MakePort, reference: Callable[[Sizes], nn.Module]) -> MakePort:
    """The same JAX function beside another module in PyTorch."""

    def make(sizes: Sizes) -> Port:
        return port(sizes)._replace(module=reference(sizes))

    return make


def shown(value: Any) -> str:
    """A value as Python code, 1e-06 as 1e-6."""
    return repr(value).replace("e-0", "e-")


def options_tried(
    port: MakePort,
    reference: Callable[..., nn.Module],
    options: Mapping[str, Sequence[Any]],
) -> list[Variant]:
    """Variants by each value of one option of PyTorch's.

    Args:
        port: the case.
        reference: (sizes, **options) -> the counterpart.
        options: values other than PyTorch's default to try.
    """
    variants = []
    for name, values in options.items():
        for value in values:

            def make(sizes: Sizes, given: Mapping[str, Any] = {name: value}) -> nn.Module:
                return reference(sizes, **given)

            words = f"`{name}={shown(value)}`"
            variants.append(Variant("option", words, with_reference(port, make)))
    return variants


MOMENTA = (0.1, 0.01, 1.0)
"""PyTorch's momentum is the share of the new batch; Flax's and Keras's 0.99 is that of the old."""
BIASED = "the running variance is made from the batch's divided by n, not n - 1"
RUNNING = "the batch is normalized by the running statistics after their update"


def batch_norm_variants(port: MakePort) -> list[Variant]:
    """Another momentum, epsilon, estimate of the variance or normalization, and all together.

    A momentum of 1, which takes the statistics of the batch as they are, is what an average does at
    its first step that begins empty.
    """
    variants: list[tuple[int, Variant]] = []
    choices = itertools.product(MOMENTA, (1e-5, *EPSILONS), (False, True), ("batch", "running"))
    for momentum, eps, biased, normalizes in choices:
        settings = []
        if momentum != 0.1:
            settings.append(f"`momentum={shown(momentum)}`")
        if momentum == 1.0:
            settings[-1] += " (the batch's statistics replace the running ones)"
        if eps != 1e-5:
            settings.append(f"`eps={shown(eps)}`")
        equation = [BIASED] if biased else []
        if normalizes == "running":
            equation.append(RUNNING)
        options = {"momentum": momentum, "eps": eps, "biased": biased, "normalizes": normalizes}

        def make(sizes: Sizes, options: Mapping[str, Any] = options) -> nn.Module:
            return BatchNormStep(sizes["C"], **options)

        words = ", ".join(settings)
        if equation:
            words = "; ".join(equation + ([f"with {words}"] if settings else []))
        kind = "equation" if equation else "option"
        deviations = len(settings) + len(equation)
        made = Variant(kind, words, with_reference(port, make))  # type: ignore[arg-type]
        variants.append((deviations, made))
    # The fewest deviations first; the first of all is PyTorch's own.
    variants.sort(key=lambda pair: pair[0])
    return [variant for _, variant in variants[1:]]
