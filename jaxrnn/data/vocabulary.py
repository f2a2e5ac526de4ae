"""Text to tokens and back.

Two vocabularies, as in the course: `from_characters` lists every character of the text, in
code-point order, behind a padding character; `from_frequency` lower-cases the text and lists what
occurs often enough, the most frequent first, behind `<unk>` and `<pad>`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from jaxrnn.checks import check_at_least_1, check_documents, check_text, shown

# The padding character of the windowed models.
PADDING = "\0"
# The special tokens of the stateful models, named as in TorchText.
UNKNOWN = "<unk>"
PAD = "<pad>"
END = "<eos>"
SPECIAL = (UNKNOWN, PAD, END)

# Maximum number of tokens: an embedding of more rows is a mistake.
LARGEST_VOCABULARY = 1 << 24

# Number of code points in Unicode.
CODE_POINTS = 0x110000
# Number of characters encoded at once, which bounds the memory of encoding.
CHUNK = 1 << 20

# Treatment of a character outside the vocabulary; see `Vocabulary.encode`.
Unknown = Literal["error", "replace", "skip"]


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of tokens, each a character or a special token.

    Attributes:
        itos: the tokens; token i is `itos[i]`.
        lowercase: whether text is lower-cased before it is encoded.
    """

    itos: tuple[str, ...]
    lowercase: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.itos, tuple):
            raise ValueError(f"itos must be a tuple of tokens, got {shown(self.itos)}.")
        if not self.itos:
            raise ValueError("A vocabulary needs at least one token, got none.")
        for token, count in Counter(self.itos).items():
            if count > 1:
                raise ValueError(f"The vocabulary lists {token!r} twice.")
        for token in self.itos:
            if not isinstance(token, str) or (len(token) != 1 and token not in SPECIAL):
                raise ValueError(
                    f"A token is one character or one of {', '.join(SPECIAL)}, got {token!r:.60}."
                )

    @classmethod
    def from_characters(cls, documents: Iterable[str]) -> "Vocabulary":
        """The windowed models' vocabulary: `"\\0"`, then the sorted distinct characters.

        The first token is the course's padding and stands for no text. Where `"\\0"` occurs in the
        text, `<pad>` takes that place.
        """
        counts = count_characters(documents, lowercase=False)
        padding = PAD if PADDING in counts else PADDING
        return cls((padding, *sorted(counts)))

    @classmethod
    def from_frequency(
        cls, documents: Sequence[str], *, min_frequency: int = 3, lowercase: bool = True
    ) -> "Vocabulary":
        """The stateful models' vocabulary, as TorchText builds it.

        `<unk>`, `<pad>`, then every character that occurs at least `min_frequency` times, by
        falling frequency, ties in code-point order. `<eos>`, which ends each document, is counted
        like a character.

        Raises:
            ValueError: if no character occurs often enough.
        """
        check_at_least_1(min_frequency=min_frequency)
        counts = count_characters(documents, lowercase=lowercase)
        counts[END] = len(documents)
        often = [token for token, count in counts.items() if count >= min_frequency]
        # A vocabulary of nothing but special tokens would learn nothing.
        if not set(often) - {END}:
            raise ValueError(
                f"No character occurs at least {min_frequency} times in the training text: give "
                "more text or a lower min_frequency."
            )
        often.sort(key=lambda token: (-counts[token], token))
        return cls((UNKNOWN, PAD, *often), lowercase)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[str],
        *,
        min_frequency: int | None = None,
        lowercase: bool = False,
    ) -> "Vocabulary":
        """The vocabulary of some documents.

        Args:
            documents: the documents.
            min_frequency: minimum number of occurrences of a character, for the stateful models;
                every character is a token if None, as for the windowed ones.
            lowercase: whether text is lower-cased; it goes with `min_frequency`.
        """
        if min_frequency is None:
            return cls.from_characters(documents)
        return cls.from_frequency(documents, min_frequency=min_frequency, lowercase=lowercase)

    def extended(
        self, documents: Sequence[str], *, min_frequency: int | None = None
    ) -> "Vocabulary":
        """The same tokens and, behind them, those that some documents need in addition.

        Args:
            documents: the documents.
            min_frequency: minimum number of occurrences of a character that is added, as in
                `from_documents`: the most frequent comes first, and <unk> stands for rarer ones.
                Every character is added if None.

        Raises:
            ValueError: if there are rarer ones, and no <unk>.
        """
        counts = count_characters(documents, lowercase=self.lowercase)
        if min_frequency is None:
            lacking = [token for token in sorted(counts) if token not in self.stoi]
            return replace(self, itos=(*self.itos, *lacking))
        # Without <unk>, the vocabulary is none of those in which <eos> ends a document.
        if self.unknown is not None:
            counts[END] = len(documents)
        lacking = [token for token in counts if token not in self.stoi]
        often = [token for token in lacking if counts[token] >= min_frequency]
        rare = len(lacking) - len(often)
        if rare and self.unknown is None:
            first = min(set(lacking) - set(often))
            also = f" (and {rare - 1} more such characters)" if rare > 1 else ""
            raise ValueError(
                f"The character {first!r} (U+{ord(first):04X}) is not in the vocabulary{also}, "
                f"occurs less than min_frequency = {min_frequency} times, and there is no "
                f"{UNKNOWN} to stand for it: take a min_frequency of 1, which adds it, or another "
                "text."
            )
        often.sort(key=lambda token: (-counts[token], token))
        return replace(self, itos=(*self.itos, *often))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Vocabulary":
        """The vocabulary that `to_dict` described.

        Raises:
            ValueError, KeyError, TypeError: if it describes none.
        """
        if not isinstance(values["itos"], list | tuple):
            raise ValueError("What is under itos is no list.")
        for token in values["itos"]:
            if not isinstance(token, str):
                raise ValueError(f"A token is text, got {token!r:.60}.")
        return cls(tuple(values["itos"]), bool(values.get("lowercase", False)))

    def to_dict(self) -> dict[str, Any]:
        """The tokens and whether text is lower-cased, as JSON takes them."""
        return {"lowercase": self.lowercase, "itos": list(self.itos)}

    def __len__(self) -> int:
        return len(self.itos)

    @property
    def size(self) -> int:
        """V, the number of tokens."""
        return len(self.itos)

    @cached_property
    def stoi(self) -> dict[str, int]:
        """The index of each token."""
        return {token: index for index, token in enumerate(self.itos)}

    @property
    def unknown(self) -> int | None:
        """The index of `<unk>`, or None where the vocabulary has none."""
        return self.stoi.get(UNKNOWN)

    @property
    def unprintable(self) -> tuple[int, ...]:
        """The tokens that stand for no text, which a generated text should not contain.

        `"\\0"` is one of them where it is the padding, which comes first; elsewhere it is a
        character of the text.
        """
        padding = [0] if self.itos[0] == PADDING else []
        special = [self.stoi[token] for token in SPECIAL if token in self.stoi]
        return (*padding, *special)

    @property
    def end(self) -> int | None:
        """The index of `<eos>`, or None where the vocabulary has none."""
        return self.stoi.get(END)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest unsigned integer type that holds every token."""
        if len(self) <= 256:
            return np.uint8
        return np.uint16 if len(self) <= 65536 else np.uint32

    def encode(self, text: str, *, unknown: Unknown | None = None) -> np.ndarray:
        """The token of each character of `text`: an array (characters,) of `dtype`.

        Args:
            text: any text.
            unknown: treatment of a character outside the vocabulary: "error" raises, "replace"
                puts `<unk>`, "skip" leaves it out. "replace" if None and there is an `<unk>`, else
                "error".

        Raises:
            ValueError: for a character outside the vocabulary under "error", by its name and
                position, and under "replace" when there is no `<unk>`.
        """
        check_text(text=text)
        tokens = _Tokens(len(text), self.dtype)
        self._encode_into(tokens, text, unknown)
        return tokens.all()

    def _encode_into(self, tokens: "_Tokens", text: str, unknown: Unknown | None) -> None:
        """As `encode`, appended to `tokens`."""
        check_text(text=text)
        if unknown is None:
            unknown = "error" if self.unknown is None else "replace"
        if unknown not in get_args(Unknown):
            known = ", ".join(get_args(Unknown))
            raise ValueError(f"unknown must be one of {known}, got {unknown!r:.60}.")
        if unknown == "replace" and self.unknown is None:
            raise ValueError(
                f"This vocabulary has no {UNKNOWN} token to replace a character with; "
                "use 'skip' to leave such characters out."
            )
        position = 0
        for points in _code_points(text, self.lowercase):
            indices = self._table[points]  # (characters of the chunk,)
            outside = indices == len(self)
            if outside.any():
                if unknown == "error":
                    raise ValueError(self._outside(points, outside, position))
                if unknown == "skip":
                    indices = indices[~outside]
                else:
                    indices[outside] = self.unknown
            tokens.add(indices)
            position += len(points)

    def encode_documents(
        self, documents: Iterable[str], *, unknown: Unknown | None = None
    ) -> np.ndarray:
        """The documents one after the other, each followed by `<eos>`.

        Where `<eos>` is too rare to be a token, `<unk>` stands for it, and where there is no
        `<unk>` either, nothing does.
        """
        end = self.stoi.get(END, self.unknown)
        end_tokens = np.array([] if end is None else [end], self.dtype)  # (0,) or (1,)
        check_documents(documents)
        documents = list(documents)
        check_text(**{f"document {n}": text for n, text in enumerate(documents)})
        tokens = _Tokens(sum(map(len, documents)) + len(documents), self.dtype)
        for document in documents:
            self._encode_into(tokens, document, unknown)
            tokens.add(end_tokens)
        return tokens.all()

    def decode(self, tokens: np.ndarray) -> str:
        """The text of (characters,) tokens; special tokens appear by their names.

        Raises:
            ValueError: for a token outside [0, V).
        """
        tokens = np.asarray(tokens)
        if tokens.size and (tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer)):
            raise ValueError(
                f"tokens must be integers on one axis, got {tokens.dtype} of shape {tokens.shape}."
            )
        if tokens.size and (tokens.min() < 0 or tokens.max() >= len(self)):
            outside = (tokens < 0) | (tokens >= len(self))
            raise ValueError(f"tokens must lie in [0, {len(self)}), got {tokens[outside][0]}.")
        return "".join(self.itos[i] for i in tokens.tolist())

    @cached_property
    def _table(self) -> np.ndarray:
        """(code points,) index of the token of every code point; V where there is none."""
        table = np.full(CODE_POINTS, len(self), np.uint32)
        for index, token in enumerate(self.itos):
            if len(token) == 1:  # special tokens are no characters
                table[ord(token)] = index
        return table

    def _outside(self, points: np.ndarray, outside: np.ndarray, position: int) -> str:
        """The message about the first character of a chunk that is `outside` the vocabulary."""
        first = int(np.argmax(outside))
        character = chr(points[first])
        others = len(np.unique(points[outside])) - 1
        also = f" (and {others} more such characters)" if others else ""
        return (
            f"The character {character!r} (U+{ord(character):04X}) at position {position + first} "
            f"is not in the vocabulary{also}."
        )


class _Tokens:
    """A growing array of tokens: to join pieces at the end would take twice the memory."""

    def __init__(self, expected: int, dtype: type[np.unsignedinteger]) -> None:
        self._array = np.empty(expected, dtype)
        self._filled = 0

    def add(self, piece: np.ndarray) -> None:
        """Append a piece."""
        end = self._filled + len(piece)
        # Lower-casing may make a text longer than expected.
        if end > len(self._array):
            self._array.resize(end + end // 8, refcheck=False)
        self._array[self._filled : end] = piece
        self._filled = end

    def all(self) -> np.ndarray:
        """All the pieces, one after the other."""
        self._array.resize(self._filled, refcheck=False)
        return self._array


def count_characters(documents: Iterable[str], *, lowercase: bool) -> Counter[str]:
    """The number of occurrences of each character."""
    check_documents(documents)
    totals = np.zeros(CODE_POINTS, np.int64)
    for document in documents:
        check_text(document=document)
        for points in _code_points(document, lowercase):
            counts = np.bincount(points)
            totals[: len(counts)] += counts
    # In code-point order, which breaks ties.
    return Counter({chr(point): int(totals[point]) for point in np.flatnonzero(totals)})


def _code_points(text: str, lowercase: bool) -> Iterator[np.ndarray]:
    """The code points of `text`, about `CHUNK` at a time.

    A chunk ends behind a line end, across which lower-casing (a final sigma) looks at nothing,
    unless a line is longer than a chunk.
    """
    start = 0
    while start < len(text):
        longest = start + 2 * CHUNK
        end = text.find("\n", start + CHUNK - 1, longest) + 1 or min(longest, len(text))
        piece = text[start:end]
        if lowercase:
            piece = piece.lower()
        # Four bytes a character, halves of surrogate pairs among them.
        yield np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32)
        start = end
