"""Corpora: named ones, files, folders, and what is wrong with them."""

import hashlib
import os
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest

from jaxrnn import load_corpus
from jaxrnn.data import corpora
from jaxrnn.data.corpora import Corpus, CorpusError, number_in_words


def test_human_numbers_are_those_of_the_later_course():
    corpus = load_corpus("human-numbers")
    (training,), (validation,) = corpus.split()
    assert training.startswith("one, two, three, ")
    assert training.endswith(", seven thousand nine hundred ninety nine")
    assert validation.startswith("eight thousand one, eight thousand two, ")
    assert validation.endswith(", nine thousand nine hundred ninety nine")
    assert len(training.split(", ")) + len(validation.split(", ")) == 9998
    assert number_in_words(1234) == "one thousand two hundred thirty four"
    assert number_in_words(100_010) == "one hundred thousand ten"


def test_python_docs_need_no_download_and_are_always_the_same():
    first, second = load_corpus("python-docs"), load_corpus("python-docs")
    assert first.sha256 == second.sha256
    assert 300_000 < len(first.documents[0]) < 1_000_000


def test_a_folder_is_its_files_in_name_order(tmp_path):
    for name, text in {"b.txt": "second", "a.txt": "first", ".hidden": "no", "c.md": ""}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "0-sub").mkdir()
    assert load_corpus(str(tmp_path)).documents == ("first", "second")


def test_what_a_folder_leaves_out_is_said_in_one_line(tmp_path, caplog):
    for name in ("a.txt", "b.txt", ".hidden"):
        (tmp_path / name).write_text(name)
    (tmp_path / "empty.txt").touch()
    for n in range(7):
        (tmp_path / f"sub{n}").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.txt")
    assert load_corpus(str(tmp_path)).documents == ("a.txt", "b.txt", "b.txt")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"Left out of the corpus folder {tmp_path}: hidden: .hidden; broken link: broken.txt; "
        "empty: empty.txt; no regular file: pipe.txt; subfolder: sub0, sub1, sub2, sub3, sub4 and "
        "2 more."
    )


def test_a_folder_of_files_alone_is_read_without_a_word(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("a")
    load_corpus(str(tmp_path))
    assert not caplog.records


ENCODED = {"latin": "Hi, naïve café\n", "cyrillic": "Привет, мир\n", "mixed": "one + два 😀\n"}


@pytest.mark.parametrize("text", ENCODED.values(), ids=ENCODED)
@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32LE"),
        ("utf-32-be", "UTF-32BE"),
    ],
)
def test_other_encodings_are_recognized_and_refused_with_a_remedy(tmp_path, text, encoding, named):
    path = tmp_path / "text"
    path.write_bytes((20 * text).encode(encoding))
    with pytest.raises(CorpusError, match=f"looks like {named}, .* iconv -f {named} -t UTF-8"):
        load_corpus(str(path))


@pytest.mark.parametrize(
    "text",
    ["ab\0cd\0", "one\0two\0three\0\0", "a\0", "\0\0\0", "\t\n" * 9, "\x1b[1ma\x1b[0m" * 9],
    ids=repr,
)
def test_utf_8_with_control_characters_is_utf_8(tmp_path, text):
    (tmp_path / "text").write_text(text)
    assert load_corpus(str(tmp_path / "text")).documents == (text,)


def test_a_validation_file_replaces_the_cut(tmp_path):
    (tmp_path / "a.txt").write_text("training")
    (tmp_path / "b.txt").write_text("validation")
    corpus = load_corpus(str(tmp_path / "a.txt"), validation=str(tmp_path / "b.txt"))
    assert corpus.split() == (("training",), ("validation",))


def test_the_checksum_of_one_file_is_the_files(tmp_path):
    (tmp_path / "a.txt").write_text("täxt")
    expected = hashlib.sha256("täxt".encode()).hexdigest()
    assert load_corpus(str(tmp_path / "a.txt")).sha256 == expected


def test_checksums_tell_documents_and_validation_apart():
    corpora_ = [Corpus("", ("ab",)), Corpus("", ("a", "b")), Corpus("", ("a",), ("b",))]
    assert len({c.sha256 for c in corpora_}) == 3


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_cut_loses_nothing_and_falls_on_a_line_end(fraction):
    documents = ("one\ntwo\nthree\n" * 100, "x" * 3000, "four\nfive\n" * 100)
    training, validation = Corpus("", documents).split(fraction)
    assert "".join(training + validation) == "".join(documents)
    total = sum(map(len, documents))
    assert abs(sum(map(len, validation)) / total - fraction) < 0.01
    assert "x" in training[-1] or training[-1].endswith("\n")


def test_the_cut_of_a_text_without_lines_is_exact():
    training, validation = Corpus("", ("x" * 100,)).split(0.2)
    assert (len(training[0]), len(validation[0])) == (80, 20)


def test_bad_corpora_are_refused_in_one_line(tmp_path):
    empty, folder, latin = tmp_path / "empty", tmp_path / "folder", tmp_path / "latin"
    empty.touch()
    folder.mkdir()
    latin.write_bytes(b"abc\xe9def")
    for path, message in {
        empty: "is empty",
        folder: "no file with text",
        latin: "byte 0xe9 at position 3",
        tmp_path / "missing": "There is no corpus .* python-docs, human-numbers, nietzsche",
    }.items():
        with pytest.raises(CorpusError, match=message) as caught:
            load_corpus(str(path))
        assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_character(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
    assert load_corpus(str(tmp_path / "a")).documents == ("abc",)


def test_another_text_under_the_name_nietzsche_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXRNN_DATA", str(tmp_path))
    (tmp_path / "nietzsche.txt").write_text("not he")
    with pytest.raises(CorpusError, match=r"expected sha256 23cf69.*, got"):
        load_corpus("nietzsche")


def test_without_a_network_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXRNN_DATA", str(tmp_path))
    monkeypatch.setattr(corpora, "NIETZSCHE_URL", "http://localhost:9/nietzsche.txt")
    with pytest.raises(CorpusError, match=r"Put the file at .*nietzsche\.txt.*python-docs"):
        load_corpus("nietzsche")
    assert not any(tmp_path.iterdir())


class Silent(SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, *arguments):
        pass


def test_a_download_of_another_text_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    (tmp_path / "served/nietzsche.txt").write_text("not he")
    handler = partial(Silent, directory=str(tmp_path / "served"))
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/nietzsche.txt"
        monkeypatch.setattr(corpora, "NIETZSCHE_URL", url)
        monkeypatch.setenv("JAXRNN_DATA", str(tmp_path / "data"))
        with pytest.raises(CorpusError, match="Cannot download the nietzsche corpus"):
            load_corpus("nietzsche")
        server.shutdown()
    assert not list((tmp_path / "data").iterdir())


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("some text")
    assert load_corpus(".").documents == ("some text",)
    with pytest.raises(CorpusError, match="The corpus has an empty name"):
        load_corpus("")
    with pytest.raises(CorpusError, match="The validation text has an empty name"):
        load_corpus("a.txt", validation="")
