"""Units in processes of their own, before the user's eyes; see `jaxrnn.runs.jobs`."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from jaxrnn.runs.jobs import Job, finish_jobs, introduction
from jaxrnn.runs.run import RunError
from jaxrnn.terminal import Screen, stop_requests
from reproduction.findings import RESULTS, of_page
from reproduction.results import Record, ResultError, read_record
from reproduction.units import Unit

FUNCTION = "reproduction.training:run_job"
"""What a process calls."""
PAGE = Path(__file__).parent / RESULTS
"""What has been measured before, by which the time of a unit is guessed."""
SECONDS_AN_EPOCH = 30.0
"""Of a recipe that has not been measured."""
SECONDS_TO_START = 6.0


class Finished(NamedTuple):
    """What became of some units: records and errors by the unit's id."""

    records: dict[str, Record]
    failures: dict[str, str]
    signal: int  # by which a stop was asked for, or 0


def reproduce(units: Sequence[Unit], folder: Path, jobs: int) -> Finished:
    """Run the units whose results are not in the folder yet: a bar over all, a line for each.

    Args:
        units: what to train.
        folder: of the results; it is made if it is not there.
        jobs: processes at once, at the most.

    Raises:
        RunError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot make {folder}: {error.strerror}.") from error
    by_id = {unit.id: unit for unit in units}
    records: dict[str, Record] = {}
    with Screen() as screen, stop_requests() as stopping:
        for unit in units:
            try:
                record = read_record(folder, unit)
            except ResultError as error:
                screen.notice(f"{error} It is trained again now.")
                continue
            if record is not None:
                records[unit.id] = record
        waiting = [_job(unit, folder) for unit in units if unit.id not in records]
        if waiting:
            screen.line(introduction(waiting, len(units), jobs))

        def on_done(job: Job) -> None:
            record = read_record(folder, by_id[job.id])
            assert record is not None
            records[job.id] = record
            screen.line(result_line(record))

        failures = finish_jobs(FUNCTION, waiting, jobs, stopping, screen=screen, on_done=on_done)
        return Finished(records, failures, stopping())


def _job(unit: Unit, folder: Path) -> Job:
    arguments = {"unit": unit.to_dict(), "folder": str(folder)}
    return Job(unit.id, unit.title, arguments, expected_seconds(unit))


def result_line(record: Record) -> str:
    """What a unit came to, in a line."""
    unit = record.unit
    published = unit.published.get(unit.epochs)
    beside = ""
    if published is not None:
        beside = f"  published {published:.3f}  {record.last - published:+.3f}"
    return f"{unit.title}: validation {record.last:.4f}{beside}  {record.seconds:.0f} s"


def expected_seconds(unit: Unit) -> float:
    """About how long a unit takes on one core: as its recipe did for the page of the results."""
    known = _seconds_per_epoch()
    of_ours = known.get((unit.recipe, "jax"), SECONDS_AN_EPOCH)
    each = known.get((unit.recipe, unit.framework), of_ours)
    factor = 2.0 if unit.dtype == "float64" else 1.0
    return SECONDS_TO_START + factor * each * unit.epochs


@lru_cache
def _seconds_per_epoch() -> dict[tuple[str, str], float]:
    """Measured seconds, by recipe and framework."""
    if not PAGE.is_file():
        return {}
    usual = [r for r in of_page(PAGE).records if not r.unit.study and r.unit.dtype == "float32"]
    return {(r.unit.recipe, r.unit.framework): r.seconds / r.unit.epochs for r in usual}
