"""Recurrences: cells, and how a cell runs over time (in a scan, or compiled). Free of Flax."""
