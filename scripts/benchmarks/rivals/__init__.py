"""The contestants: ours, and each rival as its own documentation recommends it."""
