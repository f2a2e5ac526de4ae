"""Is it the same function? JAX against PyTorch: values, gradients, updates, trajectories."""


def _check_torch() -> None:
    """Say in one line that PyTorch is missing, where that is so.

    Raises:
        ImportError: if it is; the commands print the line and exit with 2 instead.
    """
    import sys
    from pathlib import Path

    try:
        import torch  # noqa: F401
    except ImportError as error:
        missing = (
            f"parity compares with PyTorch, which cannot be imported ({error}). Install the extra "
            f"\"parity\": {sys.executable} -m pip install -e '.[parity]', in the project's folder."
        )
        # The console script; or `python -m parity`, which Python calls "-m" while it looks for it.
        options = sys.orig_argv
        started = "-m" in options and options[options.index("-m") + 1] == "parity"
        if Path(sys.argv[0]).name == "parity" or (sys.argv[0] == "-m" and started):
            print(f"error: {missing}", file=sys.stderr)
            sys.exit(2)
        raise ImportError(missing) from error


_check_torch()

from jaxrnn.exchange.operations import Absent as Absent  # noqa: E402
from jaxrnn.exchange.operations import Chain as Chain  # noqa: E402
from jaxrnn.exchange.operations import FoldBiases as FoldBiases  # noqa: E402
from jaxrnn.exchange.operations import Identity as Identity  # noqa: E402
from jaxrnn.exchange.operations import PermuteGates as PermuteGates  # noqa: E402
from jaxrnn.exchange.operations import SplitGates as SplitGates  # noqa: E402
from jaxrnn.exchange.operations import StackLayers as StackLayers  # noqa: E402
from jaxrnn.exchange.operations import Transpose as Transpose  # noqa: E402
from jaxrnn.exchange.weights import WeightMap as WeightMap  # noqa: E402
from jaxrnn.exchange.weights import WeightMapError as WeightMapError  # noqa: E402
from jaxrnn.exchange.weights import entry as entry  # noqa: E402
from parity.modules import assert_parity as assert_parity  # noqa: E402
from parity.modules import check as check  # noqa: E402
from parity.report.report import Report as Report  # noqa: E402

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
