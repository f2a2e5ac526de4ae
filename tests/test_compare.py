"""Comparing cells and models: what is equal, statistics, tables, folders, and one whole comparison.

Most of it runs in this process, with trainings that are made up; worker processes are slow.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import jaxrnn
from jaxrnn import cli
from jaxrnn.cli import compare as command
from jaxrnn.data.windows import BpttStream, WindowSet
from jaxrnn.nn.model import param_shapes
from jaxrnn.runs import comparing, comparison_jobs, jobs, speed
from jaxrnn.runs.comparison import (
    Comparison,
    read_comparison,
    read_json,
    result_path,
    write_json,
)
from jaxrnn.runs.comparison_plan import TASK_CONFIG, plan_comparison
from jaxrnn.runs.config import Config
from jaxrnn.runs.contenders import contenders_of, equal_hidden_size
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.jobs import Stopped, environment
from jaxrnn.runs.run import Run
from jaxrnn.runs.statistics import Difference, paired_difference, spread
from jaxrnn.runs.task_training import TaskRow
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.history import Row
from jaxrnn.training.loop import Trainer

ROOT = Path(__file__).parents[1]
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
VOCABULARY = 31
"""Its number of tokens: 26 letters, three others, and two of our own."""
SMALL = {
    "hidden_size": 4,
    "embedding_size": 4,
    "batch_size": 8,
    "bptt": 8,
    "random_bptt": False,
}
OWN = """
import jax.numpy as jnp
import jaxrnn


def init(key, input_size, hidden_size):
    return {"w": jaxrnn.uniform(0.1)(key, (hidden_size, input_size))}


def step(params, carry, x):
    h = jnp.tanh(x @ params["w"].T + carry.h)
    return jaxrnn.Hidden(h), h


MyCell = jaxrnn.FreeCell("mine", init, step)
number = 3


class MyModel(jaxrnn.CharLM):
    pass
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty folder with a text and a file of code; caches stay out of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    Path("text.txt").write_text(TEXT)


# Statistics.


def test_a_paired_difference_is_the_t_interval_of_scipy():
    rng = np.random.default_rng(0)
    ones = dict(enumerate(rng.normal(2.0, 0.1, 7)))
    others = dict(enumerate(rng.normal(1.9, 0.1, 5), start=1))  # seeds 1 to 5
    found = paired_difference(ones, others)
    differences = [ones[seed] - others[seed] for seed in range(1, 6)]
    expected = scipy.stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert found.n == 5
    assert found.mean == pytest.approx(np.mean(differences), rel=1e-12)
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_statistics_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1, t of 2 degrees of freedom 4.3027.
    found = paired_difference({0: 2.0, 1: 3.0, 2: 4.0}, {0: 1.0, 1: 1.0, 2: 1.0})
    half = 4.302652729 / math.sqrt(3)
    assert found.mean == 2
    assert found.interval == pytest.approx((2 - half, 2 + half), rel=1e-9)
    assert paired_difference({0: 2.0}, {0: 1.5, 1: 9.0}) == Difference(0.5, None, 1)
    assert paired_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}).interval == (1.0, 1.0)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert spread([1.0, 3.0]) == (2.0, math.sqrt(2), 2)
    assert spread([1.0]) == (1.0, None, 1)


# What is compared.


def test_contenders_are_cells_and_models_that_another_process_finds():
    Path("a.py").write_text(OWN)
    Path("b.py").write_text(OWN.replace('"mine"', '"other"'))
    given = ["gru", jaxrnn.LSTM, "a.py:MyCell", "b.py:MyCell", "a.py:MyModel"]
    given += ["CharSeqStatefulGRU", jaxrnn.CharSeqStatefulRnn]
    found = contenders_of(given)
    here = os.getcwd()
    assert [(one.label, one.name) for one in found] == [
        ("gru", "gru"),
        ("lstm", "lstm"),
        ("a-MyCell", f"{here}/a.py:MyCell"),
        ("b-MyCell", f"{here}/b.py:MyCell"),
        ("MyModel", f"{here}/a.py:MyModel"),
        ("CharSeqStatefulGRU", "CharSeqStatefulGRU"),
        ("CharSeqStatefulRnn", "CharSeqStatefulRnn"),
    ]
    assert found[1].changes == {"model": "CharLM", "cell": "lstm"}
    assert found[4].changes == {"model": f"{here}/a.py:MyModel"}
    config = found[2].config(Config(), hidden_size=7)
    assert (config.model, config.cell, config.hidden_size) == ("CharLM", found[2].name, 7)


MINE = replace(jaxrnn.GRU, name="mine")


