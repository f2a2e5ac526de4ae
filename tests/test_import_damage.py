"""Files that are no checkpoints or damaged ones: each is read, or refused in one line."""

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from torch_checkpoints import (
    refused,
    saved,
    shards,
    state,
    taken,
    torch,
    workplace,  # noqa: F401 (used by all)
)

from jaxrnn import cli
from jaxrnn.exchange.contents import TensorFileError
from jaxrnn.exchange.files import read_contents
from jaxrnn.exchange.identification import identify
from jaxrnn.exchange.weights import WeightMapError
from jaxrnn.runs.exported import described
from jaxrnn.runs.transfer import read_vocabulary


@pytest.mark.parametrize("kind", ["pipe", "deep", "huge"])
def test_a_vocabulary_is_read_from_a_regular_file_only(kind, capsys):
    file = saved(state())
    Path("tokens.json").unlink()
    if kind == "pipe":
        os.mkfifo("tokens.json")
    elif kind == "deep":
        Path("tokens.json").write_text("[" * 100_000)
    else:
        with open("tokens.json", "wb") as raw:
            raw.truncate(2**40)
    assert "tokens.json" in refused(capsys, file)


def mutated(data, rng):
    """Bytes with a few changes: flipped, cut, doubled or replaced."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(0, max(1, min(len(data), 700))))
        how = int(rng.integers(0, 4))
        if how == 0 and data:
            data[place % len(data)] ^= 1 << int(rng.integers(0, 8))
        elif how == 1:
            del data[int(rng.integers(0, len(data) + 1)) :]
        elif how == 2:
            data[place:place] = data[place : place + 20]
        else:
            data[place : place + 8] = rng.bytes(8)
    return bytes(data)


def in_one_line(error):
    assert "\n" not in str(error)


def fuzz(count, capsys):
    """Read so many changed files of each kind: each is read, or refused in one line."""
    run = taken(saved(state()))
    assert cli.main(["export", str(run.folder), "ours.safetensors"]) == 0
    buffer = io.BytesIO()
    torch.save(state(), buffer, _use_new_zipfile_serialization=False)
    Path("old.pt").write_bytes(buffer.getvalue())
    shards()
    originals = ["ours.safetensors", "model.pt", "old.pt", "model.safetensors.index.json"]
    rng = np.random.default_rng(0)
    outcomes = Counter()
    for number in range(count):
        original = Path(originals[number % len(originals)])
        data = mutated(original.read_bytes(), rng)
        file = Path(f"changed{number % 2}{original.suffix}")
        file.write_bytes(data)
        try:
            contents = read_contents(file)
            described(contents, file)
            identify(contents)
            outcomes["read"] += 1
        except (TensorFileError, WeightMapError) as error:
            in_one_line(error)
            outcomes["refused"] += 1
        Path("changed.json").write_bytes(mutated(Path("tokens.json").read_bytes(), rng))
        try:
            read_vocabulary("changed.json")
        except TensorFileError as error:
            in_one_line(error)
    return outcomes


def test_changed_files_are_read_or_refused(capsys):
    outcomes = fuzz(200, capsys)
    assert outcomes["refused"] > 50


@pytest.mark.slow
def test_many_changed_files_are_read_or_refused(capsys):
    outcomes = fuzz(8000, capsys)
    assert outcomes["refused"] > 2000
