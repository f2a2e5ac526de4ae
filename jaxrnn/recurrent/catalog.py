"""All cells by name: what the command line and a run's configuration choose from."""

from typing import Any

from jaxrnn.recurrent.cells import GATED_CELLS, AnyCell, Cell, FreeCell
from jaxrnn.recurrent.free_cells import FREE_CELLS
from jaxrnn.recurrent.linear_cells import LINEAR_CELLS
from jaxrnn.recurrent.zoneout import ZONEOUT_CELLS
from jaxrnn.registry import Registry


def check_cell(cell: Any) -> None:
    """Refuse what is neither a `Cell` nor a `FreeCell`.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(cell, Cell | FreeCell):
        raise ValueError(f"it is of type {type(cell).__name__}, not a jaxrnn.Cell or FreeCell.")


BUILT_IN: tuple[AnyCell, ...] = (*GATED_CELLS, *LINEAR_CELLS, *ZONEOUT_CELLS, *FREE_CELLS)

CELLS: Registry[AnyCell] = Registry("cell", check_cell, {cell.name: cell for cell in BUILT_IN})
"""The cells by name. One of your own is FILE.py:NAME, or is put in: `CELLS["mine"] = MINE`."""