class Mine(jaxrnn.CharLM):
    pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gru", 'Name what to compare in a list, for example ["gru", "lstm"], got \'gru\''),
        (["gru"], "Name at least two to compare"),
        ([], "Name at least two to compare"),
        (["gru", "gru"], "gru is named 2 times"),
        (["gru", jaxrnn.GRU], "gru is named 2 times"),
        (["gru", MINE], "The cell mine is an object of this process, and worker processes"),
        (["gru", Mine], "Mine is a class of this process, and worker processes"),
        (["gru", "here"], "The cell here was put into CELLS here, and worker processes"),
        (["gru", "Here"], "The model Here was put into MODELS here, and worker processes"),
        (["gru", "grue"], "There is no cell and no model 'grue': take FILE.py:NAME"),
        (["gru", 3], "A contender is a name, a cell or a class of models, got 3"),
        (["gru", "a.py:number"], "a.py:number is of type int: a contender is a jaxrnn.Cell"),
        (["gru", "a.py:nothing"], "a.py defines no nothing"),
        (["gru", "none.py:Cell"], "none.py"),
    ],
)
def test_contenders_that_are_refused(given, message, monkeypatch):
    Path("a.py").write_text(OWN)
    monkeypatch.setitem(jaxrnn.CELLS, "here", MINE)
    monkeypatch.setitem(jaxrnn.MODELS, "Here", Mine)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  (the message is looked at below)
        contenders_of(given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def plan_of(given, **options):
    changes = SMALL | options.pop("changes", {})
    config = replace(Config(model="CharLM", corpus="text.txt"), **changes)
    given_options = {"seeds": 2, "minutes": None, "equal": "characters", "task": None}
    options = given_options | {"task_length": None} | options
    return plan_comparison(given, config, **options)


@pytest.mark.parametrize(
    ("count", "wanted", "start", "expected"),
    [
        (lambda h: h * h, 100, 3, 10),
        (lambda h: h * h, 109, 40, 10),
        (lambda h: h * h, 111, 10, 11),
        (lambda h: h * h, 1, 64, 1),
        (lambda h: 10 + h, 3, 64, 1),  # even the smallest has more
        (lambda h: 3 * h, 3 * 65536, 2, 65536),
    ],
)
def test_the_hidden_size_is_the_one_that_comes_nearest(count, wanted, start, expected):
    assert equal_hidden_size(count, wanted, start, "mine") == expected


def test_a_size_that_does_not_follow_hidden_size_is_refused():
    with pytest.raises(ValueError, match=r"mine has 5 parameters at hidden_size 65,536, not 100"):
        equal_hidden_size(lambda size: 5, 100, 8, "mine")


@pytest.mark.sample(1)
@pytest.mark.parametrize("tied", [True, False])
def test_equal_parameters_are_as_near_as_hidden_size_can(tied):
    sizes = {"hidden_size": 12, "embedding_size": 12, "tied": tied}
    plan = plan_of(["lstm", "gru"], equal="parameters", changes=sizes)
    lstm, gru = plan.contenders

    def count(one, size):
        changes = {"hidden_size": size} | ({"embedding_size": size} if tied else {})
        model = one.config(plan.config, **changes).make_model(VOCABULARY)
        return sum(math.prod(shape) for shape in param_shapes(model).values())

    wanted = count(lstm, 12)
    chosen = plan.hidden_sizes["gru"]
    distances = [abs(count(gru, size) - wanted) for size in (chosen - 1, chosen, chosen + 1)]
    assert min(distances) == distances[1]
    assert distances[0] < wanted  # its own size, and no other one's
    assert plan.hidden_sizes["lstm"] == 12
    assert plan.parameters == {"lstm": wanted, "gru": count(gru, chosen)}
    config = plan.config_of(gru, 3, 10)
    assert config.hidden_size == chosen
    assert config.embedding_size == (chosen if tied else 12)


def test_the_trainings_of_a_seed_differ_in_the_contender_alone():
    plan = plan_of(["gru", "CharSeqStatefulRnn"], changes={"seed": 5})
    one, other = (plan.config_of(each, 6, 40) for each in plan.contenders)
    assert (one.seed, one.steps, one.validate_every) == (6, 40, 8)
    changed = {name for name, value in one.to_dict().items() if other.to_dict()[name] != value}
    assert changed == {"model"}
    by_epochs = plan.config_of(plan.contenders[0], 5, None)
    assert (by_epochs.steps, by_epochs.validate_every) == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"equal": "time"}, "equal must be one of characters, minutes, parameters, got 'time'"),
        ({"equal": "minutes"}, "Equal minutes need their number: give minutes"),
        ({"minutes": 0}, "minutes must be a number above 0, got 0"),
        ({"minutes": math.nan}, "minutes must be a number above 0, got nan"),
        ({"minutes": True}, "minutes must be a number above 0, got True"),
        ({"minutes": 1, "changes": {"steps": 3}}, "with minutes or with steps, not with both"),
        ({"task_length": 3}, "task_length is the length of a task: name one with task"),
        ({"task": "adding", "minutes": 1}, "A task is trained by its number of updates"),
        ({"task": "adding"}, "A task has no epochs: say with steps"),
        ({"task": "sorting", "changes": {"steps": 3}}, "task must be one of adding"),
        ({"changes": {"seed": 2**32 - 1}}, "seed must lie in"),
    ],
    ids=str,
)
def test_a_plan_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  (the message is looked at below)
        plan_of(["gru", "lstm"], **options)
    assert message in str(refused.value)


