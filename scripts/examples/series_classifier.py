"""Series of numbers of different length in two classes: waves, and waves with noise.

$ .venv/bin/python scripts/examples/series_classifier.py
"""

import flax.linen as nn
import jax
import numpy as np

from jaxrnn import RNN, Cell, Hidden, Sequences, dense, fit_sequences, predict_sequences, save

LEAKY = Cell(
    "leaky", ("h",), lambda carry, x, h: Hidden(carry.h + 0.2 * (nn.relu(x + h) - carry.h))
)


class Classifier(nn.Module):
    """Two layers, and a number for each class from what a series ends with."""

    @nn.compact
    def __call__(self, xs: jax.Array, *, lengths: jax.Array) -> jax.Array:
        carry, _ = RNN(LEAKY, 32, num_layers=2)(None, xs, lengths=lengths)  # xs (T, B, 1)
        return dense(2, 32)(carry[-1].h)  # (B, 2)


def series(count: int, seed: int) -> Sequences:
    """Waves of 20 to 40 steps; every second one has noise on it."""
    rng = np.random.default_rng(seed)
    noisy = np.arange(count) % 2
    phase, noise = rng.uniform(0, 6, (count, 1)), rng.normal(0, 0.5, (count, 40))
    waves = np.sin(0.5 * np.arange(40) + phase) + noisy[:, None] * noise  # (N, T)
    return Sequences(waves[:, :, None], noisy, rng.integers(20, 41, count), batch_size=32)


if __name__ == "__main__":
    model, test = Classifier(), series(200, seed=1)
    state, rows = fit_sequences(model, series(800, 0), loss="cross_entropy", schedule="15 x 1e-2")
    right = predict_sequences(model, state.params, test).argmax(-1) == test.targets
    print(f"loss {rows[-1].train:.3f}; {right.mean():.0%} of {len(test)} new series are right")
    save("classifier.safetensors", state)
