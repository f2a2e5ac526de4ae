"""Corpora: named ones, text files, folders of them, and .npy files of integers.

A corpus is a list of documents to train on and, where it comes with one, a list to validate on. A
document is a text, or an array of integers that are tokens already.
"""

import codecs
import hashlib
import logging
import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.checks import is_number, shown
from jaxrnn.data.token_files import TokenFileError, is_token_file, read_tokens
from jaxrnn.data.tokenizers import Document
from jaxrnn.files import read_or_raise

logger = logging.getLogger(__name__)

NIETZSCHE_URL = "https://s3.amazonaws.com/text-datasets/nietzsche.txt"
NIETZSCHE_SHA256 = "23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647"
# Number of lines left for training: the course deleted the others by hand.
NIETZSCHE_TRAINING_LINES = 7999

# Maximum size of a text in bytes: positions are int32, and a character has at most four bytes.
LARGEST = 4 << 31
# Number of characters of a text that are encoded at once for its checksum.
CHUNK = 1 << 20

# Maximum number of names of one kind in a message.
NAMED = 5
# Fractions of zeros, and of control characters, in every second byte of a text in UTF-16.
MANY = 0.3
MOSTLY = 0.8
# Highest third byte of a code point: Unicode ends at U+10FFFF.
HIGHEST_PLANE = 0x10
# Maximum distance, in characters, of a cut from the line end before it.
LINE = 1000


class CorpusError(ValueError):
    """A corpus that cannot be read, found or used; the message says why and what to do."""


@dataclass(frozen=True)
class Corpus:
    """Text to learn from.

    Attributes:
        name: the name or path by which it was loaded.
        documents: the texts, or arrays of integers, in order.
        validation: documents to validate on, or None where `split` has to cut them off.
        training_lines: number of training lines of a single document, where the corpus fixes it.
    """

    name: str
    documents: tuple[Document, ...]
    validation: tuple[Document, ...] | None = None
    training_lines: int | None = None

    @property
    def sha256(self) -> str:
        """The checksum of the text as UTF-8; a single file without a BOM has that of the file."""
        digest = hashlib.sha256()
        # A separator, so that a character that moves to the next document changes the checksum.
        separator = b""
        for document in self.documents:
            _update(digest, document, separator)
            separator = b"\0"
        for document in self.validation or ():
            _update(digest, document, b"\0\0")
        return digest.hexdigest()

    def split(self, fraction: float = 0.2) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
        """Training and validation documents; texts are cut at a line end.

        Args:
            fraction: fraction of the characters, in (0, 1), at the end to validate on; not used
                where the corpus has a validation text or a fixed cut.
        """
        if self.validation is not None:
            return self.documents, self.validation
        text = self.documents[0]
        if self.training_lines is not None and isinstance(text, str):
            lines = text.split("\n")
            training = "\n".join(lines[: self.training_lines])
            validation = "\n".join(lines[self.training_lines :])
            return (training,), (validation,)
        return _cut(self.documents, fraction)


def load_corpus(name: str | Path, *, validation: str | None = None) -> Corpus:
    """Load a corpus by name or path.

    Args:
        name: "python-docs", "human-numbers", "nietzsche", or the path of a UTF-8 text file, of a
            .npy file of integers, or of a folder of either, all of whose files are read, in name
            order. What else is in the folder is left out, with a warning of the logger "jaxrnn".
        validation: the path of a file or folder to validate on, instead of a cut.

    Raises:
        CorpusError: if it is missing, empty, not UTF-8 or cannot be downloaded.
    """
    if not isinstance(name, str | Path):
        raise CorpusError(f"A corpus is named by a text or a path, got {shown(name)}.")
    name = str(name)
    load = CORPORA.get(name)
    corpus = load() if load else Corpus(name, _read(name, "corpus"))
    if validation is None:
        return corpus
    return replace(corpus, validation=_read(validation, "validation text"))


def python_docs() -> Corpus:
    """The language reference that CPython ships, topics in sorted order; about 465,000 characters.

    The text differs between versions of Python.
    """
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    return Corpus("python-docs", (text,))


def human_numbers() -> Corpus:
    """Numbers in English words, in order, joined by ", ".

    1 to 7,999 train and 8,001 to 9,999 validate, as in fast.ai's later course.
    """
    training = ", ".join(map(number_in_words, range(1, 8000)))
    validation = ", ".join(map(number_in_words, range(8001, 10000)))
    return Corpus("human-numbers", (training,), (validation,))


