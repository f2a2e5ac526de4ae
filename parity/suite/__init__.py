"""The checks of the library itself: which there are, and how they are run."""
