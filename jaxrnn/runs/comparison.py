"""The result of a comparison: records, a table, learning curves, paired differences.

A folder of a comparison has

comparison.json      what was compared, and what was fixed before the first training
results/ID.json      one finished training each
under-way/ID/        a training that is not finished
records.json, table.md, curves.png    the records, the table and the picture
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrnn.files import UnreadableError, parse_json, read_regular, write_whole
from jaxrnn.nn.losses import bits_per_character
from jaxrnn.runs.checksums import RunError
from jaxrnn.runs.statistics import Difference, Spread, paired_difference, spread

if TYPE_CHECKING:
    from jaxrnn.training.plots import Picture

COMPARISON = "comparison.json"
RESULTS = "results"
UNDER_WAY = "under-way"
FORMAT = 1
"""Format of the files of a comparison."""
LARGEST_FILE = 1 << 26
"""Maximum size in bytes of a file of a comparison."""
SMALL = 0.01
"""Losses below it are shown as powers of ten."""
LONGEST_REASON = 80
"""Maximum number of characters, in a table, of why a training has no loss."""
MEGABYTE = 1e6
MEMORY = (
    "Memory is the most that a worker process held above what it held before its training, "
    "compilation included: the least over the seeds."
)


class Comparison:
    """Trainings of some contenders with the same seeds.

    Attributes:
        folder: where it is on the disk.
        description: what `comparison.json` says.
        failures: errors of trainings that failed, by "LABEL_seedN".
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        results: Sequence[Mapping[str, Any]],
        failures: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.description = description
        self.failures = dict(failures or {})
        self._results = list(results)

    @property
    def contenders(self) -> list[str]:
        """The labels of the contenders; the first is the baseline of the differences."""
        return [one["label"] for one in self.description["contenders"]]

    def records(self) -> list[dict[str, Any]]:
        """A dictionary for each finished training, as `pandas.DataFrame` takes them.

        `validation` is the last validation loss, None where training diverged, and `curve` the list
        of (step, train, validation).
        """
        return [dict(result) for result in self._results]

    def losses(self, label: str) -> dict[int, float]:
        """The last validation losses of a contender, by seed; none of trainings that diverged."""
        losses = {}
        for result in self._results:
            if result["contender"] == label and result["validation"] is not None:
                losses[result["seed"]] = result["validation"]
        return losses

    def differences(self) -> dict[str, Difference]:
        """The loss of each other contender minus that of the first, paired by seed.

        The mean, its 95 % interval by Student's t, and n, the number of seeds that both have.
        """
        first, *others = self.contenders
        found = {}
        for label in others:
            difference = paired_difference(self.losses(label), self.losses(first))
            if difference is not None:
                found[label] = difference
        return found

    def table(self) -> str:
        """The results as a table in Markdown, and what its numbers are."""
        task = self.description["task"]
        header = ["contender", "hidden size", "parameters", "updates", "ms/update", "memory"]
        header += [self._loss_name]
        if task is None:
            header.append(f"bits per {self.description['unit']}")
        header += [f"difference to {self.contenders[0]} (95 %)", "seeds"]
        rows = [header]
        for one in self.description["contenders"]:
            rows.append(self._row(one))
            rows += self._rows_without_loss(one["label"], len(header))
        if task is not None:
            place = header.index(self._loss_name)
            row = [""] * len(header)
            row[0] = "guessing without memory"
            row[place] = _number(task["baseline"])
            rows.append(row)
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        rows.insert(1, ["-" * width for width in widths])
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", *self._notes()])

    def plot(self) -> "Picture":
        """The learning curves, the mean over the seeds and a band of one standard deviation.

        The loss is that of validation where there were several validations, and else of training.
        """
        from jaxrnn.training.plots import is_drawn, new_figure  # Matplotlib takes long to import

        column = "validation" if self._validated_often() else "train"
        by_minutes = self.description["settings"]["equal"] == "minutes"
        figure, axes = new_figure("")
        for one in self.description["contenders"]:
            steps, losses = self._curves(one["label"], column)  # (N, K) each
            if not losses.size or not all(map(is_drawn, losses.ravel())):
                continue
            places = steps.mean(0)
            if by_minutes:
                places = places * one["seconds_per_update"] / 60
            mean = losses.mean(0)
            (line,) = axes.plot(places, mean, "o-", markersize=3, label=one["label"])
            if len(losses) > 1:
                deviation = losses.std(0, ddof=1)
                axes.fill_between(
                    places, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2
                )
        task = self.description["task"]
        if task is not None:
            axes.axhline(task["baseline"], color="black", linestyle=":", label="without memory")
        axes.set_xlabel("minutes of updates" if by_minutes else "updates")
        axes.set_ylabel(f"{column}: {self._measure}")
        if axes.lines:
            axes.legend()
        return figure

    def save(self) -> None:
        """Write the records, the table and the picture into the folder."""
        differences = {
            label: difference._asdict() for label, difference in self.differences().items()
        }
        found = {
            "format": FORMAT,
            "records": self.records(),
            "differences": differences,
            "failures": self.failures,
        }
        write_json(self.folder / "records.json", found)
        write_whole(self.folder / "table.md", f"{self.table()}\n".encode())
        write_whole(self.folder / "curves.png", self.plot().png())

    def __repr__(self) -> str:
        """The mean loss of each: a notebook prints what a cell ends with."""
        described = []
        for label in self.contenders:
            losses = self.losses(label)
            words = _spread_in_words(spread(losses.values())) if losses else "nothing finished"
            described.append(f"{label} {words}")
        seeds = self.description["seeds"]
        return f"Comparison({', '.join(described)}; {self._measure}, seeds: {seeds})"

    def _repr_markdown_(self) -> str:
        return self.table()

    @property
    def _measure(self) -> str:
        """What the losses are, in words."""
        task = self.description["task"]
        if task is not None:
            return str(task["measure"])
        return f"nats per {self.description['unit']}"

    @property
    def _loss_name(self) -> str:
        """The title of the column of losses."""
        if self.description["task"] is None:
            return f"validation loss ({self._measure})"
        return self._measure

    def _row(self, one: Mapping[str, Any]) -> list[str]:
        """The row of a contender."""
        label = one["label"]
        results = [result for result in self._results if result["contender"] == label]
        losses = self.losses(label)
        updates = [result["steps"] for result in results if result["validation"] is not None]
        times = _known(results, "milliseconds_per_update")
        memory = _known(results, "memory_bytes")
        row = [label, str(one["hidden_size"]), f"{one['parameters']:,}"]
        row.append(f"{np.mean(updates):,.0f}" if updates else "-")
        row.append(f"{np.mean(times):.3g}" if times else "-")
        row.append(f"{min(memory) / MEGABYTE:,.0f} MB" if memory else "-")
        row.append(_spread_in_words(spread(losses.values())) if losses else "-")
        if self.description["task"] is None:
            bits = [bits_per_character(nats) for nats in losses.values()]
            row.append(_spread_in_words(spread(bits)) if bits else "-")
        row.append(self._difference_in_words(label))
        seeds = self.description["seeds"]
        row.append(str(seeds) if len(losses) == seeds else f"{len(losses)} of {seeds}")
        return row

    def _rows_without_loss(self, label: str, columns: int) -> list[list[str]]:
        """A row for each training that diverged or failed."""
        reasons = {}
        for result in self._results:
            if result["contender"] == label and result["diverged"] is not None:
                reasons[f"{label}, seed {result['seed']}"] = f"diverged: {result['diverged']}"
        for name, error in self.failures.items():
            failed, _, seed = name.rpartition("_seed")
            if failed == label:
                reasons[f"{label}, seed {seed}"] = f"failed: {error}"
        rows = []
        for title, reason in reasons.items():
            words = " ".join(reason.split()).replace("|", "/")
            if len(words) > LONGEST_REASON:
                words = words[: LONGEST_REASON - 3] + "..."
            row = [""] * columns
            row[0] = title
            row[6] = words  # in place of the loss
            rows.append(row)
        return rows

    def _difference_in_words(self, label: str) -> str:
        difference = self.differences().get(label)
        if difference is None:
            return "" if label == self.contenders[0] else "-"
        if difference.interval is None:
            return f"{difference.mean:+.4f}"
        low, high = difference.interval
        words = f"{difference.mean:+.4f} ({low:+.4f} to {high:+.4f})"
        if difference.n < self.description["seeds"]:
            words += f" of {difference.n} seeds"
        return words

    def _notes(self) -> list[str]:
        """Sentences on what is equal, and on what the numbers are."""
        equal = self.description["settings"]["equal"]
        minutes = self.description["settings"]["minutes"]
        first = self.contenders[0]
        notes = {
            "characters": "All read the same characters of each seed, in as many updates.",
            "minutes": f"Each trained for {minutes} minutes on one core, validations not counted.",
            "parameters": f"Each has as many parameters as {first}, as nearly as hidden_size can.",
        }
        sentences = [notes[equal]]
        if minutes is not None and equal != "minutes":
            sentences.append(f"The number of updates is what {first} makes in {minutes} minutes.")
        sentences.append("Losses are means ± standard deviations over the seeds.")
        sentences.append(MEMORY)
        return [" ".join(sentences)]

    def _finished(self, label: str) -> list[Mapping[str, Any]]:
        """The results of a contender that have a loss."""
        return [
            result
            for result in self._results
            if result["contender"] == label and result["validation"] is not None
        ]

    def _validated_often(self) -> bool:
        """Whether each training has at least two validations."""
        for label in self.contenders:
            for result in self._finished(label):
                if len(_points(result, "validation")) < 2:
                    return False
        return True

    def _curves(self, label: str, column: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps and the losses of N trainings at K places, (N, K) each."""
        curves = [_points(result, column) for result in self._finished(label)]
        shortest = min(map(len, curves), default=0)
        table = np.array([curve[:shortest] for curve in curves], float).reshape(
            len(curves), shortest, 2
        )
        return table[:, :, 0], table[:, :, 1]


def read_comparison(folder: Path | str, failures: Mapping[str, str] | None = None) -> Comparison:
    """The comparison in a folder, with the trainings that are finished.

    Raises:
        RunError: if there is none, or a file of it cannot be read.
    """
    folder = Path(folder)
    description = read_json(folder / COMPARISON)
    results = []
    first = description["settings"]["seed"]
    for one in description["contenders"]:
        for seed in range(first, first + description["seeds"]):
            path = result_path(folder, one["label"], seed)
            if path.exists():
                results.append(read_json(path))
    return Comparison(folder, description, results, failures)


def result_path(folder: Path, label: str, seed: int) -> Path:
    """Where the result of a training lies."""
    return folder / RESULTS / f"{training_id(label, seed)}.json"


def training_id(label: str, seed: int) -> str:
    """The name of a training."""
    return f"{label}_seed{seed}"


def read_json(path: Path) -> Any:
    """What a file of a comparison says.

    Raises:
        RunError: if it cannot be read, is no JSON, or of another format.
    """
    remedy = "Remove it, and the same call makes it again."
    try:
        found = parse_json(read_regular(path, at_most=LARGEST_FILE), path)
    except FileNotFoundError as error:
        raise RunError(f"There is no comparison: {path} is missing.") from error
    except (UnreadableError, OSError) as error:
        raise RunError(f"Cannot read {path}: {error} {remedy}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RunError(f"{path} is no file of a comparison of format {FORMAT}. {remedy}")
    return found


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """Write a file of a comparison, in one move."""
    write_whole(path, json.dumps(found, indent=1, allow_nan=False).encode() + b"\n")


def _known(results: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The values of a field where it is known."""
    return [result[name] for result in results if result[name] is not None]


def _points(result: Mapping[str, Any], column: str) -> list[tuple[float, float]]:
    """The points of a learning curve that have a loss."""
    points = []
    for point in result["curve"]:
        if point[column] is not None:
            points.append((point["step"], point[column]))
    return points


def _spread_in_words(found: Spread) -> str:
    if found.deviation is None:
        return _number(found.mean)
    return f"{_number(found.mean)} ± {_number(found.deviation, found.mean)}"


def _number(value: float, size: float | None = None) -> str:
    """A number in four digits; one that is small, or belongs to one of a small `size`, in powers of
    ten."""
    if abs(value if size is None else size) < SMALL:
        return f"{value:.2e}"
    return f"{value:.4f}"
