"""Fixtures: float64, and the course's corpus where there is one. Without PyTorch, visible skips."""

import atexit
import gc
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Compilation takes most of the time here, and what is compiled runs for milliseconds. Programs
# optimized as a user's are tested by the jobs that set the variable themselves. Not level 1: there
# jaxlib 0.10.2 gives a scanned LSTM wrong gradients where the batch size is 2.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # Another emitter of fusions takes half the time; newer ones have none, and refuse its flag.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
        "--xla_cpu_use_fusion_emitters=false",
    )
else:
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1",
    )

import jax
import pytest

from jaxrnn.data.corpora import Corpus, data_folder, nietzsche

collect_ignore = ["stress"]  # programs, of which tests here run short forms

jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 on a GPU

# Compilation takes most of the time. A program that several tests compile, each for itself, is
# compiled once in a process and then read; no process reads the files of another.
PROGRAMS = tempfile.mkdtemp(prefix="jaxrnn-tests-")
atexit.register(shutil.rmtree, PROGRAMS, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", PROGRAMS)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def course_corpus() -> Corpus:
    if not (data_folder() / "nietzsche.txt").is_file():
        pytest.skip("needs nietzsche.txt in the folder that JAXRNN_DATA names")
    return nietzsche()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `sample(count)`, all but so many cases, evenly spread, are slow.

    Where no more are asked for by name, none is. A name with an address is refused: it is another
    one in each worker process.
    """
    for item in items:
        if re.search("0x[0-9a-f]{6}", item.nodeid):
            raise pytest.UsageError(f"The name of this test has an address: {item.nodeid}")
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sample"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for group in cases.values():
        (count,) = group[0].get_closest_marker("sample").args  # type: ignore[union-attr]
        if len(group) <= count:
            continue
        kept = {round(i * (len(group) - 1) / max(count - 1, 1)) for i in range(count)}
        for i, item in enumerate(group):
            if i not in kept:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """A worker has one core, and PyTorch's threads would wait for each other.

    What is there now stays to the end: the garbage collection need not look at it again and again.
    """
    gc.collect()
    gc.freeze()
    if "PYTEST_XDIST_WORKER" in os.environ and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


class MaybeWithoutTorch(pytest.Module):
    """A file of tests, which is skipped if it needs PyTorch and there is none."""

    def collect(self) -> Any:
        try:
            return super().collect()
        except self.CollectError as error:
            if _torch_is_missing(error):
                reason = f"{self.path.name} needs PyTorch, the extra 'parity'"
                pytest.skip(reason, allow_module_level=True)
            raise


def _torch_is_missing(error: BaseException | None) -> bool:
    """Whether an import failed because PyTorch is not installed."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            return True
        error = error.__cause__ or error.__context__
    return False


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module:
    """A core-only installation skips the files that need PyTorch, and says so."""
    return MaybeWithoutTorch.from_parent(parent, path=module_path)