def nietzsche() -> Corpus:
    """The course's corpus: 600,893 characters of Nietzsche, from the data folder or downloaded.

    Raises:
        CorpusError: if the file is another one, or there is none and no network either.
    """
    path = data_folder() / "nietzsche.txt"
    if not path.is_file():
        _download(path)
    data = read_or_raise(CorpusError, path, at_most=LARGEST)
    found = hashlib.sha256(data).hexdigest()
    if found != NIETZSCHE_SHA256:
        raise CorpusError(
            f"{path} is not the course's text: expected sha256 {NIETZSCHE_SHA256}, got {found}. "
            "Remove it to download it again, or name the file with --corpus to use it as it is."
        )
    return Corpus("nietzsche", (data.decode(),), training_lines=NIETZSCHE_TRAINING_LINES)


# Loaders of the corpora that have a name.
CORPORA: dict[str, Callable[[], Corpus]] = {
    "python-docs": python_docs,
    "human-numbers": human_numbers,
    "nietzsche": nietzsche,
}


def data_folder() -> Path:
    """The folder of the corpora: the one that JAXRNN_DATA names, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("JAXRNN_DATA") or pooch.os_cache("jaxrnn"))


# Number words up to nineteen, and those of the tens by their first digit.
_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def number_in_words(n: int) -> str:
    """A number in [0, 999,999] in English words, without "and" and hyphens."""
    if not 0 <= n < 1_000_000:
        raise ValueError(f"number_in_words takes 0 to 999999, got {n}.")
    for size, word in ((1000, "thousand"), (100, "hundred")):
        if n >= size:
            head, tail = divmod(n, size)
            words = f"{number_in_words(head)} {word}"
            return f"{words} {number_in_words(tail)}" if tail else words
    if n < 20:
        return _ONES[n]
    tens, ones = divmod(n, 10)
    return f"{_TENS[tens]} {_ONES[ones]}" if ones else _TENS[tens]


def _download(path: Path) -> None:
    import pooch

    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(NIETZSCHE_URL, NIETZSCHE_SHA256, fname=path.name, path=path.parent)
    except Exception as error:  # requests, urllib3 and the file system each raise their own
        raise CorpusError(
            f"Cannot download the nietzsche corpus ({type(error).__name__}). Put the file at "
            f"{path}, or set JAXRNN_DATA to a folder that has nietzsche.txt, or take "
            "--corpus python-docs, which needs no download."
        ) from error


def _read(name: str, what: str) -> tuple[Document, ...]:
    """The text or the tokens of a file, or the text of each file of a folder in name order."""
    # An empty path, as an unset variable of a shell gives it, would be ".".
    if not name:
        raise CorpusError(f"The {what} has an empty name: name a text file or a folder.")
    path = Path(name)
    if path.is_dir():
        return _read_folder(path, what)
    if not path.exists():
        expected = "a text file or folder"
        if what == "corpus":
            expected += f", or one of {', '.join(CORPORA)}"
        raise CorpusError(f"There is no {what} {path}: expected {expected}.")
    if not path.is_file():
        raise CorpusError(
            f"The {what} {path} is no regular file: copy the text to a file, which a run can read "
            "again when it goes on."
        )
    document = _read_file(path)
    if not len(document):
        raise CorpusError(f"The {what} {path} is empty.")
    return (document,)


def _read_folder(folder: Path, what: str) -> tuple[Document, ...]:
    """The document of each file of a folder in name order; what is left out is logged in a line."""
    documents: list[Document] = []
    left_out: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        why = _why_left_out(path)
        document = "" if why else _read_file(path)
        if len(document):
            documents.append(document)
        else:
            left_out.setdefault(why or "empty", []).append(path.name)
    if left_out:
        kinds = "; ".join(f"{why}: {_names(names)}" for why, names in left_out.items())
        logger.warning("Left out of the %s folder %s: %s.", what, folder, kinds)
    if not documents:
        raise CorpusError(f"The {what} folder {folder} has no file with text in it.")
    if len({isinstance(document, str) for document in documents}) > 1:
        raise CorpusError(
            f"The {what} folder {folder} has texts and .npy files of integers: put one kind into a "
            "folder of its own."
        )
    return tuple(documents)


def _why_left_out(path: Path) -> str | None:
    """The reason why an entry of a folder is no document, in a word or two; None if it is one."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_dir():
        return "subfolder"
    if path.is_file():
        return None
    if path.is_symlink() and not path.exists():
        return "broken link"
    return "no regular file"


