"""Paths that a user names for results: nothing is replaced that is not a result."""

import os
import stat

import pytest

from jaxrnn.cli import main
from jaxrnn.exchange.files import check_suffix
from jaxrnn.output import OutputError, check_output, check_output_folder, kind_of, write_output


@pytest.fixture
def run_folder(tmp_path):
    """What a run's folder looks like."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "vocabulary.json", "last.safetensors", "notes.txt"):
        (folder / name).write_text("precious")
    return folder


def test_a_new_name_or_a_regular_file_is_written(tmp_path):
    for _ in range(2):
        assert write_output(tmp_path / "a.txt", "text").read_text() == "text"
    assert write_output(tmp_path / "new" / "b.bin", b"bytes", parents=True).read_bytes() == b"bytes"


def test_pipes_links_and_folders_are_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "target").write_text("precious")
    os.symlink(tmp_path / "target", tmp_path / "link")
    os.symlink(tmp_path / "nothing", tmp_path / "broken")
    (tmp_path / "folder").mkdir()
    for name, kind in (
        ("pipe", "a pipe"),
        ("link", "a link"),
        ("broken", "a link"),
        ("folder", "a folder"),
    ):
        with pytest.raises(OutputError, match=kind):
            write_output(tmp_path / name, "text")
    assert stat.S_ISFIFO(os.lstat(tmp_path / "pipe").st_mode)
    assert (tmp_path / "target").read_text() == "precious"


def test_devices_are_told_by_their_mode():
    assert kind_of(stat.S_IFCHR | 0o666) == "a device"
    assert kind_of(stat.S_IFBLK | 0o600) == "a device"
    assert kind_of(stat.S_IFREG | 0o600) is None


@pytest.mark.parametrize(
    "name", ["config.json", "last.safetensors", "best.safetensors", "SHA256SUMS", "notes.txt"]
)
def test_a_runs_own_files_are_left_alone(run_folder, name):
    with pytest.raises(OutputError, match="run"):
        write_output(run_folder / name, "text")
    if (run_folder / name).exists():
        assert (run_folder / name).read_text() == "precious"


def test_a_result_with_a_name_of_its_own_may_lie_in_a_run(run_folder):
    assert write_output(run_folder / "model-for-torch.safetensors", b"new").read_bytes() == b"new"


def test_folders_that_are_runs_or_hold_links_are_refused(run_folder, tmp_path):
    with pytest.raises(OutputError, match="is a run"):
        check_output_folder(run_folder, ("README.md",))
    other = tmp_path / "page"
    other.mkdir()
    check_output_folder(other, ("README.md", "*.png"))
    os.symlink(run_folder / "config.json", other / "losses.png")
    with pytest.raises(OutputError, match="a link"):
        check_output_folder(other, ("README.md", "*.png"))
    with pytest.raises(OutputError, match="no folder"):
        check_output_folder(run_folder / "config.json")


@pytest.mark.parametrize("path", ["missing/folder/a.txt", "a\0b", ""])
def test_a_path_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError) as raised:
        check_output(path)
    assert "\n" not in str(raised.value)


def test_commands_look_before_they_work(run_folder, capsys):
    """The path is refused before the text is read, let alone trained on."""
    config = str(run_folder / "config.json")
    assert main(["find-rate", "--picture", config]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "run" in line
    assert (run_folder / "config.json").read_text() == "precious"


def test_a_name_by_which_no_program_knows_the_kind_is_refused(tmp_path):
    for name in ("rates.jpg", "rates", "rates.png.txt"):
        with pytest.raises(OutputError, match=r"would hold PNG: give it a name that ends in .png"):
            check_output(tmp_path / name, suffix=".png")
    check_output(tmp_path / "RATES.PNG", suffix=".png")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_folder_is_no_file_to_export_to(name):
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        check_suffix(name)
