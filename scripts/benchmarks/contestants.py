"""Who takes part: one line a contestant, and what to know about it.

A contestant is a class that is called with a case, weights and tokens, and has

    check() -> list of numbers     a loss, or greedy characters, that must agree among all
    run(count)                     `count` steps of training, forward passes or texts, finished
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

OURS = "jaxrnn"
SEGMENTS = "jaxrnn-segments"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A contestant, by names, so that nothing is imported before its own process does it.

    Attributes:
        title: as the tables call it.
        packages: what has to be installed.
        jax: whether it is one of the JAX rivals.
        training: where its class for training and the forward pass is, if it has one.
        generation: where its class for generation is, if it has one.
        threads: how many threads it gets, if not as many as the others.
        differs: for each cell whose equation is another one, in what way.
    """

    title: str
    packages: tuple[str, ...]
    jax: bool = False
    training: Callable[[], Any] | None = None
    generation: Callable[[], Any] | None = None
    threads: int | None = None
    differs: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def plays(self, kind: str) -> bool:
        """Whether it takes part in cases of this kind."""
        return self.maker(kind) is not None

    def maker(self, kind: str) -> Callable[[], Any] | None:
        """What imports and gives its class for a kind of case."""
        return self.generation if kind == "generation" else self.training


def _class(module: str, name: str, **options: Any) -> Callable[[], Any]:
    def load() -> Any:
        return partial(
            getattr(importlib.import_module(f"benchmarks.rivals.{module}"), name), **options
        )

    return load


def _jax(module: str) -> Callable[[], Any]:
    def load() -> Any:
        from benchmarks.rivals.jax_training import JaxRival

        network = importlib.import_module(f"benchmarks.rivals.{module}").network
        return partial(JaxRival, network)

    return load


CONTESTANTS: dict[str, Contestant] = {
    OURS: Contestant(
        title="jaxrnn",
        packages=("jax", "flax"),
        training=_class("ours", "Ours"),
        generation=_class("ours", "OursWriting"),
    ),
    SEGMENTS: Contestant(
        title="jaxrnn, segments",
        packages=("jax", "flax"),
        training=_class("ours", "OursSegmented"),
    ),
    "torch": Contestant(
        title="PyTorch eager",
        packages=("torch",),
        training=_class("torch_modules", "TorchModules"),
    ),
    "torch-compile": Contestant(
        title="PyTorch compiled",
        packages=("torch",),
        training=_class("torch_modules", "TorchModules", compiled=True),
    ),
    "flax-linen": Contestant(
        title="Flax Linen", packages=("flax",), jax=True, training=_jax("flax_linen")
    ),
    "flax-nnx": Contestant(
        title="Flax NNX",
        packages=("flax",),
        jax=True,
        training=_jax("flax_nnx"),
        differs={"gru": "no bias in the candidate's recurrent product"},
    ),
    "haiku": Contestant(
        title="Haiku",
        packages=("haiku",),
        jax=True,
        training=_jax("haiku_unroll"),
        differs={"gru": "the reset gate is applied before the product"},
    ),
    "equinox": Contestant(
        title="Equinox", packages=("equinox",), jax=True, training=_jax("equinox_scan")
    ),
    "keras": Contestant(
        title="Keras on JAX", packages=("keras",), jax=True, training=_jax("keras_jax")
    ),
    "torch-cells": Contestant(
        title="PyTorch cells",
        packages=("torch",),
        generation=_class("torch_generation", "TorchWriting", cells=True),
    ),
    "torch-module": Contestant(
        title="PyTorch module",
        packages=("torch",),
        generation=_class("torch_generation", "TorchWriting", cells=False),
    ),
    "torch-cells-1": Contestant(
        title="PyTorch cells, 1 thread",
        packages=("torch",),
        generation=_class("torch_generation", "TorchWriting", cells=True),
        threads=1,
    ),
    "torch-module-1": Contestant(
        title="PyTorch module, 1 thread",
        packages=("torch",),
        generation=_class("torch_generation", "TorchWriting", cells=False),
        threads=1,
    ),
}
"""By the name that `--rivals` takes. Where products are small, PyTorch can be faster on one."""
