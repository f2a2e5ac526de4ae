"""The page of the results: losses, verdicts, commands; what is missing is said so."""

import re

import numpy as np
import pytest
from reproduction_results import (
    published_and,
    row,
    section,
    text_of,
    write_both,
    write_finished,
    write_studies,
)

from jaxrnn import RECIPES
from jaxrnn.reproduction.page.gathering import gather
from jaxrnn.reproduction.page.statistics import verdict
from jaxrnn.reproduction.results import result_path
from jaxrnn.reproduction.units import Unit


@pytest.fixture
def results(tmp_path):
    return tmp_path


def test_the_table_has_the_means_deviations_and_differences(results):
    published = RECIPES["loop"].validation[2]
    ours, theirs = [published + x for x in (0.011, 0.002, 0.023)], [published + 0.01] * 2
    for seed, loss in enumerate(ours):
        write_finished(results, Unit(recipe="loop", seed=seed), [2.0, loss])
    for seed, loss in enumerate(theirs):
        write_finished(results, Unit(recipe="loop", framework="torch", seed=seed), [2.0, loss])
    mean, deviation = np.mean(ours), np.std(ours, ddof=1)
    pooled = np.sqrt((deviation**2 + 0) / 2)
    apart = np.mean(ours[:2]) - np.mean(theirs)
    assert row(text_of(results), "loop", "2") == [
        "loop",
        "2",
        "1.736, 1.751",
        f"{mean - 0.1:.4f}",
        f"{mean:.4f} ± {deviation:.4f} (3)",
        f"{mean - published:+.4f}",
        "within 0.02",
        "1.7610 ± 0.0000 (2)",
        f"{apart:+.4f} (sd {pooled:.4f})",
        "61 s, 60 s",
    ]


def test_one_seed_has_no_deviation(results):
    write_both(results, "loop", [0.001])
    assert row(text_of(results), "loop", "2")[4:] == [
        "1.7520 (1)",
        "+0.0010",
        "within 0.02",
        "1.7520 (1)",
        "-1e-06",
        "60 s, 60 s",
    ]


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (0.05, "**misses** by 0.050"),
        (0.0201, "**misses** by 0.020"),
        (0.0199, "within 0.02"),
        (-0.0199, "within 0.02"),
        (-0.05, "better by 0.050"),
    ],
)
def test_verdicts(difference, words):
    assert verdict(difference) == words


def test_a_miss_is_said_everywhere_and_better_is_fine(results):
    write_both(results, "loop", [0.05, 0.05])
    write_both(results, "concat", [-0.05, -0.05])
    write_both(results, "rnn", [0.0, 0.002])
    text = text_of(results)
    assert [row(text, name, epochs)[6] for name, epochs in (("loop", "2"), ("concat", "2"))] == [
        "**misses** by 0.050",
        "better by 0.050",
    ]
    losses = section(text, "Losses")
    assert "2 of the 3 recipes that were run are within 0.02 nats" in losses
    assert "Missed: loop by 0.050." in losses
    assert "loop: 0 of 2 published epochs within 0.02 or better" in text
    assert "rnn: 6 of 6 published epochs within 0.02 or better" in text
    notes = section(text, "What moves the numbers")
    assert "loop ends 0.050 nats worse than published" in notes
    assert "concat ends 0.050 nats better than published" in notes
    assert "0 of 2 above the published 1.699" in notes
    assert "rnn ends" not in notes


def test_recipes_that_depend_on_the_seed_are_named(results):
    write_both(results, "identity", [-0.05, 0.05])
    write_both(results, "loop", [-0.01, 0.01])
    notes = section(text_of(results), "What moves the numbers")
    assert "between 0.0141 (loop) and 0.0707 (identity) nats" in notes
    assert "identity depends on the seed: its seeds end at 1.788 and 1.888." in notes
    assert "loop depends" not in notes


def test_recipes_that_differ_from_pytorch_by_more_than_seeds_do_are_named(results):
    write_both(results, "loop", [0.0, 0.001], torch=0.01)
    write_both(results, "concat", [0.0, 0.001])
    losses = section(text_of(results), "Losses")
    assert "on 1 of 2 recipes the means differ by less than that" in losses
    assert "By more: loop by 0.0100 (sd 0.0007)." in losses


