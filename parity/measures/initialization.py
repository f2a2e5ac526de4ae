"""Initialization: fresh weights on either side come from the same distributions.

Random numbers never match across frameworks, so what is compared is the distribution of each
parameter's entries, pooled over some draws, by the two-sample Kolmogorov-Smirnov distance. A
parameter without randomness, such as an identity matrix, has to be the same exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity.core.bridge import numpy_of
from parity.core.compare import Comparison, Finding, Outcome
from parity.core.pairs import B, Pair, T
from parity.core.runners import torch_names

DRAWS = 32
ALPHA = 1e-9
"""The probability with which two equal distributions look different; seeds are fixed anyway."""


def initialization_findings(pair: Pair) -> list[Finding]:
    """One finding a parameter: the Kolmogorov-Smirnov distance and its limit."""
    what = Comparison(pair.name, "initialization", "float32")
    got, expected = jax_draws(pair), torch_draws(pair)
    return [_judged(what, key, got[key], expected[key]) for key in expected]


def jax_draws(pair: Pair) -> dict[str, np.ndarray]:
    """Fresh weights by torch's keys, (draws, ...)."""
    model = pair.model
    assert model is not None
    tokens = jnp.zeros((3 if model.reads == "trigrams" else T, B), jnp.int32)
    init = jax.jit(lambda key: model.init(key, model.initial_carry(B), tokens)["params"])
    trees = [torch_names(pair, init(jax.random.key(seed))) for seed in range(DRAWS)]
    return {key: np.stack([tree[key] for tree in trees]) for key in trees[0]}


def torch_draws(pair: Pair) -> dict[str, np.ndarray]:
    """The same of the reference."""
    trees = []
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        trees.append({k: numpy_of(t) for k, t in pair.module().state_dict().items()})
    return {key: np.stack([tree[key] for tree in trees]) for key in trees[0]}


def ks_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The largest distance between the empirical distribution functions of two samples."""
    x, y = np.sort(x.ravel()), np.sort(y.ravel())
    points = np.concatenate([x, y])
    shares = [np.searchsorted(sample, points, side="right") / sample.size for sample in (x, y)]
    return float(np.abs(shares[0] - shares[1]).max())


def _judged(what: Comparison, key: str, got: np.ndarray, expected: np.ndarray) -> Finding:
    distance, limit = _distance(got, expected)
    note = "" if limit else "the same in every draw"
    outcome = Outcome.PASS if distance <= limit else Outcome.FAIL
    return what.finding("G0", key, outcome, value=distance, limit=limit, note=note)


def same_distribution(got: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two parameters, (draws, ...), start in the same way."""
    distance, limit = _distance(got, expected)
    return distance <= limit


def _distance(got: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """How far two samples are apart, and how far they may be."""
    if np.ptp(expected, axis=0).max() == 0:
        return float(np.abs(got - expected).max()), 0.0
    return ks_distance(got, expected), _limit(expected.size)


def _limit(size: int) -> float:
    """The distance that two samples of `size` from one distribution exceed with chance ALPHA."""
    return float(np.sqrt(-np.log(ALPHA / 2) / size))
