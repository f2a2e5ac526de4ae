"""What is trained: units of work, each a recipe trained once by one framework, and the studies.

A study is what the course does not say: recipes with one thing changed. The other side of each
comparison is the recipe as it is.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from jaxrnn.checks import check_seed
from jaxrnn.runs.config import EARLIER_NAMES, Config
from jaxrnn.runs.recipes import RECIPES
from jaxrnn.training.schedules import parse_schedule

Framework = Literal["jax", "torch"]
Dtype = Literal["float32", "float64"]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What to train, once."""

    recipe: str  # the recipe's name
    # "jax" is this library; "torch" its twin in PyTorch, from the same weights
    framework: Framework = "jax"
    dtype: Dtype = "float32"  # the precision of everything that is computed
    seed: int = 0  # of the initial weights, the windows and the dropout masks
    # fields of the recipe's configuration that have other values
    changes: Mapping[str, Any] = field(default_factory=dict)
    study: str = ""  # what the unit belongs to, if not to the table of the recipes

    def __post_init__(self) -> None:
        check_recipe(self.recipe)
        for name, kind in (("framework", Framework), ("dtype", Dtype)):
            if getattr(self, name) not in get_args(kind):
                named = " or ".join(get_args(kind))
                raise ValueError(f"{name} must be {named}, got {getattr(self, name)!r:.60}.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ValueError(f"seed must be a whole number, got {self.seed!r:.60}.")
        check_seed(self.seed)
        if not re.fullmatch("[a-z0-9-]{0,40}", self.study):
            raise ValueError(f"study has up to 40 of a-z, 0-9 and '-', got {self.study!r:.60}.")
        # Results of earlier versions have the sizes by the names that they had then.
        changes = {EARLIER_NAMES.get(name, name): value for name, value in self.changes.items()}
        known = {f.name for f in fields(Config)} - {"seed"}  # a unit has its own
        if unknown := sorted(set(changes) - known):
            raise ValueError(f"A configuration has no {', '.join(unknown)} to change.")
        object.__setattr__(self, "changes", changes)
        _ = self.config  # refuses values that do not fit

    @property
    def id(self) -> str:
        """A name for its files: the same for the same unit, another for another one."""
        parts = [self.study, self.recipe, self.framework, self.dtype, f"seed{self.seed}"]
        if self.changes:
            # By the names of the first version: results that there are keep their files.
            first = {new: old for old, new in EARLIER_NAMES.items()}
            named = {first.get(name, name): value for name, value in self.changes.items()}
            text = json.dumps(named, sort_keys=True)
            parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
        return "_".join(part for part in parts if part)

    @property
    def published(self) -> Mapping[int, float]:
        """The validation losses that the course published, by epoch; none of a changed recipe."""
        return {} if self.changes else RECIPES[self.recipe].validation

    @property
    def config(self) -> Config:
        """The configuration to train."""
        return replace(RECIPES[self.recipe].config, **self.changes, seed=self.seed)

    @property
    def epochs(self) -> int:
        """How many epochs it is trained."""
        return parse_schedule(self.config.schedule).epochs

    @property
    def first_rate(self) -> float:
        """The learning rate of the first step of the recipe, unchanged."""
        schedule = parse_schedule(RECIPES[self.recipe].config.schedule)
        return float(schedule.phase(0)[0].rates(np.zeros(1), 1)[0])

    @property
    def title(self) -> str:
        """The unit in a few words."""
        changes = ", ".join(f"{name} {value}" for name, value in self.changes.items())
        words = [self.recipe, self.framework, self.dtype, f"seed {self.seed}", changes]
        return " ".join(word for word in words if word)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "Unit":
        """A unit from its fields; fields that are unknown or missing are an error."""
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"A unit has the fields {', '.join(sorted(names))}, got {values!r}.")
        if not isinstance(values["changes"], dict) or not isinstance(values["study"], str):
            raise ValueError("changes of a unit must be an object, and its study a string.")
        return cls(**values)


def check_recipe(name: Any) -> None:
    """Refuse what is no recipe's name."""
    if not isinstance(name, str) or name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r:.60}: take one of {', '.join(RECIPES)}.")


class Study(NamedTuple):
    """Some recipes, each with some changes."""

    recipes: Sequence[str]  # the recipes
    changes: Sequence[Mapping[str, Any]]  # what is changed, one unit each
    seeds: int  # with how many seeds


SPLIT = ({"split": "contiguous"},)
CARRY = ({"carry": "epoch"}, {"carry": "evaluation"})
# Fixed lengths, as random ones are at least 5: each epoch of each reads the same characters.
BPTT = [{"bptt": bptt, "random_bptt": False, "schedule": "4 x 1e-3"} for bptt in (4, 8, 16, 35, 70)]
IDENTITY = [
    {"identity": identity, "schedule": f"4 x {rate}"}
    for rate in ("1e-2", "1e-3")
    for identity in (True, False)
]
BEGINNING = (
    {"dropout": 0.25},
    {"dropout": 0.0},
    {"weight_decay": 0.0},
    {"hidden_size": 256},
    {"schedule": "2 x 5e-3"},
)
# Each with as many parameters as the recipe, to 3 %.
CELL = (
    {"cell": "gru", "num_layers": 1, "hidden_size": 256},
    {"cell": "lstm", "num_layers": 1, "hidden_size": 220},
)
STUDIES = {
    "split": Study(("loop", "concat", "rnn", "many-outputs", "identity"), SPLIT, seeds=3),
    "carry": Study(("stateful-rnn",), CARRY, seeds=3),
    "bptt": Study(("stateful-rnn",), BPTT, seeds=2),
    "identity": Study(("identity",), IDENTITY, seeds=3),
    "beginning": Study(("stateful-lstm",), BEGINNING, seeds=2),
    "cell": Study(("stateful-qrnn",), CELL, seeds=2),
}
"""The studies by name; `page.md.jinja` has the question of each."""


def study_units() -> list[Unit]:
    """The units of all studies."""
    return [
        Unit(recipe=recipe, seed=seed, changes=changes, study=name)
        for name, study in STUDIES.items()
        for recipe in study.recipes
        for changes in study.changes
        for seed in range(study.seeds)
    ]
