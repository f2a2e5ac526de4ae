"""Run the suite in several processes, each of which makes the same list of checks."""

import multiprocessing
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
    """

    name: str
    findings: list[Finding]
    explanation: str


def _run(k: int) -> Result:
    check = _checks[k]
    findings = check.findings()
    path = "" if check.path is None else f", {check.path}"
    explanation = ""
    if failures(findings):
        # Explained here, where the check is: it cannot be sent to another process.
        place = f"{check.pair}, {check.kind}{path}: {check.diagnosis()}"
        explanation = f"{place}\n{reproduction(check)}"
    return Result(f"{check.kind}: {check.pair}{path}", findings, explanation)


def results(
    *, quick: bool, corpus: str | None, tf32: bool, chosen: Sequence[int], jobs: int
) -> Iterator[Result]:
    """The results of the chosen checks of the suite, in the order in which they finish.

    With one job everything runs in this process.
    """
    if jobs == 1:
        _prepare(quick, corpus, tf32)
        yield from map(_run, chosen)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's threads
    options = (quick, corpus, tf32)
    with ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=options) as pool:
        # Checks are named by number, for functions cannot be sent to another process.
        for future in as_completed([pool.submit(_run, k) for k in chosen]):
            yield future.result()


def default_jobs(*, gpu: bool) -> int:
    """One process for each core that this one may use; a single one where they share a GPU."""
    return 1 if gpu else min(len(available_cores()), MOST_JOBS)


def _prepare(quick: bool, corpus: str | None, tf32: bool) -> None:
    torch.set_num_threads(1)  # the number of threads changes the order of summation
    _checks[:] = suite(quick=quick, text=load_text(corpus), tf32=tf32)
