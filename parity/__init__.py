"""Is it the same function? JAX against PyTorch: values, gradients, updates, trajectories."""


def _check_torch() -> None:
    """Refuse in one line to go on without PyTorch.

    Raises:
        ImportError: if it is missing; the commands print the line and exit with 2 instead.
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


# Before anything that imports torch.
_check_torch()

from jaxrnn.exchange.layouts import (  # noqa: E402
    ConcatenateInputs,
    Convolution,
    Fill,
    FoldGruBiases,
    InterleaveHeads,
    Inverse,
    OffsetGate,
    PermuteAxes,
    Reshape,
    SplitInputs,
    SplitOutputs,
    Stacked,
    Tied,
    TransposedConvolution,
)
from jaxrnn.exchange.operations import (  # noqa: E402
    Absent,
    Chain,
    FoldBiases,
    Identity,
    Operation,
    PermuteGates,
    SplitGates,
    StackLayers,
    Transpose,
)
from jaxrnn.exchange.weights import WeightMap, WeightMapError, entry  # noqa: E402
from parity.modules.check import assert_parity, check  # noqa: E402
from parity.modules.compare_models import ModelReport, compare_models  # noqa: E402
from parity.modules.convert import convert  # noqa: E402
from parity.modules.generation import check_generation  # noqa: E402
from parity.modules.suggest import SuggestedMap, suggest_map  # noqa: E402
from parity.modules.training import check_training  # noqa: E402
from parity.report.report import Report  # noqa: E402

__all__ = [
    "Absent",
    "Chain",
    "ConcatenateInputs",
    "Convolution",
    "Fill",
    "FoldBiases",
    "FoldGruBiases",
    "Identity",
    "InterleaveHeads",
    "Inverse",
    "ModelReport",
    "OffsetGate",
    "Operation",
    "PermuteAxes",
    "PermuteGates",
    "Report",
    "Reshape",
    "SplitGates",
    "SplitInputs",
    "SplitOutputs",
    "StackLayers",
    "Stacked",
    "SuggestedMap",
    "Tied",
    "Transpose",
    "TransposedConvolution",
    "WeightMap",
    "WeightMapError",
    "assert_parity",
    "check",
    "check_generation",
    "check_training",
    "compare_models",
    "convert",
    "entry",
    "suggest_map",
]
