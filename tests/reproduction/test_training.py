"""A recipe in JAX and in PyTorch from one start: the same numbers; stopped and gone on with, too.

Small models on a small text, through the code that trains the recipes themselves.
"""

import json
import sys
from dataclasses import replace

import pytest
from safetensors.numpy import load_file

pytest.importorskip("torch")

from reproduction.results import pair, read_record, result_path, weights_path
from reproduction.training import UNDER_WAY, run, trainer_of
from reproduction.units import Unit

from jaxrnn.runs.jobs import Stopped
from jaxrnn.training.diagnosis import NonFiniteLossError
from parity.mutation.tools import recompiled
from parity.mutation.training_mutations import carry_with

WEIGHTS, VALIDATION = 1e-10, 1e-12
"""What whole recipes promise in float64; a few hundred steps of small models are well inside."""
ROWS = 1e-11
"""Relative, of gradient norms and training losses."""
FLOAT32 = 1e-4
"""Validation losses in float32, likewise."""
SCHEDULE = "1 x 3e-3, sgdr(3e-3, 2)"
SMALL = {"hidden_size": 16, "batch_size": 13, "random_bptt": False, "schedule": SCHEDULE}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("for those who dance, part of queens and others.\nthe fox sleeps.\n" * 50)
    return str(path)


def quiet(share, note):
    pass


def trained(folder, unit, watch=quiet):
    folder.mkdir(exist_ok=True)
    run(unit, folder, watch)
    return json.loads(result_path(folder, unit).read_text())


def both(folder, unit):
    units = [replace(unit, framework=name) for name in ("jax", "torch")]
    results = [trained(folder, each) for each in units]
    return results, pair(folder, *(read_record(folder, each) for each in units))


CASES = [
    ("rnn", {"split": "contiguous"}),
    ("identity", {}),
    ("stateful-rnn", {"carry": "never", "random_bptt": True}),
    ("stateful-rnn-2", {"carry": "epoch"}),
    ("stateful-gru", {"carry": "evaluation", "clip": 0.2}),
    ("stateful-lstm", {"dropout": 0.0, "weight_decay": 1e-3}),
]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("recipe", "changes"), CASES, ids=lambda case: str(case))
def test_both_frameworks_train_the_same_in_float64(tmp_path, text, recipe, changes):
    unit = Unit(recipe=recipe, dtype="float64", changes=SMALL | {"corpus": text} | changes)
    (ours, theirs), apart = both(tmp_path / "results", unit)
    assert apart.weights < WEIGHTS
    assert apart.farthest < VALIDATION
    assert list(ours["validation"]) == ["1", "2", "3", "4"]
    assert len(ours["rows"]) == len(theirs["rows"])
    for one, other in zip(ours["rows"], theirs["rows"], strict=True):
        assert set(other) <= set(one)
        for name, value in other.items():
            expected = None if value is None else pytest.approx(value, rel=ROWS, abs=0)
            assert one[name] == expected, name


