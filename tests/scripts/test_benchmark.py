"""The benchmark's protocol, arithmetic, tables and command line; no time is ever asserted."""

import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import benchmark
import numpy as np
import pytest
from benchmarks import pictures, protocol, roofline
from benchmarks.arithmetic import geometric_mean, ratios, spread
from benchmarks.cases import GPU_SHAPES, GRID, LARGE_SHAPES, Case
from benchmarks.data import save
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.jobs import timed
from benchmarks.markdown import BEST, report, summary
from benchmarks.options import Options
from benchmarks.process import DEVICE, Worker, environment
from benchmarks.protocol import Settings, measure
from benchmarks.results import read

from jaxrnn import BpttStream, Vocabulary
from jaxrnn.runs.worker_process import WorkerError

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"
RESULTS = SCRIPT.parent / "benchmarks" / "results"
CASE = Case(kind="training", cell="tanh", batch_size=2, steps=3, hidden_size=4)
SPEED = {"jaxrnn": 1.0, "torch": 2.0, "flax-linen": 4.0, "haiku": 3.0}


class FakeWorker:
    """A worker whose clock is made up: every repetition is half as long again as the one before."""

    asked: list[str] = []  # noqa: RUF012
    loss = 4.0

    def __init__(self, name, case, data, threads, cache, *, limit, gpu):
        self.name, self.runs = name, 0

    def ready(self):
        if self.name == "equinox":
            raise WorkerError("it died")

    def check(self):
        learned = 0.1 if self.runs else 0.0
        return [(4.1 if self.name == "keras" else self.loss) - learned]

    def run(self, count):
        self.asked.append(self.name)
        self.runs += 1
        return count * SPEED[self.name] * 1.5**self.runs

    def memory(self):
        return 100.0 + self.runs

    def close(self):
        self.closed = True


@pytest.fixture
def record(monkeypatch):
    monkeypatch.setattr(protocol, "Worker", FakeWorker)
    monkeypatch.setattr(protocol, "PAUSE", 0.0)
    monkeypatch.setattr(type(IMPLEMENTATIONS["haiku"]), "missing", lambda self: self.packages[2:])
    FakeWorker.asked = []
    return measure(CASE, [*SPEED, "equinox", "keras"], Settings(repetitions=3), lambda text: None)


def test_ratios_are_paired_round_by_round():
    assert ratios([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="cannot be paired: 1 of ours, 2 of theirs"):
        ratios([1.0], [1.0, 2.0])


def test_spread_is_median_and_quartiles():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, 2.0, 4.0)


def test_geometric_mean():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([]) is None


def test_implementations_take_turns_and_drift_cancels(record):
    turns = FakeWorker.asked[-3 * len(SPEED) - 2 : -2]  # the last two are the second start
    assert turns == [*SPEED] * 3
    entries = record["implementations"]
    for name in ("torch", "flax-linen", "haiku"):
        assert entries[name]["ratio"]["median"] == pytest.approx(SPEED[name])
        assert entries[name]["ratio"]["lower"] == pytest.approx(SPEED[name])
    assert len(entries["jaxrnn"]["seconds"]) == 3


def test_who_dies_and_who_disagrees_is_reported_and_not_measured(record):
    entries = record["implementations"]
    assert (entries["equinox"]["status"], entries["equinox"]["reason"]) == ("failed", "it died")
    assert entries["keras"]["status"] == "disagrees"
    assert "4.1" in entries["keras"]["reason"]
    assert "ratio" not in entries["keras"]


def test_what_is_not_installed_is_reported(monkeypatch):
    monkeypatch.setattr(protocol, "Worker", FakeWorker)
    monkeypatch.setattr(type(IMPLEMENTATIONS["haiku"]), "missing", lambda self: [*self.packages])
    entries = measure(CASE, ["jaxrnn", "haiku"], Settings(repetitions=1), lambda text: None)
    assert entries["implementations"]["haiku"] == {"status": "not installed", "reason": "haiku"}


def results_of(record):
    """Results around a record, once through JSON."""
    found = {
        "command": "python scripts/benchmark.py",
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "abacus", "cores": 2},
        "versions": {"jax": "1.2"},
        "settings": {"threads": 2, "repetitions": 3, "seconds": 0.3},
        "titles": {name: c.title for name, c in IMPLEMENTATIONS.items()},
        "jax_baselines": ["flax-linen", "haiku", "equinox", "keras"],
        "training": [record],
        "scaling": [
            record | {"case": record["case"] | {"batch_size": 64, "steps": 64, "hidden_size": 256}}
        ],
    }
    return json.loads(json.dumps(found))


