"""The benchmark suite behind `scripts/benchmark.py`."""
