"""Each package in a process of its own, so that none disturbs another, and a crash costs one."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jaxrnn.runs.worker_process import WorkerError, WorkerProcess
from third_party.packages import Package
from third_party.verdicts import Verdict

ROOTS = (Path(__file__).parents[1], Path(__file__).parents[2])
"""Where a process finds this program, and the libraries of the same checkout."""
LONGEST = 600.0
"""Seconds that one case may take."""


@dataclass
class Results:
    """What has been found of a package.

    Attributes:
        package: the package.
        version: that is installed; empty if there is none.
        verdicts: one for each case.
        missing: why there are no more, or none at all; empty if all is there.
    """

    package: Package
    version: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    missing: str = ""


def check_packages(
    packages: Sequence[Package], *, folder: Path, jobs: int, log: Callable[[str], None]
) -> list[Results]:
    """Check packages, several at once.

    Args:
        packages: the packages.
        folder: where those are installed whose needs do not fit.
        jobs: processes at once.
        log: is given a line for each verdict.

    Returns:
        The results in the order of the packages.
    """
    check = partial(_checked, folder=folder, log=log)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(check, packages))


def _checked(package: Package, *, folder: Path, log: Callable[[str], None]) -> Results:
    results = Results(package)
    worker = start_worker(package, folder)
    try:
        while _take(worker.receive(LONGEST), results):
            if results.verdicts:
                last = results.verdicts[-1]
                log(f"{package.name}: {last.module}: {last.verdict}")
    except WorkerError as error:
        results.missing = str(error)
    finally:
        worker.close()
    if results.missing:
        log(f"{package.name}: {results.missing}")
    return results


def _take(message: dict[str, Any], results: Results) -> bool:
    """Put a message where it belongs; returns whether another will follow."""
    if "missing" in message:
        results.missing = message["missing"]
        return False
    if "done" in message:
        return False
    if "modules" in message:
        results.version = message["version"]
    else:
        results.verdicts.append(Verdict(**message))
    return True


def start_worker(package: Package, folder: Path, *options: str) -> WorkerProcess:
    """The process of a package.

    Args:
        package: the package.
        folder: where packages are installed whose needs do not fit.
        options: of `third_party.worker`.
    """
    paths = [str(root) for root in ROOTS]
    if package.apart:
        paths.append(str(folder))
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        # The same numbers wherever it runs: on the CPU, where float64 is exact to its round-off.
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "third_party.worker", package.name, *options]
    return WorkerProcess(command, env=env)
