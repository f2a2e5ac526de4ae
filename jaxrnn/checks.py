"""Checks on the host of tokens and numbers: on the device a token out of range is no error.

Needs NumPy alone, as `data` does.
"""

import operator
import sys
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
    tokens = np.asarray(tokens)
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
                f"{name} must be an integer of at least {least}, got {value!r}."
            ) from None
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_bool(**values: bool) -> None:
    """Refuse what is neither True nor False; its name goes into the message."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, got {value!r}.")


def check_seed(seed: int) -> None:
    """Refuse what is no seed of a random key."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2**32), got {seed!r}.")
