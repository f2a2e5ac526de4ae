"""Summaries of results: means, deviations, differences, pairs; and the table of them."""

from dataclasses import replace

import numpy as np
import pytest

from jaxrnn import RECIPES
from jaxrnn.exchange.files import write_tensors
from jaxrnn.reproduction.comparison import summaries
from jaxrnn.reproduction.results import weights_path
from jaxrnn.reproduction.table import lines
from jaxrnn.reproduction.units import Unit

LOOP = Unit(recipe="loop")
PUBLISHED = RECIPES["loop"].validation


def result_of(unit, losses):
    by_epoch = {str(epoch): loss for epoch, loss in enumerate(losses, 1)}
    return {"unit": unit.to_dict(), "validation": by_epoch}


@pytest.fixture
def results(tmp_path):
    weights = {"a": np.ones(4, np.float32), "b": np.full(9, 2, np.float32)}
    ours, theirs = replace(LOOP, seed=1), replace(LOOP, seed=1, framework="torch")
    write_tensors(weights_path(tmp_path, theirs), weights, {})
    weights["b"][0] += 0.6
    write_tensors(weights_path(tmp_path, ours), weights, {})
    return [
        result_of(LOOP, [2.01, 1.74]),
        result_of(ours, [2.03, 1.75]),
        result_of(theirs, [2.05, 1.70]),
        result_of(replace(LOOP, study="split", changes={"split": "contiguous"}), [2.2, 2.0]),
        result_of(replace(LOOP, dtype="float64"), [2.0, 1.7]),
    ]


def test_results_are_gathered_by_all_but_seed_and_framework(tmp_path, results):
    main, split, wide = summaries(results, tmp_path)
    assert [curve.seeds for curve in main.curves] == [(0, 1), (1,)]
    ours, theirs = main.curves
    assert ours.mean == pytest.approx({1: 2.02, 2: 1.745})
    assert ours.deviation == pytest.approx({1: np.sqrt(2) * 0.01, 2: np.sqrt(2) * 0.005})
    assert (theirs.framework, theirs.deviation) == ("torch", {})
    assert main.published == dict(PUBLISHED)
    assert (split.published, split.unit.study, wide.unit.dtype) == ({}, "split", "float64")


def test_pairs_say_which_tensor_is_farthest_and_how_far_losses_are(tmp_path, results):
    main, *others = summaries(results, tmp_path)
    (apart,) = main.pairs
    assert (apart.seed, apart.tensor) == (1, "b")
    assert apart.weights == pytest.approx(0.6 / 6)
    assert apart.validation == pytest.approx({1: -0.02, 2: 0.05})
    assert apart.farthest == pytest.approx(0.05)
    assert all(summary.pairs == () for summary in others)


def test_the_table_shows_published_ours_and_the_differences(tmp_path, results):
    assert lines(summaries(results, tmp_path)[0]) == [
        "loop, float32",
        "epoch                          1       2",
        "published                  1.993   1.751",
        "jaxrnn, 2 seeds           2.0200  1.7450",
        "  standard deviation      0.0141  0.0071",
        "  from published         +0.0270 -0.0060",
        "PyTorch, seed 1           2.0500  1.7000",
        "  from published         +0.0570 -0.0510",
        "jaxrnn - PyTorch         -0.0200 +0.0500",
        "  same start, seed 1: weights differ by 1.0e-01 (b), validation by at most 5.0e-02",
    ]


def test_long_recipes_show_the_published_epochs_and_the_last(tmp_path):
    unit = Unit(recipe="stateful-lstm-63")
    (summary,) = summaries([result_of(unit, [2.0 - 0.01 * e for e in range(80)])], tmp_path)
    assert lines(summary)[1].split() == ["epoch", "1", "2", "3", "5", "9", "17", "80"]
