"""Flip single bits of a checkpoint, anywhere, and see that it is refused."""

import random
from pathlib import Path

import jax

from jaxrnn import LSTM, CharLM, TrainState, load, make_optimizer, make_state, save
from jaxrnn.runs.checkpoints import CheckpointError

MODEL = CharLM(30, 8, 24, cell=LSTM, num_layers=2)
HEADER_EVERY = 10
"""One flip in this many is in the header, which is a small part of the file."""


def flip_bits(folder: Path, flips: int, seed: int = 0) -> int:
    """How many of `flips` bits, each flipped alone at a random place, were noticed.

    Args:
        folder: an empty folder to work in.
        flips: how many bits to flip.
        seed: of the places.
    """
    path = folder / "state.safetensors"
    save(path, _make_state(), {"epoch": 3})
    whole = path.read_bytes()
    like = jax.eval_shape(_make_state)
    load(path, like)
    header = 8 + int.from_bytes(whole[:8], "little")  # the length of the rest, and the rest
    rng = random.Random(seed)
    noticed = 0
    for number in range(flips):
        in_header = number % HEADER_EVERY == 0
        place = rng.randrange(header if in_header else len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            load(path, like)
        except CheckpointError:
            noticed += 1
    return noticed


def _make_state() -> TrainState:
    return make_state(MODEL, make_optimizer("adam"), 4, jax.random.key(0))
