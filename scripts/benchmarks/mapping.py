"""Torch's weights in the form of each baseline: operations beyond `jaxrnn.exchange.operations`.

Only the way from torch is needed here. Folding two biases into one changes no loss and no
gradient of the sum; it saves the baseline one vector of Adam's work a layer.

Shapes: H hidden size, I input size.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.data import BIASES
from jaxrnn.exchange.operations import Operation, Transpose
from jaxrnn.exchange.weights import Entry, WeightMap, entry

ZRN = (1, 0, 2)
"""Keras's and Haiku's order of the GRU's gates: theirs is torch's gate `ZRN[k]`."""
IGFO = (0, 2, 1, 3)
"""Haiku's order of the LSTM's gates."""

LayerMap = Callable[[int], list[Entry]]
"""The entries of recurrent layer k."""


@dataclass(frozen=True)
class FoldGru(Operation):
    """Torch's two biases as (3 H,) and (H,): only that of the candidate's product stays alone."""

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """b_ih + b_hh of the gates r and z with b_in, and b_hn."""
        b_ih, b_hh = arrays
        gates = len(b_hh) // 3 * 2
        alone = b_hh[gates:]
        return [b_ih + np.concatenate([b_hh[:gates], np.zeros_like(alone)]), alone]


@dataclass(frozen=True)
class SplitFirst(Operation):
    """The first array cut into `count` along its first axis; the others as they are."""

    count: int

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Cut."""
        return [*np.split(arrays[0], self.count), *arrays[1:]]


@dataclass(frozen=True)
class LessForgetOffset(Operation):
    """Haiku's LSTM adds 1 to the forget gate, the third of its four: take 1 off the bias."""

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Subtract."""
        i, g, f, o = np.split(arrays[0], 4)
        return [np.concatenate([i, g, f - 1, o])]


@dataclass(frozen=True)
class SideBySide(Operation):
    """(G H, I) and (G H, H) as one (I + H, G H) that multiplies [x, h]."""

    def from_torch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Concatenate and transpose."""
        return [np.concatenate(arrays, axis=1).T]


def keys(layer: int, *names: str) -> list[str]:
    """Torch's names of parameters of a recurrent layer."""
    return [f"rnn.{name}_l{layer}" for name in names]


def biases(layer: int) -> list[str]:
    """Torch's names of both biases of a recurrent layer."""
    return keys(layer, *BIASES)


def whole_map(
    num_layers: int, layer_map: LayerMap, embedding: str, kernel: str, bias: str
) -> WeightMap:
    """The map of a model whose output kernel is (H, V)."""
    shared = [
        entry("e.weight", embedding),
        entry("l_out.weight", kernel, Transpose()),
        entry("l_out.bias", bias),
    ]
    return WeightMap([*shared, *(e for k in range(num_layers) for e in layer_map(k))])


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} as {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, array in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def paths(parent: str, children: Iterable[str], leaf: str) -> list[str]:
    """`parent/child/leaf` for each child."""
    return [f"{parent}/{child}/{leaf}" for child in children]
