"""Is it the same function? JAX against PyTorch: values, gradients, updates, trajectories."""

import sys
from pathlib import Path

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    missing = (
        f"parity compares with PyTorch, which cannot be imported ({error}). Install the extra "
        f"\"parity\": {sys.executable} -m pip install -e '.[parity]', in the project's folder."
    )
    # The console script; or `python -m parity`, which Python calls "-m" while it looks for it.
    started = "-m" in sys.orig_argv and sys.orig_argv[sys.orig_argv.index("-m") + 1] == "parity"
    if Path(sys.argv[0]).name == "parity" or (sys.argv[0] == "-m" and started):
        print(f"error: {missing}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(missing) from error

from jaxrnn.exchange.operations import Absent as Absent
from jaxrnn.exchange.operations import Chain as Chain
from jaxrnn.exchange.operations import FoldBiases as FoldBiases
from jaxrnn.exchange.operations import Identity as Identity
from jaxrnn.exchange.operations import PermuteGates as PermuteGates
from jaxrnn.exchange.operations import SplitGates as SplitGates
from jaxrnn.exchange.operations import StackLayers as StackLayers
from jaxrnn.exchange.operations import Transpose as Transpose
from jaxrnn.exchange.weights import WeightMap as WeightMap
from jaxrnn.exchange.weights import WeightMapError as WeightMapError
from jaxrnn.exchange.weights import entry as entry
from parity.modules import assert_parity as assert_parity
from parity.modules import check as check
from parity.report import Report as Report

__all__ = [
    "Absent",
    "Chain",
    "FoldBiases",
    "Identity",
    "PermuteGates",
    "Report",
    "SplitGates",
    "StackLayers",
    "Transpose",
    "WeightMap",
    "WeightMapError",
    "assert_parity",
    "check",
    "entry",
]
