"""A loss of one's own: activations that are large, or that change fast, cost (Merity et al. 2017).

$ .venv/bin/python scripts/examples/activation_penalty.py TEXT.txt     # the same again goes on

https://arxiv.org/abs/1708.01009: AR and TAR, here on the outputs of the last recurrent layer.
"""

import sys
from pathlib import Path

import jax.numpy as jnp
from jax import Array

from jaxrnn import BpttStream, Cell, CharLM, Hidden, Vocabulary, fit, gates_of, nll_loss_seq, sample

LARGE, FAST = 2.0, 1.0  # weights of the two penalties, as of AWD-LSTM


def step(carry: Hidden, x: Array, h: Array) -> Hidden:
    gate, candidate = gates_of(x + h, 2)
    kept = 1 / (1 + jnp.exp(-gate))
    return Hidden(kept * carry.h + (1 - kept) * jnp.tanh(candidate))


def penalized(outputs: Array, targets: Array, model: CharLM, hidden: Array) -> Array:
    """The mean loss of the targets, and the two penalties; hidden is (T, B, H)."""
    fast = jnp.square(hidden[1:] - hidden[:-1]).mean() if len(hidden) > 1 else 0.0
    return nll_loss_seq(outputs, targets) + LARGE * jnp.square(hidden).mean() + FAST * fast


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text()
    vocabulary = Vocabulary.from_documents([text])
    model = CharLM(vocabulary.size, 32, 128, cell=Cell("forgetful", ("f", "n"), step))
    source = BpttStream(vocabulary.encode(text), batch_size=16, bptt=32)
    state, history = fit(
        model, source, source, schedule="3 x 3e-3", loss=penalized, checkpoints="penalized"
    )
    print(sample(model, state.params, vocabulary, text[:20], 200))
