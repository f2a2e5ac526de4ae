"""Initialization: fresh weights in both frameworks come from the same distributions.

Random numbers never match across frameworks, so what is compared is the distribution of each
parameter's entries, pooled over some seeds, by the two-sample Kolmogorov-Smirnov distance. A
parameter without randomness, such as an identity matrix, has to be the same exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity.core.bridge import numpy_arrays
from parity.core.compare import Comparison, Finding, Outcome
from parity.core.pairs import B, Pair, T
from parity.core.runners import torch_names

# Number of seeds that are pooled.
SEEDS = 32
# The probability with which two equal distributions look different; seeds are fixed anyway.
ALPHA = 1e-9


def initialization_findings(pair: Pair) -> list[Finding]:
    """One finding a parameter: the Kolmogorov-Smirnov distance and its limit."""
    what = Comparison(pair.name, "initialization", "float32")
    got = jax_samples(pair)
    findings = []
    for key, expected in torch_samples(pair).items():
        distance, limit = _distance(got[key], expected)
        outcome = Outcome.PASS if distance <= limit else Outcome.FAIL
        note = "" if limit else "the same for every seed"
        findings.append(what.finding("C0", key, outcome, value=distance, limit=limit, note=note))
    return findings


def jax_samples(pair: Pair) -> dict[str, np.ndarray]:
    """Fresh weights by torch's keys, (seeds, ...)."""
    model = pair.model
    assert model is not None
    steps = 3 if model.reads == "trigrams" else T
    tokens = jnp.zeros((steps, B), jnp.int32)
    # Compiled once for all seeds.
    init = jax.jit(lambda key: model.init(key, model.initial_carry(B), tokens)["params"])
    return _stacked([torch_names(pair, init(jax.random.key(seed))) for seed in range(SEEDS)])


def torch_samples(pair: Pair) -> dict[str, np.ndarray]:
    """The same of the reference."""
    samples = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        samples.append(numpy_arrays(pair.module().state_dict()))
    return _stacked(samples)


def _stacked(samples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def ks_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The largest distance between the empirical distribution functions of two samples."""
    x = np.sort(x.ravel())
    y = np.sort(y.ravel())
    # Both functions are steps, so the largest distance lies at one of the points.
    points = np.concatenate([x, y])
    share_of_x = np.searchsorted(x, points, side="right") / x.size
    share_of_y = np.searchsorted(y, points, side="right") / y.size
    return float(np.abs(share_of_x - share_of_y).max())


def same_distribution(got: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two parameters, (seeds, ...), start in the same way."""
    distance, limit = _distance(got, expected)
    return distance <= limit


def _distance(got: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    # The distance of two samples, and the largest that passes.
    # The same for every seed: nothing random.
    if np.ptp(expected, axis=0).max() == 0:
        return float(np.abs(got - expected).max()), 0.0
    # Two samples from one distribution exceed this with probability ALPHA.
    limit = float(np.sqrt(-np.log(ALPHA / 2) / expected.size))
    return ks_distance(got, expected), limit
