"""The process that checks one package: `python -m third_party.worker NAME`.

Its messages, in this order: {"version": ..., "modules": [...]} or {"missing": why}, then a verdict
for each case, then {"done": true}. With `--list` after the name no case is checked.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from jaxrnn.runs.worker_process import Channel
from third_party.packages import BY_NAME, Package


def main(arguments: Sequence[str]) -> int:
    """Check the package; returns the exit code."""
    channel = Channel()
    package = BY_NAME[arguments[0]]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = importlib.import_module(package.cases).CASES
    except Exception as error:  # whatever another package raises when it is imported
        channel.emit({"missing": _why(package, error)})
        return 0
    modules = [case.module for case in cases]
    channel.emit({"version": version(package.distribution), "modules": modules})
    if "--list" not in arguments:
        from third_party.verdicts import verdict_of

        for case in cases:
            channel.emit(verdict_of(case).to_json())
    channel.emit({"done": True})
    return 0


def _why(package: Package, error: Exception) -> str:
    try:
        found = version(package.distribution)
    except PackageNotFoundError:
        return "not installed"
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"version {found} cannot be imported: {reason}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
