"""The cases that are compared: weights and inputs that a precision can hold, and their results."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from parity.core.bridge import is_float, rounded
from parity.core.pairs import Pair
from parity.core.runners import Results, Runner


class Case(NamedTuple):
    """What both frameworks compute from: weights by PyTorch's keys, and inputs by name."""

    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]


def sample_case(pair: Pair, seed: int, dtype: str) -> Case:
    """Weights and inputs that the precision can hold; in float64, those of float32."""
    rng = np.random.default_rng(seed)
    # What float32 can hold is exact in float64, too: there is one case for both.
    stored = "float32" if dtype == "float64" else dtype
    weights = {key: rounded(array, stored) for key, array in sample_weights(pair, rng).items()}
    inputs = dict(pair.sample_inputs(rng))
    for name, array in inputs.items():
        if is_float(array):
            inputs[name] = rounded(array, stored)
    return Case(weights, inputs)


def sample_weights(pair: Pair, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights for a comparison: no bias is zero, and the gates leave their linear range.

    Matrices are uniform in +-2 / sqrt(fan in), tables of an embedding in +-1.5, vectors in +-0.5
    around their middle.
    """
    weights: dict[str, np.ndarray] = {}
    first_keys: dict[Any, str] = {}
    for key, tensor in pair.module().state_dict().items():
        # Tied weights are one tensor under several keys.
        first = first_keys.setdefault((tensor.data_ptr(), tensor.shape), key)
        if first != key and tensor.numel():
            weights[key] = weights[first]
            continue
        shape = tuple(tensor.shape)
        # Vectors, embedding tables, matrices.
        if len(shape) < 2:
            bound = 0.5
        elif key == "e.weight":
            bound = 1.5
        else:
            bound = 2 / np.sqrt(shape[-1])
        weights[key] = _middle(key) + rng.uniform(-bound, bound, shape)
    return weights


# Running variances are positive, gains and the decays of linear recurrent units near 1.
MIDDLES = {
    "running_var": 0.75,
    "gain_ih": 1.0,
    "gain_hh": 1.0,
    "gain_c": 1.0,
    "lam": -4.0,
    "nu": -3.0,
}


def _middle(key: str) -> float:
    # Around which value a parameter is sampled; "lam" is called "rnn.lam_l0" in a stack.
    name = key.rpartition(".")[2]
    return MIDDLES.get(name.partition("_l")[0], 0.0)


def pooled(run: Runner, cases: Sequence[Case]) -> Results:
    """A runner's results on all cases, each array with a leading axis for the cases."""
    # Case by case: all have the same shapes, so one compiled program serves them.
    results = [run(case.weights, case.inputs) for case in cases]
    together: Results = {}
    for quantity, arrays in results[0].items():
        together[quantity] = {
            name: np.stack([result[quantity][name] for result in results]) for name in arrays
        }
    return together
