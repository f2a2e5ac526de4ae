"""Texts and histories: what is no regular file or too large is one line."""

import os

import pytest

from jaxrnn.data.corpora import CorpusError, load_corpus
from jaxrnn.runs.run import LARGEST_HISTORY, Run, RunError


@pytest.mark.parametrize("how", ["pipe", "huge"])
def test_a_text_that_is_no_file_or_too_large_is_one_line(tmp_path, monkeypatch, how):
    monkeypatch.setenv("JAXRNN_DATA", str(tmp_path))
    path = tmp_path / "nietzsche.txt"
    if how == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 1 << 40)  # sparse
    with pytest.raises(CorpusError) as caught:
        load_corpus(str(path))
    assert "\n" not in str(caught.value)
    if how == "huge":
        with pytest.raises(CorpusError, match="more than the"):
            load_corpus("nietzsche")


def test_a_huge_history_is_not_read(tmp_path):
    path = tmp_path / "history.jsonl"
    path.touch()
    os.truncate(path, LARGEST_HISTORY + 1)
    with pytest.raises(RunError, match="more than the"):
        _ = Run(tmp_path).history
