"""The implementations: ours, and each baseline as its own documentation recommends it."""
