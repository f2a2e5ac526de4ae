"""Tokenizers: text to tokens and back.

A tokenizer is any object with the five members of `Tokenizer`. The character vocabulary
(`jaxrnn.data.vocabulary`) is the course's; `ByteTokenizer` reads UTF-8 byte by byte;
`IntegerTokenizer` is for a corpus that is integers already, an array in a .npy file;
`SubwordTokenizer` (`jaxrnn.data.subwords`) is one of the package `tokenizers`. One of the user's
own may take texts, such arrays, or both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from jaxrnn.checks import check_at_least_1, check_tokens
from jaxrnn.data.subwords import SubwordTokenizer, is_tokenizer_file
from jaxrnn.data.vocabulary import LARGEST_VOCABULARY, Unknown, Vocabulary
from jaxrnn.registry import Registry

# A text, or an array of tokens.
Document = str | np.ndarray

# V of `ByteTokenizer`.
BYTES = 256
# Name of the tokenizers that are read from a file: a run has its content, and not its path.
SUBWORDS = "subwords"
# Members that make an object a tokenizer.
MEMBERS = ("size", "encode", "decode", "to_dict", "from_dict")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to tokens and back.

    Optional members: `unprintable`, the tokens that a generated text should not contain; `end`, the
    token that ends a document, or None; `unknown`, the token of what the tokenizer does not know,
    or None; `pieces(tokens)`, each token by itself, where `decode` of one alone is another text;
    `from_documents(documents)`, a class method that makes a tokenizer of the training text.
    """

    @property
    def size(self) -> int:
        """V, the number of different tokens."""
        ...

    def encode(self, text: Any) -> np.ndarray:
        """The tokens (N,) of a text, integers in [0, V)."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens (N,)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The settings from which `from_dict` makes an equal tokenizer, as JSON takes them."""
        ...

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Tokenizer":
        """The tokenizer that `to_dict` described."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """The bytes of UTF-8: 256 tokens, and no text is unknown."""

    size: ClassVar[int] = BYTES

    def encode(self, text: Document) -> np.ndarray:
        """The bytes of a text: (bytes,) uint8."""
        if not isinstance(text, str):
            raise ValueError(f"Bytes are those of a text, got {type(text).__name__}.")
        # A file name, for one, may hold half of a surrogate pair.
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of (bytes,) tokens; what is no UTF-8 appears as U+FFFD.

        Raises:
            ValueError: for a token outside [0, 256).
        """
        check_tokens(tokens, BYTES, axes=1)
        return np.asarray(tokens).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """Nothing: all are equal."""
        return {}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ByteTokenizer":
        """The tokenizer."""
        return cls()


@dataclass(frozen=True)
class IntegerTokenizer:
    """Integers that are tokens already; their text is digits between blanks.

    Attributes:
        size: V, number of different tokens; the integers lie in [0, V).

    Raises:
        ValueError: if it is no integer of at least 1.
    """

    size: int

    def __post_init__(self) -> None:
        check_at_least_1(size=self.size)
        if self.size > LARGEST_VOCABULARY:
            raise ValueError(f"size must be at most {LARGEST_VOCABULARY:,}, got {self.size:,}.")

    @classmethod
    def from_documents(cls, documents: Sequence[Document]) -> "IntegerTokenizer":
        """The tokenizer of some arrays of integers: V is the largest of them plus one.

        Raises:
            ValueError: if one is no array of integers of at least 0.
        """
        highest = 0
        for document in documents:
            if isinstance(document, str):
                raise ValueError(NEEDS_INTEGERS)
            check_tokens(document, axes=1)
            highest = max(highest, int(document.max(initial=0)))
        return cls(highest + 1)

    def encode(self, text: Document) -> np.ndarray:
        """The tokens of an array of integers, or of a text of them: "3 17 4".

        Raises:
            ValueError: if it holds something else, or one outside [0, V).
        """
        if isinstance(text, str):
            numbers = []
            for word in text.split():
                if not word.isdecimal():
                    raise ValueError(f"Tokens are written as integers, as in 3 17 4; got {word!r}.")
                numbers.append(int(word))
            text = np.array(numbers, np.int64)
        check_tokens(text, self.size, axes=1)
        return text

    def decode(self, tokens: np.ndarray) -> str:
        """The integers in digits, between blanks."""
        check_tokens(tokens, self.size, axes=1)
        return " ".join(map(str, np.asarray(tokens).tolist()))

    def to_dict(self) -> dict[str, Any]:
        """The size."""
        return {"size": int(self.size)}  # JSON knows no integers of NumPy

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "IntegerTokenizer":
        """The tokenizer of that size."""
        return cls(values["size"])


