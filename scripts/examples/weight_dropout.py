"""Weight dropout (Merity et al. 2018, https://arxiv.org/abs/1708.02182): one mask a window.

./scripts/jaxrnn train --model scripts/examples/weight_dropout.py:WeightDropped --cell lstm
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrnn import RNN, Cell, Hidden, StatefulModel, dense, embed

PLAIN = Cell("plain", ("h",), lambda carry, x, h: Hidden(jnp.tanh(x + h)))
RATE = 0.5  # the share of the recurrent weights that a window leaves out


class WeightDropped(StatefulModel):
    """A layer of any cell, whose recurrent weight is dropped in training and whole elsewhere."""

    cell: Any = PLAIN

    @property
    def stack(self) -> RNN:
        return RNN(self.cell, self.hidden_size, parent=None)

    @nn.compact
    def __call__(self, carry: Any, tokens: jax.Array, *, lengths: Any = None) -> Any:
        def dropped(variables: Any) -> Any:
            whole = variables["params"].get("weight_hh_l0")
            if key is None or whole is None:
                return variables
            kept = jax.random.bernoulli(key, 1 - RATE, whole.shape) / (1 - RATE)
            return {"params": variables["params"] | {"weight_hh_l0": kept * whole}}

        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        layer = nn.map_variables(RNN, "params", dropped, init=True)
        xs = embed(self.vocab_size, self.embedding_size, name="e")(tokens)  # (T, B, F)
        carry, ys = layer(self.cell, self.hidden_size, name="rnn")(carry, xs, lengths=lengths)
        return carry, nn.log_softmax(dense(self.vocab_size, self.hidden_size, name="l_out")(ys))
