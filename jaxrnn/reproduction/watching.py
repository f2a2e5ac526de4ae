"""Run units before the user's eyes: one bar over all of them, a line for each that is done."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrnn.reproduction.processes import Event, run_all
from jaxrnn.reproduction.results import ResultError, read_result
from jaxrnn.reproduction.units import Unit
from jaxrnn.reproduction.work import expected_seconds
from jaxrnn.runs.run import RunError
from jaxrnn.terminal import Screen, stop_requests


class Outcome(NamedTuple):
    """What became of some units.

    Attributes:
        results: of those that are done, by the unit's id.
        failures: the others' errors, by the unit's id.
        signal: by which signal a stop was asked for, or 0.
    """

    results: dict[str, dict[str, Any]]
    failures: dict[str, str]
    signal: int


def reproduce(units: Sequence[Unit], folder: Path, jobs: int) -> Outcome:
    """Run the units whose results are not in the folder yet.

    Args:
        units: what to train.
        folder: of the results; it is made if it is not there.
        jobs: processes at once, at the most.

    Raises:
        ValueError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot make {folder}: {error.strerror}.") from error
    outcome = Outcome({}, {}, 0)
    with Screen() as screen, stop_requests() as stopping:
        waiting = [unit for unit in units if not _is_done(unit, folder, outcome, screen)]
        waiting.sort(key=expected_seconds, reverse=True)  # so that all processes end together
        if waiting:
            screen.line(_introduction(waiting, len(units), jobs))
        board = _Board(screen, waiting)
        for event in run_all(waiting, folder, jobs, stopping):
            board.see(event)
            if event.error:
                outcome.failures[event.unit.id] = event.error
            elif event.ended and not event.stopped:
                result = read_result(folder, event.unit)
                assert result is not None
                outcome.results[event.unit.id] = result
                screen.line(result_line(event.unit, result))
        return outcome._replace(signal=stopping())


def result_line(unit: Unit, result: Mapping[str, Any]) -> str:
    """What a unit came to, in a line."""
    epoch, ours = len(result["validation"]), list(result["validation"].values())[-1]
    published = unit.published.get(epoch)
    beside = "" if published is None else f"  published {published:.3f}  {ours - published:+.3f}"
    return f"{unit.title}: validation {ours:.4f}{beside}  {result['seconds']:.0f} s"


def _introduction(waiting: Sequence[Unit], count: int, jobs: int) -> str:
    minutes = sum(map(expected_seconds, waiting)) / jobs / 60
    about = f"about {minutes:.0f} minutes" if minutes >= 1.5 else "about a minute"
    processes = min(jobs, len(waiting))
    where = f"{processes} processes" if processes > 1 else "one process"
    return f"{len(waiting)} of {count} trainings are to be done: {about} in {where}."


def _is_done(unit: Unit, folder: Path, outcome: Outcome, screen: Screen) -> bool:
    try:
        result = read_result(folder, unit)
    except ResultError as error:
        screen.notice(f"{error} It is trained again now.")
        return False
    if result is not None:
        outcome.results[unit.id] = result
    return result is not None


class _Board:
    """The bar: what each unit's process told last, weighed by the work that it is."""

    def __init__(self, screen: Screen, units: Sequence[Unit]) -> None:
        self._screen = screen
        self._weights = {unit.id: expected_seconds(unit) for unit in units}
        self._shares = dict.fromkeys(self._weights, 0.0)
        self._ended = 0
        if units:
            screen.show("starting", 0.0)

    def see(self, event: Event) -> None:
        """Show an event."""
        key, total = event.unit.id, sum(self._weights.values())
        self._shares[key] = 1.0 if event.ended else event.share
        self._ended += event.ended
        done = sum(self._weights[k] * share for k, share in self._shares.items()) / total
        what = f"{self._ended}/{len(self._weights)} done"
        self._screen.show(what, done, f"{event.unit.title} loss {event.loss:.3f}")
