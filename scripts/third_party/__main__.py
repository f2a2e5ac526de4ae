"""`python -m third_party`, with the folder of this package's folder on PYTHONPATH."""

import sys

from third_party.commands import main

if __name__ == "__main__":
    sys.exit(main())
