"""The page of the results: every number on it comes out of the results as it should."""

import re
from pathlib import Path

import numpy as np
import pytest
from made_up import (
    published_and,
    row,
    section,
    text_of,
    write_both,
    write_finished,
    write_horizon,
    write_studies,
)
from reproduction.findings import gather
from reproduction.page import duration, fenced, page, quoted, verdict
from reproduction.units import STUDIES, Unit, study_units

from jaxrnn import RECIPES

COMMITTED = Path(__file__).parents[2] / "scripts" / "reproduction"


def test_the_committed_page_is_what_its_results_give():
    text = (COMMITTED / "README.md").read_text()
    assert page(gather(COMMITTED), "scripts/reproduction") == text


def test_the_table_has_the_means_deviations_and_differences(tmp_path):
    published = RECIPES["loop"].validation[2]
    ours, theirs = [published + x for x in (0.011, 0.002, 0.023)], [published + 0.01] * 2
    for seed, loss in enumerate(ours):
        write_finished(tmp_path, Unit(recipe="loop", seed=seed), [2.0, loss])
    for seed, loss in enumerate(theirs):
        write_finished(tmp_path, Unit(recipe="loop", framework="torch", seed=seed), [2.0, loss])
    mean, deviation = np.mean(ours), np.std(ours, ddof=1)
    pooled = np.sqrt((deviation**2 + 0) / 2)
    apart = np.mean(ours[:2]) - np.mean(theirs)
    assert row(text_of(tmp_path), "loop", "2")[2:] == [
        "1.736, 1.751",
        f"{mean - 0.1:.4f}",
        f"{mean:.4f} ± {deviation:.4f} (3)",
        f"{mean - published:+.4f}",
        "within 0.02",
        "1.7610 ± 0.0000 (2)",
        f"{apart:+.4f} (sd {pooled:.4f})",
        "61 s, 60 s",
    ]


def test_one_seed_has_no_deviation(tmp_path):
    write_both(tmp_path, "loop", [0.001])
    ours, rest = ["1.7520 (1)", "+0.0010", "within 0.02"], ["1.7520 (1)", "-1e-06", "60 s, 60 s"]
    assert row(text_of(tmp_path), "loop", "2")[4:] == ours + rest


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


def test_a_miss_is_said_everywhere_and_better_is_fine(tmp_path):
    write_both(tmp_path, "loop", [0.05, 0.05])
    write_both(tmp_path, "concat", [-0.05, -0.05])
    write_both(tmp_path, "rnn", [0.0, 0.002])
    text = text_of(tmp_path)
    losses, notes = section(text, "Losses"), section(text, "What moves the numbers")
    assert row(text, "loop", "2")[6] == "**misses** by 0.050"
    assert "2 of the 3 recipes that were run are within 0.02 nats" in losses
    assert "Missed: loop by 0.050." in losses
    assert "loop: 0 of 2 published epochs within 0.02 or better" in text
    assert "rnn: 6 of 6 published epochs within 0.02 or better" in text
    assert "loop ends 0.050 nats worse than published" in notes
    assert "concat ends 0.050 nats better than published" in notes
    assert "0 of 2 above the published 1.699" in notes
    assert "rnn ends" not in notes


def test_recipes_that_seeds_or_frameworks_move_are_named(tmp_path):
    write_both(tmp_path, "identity", [-0.05, 0.05])
    write_both(tmp_path, "loop", [-0.01, 0.01], torch=0.02)
    text = text_of(tmp_path)
    losses, notes = section(text, "Losses"), section(text, "What moves the numbers")
    assert "between 0.0141 (loop) and 0.0707 (identity) nats" in notes
    assert "identity depends on the seed: its seeds end at 1.788 and 1.888." in notes
    assert "loop depends" not in notes
    assert "on 1 of 2 recipes the means differ by less than that" in losses
    assert "By more: loop by 0.0200 (sd 0.0141)." in losses


def test_epochs_one_by_one(tmp_path):
    write_both(tmp_path, "stateful-lstm-15", [0.01, 0.01])
    text = text_of(tmp_path)
    assert row(text, "3", "-")[2:6] == ["1.3570", "1.447", "1.4570 ± 0.0000 (2)", "+0.0100"]
    assert row(text, "4", "-")[3:6] == ["-", "1.4570 ± 0.0000 (2)", ""]
    assert row(text, "17", "1.282")[3] == "1.315"


