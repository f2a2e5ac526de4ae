"""Train and generate for long, and see that memory stays flat and nothing is compiled again.

One training after the other compiles anew; there the memory maps have to stay few, too.
"""

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from jaxrnn import (
    CELLS,
    BpttStream,
    CharLM,
    Sampler,
    Vocabulary,
    fit,
    make_optimizer,
    make_state,
)
from jaxrnn.generation.texts import generate_texts
from jaxrnn.training.loop import training
from jaxrnn.training.schedules import parse_schedule

WARM = 0.2
"""Share of a test after which memory must no longer grow: caches are full by then."""
ALLOWED = 8.0
"""MiB that memory may still grow then: pages that the allocator keeps, no leak of a step."""
ALLOWED_MAPS = 50
"""Memory maps that may still be added then: the allocator's, where each program adds some 20."""

ALLOWED_MAPS_OF_TRAININGS = 1_000
"""Memory maps that may come in the second half of many trainings: some dozen programs."""
ALLOWED_BY_TRAININGS = 64.0
"""MiB that memory may grow meanwhile: models of other sizes, and pages that stay."""

CHARACTERS = "abcdefgh"
LONGEST_PROMPT = 128
LONGEST_TEXT = 256


class Measured(NamedTuple):
    """The measurements of a test.

    Attributes:
        what: what was done, in words.
        memory: resident MiB over time.
        compilations: programs compiled after the warm part.
        maps: memory maps of the process over time, of which a system allows some 65,000.
    """

    what: str
    memory: list[float]
    compilations: int
    maps: Sequence[int] = ()

    @property
    def growth(self) -> float:
        """MiB between the end of the warm part and the end, medians of a few values each."""
        begin = int(len(self.memory) * WARM)
        few = max(1, len(self.memory) // 10)
        before = np.median(self.memory[begin : begin + few])
        after = np.median(self.memory[-few:])
        return float(after - before)

    @property
    def flat(self) -> bool:
        """Whether memory and its maps stayed flat and nothing was compiled."""
        if self.compilations:
            return False
        return self.growth <= ALLOWED and self.more_maps <= ALLOWED_MAPS

    @property
    def more_maps(self) -> int:
        """Memory maps that were added after the warm part."""
        if not self.maps:
            return 0
        begin = int(len(self.maps) * WARM)
        return self.maps[-1] - self.maps[begin]

    def __str__(self) -> str:
        maps = f" {self.maps[-1]:,} memory maps, {self.more_maps:+,}." if self.maps else ""
        return (
            f"{self.what}: {self.memory[0]:.1f} MiB at first, {self.memory[-1]:.1f} at last, "
            f"{self.growth:+.1f} after the warm part; {self.compilations} programs compiled there."
            f"{maps}"
        )


class CompilationCounter:
    """Counts the programs that JAX compiles while it is entered."""

    def __enter__(self) -> "CompilationCounter":
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)
        return self

    def __exit__(self, *details: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._count)

    def _count(self, event: str, duration_secs: float, **details: str | int) -> None:
        self.count += event.endswith("backend_compile_duration")


def train_for(seconds: float) -> Measured:
    """Train a small model with random windows for so long, validation included."""
    tokens = np.random.default_rng(0).integers(0, 20, 20_000).astype(np.uint8)
    source = BpttStream(tokens, 8, 10, random_bptt=True)
    validation = BpttStream(tokens[:2_000], 8, 10, random_bptt=True)
    model = CharLM(20, 8, 32)
    optimizer = make_optimizer("adam")
    state = make_state(model, optimizer, 8, jax.random.key(0))
    schedule = parse_schedule("1000000 x 1e-3")
    memory = []
    compiled_when_warm = 0
    began = time.monotonic()
    with CompilationCounter() as counter:
        for progress in training(model, source, validation, schedule, optimizer, state):
            passed = time.monotonic() - began
            memory.append(resident())
            if progress.position.epoch < 1 or passed < WARM * seconds:
                compiled_when_warm = counter.count
            elif passed > seconds:
                break
    steps = int(progress.state.step)
    compilations = counter.count - compiled_when_warm
    return Measured(f"{steps:,} steps in {passed:.0f} s", memory, compilations)


