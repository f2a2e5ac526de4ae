"""A cell of the user's, or one of ours, as the compiled library knows it.

The step is traced, written as C++, compiled and loaded when the cell is first used, once a process;
the compiled file is found again by the next one. A cell with another step is another cell: steps
are compared as functions, and two that were written alike compile to one file.
"""

import logging
import subprocess
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from jax.typing import DTypeLike

from jaxrnn.recurrent.cells import GRU, LSTM, RELU, TANH, Cell
from jaxrnn.recurrent.compiled.graph import NotElementwiseError
from jaxrnn.recurrent.compiled.library import SWITCH, compile_all, load_cell, reason_of
from jaxrnn.recurrent.compiled.source import Source, write_source

CELLS_REMEMBERED = 256
"""Cells that are not traced again."""

USUAL_CELLS = (TANH, RELU, GRU, LSTM)
"""The cells that are compiled at set-up; every other one when it is first used."""

_log = logging.getLogger(__name__)


class Generated(NamedTuple):
    """A cell that is compiled and loaded.

    Attributes:
        fingerprint: the name by which the library knows it.
        source: its C++ source.
    """

    fingerprint: str
    source: Source

    def residuals(self, dtype: DTypeLike) -> int:
        """How many numbers a unit the forward step keeps for the backward one."""
        return self.source.residuals[np.dtype(dtype)]

    def shared(self, dtype: DTypeLike) -> int:
        """Of how many gates, from the first one on, both halves have the same gradient."""
        return self.source.shared[np.dtype(dtype)]

    def needs_before(self, dtype: DTypeLike) -> bool:
        """Whether the backward step needs `h` before the step."""
        return self.source.needs_before[np.dtype(dtype)]


@lru_cache(maxsize=CELLS_REMEMBERED)
def generated(cell: Cell) -> Generated | None:
    """A cell, compiled and loaded; None where it has to run as `lax.scan`, which is logged once.

    The library has to be available (`jaxrnn.recurrent.compiled.library.why_unavailable`).
    """
    try:
        source = write_source(cell)
        return Generated(load_cell(source.text), source)
    except NotElementwiseError as error:
        _warn_once(f"The cell {cell.name!r} runs as lax.scan, which is slower on a CPU: {error}.")
    except (OSError, subprocess.SubprocessError) as error:
        _warn_once(
            f"The cell {cell.name!r} runs as lax.scan, which is slower on a CPU: "
            f"{reason_of(error)}. ({SWITCH}=0 says that this is meant.)"
        )
    return None


@cache
def _warn_once(message: str) -> None:
    """Log a warning once a process: a cell that is made again and again is one to its user."""
    _log.warning("%s", message)


def compile_usual() -> None:
    """Compile the library with the usual cells, if they are not there.

    Raises:
        OSError: if there is no compiler, or no folder to write to.
        subprocess.SubprocessError: if the compiler fails.
    """
    compile_all([write_source(cell).text for cell in USUAL_CELLS])
