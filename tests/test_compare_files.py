"""`parity compare`, and the fixture for tests of ports: both say where two files differ."""

import json
import sys

import pytest
import torch

from parity import cli

ORIGINAL = """
import torch

torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.Linear(6, 3))


def make():
    return module
"""
PORT = """
import jax
import numpy as np

params = {{"0": {{"kernel": np.zeros((4, 6)), "bias": np.zeros(6)}},
           "2": {{"kernel": np.zeros((6, 3)), "bias": np.zeros(3)}}}}
inputs = [np.random.default_rng(0).normal(size=(5, 4))]


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def apply(params, x):
    return dense(params["2"], jax.nn.gelu(dense(params["0"], x), approximate={approximate}))
"""
FOUND = "forward: 1 (GELU), gelu: approximate is tanh, PyTorch has none"


@pytest.fixture
def files(tmp_path):
    def written(approximate):
        port, original = tmp_path / "port.py", tmp_path / "original.py"
        port.write_text(PORT.format(approximate=approximate))
        original.write_text(ORIGINAL)
        return str(port), str(original)

    return written


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *arguments])
    return stop.value.code


@pytest.fixture(autouse=True)
def threads():
    """The command computes in one thread."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_equal_files_exit_with_0_and_print_the_suggested_map(files, capsys):
    assert run(*files(False), "--dtypes", "float64") == 0
    printed = capsys.readouterr().out
    assert 'entry("0.weight", "0/kernel", Transpose())' in printed
    assert "PASS" in printed


def test_a_difference_exits_with_1_and_is_placed_on_the_page(files, tmp_path, capsys):
    port, original = files(True)
    folder = tmp_path / "report"
    options = ("--dtypes", "float64", "--output", str(folder))
    assert run(f"{port}:apply", f"{original}:make", *options) == 1
    assert FOUND in capsys.readouterr().out
    content = json.loads((folder / "report.json").read_text())
    (difference,) = content["differences"]
    assert (difference["module"], difference["direction"]) == ("1", "forward")
    assert content["environment"]["date"]
    page = (folder / "report.html").read_text()
    assert "What the criteria are" in page
    assert "approximate is tanh" in page
    # The heat map of the modules.
    assert "running freely" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{port}:missing", "{original}"), "defines no missing"),
        (("{port}", "{original}:params"), "defines no params"),
        (("{port}", "{port}:params"), "must be a torch.nn.Module"),
        (("{original}:make", "{original}"), "params is not defined in"),
        (("nowhere.txt", "{original}"), "Files are named as FILE.py or FILE.py:NAME"),
        (("{port}", "{original}", "--dtypes", "half"), "dtypes must be a list of some of"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(files, capsys, arguments, words):
    port, original = files(False)
    given = [argument.format(port=port, original=original) for argument in arguments]
    assert run(*given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


TEST = """
import sys
sys.path.insert(0, {folder!r})
import original
import parity
import port


def test_the_port(assert_parity):
    weight_map = parity.suggest_map(port.params, original.module)
    arguments = (port.apply, port.params, original.module, weight_map, port.inputs)
    assert_parity(*arguments, dtypes=("float64",), variants=False)
"""


@pytest.mark.sample(1)
@pytest.mark.parametrize("approximate", [False, True])
def test_the_fixture_fails_with_the_place_and_writes_reports(
    files, tmp_path, capsys, monkeypatch, approximate
):
    files(approximate)
    # What the inner run imports is gone behind it.
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("port", "original", "test_port"):
        monkeypatch.setitem(sys.modules, name, None)  # is put back behind the test
        del sys.modules[name]
    (tmp_path / "test_port.py").write_text(TEST.format(folder=str(tmp_path)))
    reports = tmp_path / "reports"
    options = ["-p", "parity.pytest_plugin", "-p", "no:cacheprovider", "--import-mode=importlib"]
    (tmp_path / "pytest.ini").write_text("[pytest]")
    options += ["--rootdir", str(tmp_path), "--parity-report", str(reports)]
    code = pytest.main([*options, str(tmp_path / "test_port.py")])
    printed = capsys.readouterr().out
    assert code == int(approximate)
    assert (FOUND in printed) == approximate
    (folder,) = reports.iterdir()
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.html"}