def test_models_that_read_other_data_are_refused():
    with pytest.raises(ValueError, match=r"gru reads streams and CharRnn overlapping"):
        plan_of(["gru", "CharRnn"])


# One training, in this process.


def quiet(share, note):
    pass


ROW = Row(
    epoch=0.5, step=2, train=3.0, validation=2.5, gradient_norm=1.0, rate=0.1, update_ratio=1e-3
)


def arguments_of(plan, contender, seed, folder="found", steps=4):
    return {
        "folder": folder,
        "contender": contender.label,
        "seed": seed,
        "config": plan.config_of(contender, seed, steps).to_dict(),
        "parameters": plan.parameters[contender.label],
        "task": None if plan.task is None else plan.task.name,
        "task_length": None if plan.task is None else plan.task.length,
    }


@pytest.mark.slow
def test_a_cell_of_a_file_is_trained_and_recorded():
    Path("a.py").write_text(OWN)
    plan = plan_of(["gru", "a.py:MyCell"])
    mine = plan.contenders[1]
    comparison_jobs.train(arguments_of(plan, mine, 0), quiet)
    result = read_json(result_path(Path("found"), "MyCell", 0))
    assert (result["contender"], result["seed"], result["steps"]) == ("MyCell", 0, 4)
    assert result["characters"] == 4 * 8 * 8
    assert [point["step"] for point in result["curve"]] == [1, 2, 3, 4]
    assert result["curve"][-1]["validation"] == result["validation"]
    assert result["bits_per_character"] == pytest.approx(result["validation"] / math.log(2))
    assert result["milliseconds_per_update"] > 0
    assert result["memory_bytes"] > 0
    assert result["diverged"] is None
    assert not list(Path("found/under-way").iterdir())


@pytest.mark.slow
def test_a_training_that_is_stopped_goes_on_and_ends_the_same(monkeypatch):
    monkeypatch.setattr("jaxrnn.training.loop.SECONDS_IN_ONE_PROGRAM", 0.0)  # one step at a time
    plan = plan_of(["gru", "tanh"])
    comparison_jobs.train(arguments_of(plan, plan.contenders[1], 0), quiet)
    calls = []

    def stop(share, note):
        calls.append(share)
        if len(calls) == 2:
            raise Stopped

    arguments = arguments_of(plan, plan.contenders[1], 0, folder="pieces")
    with pytest.raises(Stopped):
        comparison_jobs.train(arguments, stop)
    assert not result_path(Path("pieces"), "tanh", 0).exists()
    comparison_jobs.train(arguments, quiet)
    whole, pieces = (read_json(result_path(Path(name), "tanh", 0)) for name in ("found", "pieces"))
    assert pieces["curve"] == whole["curve"]


DIVERGING = {"optimizer": "sgd", "schedule": "1 x 1e38"}


def test_a_training_that_diverges_is_a_result_without_a_loss(monkeypatch):
    plan = plan_of(["gru", "tanh"])

    def trained(folder, experiment, watch):
        run = Run.create(folder, experiment)
        run.add_row(ROW)
        raise NonFiniteLossError("The loss is nan at step 3.")

    monkeypatch.setattr(comparison_jobs, "train_or_resume", trained)
    comparison_jobs.train(arguments_of(plan, plan.contenders[1], 0), quiet)
    found = read_json(result_path(Path("found"), "tanh", 0))
    assert found["validation"] is None
    assert found["bits_per_character"] is None
    assert found["diverged"] == "The loss is nan at step 3."
    assert (found["steps"], found["train"]) == (2, 3.0)


@pytest.mark.slow
def test_a_rate_that_is_too_high_diverges_and_its_speed_is_measured():
    plan = plan_of(["gru", "tanh"], changes=DIVERGING)
    tanh = plan.contenders[1]
    comparison_jobs.train(arguments_of(plan, tanh, 0), quiet)
    found = read_json(result_path(Path("found"), "tanh", 0))
    assert found["validation"] is None
    assert found["diverged"].startswith("The validation loss is inf after step 1.")
    # The speed of the same updates is measured: at rate 0.
    arguments = {"config": plan.config_of(tanh, 0, None).to_dict(), "path": "speed/tanh.json"}
    comparison_jobs.measure(arguments | {"seconds": 0.01}, quiet)
    assert 0 < read_json(Path("speed/tanh.json"))["seconds_per_update"] < 10


