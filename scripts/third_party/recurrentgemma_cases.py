"""recurrentgemma: its RG-LRU in JAX beside its own in PyTorch, and this library's beside it.

Shapes: T time steps, B batch, H units.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from jax.scipy.linalg import block_diag
from recurrentgemma.jax import layers as jax_layers
from recurrentgemma.torch import layers as torch_layers
from torch import nn

from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import Hidden
from parity import WeightMap, entry
from third_party.cases import Case, Port, Sizes, samples

HEADS = 2
"""Blocks on the diagonal of the gates' weights."""
SIZES: Sizes = {"D": 4, "T": 5, "B": 3}
"""D: units of a head; H = HEADS * D."""
GATES = ("a_gate", "input_gate")
WEIGHT_MAP = WeightMap(
    [
        entry("layer.a_param", "a_param"),
        *(entry(f"layer.{gate}.{part}", f"{gate}/{part}") for gate in GATES for part in "wb"),
    ]
)


@contextlib.contextmanager
def accumulating(module: Any, name: str, **dtype: Any) -> Iterator[None]:
    """Within it a scan of the package accumulates in another precision than float32.

    Args:
        module: the module whose scan it is.
        name: the scan's name.
        dtype: the option of the scan that tells it the precision.
    """
    scan = getattr(module, name)
    setattr(module, name, partial(scan, **dtype))
    try:
        yield
    finally:
        setattr(module, name, scan)


NOTE = "its scans are told to accumulate in the precision of the inputs"


class RGLRU(nn.Module):
    """The package's layer in PyTorch, which accumulates in the precision of its inputs.

    Args:
        width: H.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = torch_layers.RGLRU(width, HEADS)

    def forward(
        self, xs: torch.Tensor, positions: torch.Tensor, before: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of xs, (B, T, H), from a carry, (B, H)."""
        with accumulating(torch_layers, "rnn_scan", acc_dtype=xs.dtype):
            return self.layer(xs, positions, before)


def case_inputs(sizes: Sizes, first: int) -> tuple[np.ndarray, ...]:
    """Inputs, positions in the text from `first` on, and a carry."""
    T, B = sizes["T"], sizes["B"]
    H = HEADS * sizes["D"]
    positions = np.tile(np.arange(first, first + T), (B, 1))
    return samples(B, T, H), positions, samples(B, H, seed=1)


def params_of(sizes: Sizes) -> Any:
    """The tree of parameters."""
    D = sizes["D"]
    H = HEADS * D
    blocks = {"w": np.zeros((HEADS, D, D)), "b": np.zeros((HEADS, D))}
    return {"a_param": np.zeros(H), **dict.fromkeys(GATES, blocks)}


def rg_lru(sizes: Sizes, *, first: int) -> Port:
    """The package's layer in JAX beside its own in PyTorch."""
    H = HEADS * sizes["D"]
    module = jax_layers.RGLRU(H, HEADS)

    def run(params: Any, xs: Any, positions: Any, before: Any) -> Any:
        with accumulating(jax_layers.scan, "linear_scan", acc_float_dtype=xs.dtype):
            return module.apply({"params": params}, xs, positions, before)

    return Port(run, params_of(sizes), RGLRU(H), WEIGHT_MAP, case_inputs(sizes, first))


def our_rg_lru(sizes: Sizes, *, first: int) -> Port:
    """This library's layer beside the package's in PyTorch."""
    H = HEADS * sizes["D"]
    stack = RNN(CELLS["rg-lru"], H)

    def run(params: Any, xs: Any, positions: Any, before: Any) -> Any:
        weights = [block_diag(*params[gate]["w"]).T for gate in GATES]  # (H, H) each
        biases = [params[gate]["b"].ravel() for gate in GATES]
        ours = {
            # What enters the recurrence is x itself.
            "weight_ih_l0": jnp.concatenate([*weights, jnp.eye(H, dtype=xs.dtype)]),
            "bias_ih_l0": jnp.concatenate([*biases, jnp.zeros(H, xs.dtype)]),
            "lam_l0": params["a_param"],
        }
        outputs: Any = stack.apply({"params": ours}, (Hidden(before),), xs.swapaxes(0, 1))
        last, ys = outputs
        return ys.swapaxes(0, 1), last[0].h  # (T, B, H) to (B, T, H)

    return Port(run, params_of(sizes), RGLRU(H), WEIGHT_MAP, case_inputs(sizes, first))


CASES = [
    Case(
        module="jax.layers.RGLRU",
        counterpart="its torch.layers.RGLRU",
        port=partial(rg_lru, first=1),
        sizes=SIZES,
        note=NOTE,
    ),
    Case(
        module="jax.layers.RGLRU, from the beginning of a text",
        counterpart="its torch.layers.RGLRU",
        port=partial(rg_lru, first=0),
        sizes=SIZES,
        note=NOTE,
    ),
    Case(
        module="torch.layers.RGLRU",
        counterpart="jaxrnn, rg-lru",
        port=partial(our_rg_lru, first=1),
        sizes=SIZES,
        note=NOTE,
    ),
]
