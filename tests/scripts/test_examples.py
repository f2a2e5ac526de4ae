"""The notebook that verifies a port runs from top to bottom, and finds what is wrong."""

from pathlib import Path

import notebooks
import pytest

pytest.importorskip("torch")
EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
NOTEBOOK = EXAMPLES / "verify_a_port.ipynb"
CODE = list(notebooks.code_of(NOTEBOOK).values())


def test_the_notebook_is_short():
    lines = [line for cell in CODE for line in cell.splitlines() if line.strip()]
    assert len(lines) <= 30


@pytest.mark.slow
def test_the_notebook_verifies_both_models_and_their_training():
    then = """
    assert set(reports) == {"Transformer", "ConvNet"}
    for both in reports.values():
        assert [report.passed for report in both] == [True, True]
    """
    # It imports the two files beside it.
    executed = notebooks.execute(NOTEBOOK, EXAMPLES, then=then, timeout=600)
    printed = notebooks.text_of(executed)
    assert "Transformer" in printed
    assert "FAIL" not in printed


@pytest.mark.slow
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
