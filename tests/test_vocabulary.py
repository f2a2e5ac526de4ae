"""Text to tokens and back."""

from collections import Counter

import numpy as np
import pytest

from jaxrnn import Vocabulary
from jaxrnn.data import vocabulary as module
from jaxrnn.data.vocabulary import count_characters

TEXT = "Ein Uhr, 東京 😀!\nno\tend"


def test_a_wrong_treatment_of_unknown_characters_is_refused():
    with pytest.raises(ValueError, match="unknown must be one of error, replace, skip, got 'no'"):
        Vocabulary.from_characters(["ab"]).encode("ab", unknown="no")


def test_characters_are_sorted_behind_the_padding():
    vocabulary = Vocabulary.from_characters(["banana", "cab"])
    assert vocabulary.itos == ("\0", "a", "b", "c", "n")
    assert vocabulary.stoi["c"] == 3
    assert vocabulary.unprintable == (0,)


def test_nul_is_a_character_where_the_text_has_it():
    vocabulary = Vocabulary.from_characters(["banana", "cab\0"])
    assert vocabulary.itos == ("<pad>", "\0", "a", "b", "c", "n")
    assert vocabulary.unprintable == (0,)
    stateful = Vocabulary.from_frequency(["a\0"] * 3)
    assert stateful.itos == ("<unk>", "<pad>", "\0", "<eos>", "a")
    assert (stateful.unprintable, stateful.end) == ((0, 1, 3), 3)


def test_frequency_counts_the_end_of_each_document_and_breaks_ties_by_code_point():
    vocabulary = Vocabulary.from_frequency(["Bbba a", "cca", "a c"], min_frequency=3)
    # a: 4, <eos>: 3, b: 3, c: 3, blank: 2 (too rare)
    assert vocabulary.itos == ("<unk>", "<pad>", "a", "<eos>", "b", "c")
    expected = [2, 4, 0, 4, 3, 5, 3]
    assert vocabulary.encode_documents(["aB b", "c"]).tolist() == expected


def test_a_text_of_rare_characters_is_refused():
    with pytest.raises(ValueError, match="No character occurs at least 3 times"):
        Vocabulary.from_frequency(["abcdef"] * 2)


def test_a_rare_end_becomes_unknown():
    vocabulary = Vocabulary.from_frequency(["aaa"], min_frequency=2)
    assert vocabulary.encode_documents(["aa"]).tolist() == [2, 2, 0]
    assert Vocabulary.from_characters(["a"]).encode_documents(["aa"]).tolist() == [1, 1]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_text_survives_the_round_trip_in_chunks_of_any_size(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    vocabulary = Vocabulary.from_characters([TEXT])
    assert vocabulary.decode(vocabulary.encode(TEXT)) == TEXT
    assert count_characters([TEXT], lowercase=False)["n"] == TEXT.count("n")


def test_a_line_longer_than_a_chunk_is_lower_cased_as_a_whole(monkeypatch):
    """A sigma is final at the end of a word alone, which is longer than a chunk here."""
    monkeypatch.setattr(module, "CHUNK", 8)
    word = "\N{GREEK CAPITAL LETTER ALPHA}\N{GREEK CAPITAL LETTER SIGMA}" * 6
    counts = count_characters([word + "\n"], lowercase=True)
    assert counts == Counter(word.lower() + "\n")


def test_lowercase_is_that_of_the_whole_text(monkeypatch):
    word = "\N{GREEK CAPITAL LETTER SIGMA}" * 3  # ends in a final sigma
    letter = "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"  # becomes two characters
    text = f"{word}\n{word} {letter}stanbul\n" * 3
    monkeypatch.setattr(module, "CHUNK", 7)
    vocabulary = Vocabulary.from_frequency([text], min_frequency=1)
    assert vocabulary.decode(vocabulary.encode(text)) == text.lower()


def test_unknown_characters_are_named_replaced_or_skipped():
    vocabulary = Vocabulary.from_frequency(["aaabbb"])
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 2 .* \(and 1 more such"):
        vocabulary.encode("abéaßé", unknown="error")
    assert vocabulary.encode("aéb", unknown="replace").tolist() == [2, 0, 3]
    assert vocabulary.encode("aéb", unknown="skip").tolist() == [2, 3]
    assert vocabulary.encode("aéb").tolist() == [2, 0, 3]


def test_without_an_unknown_token_nothing_can_be_replaced():
    vocabulary = Vocabulary.from_characters(["ab"])
    with pytest.raises(ValueError, match="'c'"):
        vocabulary.encode("abc")
    with pytest.raises(ValueError, match="no <unk>"):
        vocabulary.encode("abc", unknown="replace")


@pytest.mark.parametrize(("size", "dtype"), [(255, np.uint8), (256, np.uint16), (65536, np.uint32)])
def test_tokens_take_the_smallest_type(size, dtype):
    text = "".join(chr(i) for i in range(0x100, 0x100 + size))
    vocabulary = Vocabulary(("\0", *text))
    assert vocabulary.encode(text).dtype == dtype
    assert vocabulary.encode(text)[-1] == size


def test_decoding_refuses_what_is_no_token():
    with pytest.raises(ValueError, match=r"\[0, 3\), got 3"):
        Vocabulary.from_characters(["ab"]).decode(np.array([1, 3]))


def test_tokens_are_characters_or_special():
    with pytest.raises(ValueError, match="at least one token"):
        Vocabulary(())
    for token in ("ab", "", 1, "<bos>"):
        with pytest.raises(ValueError, match="A token is one character or one of <unk>"):
            Vocabulary(("a", token))


def test_a_token_stands_once():
    with pytest.raises(ValueError, match="'a' twice"):
        Vocabulary(("a", "b", "a"))
