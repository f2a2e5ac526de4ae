"""The files of the page: made again, drawn, refused; and the flags of the command."""

import re
import shlex
import struct
from pathlib import Path

import jax
import pytest
from reproduction_results import (
    published_and,
    text_of,
    write_both,
    write_everything,
    write_finished,
)

from jaxrnn import cli
from jaxrnn.reproduction import commands
from jaxrnn.reproduction.page.gathering import gather
from jaxrnn.reproduction.page.records import Findings
from jaxrnn.reproduction.page.writing import MARK, page, write_page
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


def test_a_page_is_the_same_whenever_it_is_made_and_from_its_own_results(
    everything, full_page, tmp_path
):
    again = write_page(everything, tmp_path / "again").parent
    own = write_page(again, tmp_path / "own").parent
    files = [
        {path.name: path.read_bytes().replace(bytes(folder), b"") for path in folder.iterdir()}
        for folder in (full_page, again, own)
    ]
    names = ("losses", "horizon", "bptt", "gradient-norms", "gradient-flow")
    pictures = {f"{name}.png" for name in names}
    assert files[0].keys() == {"README.md", "results.json"} | pictures
    assert files[0] == files[1] == files[2]
    assert Findings.from_json(files[0]["results.json"]) == gather(everything)


def test_what_a_page_has_and_the_results_have_not_stays_on_it(results, tmp_path):
    """So that a page can grow on several machines; what is trained again replaces the old."""
    first, second, both = (tmp_path / name for name in ("first", "second", "both"))
    for folder in (first, second):
        folder.mkdir()
    write_both(first, "loop", [0.0, 0.01])
    write_both(second, "loop", [0.0])
    write_both(second, "concat", [0.02])
    write_page(first, both)
    write_page(second, both)
    found = Findings.from_json((both / "results.json").read_bytes())
    assert [record.unit.seed for record in found.of("loop")] == [0, 1]
    assert len(found.of("concat")) == 1
    assert found.of("loop")[0] == gather(second).of("loop")[0]
    assert found.of("loop")[1] == gather(first).of("loop")[1]
    assert [(s.recipe, s.pair.seed) for s in found.starts] == [
        ("loop", 0),
        ("loop", 1),
        ("concat", 0),
    ]


def test_pictures_are_drawn_and_small(full_page):
    shown = re.findall(r"\]\((.*?\.png)\)", (full_page / "README.md").read_text())
    assert len(shown) == 5
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
        ("page", "a file", "page is no folder: name another one"),
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


@pytest.mark.skipif(not COMMITTED.exists(), reason="no page is committed yet")
def test_the_committed_page_is_what_its_results_give():
    text = (COMMITTED / "README.md").read_text()
    assert page(gather(COMMITTED), "scripts/reproduction") == text
    for name in re.findall(r"\]\((.*?\.png)\)", text):
        assert (COMMITTED / name).stat().st_size < LARGEST_PICTURE