def test_epochs_one_by_one(results):
    write_both(results, "stateful-lstm-15", [0.01, 0.01])
    text = text_of(results)
    assert row(text, "3", "-")[2:6] == ["1.3570", "1.447", "1.4570 ± 0.0000 (2)", "+0.0100"]
    assert row(text, "4", "-")[3:6] == ["-", "1.4570 ± 0.0000 (2)", ""]
    assert row(text, "17", "1.282")[3] == "1.315"


def test_what_is_missing_is_said_with_its_command(results):
    write_finished(results, Unit(recipe="concat"), published_and("concat", 0))
    text = text_of(results)
    assert row(text, "loop", "2")[2:] == ["1.736, 1.751", "", "not run", *[""] * 5]
    assert row(text, "concat", "2")[7:] == ["not run", "", "60 s"]
    missing = re.findall("not run yet: `(.*)`", text)
    assert missing[0].startswith("./scripts/jaxrnn reproduce loop rnn many-outputs identity")
    assert "stateful-lstm-63" not in missing[0]
    assert "./scripts/jaxrnn reproduce stateful-lstm-63 --framework both" in missing
    assert "./scripts/parity horizon --dtype float64" in missing
    assert sum("--studies" in command for command in missing) == 5
    assert sum("--dtype float64" in command for command in missing) == 2
    assert "](losses.png)" in text
    assert re.findall(r"\]\((.*?\.png)\)", text) == ["losses.png"]


def test_the_commands_train_what_is_on_the_page(results):
    write_both(results, "loop", [0.0] * 3)
    write_both(results, "stateful-rnn", [0.0], dtype="float64")
    write_finished(results, Unit(recipe="concat", seed=4), published_and("concat", 0))
    write_studies(results)
    (block,) = re.findall(r"```console\n(.*?)\n```", text_of(results), re.DOTALL)
    assert block.splitlines() == [
        "./scripts/jaxrnn reproduce loop --seeds 3 --framework both",
        "./scripts/jaxrnn reproduce concat --seeds 5",
        "./scripts/jaxrnn reproduce stateful-rnn --seeds 1 --framework both --dtype float64",
        "./scripts/jaxrnn reproduce loop concat rnn many-outputs identity stateful-rnn "
        "stateful-lstm --studies",
        "./scripts/jaxrnn reproduce --no-train --page page",
    ]


def test_the_head_says_when_where_with_what_and_how_long(results):
    write_both(results, "loop", [0.0] * 3)
    text = text_of(results)
    assert "6 runs, 6.1 min of training and validation in all" in text
    assert "(jaxrnn 3.0 min, PyTorch 3.0 min)" in text
    assert f"`{'ab' * 32}`" in text
    findings = gather(results)
    assert f"Trained {findings.records[0].date[:10]}." in text
    environment = findings.records[0].environment
    assert f"Machine: {environment.cpu}, {environment.cores} cores." in text
    assert f"jax {environment.versions['jax']}" in text


def test_a_recipe_that_goes_on_from_another_is_projected(results):
    unit = Unit(recipe="stateful-lstm-15")
    write_finished(results, unit, published_and("stateful-lstm-15", 0), seconds=1700.0)
    write_finished(results, Unit(recipe="stateful-lstm"), published_and("stateful-lstm", 0))
    text = text_of(results)
    assert (
        "stateful-lstm-63, not run, would take about 2.2 h for its 80 epochs: stateful-lstm-15 "
        "takes 28 min for 17, and 63 more would be 105 min."
    ) in text
    assert text.count("would take about") == 1


def test_other_units_are_left_out(results):
    write_both(results, "loop", [0.0])
    expected = text_of(results)
    for number, (study, changes) in enumerate(
        [("", {"schedule": "1 x 1e-3"}), ("quick", {"schedule": "1 x 1e-3"}), ("split", {})]
    ):
        epochs = 1 if changes else 2
        unit = Unit(recipe="loop", study=study, changes=changes, seed=number)
        write_finished(results, unit, [5.0] * epochs)
    assert text_of(results) == expected


def test_results_are_in_the_courses_order(results):
    for recipe in ("stateful-gru", "concat", "loop"):
        write_both(results, recipe, [0.0, 0.0])
    order = [(r.unit.recipe, r.unit.framework, r.unit.seed) for r in gather(results).records]
    assert order[:4] == [
        ("loop", "jax", 0),
        ("loop", "jax", 1),
        ("loop", "torch", 0),
        ("loop", "torch", 1),
    ]
    assert [name for name, _, _ in order[::4]] == ["loop", "concat", "stateful-gru"]
    assert result_path(results, Unit(recipe="loop")).exists()
