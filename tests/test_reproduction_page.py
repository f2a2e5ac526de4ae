"""The page of the results: its numbers are those of the results, and what is missing is said so."""

import re
import shlex
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from reproduction_results import (
    published_and,
    write_both,
    write_everything,
    write_finished,
    write_horizon,
    write_studies,
)

from jaxrnn import RECIPES, cli
from jaxrnn.reproduction import commands
from jaxrnn.reproduction.page.gathering import gather
from jaxrnn.reproduction.page.markdown import code, duration, quoted
from jaxrnn.reproduction.page.records import Findings
from jaxrnn.reproduction.page.statistics import verdict
from jaxrnn.reproduction.page.writing import MARK, page, write_page
from jaxrnn.reproduction.results import result_path
from jaxrnn.reproduction.studies import study_units
from jaxrnn.reproduction.units import Unit
from jaxrnn.reproduction.watching import Outcome
from jaxrnn.terminal import parse
from parity import cli as parity_cli

COMMITTED = Path(__file__).parents[1] / "scripts" / "reproduction"
LARGEST_PICTURE = 150_000
"""Bytes: what the page promises to readers on slow lines."""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder to be in, with one for results."""
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Results for every part of the page."""
    folder = tmp_path_factory.mktemp("everything")
    write_everything(folder)
    return folder


@pytest.fixture(scope="module")
def full_page(everything, tmp_path_factory):
    """The folder of their page."""
    return write_page(everything, tmp_path_factory.mktemp("page")).parent


def text_of(results):
    return page(gather(results), "page")


def row(text, *begin):
    """The cells of the one row of a table that begins with these cells."""
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("|")]
    (found,) = [cells for cells in rows if tuple(cells[: len(begin)]) == begin]
    return found


