"""Two modules as a pair of the core: what the outputs are called, and what is compared."""

import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from parity.core.runners import precision
from parity.modules.pairs import pair_of


class Named(nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x), "inputs": x}


def test_outputs_are_numbered_in_their_order_on_both_sides():
    module = Named(3, 2).double()
    params = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}

    def function(params, x):
        # JAX sorts a dictionary by its keys, and so do both sides.
        return {"logits": x @ params["kernel"] + params["bias"], "inputs": x}

    weight_map = WeightMap.for_flax(["kernel", "bias"])
    pair = pair_of("a pair", function, params, module, weight_map, [np.ones((4, 3))])
    arrays = pair.sample_inputs(np.random.default_rng(0))
    with precision("float64"):
        ours = pair.jax_outputs(params, arrays)
        theirs = pair.torch_outputs(module, {k: torch.tensor(a) for k, a in arrays.items()})
    assert list(ours) == list(theirs) == ["output 0", "output 1"]
    assert [array.shape for array in ours.values()] == [tuple(a.shape) for a in theirs.values()]
