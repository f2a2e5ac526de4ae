"""The results file: every number, and what is needed to know where they come from."""

import datetime
import json
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.protocol import Settings
from jaxrnn.output import write_output
from jaxrnn.runs.environment import available_cores, cpu_model, versions

PARTS = ("training", "forward", "generation", "layer", "inference", "scaling", "remat", "job")
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "torch",
    "dm-haiku",
    "equinox",
    "keras",
    "onnxruntime",
)


def heading(settings: Settings, arguments: Sequence[str]) -> dict[str, Any]:
    """Command, date, machine, versions and settings."""
    return {
        "command": shlex.join(["python", "scripts/benchmark.py", *arguments]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(PACKAGES),
        "settings": asdict(settings),
        "titles": {name: implementation.title for name, implementation in IMPLEMENTATIONS.items()},
        "jax_baselines": [
            name for name, implementation in IMPLEMENTATIONS.items() if implementation.jax
        ],
    }


def machine() -> dict[str, Any]:
    """CPU model, cores that this process may use, memory, system."""
    return {
        "cpu": cpu_model(),
        "cores": len(available_cores()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def write(results: dict[str, Any], path: Path) -> None:
    """Write the results as JSON."""
    write_output(path, json.dumps(results, indent=1) + "\n", parents=True)


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote.

    Raises:
        ValueError: if the file is not there, or holds something else or an earlier format.
    """
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot read results from {path}: {error}.") from error
    if not isinstance(results, dict) or not {"machine", "settings"} <= set(results):
        raise ValueError(f"{path} holds no results of this benchmark.")
    if "repetitions" not in results["settings"]:
        raise ValueError(f"{path} is of an earlier version of this benchmark: measure again.")
    return results
