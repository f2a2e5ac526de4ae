"""Security: nothing is executed, nothing leaves its folder, nothing takes memory by a lie."""

import ast
from pathlib import Path

import jax.numpy as jnp
import pytest
from helpers import with_valid_checksum

import jaxrnn
from jaxrnn import load_corpus
from jaxrnn.runs import checkpoints
from jaxrnn.runs.checkpoints import CheckpointError, load, pack, read, with_header_checksum
from jaxrnn.runs.checksums import make_run_folder
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.run import Run, RunError, checked_name

DEEP = "[" * 100_000


def test_deep_json_is_refused(tmp_path):
    make_run_folder(tmp_path / "deep", {"config.json": DEEP, "vocabulary.json": "{}"})
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        _ = Run(tmp_path / "deep").config


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, b""),
        ({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2**64 - 1]}}, b""),
        (
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            bytes(12),
        ),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}, bytes(12)),
        ({"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
    ],
    ids=["huge", "overflow", "overlap", "hole", "objects"],
)
def test_crafted_headers_are_refused(tmp_path, header, body):
    path = tmp_path / "state"
    path.write_bytes(with_valid_checksum(header, body))
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        read(path)


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 10**6])
def test_a_header_longer_than_the_file_is_refused(tmp_path, length):
    path, data = tmp_path / "state", pack({"a": jnp.ones(3)})
    path.write_bytes(with_header_checksum(length.to_bytes(8, "little") + data[8:]))
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        read(path)


def test_a_file_larger_than_the_model_is_refused_before_it_is_read(tmp_path):
    path, like = tmp_path / "state", {"a": jnp.ones(3)}
    with open(path, "wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(
        CheckpointError, match=r"1,099,511,627,776 bytes, more than .* no checkpoint of this model"
    ):
        load(path, like)


def test_other_formats_are_refused_with_a_remedy(tmp_path, monkeypatch):
    path, like = tmp_path / "state", {"a": jnp.ones(3)}
    for number, message in (
        (4, "written by a newer jaxrnn.* format 4, .* reads format 3"),
        (1, "has checkpoint format 1, and this jaxrnn reads format 3"),
    ):
        monkeypatch.setattr(checkpoints, "FORMAT", number)
        path.write_bytes(pack(like))
        monkeypatch.undo()
        with pytest.raises(CheckpointError, match=message):
            load(path, like)


@pytest.mark.parametrize(
    "name", ["..", ".", "a/b", "/tmp/x", "a\\b", "", "a\0", "a\n", "ä", "-" * 101]
)
def test_names_cannot_leave_their_folder(name):
    with pytest.raises(ValueError, match="A run's name has"):
        checked_name(name)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin"])
def test_what_is_no_regular_file_is_never_read(path):
    with pytest.raises(ValueError, match="is no regular file"):
        load_corpus(path)


def test_a_model_that_cannot_fit_into_memory_is_refused(tmp_path):
    (tmp_path / "text").write_text("the quick brown fox " * 50)
    with pytest.raises(ValueError, match=r"needs at least .* GB of memory, .* smaller hidden"):
        prepare(
            Config(model="CharLM", corpus=str(tmp_path / "text"), hidden_size=60_000, batch_size=2)
        )


def test_nothing_is_unpickled_or_executed():
    banned = {"pickle", "marshal", "shelve", "eval", "exec", "compile", "dill", "yaml"}
    banned |= {"__import__", "import_module", "runpy", "joblib", "allow_pickle"}
    # FILE.py:NAME runs a file that the user names; tests/test_registry.py says when.
    allowed = {"registry.py": {"exec", "compile"}}
    for path in Path(jaxrnn.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            if isinstance(node, ast.Name):
                names = {node.id}
            refuses = isinstance(node, ast.keyword) and getattr(node.value, "value", None) is False
            if isinstance(node, ast.keyword) and not refuses:
                names = {node.arg}
            found = names & banned - allowed.get(path.name, set())
            assert not found, f"{path}, line {node.lineno}"
