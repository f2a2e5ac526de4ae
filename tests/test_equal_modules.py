"""The study of equal modules in a short form: ./scripts/equal-modules is the long one."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from equal_modules.kinds import KINDS
from equal_modules.study import FAILED, table, trials, upper_bound


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_modules_do_not_fail(kind):
    (trial,) = trials(range(1), (kind,), wrong=False)
    assert trial.outcome in ("PASS", "WARN"), trial.words


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_modules_fail(kind):
    found = list(trials(range(1), (kind,), wrong=True))
    assert found
    assert [trial.mistake for trial in found if trial.outcome not in FAILED] == []


def test_the_bound_is_that_of_clopper_and_pearson():
    # (1 - p) ** n = 5 % where none of n failed.
    assert upper_bound(0, 1000) == pytest.approx(1 - 0.05**1e-3)
    assert upper_bound(2, 100) == pytest.approx(0.0616, abs=1e-4)
    assert upper_bound(3, 3) == 1


def test_the_table_has_a_line_for_each_kind_and_all():
    found = list(trials(range(1), ("embedding", "pooling"), wrong=False))
    lines = table(found)
    assert [line.split()[0] for line in lines] == ["kind", "embedding", "pooling", "all"]
    assert lines[-1].split()[1:3] == ["2", "0"]
