"""Everything that the page shows: gathered from the files of results, kept in `results.json`.

`results.json` beside the page holds exactly this, and the page is made from it alone.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jaxrnn.runs.recipes import RECIPES
from reproduction.results import (
    DAMAGED,
    Pair,
    Record,
    ResultError,
    are_losses,
    are_numbers,
    by_epoch,
    check,
    environment_of,
    is_number,
    pair,
    read_json,
    read_result,
)
from reproduction.units import Framework, Unit, study_units

FORMAT = 2
RESULTS = "results.json"
"""The file beside a page that has everything on it."""
HORIZON_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """How far two runs of a chaotic recipe are apart, step by step; see `reproduction.horizon`."""

    recipe: str  # what was trained
    dtype: str  # in which precision
    seed: int  # of the start
    limit: float  # relL2 of all weights above which runs count as apart
    steps: Sequence[int]  # after which weights were compared
    jax_torch: Sequence[float]  # relL2 of JAX's from PyTorch's
    # relL2 of PyTorch's from those of a start one unit in the last place off
    torch_ulp: Sequence[float]
    environment: Mapping[str, Any]  # where; see `Record`

    def __post_init__(self) -> None:
        Unit(recipe=self.recipe, dtype=self.dtype, seed=self.seed)  # type: ignore[arg-type]
        check(vars(self), is_number, "limit")
        check(vars(self), are_numbers, "steps", "jax_torch", "torch_ulp")
        count = len(self.steps)
        check(vars(self), lambda found: 0 < len(found) == count, "steps", "jax_torch", "torch_ulp")

    def first_apart(self, distances: Sequence[float]) -> int | None:
        """The place, among the steps, of the first distance above the limit, if any is."""
        above = (place for place, distance in enumerate(distances) if distance > self.limit)
        return next(above, None)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything on the page."""

    records: Sequence[Record]  # the finished units, recipes in the course's order, then the studies
    pairs: Sequence[Pair]  # how far JAX and PyTorch are apart, of the recipes as they are
    horizons: Sequence[Horizon]  # the predictability horizons

    @property
    def environments(self) -> list[Mapping[str, Any]]:
        """Where each record and each horizon was found."""
        of_horizons = [horizon.environment for horizon in self.horizons]
        return [record.environment for record in self.records] + of_horizons

    def of(
        self, recipe: str, framework: Framework = "jax", *, dtype: str = "float32", study: str = ""
    ) -> list[Record]:
        """The records of a recipe, by seed."""
        wanted = (recipe, framework, dtype, study)
        found = []
        for record in self.records:
            unit = record.unit
            if (unit.recipe, unit.framework, unit.dtype, unit.study) == wanted:
                found.append(record)
        return found

    def of_study(self, study: str, recipe: str, changes: Mapping[str, Any]) -> list[Record]:
        """The records of a recipe with the changes of a study, by seed."""
        return [r for r in self.of(recipe, study=study) if r.unit.changes == changes]

    def to_json(self) -> str:
        """The text of `results.json`: a line for each record."""
        places: list[Mapping[str, Any]] = []
        for place in self.environments:
            if place not in places:
                places.append(place)
        parts: dict[str, list[Any]] = {
            "environments": places,
            "units": [record.unit.to_dict() | _fields(record, places) for record in self.records],
            "starts": [vars(pair) for pair in self.pairs],
            "horizons": [_fields(horizon, places) for horizon in self.horizons],
        }
        lists = [f'"format": {FORMAT}']
        for name, values in parts.items():
            lines = ",\n".join(json.dumps(value, allow_nan=False) for value in values)
            lists.append(f'"{name}": [{lines}]')
        return "{" + ",\n".join(lists) + "}\n"

    @classmethod
    def of_json(cls, found: Any) -> "Findings":
        """The findings from what `to_json` wrote, as it is read."""
        for values in (*found["units"], *found["horizons"]):
            values["environment"] = found["environments"][values["environment"]]
        for values in found["starts"]:
            values["validation"] = by_epoch(values["validation"])
        findings = cls(
            records=[_to_record(values) for values in found["units"]],
            pairs=[Pair(**values) for values in found["starts"]],
            horizons=[Horizon(**values) for values in found["horizons"]],
        )
        check(found, bool, "units")
        for start in findings.pairs:
            records = findings.of(start.recipe, dtype=start.dtype)
            check({"starts": records}, bool, "starts")
            check(vars(start), partial(are_losses, records[0].unit), "validation")
        return findings