NEEDS_INTEGERS = (
    "Integers as tokens need a corpus of integers: a .npy file, as numpy.save writes it. For a "
    "text take --tokenizer characters or --tokenizer bytes."
)
NEEDS_TEXT = (
    "The corpus is an array of integers, which are tokens already: take --tokenizer integers."
)


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what is neither a tokenizer nor a class of them.

    Raises:
        ValueError: if a member is missing; all that are missing are named.
    """
    missing = [name for name in MEMBERS if not hasattr(tokenizer, name)]
    if isinstance(tokenizer, type) and "size" in missing:
        missing.remove("size")  # an instance may set it
    if missing:
        if type(tokenizer).__module__ == "tokenizers":
            raise ValueError("it must be wrapped: jaxrnn.SubwordTokenizer(tokenizer).")
        raise ValueError(f"it has no {', '.join(missing)} (see jaxrnn.data.tokenizers.Tokenizer).")
    if isinstance(tokenizer, type) and not hasattr(tokenizer, "from_documents"):
        raise ValueError(
            "it is a class without from_documents: name an instance, or give it that class method."
        )


def check_vocabulary(vocabulary: Any) -> None:
    """Refuse what is no tokenizer to encode with.

    Raises:
        ValueError: if a member is missing, or it is a class.
    """
    if isinstance(vocabulary, type):
        raise ValueError(f"vocabulary must be a tokenizer, got the class {vocabulary.__name__}.")
    try:
        check_tokenizer(vocabulary)
    except ValueError as error:
        raise ValueError(f"vocabulary must be a tokenizer: {error}") from None


TOKENIZERS: Registry[Any] = Registry(
    "tokenizer",
    check_tokenizer,
    {
        "characters": Vocabulary,
        "bytes": ByteTokenizer(),
        "integers": IntegerTokenizer,
        SUBWORDS: SubwordTokenizer,
    },
)
"""Tokenizers, or classes that make one of the training text, by name."""


def find_tokenizer(name: str) -> Any:
    """The tokenizer, or the class of tokenizers, of a name; no TOKENIZER.json is read.

    Raises:
        ValueError: if it is not defined.
    """
    if is_tokenizer_file(name):
        return SubwordTokenizer
    return TOKENIZERS.find(name)


def make_tokenizer(name: str, documents: Sequence[Document], **settings: Any) -> Tokenizer:
    """The tokenizer of a name, for some documents.

    Args:
        name: in `TOKENIZERS`, or TOKENIZER.json, a file of the package `tokenizers`.
        documents: the training text, on which some tokenizers depend.
        settings: further settings of a character vocabulary; see `Vocabulary.from_documents`.

    Raises:
        ValueError: if it is not defined, or the documents are of another kind than it takes.
    """
    found: Any = find_tokenizer(name)
    tokenizer: Tokenizer = found
    if is_tokenizer_file(name):
        _checked_texts(documents)
        tokenizer = SubwordTokenizer.from_file(name)
    elif found is Vocabulary:
        tokenizer = Vocabulary.from_documents(_checked_texts(documents), **settings)
    elif isinstance(found, type):
        tokenizer = _from_documents(found, documents)
    if isinstance(tokenizer, ByteTokenizer):
        _checked_texts(documents)
    check_at_least_1(size=tokenizer.size)
    return tokenizer


def _from_documents(kind: Any, documents: Sequence[Document]) -> Tokenizer:
    """The tokenizer that a class makes of some documents.

    Raises:
        ValueError: if it refuses them, or fails on integers, for which it is not made.
    """
    try:
        made: Tokenizer = kind.from_documents(documents)
        return made
    except (TypeError, AttributeError) as error:
        if all(isinstance(document, str) for document in documents):
            raise  # a mistake in the user's code
        raise ValueError(f"{NEEDS_TEXT} ({kind.__name__} fails on integers: {error}.)") from error


def _checked_texts(documents: Sequence[Document]) -> list[str]:
    """The documents, which must all be texts.

    Raises:
        ValueError: if one of them is not.
    """
    texts = [document for document in documents if isinstance(document, str)]
    if len(texts) < len(documents):
        raise ValueError(NEEDS_TEXT)
    return texts


def extended_tokenizer(
    tokenizer: Tokenizer, documents: Sequence[Document], *, min_frequency: int | None = None
) -> Tokenizer:
    """The tokenizer with further tokens behind its own, as far as some documents need them.

    Characters and integers are added. All other tokenizers read every text as they are.

    Args:
        tokenizer: the tokenizer.
        documents: the documents.
        min_frequency: see `Vocabulary.extended`.

    Raises:
        ValueError: if the documents are of another kind than it reads, or see
            `Vocabulary.extended`.
    """
    texts = [document for document in documents if isinstance(document, str)]
    if isinstance(tokenizer, IntegerTokenizer):
        if texts:
            raise ValueError("The model reads integers: name a .npy file of integers, not a text.")
        needed = IntegerTokenizer.from_documents(documents)
        return max(tokenizer, needed, key=lambda one: one.size)
    reads_texts = isinstance(tokenizer, Vocabulary | ByteTokenizer)
    if reads_texts and len(texts) < len(documents):
        name = token_name(tokenizer)
        raise ValueError(f"The model reads {name}s: name a text, not a .npy file of integers.")
    if isinstance(tokenizer, Vocabulary):
        return tokenizer.extended(texts, min_frequency=min_frequency)
    return tokenizer


def restore_tokenizer(name: str, values: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a run or an exported file describes.

    Args:
        name: in `TOKENIZERS`, or TOKENIZER.json, which is not read.
        values: the result of its `to_dict`.

    Raises:
        ValueError, KeyError, TypeError: if the values are none of such a tokenizer's.
    """
    found = find_tokenizer(name)
    kind: Any = found if isinstance(found, type) else type(found)
    restored: Tokenizer = kind.from_dict(values)
    return restored


