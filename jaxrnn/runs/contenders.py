"""What is compared: cells and models, by names that a worker process finds, at equal sizes."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxrnn.nn.model import CharModel
from jaxrnn.nn.models import COURSE_MODELS, MODELS, CharLM
from jaxrnn.recurrent.catalog import BUILT_IN, CELLS
from jaxrnn.recurrent.cells import Cell, FreeCell
from jaxrnn.registry import NotDefinedError, absolute_reference, is_reference, load_object
from jaxrnn.runs.config import LARGEST, Config

FILE_IT = (
    "worker processes train, which do not have what was made in this one. Put it into a file and "
    "name it FILE.py:NAME."
)
"""The remedy for an object that no other process finds."""


@dataclass(frozen=True)
class Contender:
    """A cell in `CharLM`, or a model.

    Attributes:
        name: its name, which a worker process finds: of a cell, of a model, or FILE.py:NAME.
        label: a short name for tables and files, another one for each contender.
        changes: the fields of a configuration that make it.
    """

    name: str
    label: str
    changes: dict[str, Any] = field(hash=False)

    def config(self, config: Config, **others: Any) -> Config:
        """The configuration with this contender in it, and other changes."""
        return replace(config, **self.changes, **others)


def contenders_of(given: Any) -> tuple[Contender, ...]:
    """The contenders that are named, at least two.

    Args:
        given: names, cells and classes of models.

    Raises:
        ValueError: if there are fewer than two, if one is named twice, or if one is not known or
            not to be found by another process.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(
            'Name what to compare in a list, for example ["gru", "lstm"], got ' + f"{given!r:.60}."
        )
    found = [_contender(one) for one in given]
    names = [one.name for one in found]
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{name} is named {count} times: name each contender once.")
    if len(found) < 2:
        raise ValueError("Name at least two to compare, for example gru and lstm.")
    # A class of the same name in two files.
    shared = Counter(one.label for one in found)
    labeled = []
    for one in found:
        if shared[one.label] > 1 and is_reference(one.name):
            path, _, name = one.name.rpartition(":")
            stem = path.rpartition("/")[2].removesuffix(".py")
            one = replace(one, label=_safe(f"{stem}-{name}"))
        labeled.append(one)
    for label, count in Counter(one.label for one in labeled).items():
        if count > 1:
            raise ValueError(f"{count} contenders are called {label}: rename one of them.")
    return tuple(labeled)


def _contender(given: Any) -> Contender:
    """One contender, from a name or an object."""
    name = given if isinstance(given, str) else _name_of(given)
    if is_reference(name):
        name = absolute_reference(name)
        found = load_object(name)
        label = _safe(name.rpartition(":")[2])
        if isinstance(found, type) and issubclass(found, CharModel):
            MODELS.find(name)  # refuses one that is incomplete
            return Contender(name, label, {"model": name})
        if isinstance(found, Cell | FreeCell):
            return Contender(name, label, {"model": "CharLM", "cell": name})
        raise ValueError(
            f"{name} is of type {type(found).__name__}: a contender is a jaxrnn.Cell, a FreeCell, "
            "or a class that derives from CharModel."
        )
    if name in MODELS:
        if MODELS[name] not in (*COURSE_MODELS, CharLM):
            raise ValueError(f"The model {name} was put into MODELS here, and {FILE_IT}")
        return Contender(name, _safe(name), {"model": name})
    if name in CELLS and not any(CELLS[name] is cell for cell in BUILT_IN):
        raise ValueError(f"The cell {name} was put into CELLS here, and {FILE_IT}")
    try:
        CELLS.find(name)
    except NotDefinedError:
        raise ValueError(
            f"There is no cell and no model {name!r:.60}: take FILE.py:NAME, a cell, "
            f"{', '.join(CELLS)}, or a model, {', '.join(MODELS)}."
        ) from None
    return Contender(name, _safe(name), {"model": "CharLM", "cell": name})


def _name_of(given: Any) -> str:
    """The name of an object that is built in."""
    if isinstance(given, type) and issubclass(given, CharModel):
        if given not in (*COURSE_MODELS, CharLM):
            raise ValueError(f"{given.__name__} is a class of this process, and {FILE_IT}")
        return given.__name__
    if isinstance(given, Cell | FreeCell):
        if not any(given is cell for cell in BUILT_IN):
            raise ValueError(f"The cell {given.name} is an object of this process, and {FILE_IT}")
        return given.name
    raise ValueError(f"A contender is a name, a cell or a class of models, got {given!r:.60}.")


def _safe(name: str) -> str:
    """A name that a file may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "contender"


def equal_hidden_size(count: Callable[[int], int], wanted: int, start: int, label: str) -> int:
    """The hidden size whose number of parameters is nearest to the one that is wanted.

    Args:
        count: the number of parameters at a hidden size; it grows with it.
        wanted: the number of parameters that is wanted.
        start: a hidden size to begin the search at.
        label: the contender, for the message.

    Raises:
        ValueError: if even the largest size has fewer.
    """
    most = LARGEST["hidden_size"]
    # A pair of sizes between which the number lies.
    low = start
    while low > 1 and count(low) > wanted:
        low //= 2
    high = max(start, 2)
    while high < most and count(high) < wanted:
        high = min(2 * high, most)
    if count(high) < wanted:
        raise ValueError(
            f"{label} has {count(high):,} parameters at hidden_size {high:,}, not {wanted:,}: its "
            "size does not follow hidden_size. Compare at equal characters."
        )
    if count(low) > wanted:
        return low
    # count(low) <= wanted <= count(high)
    while high - low > 1:
        middle = (low + high) // 2
        if count(middle) <= wanted:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda size: abs(count(size) - wanted))
