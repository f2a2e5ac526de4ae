"""The predictability horizon: found where runs part, and none where they cannot."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from reproduction import commands, horizon
from reproduction.findings import Horizon
from reproduction.horizon import LIMIT, followed, horizon_unit, looked_at
from reproduction.units import Unit

SMALL = {"hidden_size": 16, "batch_size": 8, "random_bptt": False}


def test_the_first_step_above_the_limit_is_the_horizon():
    facts = {"recipe": "loop", "dtype": "float32", "seed": 0, "limit": LIMIT, "environment": {}}
    distances = {"jax_torch": [1e-9, 2e-6, 1.0], "torch_ulp": [1e-9, LIMIT, 1e-7]}
    found = Horizon(**facts, **distances, steps=[1, 2, 5])
    assert found.first_apart(found.jax_torch) == 1
    assert found.first_apart(found.torch_ulp) is None


def test_steps_that_are_looked_at_end_with_the_last():
    assert looked_at(1) == [1]
    assert looked_at(25) == [1, 2, 5, 10, 20, 25]
    assert looked_at(30) == [1, 2, 5, 10, 20, 30]


def unit_of(tmp_path, dtype, rate):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog.\n" * 12)
    changes = SMALL | {"corpus": str(text), "schedule": f"100 x {rate}"}
    return Unit(recipe="stateful-rnn", dtype=dtype, changes=changes)


def test_runs_are_followed_over_the_ends_of_epochs(tmp_path):
    *_, found = followed(unit_of(tmp_path, "float64", 1e-3), 25)  # epochs of seven windows
    assert found["steps"] == [1, 2, 5, 10, 20, 25]
    assert max(found["jax_torch"]) < 1e-12
    assert 0 < min(found["torch_ulp"]) <= max(found["torch_ulp"]) < 1e-12


@pytest.mark.slow
def test_float32_is_followed_less_far_than_float64(tmp_path):
    *_, narrow = followed(unit_of(tmp_path, "float32", 1e-2), 20)
    *_, wide = followed(unit_of(tmp_path, "float64", 1e-2), 20)
    for name in ("jax_torch", "torch_ulp"):
        assert narrow[name][-1] > 1e3 * wide[name][-1]


@pytest.mark.slow
def test_the_command_writes_what_it_found(tmp_path, monkeypatch, capsys):
    unit = unit_of(tmp_path, "float32", 1e-2)
    monkeypatch.setattr(horizon, "horizon_unit", lambda *_: unit)
    flags = ["--dtype", "float32", "--steps", "10", "--folder", str(tmp_path / "results")]
    assert commands.main(["horizon", *flags]) == 0
    assert "PyTorch, 1 ulp apart" in capsys.readouterr().out
    written = json.loads((tmp_path / "results" / "horizon-float32.json").read_text())
    assert (written["dtype"], written["recipe"]) == ("float32", "stateful-rnn")
    assert written["steps"] == [1, 2, 5, 10]
    assert len(written["jax_torch"]) == len(written["torch_ulp"]) == 4
    assert np.isfinite(written["jax_torch"]).all()


def test_the_recipe_is_followed_at_its_first_rate_without_dropout():
    config = horizon_unit("stateful-lstm-15", "float64", 3).config
    assert (config.dropout, config.seed, config.hidden_size) == (0.0, 3, 512)
    assert config.schedule == "1000 x 0.01"
