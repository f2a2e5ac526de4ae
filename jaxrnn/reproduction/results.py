"""What became of a unit, as a file: `<unit id>.json`, and its weights beside it.

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

import datetime
import json
import os
from pathlib import Path
from typing import Any

from jaxrnn.files import UnreadableError, parse_json, read_regular, write_whole
from jaxrnn.reproduction.units import Unit
from jaxrnn.runs.environment import cpu_model, versions
from jaxrnn.runs.run import PACKAGES

FORMAT = 2
LARGEST_RESULT = 1 << 28
"""Bytes that a file of results may have."""
DAMAGED = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError)
"""What reading values of a wrong kind raises."""
SOFTWARE = (*PACKAGES, "torch")
"""The packages whose versions a result names."""
KEYS = {
    "format",
    "unit",
    "config",
    "rows",
    "train",
    "validation",
    "seconds",
    "total_seconds",
    "samples",
    "next",
    "shared",
    "flow",
    "corpus_sha256",
    "versions",
    "machine",
    "date",
}


class ResultError(ValueError):
    """A file of results that cannot be read."""


def result_path(folder: Path, unit: Unit) -> Path:
    """Where the results of a unit lie."""
    return folder / f"{unit.id}.json"


def weights_path(folder: Path, unit: Unit) -> Path:
    """Where the trained weights of a unit lie, by PyTorch's names."""
    return folder / f"{unit.id}.safetensors"


def gradients_path(folder: Path, unit: Unit) -> Path:
    """Where the errors of a quick unit's gradients lie."""
    return folder / f"{unit.id}.gradients"


def write_result(folder: Path, unit: Unit, found: dict[str, Any]) -> None:
    """Write what was found, with the circumstances."""
    result = {
        "format": FORMAT,
        "unit": unit.to_dict(),
        **found,
        "versions": versions(SOFTWARE),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    assert set(result) == KEYS
    text = json.dumps(result, indent=1, allow_nan=False)
    write_whole(result_path(folder, unit), text.encode() + b"\n")


def read_result(folder: Path, unit: Unit) -> dict[str, Any] | None:
    """The results of a unit, or None where there are none yet.

    Raises:
        ResultError: if the file is damaged, or is another unit's.
    """
    path = result_path(folder, unit)
    try:
        result = read_file(path)
    except FileNotFoundError:
        return None
    try:
        if set(result) != KEYS or result["format"] != FORMAT:
            raise ValueError(f"it has not the fields of format {FORMAT}")
        if Unit.from_dict(result["unit"]) != unit:
            raise ValueError("it is another unit's")
        check_losses(result, unit)
        return dict(result)
    except DAMAGED as error:
        raise ResultError(f"{path} is damaged: {error}. Remove it to train again.") from error


def read_file(path: Path) -> Any:
    """What a JSON file of results says.

    Raises:
        FileNotFoundError: if there is none.
        ResultError: if it is no regular file, too large, no JSON, or cannot be read.
    """
    try:
        return parse_json(read_regular(path, at_most=LARGEST_RESULT), "it")
    except FileNotFoundError:
        raise
    except UnreadableError as error:
        message = f"{path} is damaged: {error} Remove it to train again."
        raise ResultError(message) from error
    except OSError as error:
        raise ResultError(f"Cannot read {path}: {error.strerror}.") from error


def check_losses(result: dict[str, Any], unit: Unit) -> None:
    """Refuse results that have not a validation loss for every epoch."""
    for name in ("train", "validation"):
        losses = {int(epoch): float(loss) for epoch, loss in result[name].items()}
        epochs = unit.epochs
        if sorted(losses) != list(range(1, epochs + 1)):
            raise ValueError(f"{name} has the epochs {sorted(losses)}, not 1 to {epochs}")


def all_results(folder: Path) -> list[dict[str, Any]]:
    """Every result of a folder, in the order of the file names.

    Raises:
        ResultError: if one is damaged.
    """
    results = []
    for path in sorted(folder.glob("*_seed*.json")):
        try:
            unit = Unit.from_dict(read_file(path)["unit"])
        except FileNotFoundError as error:
            raise ResultError(f"{path} is a link to nothing: remove it.") from error
        except ResultError:
            raise
        except DAMAGED as error:
            raise ResultError(f"{path} is damaged: {error}. Remove it to train again.") from error
        if path != result_path(folder, unit):
            raise ResultError(f"{path} holds the results of {unit.id}: give it that name.")
        result = read_result(folder, unit)
        assert result is not None
        results.append(result)
    return results


def machine() -> dict[str, Any]:
    """The model of the CPU, and its cores."""
    return {"cpu": cpu_model(), "cores": os.cpu_count() or 1}
