"""For tests of ports: a fixture that compares, and the reports of all tests in one folder.

Put `pytest_plugins = ["parity.pytest_plugin"]` into the outermost conftest.py. Then

    def test_the_port_is_the_same_function(assert_parity):
        assert_parity(apply, params, module, weight_map, [x])

fails with the module, the direction and the cause of a difference, and
`pytest --parity-report reports` writes a page and every number of each such test.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.modules.compare_models import compare_models
from parity.report.page import html_page


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--parity-report`."""
    parser.addoption(
        "--parity-report",
        metavar="FOLDER",
        help="write a page and every number of each comparison with PyTorch into this folder",
    )


@pytest.fixture
def assert_parity(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`parity.compare_models` with the same arguments; the test fails unless the report passes."""

    def compared(*arguments: Any, **options: Any) -> None:
        report = compare_models(*arguments, **options)
        folder = request.config.getoption("--parity-report")
        if folder:
            target = Path(folder) / re.sub(r"[^\w.-]+", "_", request.node.nodeid)
            target.mkdir(parents=True, exist_ok=True)
            (target / "report.json").write_text(report.to_json(), encoding="utf-8")
            (target / "report.html").write_text(html_page(report), encoding="utf-8")
        if not report.passed:
            pytest.fail(report.summary(), pytrace=False)

    return compared
