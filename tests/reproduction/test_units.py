"""Units of work and the files of their results: names, round trips, refusals."""

import json
from dataclasses import replace

import pytest
from made_up import write_finished
from reproduction import commands
from reproduction.commands import LONG, USUAL
from reproduction.processes import expected_seconds
from reproduction.results import ResultError, read_record, result_path
from reproduction.units import STUDIES, Unit, study_units

from jaxrnn import RECIPES

PLAIN = Unit(recipe="loop")
UNITS = [
    PLAIN,
    Unit(recipe="loop", framework="torch"),
    Unit(recipe="loop", dtype="float64"),
    Unit(recipe="loop", seed=1),
    Unit(recipe="loop", study="split"),
    Unit(recipe="loop", changes={"split": "contiguous"}),
    Unit(recipe="loop", changes={"hidden_size": 16, "split": "contiguous"}),
    Unit(recipe="stateful-rnn"),
    *study_units(),
]


def test_units_have_ids_of_their_own_and_survive_json():
    assert len({unit.id for unit in UNITS}) == len(UNITS)
    assert PLAIN.id == "loop_jax_float32_seed0"
    swapped = Unit(recipe="loop", changes={"split": "contiguous", "hidden_size": 16})
    assert swapped == UNITS[6]
    assert swapped.id == UNITS[6].id == "loop_jax_float32_seed0_a51783b6"  # stable for ever
    assert [Unit.from_dict(json.loads(json.dumps(unit.to_dict()))) for unit in UNITS] == UNITS


def test_changes_and_seed_reach_the_configuration():
    unit = Unit(recipe="loop", seed=7, changes={"split": "contiguous", "hidden_size": 16})
    assert unit.config == replace(
        RECIPES["loop"].config, seed=7, split="contiguous", hidden_size=16
    )
    assert dict(unit.published) == {}
    assert dict(PLAIN.published) == dict(RECIPES["loop"].validation)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe": "nothing"}, "There is no recipe 'nothing'"),
        ({"recipe": ["loop"]}, "There is no recipe"),
        ({"framework": "keras"}, "framework must be jax or torch, got 'keras'"),
        ({"dtype": "bfloat16"}, "dtype must be float32 or float64"),
        ({"seed": -1}, "seed must lie in"),
        ({"seed": True}, "seed must be a whole number"),
        ({"study": "../x"}, "study has up to 40"),
        ({"changes": {"seed": 3}}, "A configuration has no seed to change"),
        ({"changes": {"colour": "red"}}, "A configuration has no colour to change"),
        ({"changes": {"split": "half"}}, "split must be one of"),
        ({"changes": {"hidden_size": "16"}}, "hidden_size must be of type int"),
    ],
    ids=str,
)
def test_units_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Unit(**{"recipe": "loop"} | values)


def test_fields_of_a_unit_are_all_needed():
    with pytest.raises(ValueError, match="A unit has the fields"):
        Unit.from_dict({"recipe": "loop"})
    with pytest.raises(ValueError, match="changes of a unit must be an object"):
        Unit.from_dict(PLAIN.to_dict() | {"changes": []})


def test_results_are_read_back(tmp_path):
    assert read_record(tmp_path, PLAIN) is None
    write_finished(tmp_path, PLAIN, [2.0, 1.9])
    record = read_record(tmp_path, PLAIN)
    assert (record.unit, record.validation, record.last) == (PLAIN, {1: 2.0, 2: 1.9}, 1.9)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace('"format": 2', '"format": 3'),
        lambda text: text.replace('"seed": 0', '"seed": 1', 1),
        lambda text: text.replace('"2": 1.9', '"3": 1.9'),
        lambda text: text.replace('"2": 1.9', '"2": "x"'),
        lambda text: text.replace('"seconds"', '"hours"'),
    ],
)
def test_damaged_results_are_refused_by_name(tmp_path, damage):
    write_finished(tmp_path, PLAIN, [2.0, 1.9])
    path = result_path(tmp_path, PLAIN)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ResultError, match=path.name):
        read_record(tmp_path, PLAIN)


def test_usual_recipes_have_published_losses_and_help_lists_them(capsys):
    assert all(RECIPES[name].validation for name in (*USUAL, *LONG))
    assert {"loop", "stateful-gru", "stateful-lstm"} <= set(USUAL)
    assert not set(USUAL) & set(LONG)
    with pytest.raises(SystemExit, match="0"):
        commands.main(["--help"])
    helped = capsys.readouterr().out
    assert all(name in helped for name in (*USUAL, *LONG))


def test_studies_change_what_they_are_about():
    assert all(unit.changes and unit.published == {} for unit in study_units())
    assert {unit.study for unit in study_units()} == set(STUDIES)
    bptts = {unit.changes["bptt"] for unit in study_units() if unit.study == "bptt"}
    assert bptts == {4, 8, 16, 35, 70}


def test_more_work_is_expected_to_take_longer():
    def seconds(recipe, **options):
        return expected_seconds(Unit(recipe=recipe, **options))

    assert seconds("many-outputs") < seconds("stateful-rnn") < seconds("stateful-gru")
    assert seconds("stateful-gru") < seconds("stateful-lstm-15") < seconds("stateful-lstm-63")
    assert seconds("loop") < seconds("loop", dtype="float64")
    assert seconds("stateful-lstm-63", framework="torch") == seconds("stateful-lstm-63")
