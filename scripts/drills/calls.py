"""Random calls of every public function on every backend: no crash, no difference, one message.

Calls run in processes of their own, so that one that ends its process is found and the others go
on behind it. Each new shape leaves compiled programs and their memory maps behind, so a process
makes a few hundred calls.
"""

import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drills.drawing import Call, draw

ROOT = Path(__file__).parents[2]
TRACED_IN_A_PROCESS = 1000
EXECUTED_IN_A_PROCESS = 300
PATIENCE = 180.0
"""Seconds without a word after which a process is taken to hang."""


@dataclass(frozen=True)
class Wrong:
    """A call that did not do what it must.

    Attributes:
        call: the call.
        fault: what was wrong.
    """

    call: Call
    fault: str

    @property
    def kind(self) -> str:
        """What calls with the same cause have in common: no numbers, no shapes."""
        plain = re.sub(r"\([^()]*\)|\[[^\[\]]*\]|0x[0-9a-f]+|-?\d[\d.e+-]*", "_", self.fault)
        return f"{self.call.subject}: {plain}"[:160]


@dataclass
class Called:
    """The outcome of a drill.

    Attributes:
        traced: how many calls were made on shapes alone.
        executed: how many were executed.
        right: how many of all had no mistake in them.
        wrong: what was wrong.
    """

    traced: int = 0
    executed: int = 0
    right: int = 0
    wrong: list[Wrong] = field(default_factory=list)

    def with_part(self, other: "Called") -> "Called":
        """Both together."""
        return Called(
            self.traced + other.traced,
            self.executed + other.executed,
            self.right + other.right,
            [*self.wrong, *other.wrong],
        )

    def report(self, *, each: int = 1) -> str:
        """The kinds of faults, the most frequent first, with `each` programs of every kind."""
        kinds = Counter(wrong.kind for wrong in self.wrong)
        parts = []
        for kind, count in kinds.most_common():
            examples = [wrong for wrong in self.wrong if wrong.kind == kind]
            examples.sort(key=lambda wrong: len(wrong.call.program()))
            parts.append(f"{count} x {kind}")
            for wrong in examples[:each]:
                number = f"call {wrong.call.number}, {wrong.call.what}"
                parts += [f"  {number}: {wrong.fault[:400]}", _indented(wrong.call.program())]
        return "\n".join(parts)


def calls_drill(
    calls: int,
    executed: int,
    seed: int = 0,
    *,
    first: int = 0,
    jobs: int = 1,
    variables: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Called:
    """Make random calls.

    Args:
        calls: how many to make on shapes alone.
        executed: how many to execute.
        seed: of the drawing.
        first: the number of the first call of each sort.
        jobs: how many processes to run at once.
        variables: more environment variables of the processes.
        say: what is told of the progress, a line a process.
    """
    called = Called()
    for count, is_executed, most in (
        (calls, False, TRACED_IN_A_PROCESS),
        (executed, True, EXECUTED_IN_A_PROCESS),
    ):
        sizes = {begin: min(most, count - begin) for begin in range(0, count, most)}

        def part(begin: int, sizes: Any = sizes, is_executed: bool = is_executed) -> Called:
            return _part(seed, first + begin, sizes[begin], is_executed, variables or {})

        with ThreadPoolExecutor(jobs) as threads:
            for one in threads.map(part, sizes):
                called = called.with_part(one)
                kind = "executed" if is_executed else "traced"
                done = called.executed if is_executed else called.traced
                say(f"{kind} {done} of {count}, {len(called.wrong)} faults")
    return called


def _part(
    seed: int, first: int, count: int, executed: bool, variables: Mapping[str, str]
) -> Called:
    """Make some calls, in one process or, where one dies, in the next."""
    called, begin = Called(), first
    while begin < first + count:
        begin += _process(called, seed, begin, first + count - begin, executed, variables)
    return called


def _process(
    called: Called, seed: int, first: int, count: int, executed: bool, variables: Mapping[str, str]
) -> int:
    """Make calls in one process, as far as it comes; how many it made, one that ended it too."""
    kind = "executed" if executed else "shapes"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": paths,
        "JAX_TRACEBACK_FILTERING": "off",  # a message is ours if it is raised in our files
        "PYTHONWARNINGS": "ignore",
        **variables,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "drills.calling", str(seed), str(first), str(count), kind],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
    )
    made, under_way, last_words = 0, None, b""
    for line in _lines(process):
        if line is None:
            process.kill()
            last_words = b"it hung"
            break
        number, faults = json.loads(line)
        under_way = number
        if faults is None:
            continue
        under_way = None
        made += 1
        call = draw(seed, number, executed=executed)
        called.right += call.what == "right"
        called.wrong += [Wrong(call, fault) for fault in faults]
    errors = process.communicate()[1]
    if executed:
        called.executed += made
    else:
        called.traced += made
    if made == count:
        return made
    words = (last_words or errors).decode(errors="replace").strip().splitlines()
    if under_way is None and made == 0:
        raise RuntimeError(f"The process of the calls does not start: {words[-1:]}")
    number = first + made
    end = f"ended the process with {process.returncode}: {' '.join(words[-1:])[:300]}"
    called.wrong.append(Wrong(draw(seed, number, executed=executed), end))
    return made + 1


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes | None]:
    """The lines that a process prints; None if it says nothing for too long."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    kept = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        heard = time.monotonic()
        while True:
            selector.select(1.0)
            data = process.stdout.read()
            if data == b"":
                return
            if data is None:
                if time.monotonic() - heard > PATIENCE:
                    yield None
                    return
                continue
            heard = time.monotonic()
            *lines, kept = (kept + data).split(b"\n")
            yield from lines


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
