"""Every count and array that the course states, on its own corpus."""

import numpy as np
import pytest

from jaxrnn import BpttStream, Vocabulary, WindowSet
from jaxrnn.data.windows import (
    non_overlapping_starts,
    overlapping_starts,
    split_starts,
    trigram_starts,
)
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.recipes import RECIPES


@pytest.fixture(scope="module")
def text(course_corpus):
    return course_corpus.documents[0]


@pytest.fixture(scope="module")
def tokens(text):
    return Vocabulary.from_characters([text]).encode(text)


@pytest.fixture(scope="module")
def stateful(course_corpus):
    training, validation = course_corpus.split()
    vocabulary = Vocabulary.from_frequency(training)
    return vocabulary, *(vocabulary.encode_documents(d) for d in (training, validation))


def rows(text):
    return [[int(n) for n in line.split()] for line in text.strip().splitlines()]


def test_the_corpus(text, course_corpus):
    assert len(text) == 600_893
    assert len(text.encode()) == 600_901
    assert len(set(text)) == 84
    assert (
        course_corpus.sha256 == "23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647"
    )


def test_the_windowed_vocabulary(text, tokens):
    assert len(Vocabulary.from_characters([text])) == 85
    assert tokens[:10].tolist() == [40, 42, 29, 30, 25, 27, 29, 1, 1, 1]
    assert tokens.dtype == np.uint8


def test_the_stateful_vocabulary(course_corpus, stateful):
    vocabulary, training_tokens, validation_tokens = stateful
    (training,), (validation,) = course_corpus.split()
    assert len(training.split("\n")) == 7999
    assert (len(training), len(validation)) == (493_746, 107_146)
    assert len(vocabulary) == 56
    assert vocabulary.itos[:2] == ("<unk>", "<pad>")
    assert len(training_tokens) == 493_747
    assert len(validation_tokens) == 107_147
    assert training_tokens[-1] == vocabulary.stoi["<unk>"]
    counts = [training.lower().count(c) for c in vocabulary.itos[2:]]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= 3


def test_trigrams(tokens):
    starts = trigram_starts(len(tokens))
    assert len(starts) == 200_295
    windows = WindowSet(tokens, starts, 3, 512)
    assert windows.inputs[:2].tolist() == [[40, 42, 29], [30, 25, 27]]
    assert windows.targets[:2, -1].tolist() == [30, 29]


def test_overlapping_windows(tokens):
    windows = WindowSet(tokens, overlapping_starts(len(tokens)), 8, 512)
    assert len(windows.starts) == 600_884
    expected = rows("""
        40 42 29 30 25 27 29 1
        42 29 30 25 27 29 1 1
        29 30 25 27 29 1 1 1
        30 25 27 29 1 1 1 43
        25 27 29 1 1 1 43 45
        27 29 1 1 1 43 45 40
        29 1 1 1 43 45 40 40
        1 1 1 43 45 40 40 39
    """)
    assert windows.inputs[:8].tolist() == expected
    assert windows.targets[:8, -1].tolist() == [1, 1, 43, 45, 40, 40, 39, 43]


def test_non_overlapping_windows(tokens):
    windows = WindowSet(tokens, non_overlapping_starts(len(tokens)), 8, 512)
    assert len(windows.starts) == 75_111
    assert windows.inputs[:8].tolist() == rows("""
        40 42 29 30 25 27 29 1
        1 1 43 45 40 40 39 43
        33 38 31 2 73 61 54 73
        2 44 71 74 73 61 2 62
        72 2 54 2 76 68 66 54
        67 9 9 76 61 54 73 2
        73 61 58 67 24 2 33 72
        2 73 61 58 71 58 2 67
    """)
    assert windows.targets[:8].tolist() == rows("""
        42 29 30 25 27 29 1 1
        1 43 45 40 40 39 43 33
        38 31 2 73 61 54 73 2
        44 71 74 73 61 2 62 72
        2 54 2 76 68 66 54 67
        9 9 76 61 54 73 2 73
        61 58 67 24 2 33 72 2
        73 61 58 71 58 2 67 68
    """)


@pytest.mark.parametrize(
    ("recipe", "count", "drawn_from"),
    [("rnn", 600_884, 600_884), ("many-outputs", 75_111, 75_102)],
)
def test_the_random_split_is_the_courses(course_corpus, recipe, count, drawn_from):
    experiment = prepare(RECIPES[recipe].config)
    stride = {"rnn": 1, "many-outputs": 8}[recipe]
    state = np.random.RandomState(42)
    expected = state.permutation(drawn_from)[: int(0.2 * drawn_from)] * stride
    validation = experiment.validation.starts
    np.testing.assert_array_equal(validation, expected)
    assert len(experiment.source.starts) + len(validation) == count
    assert not set(experiment.source.starts.tolist()) & set(validation.tolist())


def test_the_contiguous_split_holds_a_fifth_out(tokens):
    starts = overlapping_starts(len(tokens))
    training, validation = split_starts(starts, 8, "contiguous")
    assert len(validation) == 120_176
    assert training[-1] + 8 < validation[0]
    assert len(training) == 600_884 - 120_176 - 8


def test_streams(stateful):
    _, tokens, _ = stateful
    stream = BpttStream(tokens, 64, 8, True)
    assert stream.steps_per_epoch == 963
    assert stream.rows == 7714
    lengths = np.concatenate([stream.windows(e, 0, stream.steps(e)).lengths for e in range(20)])
    assert abs(lengths.mean() - 8.4) < 0.1
    assert 20 <= len(np.unique(lengths)) <= 30
    np.testing.assert_array_equal(stream.matrix[:, 5], tokens[5 * 7714 : 6 * 7714])