def encode(tokenizer: Tokenizer, text: Document, *, unknown: Unknown | None = None) -> np.ndarray:
    """The tokens of a text.

    Args:
        tokenizer: the tokenizer.
        text: the text.
        unknown: treatment of a character that a character vocabulary lacks; see
            `Vocabulary.encode`. Other tokenizers decide for themselves.

    Raises:
        ValueError: if the tokenizer refuses the text, or what it gives are no tokens.
    """
    check_vocabulary(tokenizer)
    if isinstance(tokenizer, Vocabulary):
        if hasattr(text, "shape"):
            raise ValueError(NEEDS_TEXT)
        return tokenizer.encode(text, unknown=unknown)
    tokens = np.asarray(tokenizer.encode(text))
    if not tokens.size:
        return tokens.astype(np.int32).reshape(0)  # NumPy makes an empty list a float array
    check_tokens(tokens, tokenizer.size, axes=1)
    return tokens


def encode_documents(tokenizer: Tokenizer, documents: Sequence[Document]) -> np.ndarray:
    """The tokens of documents, one after the other; a character vocabulary ends each by <eos>."""
    if isinstance(tokenizer, Vocabulary):
        return tokenizer.encode_documents(_checked_texts(documents))
    return np.concatenate([encode(tokenizer, document) for document in documents])


def unprintable(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that a generated text should not contain."""
    return tuple(getattr(tokenizer, "unprintable", ()))


def end_of_document(tokenizer: Tokenizer) -> int | None:
    """The token that ends a document, or None."""
    end: int | None = getattr(tokenizer, "end", None)
    return end


def pieces(tokenizer: Tokenizer, tokens: np.ndarray) -> list[str]:
    """The text of each token by itself, or its name where it has none alone."""
    own = getattr(tokenizer, "pieces", None)
    if own is not None:
        named: list[str] = own(tokens)
        return named
    return [tokenizer.decode(token[None]) for token in tokens]


def unknown_token(tokenizer: Tokenizer) -> int | None:
    """The token of what the tokenizer does not know, or None."""
    unknown: int | None = getattr(tokenizer, "unknown", None)
    return unknown


def token_name(tokenizer: Tokenizer) -> str:
    """The name of a token in a message: "character", "byte" or "token"."""
    if isinstance(tokenizer, Vocabulary):
        return "character"
    if isinstance(tokenizer, ByteTokenizer):
        return "byte"
    return "token"


def joined(documents: Sequence[Document]) -> Document:
    """The documents as one."""
    if all(isinstance(document, str) for document in documents):
        return "".join(_checked_texts(documents))
    return np.concatenate(list(map(np.asarray, documents)))
