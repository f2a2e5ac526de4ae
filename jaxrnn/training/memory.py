"""Does a run fit into memory? Asked before it starts: afterwards the system kills it wordlessly."""

import os

import jax
import numpy as np

from jaxrnn.training.state import TrainState

STATES = 2
"""A step holds the state twice: the one that it starts from and a copy, or the one it makes."""
VALUES_PER_LOGIT = 4
"""Floats held for each number of (T, B, V) in a step: logits, log probabilities, gradients."""


def check_memory(state: TrainState, *, steps: int, batch_size: int, vocab_size: int) -> None:
    """Refuse a run that cannot fit, by a low estimate of what it needs.

    Args:
        state: the shapes of the state.
        steps: T, the longest window.
        batch_size: B.
        vocab_size: V.

    Raises:
        ValueError: if the estimate is above the machine's memory. Only where JAX computes in it:
            a GPU reports by itself that it is full.
    """
    if jax.default_backend() != "cpu":
        return
    sizes = [int(np.prod(leaf.shape, dtype=object)) * 4 for leaf in jax.tree.leaves(state)]
    needed = STATES * sum(sizes) + VALUES_PER_LOGIT * 4 * steps * batch_size * vocab_size
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"The run needs at least {needed / 1e9:,.0f} GB of memory, and this machine has "
            f"{there / 1e9:,.0f} GB: choose a smaller hidden_size, embedding_size, batch_size or "
            "bptt."
        )
