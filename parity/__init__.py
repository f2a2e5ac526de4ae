"""Is it the same function? JAX against PyTorch: values, gradients, updates, trajectories."""

from parity.modules import assert_parity as assert_parity
from parity.modules import check as check
from parity.operations import Absent as Absent
from parity.operations import Chain as Chain
from parity.operations import FoldBiases as FoldBiases
from parity.operations import Identity as Identity
from parity.operations import PermuteGates as PermuteGates
from parity.operations import SplitGates as SplitGates
from parity.operations import StackLayers as StackLayers
from parity.operations import Transpose as Transpose
from parity.report import Report as Report
from parity.weights import WeightMap as WeightMap
from parity.weights import entry as entry
