"""What is different about fresh weights? The parameters, and how they are distributed instead.

What is said of a parameter explains it: with it taken away, both start in the same way.
"""

import numpy as np
from scipy.special import ndtri

from parity.core.pairs import Pair
from parity.diagnosis.causes import Diagnosis, gate_names
from parity.measures.initialization import (
    jax_samples,
    ks_distance,
    same_distribution,
    torch_samples,
)

# The recurrent layers of every model: the first part of the names of their parameters.
RECURRENT = "rnn"


def diagnose_initialization(pair: Pair) -> Diagnosis | None:
    """The parameters that start differently, and how."""
    got = jax_samples(pair)
    expected = torch_samples(pair)
    wrong = [key for key in expected if not same_distribution(got[key], expected[key])]
    if not wrong:
        return None
    causes = dict.fromkeys(_start_words(pair, key, got[key], expected[key]) for key in wrong)
    return Diagnosis(f"the start of {', '.join(wrong)}", "; ".join(causes))


def _start_words(pair: Pair, key: str, got: np.ndarray, expected: np.ndarray) -> str:
    # How the samples of a parameter, (samples, ...), differ from PyTorch's.
    if np.ptp(expected, axis=0).max() == 0:
        if expected.ndim == 3 and np.array_equal(expected[0], np.eye(*expected.shape[1:])):
            return "it should be the identity matrix"
        return "it should be the same each time"
    # Words that explain the difference: with it taken away, there is none.
    law, words = _distribution(got)
    right_law, right_words = _distribution(expected)
    ratio = got.std() / expected.std()
    if law == right_law and ratio and same_distribution(got / ratio, expected):
        return f"it spreads {ratio:.2g} times as far as PyTorch's"
    shifted = _shifted_gates(pair, key, got, expected)
    return shifted or f"it is {words}, PyTorch's is {right_words}"


def _shifted_gates(pair: Pair, key: str, got: np.ndarray, expected: np.ndarray) -> str:
    # The gates of a recurrent layer whose rows have another mean, and nothing else.
    layer, _, _ = key.partition(".")
    if layer != RECURRENT or pair.stack is None:
        return ""
    gates = gate_names(pair.stack.cell)
    if expected.shape[1] % len(gates):
        return ""
    got_blocks = np.split(got, len(gates), axis=1)  # (samples, G * H, ...) to G times (..., H, ...)
    blocks = np.split(expected, len(gates), axis=1)
    shifted = []
    for gate, got_block, block in zip(gates, got_blocks, blocks, strict=True):
        if same_distribution(got_block, block):
            continue
        shift = float(got_block.mean() - block.mean())
        if not same_distribution(got_block - shift, block):
            return ""
        shifted.append(f"its mean is {shift:+.1f} in gate {gate}")
    return ", ".join(shifted)


def _distribution(values: np.ndarray) -> tuple[str, str]:
    # Which of the laws that parameters start with random numbers follow, and that in words.
    low = float(values.min())
    high = float(values.max())
    mean = float(values.mean())
    deviation = float(values.std())
    if low == high:
        return "constant", f"always {low:.3g}"
    # As many quantiles as there are values.
    shares = (np.arange(values.size) + 0.5) / values.size
    quantiles = {"normal": mean + deviation * ndtri(shares), "uniform": low + (high - low) * shares}
    distances = {law: ks_distance(values, array) for law, array in quantiles.items()}
    law = min(distances, key=lambda law: distances[law])
    words = {
        "normal": f"normal with deviation {deviation:.2g}",
        "uniform": f"uniform between {low:.2g} and {high:.2g}",
    }
    # The nearer of the two may still be another one.
    if not same_distribution(values, quantiles[law].reshape(values.shape)):
        return "", f"of mean {mean:.2g} and deviation {deviation:.2g}"
    return law, words[law]