def test_a_task_is_trained_and_recorded(monkeypatch):
    plan = plan_of(["gru", "tanh"], task="adding", task_length=4, changes={"steps": 6})
    assert plan.parameters["tanh"] == 4 * 2 + 4 * 4 + 4 + 4 + 4 + 1  # and the output layer's
    assert plan.name == "adding-gru-tanh"
    given = []

    def trained(config, task, folder, watch):
        given.append((config.cell, config.steps, task.name, task.length, folder.is_dir()))
        return [TaskRow(3, 0.3, 0.2), TaskRow(6, 0.2, 0.1)], 0.5

    monkeypatch.setattr(comparison_jobs, "train_task", trained)
    comparison_jobs.train(arguments_of(plan, plan.contenders[1], 0, steps=6), quiet)
    assert given == [("tanh", 6, "adding", 4, True)]
    found = read_json(result_path(Path("found"), "tanh", 0))
    assert (found["steps"], found["validation"], found["train"]) == (6, 0.1, 0.2)
    assert found["milliseconds_per_update"] == 500
    assert found["curve"][0] == {"step": 3, "train": 0.3, "validation": 0.2}


@pytest.mark.parametrize("steps", [1, 3, 8, 11])
def test_characters_are_counted_as_a_loop_counts_them(steps):
    tokens = np.arange(500, dtype=np.int32) % 7
    streams = BpttStream(tokens, 4, 16, True, 0)
    windows = WindowSet(tokens, np.arange(0, 41), 3, 13, seed=0)  # 13, 13, 13 and 2 rows
    for source in (streams, windows):
        total, epoch, place = 0, 0, 0
        for _ in range(steps):
            if place == source.steps(epoch):
                epoch, place = epoch + 1, 0
            one = source.windows(epoch, place, 1)
            total += int(one.lengths[0] * one.rows[0])
            place += 1
        assert comparison_jobs.characters_in(source, steps) == total


# Minutes.


def test_minutes_become_a_number_of_updates_by_the_speed(monkeypatch):
    experiment = prepare(replace(Config(model="CharLM", corpus="text.txt"), **SMALL))
    made = []

    def timed(self, state, position, steps):
        made.append(steps)
        assert position.window + steps <= experiment.source.steps(0)
        return state, replace(position, window=position.window + steps), 0.25 * steps

    monkeypatch.setattr(Trainer, "make", timed)
    assert speed.seconds_per_update(experiment, 20.0) == 0.25
    assert made[:2] == [0, 1]  # compiled, and warmed up
    assert sum(made[2:]) == 80
    limited, seconds = speed.with_minutes(experiment, 0.5)
    assert (limited.config.steps, seconds) == (120, 0.25)
    assert replace(limited.config, steps=None) == experiment.config
    assert speed.updates_in(0.001, 100.0) == 1
    assert speed.updates_in(1e9, 1e-9) == 2**31 - 1


# The table, the picture and the folder, from results that are made up.


def result(contender, seed, validation, **others):
    curve = [
        {
            "step": step,
            "train": 3.0 - step / 10,
            "validation": validation and validation + 1 - step / 2,
        }
        for step in (1, 2)
    ]
    return {
        "contender": contender,
        "seed": seed,
        "hidden_size": 8,
        "parameters": 1000,
        "validation": validation,
        "bits_per_character": None,
        "train": 2.0,
        "diverged": None,
        "steps": 2,
        "characters": 100,
        "milliseconds_per_update": 2.0,
        "memory_bytes": 3_000_000 + seed * 1_000_000,
        "seconds": 1.0,
        "curve": curve,
        **others,
    }


DESCRIPTION = {
    "settings": {"seed": 0, "equal": "characters", "minutes": None},
    "seeds": 3,
    "unit": "character",
    "task": None,
    "contenders": [
        {
            "label": label,
            "name": label,
            "hidden_size": 8,
            "parameters": 1000,
            "steps": 2,
            "seconds_per_update": None,
        }
        for label in ("gru", "lstm")
    ],
}
RESULTS = [
    result("gru", 0, 2.0),
    result("gru", 1, 2.2),
    result("gru", 2, 2.4),
    result("lstm", 0, 1.9),
    result("lstm", 1, None, diverged="The loss is nan | at step 7 with learning rate 1."),
    result("lstm", 2, 2.2),
]


