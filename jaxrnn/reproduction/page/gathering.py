"""From the folder of the results to what the page is made from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrnn.files import damage, read_regular
from jaxrnn.reproduction.comparison import pair
from jaxrnn.reproduction.page.records import (
    Environment,
    Findings,
    Horizon,
    Record,
    Start,
    by_epoch,
)
from jaxrnn.reproduction.results import (
    DAMAGED,
    LARGEST_RESULT,
    ResultError,
    all_results,
    read_file,
    result_path,
)
from jaxrnn.reproduction.studies import study_units
from jaxrnn.reproduction.units import Unit
from jaxrnn.runs.recipes import RECIPES

RESULTS = "results.json"
"""The file beside a page that has everything on it."""
HORIZON_FORMAT = 1
DIGITS = 4
"""Of the gradient norms, which only a figure shows."""
WITH_NORMS = "identity"
"""The study of which the page shows the gradient norm."""

Result = Mapping[str, Any]


def gather(folder: Path) -> Findings:
    """What is finished in a folder, but for units with changes that belong to no study.

    The folder of a page will do: what the page was made from is in its `results.json`.

    Raises:
        ResultError: if a file is damaged.
        TensorFileError: if the weights of a pair cannot be read.
        ValueError: if nothing is finished.
    """
    order = _order()
    results = [r for r in all_results(folder) if _key(r) in order]
    results.sort(key=lambda r: (order[_key(r)], *_variant(r["unit"])))
    if not results:
        return of_page(folder / RESULTS)
    return Findings(
        records=[_checked_record(result, folder) for result in results],
        starts=_starts(results, folder),
        horizons=[_horizon(path) for path in sorted(folder.glob("horizon-*.json"))],
    )


def joined(older: Findings, newer: Findings) -> Findings:
    """All of both; where both have the same unit, pair or horizon, the newer one."""
    order = _order()
    records = {record.unit.id: record for record in (*older.records, *newer.records)}
    known = [record for record in records.values() if _name(record.unit) in order]
    starts = {_start_key(start): start for start in (*older.starts, *newer.starts)}
    horizons = {(h.recipe, h.dtype): h for h in (*older.horizons, *newer.horizons)}
    return Findings(
        records=sorted(known, key=lambda r: (order[_name(r.unit)], *_variant(r.unit.to_dict()))),
        starts=[starts[key] for key in sorted(starts)],
        horizons=[horizons[key] for key in sorted(horizons)],
    )


def _start_key(start: Start) -> tuple[int, str, int]:
    return list(RECIPES).index(start.recipe), start.dtype, start.pair.seed


def of_page(path: Path) -> Findings:
    """The findings that a page was made from."""
    try:
        data = read_regular(path, at_most=LARGEST_RESULT)
    except FileNotFoundError:
        message = f"Nothing is finished in {path.parent}: there is no page to make yet."
        raise ValueError(message) from None
    except OSError as error:
        raise ResultError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        return Findings.from_json(data)
    except DAMAGED as error:
        raise ResultError(f"{path} is damaged: {damage(error)}.") from error


def _order() -> dict[str, int]:
    """The place on the page of each recipe as it is, and of each of a study's changes."""
    recipes = [Unit(recipe=recipe) for recipe in RECIPES]
    units = [*recipes, *study_units()]
    return {key: place for place, key in enumerate(dict.fromkeys(map(_name, units)))}


def _key(result: Result) -> str:
    return _name(Unit.from_dict(result["unit"]))


def _name(unit: Unit) -> str:
    return json.dumps([unit.study, unit.recipe, unit.changes], sort_keys=True)


def _variant(unit: Mapping[str, Any]) -> tuple[str, str, int]:
    return unit["dtype"], unit["framework"], unit["seed"]


def _checked_record(result: Result, folder: Path) -> Record:
    """The record of a result.

    Raises:
        ResultError: if a value of it is of another kind.
    """
    try:
        return _record(result)
    except DAMAGED as error:
        path = result_path(folder, Unit.from_dict(result["unit"]))
        message = f"{path} is damaged: {damage(error)}. Remove it to train again."
        raise ResultError(message) from error


def _record(result: Result) -> Record:
    unit, samples = Unit.from_dict(result["unit"]), result["samples"]
    shown = result["rows"] if unit.study == WITH_NORMS else ()
    return Record(
        unit=unit,
        train=by_epoch(result["train"]),
        validation=by_epoch(result["validation"]),
        steps=result["rows"][-1]["step"],
        seconds=result["seconds"],
        norms=[(row["step"], _short(row["gradient_norm"])) for row in shown],
        flow=[list(map(_short, norms)) for norms in result["flow"]],
        shared=result["shared"],
        sample=(samples[0]["greedy"] or samples[0]["sampled"]) if samples else "",
        answers={answer["prompt"]: answer["next"] for answer in result["next"]},
        corpus_sha256=result["corpus_sha256"],
        environment=_environment(result),
        date=result["date"],
    )


def _environment(found: Mapping[str, Any]) -> Environment:
    machine = found["machine"]
    return Environment(cpu=machine["cpu"], cores=machine["cores"], versions=found["versions"])


def _starts(results: Sequence[Result], folder: Path) -> list[Start]:
    """The pairs of recipes as they are; of each precision, by seed."""
    unchanged = [result for result in results if not result["unit"]["study"]]
    theirs = {_twin_key(r): r for r in unchanged if r["unit"]["framework"] == "torch"}
    return [
        Start(
            recipe=ours["unit"]["recipe"],
            dtype=ours["unit"]["dtype"],
            pair=pair(folder, ours, theirs[_twin_key(ours)]),
        )
        for ours in unchanged
        if ours["unit"]["framework"] == "jax" and _twin_key(ours) in theirs
    ]


def _twin_key(result: Result) -> tuple[str, str, int]:
    unit = result["unit"]
    return unit["recipe"], unit["dtype"], unit["seed"]


def _horizon(path: Path) -> Horizon:
    try:
        found = read_file(path)
        if found["format"] != HORIZON_FORMAT:
            raise ValueError(f"it is of format {found['format']}, not {HORIZON_FORMAT}")
        return Horizon(
            recipe=found["recipe"],
            dtype=found["dtype"],
            seed=found["seed"],
            limit=found["limit"],
            steps=found["steps"],
            jax_torch=found["jax_torch"],
            torch_ulp=found["torch_ulp"],
            environment=_environment(found),
        )
    except (*DAMAGED, FileNotFoundError) as error:
        message = f"{path} is damaged: {damage(error)}. Remove it, and run parity horizon again."
        raise ResultError(message) from error


def _short(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
