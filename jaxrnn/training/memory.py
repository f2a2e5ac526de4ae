"""A check before a run that it fits into memory: the system would kill it without a message."""

import math
import os

import jax

from jaxrnn.training.state import TrainState

# Number of states in memory during a step: its input, and a copy or its result.
STATES = 2
# Number of float arrays (T, B, V) in memory during a step: logits, log probabilities, gradients.
VALUES_PER_LOGIT = 4
# Bytes of a float32.
FLOAT = 4


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
    values = 0
    for leaf in jax.tree.leaves(state):
        values += math.prod(leaf.shape)  # a Python integer: sizes may be absurdly large here
    logits = steps * batch_size * vocab_size  # (T, B, V)
    needed = FLOAT * (STATES * values + VALUES_PER_LOGIT * logits)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"The run needs at least {needed / 1e9:,.0f} GB of memory, and this machine has "
            f"{there / 1e9:,.0f} GB: choose a smaller hidden_size, embedding_size, batch_size or "
            "bptt."
        )