def rows_of(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_means_deviations_and_paired_differences(tmp_path):
    comparison = Comparison(tmp_path, DESCRIPTION, RESULTS)
    header, _, gru, lstm, diverged = rows_of(comparison.table())
    found = dict(zip(header, gru, strict=True))
    assert found["validation loss (nats per character)"] == "2.2000 ± 0.2000"
    assert found["bits per character"] == "3.1739 ± 0.2885"
    assert found["parameters"] == "1,000"
    assert found["memory"] == "3 MB"
    assert found["ms/update"] == "2"
    assert (found["difference to gru (95 %)"], found["seeds"]) == ("", "3")
    found = dict(zip(header, lstm, strict=True))
    # Of seeds 0 and 2: differences -0.1 and -0.2, t of one degree of freedom 12.706.
    assert found["difference to gru (95 %)"] == "-0.1500 (-0.7853 to +0.4853) of 2 seeds"
    assert found["validation loss (nats per character)"] == "2.0500 ± 0.2121"
    assert found["seeds"] == "2 of 3"
    assert diverged[0] == "lstm, seed 1"
    assert diverged[6] == "diverged: The loss is nan / at step 7 with learning rate 1."
    assert comparison.differences()["lstm"].n == 2
    assert comparison.differences()["lstm"].mean == pytest.approx(-0.15)
    assert comparison.records() == RESULTS
    assert comparison._repr_markdown_() == comparison.table()
    assert repr(comparison) == (
        "Comparison(gru 2.2000 ± 0.2000, lstm 2.0500 ± 0.2121; nats per character, seeds: 3)"
    )


def test_a_training_that_failed_is_a_row_of_the_table(tmp_path):
    comparison = Comparison(tmp_path, DESCRIPTION, RESULTS[:3], {"lstm_seed2": "out of memory"})
    _, _, _, lstm, failed = rows_of(comparison.table())
    assert lstm[-4:] == ["-", "-", "-", "0 of 3"]
    assert (failed[0], failed[6]) == ("lstm, seed 2", "failed: out of memory")


def test_the_table_of_a_task_has_the_loss_without_memory(tmp_path):
    task = {"measure": "mean squared error", "baseline": 1 / 6}
    description = DESCRIPTION | {"task": task}
    results = [result("gru", seed, 0.001 * (seed + 1)) for seed in range(3)]
    comparison = Comparison(tmp_path, description, results)
    header, _, gru, _, baseline = rows_of(comparison.table())
    place = header.index("mean squared error")
    assert gru[place] == "2.00e-03 ± 1.00e-03"
    assert (baseline[0], baseline[place]) == ("guessing without memory", "0.1667")
    assert not any("bits" in title for title in header)
    assert comparison.plot().axes[0].get_ylabel() == "validation: mean squared error"


def test_the_picture_has_a_mean_and_a_band_for_each(tmp_path):
    figure = Comparison(tmp_path, DESCRIPTION, RESULTS).plot()
    (axes,) = figure.axes
    gru, lstm = axes.lines
    assert (gru.get_label(), lstm.get_label()) == ("gru", "lstm")
    assert list(gru.get_xdata()) == [1, 2]
    np.testing.assert_allclose(gru.get_ydata(), [2.7, 2.2])  # the means of 2.0, 2.2, 2.4, +0.5
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [2.0, 2.9])
    # With one validation each, training is drawn.
    short = []
    for each in RESULTS:
        first, last = each["curve"]
        short.append(each | {"curve": [first, last | {"validation": None}]})
    (axes,) = Comparison(tmp_path, DESCRIPTION, short).plot().axes
    assert axes.get_ylabel() == "train: nats per character"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [2.9, 2.8])
    # At equal minutes the axis is time.
    timed = json.loads(json.dumps(DESCRIPTION))
    timed["settings"] |= {"equal": "minutes", "minutes": 2}
    timed["contenders"][0]["seconds_per_update"] = 30.0
    timed["contenders"][1]["seconds_per_update"] = 60.0
    (axes,) = Comparison(tmp_path, timed, RESULTS).plot().axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.5, 1.0], [1.0, 2.0]]
    assert not Comparison(tmp_path, DESCRIPTION, []).plot().axes[0].lines


class MadeUp:
    """Trains and measures at once, in this process: the loss is a function of name and seed."""

    def __init__(self, monkeypatch):
        self.done = []
        self.threads = set()
        self.fail = set()
        monkeypatch.setattr(comparing, "finish_jobs", self)

    def __call__(self, function, waiting, processes, stopping, *, screen, threads, on_done=None):
        self.threads.add(threads)
        failures = {}
        for job in waiting:
            if job.id in self.fail:
                failures[job.id] = "it failed"
                continue
            self.done.append(job)
            if function.endswith(":measure"):
                path = Path(job.arguments["path"])
                path.parent.mkdir(parents=True, exist_ok=True)
                seconds = {"gru": 0.5, "lstm": 1.0}[job.id]
                write_json(path, {"format": 1, "seconds_per_update": seconds})
                continue
            name, seed = job.arguments["contender"], job.arguments["seed"]
            found = result(name, seed, {"gru": 2.0, "lstm": 1.9}[name] + seed / 10)
            path = result_path(Path(job.arguments["folder"]), name, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"format": 1, **found})
        return failures


