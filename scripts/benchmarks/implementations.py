"""The implementations that are compared, ours and the baselines, and what to know about each.

An implementation is a class that is called with a case, weights and inputs (tokens, or the numbers
that a layer reads), and has

    check() -> list of numbers     a loss, greedy characters, or norms, that must agree among all
    run(count)                     `count` steps of training, forward passes or texts, finished
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

OURS = "jaxrnn"
REMAT = "jaxrnn-remat"
"""Ours with recomputed activations, which takes part only where memory is the limit."""


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """An implementation, by names, so that nothing is imported before its own process does it.

    Attributes:
        title: as the tables call it.
        packages: what has to be installed.
        jax: whether it is one of the JAX baselines.
        training: where its class for training and the forward pass is, if it has one.
        generation: where its class for generation is, if it has one.
        layer: where its class for a layer with its gradients is, if it has one.
        inference: where its class for the forward pass of a layer is, if it has one.
        devices: where it runs; True stands for a GPU.
        threads: how many threads it gets, if not as many as the others.
        differs: for each cell whose equation is another one, in what way.
    """

    title: str
    packages: tuple[str, ...]
    jax: bool = False
    training: Callable[[], Any] | None = None
    generation: Callable[[], Any] | None = None
    layer: Callable[[], Any] | None = None
    inference: Callable[[], Any] | None = None
    devices: tuple[bool, ...] = (False,)
    threads: int | None = None
    differs: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def takes_part_in(self, kind: str) -> bool:
        """Whether it takes part in cases of this kind."""
        return self.maker(kind) is not None

    def maker(self, kind: str) -> Callable[[], Any] | None:
        """The function that imports and returns its class for a kind of case."""
        found: Callable[[], Any] | None = getattr(self, "training" if kind == "forward" else kind)
        return found


def _class(module: str, name: str, **options: Any) -> Callable[[], Any]:
    """A function that imports a class and returns it with these options."""

    def load() -> Any:
        found = importlib.import_module(f"benchmarks.{module}")
        return partial(getattr(found, name), **options)

    return load


def _jax(module: str) -> Callable[[], Any]:
    """A function that imports the network of a JAX baseline and returns a class that trains it."""

    def load() -> Any:
        from benchmarks.baselines.jax_training import JaxBaseline

        network = importlib.import_module(f"benchmarks.baselines.{module}").network
        return partial(JaxBaseline, network)

    return load


IMPLEMENTATIONS: dict[str, Implementation] = {
    OURS: Implementation(
        title="jaxrnn",
        devices=(False, True),
        packages=("jax", "flax"),
        training=_class("ours", "Ours"),
        generation=_class("ours", "OursGeneration"),
        layer=_class("ours", "OursLayer"),
        inference=_class("ours", "OursLayer"),
    ),
    REMAT: Implementation(
        title="jaxrnn, remat",
        packages=("jax", "flax"),
        training=_class("ours", "OursRemat"),
    ),
    "torch": Implementation(
        title="PyTorch eager",
        devices=(False, True),
        packages=("torch",),
        training=_class("baselines.torch_modules", "TorchModules"),
        layer=_class("baselines.torch_modules", "TorchLayer"),
        inference=_class("baselines.torch_modules", "TorchLayer"),
    ),
    "torch-compile": Implementation(
        title="PyTorch compiled",
        devices=(False, True),
        packages=("torch",),
        training=_class("baselines.torch_modules", "TorchModules", compiled=True),
    ),
    "onnxruntime": Implementation(
        title="ONNX Runtime",
        packages=("onnx", "onnxruntime"),
        inference=_class("baselines.onnx_layer", "OnnxLayer"),
    ),
    "flax-linen": Implementation(
        title="Flax Linen",
        packages=("flax",),
        devices=(False, True),
        jax=True,
        training=_jax("flax_linen"),
    ),
    "jax-cudnn": Implementation(
        title="cuDNN in JAX",
        packages=("jax",),
        devices=(True,),
        jax=True,
        training=_jax("jax_cudnn"),
    ),
    "flax-nnx": Implementation(
        title="Flax NNX",
        packages=("flax",),
        jax=True,
        training=_jax("flax_nnx"),
        differs={"gru": "no bias in the candidate's recurrent product"},
    ),
    "haiku": Implementation(
        title="Haiku",
        packages=("haiku",),
        jax=True,
        training=_jax("haiku_unroll"),
        differs={"gru": "the reset gate is applied before the product"},
    ),
    "equinox": Implementation(
        title="Equinox", packages=("equinox",), jax=True, training=_jax("equinox_scan")
    ),
    "keras": Implementation(
        title="Keras on JAX", packages=("keras",), jax=True, training=_jax("keras_jax")
    ),
    "torch-cells": Implementation(
        title="PyTorch cells",
        packages=("torch",),
        generation=_class("baselines.torch_generation", "TorchGeneration", cells=True),
    ),
    "torch-module": Implementation(
        title="PyTorch module",
        packages=("torch",),
        generation=_class("baselines.torch_generation", "TorchGeneration", cells=False),
    ),
    "torch-cells-1": Implementation(
        title="PyTorch cells, 1 thread",
        packages=("torch",),
        generation=_class("baselines.torch_generation", "TorchGeneration", cells=True),
        threads=1,
    ),
    "torch-module-1": Implementation(
        title="PyTorch module, 1 thread",
        packages=("torch",),
        generation=_class("baselines.torch_generation", "TorchGeneration", cells=False),
        threads=1,
    ),
}
"""The implementations by the name that `--baselines` takes. Those with one thread are there because
PyTorch can be faster on one where the products are small."""
