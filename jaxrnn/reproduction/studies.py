"""What the course does not say, as units of work: recipes with one thing changed.

The other side of each comparison is the recipe as it is, in the main table, where none of the
units here has the unchanged value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxrnn.reproduction.units import Unit


@dataclass(frozen=True, kw_only=True)
class Study:
    """Some recipes, each with some changes.

    Attributes:
        question: what is to be found out.
        recipes: the recipes.
        changes: what is changed, one unit each.
        seeds: with how many seeds.
    """

    question: str
    recipes: Sequence[str]
    changes: Sequence[Mapping[str, Any]]
    seeds: int


STUDIES: dict[str, Study] = {
    "split": Study(
        question="How much of the loss on the random split is windows that share characters?",
        recipes=("loop", "concat", "rnn", "many-outputs", "identity"),
        changes=({"split": "contiguous"},),
        seeds=3,
    ),
    "carry": Study(
        question="What does it cost to start from zeros, each epoch or for each validation?",
        recipes=("stateful-rnn",),
        changes=({"carry": "epoch"}, {"carry": "evaluation"}),
        seeds=3,
    ),
    "bptt": Study(
        question="How far back must gradients flow, for the same number of characters?",
        recipes=("stateful-rnn",),
        changes=tuple(
            {"bptt": bptt, "random_bptt": False, "schedule": "4 x 1e-3"}
            for bptt in (4, 8, 16, 35, 70)
        ),
        seeds=2,
    ),
    "identity": Study(
        question="What does identity initialisation allow?",
        recipes=("identity",),
        changes=tuple(
            {"identity": identity, "schedule": f"4 x {rate}"}
            for rate in ("1e-2", "1e-3")
            for identity in (True, False)
        ),
        seeds=3,
    ),
    "beginning": Study(
        question="What would begin as the published LSTM did?",
        recipes=("stateful-lstm",),
        changes=(
            {"dropout": 0.25},
            {"dropout": 0.0},
            {"weight_decay": 0.0},
            {"hidden": 256},
            {"schedule": "2 x 5e-3"},
        ),
        seeds=2,
    ),
}
"""The studies by name. Windows of bptt 4 to 70 have fixed lengths, as random ones have at least 5,
so that each epoch of each reads the same characters."""


def study_units() -> list[Unit]:
    """The units of all studies."""
    return [
        Unit(recipe=recipe, seed=seed, changes=changes, study=name)
        for name, study in STUDIES.items()
        for recipe in study.recipes
        for changes in study.changes
        for seed in range(study.seeds)
    ]
