"""Independent jobs in processes of their own, several at once: resumable, behind one progress bar.

A job is a call of a function that is named as "package.module:function":

    def train(arguments: Any, watch: Watch) -> None: ...

It tells `watch` how far it is, and writes its results itself. What it keeps on the disk is what it
goes on from: `watch` raises `Stopped` when the job is asked to stop, and a job that is run again
finds what it has done. An error of a job ends that job alone.

Two processes of one thread each get more done than one of two threads: the programs are small.
Nor does it help to train several seeds together with `vmap`. Training steps a second, each seed's
counted, CharSeqStatefulRnn at B 64, T 8, H 256, on two cores of an AMD EPYC (jax 0.10.2):

    two processes, one thread each                      530
    one process, two threads                            275
    three seeds in a vmap, one process, two threads     245
    three seeds in a vmap, two processes                300

(The vmap was given windows of one length; random lengths would cost it more.) So there is a
process a core, with one thread, as long as there are as many jobs as cores; where there are fewer,
each has several.
"""

import importlib
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxrnn.runs.environment import available_cores
from jaxrnn.runs.worker_process import Channel, WorkerProcess
from jaxrnn.terminal import Screen, keep_compiled_programs, run_command, stop_requests

SECONDS_BETWEEN_LOOKS = 0.2
"""Time between two looks at the processes."""
SECONDS_BETWEEN_MESSAGES = 0.2
"""Minimum time between two messages of a process."""
THREADS = ("PJRT_NPROC", "NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables from which XLA, OpenMP and PyTorch take their number of threads."""
STOPPED = 3
"""Exit code of a process that stopped because it was asked to."""
LONGEST_NOTE = 200
"""Maximum number of characters of a note: a message must fit into the pipe."""
LONGEST_WORDS = 300
"""Maximum number of characters of a process's last words that are shown."""
WORKER = "import sys; from jaxrnn.runs.jobs import run_job; sys.exit(run_job(*sys.argv[1:]))"
"""The program of a process; its arguments are the function and what it is called with, as JSON."""

Watch = Callable[[float, str], None]
"""Receives the share of a job that is done, in [0, 1], and a note; may raise `Stopped`."""


class Stopped(Exception):  # noqa: N818  (no error: somebody asked for it)
    """A job was asked to stop; what is done is kept."""


class Job(NamedTuple):
    """One call of the function.

    Attributes:
        id: its name, another one for each job.
        title: what it is, in a few words.
        arguments: what the function is called with; JSON can express it.
        seconds: about how long it takes on one core; None where nobody knows.
    """

    id: str
    title: str
    arguments: Any
    seconds: float | None = None


class JobEvent(NamedTuple):
    """How far a job is.

    Attributes:
        job: the job.
        share: the share that is done, in [0, 1].
        note: the job's own words about it.
        ended: whether its process has ended.
        error: why it has, if the job failed.
        stopped: whether it was stopped before it was done.
    """

    job: Job
    share: float = 0.0
    note: str = ""
    ended: bool = False
    error: str = ""
    stopped: bool = False


def finish_jobs(
    function: str,
    jobs: Sequence[Job],
    processes: int,
    stopping: Callable[[], int],
    *,
    screen: Screen | None = None,
    on_done: Callable[[Job], None] = lambda job: None,
    threads: int | None = None,
) -> dict[str, str]:
    """Run jobs to their end, or until they are stopped, behind a bar that weighs them by time.

    Args:
        function: "package.module:function", which is called in the processes.
        jobs: the jobs that are to be done.
        processes: maximum number of processes at once.
        stopping: when it gives something else than 0, all processes are asked to save and end.
        screen: shows the bar; nothing is shown if None.
        on_done: is called with each job that is done, as soon as it is.
        threads: see `run_jobs`.

    Returns:
        The errors of the jobs that failed, by id.
    """
    # The longest first, so that all processes end together.
    ordered = sorted(jobs, key=_weight, reverse=True)
    weights = {job.id: _weight(job) for job in ordered}
    shares = dict.fromkeys(weights, 0.0)
    failures: dict[str, str] = {}
    if screen is not None and jobs:
        screen.show("starting", 0.0)
    for event in run_jobs(function, ordered, processes, stopping, threads=threads):
        job = event.job
        shares[job.id] = 1.0 if event.ended else event.share
        if screen is not None:
            done = sum(weights[name] * share for name, share in shares.items())
            ended = list(shares.values()).count(1.0)
            screen.show(
                f"{ended}/{len(shares)} done",
                done / sum(weights.values()),
                f"{job.title} {event.note}".rstrip(),
            )
        if event.error:
            failures[job.id] = event.error
        elif event.ended and not event.stopped:
            on_done(job)
    return failures


def introduction(waiting: Sequence[Job], count: int, processes: int) -> str:
    """A line on what is to be done.

    Args:
        waiting: the trainings that are to be done.
        count: number of all trainings, finished ones among them.
        processes: maximum number of processes at once.
    """
    used = min(processes, len(waiting))
    where = f"in {used} processes" if used > 1 else "in one process"
    known = [job.seconds for job in waiting if job.seconds is not None]
    if len(known) == len(waiting):
        minutes = sum(known) / processes / 60
        about = f"about {minutes:.0f} minutes" if minutes >= 1.5 else "about a minute"
        where = f"{about} {where}"
    return f"{len(waiting)} of {count} trainings are to be done: {where}."


def run_jobs(
    function: str,
    jobs: Sequence[Job],
    processes: int,
    stopping: Callable[[], int],
    *,
    threads: int | None = None,
) -> Iterator[JobEvent]:
    """Run jobs in order, some at once, and yield again and again how far each is.

    Args:
        function: "package.module:function", which is called in the processes.
        jobs: the jobs.
        processes: maximum number of processes at once.
        stopping: when it gives something else than 0, all processes are asked to save and end.
        threads: number of threads of each process; their share of the cores if None, and all of
            them for one process alone.
    """
    waiting = deque(jobs)
    running: list[JobProcess] = []
    asked = False
    processes = min(processes, len(jobs))
    if threads is None:
        threads = -(-len(available_cores()) // processes) if processes > 1 else 0
    try:
        while waiting or running:
            if stopping() and not asked:
                asked = True
                waiting.clear()
                for process in running:
                    process.stop()
            while waiting and len(running) < processes:
                running.append(JobProcess(function, waiting.popleft(), threads))
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for process in list(running):
                event = process.look()
                if event.ended:
                    running.remove(process)
                    process.close()
                yield event
    finally:
        for process in running:
            process.close()


class JobProcess:
    """A process that runs one job.

    Args:
        function: "package.module:function".
        job: the job.
        threads: number of threads; as many as the libraries like if 0.
    """

    def __init__(self, function: str, job: Job, threads: int) -> None:
        self._last = JobEvent(job)
        # Without -P, a file of the user's folder could take the place of a module.
        command = [sys.executable, "-P", "-c", WORKER, function, json.dumps(job.arguments)]
        # Ctrl-C is for the program, which then asks its processes to stop.
        self._worker = WorkerProcess(command, env=environment(threads), own_session=True)

    def stop(self) -> None:
        """Ask it to save and end."""
        self._worker.terminate()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._worker.close()

    def look(self) -> JobEvent:
        """How far it is."""
        # The exit code first: what a process sends before its end is then read as well.
        code = self._worker.poll()
        for message in self._worker.arrived():
            self._last = self._last._replace(share=message["share"], note=message["note"])
        if code is None:
            return self._last
        last = self._last._replace(ended=True, stopped=code in (STOPPED, -signal.SIGTERM))
        if code == 0 or last.stopped:
            return last
        words = self._worker.last_words().removeprefix("error: ")[:LONGEST_WORDS]
        return last._replace(error=f"{words} (code {code})")


def environment(threads: int) -> dict[str, str]:
    """The environment of a process: on the CPU, unless JAX_PLATFORMS says otherwise."""
    limits = dict.fromkeys(THREADS, str(threads)) if threads else {}
    # Modules are found where this process finds them, in the same order.
    roots = [os.path.abspath(path) for path in sys.path]
    return {
        "JAX_PLATFORMS": "cpu",
        **os.environ,
        **limits,
        "PYTHONPATH": os.pathsep.join(roots),
    }


def run_job(function: str, text: str) -> int:
    """Run one job in this process, which is its own; returns the exit code.

    Messages to the program that started it are `{"share": 0.5, "note": "..."}`. SIGTERM asks the
    job to stop, and so does the end of that program. An error is the last line that it prints.

    Args:
        function: "package.module:function".
        text: what the function is called with, as JSON.
    """
    channel = Channel()
    parent = os.getppid()
    emitted = 0.0
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    keep_compiled_programs()
    with stop_requests() as stopping:

        def watch(share: float, note: str = "") -> None:
            nonlocal emitted
            if stopping() or os.getppid() != parent:
                raise Stopped
            if time.monotonic() - emitted < SECONDS_BETWEEN_MESSAGES:
                return
            emitted = time.monotonic()
            try:
                # The job does not wait for a program that is suspended.
                channel.emit_if_read({"share": share, "note": note[:LONGEST_NOTE]})
            except BrokenPipeError:  # the program has just ended
                raise Stopped from None

        def command() -> int:
            call(json.loads(text), watch)
            return 0

        try:
            return run_command(command)
        except Stopped:
            return STOPPED
        except FloatingPointError as error:  # it diverged
            print(f"error: {error}", file=sys.stderr)
            return 1


def _weight(job: Job) -> float:
    """The part of the bar that a job has."""
    return 1.0 if job.seconds is None else job.seconds
