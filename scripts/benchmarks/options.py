"""The flags of `scripts/benchmark.py`, and the cases that they choose."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from benchmarks.cases import (
    CELLS,
    COURSE_SHAPES,
    GENERATION_SHAPES,
    GRID,
    LONG_SHAPES,
    SCALING,
    Case,
    grid,
    parse_shape,
)
from benchmarks.contestants import CONTESTANTS, OURS, SEGMENTS
from benchmarks.rounds import Settings
from jaxrnn.runs.environment import available_cores

Part = Literal["training", "forward", "generation", "scaling", "segments", "job"]
JOBS = ("stateful-rnn", "stateful-gru")
QUICK_RIVALS = ("torch", "flax-linen")
FEW_CELLS = ("gru",)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure and where to put it."""

    parts: tuple[Part, ...] = ("training",)
    """training (whole steps), forward, generation, scaling, segments (long windows, with and
    without recomputation), job; several with spaces between."""
    quick: bool = False
    """The course's shapes against PyTorch eager and Flax Linen only: about two minutes."""
    cells: tuple[str, ...] = ()
    """tanh, gru, lstm; all if none is named, and gru for scaling and segments."""
    shapes: tuple[str, ...] = ()
    """Shapes B,T,H,LAYERS, such as 64,8,256,1; the whole grid if none is named."""
    rivals: tuple[str, ...] = ()
    """Contestants besides ours; all of the part if none is named, and torch and flax-linen for
    scaling."""
    rounds: int | None = None
    """Rounds; 7 if None, and 3 for job."""
    seconds: float = 0.3
    """About how long one contestant's turn lasts."""
    threads: int | None = None
    """Threads of every contestant; all cores if None."""
    limit: float = 180.0
    """Seconds after which a contestant that does not answer is given up (job: ten times that)."""
    recipes: tuple[str, ...] = JOBS
    """The recipes of job."""
    schedule: str | None = None
    """Another schedule for job, such as '1 x 1e-3'; the recipe's if None."""
    json: Path | None = None
    """Write all numbers here."""
    markdown: Path | None = None
    """Write the table here."""
    pictures: Path | None = None
    """Draw the scaling curves into this folder."""
    read: Path | None = None
    """Measure nothing: make table and pictures from this JSON file."""

    def check(self) -> None:
        """Raise a ValueError for a name that is unknown or a number that is out of range."""
        known = [name for name in CONTESTANTS if name not in (OURS, SEGMENTS)]
        for what, named, among in (
            ("part", self.parts, get_args(Part)),
            ("cell", self.cells, CELLS),
            ("rival", self.rivals, known),
            ("recipe of job", self.recipes, JOBS),
        ):
            for name in named:
                if name not in among:
                    raise ValueError(f"There is no {what} {name!r}: take of {', '.join(among)}.")
        for text in self.shapes:
            parse_shape(text)
        self.settings(self.parts[0] if self.parts else "training")

    def settings(self, part: str) -> Settings:
        """How to measure a part."""
        return Settings(
            rounds=self.rounds if self.rounds is not None else 3 if part == "job" else 7,
            seconds=self.seconds,
            threads=self.threads if self.threads is not None else len(available_cores()),
            limit=self.limit,
            second_start=part == "training" and not self.quick,
        )

    def cases(self, part: str) -> list[Case]:
        """The cases of a part (not of job)."""
        if part == "scaling":
            return self._scaling()
        if part == "segments":
            shapes = tuple(parse_shape(text) for text in self.shapes) or LONG_SHAPES
            return grid("training", self.cells or FEW_CELLS, shapes)
        whole = GENERATION_SHAPES if part == "generation" else GRID
        shapes = tuple(parse_shape(text) for text in self.shapes) or whole
        if self.quick and not self.shapes and part != "generation":
            shapes = COURSE_SHAPES
        kind: Literal["training", "forward", "generation"] = (
            "training" if part == "training" else "forward" if part == "forward" else "generation"
        )
        return grid(kind, self.cells or CELLS, shapes)

    def names(self, part: str) -> list[str]:
        """Who takes part."""
        if part == "segments":
            return [OURS, SEGMENTS]
        few = self.quick or part == "scaling"
        kind = "training" if part == "scaling" else part
        playing = [n for n in CONTESTANTS if n != SEGMENTS and CONTESTANTS[n].plays(kind)]
        if self.rivals:
            return [name for name in playing if name == OURS or name in self.rivals]
        if few and kind != "generation":
            return [OURS, *QUICK_RIVALS]
        return playing

    def _scaling(self) -> list[Case]:
        shapes: Sequence[tuple[int, int, int, int]] = tuple(parse_shape(t) for t in self.shapes)
        shapes = shapes or sorted({shape for curve in SCALING.values() for shape in curve})
        return grid("training", self.cells or FEW_CELLS, shapes)