def test_the_table_is_made_from_the_json(record):
    text = report(results_of(record))
    assert "2026-01-02; abacus, 2 cores, 2 threads each; 3 repetitions of about 0.3 s" in text
    assert (
        "| times as long as jaxrnn | PyTorch eager | Flax Linen | Haiku | Equinox | Keras on JAX "
        "| best JAX baseline |" in text
    )
    assert "| tanh 2, 3, 4, 1 | 2.00 | 4.00 | 3.00 | failed | disagrees | 3.00 |" in text
    assert "| geometric mean | 2.00 | 4.00 | 3.00 |  |  | 3.00 |" in text
    assert "- Equinox failed: it died (tanh 2, 3, 4, 1)" in text


def test_the_best_baseline_of_a_group_is_chosen_for_each_case(record):
    other = json.loads(json.dumps(record))
    entry = other["implementations"]["flax-linen"]
    entry["time"]["median"], entry["ratio"]["median"] = 0.0, 1.5
    means = summary([record, other], ["flax-linen", "haiku"])
    assert means[BEST] == pytest.approx((3.0 * 1.5) ** 0.5)


def test_pictures_are_drawn_from_the_json(record, tmp_path):
    drawn = pictures.draw(results_of(record), tmp_path)
    assert [path.name for path in drawn] == [
        "tanh-time-against-T.png",
        "tanh-time-against-H.png",
        "tanh-time-against-B.png",
        "tanh-memory-against-T.png",
    ]
    with pytest.raises(ValueError, match="no scaling results"):
        pictures.draw({}, tmp_path)


