"""The files of the page: made again, drawn, refused; and the flags of the command."""

import re
import shlex
import struct
from pathlib import Path

import pytest
from made_up import published_and, text_of, write_both, write_everything, write_finished
from reproduction import commands
from reproduction.findings import gather, of_page
from reproduction.page import MARK, OLD_MARK, write_page
from reproduction.processes import Finished
from reproduction.units import Unit

LARGEST_PICTURE = 150_000
"""Bytes: what the page promises to readers on slow lines."""
PICTURES = {"losses", "horizon", "bptt", "gradient-norms", "gradient-flow", "cells"}


@pytest.fixture
def results(workplace):
    folder = workplace / "results"
    folder.mkdir()
    return folder


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


@pytest.mark.slow
def test_every_command_on_the_page_can_be_typed(results, full_page):
    write_finished(results, Unit(recipe="concat"), published_and("concat", 0))
    texts = text_of(results) + (full_page / "README.md").read_text()
    found = set(re.findall(r"^\./scripts/reproduce .*", texts, re.MULTILINE))
    assert len(found) > 15
    for command in found:
        commands.command(shlex.split(command)[1:])


@pytest.mark.slow
def test_a_page_is_the_same_whenever_it_is_made_and_from_its_own_results(
    everything, full_page, tmp_path
):
    again = write_page(everything, tmp_path / "again").parent
    own = write_page(again, tmp_path / "own").parent
    files = [
        {path.name: path.read_bytes().replace(bytes(folder), b"") for path in folder.iterdir()}
        for folder in (full_page, again, own)
    ]
    pictures = {f"{name}.png" for name in PICTURES}
    assert files[0].keys() == {"README.md", "results.json"} | pictures
    assert files[0] == files[1] == files[2]
    assert of_page(full_page / "results.json") == gather(everything)
    for name in pictures:
        data = files[0][name]
        width, height = struct.unpack(">II", data[16:24])
        assert (data[:4], width) == (b"\x89PNG", 1000)
        assert height >= 350
        assert 8_000 < len(data) < LARGEST_PICTURE


def test_what_a_page_has_and_the_results_have_not_stays_on_it(tmp_path):
    """So that a page can grow on several machines; what is trained again replaces the old."""
    first, second, both = (tmp_path / name for name in ("first", "second", "both"))
    for folder in (first, second):
        folder.mkdir()
    write_both(first, "loop", [0.0, 0.01])
    write_both(second, "loop", [0.0])
    write_both(second, "concat", [0.05])
    write_page(first, both)
    before = (both / "losses.png").read_bytes()
    page = both / "README.md"
    page.write_text(page.read_text().replace(MARK, OLD_MARK))
    write_page(second, both)
    assert (both / "losses.png").read_bytes() != before
    found = of_page(both / "results.json")
    old, new = gather(first).of("loop"), gather(second).of("loop")
    assert found.of("loop") == [new[0], old[1]]
    assert len(found.of("concat")) == 1
    starts = [("loop", 0), ("loop", 1), ("concat", 0)]
    assert [(pair.recipe, pair.seed) for pair in found.pairs] == starts


def test_results_are_in_the_courses_order(results):
    for recipe in ("stateful-gru", "concat", "loop"):
        write_both(results, recipe, [0.0, 0.0])
    order = [(r.unit.recipe, r.unit.framework, r.unit.seed) for r in gather(results).records]
    assert order[:4] == [("loop", name, seed) for name in ("jax", "torch") for seed in (0, 1)]
    assert [name for name, _, _ in order[::4]] == ["loop", "concat", "stateful-gru"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("page/README.md", "# Mine", "page/README.md is no page of results"),
        ("page", "a file", "page is no folder: name another one"),
        ("results/horizon-float64.json", '{"format": 2}', "horizon-float64.json is damaged"),
        ("results/loop_jax_float32_seed0.json", "{", "loop_jax_float32_seed0.json is damaged"),
        ("results/loop_jax_float32_seed0.safetensors", "{", "seed0.safetensors is damaged"),
    ],
)
def test_a_page_that_cannot_be_made_is_one_line(results, capsys, name, text, message):
    write_both(results, "loop", [0.0])
    path = results.parent / name
    if path.parent.name == "page":
        path.parent.mkdir()
    path.write_text(text)
    arguments = ["--no-train", "--folder", "results", "--page", "page"]
    assert commands.main(["concat", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert path.read_text() == text


def test_a_page_is_not_written_into_a_run(results, capsys):
    write_both(results, "loop", [0.0])
    for name in ("config.json", "vocabulary.json", "last.safetensors"):
        (results.parent / name).write_text("precious")
    assert commands.main(["--no-train", "--folder", "results", "--page", "."]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a run: name another folder" in line


def test_nothing_finished_is_one_line(results, capsys):
    assert commands.main(["--no-train", "--folder", "results", "--page", "page"]) == 2
    assert "Nothing is finished in results" in capsys.readouterr().err


def test_no_train_trains_nothing_and_shows_what_is_finished(results, capsys, monkeypatch):
    monkeypatch.setattr(commands, "reproduce", lambda *_: pytest.fail("it trained"))
    write_both(results, "loop", [0.012, 0.002], torch=0.004)
    write_finished(results, Unit(recipe="loop", changes={"schedule": "1 x 1e-3"}), [2.0])
    arguments = ["loop", "--no-train", "--folder", "results"]
    assert commands.main([*arguments, "--framework", "both"]) == 0
    printed = capsys.readouterr().out
    assert "loop, float32" in printed
    (last,) = [line.split() for line in printed.splitlines() if line.split()[:1] == ["2"]]
    deviation = ["±", "0.0071", "(2)"]
    assert last[:8] == ["2", "1.736", "1.6580", "1.751", "1.7580", *deviation]
    assert last[8:] == ["+0.0070", "1.7620", *deviation, "-0.0040", "(sd", "0.0071)"]
    assert "Seed 1, from the same start: weights differ by 1.3e-03 (b)" in printed
    assert commands.main([*arguments, "--schedule", "1 x 1e-3", "--page", "page"]) == 0
    printed = capsys.readouterr().out
    assert "loop, float32, schedule 1 x 1e-3" in printed
    assert "The page of the results is page/README.md." in printed


def test_the_page_is_written_after_training_also_when_a_unit_failed(results, capsys, monkeypatch):
    def reproduce(units, folder, jobs):
        write_both(folder, "loop", [0.0])
        return Finished({}, {units[0].id: "it diverged"}, 0)

    monkeypatch.setattr(commands, "reproduce", reproduce)
    monkeypatch.setattr(commands, "load_corpus", lambda name: None)
    arguments = ["loop", "--folder", "results", "--page", "page"]
    assert commands.main(arguments) == 1
    assert "it diverged" in capsys.readouterr().err
    assert Path("page/README.md").read_text().startswith(MARK)
