"""The page of the results: identical starts, the horizon, the studies, samples and answers."""

import numpy as np
import pytest
from reproduction_results import (
    published_and,
    row,
    section,
    text_of,
    write_both,
    write_finished,
    write_horizon,
    write_studies,
)

from jaxrnn import RECIPES
from jaxrnn.reproduction.page.gathering import gather
from jaxrnn.reproduction.page.markdown import code, duration, quoted
from jaxrnn.reproduction.studies import STUDIES, study_units
from jaxrnn.reproduction.units import Unit


@pytest.fixture
def results(tmp_path):
    return tmp_path


@pytest.mark.parametrize(
    ("dtype", "torch", "holds"),
    [
        ("float64", 5e-13, "yes"),
        ("float64", 5e-12, "no"),
        ("float32", 5e-5, "yes"),
        ("float32", 5e-4, "no"),
    ],
)
def test_pairs_are_judged_by_the_limits(results, dtype, torch, holds):
    write_both(results, "stateful-gru", [0.0, 0.1], torch=torch, dtype=dtype)
    write_both(results, "stateful-gru", [0.0], torch=torch / 100, dtype=dtype)
    text = text_of(results)
    cells = row(text, "**stateful-gru**", dtype, "2")
    assert float(cells[4]) == pytest.approx(torch / 3, rel=0.05)
    assert float(cells[6]) == pytest.approx(torch, rel=0.05)
    assert cells[8] == holds
    assert f"1 has been run, and {int(holds == 'yes')} hold" in text
    by_epoch = row(text, f"stateful-gru, {dtype}")
    assert len(by_epoch) == 1 + 9
    assert float(by_epoch[9]) == pytest.approx(torch, rel=0.05)


def test_weights_beyond_the_limit_are_seen_in_float64(results):
    write_both(results, "stateful-rnn", [0.0], torch=1e-13, dtype="float64")
    unit = Unit(recipe="stateful-rnn", dtype="float64")
    write_finished(results, unit, published_and("stateful-rnn", 0.0), weights=1e-9)
    cells = row(text_of(results), "**stateful-rnn**", "float64")
    assert (cells[4], cells[5], cells[8]) == ("3.3e-10", "1e-10", "no")


def test_recipes_with_dropout_are_not_judged(results):
    write_both(results, "stateful-lstm", [0.0], torch=0.1)
    text = text_of(results)
    assert row(text, "stateful-lstm", "float32", "1")[8] == "other masks"
    assert "PyTorch draws other masks" in text


def test_the_horizon_is_the_last_step_within_the_limit(results):
    write_both(results, "loop", [0.0])
    write_horizon(results, "float64", [1e-15, 1e-14, 1e-7, 2e-6, 1e-7], [1e-9] * 5)
    write_horizon(results, "float32", [2e-6, 1e-3, 1e-2, 1e-1], [1e-7, 2e-6, 1e-2, 1.0])
    text = text_of(results)
    found = [row(text, f"stateful-lstm, {dtype}")[1:] for dtype in ("float64", "float32")]
    assert found == [
        ["5 steps", "all 20 steps", "1.0e-07", "1.0e-09", "20"],
        ["less than 1 step", "1 step", "1.0e-01", "1.0e+00", "10"],
    ]


def test_the_leak_is_what_the_text_does_not_explain(results):
    for recipe, by in (("rnn", 0.3), ("many-outputs", 0.1)):
        write_both(results, recipe, [0.0, 0.5])
        for seed, more in enumerate((0.0, 0.5)):
            unit = Unit(recipe=recipe, seed=seed)
            write_finished(results, unit, published_and(recipe, more), shared=1.5 + more)
        unit = Unit(recipe=recipe, changes={"split": "contiguous"}, study="split")
        write_finished(results, unit, published_and(recipe, -0.2), shared=1.5 + by)
    text = section(text_of(results), "The leak of overlapping windows")
    last = RECIPES["rnn"].validation[6]
    assert row(text, "rnn") == [
        "rnn",
        "overlapping",
        f"{last:.4f} (1)",
        f"{last - 0.2:.4f} (1)",
        "1.5000 (1)",
        "1.8000 (1)",
        "+0.3000",
    ]
    assert row(text, "many-outputs")[1] == "non-overlapping"
    assert "+0.300 nats" in text
    assert "+0.100 where they do not: the overlap itself makes +0.200 nats." in text
    assert "all but one of its 8 characters" in text
    assert "not run yet" in text


def test_results_without_the_shared_windows_are_not_compared(results):
    write_both(results, "rnn", [0.0])
    unit = Unit(recipe="rnn", changes={"split": "contiguous"}, study="split")
    write_finished(results, unit, published_and("rnn", -0.2), shared=1.8)
    text = section(text_of(results), "The leak of overlapping windows")
    assert "| rnn |" not in text
    assert "not run yet" in text


