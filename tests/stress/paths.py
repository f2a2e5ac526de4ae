"""Where the processes of the stress tests find their modules."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_path() -> str:
    """The value of PYTHONPATH for them: the library of this checkout, whatever is installed."""
    return os.pathsep.join([str(ROOT), str(ROOT / "tests")])
