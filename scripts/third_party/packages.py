"""The packages whose modules are checked, and where they are found."""

import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(sys.prefix) / "third-party"
"""Where `./scripts/third-party` installs packages whose needs do not fit this library's: without
their own dependencies, and seen by no process but theirs."""


@dataclass(frozen=True)
class Package:
    """A package, or a part of one, that is checked in a process of its own.

    Attributes:
        name: as it is chosen on the command line, and as the table calls it.
        distribution: as it is installed.
        cases: the module with the cases, `CASES`.
        apart: whether it is looked for in the folder of packages that do not fit, too.
    """

    name: str
    distribution: str
    cases: str
    apart: bool = False


PACKAGES = (
    Package("equinox", "equinox", "third_party.equinox_cases"),
    Package("flax-linen", "flax", "third_party.linen_cases"),
    Package("flax-nnx", "flax", "third_party.nnx_cases"),
    Package("haiku", "dm-haiku", "third_party.haiku_cases"),
    Package("jax", "jax", "third_party.jax_cases"),
    Package("keras", "keras", "third_party.keras_cases"),
    Package("mingru-pytorch", "minGRU-pytorch", "third_party.mingru_cases", apart=True),
    Package("recurrentgemma", "recurrentgemma", "third_party.recurrentgemma_cases", apart=True),
)
BY_NAME = {package.name: package for package in PACKAGES}