def test_the_flowing_gradient_is_relative_to_the_last_step(results):
    write_both(results, "identity", [0.0])
    changes = {"identity": False, "schedule": "4 x 1e-2"}
    for seed, factor in enumerate((0.5, 2.0)):
        unit = Unit(recipe="identity", study="identity", seed=seed, changes=changes)
        flow = [[3.0 * 0.5**k for k in range(100)], [7.0 * factor**k for k in range(100)]]
        write_finished(results, unit, [2.0, 1.9, 1.8, 1.7], flow=flow)
    text = section(text_of(results), "Identity initialisation")
    at = [row(text, when, "default", "4 x 1e-2")[3:] for when in ("start", "end")]
    assert at == [["7.8e-03", "4.7e-10", "1.6e-30"], ["1.0e+00"] * 3]
    assert "(gradient-flow.png)" in text


def test_the_setting_nearest_to_the_published_losses_is_named(results):
    """Training losses are 0.1 below validation losses here."""
    recipe, study = "stateful-lstm", STUDIES["beginning"]
    write_finished(results, Unit(recipe=recipe), [1.900, 1.800])
    heading = "The LSTM's first two epochs"
    alone = section(text_of(results), heading)
    assert alone.count("not run yet") == 1
    assert "| published" not in alone
    for place, changes in enumerate(study.changes):
        unit = Unit(recipe=recipe, study="beginning", changes=changes)
        near = changes == {"dropout": 0.25}
        losses = [1.650, 1.592] if near else [2.0 + place, 1.9 + place]
        write_finished(results, unit, losses, samples=[], next=[])
    text = section(text_of(results), heading)
    assert row(text, "published")[1:] == ["1.720", "1.640", "1.629", "1.582", ""]
    assert row(text, "nothing")[2] == "1.9000 (1)"
    assert row(text, "weight decay 0.0")[4] == "3.9000 (1)"
    theirs = np.array([[1.720, 1.640], [1.629, 1.582]])
    for changed, losses in (("nothing", [1.900, 1.800]), ("dropout 0.25", [1.650, 1.592])):
        ours = np.array([[loss - 0.1, loss] for loss in losses])
        assert row(text, changed)[5] == f"{abs(ours - theirs).mean():.3f}"
    assert "Nearest comes `dropout 0.25`" in text
    assert "not run yet" not in text


def test_studies_show_their_losses(results):
    write_studies(results)
    write_both(results, "stateful-rnn", [0.01, 0.02, 0.03])
    text = text_of(results)
    losses = {record.unit.id: record for record in gather(results).records}

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
            cells = row(identity, word, f"4 x {rate}")
            expected = mean_of("identity", 4, identity=value, schedule=f"4 x {rate}")
            assert cells[5][:6] == f"{expected:.4f}"
    assert "(gradient-norms.png)" in identity
    assert "not run yet" not in carry + bptt + identity


def test_gradient_norms_are_the_median_and_the_largest(results):
    write_both(results, "identity", [0.0])
    changes = {"identity": False, "schedule": "4 x 1e-2"}
    for seed, norm in enumerate((1.5, 20.0, 3.0)):
        unit = Unit(recipe="identity", study="identity", seed=seed, changes=changes)
        write_finished(results, unit, [2.0, 1.9, 1.8, 1.7], norm=norm)
    cells = row(text_of(results), "default", "4 x 1e-2")
    assert cells[-2:] == ["3", "20"]


def test_samples_and_answers_are_those_of_the_models(results):
    sample = "for those ``` | <b>\nthe same"
    write_finished(results, Unit(recipe="rnn"), published_and("rnn", 0), sample=sample)
    given = [{"prompt": "for thos", "next": "|"}]
    for seed in (1, 2):
        unit = Unit(recipe="rnn", seed=seed)
        write_finished(results, unit, published_and("rnn", 0), next=given, sample="another")
    text = text_of(results)
    assert f"````text\n{sample}\n````" in text
    assert "another" not in text
    assert row(text, "rnn", '`"for thos"`')[2:] == ['`"e"`', r'`"e"` `"\|"` `"\|"`', "1 of 3"]
    assert row(text, "rnn", '`"part of "`')[2:] == ['`"t"`', '`"h"`', "0 of 1"]
    assert "1 of 4 answers are the course's." in text


def test_pieces_of_text_are_shown_as_they_are():
    assert quoted("a`b``c") == '```"a`b``c"```'
    assert quoted(" th") == '`" th"`'
    assert code("x\n") == "```text\nx\n```"
    assert [duration(s) for s in (59.6, 130, 3600, 9000)] == ["60 s", "2.2 min", "60 min", "2.5 h"]
