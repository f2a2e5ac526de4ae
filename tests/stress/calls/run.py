"""Random calls of every public function on every backend: no crash, no difference, one message.

Calls run in processes of their own, so that one that ends its process is found and the others go
on behind it. Each new shape leaves compiled programs and their memory maps behind, so a process
makes a few hundred calls.
"""

import os
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from jaxrnn.runs.worker_process import WorkerEndedError, WorkerProcess, WorkerTimeoutError
from stress.calls.call import Call
from stress.calls.sampling import sample_call
from stress.paths import python_path

TRACED_IN_A_PROCESS = 1000
EXECUTED_IN_A_PROCESS = 300
PATIENCE = 180.0
"""Seconds without a message after which a process is taken to hang."""


@dataclass(frozen=True)
class WrongCall:
    """A call that did not do what it must.

    Attributes:
        call: the call.
        fault: what was wrong.
    """

    call: Call
    fault: str

    @property
    def kind(self) -> str:
        """The fault without numbers and shapes, which is the same for calls with the same cause."""
        plain = re.sub(r"\([^()]*\)|\[[^\[\]]*\]|0x[0-9a-f]+|-?\d[\d.e+-]*", "_", self.fault)
        return f"{self.call.subject}: {plain}"[:160]


@dataclass
class Outcome:
    """The outcome of random calls.

    Attributes:
        traced: how many calls were made on shapes alone.
        executed: how many were executed.
        right: how many of all had no mistake in them.
        wrong: what was wrong.
    """

    traced: int = 0
    executed: int = 0
    right: int = 0
    wrong: list[WrongCall] = field(default_factory=list)

    def with_part(self, other: "Outcome") -> "Outcome":
        """Both together."""
        return Outcome(
            self.traced + other.traced,
            self.executed + other.executed,
            self.right + other.right,
            [*self.wrong, *other.wrong],
        )

    def report(self, *, each: int = 1) -> str:
        """The kinds of faults, the most frequent first, with `each` programs of every kind."""
        kinds = Counter(wrong.kind for wrong in self.wrong)
        lines = []
        for kind, count in kinds.most_common():
            lines.append(f"{count} x {kind}")
            examples = [wrong for wrong in self.wrong if wrong.kind == kind]
            examples.sort(key=lambda wrong: len(wrong.call.program()))
            for wrong in examples[:each]:
                call = wrong.call
                lines.append(f"  call {call.number}, {call.what}: {wrong.fault[:400]}")
                lines.append(textwrap.indent(call.program(), "    "))
        return "\n".join(lines)


def make_calls(
    calls: int,
    executed: int,
    seed: int = 0,
    *,
    first: int = 0,
    jobs: int = 1,
    variables: Mapping[str, str] | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Make random calls.

    Args:
        calls: how many to make on shapes alone.
        executed: how many to execute.
        seed: of the sampling.
        first: the number of the first call of each sort.
        jobs: how many processes to run at once.
        variables: more environment variables of the processes.
        log: is given the progress, a line a process.
    """
    outcome = Outcome()
    for count, is_executed, most in (
        (calls, False, TRACED_IN_A_PROCESS),
        (executed, True, EXECUTED_IN_A_PROCESS),
    ):
        # The calls of each process: the number of the first one, and how many.
        begins = range(0, count, most)
        firsts = [first + begin for begin in begins]
        counts = [min(most, count - begin) for begin in begins]
        part = partial(_make_part, seed, is_executed, variables or {})
        with ThreadPoolExecutor(jobs) as threads:
            for one in threads.map(part, firsts, counts):
                outcome = outcome.with_part(one)
                kind = "executed" if is_executed else "traced"
                done = outcome.executed if is_executed else outcome.traced
                log(f"{kind} {done} of {count}, {len(outcome.wrong)} faults")
    return outcome


def _make_part(
    seed: int, executed: bool, variables: Mapping[str, str], first: int, count: int
) -> Outcome:
    """Make some calls, in one process or, where one dies, in the next."""
    outcome = Outcome()
    begin = first
    while begin < first + count:
        left = first + count - begin
        begin += _make_in_process(outcome, seed, executed, variables, begin, left)
    return outcome


def _make_in_process(
    outcome: Outcome,
    seed: int,
    executed: bool,
    variables: Mapping[str, str],
    first: int,
    count: int,
) -> int:
    """Make calls in one process, until one ends it.

    Returns:
        How many it made, that one too.

    Raises:
        RuntimeError: if the process does not start.
    """
    kind = "executed" if executed else "shapes"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": python_path(),
        "JAX_TRACEBACK_FILTERING": "off",  # a message is ours if it is raised in our files
        "PYTHONWARNINGS": "ignore",
        **variables,
    }
    arguments = [str(seed), str(first), str(count), kind]
    worker = WorkerProcess(
        [sys.executable, "-m", "stress.calls.worker", *arguments], env=environment
    )
    made = 0
    under_way = False
    reason = ""
    try:
        while True:
            number, faults = worker.receive(PATIENCE)
            under_way = faults is None
            if faults is None:
                continue
            made += 1
            call = sample_call(seed, number, executed=executed)
            outcome.right += call.what == "right"
            outcome.wrong += [WrongCall(call, fault) for fault in faults]
    except WorkerTimeoutError:
        worker.kill()
        reason = "it hung"
    except WorkerEndedError:
        reason = worker.last_words()
    finally:
        worker.close()
    if executed:
        outcome.executed += made
    else:
        outcome.traced += made
    if made == count:
        return made
    if made == 0 and not under_way:
        raise RuntimeError(f"The process of the calls does not start: {reason}")
    call = sample_call(seed, first + made, executed=executed)
    outcome.wrong.append(WrongCall(call, f"ended the process with {worker.poll()}: {reason[:300]}"))
    return made + 1