class Trained(NamedTuple):
    """The measurements of a process after each of many trainings.

    Attributes:
        maps: its memory maps, of which Linux allows 65,530.
        memory: its resident MiB.
    """

    maps: list[int]
    memory: list[float]

    @property
    def more_maps(self) -> int:
        """Memory maps above the most of the first half."""
        half = len(self.maps) // 2
        return max(self.maps[half:]) - max(self.maps[:half])

    @property
    def more_memory(self) -> float:
        """MiB above the most of the first half."""
        half = len(self.memory) // 2
        return max(self.memory[half:]) - max(self.memory[:half])

    @property
    def flat(self) -> bool:
        """Whether maps and memory stayed flat in the second half."""
        flat_maps = self.more_maps <= ALLOWED_MAPS_OF_TRAININGS
        return flat_maps and self.more_memory <= ALLOWED_BY_TRAININGS

    def __str__(self) -> str:
        return (
            f"{len(self.maps)} trainings: {self.maps[-1]:,} memory maps and "
            f"{self.memory[-1]:.0f} MiB at last; {self.more_maps:+,} and {self.more_memory:+.0f} "
            "in the second half."
        )


def train_many(trainings: int) -> Trained:
    """Train small models, no two alike, with optimizers of ours and of optax's in turn."""
    tokens = np.random.default_rng(0).integers(0, 20, 400).astype(np.uint8)
    cells = list(CELLS.values())
    maps = []
    memory = []
    for number in range(trainings):
        model = CharLM(20, 4, 8 + number % 25, cell=cells[number % 4], num_layers=1 + number % 2)
        if number % 2:  # two layers, between which dropout acts
            model = model.copy(dropout=0.1 + number / 10_000)
        source = BpttStream(tokens, 3 + number % 5, 5 + number % 7)
        if number % 3:
            optimizer = make_optimizer("adam", clip=1.0 + number)
            fit(model, source, source, optimizer=optimizer, schedule="1 x 1e-3", seed=number)
        else:
            fit(model, source, source, optimizer=optax.adam(1e-3), epochs=1, seed=number)
        maps.append(memory_maps())
        memory.append(resident())
    return Trained(maps, memory)


def generate_many(texts: int) -> Measured:
    """Generate texts, each from a prompt, at a temperature and of a length of its own.

    The first ones have the longest prompt and text of every size that a program is made for.
    """
    vocabulary = Vocabulary.from_characters([CHARACTERS])
    model = CharLM(len(vocabulary), 8, 32)
    params = make_state(model, make_optimizer("sgd"), 1, jax.random.key(0)).params
    memory = []
    maps = []
    compiled_when_warm = 0
    rng = np.random.default_rng(0)
    prompts = (8, 16, 32, 64, LONGEST_PROMPT)
    lengths = (1, 64, 128, LONGEST_TEXT)
    sizes = [(prompt, length) for prompt in prompts for length in lengths]
    with CompilationCounter() as counter:
        for number in range(texts):
            if number < len(sizes):
                prompt_length, length = sizes[number]
            else:
                prompt_length, length = rng.integers(1, (LONGEST_PROMPT + 1, LONGEST_TEXT + 1))
            prompt = "".join(rng.choice(list(CHARACTERS), prompt_length))
            generate_texts(
                model,
                params,
                vocabulary,
                prompt,
                window=8,
                length=int(length),
                sampler=Sampler(temperature=float(rng.uniform(0.1, 3))),
                seed=number,
            )
            memory.append(resident())
            maps.append(memory_maps())
            if number < WARM * texts:
                compiled_when_warm = counter.count
    what = f"{texts:,} texts from prompts, at temperatures and of lengths of their own"
    return Measured(what, memory, counter.count - compiled_when_warm, maps)


def memory_maps() -> int:
    """The memory maps of this process: each compiled program has some."""
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


def resident() -> float:
    """The resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
