"""The plug-in of pytest that runs the chosen tests in their order, and tells how far it is."""

from collections.abc import Iterator

import pytest

from random_mutants.worker import Progress, Task, ranks, share_programs


class Chosen:
    """Runs the tests of a task alone, in its order.

    Args:
        task: the tests.
        progress: what becomes of them.
    """

    def __init__(self, task: Task, progress: Progress) -> None:
        self._task = task
        self._progress = progress
        self._ranks = ranks(task.names)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        # After the tests' own settings, which are those of a run without mutants.
        share_programs(self._task.programs)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._ranks]
        items[:] = sorted(chosen, key=lambda item: self._ranks[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._progress.begin(item.nodeid, self._task.result)
        result = yield
        self._progress.ran += 1
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._progress.fail(report.nodeid, _last_line(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._progress.fail(f"import of {report.nodeid}", _last_line(report))


def _last_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)
    lines = str(report.longrepr).strip().splitlines()
    return lines[-1] if lines else ""
