"""Modules that are not ours: any pure JAX function against any PyTorch module."""
