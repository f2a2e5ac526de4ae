"""What the page is made from: finished units in short, and what comparing them gave.

`results.json` beside the page holds exactly this, and the page is made from it alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxrnn.files import parse_json
from jaxrnn.reproduction.comparison import Pair
from jaxrnn.reproduction.units import Framework, Unit

FORMAT = 2
LARGEST_NUMBER = 1e100
"""Numbers from there on are no losses or norms of anything, and their squares overflow."""
LONGEST_TEXT = 100_000
"""Characters of a text that is read from a file."""


def is_text(value: Any) -> bool:
    """Whether a value from a file is a text, of a length that a page can show."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def is_number(value: Any) -> bool:
    """Whether a value from a file is a number that a page can calculate with."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < LARGEST_NUMBER


def are_numbers(values: Any) -> bool:
    """Whether a value from a file is a list of finite numbers."""
    return isinstance(values, list | tuple) and all(map(is_number, values))


def check_losses_of(unit: Unit, name: str, losses: Mapping[int, float]) -> None:
    """Refuse losses of a file that are not one number for each epoch of a unit.

    Raises:
        ValueError: if they are not.
    """
    every = sorted(losses) == list(range(1, unit.epochs + 1))
    check_that(name, losses, every and all(map(is_number, losses.values())))


def check_that(name: str, value: Any, fits: bool) -> None:
    """Refuse a value of a file that does not fit.

    Raises:
        ValueError: if it does not.
    """
    if not fits:
        raise ValueError(f"{name} makes no sense: {value!r:.60}")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where something was computed.

    Attributes:
        cpu: the model of the CPU.
        cores: how many it has.
        versions: of Python and of the packages.
    """

    cpu: str
    cores: int
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        versions = self.versions
        check_that("cpu", self.cpu, is_text(self.cpu))
        check_that("cores", self.cores, is_number(self.cores))
        texts = isinstance(versions, Mapping) and all(map(is_text, (*versions, *versions.values())))
        check_that("versions", versions, texts)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished unit.

    Attributes:
        unit: what was trained.
        train: losses at the ends of epochs, by epoch.
        validation: likewise.
        steps: updates made.
        seconds: training and validation.
        norms: (step, mean norm of the gradient since the step before), where a figure shows it.
        flow: the norm of the last loss's gradient by steps back, at the start and at the end of
            training, where a figure shows it; see `jaxrnn.reproduction.probes`.
        shared: the loss on the windows that both splits hold out, of a windowed model.
        sample: what the model writes; empty if it was not asked to.
        answers: the most likely next character after each prompt.
        corpus_sha256: of the text.
        environment: where.
        date: when it was finished.
    """

    unit: Unit
    train: Mapping[int, float]
    validation: Mapping[int, float]
    steps: int
    seconds: float
    norms: Sequence[tuple[int, float]]
    flow: Sequence[Sequence[float]]
    shared: float | None
    sample: str
    answers: Mapping[str, str]
    corpus_sha256: str
    environment: Environment
    date: str

    def __post_init__(self) -> None:
        for name in ("steps", "seconds"):
            check_that(name, getattr(self, name), is_number(getattr(self, name)))
        for name in ("sample", "corpus_sha256", "date"):
            check_that(name, getattr(self, name), is_text(getattr(self, name)))
        for name in ("train", "validation"):
            check_losses_of(self.unit, name, getattr(self, name))
        for name in ("norms", "flow"):
            lists = getattr(self, name)
            check_that(name, lists, all(map(are_numbers, lists)))
        check_that("shared", self.shared, self.shared is None or is_number(self.shared))
        answers = self.answers
        check_that("answers", answers, all(map(is_text, (*answers, *answers.values()))))

    @property
    def last(self) -> float:
        """The validation loss at the end."""
        return self.validation[self.unit.epochs]


@dataclass(frozen=True, kw_only=True)
class Start:
    """JAX and PyTorch from the same weights, at the end.

    Attributes:
        recipe: what was trained.
        dtype: in which precision.
        pair: how far apart they are.
    """

    recipe: str
    dtype: str
    pair: Pair

    def __post_init__(self) -> None:
        Unit(recipe=self.recipe, dtype=self.dtype, seed=self.pair.seed)  # type: ignore[arg-type]
        check_that("weights", self.pair.weights, is_number(self.pair.weights))
        check_that("tensor", self.pair.tensor, is_text(self.pair.tensor))
        unit = Unit(recipe=self.recipe)
        check_losses_of(unit, "validation", self.pair.validation)


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """How far two runs of a chaotic recipe are apart, step by step; see `parity.horizon`.

    Attributes:
        recipe: what was trained.
        dtype: in which precision.
        seed: of the start.
        limit: relL2 of all weights above which runs count as apart.
        steps: after which weights were compared.
        jax_torch: relL2 of JAX's from PyTorch's.
        torch_ulp: relL2 of PyTorch's from those of a start one unit in the last place off.
        environment: where.
    """

    recipe: str
    dtype: str
    seed: int
    limit: float
    steps: Sequence[int]
    jax_torch: Sequence[float]
    torch_ulp: Sequence[float]
    environment: Environment

    def __post_init__(self) -> None:
        Unit(recipe=self.recipe, dtype=self.dtype, seed=self.seed)  # type: ignore[arg-type]
        check_that("limit", self.limit, is_number(self.limit))
        for name in ("steps", "jax_torch", "torch_ulp"):
            values = getattr(self, name)
            fits = are_numbers(values) and 0 < len(values) == len(self.steps)
            check_that(name, values, fits)

    def within(self, distances: Sequence[float]) -> int | None:
        """The last step that was looked at before the first above the limit; None if all are."""
        for index, distance in enumerate(distances):
            if distance > self.limit:
                return self.steps[index - 1] if index else None
        return self.steps[-1]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything on the page.

    Attributes:
        records: the finished units, recipes in the course's order, then the studies.
        starts: the pairs.
        horizons: the predictability horizons.
    """

    records: Sequence[Record]
    starts: Sequence[Start]
    horizons: Sequence[Horizon]

    def of(
        self, recipe: str, framework: Framework = "jax", *, dtype: str = "float32", study: str = ""
    ) -> list[Record]:
        """The records of a recipe, by seed."""
        wanted = (recipe, framework, dtype, study)
        return [
            record
            for record in self.records
            if (record.unit.recipe, record.unit.framework, record.unit.dtype, record.unit.study)
            == wanted
        ]

    def of_study(self, study: str, recipe: str, changes: Mapping[str, Any]) -> list[Record]:
        """The records of a recipe with the changes of a study, by seed."""
        return [r for r in self.of(recipe, study=study) if r.unit.changes == changes]

    def to_json(self) -> str:
        """The text of `results.json`: a line for each record."""
        places: list[Environment] = []
        parts: dict[str, list[Any]] = {
            "units": [_of_record(record, places) for record in self.records],
            "starts": [_of_start(start) for start in self.starts],
            "horizons": [_of_horizon(horizon, places) for horizon in self.horizons],
        }
        parts = {"environments": [vars(place) for place in places]} | parts
        lists = (f'"{name}": {_lines(values)}' for name, values in parts.items())
        return "{" + ",\n".join((f'"format": {FORMAT}', *lists)) + "}\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Findings":
        """The findings from what `to_json` wrote.

        Raises:
            ValueError: if it is another format.
        """
        found = parse_json(text, "it")
        if found["format"] != FORMAT:
            raise ValueError(f"The results are of format {found['format']}, not {FORMAT}.")
        places = [Environment(**place) for place in found["environments"]]
        findings = cls(
            records=[_to_record(values, places) for values in found["units"]],
            starts=[_to_start(values) for values in found["starts"]],
            horizons=[_to_horizon(values, places) for values in found["horizons"]],
        )
        check_that("units", found["units"], bool(findings.records))
        for start in findings.starts:
            # Both of a pair are units, too.
            fits = bool(findings.of(start.recipe, dtype=start.dtype))
            check_that("starts", start, fits)
        return findings


