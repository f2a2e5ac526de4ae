"""Checks on the host of tokens, texts and numbers: on the device a token out of range is no error.

Needs NumPy alone, as `data` does.
"""

import math
import operator
import sys
from pathlib import Path
from typing import Any

import numpy as np


def check_tokens(tokens: Any, vocab_size: int | None = None, *, axes: int | None = None) -> None:
    """Refuse what are no tokens. A traced array has no values yet and passes.

    Args:
        tokens: an array of tokens.
        vocab_size: V, if known: tokens must be below it.
        axes: number of axes that the array must have, if that matters.

    Raises:
        ValueError: if it has no integers, other axes, or a token outside [0, V).
    """
    # Where JAX is not imported, nothing is traced.
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(tokens, jax.core.Tracer):
        return
    tokens = as_host_array("tokens", tokens)
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens must be integers, got {tokens.dtype}.")
    if axes is not None and tokens.ndim != axes:
        raise ValueError(f"tokens must have {axes} axis, got shape {tokens.shape}.")
    if not tokens.size:
        return
    lowest = int(tokens.min())
    highest = int(tokens.max())
    if lowest < 0 or (vocab_size is not None and highest >= vocab_size):
        bad = lowest if lowest < 0 else highest
        allowed = "at least 0" if vocab_size is None else f"in [0, {vocab_size})"
        raise ValueError(
            f"tokens must be {allowed}, got {bad}. Encode the text "
            "with the vocabulary that the model was made for."
        )


def check_starts(starts: Any, length: int, count: int) -> None:
    """Refuse windows of `length` characters and their targets that leave `count` tokens."""
    lowest = int(starts.min())
    highest = int(starts.max())
    if lowest < 0 or highest + length >= count:  # the last target is the token behind a window
        bad = lowest if lowest < 0 else highest
        raise ValueError(
            f"A window of {length} characters and its last target, at {bad}, lies outside the "
            f"{count} tokens."
        )


def check_at_least_1(**values: int) -> None:
    """Refuse what is no integer of at least 1; its name goes into the message."""
    _check_at_least(1, values)


def check_at_least_0(**values: int) -> None:
    """Refuse what is no integer of at least 0; its name goes into the message."""
    _check_at_least(0, values)


def _check_at_least(least: int, values: dict[str, Any]) -> None:
    for name, value in values.items():
        try:
            # NumPy's integers too, but no floats.
            number = operator.index(value)
        except TypeError:
            raise ValueError(
                f"{name} must be an integer of at least {least}, got {shown(value)}."
            ) from None
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_bool(**values: bool) -> None:
    """Refuse what is neither True nor False; its name goes into the message."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, got {shown(value)}.")


def check_seed(seed: int) -> None:
    """Refuse what is no seed of a random key."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2**32), got {shown(seed)}.")


def check_share(**values: float) -> None:
    """Refuse what is no number in [0, 1); its name goes into the message."""
    for name, value in values.items():
        if not is_number(value) or not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {shown(value)}.")


def check_not_negative(**values: float) -> None:
    """Refuse what is no finite number of at least 0; its name goes into the message."""
    for name, value in values.items():
        if not is_number(value) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0, got {shown(value)}.")


def is_number(value: Any) -> bool:
    """Whether a value is one real number: no truth value, and no text that could be read as one."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        return False
    if isinstance(value, int):
        return True  # of any size, also where no float holds it
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def as_host_array(name: str, value: Any) -> np.ndarray:
    """An array of NumPy's.

    Raises:
        ValueError: if its rows have different lengths.
    """
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} must be one array, got rows of different lengths: {shown(value)}."
        ) from None


def check_text(**values: Any) -> None:
    """Refuse what is no text; its name goes into the message."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a text, got a {type(value).__name__}.")


def check_path(**values: Any) -> None:
    """Refuse what is no path; its name goes into the message."""
    for name, value in values.items():
        if not isinstance(value, str | Path):
            raise ValueError(f"{name} must be a path, got {shown(value)}.")


def check_documents(documents: Any) -> None:
    """Refuse one text, whose characters would each be a document, and what is no list of texts."""
    if isinstance(documents, str):
        raise ValueError("documents must be a list of texts, got one text: write [text].")
    try:
        iter(documents)
    except TypeError:
        kind = type(documents).__name__
        raise ValueError(f"documents must be a list of texts, got a {kind}.") from None


def shown(value: Any) -> str:
    """A value in a message: on one line, and not long."""
    return f"{' '.join(repr(value).split()):.60}"
