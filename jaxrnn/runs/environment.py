"""The machine and its software, as files of results record them."""

import contextlib
import datetime
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
    # Not by import: some of them are slow to import, or are not needed.
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


POOL = "PJRT_NPROC"
"""Environment variable from which XLA takes the size of its thread pool on a CPU."""


def pool_size() -> int:
    """Number of threads XLA computes with: on a CPU, the order of its sums depends on it."""
    # As XLA reads it: anything but a positive number is ignored.
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
    device = jax.default_backend()
    is_compiled = device == "cpu" and why_unavailable() is None
    # Sums of floats depend on their order, which all of these decide.
    return {
        "device": device,
        "threads": pool_size(),  # a sum is split among them
        # The width of the vectors, in bits, that a sum is gathered in.
        "compiled recurrence": vector_bytes() * 8 if is_compiled else "off",
        "x64": bool(jax.config.read("jax_enable_x64")),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),  # may allow XLA to reorder sums
        "processor": cpu_model(),  # by which XLA chooses its vectors
    }


def named_versions(found: Mapping[str, Any]) -> dict[str, Any]:
    """Versions under the names that they have in a sentence."""
    return {f"The version of {package}": version for package, version in found.items()}


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has another value now than was recorded, a sentence each."""
    sentences = []
    for name, value in recorded.items():
        if name in now and now[name] != value:
            sentences.append(
                f"{name} was {value!r:.100} when the run began, and is {now[name]!r:.100}: from "
                "here on its last bits may be others."
            )
    return sentences


def cpu_model() -> str:
    """The name of the processor, as far as the system tells."""
    # Only Linux has this file; `platform.processor` is often empty there.
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def resident_memory() -> int:
    """Bytes of memory that this process has now, as far as the system tells; 0 if it does not."""
    return _status("VmRSS")


def peak_memory() -> int:
    """The most bytes of memory that this process has had, as `resident_memory` counts."""
    # Not by `getrusage`: on Linux it may count the process that started this one.
    return _status("VmHWM")


def _status(name: str) -> int:
    """A number of bytes in the status of this process, which Linux keeps as a file."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def provenance(packages: Iterable[str]) -> dict[str, Any]:
    """With what, where and when something is found: versions, machine and date."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "versions": versions(packages),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count() or 1},
        "date": now.isoformat(timespec="seconds"),
    }
