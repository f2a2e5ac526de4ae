"""Tests of the program under `scripts/reproduction`, which is in no package.

Its modules are imported from there, for this folder alone: some 150 tests look at single functions,
and a process for each would take minutes.
"""

import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to be in; the compilation cache stays out of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