def section(text, title):
    """What stands under a heading, up to the next one."""
    (found,) = re.findall(rf"^#+ {title}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return found


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
    assert sum("--studies" in command for command in missing) == 4
    assert sum("--dtype float64" in command for command in missing) == 2
    assert "](losses.png)" in text
    assert re.findall(r"\]\((.*?\.png)\)", text) == ["losses.png"]


def test_every_command_on_the_page_can_be_typed(results, full_page):
    write_finished(results, Unit(recipe="concat"), published_and("concat", 0))
    texts = text_of(results) + (full_page / "README.md").read_text()
    found = set(re.findall(r"\./scripts/(?:jaxrnn|parity) .*?(?=`|\n)", texts))
    assert len(found) > 15
    for command in found:
        program, *arguments = shlex.split(command)
        if program == "./scripts/jaxrnn":
            cli._command(arguments)
        else:
            parse(parity_cli.COMMANDS, arguments, program="parity", description="")


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
        "./scripts/jaxrnn reproduce loop concat rnn many-outputs identity stateful-rnn --studies",
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
    for recipe, contiguous in (("rnn", 0.3), ("many-outputs", 0.1)):
        write_both(results, recipe, [0.0, 0.5])
        unit = Unit(recipe=recipe, changes={"split": "contiguous"}, study="split")
        write_finished(results, unit, published_and(recipe, contiguous))
    text = section(text_of(results), "The leak of overlapping windows")
    last = RECIPES["rnn"].validation[6]
    assert row(text, "rnn") == [
        "rnn",
        "overlapping",
        f"{last:.4f} (1)",
        f"{last + 0.3:.4f} (1)",
        "+0.3000 (sd 0.3536)",
    ]
    assert row(text, "many-outputs")[1] == "non-overlapping"
    assert "+0.300 nats" in text
    assert "+0.100 where they do not: the overlap itself makes +0.200 nats." in text
    assert "all but one of its 8 characters" in text
    assert "not run yet" in text


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


def test_a_page_is_the_same_whenever_it_is_made_and_from_its_own_results(
    everything, full_page, tmp_path
):
    again = write_page(everything, tmp_path / "again").parent
    own = write_page(again, tmp_path / "own").parent
    files = [
        {path.name: path.read_bytes().replace(bytes(folder), b"") for path in folder.iterdir()}
        for folder in (full_page, again, own)
    ]
    pictures = {f"{name}.png" for name in ("losses", "horizon", "bptt", "gradient-norms")}
    assert files[0].keys() == {"README.md", "results.json"} | pictures
    assert files[0] == files[1] == files[2]
    assert Findings.from_json(files[0]["results.json"]) == gather(everything)


def test_pictures_are_drawn_and_small(full_page):
    shown = re.findall(r"\]\((.*?\.png)\)", (full_page / "README.md").read_text())
    assert len(shown) == 4
    for name in shown:
        data = (full_page / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", data[16:24])
        assert width == 1000
        assert height >= 350
        assert 8_000 < len(data) < LARGEST_PICTURE


def test_pictures_show_the_results(results, tmp_path):
    write_both(results, "loop", [0.0, 0.01])
    write_page(results, tmp_path / "page")
    before = (tmp_path / "page" / "losses.png").read_bytes()
    write_both(results, "loop", [0.0, 0.05])
    write_page(results, tmp_path / "page")
    assert (tmp_path / "page" / "losses.png").read_bytes() != before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("page/README.md", "# Mine", "page/README.md is no page of results"),
        ("page", "a file", "Cannot write a page to page: File exists"),
        ("results/horizon-float64.json", '{"format": 2}', "horizon-float64.json is damaged"),
        ("results/loop_jax_float32_seed0.json", "{", "loop_jax_float32_seed0.json is damaged"),
        ("results/loop_jax_float32_seed0.safetensors", "{", "seed0.safetensors is damaged"),
    ],
)
def test_a_page_that_cannot_be_made_is_one_line(results, tmp_path, capsys, name, text, message):
    write_both(results, "loop", [0.0])
    path = tmp_path / name
    if path.parent.name == "page":
        path.parent.mkdir()
    path.write_text(text)
    arguments = ["--no-train", "--folder", "results", "--page", "page"]
    assert cli.main(["reproduce", "concat", *arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert message in line
    assert path.read_text() == text


def test_nothing_finished_is_one_line(capsys):
    assert cli.main(["reproduce", "--no-train", "--folder", "results", "--page", "page"]) == 2
    assert "Nothing is finished in results" in capsys.readouterr().err


def test_no_train_trains_nothing(results, capsys, monkeypatch):
    monkeypatch.setattr(commands, "reproduce", lambda *_: pytest.fail("it trained"))
    write_both(results, "loop", [0.0])
    arguments = ["reproduce", "--no-train", "--folder", "results"]
    assert cli.main([*arguments, "--framework", "both"]) == 0
    printed = capsys.readouterr().out
    assert "loop, float32" in printed
    assert "PyTorch, seed 0" in printed
    assert cli.main([*arguments, "--page", "page"]) == 0
    assert "The page of the results is page/README.md." in capsys.readouterr().out


def test_the_page_is_written_after_training_also_when_a_unit_failed(results, capsys, monkeypatch):
    def reproduce(units, folder, jobs):
        write_both(folder, "loop", [0.0])
        return Outcome({}, {units[0].id: "it diverged"}, 0)

    monkeypatch.setattr(commands, "reproduce", reproduce)
    monkeypatch.setattr(commands, "load_corpus", lambda name: None)
    arguments = ["reproduce", "loop", "--folder", "results", "--page", "page"]
    assert cli.main(arguments) == 1
    assert "it diverged" in capsys.readouterr().err
    assert Path("page/README.md").read_text().startswith(MARK)


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


@pytest.mark.skipif(not COMMITTED.exists(), reason="no page is committed yet")
def test_the_committed_page_is_what_its_results_give():
    text = (COMMITTED / "README.md").read_text()
    assert page(gather(COMMITTED), "scripts/reproduction") == text
    for name in re.findall(r"\]\((.*?\.png)\)", text):
        assert (COMMITTED / name).stat().st_size < LARGEST_PICTURE
