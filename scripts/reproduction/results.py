"""The results of a unit as files: `<unit id>.json`, and its weights beside it.

format              of the file
unit                what was trained
config              with which configuration
rows                the history: ten rows an epoch, losses in nats per character
train, validation   the losses at the end of each epoch, by its number
seconds             training and validation, without compilation
total_seconds       of the process
samples, next       what the trained model writes
shared              the loss on the windows that both splits hold out; null if not windowed
flow                gradient norms by steps back, at the start and at the end; for one study
corpus_sha256, versions, machine, date
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.exchange.files import read_tensors
from jaxrnn.files import parse_json, read_regular, write_whole
from jaxrnn.runs.environment import provenance
from jaxrnn.runs.run import PACKAGES
from reproduction.units import Unit

FORMAT = 2
WITH_NORMS = "identity"
"""The study whose gradient norms are shown."""
DIGITS = 4
"""Significant digits of the gradient norms, which only figures show."""
LARGEST_FILE = 1 << 28
"""Bytes that a file of results may have."""
LARGEST_NUMBER = 1e100
"""Numbers from there on are no losses or norms of anything, and their squares overflow."""
LONGEST_TEXT = 100_000
"""Characters of a text that is read from a file."""
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
"""What reading values of a wrong kind raises."""


class ResultError(ValueError):
    """A file of results that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished unit, as far as it is shown."""

    unit: Unit  # what was trained
    train: Mapping[int, float]  # losses at the ends of epochs, by epoch
    validation: Mapping[int, float]
    steps: int  # updates made
    seconds: float  # training and validation
    # (step, mean norm of the gradient since the step before), of one study
    norms: Sequence[tuple[int, float]]
    # see `reproduction.measures.gradient_flow`; at the start and at the end of training
    flow: Sequence[Sequence[float]]
    shared: float | None  # the loss on the windows that both splits hold out, of a windowed model
    sample: str  # what the model writes; empty if it was not asked to
    answers: Mapping[str, str]  # the most likely next character after each prompt
    corpus_sha256: str  # of the text
    environment: Mapping[str, Any]  # where: the CPU, its cores, and the versions of the software
    date: str  # when it was finished

    def __post_init__(self) -> None:
        values = vars(self)
        check(values, is_number, "steps", "seconds")
        check(values, is_text, "sample", "corpus_sha256", "date")
        check(values, partial(are_losses, self.unit), "train", "validation")
        check(values, lambda lists: all(map(are_numbers, lists)), "norms", "flow")
        check(values, lambda found: found is None or is_number(found), "shared")
        check(values, are_texts, "answers")
        check(self.environment, is_text, "cpu")
        check(self.environment, is_number, "cores")
        check(self.environment, are_texts, "versions")

    @property
    def last(self) -> float:
        """The validation loss at the end."""
        return self.validation[self.unit.epochs]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How far JAX and PyTorch end apart that started from the same weights."""

    recipe: str  # what was trained
    dtype: str  # in which precision
    seed: int  # of the start
    weights: float  # the largest |ours - theirs|_2 / |theirs|_2 over all tensors
    tensor: str  # the tensor with that
    validation: Mapping[int, float]  # our validation loss less theirs, by epoch

    def __post_init__(self) -> None:
        Unit(recipe=self.recipe, dtype=self.dtype, seed=self.seed)  # type: ignore[arg-type]
        check(vars(self), is_number, "weights")
        check(vars(self), is_text, "tensor")
        check(vars(self), lambda losses: are_numbers(list(losses.values())), "validation")

    @property
    def farthest(self) -> float:
        """The largest difference of the validation losses, either way."""
        return max(map(abs, self.validation.values()))


def check(values: Mapping[str, Any], fits: Callable[[Any], bool], *names: str) -> None:
    """Refuse values of a file that do not fit.

    Raises:
        ValueError: if one does not.
    """
    for name in names:
        if not fits(values[name]):
            raise ValueError(f"{name} makes no sense: {values[name]!r:.60}")


def is_text(value: Any) -> bool:
    """Whether a value is a text, of a length that a page can show."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def are_texts(values: Any) -> bool:
    """Whether a value is a mapping of texts to texts."""
    return isinstance(values, Mapping) and all(map(is_text, (*values, *values.values())))


def is_number(value: Any) -> bool:
    """Whether a value is a number that a page can calculate with."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < LARGEST_NUMBER