def _lines(values: Sequence[Any]) -> str:
    return "[" + ",\n".join(json.dumps(value, allow_nan=False) for value in values) + "]"


def _number(place: Environment, places: list[Environment]) -> int:
    if place not in places:
        places.append(place)
    return places.index(place)


def _of_record(record: Record, places: list[Environment]) -> dict[str, Any]:
    fields = vars(record) | {"environment": _number(record.environment, places)}
    return record.unit.to_dict() | {k: v for k, v in fields.items() if k != "unit"}


def _to_record(values: Mapping[str, Any], places: Sequence[Environment]) -> Record:
    names = Unit.__dataclass_fields__
    fields = {name: value for name, value in values.items() if name not in names}
    fields |= {name: by_epoch(values[name]) for name in ("train", "validation")}
    fields["norms"] = [(step, norm) for step, norm in values["norms"]]
    fields["environment"] = places[values["environment"]]
    return Record(unit=Unit.from_dict({name: values[name] for name in names}), **fields)


def by_epoch(values: Mapping[str, float]) -> dict[int, float]:
    """Losses by the numbers of epochs, which JSON has as text."""
    return {int(epoch): loss for epoch, loss in values.items()}


def _of_start(start: Start) -> dict[str, Any]:
    return {"recipe": start.recipe, "dtype": start.dtype} | vars(start.pair)


def _to_start(values: Mapping[str, Any]) -> Start:
    pair = Pair(
        seed=values["seed"],
        weights=values["weights"],
        tensor=values["tensor"],
        validation=by_epoch(values["validation"]),
    )
    return Start(recipe=values["recipe"], dtype=values["dtype"], pair=pair)


def _of_horizon(horizon: Horizon, places: list[Environment]) -> dict[str, Any]:
    return vars(horizon) | {"environment": _number(horizon.environment, places)}


def _to_horizon(values: Mapping[str, Any], places: Sequence[Environment]) -> Horizon:
    return Horizon(**(dict(values) | {"environment": places[values["environment"]]}))
