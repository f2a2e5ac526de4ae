"""The whole job: a recipe of the course from process start to the final validation loss.

Ours is the command that a user types, `python -m jaxrnn train --recipe ...`, in a fresh folder,
once with an empty cache of compiled programs (cold) and once with the one that this left (warm).
PyTorch is `plain_torch.py`, with the thread count that suits it best: one epoch is tried
with one thread and with all. The clock is read when the line of the last epoch arrives; what our
command does after it (a picture, a sample) counts in `total` only. A B C A B C ..., as everywhere.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.arithmetic import ratios, spread
from benchmarks.process import SCRIPTS, environment
from benchmarks.protocol import Log, Record, Settings
from jaxrnn import RECIPES
from jaxrnn.data.corpora import data_folder, nietzsche
from jaxrnn.runs.worker_process import WorkerError

CELLS = {"stateful-rnn": "tanh", "stateful-gru": "gru"}
EPOCH = re.compile(r"\s*(\d+)\s+\d+\.\d+\s+(\d+\.\d+)(\s|$)")
"""A line of an epoch: its number, the training loss, the validation loss."""
LIMIT_FACTOR = 10
"""A job may take this many times as long as an answer of a worker."""


def measure_job(recipe: str, schedule: str | None, settings: Settings, log: Log) -> Record:
    """Run a recipe in turn: ours cold, ours warm, PyTorch."""
    nietzsche()  # downloaded now, if it has to be, and not while the clock runs
    schedule = schedule or RECIPES[recipe].config.schedule
    limit = settings.limit * LIMIT_FACTOR
    threads, tried = _best_threads(recipe, schedule, settings, limit, log)
    records: dict[str, Record] = {
        "cold": {"status": "measured", "runs": []},
        "warm": {"status": "measured", "runs": []},
        "torch": {"status": "measured", "runs": [], "threads": threads, "tried_s": tried},
    }
    for k in range(settings.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            ours = partial(_ours, recipe, schedule, settings, at, limit)
            torch = partial(_torch, recipe, schedule, threads, at, limit)
            # The first run of ours leaves the cache of compiled programs that the second one finds.
            runs = {"cold": ours, "warm": ours, "torch": torch}
            for name, run in runs.items():
                log(f"job {recipe}: repetition {k + 1} of {settings.repetitions}, {name}")
                _add(records[name], run)
    _summarize(records)
    return {"recipe": recipe, "schedule": schedule, "implementations": records}


def timed(
    command: Sequence[str], environment: dict[str, str], folder: Path, limit: float
) -> Record:
    """Run a command: seconds to the last epoch's line and to the end, and the last loss."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        killer = threading.Timer(limit, process.kill)
        killer.start()
        last: Record = {}
        try:
            for line in process.stdout:
                match = EPOCH.match(line)
                if match is not None:
                    seconds = time.perf_counter() - started
                    last = {"seconds": seconds, "validation": float(match[2])}
            code = process.wait()
        finally:
            killer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        if code != 0 or not last:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise WorkerError(f"The command ended with code {code}: {lines[-1]}"[:400])
    return last | {"total": time.perf_counter() - started}


def _ours(recipe: str, schedule: str, settings: Settings, folder: Path, limit: float) -> Record:
    command = [sys.executable, "-m", "jaxrnn", "train", "--recipe", recipe]
    given = environment(settings.threads, folder / "cache")
    variables = given | {"JAXRNN_DATA": str(data_folder()), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        return timed([*command, "--schedule", schedule], variables, Path(fresh), limit)


def _torch(recipe: str, schedule: str, threads: int, folder: Path, limit: float) -> Record:
    script = SCRIPTS / "benchmarks" / "plain_torch.py"
    text = os.path.abspath(data_folder() / "nietzsche.txt")
    # -P: the modules beside the script, such as data.py, must not be taken for others.
    command = [sys.executable, "-P", str(script), text, "--cell", CELLS[recipe]]
    options = ["--schedule", schedule, "--threads", str(threads)]
    variables = environment(threads, folder / "cache-torch")
    return timed([*command, *options], variables, folder, limit)


def _best_threads(
    recipe: str, schedule: str, settings: Settings, limit: float, log: Log
) -> tuple[int, dict[str, float]]:
    """The thread count with which PyTorch's first epoch is fastest, and what was tried."""
    tried: dict[int, float] = {}
    for threads in sorted({1, settings.threads}):
        log(f"job {recipe}: an epoch of PyTorch with {threads} threads")
        with tempfile.TemporaryDirectory() as folder:
            try:
                run = _torch(recipe, "1 x 1e-3", threads, Path(folder), limit)
            except WorkerError:
                continue
            tried[threads] = run["seconds"]
    best = min(tried, key=lambda threads: tried[threads], default=settings.threads)
    return best, {str(threads): seconds for threads, seconds in tried.items()}


def _add(record: Record, run: Callable[[], Record]) -> None:
    if record["status"] != "measured":
        return
    try:
        record["runs"].append(run())
    except WorkerError as error:
        record |= {"status": "failed", "reason": str(error)}


def _summarize(records: dict[str, Record]) -> None:
    measured = {name: r for name, r in records.items() if r["status"] == "measured"}
    seconds: dict[str, list[float]] = {}
    for name, record in measured.items():
        seconds[name] = [run["seconds"] for run in record["runs"]]
    for name, record in measured.items():
        record["time"] = spread(seconds[name])._asdict()
        if name != "torch" and "torch" in measured:
            record["ratio"] = spread(ratios(seconds[name], seconds["torch"]))._asdict()
