"""The source distribution has what its own tests and scripts need."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("tests", "scripts", "jaxrnn", "parity", ".ci")
"""Folders whose files are read, imported or run by the tests."""
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt")
MADE = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")


def test_the_sdist_has_every_file_of_the_project(tmp_path):
    pytest.importorskip("setuptools")
    project = tmp_path / "project"
    project.mkdir()
    for folder in NEEDED:
        shutil.copytree(ROOT / folder, project / folder, ignore=MADE)
    for file in FILES:
        shutil.copy(ROOT / file, project / file)
    made = tmp_path / "dist"
    made.mkdir()
    build = f"import setuptools.build_meta as backend; backend.build_sdist({str(made)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=project, capture_output=True, check=True)
    (archive,) = made.iterdir()
    with tarfile.open(archive) as opened:
        members = [Path(*Path(name).parts[1:]) for name in opened.getnames()]
    expected = {p.relative_to(project) for p in project.rglob("*") if p.is_file()}
    expected = {path for path in expected if not str(path).startswith("jaxrnn.egg-info")}
    assert {Path("scripts/_environment"), Path("tests/helpers.py")} <= expected
    assert sorted(expected - set(members)) == []
