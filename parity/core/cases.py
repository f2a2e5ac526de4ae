"""The cases that are compared: weights and inputs that a precision can hold, and their results."""

from collections.abc import Sequence

import numpy as np

from parity.core.bridge import is_float, rounded
from parity.core.compare import Arrays
from parity.core.pairs import Pair
from parity.core.runners import Results, Side, draw_weights


def draw_case(
    pair: Pair, seed: int, dtype: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights and inputs that the precision can hold; in float64, those of float32."""
    rng = np.random.default_rng(seed)
    stored = "float32" if dtype == "float64" else dtype
    weights = {key: rounded(array, stored) for key, array in draw_weights(pair, rng).items()}
    inputs = {
        name: rounded(array, stored) if is_float(array) else array
        for name, array in pair.draw(rng).items()
    }
    return weights, inputs


def pooled(side: Side, cases: Sequence[tuple[Arrays, Arrays]]) -> Results:
    """A side's results on all cases, each array with a leading axis for the cases."""
    results = [side(weights, inputs) for weights, inputs in cases]
    return {
        check: {name: np.stack([r[check][name] for r in results]) for name in arrays}
        for check, arrays in results[0].items()
    }
