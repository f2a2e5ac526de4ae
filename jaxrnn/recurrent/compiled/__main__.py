"""Compile the library and the usual cells now: python -m jaxrnn.recurrent.compiled"""

import contextlib
import os
import subprocess
import sys

from jaxrnn.recurrent.compiled.generated import compile_usual
from jaxrnn.recurrent.compiled.library import SWITCH, why_unavailable

if os.environ.get(SWITCH) != "0":
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # why_unavailable says it
        compile_usual()
if reason := why_unavailable():
    print(f"note: the recurrence runs in lax.scan, which is slower: {reason}.", file=sys.stderr)