def test_the_command_makes_the_table_from_a_file(record, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(results_of(record)))
    command = [sys.executable, SCRIPT, "--read", "r.json", "--markdown", "r.md"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr  # Keras disagrees
    assert (tmp_path / "r.md").read_text() in ran.stdout


def test_results_of_an_earlier_version_are_refused_in_one_line(record, tmp_path, capsys):
    found = results_of(record)
    found["settings"] = {"threads": 2, "rounds": 3, "seconds": 0.3}
    (tmp_path / "old.json").write_text(json.dumps(found))
    assert benchmark.main(["--read", f"{tmp_path}/old.json"]) == 2
    assert "old.json is of an earlier version of this benchmark" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_published_tables_are_those_of_the_published_numbers(path):
    assert path.with_suffix(".md").read_text() == report(read(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells", "elman"], "There is no cell 'elman': take of tanh, gru, lstm."),
        (["--baselines", "theano"], "There is no baseline 'theano'"),
        (["--shapes", "64,8"], "A shape is B,T,H,LAYERS, such as 64,8,256,1; got '64,8'."),
        (["--repetitions", "0"], "repetitions must be at least 1, got 0."),
        (["--seconds", "0"], "seconds must be above 0"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--parts", "sleeping"], "sleeping"),
        (["--recipes", "loop"], "There is no recipe of job 'loop'"),
        (["--fast"], "--fast"),
        (["--read", "nowhere.json"], "Cannot read results from nowhere.json"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert benchmark.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_quick_is_the_course_against_torch_and_flax():
    quick = Options(quick=True)
    assert quick.names("training") == ["jaxrnn", "torch", "flax-linen"]
    assert {
        (c.batch_size, c.steps, c.hidden_size, c.num_layers) for c in quick.cases("training")
    } == {*GRID[:2]}
    assert len(quick.cases("training")) == 6
    assert len(Options().cases("training")) == 3 * (len(GRID) + len(LARGE_SHAPES))
    assert Options().names("remat") == ["jaxrnn", "jaxrnn-remat"]
    assert "jaxrnn-remat" not in Options().names("training") + Options().names("scaling")


@pytest.mark.slow
def test_a_worker_answers_dies_and_is_given_up(tmp_path):
    pytest.importorskip("torch")
    save(CASE, tmp_path / "case.npz")

    def worker(data, limit=60.0):
        return Worker("torch", CASE, tmp_path / data, 1, tmp_path, limit=limit)

    with (
        closing(worker("case.npz")) as asked,
        closing(worker("other.npz")) as broken,
        closing(worker("case.npz", limit=1e-3)) as slow,
    ):
        asked.ready()
        assert asked.check()[0] == pytest.approx(4.4, abs=0.5)  # near ln 85: untrained
        assert asked.run(1) > 0
        assert asked.memory() > 10
        with pytest.raises(WorkerError, match=r"FileNotFoundError: .*other\.npz"):
            broken.ready()
        slow.ready()
        with pytest.raises(WorkerError, match=r"No answer within 0\.001 s"):
            slow.run(100_000)
        with pytest.raises(WorkerError, match="The process ended with code -9"):
            slow.run(1)


def test_a_job_is_timed_to_the_line_of_its_last_epoch(tmp_path):
    lines = (
        "epoch train validation\\n    1   1.811      1.8029\\n    2   1.5      1.7 and more\\n\\nx"
    )
    run = timed([sys.executable, "-c", f"print('{lines}')"], dict(os.environ), tmp_path, 60.0)
    assert run["validation"] == 1.7
    assert run["total"] >= run["seconds"] > 0
    with pytest.raises(WorkerError, match="ended with code 3: oh"):
        timed([sys.executable, "-c", "import os; os.write(2, b'oh'); os._exit(3)"], {}, tmp_path, 9)


def test_the_plain_torch_script_reads_the_text_as_ours_does():
    pytest.importorskip("torch")
    from benchmarks import plain_torch

    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice([*"abcdeÉé  Z"], size=20)) for _ in range(80)]
    halves = ["\n".join(lines[:40]), "\n".join(lines[40:])]
    vocabulary = Vocabulary.from_frequency(halves[:1])
    theirs = plain_torch.make_vocabulary(halves[0].lower())
    assert theirs == list(vocabulary.itos)
    for half in halves:
        ours = BpttStream(vocabulary.encode_documents([half]), 64, 8).matrix
        streams = plain_torch.make_streams(half.lower(), theirs, 64)
        assert np.array_equal(streams.numpy(), ours)


def test_the_plain_torch_schedule_is_read():
    pytest.importorskip("torch")
    from benchmarks.plain_torch import parse

    assert parse("2 x 1e-3, 1 x 1e-4") == [1e-3, 1e-3, 1e-4]


def test_the_roofline_counts_the_matmuls_of_a_step():
    """One layer, two steps: three recurrent matmuls, and one back from the second step."""
    case = Case(kind="training", cell="gru", batch_size=2, steps=2, hidden_size=4)
    recurrent, output, table = 2 * 2 * 12 * 4, 3 * 2 * (2 * 2) * 4 * 85, 3 * 2 * 85 * 42 * 12
    assert roofline.operations(case) == recurrent * (2 + 2 + 1) + output + table
    deeper = Case(kind="training", cell="gru", batch_size=2, steps=2, hidden_size=4, num_layers=2)
    assert roofline.operations(deeper) == recurrent * (5 + 5 + 3 * 2) + output + table


def test_the_roofline_counts_the_matmuls_of_a_layer_of_numbers():
    case = Case(kind="inference", cell="gru", batch_size=2, steps=3, hidden_size=4, num_layers=5)
    product = 2 * 2 * (3 * 4) * 4  # of a step, with the inputs or with h
    assert roofline.operations(case) == 5 * 2 * 3 * product
    # The inputs' gradient and both weights'; that of h but for the first step's.
    case = replace(case, kind="layer")
    assert roofline.operations(case) == 5 * (3 * 2 * 3 - 1) * product


def test_on_a_gpu_its_own_cases_and_baselines():
    gpu = Options(gpu=True)
    shapes = {(c.batch_size, c.steps, c.hidden_size, c.num_layers) for c in gpu.cases("training")}
    assert {*GRID, *LARGE_SHAPES, *GPU_SHAPES} == shapes
    assert "jax-cudnn" in gpu.names("training")
    assert "haiku" not in gpu.names("training")
    assert "jax-cudnn" not in Options().names("training")
    assert gpu.settings("training").gpu


def test_a_worker_on_a_gpu_computes_there_without_tf32(tmp_path):
    on_gpu = environment(2, tmp_path, gpu=True)
    assert (on_gpu["JAX_PLATFORMS"], on_gpu[DEVICE]) == ("cuda", "cuda")
    assert on_gpu["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
    assert DEVICE not in environment(2, tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, str(SCRIPT), "--gpu"],
        [str(SCRIPT.with_suffix("")), "--gpu"],
        [str(SCRIPT.with_name("test")), "--gpu"],
    ],
    ids=["benchmark.py", "benchmark", "test"],
)
def test_without_a_gpu_one_line_says_so(command, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    ended = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "o GPU was found (nvidia-smi lists none)" in ended.stderr
    assert not ended.stdout


def test_the_roofline_of_generation_is_the_slower_of_reading_and_computing(monkeypatch):
    monkeypatch.setattr(roofline, "matmul_rate", lambda threads: 1e6 * threads)
    monkeypatch.setattr(roofline, "read_rate", lambda size, threads: 1e6 * threads)
    for batch, threads in ((1, 1), (64, 2)):
        case = Case(kind="generation", cell="tanh", batch_size=batch, steps=10, hidden_size=8)
        weights = 8 * 8 + 85 * 8
        expected = 10 * weights * max(4, 2 * batch) / (1e6 * threads)
        assert roofline.roofline(case, threads) == pytest.approx(expected)


def test_a_matmul_is_rated_on_the_implementations_threads(monkeypatch):
    asked = []

    def answered(command, *, env, **_):
        asked.append(env["OMP_NUM_THREADS"])
        return subprocess.CompletedProcess(command, 0, stdout=b"5e9\n")

    monkeypatch.setattr(roofline.subprocess, "run", answered)
    assert roofline.matmul_rate.__wrapped__(3) == 5e9
    assert asked == ["3"]


def test_rates_are_measured():
    assert roofline.matmul_rate(1) > 1e6
    assert roofline.read_rate(1 << 20, 2) > 1e6
