"""Is it the same function? JAX against PyTorch: values, gradients, updates, trajectories."""

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
