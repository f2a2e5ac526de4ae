"""The flags of `scripts/benchmark.py`, and the cases that they choose."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from benchmarks.cases import (
    CELLS,
    COURSE_SHAPES,
    GENERATION_SHAPES,
    GPU_SHAPES,
    GRID,
    INFERENCE_SHAPES,
    LARGE_SHAPES,
    LAYER_SHAPES,
    LONG_SHAPES,
    SCALING,
    Case,
    Shape,
    grid,
    parse_shape,
)
from benchmarks.implementations import IMPLEMENTATIONS, OURS, REMAT
from benchmarks.process import gpus
from benchmarks.protocol import REPETITIONS, Settings
from jaxrnn.runs.environment import available_cores

Part = Literal["training", "forward", "generation", "layer", "inference", "scaling", "remat", "job"]
JOBS = ("stateful-rnn", "stateful-gru")
QUICK_BASELINES = ("torch", "flax-linen")
FEW_CELLS = ("gru",)
JOB_REPETITIONS = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure and where to put it."""

    parts: tuple[Part, ...] = ("training",)
    """training (whole steps), forward, generation, layer (alone, with its gradients), inference
    (a layer's forward pass), scaling, remat (long windows, with and without recomputation), job;
    several with spaces between."""
    quick: bool = False
    """The course's shapes against PyTorch eager and Flax Linen only: about two minutes."""
    cells: tuple[str, ...] = ()
    """tanh, gru, lstm; all if none is named, and gru for scaling and remat."""
    shapes: tuple[str, ...] = ()
    """Shapes B,T,H,LAYERS, such as 64,8,256,1; the whole grid if none is named."""
    baselines: tuple[str, ...] = ()
    """Implementations besides ours; all of the part if none is named, and torch and flax-linen for
    scaling."""
    repetitions: int | None = None
    """Turns of each implementation; 7 if None, and 3 for job."""
    seconds: float = 0.3
    """About how long one implementation's turn lasts."""
    threads: int | None = None
    """Threads of every implementation; all cores if None."""
    gpu: bool = False
    """On a GPU, in float32 without TF32: beside PyTorch with cuDNN and, for LSTMs, cuDNN in JAX."""
    limit: float = 180.0
    """Seconds after which an implementation that does not answer is given up; ten times that for
    job."""
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
        if self.gpu and not gpus():
            raise ValueError(
                "No GPU was found (nvidia-smi lists none); leave --gpu out to use the CPU."
            )
        baselines = [name for name in IMPLEMENTATIONS if name not in (OURS, REMAT)]
        _check_names("part", self.parts, get_args(Part))
        _check_names("cell", self.cells, CELLS)
        _check_names("baseline", self.baselines, baselines)
        _check_names("recipe of job", self.recipes, JOBS)
        self._parsed_shapes()
        self.settings(self.parts[0] if self.parts else "training")

    def settings(self, part: str) -> Settings:
        """How to measure a part."""
        repetitions = JOB_REPETITIONS if part == "job" else REPETITIONS
        if self.repetitions is not None:
            repetitions = self.repetitions
        threads = len(available_cores()) if self.threads is None else self.threads
        return Settings(
            repetitions=repetitions,
            seconds=self.seconds,
            threads=threads,
            limit=self.limit,
            second_start=part == "training" and not self.quick,
            gpu=self.gpu,
        )

    def cases(self, part: str) -> list[Case]:
        """The cases of a part (not of job)."""
        named = self._parsed_shapes()
        if part == "scaling":
            curves = {shape for curve in SCALING.values() for shape in curve}
            return grid("training", self.cells or FEW_CELLS, named or sorted(curves))
        if part == "remat":
            return grid("training", self.cells or FEW_CELLS, named or LONG_SHAPES)
        cells = self.cells or CELLS
        if part == "generation":
            return grid("generation", cells, named or GENERATION_SHAPES)
        if part == "layer":
            return grid("layer", cells, named or LAYER_SHAPES)
        if part == "inference":
            return grid("inference", cells, named or INFERENCE_SHAPES)
        shapes = COURSE_SHAPES if self.quick else (*GRID, *LARGE_SHAPES)
        if self.gpu and not self.quick:
            shapes = (*shapes, *GPU_SHAPES)
        return grid("forward" if part == "forward" else "training", cells, named or shapes)

    def names(self, part: str) -> list[str]:
        """The implementations that take part."""
        if part == "remat":
            return [OURS, REMAT]
        kind = "training" if part == "scaling" else part
        able = [name for name, found in IMPLEMENTATIONS.items() if found.takes_part_in(kind)]
        able = [name for name in able if name != REMAT]
        able = [name for name in able if self.gpu in IMPLEMENTATIONS[name].devices]
        if self.baselines:
            return [name for name in able if name == OURS or name in self.baselines]
        few = self.quick or part == "scaling"
        if few and kind in ("training", "forward"):
            return [OURS, *QUICK_BASELINES]
        return able

    def _parsed_shapes(self) -> tuple[Shape, ...]:
        """The shapes that are named."""
        return tuple(parse_shape(text) for text in self.shapes)


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"There is no {what} {name!r}: take of {', '.join(known)}.")
