"""Faults put into real runs. Try: python scripts/faults.py --help"""

import sys

from drills.cli import main

if __name__ == "__main__":
    sys.exit(main())
