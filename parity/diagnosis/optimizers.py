"""The optimizers' equations with known deviations from PyTorch's, in plain NumPy.

When an optimizer moves the weights differently although it gets the same gradients, one of these
may be what it really computes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity.measures.training import Rule

Weights = dict[str, np.ndarray]
Options = Mapping[str, Any]

# What torch does if nothing else is asked for.
TORCH: Options = {
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "alpha": 0.99,
    "corrected": True,
    "corrected_in": "float64",
    "eps_at": "outside",
    "nesterov": False,
    "clip_eps": 1e-6,
    "clip_by": "norm",
    "clip_at": "gradient",
}

# What is different, in words, and the options that make it so.
Deviations = Sequence[tuple[str, Options]]

_ADAM: Deviations = (
    ("eps lies inside the root", {"eps_at": "inside"}),
    ("eps is added before the bias correction", {"eps_at": "before"}),
    ("there is no bias correction", {"corrected": False}),
    ("the bias correction is computed in float32", {"corrected_in": "float32"}),
    ("b2 is 0.99", {"b2": 0.99}),
    ("b1 is 0.99", {"b1": 0.99}),
    ("the weight decay is decoupled", {"decoupled": True}),
    ("the weight decay is coupled, as L2", {"decoupled": False}),
)
_SUM: Deviations = (
    ("the momentum is Nesterov's", {"nesterov": True}),
    ("there is no momentum", {"momentum": 0.0}),
    ("the weight decay is added behind the momentum", {"decoupled": True}),
)
_ANY: Deviations = (
    ("there is no weight decay", {"weight_decay": 0.0}),
    ("the epsilon of clipping is missing", {"clip_eps": 0.0}),
    ("every entry is clipped by itself", {"clip_by": "value"}),
    ("every parameter is clipped by itself", {"clip_by": "leaf"}),
    ("the direction is clipped in place of the gradient", {"clip_at": "direction"}),
    ("the update is clipped in place of the gradient", {"clip_at": "update"}),
    ("nothing is clipped", {"clip": None}),
)
# How each optimizer is known to be varied.
DEVIATIONS: dict[str, Deviations] = {
    "adam": (*_ADAM, *_ANY),
    "adamw": (*_ADAM, *_ANY),
    "sgd": (*_SUM, *_ANY),
    "rmsprop": (
        *_SUM,
        ("eps lies inside the root", {"eps_at": "inside"}),
        ("the decay of the squares is 0.9", {"alpha": 0.9}),
        *_ANY,
    ),
}


def variants(
    rule: Rule, weights: Mapping[str, np.ndarray], gradients: Sequence[Weights], rate: float
) -> Iterator[tuple[str, Weights]]:
    """The weights after the updates by torch's own rule, in empty words, and by every variant."""
    own = {**TORCH, "decoupled": rule.optimizer == "adamw", **dict(rule.options)}
    for words, changes in (("", {}), *DEVIATIONS[rule.optimizer]):
        yield words, replayed(rule.optimizer, {**own, **changes}, weights, gradients, rate)


def replayed(
    name: str,
    options: Options,
    weights: Mapping[str, np.ndarray],
    gradients: Sequence[Weights],
    rate: float,
) -> Weights:
    """The weights after one update for each of `gradients`."""
    direction_of = DIRECTIONS[name]
    after = {key: np.array(array) for key, array in weights.items()}
    first: dict[str, Any] = dict.fromkeys(after, 0.0)  # a scalar broadcasts
    second: dict[str, Any] = dict.fromkeys(after, 0.0)
    for count, gradient in enumerate(gradients, 1):
        directions: Weights = {}
        for key, g in _clipped(gradient, options, "gradient").items():
            decay = options.get("weight_decay", 0.0) * after[key]
            # Coupled decay is a part of the gradient, and so of the moments.
            if not options["decoupled"]:
                g = g + decay
            direction, first[key], second[key] = direction_of(
                options, g, first[key], second[key], count
            )
            if options["decoupled"]:
                direction = direction + decay
            directions[key] = direction
        directions = _clipped(directions, options, "direction")
        updates = {key: rate * direction for key, direction in directions.items()}
        for key, update in _clipped(updates, options, "update").items():
            after[key] = after[key] - update
    return after


def _clipped(gradient: Weights, options: Options, at: str) -> Weights:
    # What is clipped is the gradient, or by mistake what comes behind it.
    most = options.get("clip")
    if most is None or options["clip_at"] != at:
        return gradient
    if options["clip_by"] == "value":
        return {key: np.clip(g, -most, most) for key, g in gradient.items()}
    norms = {key: float(np.linalg.norm(g)) for key, g in gradient.items()}
    if options["clip_by"] == "norm":  # that of all gradients together, for each
        norms = dict.fromkeys(norms, float(np.linalg.norm(list(norms.values()))))
    eps = options["clip_eps"]
    return {key: g * min(1.0, most / (norms[key] + eps)) for key, g in gradient.items()}


def _adam(o: Options, g: Any, m: Any, v: Any, count: int) -> tuple[Any, Any, Any]:
    m = o["b1"] * m + (1 - o["b1"]) * g
    v = o["b2"] * v + (1 - o["b2"]) * g * g
    c1 = _correction(o, o["b1"], count)
    c2 = _correction(o, o["b2"], count)
    if o["eps_at"] == "inside":
        root = np.sqrt(v / c2 + o["eps"])
    elif o["eps_at"] == "before":
        root = (np.sqrt(v) + o["eps"]) / np.sqrt(c2)
    else:
        root = np.sqrt(v / c2) + o["eps"]
    mean = m / c1
    if o["nesterov"]:
        # As if the next gradient were this one: m a step ahead (Dozat, 2016, as optax has it).
        mean = o["b1"] * m / _correction(o, o["b1"], count + 1) + (1 - o["b1"]) * g / c1
    return mean / root, m, v


def _correction(o: Options, decay: float, count: int) -> float:
    # 1 - decay ** count, in the precision that is asked for.
    if not o["corrected"]:
        return 1.0
    kind = np.dtype(o["corrected_in"]).type
    return float(kind(1) - kind(decay) ** kind(count))


def _sgd(o: Options, g: Any, m: Any, v: Any, count: int) -> tuple[Any, Any, Any]:
    momentum = o.get("momentum", 0.0)
    m = momentum * m + g
    return (g + momentum * m if o["nesterov"] else m), m, v


def _rmsprop(o: Options, g: Any, m: Any, v: Any, count: int) -> tuple[Any, Any, Any]:
    v = o["alpha"] * v + (1 - o["alpha"]) * g * g
    inside = o["eps_at"] == "inside"
    root = np.sqrt(v + o["eps"]) if inside else np.sqrt(v) + o["eps"]
    direction, m, _ = _sgd(o, g / root, m, v, count)
    return direction, m, v


# (options, gradient, first moment, second moment, count) -> direction and both moments.
DIRECTIONS: dict[str, Any] = {"adam": _adam, "adamw": _adam, "sgd": _sgd, "rmsprop": _rmsprop}
