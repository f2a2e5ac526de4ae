"""`python -m parity`: the command line."""

from parity.cli import main

if __name__ == "__main__":  # not in the processes that the suite starts
    main()
