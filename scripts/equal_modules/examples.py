"""What an example of a kind of module is: a PyTorch module, its port, and ports that are wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from torch import nn

from jaxrnn.exchange.weights import WeightMap, entry

Generator = np.random.Generator
Mistakes = dict[str, dict[str, Any]]
"""Options of a port that make it wrong, by what they do."""


@dataclass(frozen=True)
class Example:
    """One module and its port.

    Attributes:
        port: `port(params, *inputs, **mistake)`; params are torch's arrays by torch's keys.
        module: the PyTorch module.
        inputs: of one call.
        mistakes: options of the port that make it wrong, by what they do.
    """

    port: Callable[..., Any]
    module: nn.Module
    inputs: tuple[Any, ...]
    mistakes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def arguments(self, mistake: str | None = None) -> tuple[Any, ...]:
        """The arguments of `parity.check`; of a wrong port if a mistake is named."""
        keys = [
            name
            for name, _ in self.module.named_parameters()  # each tensor once
        ]
        keys += [name for name, buffer in self.module.named_buffers() if buffer.is_floating_point()]
        state = self.module.state_dict()
        params = {key: jnp.asarray(state[key].numpy()) for key in keys}
        options = {} if mistake is None else self.mistakes[mistake]
        weight_map = WeightMap([entry(key, key) for key in keys])
        return partial(self.port, **options), params, self.module, weight_map, self.inputs


class Call(nn.Module):
    """Some modules and a function of them, as one module.

    Args:
        forward: `forward(module, *inputs)`.
        parts: the modules, by attribute.
    """

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Any) -> Any:
        """What the function gives."""
        return self._forward(self, *inputs)


def size(rng: Generator, low: int = 2, high: int = 24) -> int:
    """A number of features, channels or rows."""
    return int(rng.integers(low, high, endpoint=True))


def normal(rng: Generator, *shape: int) -> np.ndarray:
    """Inputs of a scale of their own, from 0.3 to 3."""
    scale = 10 ** rng.uniform(-0.5, 0.5)
    return np.asarray(scale * rng.normal(size=shape), np.float32)


def dense(params: Any, name: str, x: Any) -> Any:
    """torch's linear layer of this name."""
    y = x @ params[f"{name}.weight"].T
    return y + params[f"{name}.bias"] if f"{name}.bias" in params else y
