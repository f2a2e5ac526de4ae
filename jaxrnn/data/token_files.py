"""Corpora that are tokens already: integers in .npy files, as `numpy.save` writes them."""

import io
from pathlib import Path

import numpy as np

from jaxrnn.data.vocabulary import LARGEST_VOCABULARY

# Ending of the name of a file of tokens.
SUFFIX = ".npy"


class TokenFileError(ValueError):
    """A file that holds no tokens; the message says why and what to do."""


def is_token_file(path: Path | str) -> bool:
    """Whether a path names a file of tokens, by its ending."""
    return str(path).endswith(SUFFIX)


def read_tokens(data: bytes, path: Path) -> np.ndarray:
    """The tokens (N,) in the bytes of a file.

    Args:
        data: the bytes.
        path: path of the file, for messages.

    Raises:
        TokenFileError: if they are no array of integers in [0, 2**24) with one axis.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise TokenFileError(
            f"{path} is no .npy file, as numpy.save writes it: {error!s:.100}"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1:
        raise TokenFileError(f"{path} must hold one array with one axis of tokens.")
    if not np.issubdtype(array.dtype, np.integer):
        raise TokenFileError(f"{path} must hold integers, got {array.dtype}.")
    if not array.size:
        raise TokenFileError(f"{path} holds no tokens.")
    lowest = int(array.min())
    highest = int(array.max())
    if lowest < 0 or highest >= LARGEST_VOCABULARY:
        wrong = lowest if lowest < 0 else highest
        raise TokenFileError(f"{path}: tokens lie in [0, {LARGEST_VOCABULARY:,}), got {wrong}.")
    # The smallest type that holds them all: each token is read often.
    return array.astype(np.min_scalar_type(highest))