def test_what_is_missing_is_said_with_its_command(tmp_path):
    write_finished(tmp_path, Unit(recipe="concat"), published_and("concat", 0))
    text = text_of(tmp_path)
    assert row(text, "loop", "2")[2:] == ["1.736, 1.751", "", "not run", *[""] * 5]
    assert row(text, "concat", "2")[7:] == ["not run", "", "60 s"]
    assert re.findall(r"\]\((.*?\.png)\)", text) == ["losses.png"]
    commands = section(text, "Not run yet").splitlines()[2:-1]
    assert commands == [
        "./scripts/reproduce loop rnn many-outputs identity stateful-rnn stateful-rnn-2 "
        "stateful-gru stateful-lstm early-lstm --framework both",
        "./scripts/reproduce stateful-lstm-15 --framework both",
        "./scripts/reproduce stateful-lstm-63 --framework both",
        "./scripts/reproduce early-lstm-31 --framework both",
        "./scripts/reproduce stateful-rnn stateful-gru --seeds 1 --framework both --dtype float64",
        "./scripts/reproduce loop concat rnn many-outputs identity --studies",
        "./scripts/reproduce stateful-rnn --studies",
        "./scripts/reproduce identity --studies",
        "./scripts/reproduce stateful-lstm --studies",
        "./scripts/reproduce stateful-qrnn --studies",
        "./scripts/reproduce horizon --dtype float64",
        "./scripts/reproduce horizon --dtype float32",
    ]


def test_cells_are_compared_at_equal_time_too(tmp_path):
    """The GRU's third epoch is not over when the LSTM has trained all nine."""
    qrnn = Unit(recipe="stateful-qrnn")
    gru, lstm = (unit for unit in study_units() if unit.study == "cell" and unit.seed == 0)
    for place, (unit, seconds) in enumerate([(qrnn, 200.0), (gru, 300.0), (lstm, 99.0)]):
        losses = [2.0 + place - 0.1 * epoch for epoch in range(1, 10)]
        write_finished(tmp_path, unit, losses, seconds=seconds)
    text = text_of(tmp_path)
    assert row(text, "qrnn")[1:] == [
        "2 x 176",
        "249,879",
        "3.3 min",
        "1.1000 (1)",
        "4",
        "1.6000 (1)",
    ]
    assert row(text, "gru")[3:] == ["5.0 min", "2.1000 (1)", "2", "2.8000 (1)"]
    assert row(text, "lstm")[3:] == ["99 s", "3.1000 (1)", "9", "3.1000 (1)"]
    assert "when lstm, the quickest, had trained all 9." in text


def test_the_head_says_what_when_where_and_how_long(tmp_path):
    write_both(tmp_path, "loop", [0.0] * 3)
    write_both(tmp_path, "stateful-rnn", [0.0], dtype="float64")
    write_finished(tmp_path, Unit(recipe="concat", seed=4), published_and("concat", 0))
    write_studies(tmp_path)
    text = text_of(tmp_path)
    (block,) = re.findall(
        r"```console\n(.*?)\n```", section(text, "The course's losses, reproduced"), re.DOTALL
    )
    assert block.splitlines() == [
        "./scripts/reproduce loop --seeds 3 --framework both",
        "./scripts/reproduce concat --seeds 5",
        "./scripts/reproduce stateful-rnn --seeds 1 --framework both --dtype float64",
        "./scripts/reproduce loop concat rnn many-outputs identity stateful-rnn stateful-lstm "
        "stateful-qrnn --studies",
        "./scripts/reproduce --no-train --page page",
    ]
    found = gather(tmp_path).records
    taken = sum(record.seconds for record in found) / 60
    theirs = sum(record.seconds for record in found if record.unit.framework == "torch") / 60
    assert f"{len(found)} runs, {taken:.0f} min of training and validation in all" in text
    assert f"PyTorch {theirs:.1f} min)" in text
    assert f"`{'ab' * 32}`" in text
    assert f"Trained {found[0].date[:10]}." in text
    environment = found[0].environment
    assert f"Machine: {environment['cpu']}, {environment['cores']} cores." in text
    assert f"jax {environment['versions']['jax']}" in text


def test_other_units_are_left_out(tmp_path):
    write_both(tmp_path, "loop", [0.0])
    expected = text_of(tmp_path)
    for number, (study, changes) in enumerate([("", {"schedule": "1 x 1e-3"}), ("split", {})]):
        unit = Unit(recipe="loop", study=study, changes=changes, seed=number)
        write_finished(tmp_path, unit, [5.0] * unit.epochs)
    assert text_of(tmp_path) == expected


