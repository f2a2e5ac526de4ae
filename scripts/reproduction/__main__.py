"""`python -m reproduction`, with the folder of this package's folder on PYTHONPATH."""

import sys

from reproduction.commands import main

if __name__ == "__main__":
    sys.exit(main())
