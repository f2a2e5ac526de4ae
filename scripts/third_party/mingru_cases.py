"""minGRU-pytorch: its layers in PyTorch beside this library's in JAX.

Shapes: T time steps, B batch, H hidden size, which is also the number of input features.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from minGRU_pytorch.minGRU import minGRU
from minGRU_pytorch.minLSTM import minLSTM
from torch import nn

from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.catalog import CELLS
from jaxrnn.recurrent.cells import Hidden
from parity import PermuteGates, WeightMap, entry
from third_party.cases import Case, Port, Promise, Sizes, samples
from third_party.evaluate import agrees

SIZES: Sizes = {"H": 6, "T": 5, "B": 3}
LAYERS = {
    "mingru": (minGRU, "to_hidden_and_gate.weight", (1, 0)),
    "minlstm": (minLSTM, "to_hidden_and_f_i_gate.weight", (1, 2, 0)),
}
"""The package's layer, the key of its weight, and its gates in our order, by our cell's name."""


class StepByStep(nn.Module):
    """A layer of the package in its own loop: one step at a time.

    Args:
        layer: the layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, xs: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Of xs, (B, T, H), from the carry (B, 1, H)."""
        ys = []
        for t in range(xs.shape[1]):
            y, before = self.layer(xs[:, t : t + 1], before, return_next_prev_hidden=True)
            ys.append(y)
        return torch.cat(ys, dim=1)


def min_layer(sizes: Sizes, *, name: str, loop: bool = False, carried: bool = True) -> Port:
    """Our layer beside the package's.

    Args:
        sizes: the sizes.
        name: of our cell.
        loop: whether the package goes step by step, and not over all steps at once.
        carried: whether a carry is handed over.
    """
    H, T, B = (sizes[letter] for letter in "HTB")
    make, key, order = LAYERS[name]
    layer = make(H)
    stack = RNN(CELLS[name], H)

    def run(params: Any, xs: Any, *before: Any) -> Any:
        biases = {"bias_ih_l0": jnp.zeros(len(order) * H, xs.dtype)}
        h = before[0][:, 0] if before else jnp.zeros((B, H), xs.dtype)
        weights = {"params": {**params, **biases}}
        outputs: Any = stack.apply(weights, (Hidden(h),), xs.swapaxes(0, 1))
        _, ys = outputs
        return ys.swapaxes(0, 1)  # (T, B, H) to (B, T, H)

    prefix = "layer." if loop else ""
    weight_map = WeightMap([entry(f"{prefix}{key}", "weight_ih_l0", PermuteGates(order))])
    params = {"weight_ih_l0": np.zeros((len(order) * H, H))}
    inputs: tuple[Any, ...] = (samples(B, T, H),)
    if carried:
        # The hidden state of such a layer is positive.
        inputs += (np.random.default_rng(1).uniform(0.2, 2.0, (B, 1, H)),)
    return Port(run, params, StepByStep(layer) if loop else layer, weight_map, inputs)


def own_loop_agrees() -> bool:
    """Whether the package's minLSTM, step by step, is the layer that it is compared with."""
    return agrees(min_layer(SIZES, name="minlstm", loop=True))


CASES = [
    Case(
        module="minGRU, with a carry",
        counterpart="jaxrnn, mingru",
        port=partial(min_layer, name="mingru"),
        sizes=SIZES,
    ),
    Case(
        module="minLSTM, without a carry",
        counterpart="jaxrnn, minlstm",
        port=partial(min_layer, name="minlstm", carried=False),
        sizes=SIZES,
    ),
    Case(
        module="minLSTM, with a carry, step by step",
        counterpart="jaxrnn, minlstm",
        port=partial(min_layer, name="minlstm", loop=True),
        sizes=SIZES,
    ),
    Case(
        module="minLSTM, with a carry, all steps at once",
        counterpart="jaxrnn, minlstm",
        port=partial(min_layer, name="minlstm"),
        sizes=SIZES,
        promise=Promise("not what its own loop gives, which is what jaxrnn gives", own_loop_agrees),
    ),
]
