"""Layers with skips: each adds its outputs to its inputs.

He et al. 2016, https://arxiv.org/abs/1512.03385; here as Wu et al. 2016 (GNMT), arXiv:1609.08144.

    ./scripts/jaxrnn train --model scripts/examples/residual_layers.py:Residual --num-layers 4
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrnn import RNN, Cell, Hidden, StatefulModel, dense, embed

PLAIN = Cell("plain", ("h",), lambda carry, x, h: Hidden(jnp.tanh(x + h)))


class Residual(StatefulModel):
    """A stack of layers of any cell: x = x + layer(x)."""

    cell: Any = PLAIN
    num_layers: int = 4

    def initial_carry(self, batch_size: int, dtype: Any = jnp.float32) -> Any:
        layer = RNN(self.cell, self.hidden_size, parent=None)
        return layer.initial_carry(batch_size, dtype, input_size=self.hidden_size) * self.num_layers

    @nn.compact
    def __call__(self, carry: Any, tokens: jax.Array, *, lengths: Any = None) -> Any:
        xs = embed(self.vocab_size, self.embedding_size, name="e")(tokens)  # (T, B, F)
        xs = dense(self.hidden_size, self.embedding_size, name="l_in")(xs)  # (T, B, H)
        after: list[Any] = []
        for number, before in enumerate(carry):
            layer = RNN(self.cell, self.hidden_size, name=f"rnn_{number}")
            last, ys = layer([before], xs, lengths=lengths)  # (T, B, H)
            after.extend(last)
            xs = xs + ys
        logits = dense(self.vocab_size, self.hidden_size, name="l_out")(xs)
        return tuple(after), nn.log_softmax(logits)
