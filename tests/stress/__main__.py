"""`python -m stress`, with tests/ on the path: what ./scripts/stress runs."""

import sys

from stress.cli import main

if __name__ == "__main__":
    sys.exit(main())
