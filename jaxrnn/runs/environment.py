"""Where something is computed: what a file of results says of the machine and its software."""

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from jaxrnn.recurrent.compiled.library import vector_bytes, why_unavailable


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


POOL = "PJRT_NPROC"
"""The environment variable from which XLA takes the size of its pool of threads on a CPU."""


def pool_size() -> int:
    """How many threads XLA computes with: on a CPU, the order of its sums depends on it."""
    chosen = os.environ.get(POOL, "")
    if chosen.isdigit() and int(chosen):
        return int(chosen)
    return len(available_cores())


def available_cores() -> list[int]:
    """The numbers of the processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def computation() -> dict[str, Any]:
    """What the last bits of results depend on, beside the versions of packages."""
    native = why_unavailable() is None if jax.default_backend() == "cpu" else False
    return {
        "device": jax.default_backend(),
        "threads": pool_size(),
        "compiled recurrence": vector_bytes() * 8 if native else "off",
        "x64": bool(jax.config.read("jax_enable_x64")),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "processor": cpu_model(),
    }


def named_versions(found: Mapping[str, Any]) -> dict[str, Any]:
    """Versions by what a sentence calls them."""
    return {f"The version of {package}": version for package, version in found.items()}


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another value now than was recorded, a sentence each."""
    return [
        f"{name} was {_short(value)} when the run began, and is {_short(now.get(name))}: from here "
        "on its last bits may be others."
        for name, value in recorded.items()
        if name in now and now[name] != value
    ]


def _short(value: Any) -> str:
    return f"{value!r}"[:100]


def cpu_model() -> str:
    """The name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
