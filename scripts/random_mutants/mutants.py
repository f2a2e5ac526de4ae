"""Draw mutants of the sources of jaxrnn and parity at random.

The same seed and the same sources give the same mutants, in the same order: a longer draw begins
with a shorter one.
"""

import ast
import difflib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from random_mutants.cpp_places import cpp_places
from random_mutants.places import Edit, Place, edited
from random_mutants.python_places import python_places

SHARES = {"C++": 0.15, "numerics": 0.85 / 3, "rest of jaxrnn": 0.85 / 3, "parity": 0.85 / 3}
"""Shares of the areas in what is drawn."""

NUMERICS = ("recurrent", "nn", "training", "generation")
"""The rooms of jaxrnn that compute."""

Compiles = Callable[[str, bytes], bool]
"""Whether a C++ source, given by its path, still compiles with other contents."""


Places = dict[str, list[tuple[str, Place]]]
"""Files and places in them, by area."""


@dataclass(frozen=True)
class Mutant:
    """A source with one mutation.

    Attributes:
        number: its place among those of a seed, from 0 on.
        path: the file, from the repository's root.
        kind: what is mutated, one of `KINDS`.
        first_line: the first line of the mutated statement, from 1 on.
        last_line: its last line.
        edits: what is replaced in the file.
    """

    number: int
    path: str
    kind: str
    first_line: int
    last_line: int
    edits: tuple[Edit, ...]

    def source(self, root: Path) -> bytes:
        """The mutated file, given the root of the unmutated sources."""
        return edited((root / self.path).read_bytes(), self.edits)

    def diff(self, root: Path) -> str:
        """The changed lines, as `diff -U0` gives them, without the heads."""
        before = (root / self.path).read_text().splitlines()
        after = self.source(root).decode().splitlines()
        lines = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
        return "\n".join(lines)

    @property
    def area(self) -> str:
        """One of `SHARES`."""
        return area_of(self.path)

    @property
    def room(self) -> str:
        """Package and room, such as "jaxrnn/recurrent"."""
        parts = self.path.split("/")
        if parts[-2] == "csrc":
            return "jaxrnn/recurrent/csrc"
        return "/".join(parts[: min(2, len(parts) - 1)])


def area_of(path: str) -> str:
    """The area that a file belongs to."""
    parts = path.split("/")
    if not path.endswith(".py"):
        return "C++"
    if parts[0] == "parity":
        return "parity"
    return "numerics" if parts[1] in NUMERICS else "rest of jaxrnn"


def source_files(root: Path) -> list[str]:
    """The files that are mutated, in order.

    Not the written mutants in `parity/mutation`: another fault is as good as the one there.
    """
    paths = [*root.glob("jaxrnn/**/*.py"), *root.glob("parity/**/*.py")]
    paths = [path for path in paths if "parity/mutation/" not in path.as_posix()]
    paths += [*root.glob("jaxrnn/recurrent/csrc/*.h"), *root.glob("jaxrnn/recurrent/csrc/*.cc")]
    return sorted(str(path.relative_to(root)) for path in paths)


def all_places(root: Path) -> Places:
    """Every place where something can be mutated, with its file, by area."""
    places: Places = {area: [] for area in SHARES}
    for path in source_files(root):
        find = python_places if path.endswith(".py") else cpp_places
        for place in find((root / path).read_bytes()):
            places[area_of(path)].append((path, place))
    return places


def draw(root: Path, places: Places, *, seed: int, compiles: Compiles) -> Iterator[Mutant]:
    """Mutants without end, each another one.

    Args:
        root: the root of the unmutated sources.
        places: of `all_places`.
        seed: of the draw.
        compiles: whether a mutated C++ source compiles, to something else than before.
    """
    rng = random.Random(seed)
    # An area without sources is not drawn.
    areas = [area for area in SHARES if places[area]]
    shares = [SHARES[area] for area in areas]

    number = 0
    seen = set()
    while True:
        (area,) = rng.choices(areas, shares)
        path, place = rng.choice(places[area])
        edits = rng.choice(place.ways)
        if (path, edits) in seen:
            continue
        seen.add((path, edits))
        mutant = Mutant(number, path, place.kind, place.first_line, place.last_line, edits)
        if _is_valid(mutant, root, compiles):
            yield mutant
            number += 1


def _is_valid(mutant: Mutant, root: Path, compiles: Compiles) -> bool:
    mutated = mutant.source(root)
    if not mutant.path.endswith(".py"):
        return compiles(mutant.path, mutated)
    try:
        tree = ast.parse(mutated)
        compile(tree, mutant.path, "exec")
    except (SyntaxError, ValueError):
        return False
    return ast.dump(tree) != ast.dump(ast.parse((root / mutant.path).read_bytes()))
