"""A core-only installation: `parity` is refused in one line, and tests that need PyTorch skip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HIDING = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")


sys.meta_path.insert(0, Hidden())
"""
"""A `sitecustomize` under which PyTorch is not installed."""
REMEDY = "-m pip install -e '.[parity]'"
CONSOLE_SCRIPT = "import sys; sys.argv[0] = '/bin/parity'; from parity.cli import main; main()"


@pytest.fixture
def without_torch(tmp_path):
    """Runs Python with arguments where PyTorch is not installed."""
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    "arguments",
    [("-m", "parity", "check"), ("-c", CONSOLE_SCRIPT, "check")],
    ids=["module", "console script"],
)
def test_the_command_is_one_line_and_exit_code_2(without_torch, arguments):
    ran = without_torch(*arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("error: parity compares with PyTorch")
    assert REMEDY in ran.stderr


@pytest.mark.parametrize("line", ["import parity", "from parity.suite.checks import values_check"])
def test_an_import_is_an_import_error_with_the_remedy(without_torch, line):
    ran = without_torch("-c", f"try:\n    {line}\nexcept ImportError as error:\n    print(error)")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("parity compares with PyTorch")
    assert REMEDY in ran.stdout


def test_files_that_need_it_are_skipped_by_name_and_the_others_run(without_torch):
    files = ("tests/test_parity_compare.py", "tests/test_losses.py")
    ran = without_torch("-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert ran.returncode == 0, ran.stdout
    assert "test_parity_compare.py needs PyTorch, the extra 'parity'" in ran.stdout
    assert " passed, 1 skipped" in ran.stdout
