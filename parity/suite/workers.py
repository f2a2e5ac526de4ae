"""Run the suite in several processes, each of which makes the same list of checks."""

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

import torch

from jaxrnn.runs.environment import available_cores
from parity.core.compare import Finding, failures
from parity.measures.trajectories import load_text
from parity.suite.catalog import suite
from parity.suite.checks import Check
from parity.suite.shrink import reproduction

# More processes would wait for the longest check.
MOST_JOBS = 4

_checks: list[Check] = []  # of a worker process; filled once, when it starts


class Result(NamedTuple):
    """What a check gave.

    Attributes:
        name: the check's.
        findings: what it found.
        explanation: of a failure, place, cause, and lines of Python that show it; else empty.
        total: how many checks are run.
    """

    name: str
    findings: list[Finding]
    explanation: str
    total: int


def _groups(chosen: Sequence[int] | None) -> list[list[int]]:
    """The numbers of the checks that compare the same with PyTorch, by another path each.

    In one process PyTorch's long runs are made once for all of them.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for k in range(len(_checks)) if chosen is None else chosen:
        groups.setdefault((_checks[k].kind, _checks[k].pair), []).append(k)
    return list(groups.values())


def _run_group(numbers: Sequence[int], total: int) -> list[Result]:
    return [_run(k, total) for k in numbers]


def _run(k: int, total: int) -> Result:
    check = _checks[k]
    findings = check.findings()
    path = "" if check.path is None else f", {check.path}"
    explanation = ""
    if failures(findings):
        # Explained here, where the check is: it cannot be sent to another process.
        place = f"{check.pair}, {check.kind}{path}: {check.diagnosis()}"
        explanation = f"{place}\n{reproduction(check)}"
    return Result(f"{check.kind}: {check.pair}{path}", findings, explanation, total)


def results(
    *, quick: bool, corpus: str | None, tf32: bool, jobs: int, chosen: Sequence[int] | None = None
) -> Iterator[Result]:
    """The results of the suite, in the order in which they finish.

    With one job everything runs in this process. The worker processes of the quick form compile
    without XLA's optimizations, which would take most of its time.

    Args:
        quick: as `suite`.
        corpus: what the trajectories train on.
        tf32: as `suite`.
        jobs: how many processes.
        chosen: the numbers of checks; None for all.
    """
    if jobs == 1:
        _prepare(quick, corpus, tf32)
        groups = _groups(chosen)
        total = sum(map(len, groups))
        for group in groups:
            yield from (_run(k, total) for k in group)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's threads
    options = (quick, corpus, tf32)
    with (
        _few_passes() if quick else contextlib.nullcontext(),
        ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=options) as pool,
    ):
        # Checks are named by number, for functions cannot be sent to another process.
        groups = pool.submit(_groups, chosen).result()
        total = sum(map(len, groups))
        tasks = [pool.submit(_run_group, group, total) for group in groups]
        for future in as_completed(tasks):
            yield from future.result()


@contextlib.contextmanager
def _few_passes() -> Iterator[None]:
    """Within it new processes compile without XLA's optimizations, unless flags are given."""
    before = os.environ.get("XLA_FLAGS")
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    try:
        yield
    finally:
        if before is None:
            del os.environ["XLA_FLAGS"]


def default_jobs(*, gpu: bool) -> int:
    """One process for each core that this one may use; a single one where they share a GPU."""
    return 1 if gpu else min(len(available_cores()), MOST_JOBS)


def _prepare(quick: bool, corpus: str | None, tf32: bool) -> None:
    torch.set_num_threads(1)  # the number of threads changes the order of summation
    _checks[:] = suite(quick=quick, text=load_text(corpus), tf32=tf32)
