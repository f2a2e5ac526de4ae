"""Tests of the programs under `scripts/`, which are in no package.

Their modules are imported from there. To start a process for each property would take minutes, and
what a protocol does with a worker that dies is seen only with one that is made up.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