@pytest.fixture
def made_up(monkeypatch):
    return MadeUp(monkeypatch)


def compared(**options):
    return jaxrnn.compare(
        ["gru", "lstm"],
        **{"corpus": "text.txt", "steps": 20, "progress": False, **SMALL, **options},
    )


def test_the_same_call_does_nothing_and_more_seeds_are_added(made_up):
    first = compared(seeds=2)
    assert first.folder == Path("comparisons/text-gru-lstm")
    assert [job.id for job in made_up.done] == [
        "gru_seed0",
        "lstm_seed0",
        "gru_seed1",
        "lstm_seed1",
    ]
    assert made_up.threads == {1}
    found = {path.name for path in first.folder.iterdir()}
    assert found == {
        ".lock",
        "comparison.json",
        "curves.png",
        "records.json",
        "results",
        "table.md",
    }
    records = json.loads((first.folder / "records.json").read_text())
    assert len(records["records"]) == 4
    assert records["differences"]["lstm"]["mean"] == pytest.approx(-0.1)
    assert (first.folder / "table.md").read_text() == f"{first.table()}\n"
    made_up.done.clear()
    assert repr(compared(seeds=2)) == repr(first)
    assert made_up.done == []
    more = compared(seeds=3)
    assert [job.id for job in made_up.done] == ["gru_seed2", "lstm_seed2"]
    assert len(more.records()) == 6
    assert len(read_comparison(more.folder).records()) == 6


def test_a_training_that_failed_is_trained_again_by_the_same_call(made_up, caplog):
    made_up.fail = {"lstm_seed1"}
    first = compared(seeds=2)
    assert first.failures == {"lstm_seed1": "it failed"}
    assert "lstm_seed1 failed: it failed" in caplog.text
    made_up.fail = set()
    made_up.done.clear()
    assert compared(seeds=2).failures == {}
    assert [job.id for job in made_up.done] == ["lstm_seed1"]


def test_another_setting_in_the_same_folder_is_refused_by_name(made_up):
    Path("other.txt").write_text(TEXT + "again\n")
    compared(folder="mine")
    for changes, message in (
        ({"steps": 30}, "with other steps (steps was 20, is 30): name another folder"),
        ({"bptt": 16}, "with other bptt (bptt was 8, is 16)"),
        ({"seed": 1}, "with other seed (seed was 0, is 1)"),
        ({"equal": "parameters"}, "(equal was 'characters', is 'parameters')"),
        ({"corpus": "other.txt"}, "with other corpus, text (corpus was"),
        ({"steps": None, "minutes": 2.0}, "with other minutes, steps (minutes was None, is 2.0)"),
    ):
        with pytest.raises(ValueError, match="mine has another comparison") as refused:
            compared(folder="mine", **changes)
        assert message in str(refused.value)


def test_a_text_or_code_that_has_changed_is_refused(made_up):
    compared(folder="mine")
    Path("text.txt").write_text(TEXT + "more\n")
    with pytest.raises(ValueError, match=r"with other text \(text was"):
        compared(folder="mine")
    Path("a.py").write_text(OWN)
    made_up.fail = {"MyCell_seed0"}
    options = {"corpus": "text.txt", "steps": 3, "seeds": 1, "progress": False, "folder": "own"}
    jaxrnn.compare(["gru", "a.py:MyCell"], **SMALL, **options)
    Path("a.py").write_text(OWN + "\n# another one\n")
    with pytest.raises(ValueError, match="with other code"):
        jaxrnn.compare(["gru", "a.py:MyCell"], **SMALL, **options)