@pytest.mark.parametrize(
    ("dtype", "torch", "holds"),
    [
        ("float64", 5e-13, "yes"),
        ("float64", 5e-12, "no"),
        ("float32", 5e-5, "yes"),
        ("float32", 5e-4, "no"),
    ],
)
def test_pairs_are_judged_by_the_limits(tmp_path, dtype, torch, holds):
    write_both(tmp_path, "stateful-gru", [0.0, 0.1], torch=torch, dtype=dtype)
    write_both(tmp_path, "stateful-gru", [0.0], torch=torch / 100, dtype=dtype)
    text = text_of(tmp_path)
    cells = row(text, "**stateful-gru**", dtype, "2")
    assert float(cells[4]) == pytest.approx(torch / 3, rel=0.05)
    assert float(cells[6]) == pytest.approx(torch, rel=0.05)
    assert cells[8] == holds
    assert f"1 has been run, and {int(holds == 'yes')} hold" in text
    by_epoch = row(text, f"stateful-gru, {dtype}")
    assert len(by_epoch) == 1 + 9
    assert float(by_epoch[9]) == pytest.approx(torch, rel=0.05)


def test_weights_are_judged_in_float64_and_dropout_is_not(tmp_path):
    write_both(tmp_path, "stateful-rnn", [0.0], torch=1e-13, dtype="float64")
    unit = Unit(recipe="stateful-rnn", dtype="float64")
    write_finished(tmp_path, unit, published_and("stateful-rnn", 0.0), weights=1e-9)
    write_both(tmp_path, "stateful-lstm", [0.0], torch=0.1)
    text = text_of(tmp_path)
    cells = row(text, "**stateful-rnn**", "float64")
    assert (cells[4], cells[5], cells[8]) == ("3.3e-10", "1e-10", "no")
    assert row(text, "stateful-lstm", "float32", "1")[8] == "other masks"
    assert "PyTorch draws other masks" in text


def test_the_horizon_is_the_last_step_within_the_limit(tmp_path):
    write_both(tmp_path, "loop", [0.0])
    write_horizon(tmp_path, "float64", [1e-15, 1e-14, 1e-7, 2e-6, 1e-7], [1e-9] * 5)
    write_horizon(tmp_path, "float32", [2e-6, 1e-3, 1e-2, 1e-1], [1e-7, 2e-6, 1e-2, 1.0])
    text = text_of(tmp_path)
    assert [row(text, f"stateful-lstm, {dtype}")[1:] for dtype in ("float64", "float32")] == [
        ["5 steps", "all 20 steps", "1.0e-07", "1.0e-09", "20"],
        ["less than 1 step", "1 step", "1.0e-01", "1.0e+00", "10"],
    ]


def test_the_leak_is_what_the_text_does_not_explain(tmp_path):
    write_both(tmp_path, "loop", [0.0])  # without the loss on the shared windows
    for recipe, by in (("loop", 0.9), ("rnn", 0.3), ("many-outputs", 0.1)):
        for seed in (0, 1) if recipe != "loop" else ():
            unit = Unit(recipe=recipe, seed=seed)
            write_finished(tmp_path, unit, published_and(recipe, seed), shared=1.5 + seed)
        unit = Unit(recipe=recipe, changes={"split": "contiguous"}, study="split")
        write_finished(tmp_path, unit, published_and(recipe, -0.2), shared=1.5 + by)
    text = section(text_of(tmp_path), "The leak of overlapping windows")
    last = RECIPES["rnn"].validation[6]
    losses = [f"{last:.4f} (1)", f"{last - 0.2:.4f} (1)", "1.5000 (1)", "1.8000 (1)", "+0.3000"]
    assert row(text, "rnn") == ["rnn", "overlapping", *losses]
    assert row(text, "many-outputs")[1] == "non-overlapping"
    assert "| loop |" not in text
    assert "+0.300 nats" in text
    assert "+0.100 where they do not: the overlap itself makes +0.200 nats." in text
    assert "all but one of its 8 characters" in text


def test_gradients_are_shown_by_their_median_their_largest_and_their_flow(tmp_path):
    write_both(tmp_path, "identity", [0.0])
    changes = {"identity": False, "schedule": "4 x 1e-2"}
    for seed, (factor, norm) in enumerate(((0.5, 1.5), (2.0, 20.0), (1.0, 3.0))):
        unit = Unit(recipe="identity", study="identity", seed=seed, changes=changes)
        flow = [[3.0 * 0.5**k for k in range(100)], [7.0 * factor**k for k in range(100)]]
        write_finished(tmp_path, unit, [2.0, 1.9, 1.8, 1.7], flow=flow, norm=norm)
    text = section(text_of(tmp_path), "Identity initialisation")
    assert row(text, "default", "4 x 1e-2")[-2:] == ["3", "20"]
    at = [row(text, when, "default", "4 x 1e-2")[3:] for when in ("start", "end")]
    assert at == [["7.8e-03", "4.7e-10", "1.6e-30"], ["1.0e+00"] * 3]
    assert f"Farthest it grows in default, 4 x 1e-2: to {2.0**99:.2g} times" in text
    assert "(gradient-flow.png)" in text


