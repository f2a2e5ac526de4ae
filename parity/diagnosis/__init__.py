"""Where a difference starts, and what causes it."""