@pytest.mark.slow
@pytest.mark.usefixtures("course_corpus")
@pytest.mark.parametrize("recipe", ["stateful-rnn", "stateful-gru"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_whole_recipes_agree(tmp_path, recipe, dtype):
    _, apart = both(tmp_path / "results", Unit(recipe=recipe, dtype=dtype))
    if dtype == "float64":
        assert apart.weights < WEIGHTS
    assert apart.farthest < {"float64": VALIDATION, "float32": FLOAT32}[dtype]


@pytest.mark.slow
def test_both_frameworks_train_the_same_in_float32(tmp_path, text):
    unit = Unit(recipe="stateful-rnn", seed=3, changes=SMALL | {"corpus": text})
    (ours, _), apart = both(tmp_path / "results", unit)
    assert apart.weights > 0
    assert apart.farthest < FLOAT32
    (sample,) = ours["samples"]
    assert (sample["prompt"], sample["greedy"], ours["next"]) == ("for thos", None, [])
    assert len(sample["sampled"]) == len("for thos") + 300
    weights = load_file(weights_path(tmp_path / "results", unit))
    assert {array.dtype.name for array in weights.values()} == {"float32"}


@pytest.mark.slow
def test_a_carry_that_is_lost_shows_between_the_frameworks(tmp_path, text):
    unit = Unit(recipe="stateful-rnn", dtype="float64", changes=SMALL | {"corpus": text})
    with recompiled(carry_with(lambda before, after: 0 * after)):
        _, apart = both(tmp_path / "results", unit)
    assert apart.weights > 1e6 * WEIGHTS
    assert apart.farthest > 1e6 * VALIDATION


class Interruption:
    """Stops training at some of the calls, as a user would."""

    def __init__(self, *calls):
        self.calls, self.seen = set(calls), 0

    def __call__(self, share, note):
        assert 0 <= share <= 1
        self.seen += 1
        if self.seen in self.calls:
            raise Stopped


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("framework", "recipe", "calls"),
    [
        ("jax", "stateful-rnn", (25,)),
        ("torch", "rnn", (7, 25, 26)),
        ("torch", "stateful-lstm", (7, 25, 26)),
    ],
)
def test_a_unit_that_is_stopped_ends_as_one_that_is_not(
    tmp_path, text, monkeypatch, framework, recipe, calls
):
    monkeypatch.setattr("jaxrnn.training.loop.SECONDS_IN_ONE_PROGRAM", 0.0)  # one step at a time
    changes = SMALL | {"corpus": text, "batch_size": 50}
    unit = Unit(recipe=recipe, framework=framework, changes=changes, study="test")
    whole = trained(tmp_path / "whole", unit)
    watch = Interruption(*calls)
    for _ in calls:
        with pytest.raises(Stopped):
            trained(tmp_path / "pieces", unit, watch)
        assert not result_path(tmp_path / "pieces", unit).exists()
    pieces = trained(tmp_path / "pieces", unit, watch)
    for name in ("rows", "train", "validation"):
        assert pieces[name] == whole[name]
    one, other = (load_file(weights_path(tmp_path / name, unit)) for name in ("whole", "pieces"))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert not list((tmp_path / "pieces" / UNDER_WAY).iterdir())


@pytest.mark.slow
def test_a_windowed_model_writes_greedily_and_answers(tmp_path, text):
    changes = {"hidden_size": 16, "batch_size": 16, "corpus": text, "schedule": "2 x 1e-2"}
    result = trained(tmp_path / "results", Unit(recipe="rnn", changes=changes))
    (sample,) = result["samples"]
    assert (sample["prompt"], sample["sampled"]) == ("for thos", None)
    assert len(sample["greedy"]) == len("for thos") + 100
    assert {"prompt": "for thos", "next": sample["greedy"][8]} in result["next"]
    assert [answer["prompt"] for answer in result["next"]] == ["for thos", "part of ", "queens a"]


def test_a_twin_that_diverges_says_so(tmp_path, text):
    changes = SMALL | {"corpus": text, "optimizer": "sgd", "schedule": "1 x 1e38"}
    unit = Unit(recipe="loop", framework="torch", changes=changes)
    with pytest.raises(NonFiniteLossError, match="no longer finite soon after step 0"):
        trained(tmp_path / "results", unit)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, text):
    unit = Unit(recipe="loop", framework="torch", changes=SMALL | {"corpus": text})
    with pytest.raises(Stopped):
        trained(tmp_path / "results", unit, Interruption(15))
    (path,) = (tmp_path / "results" / UNDER_WAY / unit.id).glob("*.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last.pt is damaged: remove it"):
        trained(tmp_path / "results", unit)


def test_a_text_that_has_changed_is_refused(tmp_path, text):
    unit = Unit(recipe="loop", changes=SMALL | {"corpus": text})
    with pytest.raises(Stopped):
        trained(tmp_path / "results", unit, Interruption(3))
    with open(text, "a") as file:
        file.write("the fox")
    with pytest.raises(ValueError, match="has changed since the run began"):
        trained(tmp_path / "results", unit)


def test_a_framework_that_is_missing_is_named_with_the_remedy(monkeypatch):
    assert trainer_of("torch").__module__ == "reproduction.reference"
    assert trainer_of("jax").__module__ == "reproduction.training"
    for name in [name for name in sys.modules if name.split(".")[0] == "parity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "reproduction.reference")
    monkeypatch.delattr("reproduction.reference")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"Training with torch.*\"parity\".*pip install"):
        trainer_of("torch")