def test_results_without_their_settings_are_refused(made_up):
    folder = compared(folder="mine").folder
    (folder / "comparison.json").unlink()
    with pytest.raises(ValueError, match=r"mine has results, and no comparison.json"):
        compared(folder="mine")
    (folder / "comparison.json").write_text("{")
    with pytest.raises(ValueError, match=r"Cannot read mine.comparison.json"):
        compared(folder="mine")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("equal", "measured", "steps"),
    [
        ("minutes", ["gru", "lstm"], [240, 120]),
        ("parameters", ["gru"], [240, 240]),
        ("characters", ["gru"], [240, 240]),
    ],
)
def test_minutes_are_measured_once_and_recorded(made_up, equal, measured, steps):
    first = compared(steps=None, minutes=2, equal=equal, seeds=1)
    ids = [job.id for job in made_up.done]
    assert ids == [*measured, "gru_seed0", "lstm_seed0"]
    trained = [job.arguments["config"]["steps"] for job in made_up.done[len(measured) :]]
    assert trained == steps
    assert [one["steps"] for one in first.description["contenders"]] == steps
    # Another speed later changes nothing.
    made_up.done.clear()
    compared(steps=None, minutes=2, equal=equal, seeds=2)
    assert [job.id for job in made_up.done] == ["gru_seed1", "lstm_seed1"]
    assert [job.arguments["config"]["steps"] for job in made_up.done] == steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "gru"}, "The contenders say which cell"),
        ({"model": "CharLM"}, "The contenders say which model"),
        ({"hiden_size": 3}, "compare has no option 'hiden_size'"),
        ({"recipe": "nothing"}, "got 'nothing'"),
        ({"task": "adding"}, "A task is generated: leave corpus and recipe out, or task"),
        ({"progress": 1}, "progress must be True or False"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"folder": "text.txt"}, "text.txt is no folder"),
        ({"corpus": "none.txt"}, "none.txt"),
    ],
    ids=str,
)
def test_arguments_that_are_refused(made_up, options, message):
    before = set(os.listdir("."))
    with pytest.raises(ValueError) as refused:  # noqa: PT011  (the message is looked at below)
        compared(**options)
    assert message in str(refused.value)
    assert set(os.listdir(".")) == before
    assert made_up.done == []


def test_a_text_of_ones_own_keeps_its_case(made_up):
    Path("text.txt").write_text(TEXT + "The Fox\n")
    kept = compared(folder="kept").description["settings"]
    lowered = compared(folder="lowered", lowercase=True).description["settings"]
    by_recipe = compared(folder="recipe", recipe="stateful-gru").description["settings"]
    found = [settings["lowercase"] for settings in (kept, lowered, by_recipe)]
    assert found == [False, True, True]


def test_there_is_a_process_a_core_and_one_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(comparing, "available_cores", lambda: [0, 1, 2])
    assert comparing.usual_processes() == 3
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert comparing.usual_processes() == 3
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert comparing.usual_processes() == 1


def test_what_is_finished_at_ctrl_c_is_returned_and_the_rest_comes_later(
    made_up, monkeypatch, caplog, capsys
):
    """One training is done when Ctrl-C comes."""

    class StoppedAfterOne(MadeUp):
        def __call__(self, function, waiting, processes, stopping, **options):
            os.kill(os.getpid(), signal.SIGINT)
            assert stopping() == signal.SIGINT
            return super().__call__(function, waiting[:1], processes, stopping, **options)

    stopped = StoppedAfterOne(monkeypatch)
    found = compared(seeds=2)
    assert [record["contender"] for record in found.records()] == ["gru"]
    assert "Stopped and saved in comparisons/text-gru-lstm" in caplog.text
    given = ["compare", "gru", "lstm", "--corpus", "text.txt", "--steps", "20", *FLAGS]
    assert cli.main([*given, "--seeds", "2"]) == 128 + signal.SIGINT
    assert "Stopped and saved. The same command goes on from there." in capsys.readouterr().out
    assert [job.id for job in stopped.done] == ["gru_seed0", "lstm_seed0"]
    monkeypatch.setattr(comparing, "finish_jobs", made_up)
    assert len(compared(seeds=2).records()) == 4
    assert [job.id for job in made_up.done] == ["gru_seed1", "lstm_seed1"]


# The command line.

FLAGS = ["--hidden", "4", "--embedding", "4", "--batch", "8", "--bptt", "8", "--no-random-bptt"]


def test_the_command_prints_the_table(made_up, capsys):
    given = ["compare", "gru", "lstm", "--corpus", "text.txt", "--steps", "20", *FLAGS]
    assert cli.main(given) == 0
    captured = capsys.readouterr()
    assert "| gru " in captured.out
    assert "-0.1000 (-0.1000 to -0.1000)" in captured.out
    assert "are in comparisons/text-gru-lstm." in captured.out
    # The same comparison as that in Python.
    made_up.done.clear()
    compared(seeds=3)
    assert made_up.done == []
    made_up.fail = {"lstm_seed3"}
    assert cli.main([*given, "--seeds", "4"]) == 1
    assert "failed: lstm_seed3: it failed" in capsys.readouterr().err