def _names(names: list[str]) -> str:
    """A few of the names, and the number of the others."""
    listed = ", ".join(names[:NAMED])
    if len(names) > NAMED:
        listed += f" and {len(names) - NAMED} more"
    return listed


def _read_file(path: Path) -> Document:
    """The text of a file, or the tokens in a .npy file."""
    data = read_or_raise(CorpusError, path, at_most=LARGEST)
    if is_token_file(path):
        try:
            return read_tokens(data, path)
        except TokenFileError as error:
            raise CorpusError(str(error)) from error
    encoding = other_encoding(data)
    if encoding is not None:
        raise CorpusError(
            f"{path} looks like {encoding}, not UTF-8: convert it, for example with "
            f"iconv -f {encoding} -t UTF-8."
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at position "
            f"{error.start}. Convert it, for example with iconv."
        ) from error


def other_encoding(data: bytes) -> str | None:
    """UTF-16 or UTF-32, by iconv's name, if a file looks like it; else None.

    Both are recognized by their byte order mark. Without one, UTF-32 has zeros in every character's
    highest bytes, and UTF-16 has zeros (of Latin letters and blanks) in many second places and none
    in between, or control characters (zeros, and 4 of Cyrillic letters) in nearly all.
    """
    # Byte order marks. That of UTF-32-LE begins as that of UTF-16-LE and comes first.
    marks = {
        codecs.BOM_UTF32_LE: "UTF-32",
        codecs.BOM_UTF32_BE: "UTF-32",
        codecs.BOM_UTF16_LE: "UTF-16",
        codecs.BOM_UTF16_BE: "UTF-16",
    }
    for mark, encoding in marks.items():
        if data.startswith(mark):
            return encoding

    # UTF-32: no code point is above 0x10FFFF.
    values = np.frombuffer(data, np.uint8)
    if not len(values) % 4 and len(values):
        quads = values.reshape(-1, 4)  # (characters, 4)
        if not quads[:, 3].any() and (quads[:, 2] <= HIGHEST_PLANE).all():
            return "UTF-32LE"
        if not quads[:, 0].any() and (quads[:, 1] <= HIGHEST_PLANE).all():
            return "UTF-32BE"

    # UTF-16: every second byte is special, the others are not.
    if len(values) % 2 or len(values) < 4:
        return None
    control = (values < ord(" ")) & ~np.isin(values, list(b"\t\n\v\f\r\x1b"))
    controls = control.reshape(-1, 2).mean(axis=0)  # (2,)
    zeros = (values == 0).reshape(-1, 2).mean(axis=0)
    for high, low, encoding in ((1, 0, "UTF-16LE"), (0, 1, "UTF-16BE")):
        if zeros[high] >= MANY and zeros[low] == 0:
            return encoding
        if controls[high] >= MOSTLY and controls[low] <= 1 - MOSTLY:
            return encoding
    return None


def _update(digest: Any, document: Document, before: bytes) -> None:
    """Add `before` and a document to a checksum: its UTF-8, in chunks to save memory."""
    digest.update(before)
    if not isinstance(document, str):
        digest.update(np.asarray(document, "<i8").tobytes())
        return
    for first in range(0, len(document), CHUNK):
        digest.update(document[first : first + CHUNK].encode())


def _cut(
    documents: tuple[Document, ...], fraction: float
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Cut `fraction` of all off the end: of a text at the line end before it if one is near."""
    if not is_number(fraction) or not 0 < fraction < 1:
        raise CorpusError(f"The validation fraction must lie in (0, 1), got {shown(fraction)}.")
    ends = list(accumulate(map(len, documents)))
    cut = round(ends[-1] * (1 - fraction))
    # The document that the cut lies in, and the place in it.
    index = min(bisect_right(ends, cut), len(ends) - 1)
    within = documents[index]
    at = cut - (ends[index] - len(within))
    if isinstance(within, str):
        # A character behind the line end before it, unless that is far away.
        at = within.rfind("\n", max(0, at - LINE), at) + 1 or at
    # An empty rest of the document is no document.
    head = (within[:at],) if at else ()
    tail = (within[at:],) if at < len(within) else ()
    return (*documents[:index], *head), (*tail, *documents[index + 1 :])
