"""The notebook that verifies a port runs from top to bottom, and finds what is wrong."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
CODE = [
    "".join(cell["source"])
    for cell in json.loads((EXAMPLES / "verify_a_port.ipynb").read_text())["cells"]
    if cell["cell_type"] == "code"
]


def test_the_notebook_is_short():
    lines = [line for cell in CODE for line in cell.splitlines() if line.strip()]
    assert len(lines) <= 30


@pytest.mark.slow
def test_the_notebook_verifies_both_models_and_their_training(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names: dict = {}
    for cell in CODE:
        exec(cell, names)
    assert set(names["reports"]) == {"Transformer", "ConvNet"}
    for reports in names["reports"].values():
        assert [report.passed for report in reports] == [True, True]
    assert "FAIL" not in capsys.readouterr().out


def test_a_mistake_in_the_port_is_placed(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names: dict = {}
    for cell in CODE[:-1]:
        exec(cell, names)
    monkeypatch.setattr(
        names["port"].nn, "GroupNorm", wrong_second_norm(names["port"].nn.GroupNorm)
    )
    comparison = next(names["verified"]("ConvNet"))
    (found,) = comparison.differences
    assert (found.module, found.direction) == ("norm2", "forward")
    assert "eps is 0.001, PyTorch has 1e-05" in found.cause


def wrong_second_norm(right):
    def norm(groups, *, epsilon, name):
        return right(groups, epsilon=1e-3 if name == "norm2" else epsilon, name=name)

    return norm