def test_the_setting_nearest_to_the_published_losses_is_named(tmp_path):
    """Training losses are 0.1 below validation losses here."""
    write_finished(tmp_path, Unit(recipe="stateful-lstm"), [1.900, 1.800])
    heading = "The LSTM's first two epochs"
    assert "| published" not in section(text_of(tmp_path), heading)
    for place, changes in enumerate(STUDIES["beginning"].changes):
        unit = Unit(recipe="stateful-lstm", study="beginning", changes=changes)
        near = changes == {"dropout": 0.25}
        losses = [1.650, 1.592] if near else [2.0 + place, 1.9 + place]
        write_finished(tmp_path, unit, losses, samples=[], next=[])
    text = section(text_of(tmp_path), heading)
    assert row(text, "published")[1:] == ["1.720", "1.640", "1.629", "1.582", ""]
    assert row(text, "nothing")[2] == "1.9000 (1)"
    assert row(text, "weight decay 0.0")[4] == "3.9000 (1)"
    theirs = np.array([[1.720, 1.640], [1.629, 1.582]])
    for changed, losses in (("nothing", [1.900, 1.800]), ("dropout 0.25", [1.650, 1.592])):
        ours = np.array([[loss - 0.1, loss] for loss in losses])
        assert row(text, changed)[5] == f"{abs(ours - theirs).mean():.3f}"
    assert "Nearest comes `dropout 0.25`" in text


def test_studies_show_their_losses(tmp_path):
    write_studies(tmp_path)
    write_both(tmp_path, "stateful-rnn", [0.01, 0.02, 0.03])
    text = text_of(tmp_path)
    losses = {record.unit.id: record for record in gather(tmp_path).records}

    def mean_of(study, epoch, **changes):
        units = [
            u for u in study_units() if u.study == study and changes.items() <= u.changes.items()
        ]
        return np.mean([losses[unit.id].validation[epoch] for unit in units])

    carry = section(text, "When the carry starts from zeros")
    for policy in ("epoch", "evaluation"):
        expected = mean_of("carry", 8, carry=policy)
        cells = row(carry, policy)
        assert cells[2].startswith(f"{expected:.4f} ± ")
        assert cells[3].startswith(f"{expected - 1.506:+.4f}")
    bptt = section(text, "How far back gradients flow")
    for length in (4, 8, 16, 35, 70):
        cells = row(bptt, str(length))
        assert cells[1] == "100"
        assert [cell[:6] for cell in cells[2:6]] == [
            f"{mean_of('bptt', epoch, bptt=length):.4f}" for epoch in range(1, 5)
        ]
    assert "the same 0.026 million characters" in bptt
    identity = section(text, "Identity initialisation")
    for rate in ("1e-2", "1e-3"):
        for word, value in (("identity", True), ("default", False)):
            expected = mean_of("identity", 4, identity=value, schedule=f"4 x {rate}")
            assert row(identity, word, f"4 x {rate}")[5][:6] == f"{expected:.4f}"
    assert "--studies" not in section(text, "Not run yet")


def test_samples_and_answers_are_those_of_the_models(tmp_path):
    sample = "for those ``` | <b>\nthe same"
    write_finished(tmp_path, Unit(recipe="rnn"), published_and("rnn", 0), sample=sample)
    given = [{"prompt": "for thos", "next": "|"}]
    for seed in (1, 2):
        unit = Unit(recipe="rnn", seed=seed)
        write_finished(tmp_path, unit, published_and("rnn", 0), next=given, sample="another")
    text = text_of(tmp_path)
    assert f"````text\n{sample}\n````" in text
    assert "another" not in text
    assert row(text, "rnn", '`"for thos"`')[2:] == ['`"e"`', r'`"e"` `"\|"` `"\|"`', "1 of 3"]
    assert row(text, "rnn", '`"part of "`')[2:] == ['`"t"`', '`"h"`', "0 of 1"]
    assert "1 of 4 answers are the course's." in text


def test_pieces_of_text_are_shown_as_they_are():
    assert quoted("a`b``c") == '```"a`b``c"```'
    assert quoted(" th") == '`" th"`'
    assert fenced("x\n") == "```text\nx\n```"
    assert [duration(s) for s in (59.6, 130, 3600, 9000)] == ["60 s", "2.2 min", "60 min", "2.5 h"]
