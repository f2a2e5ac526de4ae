"""The mark `sample(count)`: so many cases of a test by default, all others with -m slow."""

import subprocess
import sys
from pathlib import Path

import pytest

TEST = "tests/test_segments.py::test_segments_change_neither_loss_nor_gradient_nor_carry"
ONE = "tests/test_transformations.py::test_an_exported_program_runs_everywhere"


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("arguments", "cases"),
    [([TEST], 4), ([TEST, "-m", "slow"], 11), ([f"{TEST}[None-3]"], 1), ([ONE], 1)],
    ids=["by default", "slow", "one by name", "one by default"],
)
def test_cases_are_sampled_unless_they_are_named(arguments, cases):
    """The first test has 15 cases, the other one 4."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    root = Path(__file__).parents[1]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    test = arguments[0].partition("[")[0]
    assert listed.stdout.count(f"{test}[") == cases