def are_numbers(values: Any) -> bool:
    """Whether a value is a list of such numbers."""
    return isinstance(values, list | tuple) and all(map(is_number, values))


def are_losses(unit: Unit, losses: Mapping[int, float]) -> bool:
    """Whether there is a number for each epoch of a unit."""
    every = list(losses) == list(range(1, unit.epochs + 1))
    return every and all(map(is_number, losses.values()))


def result_path(folder: Path, unit: Unit) -> Path:
    """Where the results of a unit lie."""
    return folder / f"{unit.id}.json"


def weights_path(folder: Path, unit: Unit) -> Path:
    """Where the trained weights of a unit lie, by PyTorch's names."""
    return folder / f"{unit.id}.safetensors"


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """Write what was found, with what, where and when it was."""
    written = {**found, **provenance((*PACKAGES, "torch"))}
    write_whole(path, json.dumps(written, indent=1, allow_nan=False).encode() + b"\n")


def environment_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Where something was found, from what `write_json` wrote."""
    machine = found["machine"]
    return {"cpu": machine["cpu"], "cores": machine["cores"], "versions": found["versions"]}


def read_record(folder: Path, unit: Unit) -> Record | None:
    """The results of a unit, or None where there are none yet.

    Raises:
        ResultError: if the file is damaged, or is another unit's.
    """
    path = result_path(folder, unit)
    return read_result(path) if os.path.lexists(path) else None


def read_result(path: Path) -> Record:
    """The results in a file, whose name must be that of its unit.

    Raises:
        ResultError: if it is damaged, or has another name.
    """
    try:
        result = read_json(path, FORMAT)
        record = _record(result)
    except DAMAGED as error:
        message = f"{path} is damaged: {error!s:.300} Remove it to train again."
        raise ResultError(message) from error
    if path.name != f"{record.unit.id}.json":
        raise ResultError(f"{path} holds the results of {record.unit.id}: give it that name.")
    return record


def read_json(path: Path, form: int) -> Any:
    """What a file of a format says.

    Raises:
        ResultError: if it cannot be read.
        ValueError: if it is no regular file, too large, no JSON, or of another format.
    """
    try:
        found = parse_json(read_regular(path, at_most=LARGEST_FILE), "it")
    except OSError as error:
        raise ResultError(f"Cannot read {path}: {error.strerror}.") from error
    if found["format"] != form:
        raise ValueError(f"it is of format {found['format']!r:.20}, not {form}.")
    return found


def _record(result: Mapping[str, Any]) -> Record:
    unit = Unit.from_dict(result["unit"])
    rows = result["rows"]
    samples = result["samples"]
    shown = rows if unit.study == WITH_NORMS else []
    return Record(
        unit=unit,
        train=by_epoch(result["train"]),
        validation=by_epoch(result["validation"]),
        steps=rows[-1]["step"],
        seconds=result["seconds"],
        norms=[(row["step"], _short(row["gradient_norm"])) for row in shown],
        flow=[list(map(_short, norms)) for norms in result["flow"]],
        shared=result["shared"],
        sample=(samples[0]["greedy"] or samples[0]["sampled"]) if samples else "",
        answers={answer["prompt"]: answer["next"] for answer in result["next"]},
        corpus_sha256=result["corpus_sha256"],
        environment=environment_of(result),
        date=result["date"],
    )


def by_epoch(losses: Mapping[str, float]) -> dict[int, float]:
    """Losses by the numbers of epochs, which JSON has as text."""
    return {int(epoch): loss for epoch, loss in losses.items()}


def pair(folder: Path, ours: Record, theirs: Record) -> Pair:
    """How far two finished units with the same start are apart, JAX's and its twin in PyTorch.

    Raises:
        TensorFileError: if the weights in the folder cannot be read.
    """
    unit = ours.unit
    one, other = (read_tensors(weights_path(folder, each.unit)) for each in (ours, theirs))
    assert one.keys() == other.keys()
    distances = {name: _distance(one[name], other[name]) for name in one}
    worst = max(distances, key=lambda name: distances[name])
    return Pair(
        recipe=unit.recipe,
        dtype=unit.dtype,
        seed=unit.seed,
        weights=distances[worst],
        tensor=worst,
        validation={e: loss - theirs.validation[e] for e, loss in ours.validation.items()},
    )


def _distance(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def _short(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
