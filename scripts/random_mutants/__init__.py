"""Random mutants of the package's own sources, and which of them the tests and parity catch."""
