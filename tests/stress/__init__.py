"""Stress tests: faults injected into whole runs, random calls, long runs.

`./scripts/stress --help` names them. They are programs, and not collected by pytest; the tests in
the folder above run short forms of them.
"""

import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
# The helper for worker processes is shared with the programs under scripts/, which no package has.
if str(SCRIPTS) not in sys.path:
    sys.path.append(str(SCRIPTS))