def test_a_task_has_values_of_its_own(made_up):
    asked = command.command(["gru", "lstm", "--task", "copying", "--task-length", "7"])
    assert asked.config == TASK_CONFIG
    assert asked() == 0
    assert made_up.done[0].arguments["task_length"] == 7
    # As in Python.
    again = jaxrnn.compare(["gru", "lstm"], task="copying", task_length=7, progress=False)
    assert len(again.records()) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name at least two to compare"),
        (["gru"], "Name at least two to compare"),
        (["gru", "nothing"], "There is no cell and no model 'nothing'"),
        (["gru", "lstm", "--cell", "gru"], "The contenders say which cell"),
        (["gru", "lstm", "--model", "CharLM"], "The contenders say which model"),
        (["gru", "lstm", "--task", "adding", "--corpus", "text.txt"], "A task is generated"),
        (["gru", "lstm", "--task", "sorting"], "--task"),
        (["gru", "lstm", "--equal", "time"], "--equal"),
        (["gru", "lstm", "--minutes", "1", "--steps", "2"], "not with both"),
        (["gru", "lstm", "--seeds", "0"], "seeds must be at least 1"),
        (["gru", "lstm", "--identity"], "CharLM has no option identity"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_one_line(made_up, capsys, arguments, message):
    before = set(os.listdir("."))
    assert cli.main(["compare", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert set(os.listdir(".")) == before


def test_train_with_minutes_records_the_updates(monkeypatch, capsys):
    monkeypatch.setattr("jaxrnn.cli.train.watch", lambda run, experiment, **options: 0)
    monkeypatch.setattr(speed, "seconds_per_update", lambda experiment, measured: 0.1)
    given = ["train", "--corpus", "text.txt", "--minutes", "2", *FLAGS]
    assert cli.main(given) == 0
    assert "An update takes 100 ms: 2 minutes are 1,200 updates." in capsys.readouterr().out
    config = json.loads(Path("runs/text/config.json").read_text())["config"]
    assert config["steps"] == 1200
    for wrong, message in (
        (["--steps", "3"], "Say how long to train with --minutes or with --steps, not with both"),
        (["--minutes", "-1"], "minutes must be a number above 0, got -1"),
        (["--resume", "runs/text"], "--resume goes on with a run as it was begun"),
    ):
        assert cli.main([*given, *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


# Whole, in worker processes.


@pytest.mark.slow
def test_a_whole_comparison_that_is_stopped_goes_on_and_ends_the_same():
    """Ctrl-C in the middle, then the same command; as one that was never stopped."""
    Path("a.py").write_text(OWN)
    command_line = ["compare", "a.py:MyCell", "gru", "--corpus", "text.txt", "--seeds", "1"]
    command_line += [*FLAGS, "--validate-every", "1000"]
    code = (
        f"import sys; from jaxrnn import cli; sys.exit(cli.main({command_line!r} + sys.argv[1:]))"
    )
    env = environment(1)
    folder = Path("stopped")
    flags = ["--steps", "4000", "--folder"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(folder.glob("under-way/*/history.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (128 + signal.SIGINT, "")
    assert "Stopped and saved. The same command goes on from there." in out
    for place in (folder, Path("whole")):
        done = subprocess.run(
            [sys.executable, "-c", code, *flags, str(place)],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    stopped, whole = (read_comparison(place) for place in (folder, Path("whole")))
    assert len(whole.records()) == 2
    for one, other in zip(stopped.records(), whole.records(), strict=True):
        assert one["curve"] == other["curve"]
    assert (folder / "curves.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("equal", ["characters", "minutes", "parameters"])
def test_a_whole_comparison_in_python(equal):
    how = {"minutes": 0.02} if equal == "minutes" else {"steps": 6}
    options = {"corpus": "text.txt", "seeds": 2, "equal": equal, "folder": "found", **SMALL}
    found = jaxrnn.compare(["lstm", "gru"], **how, **options)
    assert len(found.records()) == 4
    assert found.failures == {}
    assert found.differences()["gru"].n == 2
    steps = [one["steps"] for one in found.description["contenders"]]
    assert all(record["validation"] > 0 for record in found.records())
    if equal == "minutes":
        assert min(steps) >= 1
    else:
        assert steps == [6, 6]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["adding", "copying", "brackets"])
def test_a_whole_comparison_on_a_task(task):
    options = {"task_length": 6, "steps": 12, "seeds": 2, "folder": "found"}
    found = jaxrnn.compare(["lstm", "gru"], task=task, hidden_size=8, **options)
    assert len(found.records()) == 4
    assert "guessing without memory" in found.table()


def test_jobs_of_a_comparison_are_found_in_a_process(monkeypatch):
    """The names that the processes are given are functions with the two arguments of a job."""
    for name in ("measure", "train"):
        module, _, function = f"{comparing.JOBS}:{name}".partition(":")
        assert module == comparison_jobs.__name__
        assert callable(getattr(comparison_jobs, function))
    assert jobs.WORKER.count("run_job") == 2
