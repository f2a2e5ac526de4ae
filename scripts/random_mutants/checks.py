"""The checks of the quick parity check, by name. Imports what may be a mutant."""

import torch

from parity.measures.trajectories import load_text
from parity.suite.catalog import suite
from parity.suite.checks import Check


def named_checks() -> dict[str, Check]:
    """Every check of `parity check --quick`, by a name of its own, in the suite's order."""
    torch.set_num_threads(1)  # the number of threads changes the order of summation
    named: dict[str, Check] = {}
    for check in suite(quick=True, text=load_text(None)):
        path = "" if check.path is None else f", {check.path}"
        name = f"{check.kind}: {check.pair}{path}"
        if name in named:
            raise ValueError(f"Two checks have the name {name!r}.")
        named[name] = check
    return named
