"""Results side by side: published, the mean over our seeds, PyTorch from the same starts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.exchange.files import read_tensors
from jaxrnn.reproduction.results import weights_path
from jaxrnn.reproduction.units import Framework, Unit

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """Validation losses over some seeds.

    Attributes:
        framework: that trained.
        seeds: which.
        mean: by epoch, nats per character.
        deviation: the standard deviation between seeds (of a sample); empty for one seed.
    """

    framework: Framework
    seeds: tuple[int, ...]
    mean: dict[int, float]
    deviation: dict[int, float]


@dataclass(frozen=True)
class Pair:
    """How far JAX and PyTorch end apart that started from the same weights.

    Attributes:
        seed: of the start.
        weights: the largest |ours - theirs|_2 / |theirs|_2 over all tensors.
        tensor: the tensor with that.
        validation: our validation loss less theirs, by epoch.
    """

    seed: int
    weights: float
    tensor: str
    validation: dict[int, float]

    @property
    def farthest(self) -> float:
        """The largest difference of the validation losses, either way."""
        return max(map(abs, self.validation.values()))


@dataclass(frozen=True)
class Summary:
    """All results of a recipe in one precision, with the same changes.

    Attributes:
        unit: one of them.
        published: validation losses that the course printed, by epoch.
        curves: ours and PyTorch's.
        pairs: where both started from the same weights.
    """

    unit: Unit
    published: dict[int, float]
    curves: tuple[Curve, ...]
    pairs: tuple[Pair, ...]


def summaries(results: Iterable[Result], folder: Path) -> list[Summary]:
    """Results, gathered by everything but seed and framework, in the order of first appearance.

    Args:
        results: as `read_result` gives them.
        folder: where the weights lie.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        unit = Unit.from_dict(result["unit"])
        groups.setdefault(replace(unit, framework="jax", seed=0).id, []).append(result)
    return [_summary(group, folder) for group in groups.values()]


def _summary(group: Sequence[Result], folder: Path) -> Summary:
    unit = Unit.from_dict(group[0]["unit"])
    by_framework: dict[Framework, dict[int, Result]] = {}
    for result in group:
        own = result["unit"]
        by_framework.setdefault(own["framework"], {})[own["seed"]] = result
    ours, theirs = (by_framework.get(name, {}) for name in ("jax", "torch"))
    return Summary(
        unit=unit,
        published=dict(unit.published),
        curves=tuple(_curve(name, found) for name, found in sorted(by_framework.items())),
        pairs=tuple(
            pair(folder, ours[seed], theirs[seed]) for seed in sorted(set(ours) & set(theirs))
        ),
    )


def _curve(framework: Framework, by_seed: Mapping[int, Result]) -> Curve:
    losses = np.array([list(by_seed[s]["validation"].values()) for s in sorted(by_seed)])
    several = len(losses) > 1
    deviations = losses.std(axis=0, ddof=1) if several else []
    return Curve(
        framework=framework,
        seeds=tuple(sorted(by_seed)),
        mean=dict(enumerate(losses.mean(axis=0).tolist(), 1)),
        deviation=dict(enumerate(np.asarray(deviations).tolist(), 1)),
    )


def pair(folder: Path, ours: Result, theirs: Result) -> Pair:
    """How far two results with the same start lie apart.

    Raises:
        TensorFileError: if the weights cannot be read.
    """
    units = [Unit.from_dict(result["unit"]) for result in (ours, theirs)]
    one, other = (read_tensors(weights_path(folder, unit)) for unit in units)
    assert one.keys() == other.keys()
    apart = {name: _distance(one[name], other[name]) for name in one}
    worst = max(apart, key=lambda name: apart[name])
    losses = {
        int(epoch): loss - theirs["validation"][epoch] for epoch, loss in ours["validation"].items()
    }
    return Pair(units[0].seed, apart[worst], worst, losses)


def _distance(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))
