"""Compile the recurrence now: python -m jaxrnn.recurrent.compiled"""

import sys

from jaxrnn.recurrent.compiled.library import why_unavailable

if reason := why_unavailable():
    print(f"note: the recurrence runs in lax.scan, which is slower: {reason}.", file=sys.stderr)
