"""Tokenizers: what goes in comes out, and wrong input is refused in words."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrnn import ByteTokenizer, IntegerTokenizer, Tokenizer, Vocabulary, cli, load_corpus
from jaxrnn.data.corpora import CorpusError
from jaxrnn.data.tokenizers import (
    TOKENIZERS,
    encode,
    encode_documents,
    make_tokenizer,
    restore_tokenizer,
)
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.run import Run

TEXT = "Grüße, 世界! \U0001f600\n"
MADE = {
    "characters": Vocabulary.from_characters([TEXT]),
    "bytes": ByteTokenizer(),
    "integers": IntegerTokenizer(300),
}


@pytest.mark.parametrize("name", MADE)
def test_a_tokenizer_comes_back_from_what_it_is_written_as(name):
    tokenizer = MADE[name]
    assert isinstance(tokenizer, Tokenizer)
    values = json.loads(json.dumps(tokenizer.to_dict()))
    assert restore_tokenizer(name, values) == tokenizer
    assert restore_tokenizer(name, values).size == tokenizer.size


@given(st.text())
def test_bytes_are_those_of_utf_8(text):
    tokens = ByteTokenizer().encode(text)
    assert tokens.tolist() == list(text.encode("utf-8", "surrogatepass"))
    if text.isprintable():
        assert ByteTokenizer().decode(tokens) == text


@given(st.lists(st.integers(0, 299)))
def test_integers_are_written_in_digits(numbers):
    tokenizer = MADE["integers"]
    text = tokenizer.decode(np.array(numbers, int))
    assert encode(tokenizer, text).tolist() == numbers
    assert encode(tokenizer, np.array(numbers, int)).tolist() == numbers


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: ByteTokenizer().decode(np.array([256])), r"in \[0, 256\), got 256"),
        (lambda: ByteTokenizer().encode(np.arange(3)), "Bytes are those of a text"),
        (lambda: IntegerTokenizer(0), "size must be at least 1, got 0"),
        (lambda: IntegerTokenizer(5).encode("1 x"), "as in 3 17 4; got 'x'"),
        (lambda: IntegerTokenizer(5).encode("5"), r"in \[0, 5\), got 5"),
        (lambda: IntegerTokenizer.from_documents(["text"]), "need a corpus of integers"),
        (lambda: make_tokenizer("bytes", [np.arange(3)]), "take --tokenizer integers"),
        (lambda: make_tokenizer("characters", [np.arange(3)]), "take --tokenizer integers"),
        (lambda: make_tokenizer("words", ["a"]), "tokenizer must be one of characters, bytes"),
        (lambda: encode(MADE["characters"], np.arange(3)), "take --tokenizer integers"),
    ],
)
def test_wrong_input_is_refused_in_words(call, expected):
    with pytest.raises(ValueError, match=expected):
        call()


def test_a_tokenizer_that_gives_no_tokens_is_refused():
    class Wrong(ByteTokenizer):
        def encode(self, text):
            return super().encode(text).astype(np.int32) + 200

    with pytest.raises(ValueError, match=r"in \[0, 256\), got 297"):
        encode(Wrong(), "a")


def test_characters_end_each_document_and_bytes_do_not():
    vocabulary = Vocabulary.from_frequency(["ab", "ab"], min_frequency=1)
    ends = encode_documents(vocabulary, ["ab", "b"])
    assert vocabulary.decode(ends) == "ab<eos>b<eos>"
    assert encode_documents(ByteTokenizer(), ["ab", "b"]).tolist() == [97, 98, 98]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros(3), "must hold integers, got float64"),
        (np.zeros((2, 2), int), "one array with one axis"),
        (np.array([1, -1]), "got -1"),
        (np.array([1 << 24]), "got 16777216"),
        (np.array([], int), "holds no tokens"),
        (np.array(["a"], object), "is no .npy file"),
        (None, "is no .npy file"),
    ],
)
def test_a_token_file_with_something_else_is_refused(array, expected, tmp_path):
    path = tmp_path / "tokens.npy"
    if array is None:
        path.write_bytes(b"\x93NUMPY nonsense")
    else:
        np.save(path, array, allow_pickle=True)
    with pytest.raises(CorpusError, match=expected):
        load_corpus(str(path))


def test_a_folder_of_token_files_is_documents(tmp_path):
    for name, numbers in {"b": [3, 4], "a": [0, 1, 2]}.items():
        np.save(tmp_path / f"{name}.npy", numbers)
    first, second = load_corpus(str(tmp_path)).documents
    assert first.tolist() == [0, 1, 2]
    assert second.tolist() == [3, 4]
    (tmp_path / "c.txt").write_text("text")
    with pytest.raises(CorpusError, match=r"has texts and \.npy files of integers: put one kind"):
        load_corpus(str(tmp_path))


@pytest.mark.slow
def test_integers_of_ones_own_train_without_a_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("tokens.npy", np.arange(4000) % 11)
    flags = ["--hidden", "8", "--embedding", "4", "--batch", "4", "--schedule", "4 x 3e-2"]
    assert cli.main(["train", "--corpus", "tokens.npy", *flags, "--name", "numbers"]) == 0
    assert "4,000" not in capsys.readouterr().err
    run = Run("runs/numbers")
    assert run.config.tokenizer == "integers"
    assert run.vocabulary == IntegerTokenizer(11)
    assert cli.main(["evaluate", "runs/numbers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] > 700
    assert "bits_per_character" not in found
    assert found["nats"] < 0.5  # the next number follows from the last
    given = ["sample", "runs/numbers", "--prompt", "3 4 5", "--length", "4", "--greedy"]
    assert cli.main(given) == 0
    assert capsys.readouterr().out == "3 4 5 6 7 8 9\n"
    assert cli.main(["evaluate", "runs/numbers", "--corpus", "human-numbers"]) == 2
    assert "as in 3 17 4" in capsys.readouterr().err
    # An array to evaluate, going on, and a file to hand on.
    np.save("others.npy", np.arange(500) % 11)
    assert cli.main(["evaluate", "runs/numbers", "--corpus", "others.npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 499
    assert cli.main(["train", "--resume", "runs/numbers", "--schedule", "5 x 3e-2"]) == 0
    assert cli.main(["export", "runs/numbers", "n.safetensors"]) == 0
    assert cli.main(["import", "n.safetensors", "--corpus", "tokens.npy", "--name", "again"]) == 0
    assert "nats a token; chance" in capsys.readouterr().out
    assert Run("runs/again").vocabulary == IntegerTokenizer(11)


@pytest.mark.slow
def test_the_loss_of_bytes_is_given_per_character_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("naïve Grüße\n" * 300)
    flags = ["--hidden", "4", "--embedding", "4", "--batch", "4", "--schedule", "1 x 1e-2"]
    flags += ["--corpus", "text.txt", "--tokenizer", "bytes", "--name", "bytes"]
    assert cli.main(["train", *flags]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "runs/bytes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # 12 characters a line are 15 bytes.
    assert found["bits_per_character"] == pytest.approx(found["bits"] * 15 / 12)


@pytest.mark.parametrize("model", ["CharLoopModel", "CharSeqRnn", "CharLM"])
@pytest.mark.parametrize("tokenizer", ["bytes", "integers"])
def test_every_data_set_takes_every_tokenizer(model, tokenizer, tmp_path):
    if tokenizer == "integers":
        path = tmp_path / "tokens.npy"
        np.save(path, np.arange(900, dtype=np.int64) % 300)
    else:
        path = tmp_path / "text.txt"
        path.write_text(TEXT * 60)
    config = Config(model=model, corpus=str(path), tokenizer=tokenizer, bptt=4, batch_size=3)
    experiment = prepare(config)
    size = {"bytes": 256, "integers": 300}[tokenizer]
    assert experiment.model.vocab_size == experiment.vocabulary.size == size
    assert experiment.source.tokens.max() < size


def test_the_registry_has_the_four():
    assert list(TOKENIZERS) == ["characters", "bytes", "integers", "subwords"]


@pytest.mark.parametrize(("largest", "size"), [(0, 1), (1, 2), (7, 8)])
def test_there_are_as_many_integers_as_up_to_the_largest(largest, size):
    documents = [np.zeros(3, int), np.array([], int), np.array([largest])]
    assert IntegerTokenizer.from_documents(documents).size == size
