"""Subword and word tokenizers: a `tokenizers.Tokenizer` of Hugging Face as one of ours.

They are the extra `tokenizers`, which is imported where one is made, and not before.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxrnn.checks import check_tokens
from jaxrnn.data.vocabulary import LARGEST_VOCABULARY
from jaxrnn.files import LARGEST_TEXT, damage, read_or_raise
from jaxrnn.registry import NotDefinedError

# Ending of the name of a file of a tokenizer, as `Tokenizer.save` writes it.
SUFFIX = ".json"
# Entry of `to_dict` with the tokenizer's JSON.
ENTRY = "tokenizer"

NEEDS_PACKAGE = (
    'Subword tokenizers need the package tokenizers, the extra "tokenizers": '
    "python -m pip install tokenizers ({error})."
)
NEEDS_FILE = (
    "Subwords need a tokenizer that is trained already: --tokenizer TOKENIZER.json, a file as "
    "tokenizers.Tokenizer.save writes it, or jaxrnn.SubwordTokenizer(tokenizer)."
)

T = TypeVar("T")


def is_tokenizer_file(name: str) -> bool:
    """Whether the name of a tokenizer is a file's, by its ending."""
    return name.endswith(SUFFIX)


class SubwordTokenizer:
    """Subwords or words: a tokenizer of the package `tokenizers`, of whatever model.

    A text is encoded as a whole, without the special tokens that a template would put around it,
    and without truncation and padding. A generated text is decoded as a whole, too: what a token
    stands for may depend on the one before it.

    Args:
        tokenizer: a `tokenizers.Tokenizer`. It is copied, so that a change of it changes nothing
            here.

    Raises:
        NotDefinedError: if the package is not installed.
        ValueError: if it is no such tokenizer, or has no tokens or too many.
    """

    def __init__(self, tokenizer: Any) -> None:
        kind = _package().Tokenizer
        if not isinstance(tokenizer, kind):
            hint = ""
            # The class of transformers has the tokenizer inside.
            if hasattr(tokenizer, "backend_tokenizer"):
                hint = " Take its backend_tokenizer."
            raise ValueError(
                f"tokenizer must be a tokenizers.Tokenizer, got a {type(tokenizer).__name__}.{hint}"
            )
        text = _made(tokenizer.to_str, "The tokenizer cannot be saved")
        copy = _made(lambda: kind.from_str(text), "The tokenizer cannot be read again")
        # They would cut the text off, or fill it up.
        copy.no_truncation()
        copy.no_padding()
        self._tokenizer = copy
        tokens = copy.get_vocab(with_added_tokens=True)
        if not tokens:
            raise ValueError("The tokenizer has no tokens: train it first.")
        self._size = max(tokens.values()) + 1
        if self._size > LARGEST_VOCABULARY:
            raise ValueError(
                f"The tokenizer has tokens up to {self._size - 1:,}; at most "
                f"{LARGEST_VOCABULARY:,} can be embedded."
            )
        self._known = frozenset(tokens.values())
        # Its model names the unknown token, or, if it is a Unigram, its number.
        model = json.loads(text)["model"]
        self._unknown: int | None = tokens.get(model.get("unk_token"), model.get("unk_id"))

    @property
    def size(self) -> int:
        """V: the largest token plus one."""
        return self._size

    def encode(self, text: Any) -> np.ndarray:
        """The tokens of a text: (N,) integers of the smallest type that holds them.

        Raises:
            ValueError: if it is no text, or the tokenizer refuses it.
        """
        if not isinstance(text, str):
            raise ValueError(f"Subwords are those of a text, got {type(text).__name__}.")
        encoded = _made(
            lambda: self._tokenizer.encode(text, add_special_tokens=False),
            "The tokenizer refuses the text",
        )
        return np.array(encoded.ids, np.min_scalar_type(self._size - 1))

    def decode(self, tokens: np.ndarray) -> str:
        """The text of (N,) tokens together; bytes that are no UTF-8 appear as U+FFFD.

        Raises:
            ValueError: for a token outside [0, V).
        """
        ids = self._ids(tokens)
        decoded: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return decoded

    def pieces(self, tokens: np.ndarray) -> list[str]:
        """Each of (N,) tokens by itself, as the tokenizer names it: "##ing", "Ġthe".

        Raises:
            ValueError: for a token outside [0, V).
        """
        names = map(self._tokenizer.id_to_token, self._ids(tokens))
        return [name or "" for name in names]

    @property
    def unknown(self) -> int | None:
        """The token of what the tokenizer does not know, or None where it has none."""
        return self._unknown

    @property
    def unprintable(self) -> tuple[int, ...]:
        """The tokens that stand for no text: special ones, the unknown one, and unused numbers."""
        special = {
            token
            for token, added in self._tokenizer.get_added_tokens_decoder().items()
            if added.special
        }
        if self.unknown is not None:
            special.add(self.unknown)
        unused = set(range(self._size)) - self._known
        return tuple(sorted(special | unused))

    def to_dict(self) -> dict[str, Any]:
        """The tokenizer's own JSON."""
        return {ENTRY: json.loads(self._tokenizer.to_str())}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SubwordTokenizer":
        """The tokenizer that `to_dict` described.

        Raises:
            NotDefinedError: if the package is not installed.
            ValueError, KeyError: if it describes none.
        """
        return cls(_parsed(json.dumps(values[ENTRY]), "it describes no tokenizer"))

    @classmethod
    def from_file(cls, path: Path | str) -> "SubwordTokenizer":
        """The tokenizer in a file, as `tokenizers.Tokenizer.save` writes it.

        Raises:
            NotDefinedError: if the package is not installed.
            ValueError: if the file cannot be read, or holds no tokenizer.
        """
        _package()  # before the file is read: without it, no file helps
        data = read_or_raise(ValueError, path, at_most=LARGEST_TEXT)
        text = data.decode(errors="replace")
        return cls(_parsed(text, f"{path} is no tokenizer, as tokenizers.Tokenizer.save writes it"))

    @classmethod
    def from_documents(cls, documents: Sequence[Any]) -> "SubwordTokenizer":
        """Refused: which subwords a text is cut into is for their own package to learn.

        Raises:
            ValueError: with what to name instead.
        """
        raise ValueError(NEEDS_FILE)

    def _ids(self, tokens: Any) -> list[int]:
        """The tokens as integers of Python's, checked."""
        array = np.asarray(tokens)
        check_tokens(array, self._size, axes=1)
        ids: list[int] = array.tolist()
        return ids

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SubwordTokenizer):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self._tokenizer.to_str())

    def __repr__(self) -> str:
        return f"SubwordTokenizer({type(self._tokenizer.model).__name__}, size={self._size})"


def _package() -> Any:
    """The package `tokenizers`.

    Raises:
        NotDefinedError: if it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise NotDefinedError(NEEDS_PACKAGE.format(error=error)) from None
    return tokenizers


def _parsed(text: str, problem: str) -> Any:
    """The tokenizer of a JSON text; errors as `_made`."""
    package = _package()
    return _made(lambda: package.Tokenizer.from_str(text), problem)


def _made(make: Callable[[], T], problem: str) -> T:
    """What a call of the package gives.

    Raises:
        ValueError: if it fails, in one line that begins with `problem`.
    """
    try:
        return make()
    except BaseException as error:
        # The package raises Exception itself; what it calls a panic is no Exception at all.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{problem}: {damage(error)}.") from error
