"""Weights from and to PyTorch: the map between names and shapes, the files, whole runs."""