def _fields(found: Record | Horizon, places: Sequence[Any]) -> dict[str, Any]:
    """The fields of a record or a horizon, with the number of its environment."""
    fields = {name: value for name, value in vars(found).items() if name != "unit"}
    return fields | {"environment": places.index(found.environment)}


def _to_record(values: dict[str, Any]) -> Record:
    unit = Unit.from_dict({name: values.pop(name) for name in Unit.__dataclass_fields__})
    values |= {name: by_epoch(values[name]) for name in ("train", "validation")}
    values["norms"] = [(step, norm) for step, norm in values["norms"]]
    return Record(unit=unit, **values)


def gather(folder: Path) -> Findings:
    """What is finished in a folder, but for units with changes that belong to no study.

    The folder of a page will do: what the page was made from is in its `results.json`.

    Raises:
        ResultError: if a file is damaged.
        TensorFileError: if the weights of a pair cannot be read.
        ValueError: if nothing is finished.
    """
    results = [read_result(path) for path in sorted(folder.glob("*_seed*.json"))]
    places = _places()
    records = [record for record in results if _name(record.unit) in places]
    if not records:
        return of_page(folder / RESULTS)
    horizons = [_horizon(path) for path in sorted(folder.glob("horizon-*.json"))]
    return arranged(records, pairs_of(records, folder), horizons)


def of_page(path: Path) -> Findings:
    """The findings that a page was made from."""
    if not os.path.lexists(path):
        raise ValueError(f"Nothing is finished in {path.parent}: there is no page to make yet.")
    try:
        return Findings.of_json(read_json(path, FORMAT))
    except DAMAGED as error:
        raise ResultError(f"{path} is damaged: {error!s:.300}") from error


def arranged(
    records: Iterable[Record], pairs: Iterable[Pair], horizons: Iterable[Horizon]
) -> Findings:
    """Findings in the order of the page; of what is there twice, the last."""
    places = _places()
    recipes = list(RECIPES)

    def place_of(record: Record) -> tuple[int, str, str, int]:
        unit = record.unit
        return places[_name(unit)], unit.dtype, unit.framework, unit.seed

    by_unit = {record.unit.id: record for record in records if _name(record.unit) in places}
    by_start = {(recipes.index(p.recipe), p.dtype, p.seed): p for p in pairs}
    by_recipe = {(horizon.recipe, horizon.dtype): horizon for horizon in horizons}
    return Findings(
        records=sorted(by_unit.values(), key=place_of),
        pairs=[by_start[key] for key in sorted(by_start)],
        horizons=[by_recipe[key] for key in sorted(by_recipe)],
    )


def _places() -> dict[str, int]:
    """The place on the page of each recipe as it is, and of each of a study's changes."""
    recipes = [Unit(recipe=recipe) for recipe in RECIPES]
    names = dict.fromkeys(map(_name, [*recipes, *study_units()]))
    return {name: place for place, name in enumerate(names)}


def _name(unit: Unit) -> str:
    return json.dumps([unit.study, unit.recipe, unit.changes], sort_keys=True)


def pairs_of(records: Iterable[Record], folder: Path) -> list[Pair]:
    """How far JAX and PyTorch are apart where both have trained a unit."""
    by_id = {record.unit.id: record for record in records}
    pairs = []
    for record in by_id.values():
        theirs = by_id.get(replace(record.unit, framework="torch").id)
        if record.unit.framework == "jax" and theirs is not None:
            pairs.append(pair(folder, record, theirs))
    return pairs


def _horizon(path: Path) -> Horizon:
    names = Horizon.__dataclass_fields__.keys() - {"environment"}
    try:
        found = read_json(path, HORIZON_FORMAT)
        return Horizon(**{n: found[n] for n in names}, environment=environment_of(found))
    except DAMAGED as error:
        message = f"{path} is damaged: {error!s:.300} Remove it, and run `horizon` again."
        raise ResultError(message) from error
